"""x86: opcode rows and their semantics, decoder, paging, segmentation, events.

May import from `cpu.engine`, `cpu.lang` and `support` only.
"""
