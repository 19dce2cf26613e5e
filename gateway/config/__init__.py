"""The configuration: every setting with its type and default, and how it is read.

Owns: the settings, and the rules for keys, limits, MCP servers and proxies as an operator writes them. It may import
`access` and the packages below. All of it is pure, the files' contents come in, so any thread may use it.
"""
