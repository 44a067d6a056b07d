"""Saved state: the contract of devices, records of plain values, and the file that holds a whole machine.

May import from `support` only. docs/state-format.md describes the file.
"""
