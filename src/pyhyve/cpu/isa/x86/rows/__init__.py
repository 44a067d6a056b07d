"""Opcode rows and semantics, by kind of instruction; each module offers `ROWS`."""
