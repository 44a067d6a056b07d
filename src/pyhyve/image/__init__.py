"""Disk images: every format behind one small contract (`contract.Image`).

This package may import only `pyhyve.support` and the standard library (plus the compression libraries). Format
modules never open files by name: `opening` hands them a `storage.Storage`, so that a path, a Python file object and
a network block device are the same thing to a format.
"""
