"""Names that users give to nodes, devices, objects and jobs."""

from __future__ import annotations

NIC_PREFIX = "#nic"
"""The networks of `-nic` have no names of their users'."""
_LOWER = "abcdefghijklmnopqrstuvwxyz"
_FIRST = frozenset(_LOWER + _LOWER.upper())
_REST = _FIRST | frozenset("0123456789-._")


def is_identifier(text: str) -> bool:
    """Whether `text` is a name as QEMU wants it: a letter, then letters, digits and `-._`, all of ASCII.

    What pyhyve names itself begins with `#`, and so is apart.
    """
    return text[:1] in _FIRST and _REST.issuperset(text)
