"""Big-endian tables as native arrays, and runs found in them at C speed."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyhyve.support.arrays import array

_SWAP = sys.byteorder == "little"
_TRIED_WHOLE = 64  # entries


def load_u64(data: bytes | bytearray | memoryview) -> array[int]:
    """Big-endian 64-bit entries; a trailing part entry is dropped."""
    from pyhyve.support.arrays import array  # noqa: PLC0415 - would be felt in `info`, which reads no table

    values = array("Q")
    values.frombytes(data[: len(data) & ~7])
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

    Gallops: doubles the run while whole slices match, then halves; every comparison is one array compare. What is asked
    for one request is mostly all alike, so that is tried first.
    """
    first = entries[index]
    if (
        limit <= _TRIED_WHOLE
        and entries[index + limit - 1] == first + (limit - 1) * step
        and entries[index : index + limit] == ascending(first, limit, step)
    ):
        return limit
    matched, width = 1, 1
    while matched < limit:
        width = min(width, limit - matched)
        start = index + matched
        expected = first + matched * step
        if entries[start + width - 1] == expected + (width - 1) * step and (
            width == 1 or entries[start : start + width] == ascending(expected, width, step)
        ):
            matched += width
            width *= 2
        elif width == 1:
            break
        else:
            width //= 2
            limit = min(limit, matched + 2 * width)
    return matched
