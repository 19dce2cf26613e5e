"""What an answer costs: the prices, and the bill for what the upstream says it has used.

Owns: every rule about money per token. Pure, but for reading the package's own table once; any thread. Amounts are
whole picodollars (10^-12 dollars), so that sums are exact; they are rounded once, when somebody reads them.
`prices` knows what a token costs, `bill` what an inference does, `money` the unit; `protocol.iterations` which
inferences an answer was made of.
"""
