"""The CPU emulator: `lang` describes run-time code, `engine` translates and runs, `isa` knows the processors.

May import from `memory`, `kvm` and `support` only. How it works, on one page: docs/engine.md.
"""
