"""How virsh shows things: tables, lists of facts, sizes. Pure functions from values to lines."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyhyve.rpc.values import TypedParam

__all__ = ["cpu_list", "param_text", "parse_cpu_list", "pretty_size", "shown_name", "table_lines", "tree_lines"]

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def shown_name(name: str) -> str:
    """Return a name safe for a terminal: control characters as escapes."""
    return "".join(c if c == " " or not unicodedata.category(c).startswith(("C", "Z")) else _escape(c) for c in name)


def _escape(letter: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in letter.encode("utf-8", "surrogateescape"))


def _width(text: str) -> int:
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def table_lines(header: Sequence[str], rows: Sequence[Sequence[str]], *, bare: bool = False) -> list[str]:
    """Return a table's lines; ``bare`` leaves header and rule out and fits the columns to the rows alone."""
    safe = [[shown_name(cell) for cell in row] for row in rows]
    shown = safe if bare else [list(header), *safe]
    widths = [max((_width(row[i]) for row in shown), default=0) for i in range(len(header))]
    lines = [
        "".join(
            f" {cell}" + " " * (width - _width(cell) + 2 if i + 1 < len(header) else 0)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in shown
    ]
    if not bare:
        lines.insert(1, "-" * (sum(widths) + 3 * len(widths)))
    return lines


def pretty_size(size_bytes: int) -> tuple[float, str]:
    """Return a size as a number below 1024 and its unit."""
    value, unit = float(size_bytes), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value /= 1024
        unit += 1
    return value, _UNITS[unit]


def cpu_list(bitmap: bytes, count: int) -> str:
    """Return the CPUs of a bitmap as ranges, such as ``0-3,6``."""
    numbers = [n for n in range(min(count, len(bitmap) * 8)) if bitmap[n // 8] >> (n % 8) & 1]
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def parse_cpu_list(text: str, count: int) -> bytes:
    """Return the bitmap of ranges such as ``0-3,^2,6``; ``r`` means all. Raises ValueError."""
    if text == "r":
        chosen = set(range(count))
    else:
        chosen = set()
        for part in text.split(","):
            negative = part.startswith("^")
            first, dash, last = part.removeprefix("^").partition("-")
            numbers = set(range(int(first), int(last if dash else first) + 1))
            if not numbers or min(numbers) < 0 or (negative and dash):
                msg = f"{part!r} is no range of CPUs"
                raise ValueError(msg)
            chosen = chosen - numbers if negative else chosen | numbers
    size = max([count, *(n + 1 for n in chosen)])
    bitmap = bytearray((size + 7) // 8)
    for number in chosen:
        bitmap[number // 8] |= 1 << number % 8
    return bytes(bitmap)


def tree_lines(parents: dict[str, str | None]) -> list[str]:
    """Return the lines of a forest given as name -> parent, each tree followed by a line of blanks."""
    children: dict[str | None, list[str]] = {}
    for name, parent in parents.items():
        children.setdefault(parent if parent in parents else None, []).append(name)
    lines: list[str] = []

    def walk(name: str, indent: str, *, last: bool, root: bool) -> None:
        lines.append(indent + ("" if root else "+- ") + name)
        if not root:
            indent += "  " if last else "| "
        below = children.get(name, [])
        if below:
            lines.append(f"{indent}  |")
        for i, child in enumerate(below):
            walk(child, f"{indent}  ", last=i + 1 == len(below), root=False)
        if not below and last:
            lines.append(indent)

    for root_name in children.get(None, []):
        walk(root_name, "", last=True, root=True)
    return lines


def param_text(param: TypedParam) -> str:
    """A typed parameter's value as virsh shows it."""
    kind, value = param.type, param.value
    if kind == 6:
        return "yes" if value else "no"
    return f"{value:f}" if isinstance(value, float) else str(value)
