"""Which pages the guest wrote: bitmaps of a slot, and the per-vCPU rings (api.rst, 4.35 and 8.29)."""

from __future__ import annotations

import contextlib
import mmap

from pyhyve.kvm import structures as s
from pyhyve.kvm.abi import DIRTY_GFN_DIRTY, DIRTY_GFN_RESET, DIRTY_LOG_PAGE_OFFSET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_WORDS_PER_ENTRY = s.DIRTY_GFN.size_bytes // 4


def bitmap_pages(bitmap: bytes) -> Iterator[int]:
    """Numbers of the set bits."""
    for index, byte in enumerate(bitmap):
        while byte:
            lowest = byte & -byte
            yield index * 8 + lowest.bit_length() - 1
            byte &= byte - 1  # noqa: PLW2901 - clearing the bit just reported


class DirtyRing:
    """One vCPU's ring. Read by one thread at a time; the kernel may add entries meanwhile."""

    def __init__(self, vcpu_fd: int, size_bytes: int) -> None:
        """Map the ring of `size_bytes` (as given to `VmHandle.enable_dirty_ring`). Raises OSError."""
        self._map = mmap.mmap(vcpu_fd, size_bytes, offset=DIRTY_LOG_PAGE_OFFSET * mmap.PAGESIZE)
        view = memoryview(self._map)
        self._words = view.cast("I")
        self._offsets = view.cast("Q")
        self._count = size_bytes // s.DIRTY_GFN.size_bytes
        self._next = 0

    def collect(self) -> list[tuple[int, int]]:
        """New (slot, page number in the slot) pairs; `VmHandle.reset_dirty_rings` then gives the entries back."""
        found: list[tuple[int, int]] = []
        words, offsets = self._words, self._offsets
        for _ in range(self._count):
            at = self._next % self._count * _WORDS_PER_ENTRY
            if words[at] & (DIRTY_GFN_DIRTY | DIRTY_GFN_RESET) != DIRTY_GFN_DIRTY:
                break
            # `slot` holds the address space in its upper half.
            found.append((words[at + 1] & 0xFFFF, offsets[at // 2 + 1]))
            words[at] = DIRTY_GFN_RESET
            self._next += 1
        return found

    def close(self) -> None:
        """Unmap; idempotent."""
        self._words.release()
        self._offsets.release()
        with contextlib.suppress(BufferError):
            self._map.close()
