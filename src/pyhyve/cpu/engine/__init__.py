"""The engine: stencils, stitcher, dispatcher, soft MMU. Knows no instruction set.

May import from `cpu.lang` and `support` only.
"""
