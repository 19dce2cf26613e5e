"""An Anthropic-compatible upstream to rehearse with: every answer, refusal and broken wire.

It imports nothing from the rest of the gateway, so that a bug there cannot hide itself here. Read
`simulator` for the wiring, `behaviour` for what a behaviour is, `catalogue` for all of them,
docs/simulator.md for how to use it.
"""

from gateway.simulator.grammar import ScriptError
from gateway.simulator.seen import SeenRequest
from gateway.simulator.simulator import Simulator

__all__ = ["ScriptError", "SeenRequest", "Simulator"]
