"""Mutation testing: small faults are put into the modules one at a time, and each module's own tests have to notice.

Run by `make mutation`. The faults are made by Cosmic Ray's operators; `modules.toml` says which modules take part, and
which tests are each one's own; `survivors.toml` lists the mutants that no test can notice, each with its reason.
"""
