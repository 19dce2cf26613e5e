"""An Anthropic-compatible upstream to rehearse with: every answer, refusal and broken wire.

It imports nothing from the rest of the gateway, so that a bug there cannot hide itself here. Read
`simulator` for the wiring, `behaviour` for what a behaviour is, `catalogue` for all of them,
`world` for what keys belong to, docs/simulator.md for how to use it.
"""

from gateway.simulator.buckets import Limit
from gateway.simulator.grammar import ScriptError
from gateway.simulator.members import Key, Organisation, Workspace
from gateway.simulator.scopes import Asked
from gateway.simulator.seen import SeenRequest
from gateway.simulator.simulator import Simulator
from gateway.simulator.world import World

__all__ = ["Asked", "Key", "Limit", "Organisation", "ScriptError", "SeenRequest", "Simulator", "Workspace", "World"]
