"""Which pages of guest memory were written: a table that engines and devices mark while a machine moves."""

from __future__ import annotations

import ctypes
import functools
import mmap
import re
import threading
from typing import TYPE_CHECKING

from pyhyve.memory.guest import PAGE_SIZE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyhyve.memory.guest import GuestMemory

_MAP_NORESERVE = 0x4000
_MARKED = re.compile(rb"[^\0]+")


class DirtyTable:
    """A byte for each page, not zero when it was written, numbered through all regions of `memory` by rising address.

    Compiled code writes to it at `address` at any time, without the interpreter's lock. Whoever marks a page has
    written to it before, and whoever takes the marks reads the pages afterwards: so nothing is missed.
    """

    def __init__(self, memory: GuestMemory) -> None:
        """All unmarked."""
        self._starts: list[tuple[int, int, int]] = []
        """Address and end of each region, and the number of its first page."""
        count = 0
        for region in memory.regions:
            self._starts.append((region.gpa, region.gpa + region.size_bytes, count))
            count += region.size_bytes // PAGE_SIZE_BYTES
        self.pages = count
        size = -(-max(count, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
        self._table = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._table))
        """Where compiled code finds it; as long as this object lives."""
        self._lock = threading.Lock()

    def mark(self, gpa: int, length: int) -> None:
        """`length` bytes at `gpa` were written; what is not memory is ignored. Any thread."""
        for start, end, number in self._starts:
            if gpa < end and start < gpa + length:
                first = number + (max(gpa, start) - start) // PAGE_SIZE_BYTES
                last = number + (min(gpa + length, end) - start - 1) // PAGE_SIZE_BYTES
                with self._lock:
                    self._table[first : last + 1] = b"\1" * (last + 1 - first)

    def mark_bits(self, gpa: int, bitmap: bytes) -> None:
        """Mark the pages whose bits are set in `bitmap`, of whole regions' pages from `gpa` on."""
        for start, end, number in self._starts:
            if start == gpa:
                count = min((end - start) // PAGE_SIZE_BYTES, 8 * len(bitmap))
                marks = b"".join(map(_bytes_of_bits().__getitem__, bitmap))[:count]
                with self._lock:
                    for found in _MARKED.finditer(marks):
                        first, last = found.span()
                        self._table[number + first : number + last] = found.group()

    def take(self) -> list[tuple[int, int]]:
        """Start address and size in bytes of the runs that were marked, rising, each in one region; unmarks them.

        A page that is marked meanwhile is in the result or stays marked.
        """
        with self._lock:
            marks = self._table[: self.pages]
            runs = [found.span() for found in _MARKED.finditer(marks)]
            for first, last in runs:
                # Only these: compiled code may have marked others since.
                self._table[first:last] = bytes(last - first)
        return list(self._addresses(runs))

    def _addresses(self, runs: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        regions = iter(self._starts)
        start, end, number = next(regions, (0, 0, 0))
        for run_first, last in runs:
            first = run_first
            while first < last:
                while first >= number + (end - start) // PAGE_SIZE_BYTES:
                    start, end, number = next(regions)
                stop = min(last, number + (end - start) // PAGE_SIZE_BYTES)
                yield start + (first - number) * PAGE_SIZE_BYTES, (stop - first) * PAGE_SIZE_BYTES
                first = stop


@functools.cache
def _bytes_of_bits() -> tuple[bytes, ...]:
    """For each byte of a bitmap, eight bytes of 0 and 1, lowest bit first."""
    return tuple(bytes(value >> bit & 1 for bit in range(8)) for value in range(256))
