"""Instruction sets, each in a package of its own that plugs into the engine."""
