"""Differential fuzzing of the x86-64 engine against the host's own CPU. See ``python -m tests.fuzz.cpu --help``."""
