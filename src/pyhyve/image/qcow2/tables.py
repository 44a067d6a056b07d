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
