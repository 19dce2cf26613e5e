"""Holding requests to their limits: what has been used, on this machine and on all that share a store.

Owns: the counts and the decision. `limiter` is what `web` knows, `shared_limiter` decides.

On this machine: `counters` count in memory that the workers share. `slot` and `slots` are its layout, `machine_file` is
the file, `machine_memory` what happens while that cannot be used; `refusals` say which limit holds no longer, and
`calendar` which day it is. Between machines: `link` exchanges `statements` through Redis, in the words of `link_words`
and `link_script`. For who only looks: `reading` and `hearing`; `used` and `uses` are what is shown.

Whose limits hold for a request is `config.limit_rules`' to say.
"""
