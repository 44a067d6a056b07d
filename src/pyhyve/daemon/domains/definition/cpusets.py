"""Sets of CPUs: as text ("0-3,^2"), and as the bitmaps of calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyhyve.daemon.domains.faults import invalid_argument
from pyhyve.rpc.errors import ErrorDomain

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["cpuset_from_map", "cpuset_to_map", "format_cpuset", "normalize_cpuset", "parse_cpuset"]

_CPU_MAX: Final = 16383


def parse_cpuset(written: str) -> set[int]:
    """Return a set of CPUs ("0,1,2,^1,5"). Raises LibvirtError."""
    chosen: set[int] = set()
    for part in written.replace(" ", "").split(","):
        negative = part.startswith("^")
        first, dash, last = part.removeprefix("^").partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or int(last or first) > _CPU_MAX:
            raise invalid_argument(f"Failed to parse bitmap '{written}'", ErrorDomain.NONE)
        numbers = range(int(first), int(last or first) + 1)
        if negative:
            chosen.difference_update(numbers)
        else:
            chosen.update(numbers)
    if not chosen:
        raise invalid_argument(f"Invalid value of 'cpuset': {written}", ErrorDomain.NONE)
    return chosen


def format_cpuset(chosen: Iterable[int]) -> str:
    """Return a set of CPUs as libvirt writes it ("0-2,5")."""
    parts = []
    numbers = sorted(chosen)
    if not numbers:
        return ""
    start = previous = numbers[0]
    for number in [*numbers[1:], -1]:
        if number != previous + 1:
            parts.append(str(start) if start == previous else f"{start}-{previous}")
            start = number
        previous = number
    return ",".join(parts)


def normalize_cpuset(written: str) -> str:
    """Return a set of CPUs as libvirt writes it. Raises LibvirtError."""
    return format_cpuset(parse_cpuset(written))


def cpuset_from_map(bitmap: bytes) -> set[int]:
    """Return the CPUs of a bitmap, lowest bit first."""
    return {place * 8 + bit for place, byte in enumerate(bitmap) for bit in range(8) if byte >> bit & 1}


def cpuset_to_map(chosen: Iterable[int], length: int) -> bytes:
    """Return a bitmap of so many bytes; CPUs beyond it are left out."""
    bitmap = bytearray(length)
    for number in chosen:
        if number // 8 < length:
            bitmap[number // 8] |= 1 << number % 8
    return bytes(bitmap)
