"""What there is to know of the models by name: which class of models a rate limit is about.

Owns: the table `models.toml` and the scopes made of it. It imports no other package. The table is read once and never
changes; any thread may use it.
"""
