"""Big-endian tables as native arrays, and runs found in them at C speed."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyhyve.support.arrays import array

_SWAP = sys.byteorder == "little"
_TRIED_WHOLE = 64  # entries
_LANES = 512  # entries that are compared at once at most
_ENTRY_MASK = (1 << 64) - 1
_PATTERNS: list[int] = []  # made when first needed


def load_u64(data: bytes | bytearray | memoryview) -> array[int]:
    """Big-endian 64-bit entries; a trailing part entry is dropped."""
    from pyhyve.support.arrays import array  # noqa: PLC0415 - would be felt in `info`, which reads no table

    values = array("Q")
    values.frombytes(data if len(data) % 8 == 0 else data[: len(data) & ~7])
    if _SWAP:
        values.byteswap()
    return values


def store_u64(values: array[int]) -> bytes:
    """The big-endian bytes of `values`."""
    if _SWAP:
        values = values[:]
        values.byteswap()
    return values.tobytes()


def zeroes(count: int) -> array[int]:
    """`count` entries of zero."""
    return ascending(0, count, 0)


def ascending(first: int, count: int, step: int) -> array[int]:
    """`first, first + step, …`; `step` 0 repeats `first`."""
    from pyhyve.support.arrays import array  # noqa: PLC0415 - as above

    if step:
        return array("Q", range(first, first + count * step, step))
    return array("Q", (first,)) * count


def used(entries: array[int]) -> array[int]:
    """`entries` without the zeroes at its end: tables are mostly empty."""
    return entries[: -(-used_bytes(entries.tobytes()) // 8)]


def used_bytes(data: bytes) -> int:
    """Length of `data` without the zero bytes at its end (`rstrip` looks at them one by one)."""
    low, high, zero = 0, len(data), bytes(len(data))
    while high - low > 16:
        middle = (low + high) // 2
        if data[middle:high] == zero[: high - middle]:
            high = middle
        else:
            low = middle
    return low + len(data[low:high].rstrip(b"\0"))


def run_length(entries: array[int], index: int, limit: int, step: int) -> int:
    """How many entries from `index` (at most `limit`) continue `entries[index]` in steps of `step`.

    Slices become one large number each, whose difference from the number of a whole run shows where the run ends. They
    get longer while they match. What is asked for one request is mostly all alike, so that is tried first.
    """
    first = entries[index]
    if (
        limit <= _TRIED_WHOLE
        and entries[index + limit - 1] == first + (limit - 1) * step
        and entries[index : index + limit] == ascending(first, limit, step)
    ):
        return limit
    if step:
        limit = min(limit, 1 + (_ENTRY_MASK - first) // step)
    matched, width = 1, 64
    while matched < limit:
        width = min(width, limit - matched, _LANES)
        start = index + matched
        if not first and not step and entries[start : start + width].tobytes() == bytes(8 * width):
            matched += width
            width *= 4
            continue
        expected = (first + matched * step) * _repeated(width) + step * _counted(width)
        difference = _number(entries[start : start + width]) ^ expected
        if difference:
            return matched + ((difference & -difference).bit_length() - 1) // 64
        matched += width
        width *= 4
    return matched


class Runs:
    """The runs of a whole table: `run_length` asked again and again would take several times as long.

    The entries are taken apart into eight columns, of all their lowest bytes and so on. A column as one large number
    differs from itself, shifted by a byte, where an entry differs from the one before it; most columns never change
    and need no work. `step`, a power of two, only changes one column: where it carries into the next, the entries
    themselves are looked at.
    """

    def __init__(self, entries: array[int], step: int) -> None:
        self._entries, self._step, self._total = entries, step, len(entries)
        key, unit = divmod(step.bit_length() - 1, 8)
        unit = 1 << unit
        raw = store_u64(entries)
        others = 0
        for at in range(8):
            column = raw[7 - at :: 8]
            if at == key:
                own = int.from_bytes(column, "little")
                following = int.from_bytes(column.translate(bytes((*range(unit, 256), *range(unit)))), "little")
                carries = int.from_bytes(column.translate(bytes(256 - unit) + b"\1" * unit), "little")
            elif column != column[:1] * self._total:
                number = int.from_bytes(column, "little")
                others |= number ^ number << 8
        self._repeats = self._marks(others | own ^ own << 8)
        self._ascends = self._marks(others | own ^ following << 8 | carries << 8)

    def _marks(self, differences: int) -> bytes:
        """Byte i is 1 where entry i does not continue entry i - 1."""
        return differences.to_bytes(self._total + 1, "little").translate(bytes(1) + b"\1" * 255)

    def length(self, index: int, *, ascending: bool) -> int:
        """How many entries from `index` ascend in steps, or else are equal."""
        entries, total = self._entries, self._total
        if not ascending:
            end = self._repeats.find(1, index + 1, total)
            return (total if end < 0 else end) - index
        first, step, end = entries[index], self._step, index
        while entries[end] == first + (end - index) * step:
            end = self._ascends.find(1, end + 1, total)
            if end < 0:
                end = total
                break
        return end - index


def _number(entries: array[int]) -> int:
    """The entries as one number, the first one lowest."""
    return int.from_bytes(entries.tobytes(), "little") if _SWAP else int.from_bytes(entries[::-1].tobytes(), "big")


def _repeated(count: int) -> int:
    """The number of `count` entries 1."""
    if not _PATTERNS:
        _PATTERNS[:] = _number(ascending(1, _LANES, 0)), _number(ascending(0, _LANES, 1))
    return _PATTERNS[0] & ((1 << 64 * count) - 1)


def _counted(count: int) -> int:
    """The number of the entries 0, 1, 2…; after `_repeated`."""
    return _PATTERNS[1] & ((1 << 64 * count) - 1)
