"""Guest physical memory: RAM and ROM regions over one mapping each, reachable as `memoryview`s."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from bisect import bisect_right

from pyhyve.support.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.memory.dirty import DirtyTable

PAGE_SIZE_BYTES = 4096
RAM = "ram"
"""Name of the regions that are the machine's memory."""
HUGE_PAGE_SIZE_BYTES = 2 << 20
_MAP_HUGETLB, _MAP_HUGE_2MB = 0x40000, 21 << 26
_MAP_NORESERVE = 0x4000
"""Linux `asm-generic/mman.h`: memory the guest never touches costs nothing (older type stubs lack the name)."""


class GuestAddressError(Exception):
    """A guest physical range that no region backs in full."""


@dataclass(frozen=True, slots=True)
class MemoryRegion:
    """A range of guest physical addresses backed by host memory; `fd` is -1 when it has no memfd."""

    gpa: int
    size_bytes: int
    hva: int
    readonly: bool
    name: str
    fd: int
    view: memoryview

    @property
    def is_ram(self) -> bool:
        """Whether it is the machine's memory, rather than firmware's or a card's."""
        return self.name == RAM


def _map_huge(gpa: int, size_bytes: int) -> mmap.mmap:
    """Whole huge pages that hold `[gpa, gpa + size_bytes)`; raises MemoryError when so many are not reserved."""
    first = gpa // HUGE_PAGE_SIZE_BYTES
    count = -(-(gpa + size_bytes) // HUGE_PAGE_SIZE_BYTES) - first
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_HUGETLB | _MAP_HUGE_2MB
    try:
        return mmap.mmap(-1, count * HUGE_PAGE_SIZE_BYTES, flags)
    except OSError as error:
        msg = f"{count} huge pages of 2 MiB are not free (reserve some: echo N > /proc/sys/vm/nr_hugepages)"
        raise MemoryError(msg) from error


class GuestMemory:
    """The regions of one machine, sorted by address, never overlapping.

    Host memory is taken lazily by the kernel. `shared` memory is a memfd, which another process (a vhost-user back
    end) can map; other memory is anonymous, which the kernel backs with huge pages by itself.

    Whoever writes guest memory other than through the vCPU or `write` (a device doing `preadv` into `view`) calls
    `mark_written` afterwards, so that translated code is dropped, and the page is sent again while the machine moves.
    """

    def __init__(self, *, shared: bool = True, huge_pages: bool = False) -> None:
        """`huge_pages` takes the host's reserved ones (hugetlbfs), at once and as a whole; not for shared memory."""
        self._shared = shared
        self._huge_pages = huge_pages and not shared
        self._regions: list[MemoryRegion] = []
        self._starts: list[int] = []
        self._listeners: list[Callable[[int, int], None]] = []
        self._maps: dict[int, tuple[mmap.mmap, int]] = {}
        """Each region's mapping, by the region's address, and where in it the region begins."""
        self.dirty: DirtyTable | None = None
        """While the machine moves: where pages that the host writes are marked."""

    @property
    def regions(self) -> tuple[MemoryRegion, ...]:
        """All regions by rising address."""
        return tuple(self._regions)

    def add(self, gpa: int, size_bytes: int, *, readonly: bool = False, name: str = RAM) -> MemoryRegion:
        """Back `[gpa, gpa + size_bytes)` with zeroed memory; both page-aligned.

        Raises ValueError on misalignment or overlap, MemoryError when the host refuses.
        """
        if size_bytes <= 0 or gpa < 0 or (gpa | size_bytes) % PAGE_SIZE_BYTES:
            msg = f"region {name} at {gpa:#x} of {size_bytes:#x} bytes is not page-aligned"
            raise ValueError(msg)
        for other in self._regions:
            if gpa < other.gpa + other.size_bytes and other.gpa < gpa + size_bytes:
                msg = f"region {name} at {gpa:#x} overlaps {other.name} at {other.gpa:#x}"
                raise ValueError(msg)
        fd = os.memfd_create(f"pyhyve-{name}", os.MFD_CLOEXEC) if self._shared else -1
        try:
            if self._shared:
                os.ftruncate(fd, size_bytes)
                mapping = mmap.mmap(fd, size_bytes, mmap.MAP_SHARED | _MAP_NORESERVE)
            elif self._huge_pages and size_bytes >= HUGE_PAGE_SIZE_BYTES:
                mapping = _map_huge(gpa, size_bytes)
            else:
                room = size_bytes + HUGE_PAGE_SIZE_BYTES
                mapping = mmap.mmap(-1, room, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
                with contextlib.suppress(OSError):  # a kernel without transparent huge pages
                    mapping.madvise(mmap.MADV_HUGEPAGE)
        except (OSError, OverflowError, MemoryError) as error:
            if isinstance(error, MemoryError):
                raise
            if fd >= 0:
                os.close(fd)
            msg = f"cannot map {size_bytes:#x} bytes of guest memory: {error}"
            raise MemoryError(msg) from error
        hva = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
        # A huge page serves a guest only where both addresses are aligned alike.
        skipped = 0 if self._shared else (gpa - hva) % HUGE_PAGE_SIZE_BYTES
        view = memoryview(mapping)[skipped : skipped + size_bytes]
        region = MemoryRegion(gpa, size_bytes, hva + skipped, readonly, name, fd, view)
        index = bisect_right(self._starts, gpa)
        self._regions.insert(index, region)
        self._starts.insert(index, gpa)
        self._maps[gpa] = (mapping, skipped)
        return region

    def find(self, gpa: int) -> MemoryRegion | None:
        """The region that holds `gpa`, if any."""
        index = bisect_right(self._starts, gpa) - 1
        if index < 0:
            return None
        region = self._regions[index]
        return region if gpa < region.gpa + region.size_bytes else None

    def view(self, gpa: int, length: int) -> memoryview:
        """Writable view of `length` bytes inside one region; GuestAddressError when they are not."""
        region = self.find(gpa)
        if region is None or length < 0 or gpa + length > region.gpa + region.size_bytes:
            msg = f"no guest memory at {gpa:#x}+{length:#x}"
            raise GuestAddressError(msg)
        offset = gpa - region.gpa
        return region.view[offset : offset + length]

    def read(self, gpa: int, length: int) -> bytes:
        """Copy of `length` bytes; GuestAddressError when not all are backed by one region."""
        return bytes(self.view(gpa, length))

    def write(self, gpa: int, data: bytes | bytearray | memoryview) -> None:
        """Store `data` (ROM included: this is the host's side) and tell listeners."""
        self.view(gpa, len(data))[:] = data
        self.mark_written(gpa, len(data))

    def release(self, gpa: int, length: int) -> bool:
        """Give whole pages of RAM back to the host; they read as zero from now on.

        False, with nothing done, for a range that is not RAM of one region in full, or when the host cannot.
        """
        region = self.find(gpa)
        if self._huge_pages or region is None or region.readonly or (gpa | length) % PAGE_SIZE_BYTES or length <= 0:
            return False
        offset = gpa - region.gpa
        if offset + length > region.size_bytes:
            return False
        mapping, skipped = self._maps[region.gpa]
        try:
            # A memfd's pages are freed by punching a hole (MADV_REMOVE does that), others by dropping them.
            advice = mmap.MADV_REMOVE if region.fd >= 0 else mmap.MADV_DONTNEED
            mapping.madvise(advice, skipped + offset, length)
        except OSError:
            return False
        self.mark_written(gpa, length)
        return True

    def on_write(self, listener: Callable[[int, int], None]) -> None:
        """Call `listener(gpa, length)` after each host-side write, on the writer's thread."""
        self._listeners.append(listener)

    def mark_written(self, gpa: int, length: int) -> None:
        """Tell listeners that the host changed `[gpa, gpa + length)`."""
        dirty = self.dirty
        if dirty is not None:
            dirty.mark(gpa, length)
        for listener in self._listeners:
            listener(gpa, length)

    def close(self) -> None:
        """Close the descriptors; mappings go when the last view does."""
        for region in self._regions:
            if region.fd >= 0:
                os.close(region.fd)
        self._regions.clear()
        self._starts.clear()
        self._maps.clear()
