"""Names of disks: hda, sdb, vdaa, and their numbers."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["disk_index", "disk_name", "disk_prefix"]

_FORM: Final = re.compile(r"(fd|hd|sd|vd|xvd|ubd)([a-z]{1,5})([0-9]*)", re.ASCII)


def disk_index(name: str) -> int:
    """Return the number of a disk's name (``vda`` is 0, ``sdaa`` 26), or -1 where it is none."""
    found = _FORM.fullmatch(name)
    if found is None:
        return -1
    index = 0
    for letter in found[2]:
        index = index * 26 + ord(letter) - ord("a") + 1
    return index - 1


def disk_prefix(name: str) -> str:
    """Return what a disk's name says about its bus ("hd", "sd", …), or nothing."""
    found = _FORM.fullmatch(name)
    return found[1] if found else ""


def disk_name(index: int, prefix: str) -> str:
    """Return the name of the disk with that number."""
    letters = ""
    index += 1
    while index:
        index, letter = divmod(index - 1, 26)
        letters = chr(ord("a") + letter) + letters
    return prefix + letters
