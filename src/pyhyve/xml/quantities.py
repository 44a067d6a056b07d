"""Sizes with units, as libvirt reads them."""

from __future__ import annotations

from typing import Final

from pyhyve.xml.document import XmlError

__all__ = ["scaled_bytes", "scaled_kib"]

_POWERS: Final = {"k": 1, "m": 2, "g": 3, "t": 4, "p": 5, "e": 6}


def scaled_bytes(value: int, unit: str | None, default: str = "bytes") -> int:
    """Return a quantity in bytes: ``KiB`` (or ``k``) is 1024, ``KB`` is 1000. Raises XmlError for other units."""
    written = (unit or default).lower()
    if written in {"b", "byte", "bytes"}:
        return value
    power = _POWERS.get(written[0])
    if power is None or written[1:] not in {"", "b", "ib"}:
        msg = f"unknown suffix {unit!r}"
        raise XmlError(msg)
    factor: int = (1000 if written[1:] == "b" else 1024) ** power
    size = value * factor
    if size >= 1 << 64:
        msg = f"{value} {unit} is too large"
        raise XmlError(msg)
    return size


def scaled_kib(value: int, unit: str | None) -> int:
    """Return a quantity of memory in KiB, rounded up; KiB is what no unit means."""
    return -(-scaled_bytes(value, unit, "KiB") // 1024)
