"""The commands of `pyhyve`, one file each; may import everything below.

A command module has `configure(parser)` and `run(arguments) -> int`. It is imported only when it is used, and imports
what is heavy only when it needs it: `pyhyve run` must start quickly.
"""
