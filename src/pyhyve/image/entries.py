"""Allocation tables of fixed-width entries, paged in as they are asked for.

A table may describe many terabytes: opening an image reads none of it, and memory stays bounded however large it is.
"""

from __future__ import annotations

import sys

from pyhyve.image.contract import ImageFormatError
from pyhyve.support.arrays import array

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    from pyhyve.image.storage import Storage

PAGE_ENTRIES = 8192
_RESIDENT_PAGES = 128
_DIRTY_PAGES_LIMIT = 64
_TYPECODES: dict[int, Literal["I", "Q"]] = {4: "I", 8: "Q"}


def ascending(typecode: str, first: int, count: int, step: int) -> array[int]:
    """`first, first + step, …`; `step` 0 repeats `first`."""
    if step:
        return array(typecode, range(first, first + count * step, step))
    return array(typecode, (first,)) * count


def run_length(page: array[int], at: int, limit: int, step: int) -> int:
    """How many entries from `at` (at most `limit`) continue `page[at]` in steps of `step`.

    Doubles the run while whole slices match, then halves: every comparison is one array compare.
    """
    limit = min(limit, len(page) - at)
    first, matched, width = page[at], 1, 1
    while matched < limit:
        width = min(width, limit - matched)
        start, expected = at + matched, first + matched * step
        if page[start + width - 1] == expected + (width - 1) * step and (
            width == 1 or page[start : start + width] == ascending(page.typecode, expected, width, step)
        ):
            matched += width
            width *= 2
        elif width == 1:
            break
        else:
            width //= 2
            limit = min(limit, matched + 2 * width)
    return matched


class EntryTable:
    """`count` unsigned entries of `width` bytes (4 or 8) at `offset` of `storage`. The owner serialises the calls.

    Changes stay in memory until `write_back`. Raises ImageFormatError when the table does not lie inside the storage.
    """

    def __init__(self, storage: Storage, offset: int, count: int, width: int, *, big_endian: bool = False) -> None:
        if offset < 0 or count < 0 or offset + count * width > storage.size_bytes:
            msg = f"the allocation table at {offset:#x} of {count} entries is outside the file"
            raise ImageFormatError(msg)
        self.storage = storage
        self.offset = offset
        self.count = count
        self.width = width
        self._typecode = _TYPECODES[width]
        self._swap = big_endian == (sys.byteorder == "little")
        self._pages: dict[int, array[int]] = {}  # the one used last is last
        self._dirty: dict[int, tuple[int, int]] = {}

    @property
    def is_dirty(self) -> bool:
        """Whether `write_back` has something to write."""
        return bool(self._dirty)

    @property
    def wants_write_back(self) -> bool:
        """Whether changed pages take more memory than they should."""
        return len(self._dirty) > _DIRTY_PAGES_LIMIT

    def _load(self, number: int) -> array[int]:
        first = number * PAGE_ENTRIES
        size = min(PAGE_ENTRIES, self.count - first) * self.width
        data = self.storage.pread(size, self.offset + first * self.width)
        if len(data) < size:
            msg = "the allocation table is cut off by the end of the file"
            raise ImageFormatError(msg)
        page: array[int] = array(self._typecode, data)
        if self._swap:
            page.byteswap()
        return page

    def _page(self, number: int) -> array[int]:
        page = self._pages.pop(number, None)
        if page is not None:
            self._pages[number] = page
            return page
        page = self._load(number)
        self._pages[number] = page
        if len(self._pages) > _RESIDENT_PAGES:
            for old in self._pages:
                if old not in self._dirty and old != number:
                    del self._pages[old]
                    break
        return page

    def __getitem__(self, index: int) -> int:
        return self._page(index // PAGE_ENTRIES)[index % PAGE_ENTRIES]

    def __setitem__(self, index: int, value: int) -> None:
        number, at = divmod(index, PAGE_ENTRIES)
        self._page(number)[at] = value
        low, high = self._dirty.get(number, (at, at + 1))
        self._dirty[number] = min(low, at), max(high, at + 1)

    def fill(self, index: int, first: int, count: int, step: int) -> None:
        """Set entries `index …` to `first, first + step, …` (`step` 0 repeats)."""
        while count > 0:
            number, at = divmod(index, PAGE_ENTRIES)
            part = min(count, PAGE_ENTRIES - at)
            self._page(number)[at : at + part] = ascending(self._typecode, first, part, step)
            low, high = self._dirty.get(number, (at, at + part))
            self._dirty[number] = min(low, at), max(high, at + part)
            index, first, count = index + part, first + part * step, count - part

    def run_length(self, index: int, limit: int, step: int) -> int:
        """How many entries from `index` (at most `limit`, at most a page) continue its value in steps of `step`."""
        return run_length(self._page(index // PAGE_ENTRIES), index % PAGE_ENTRIES, limit, step)

    def pages(self) -> Iterator[array[int]]:
        """All entries in order, a page at a time, without keeping them."""
        for number in range(-(-self.count // PAGE_ENTRIES)):
            page = self._pages.get(number)
            yield self._load(number) if page is None else page

    def write_back(self, *copies: int) -> None:
        """Write changed entries, and the same to tables at the offsets `copies`. No barrier."""
        for number, (low, high) in sorted(self._dirty.items()):
            part = self._pages[number][low:high]
            if self._swap:
                part.byteswap()
            data = part.tobytes()
            for offset in (*copies, self.offset):
                self.storage.pwrite(data, offset + (number * PAGE_ENTRIES + low) * self.width)
        self._dirty.clear()
