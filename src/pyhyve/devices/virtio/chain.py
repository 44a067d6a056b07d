"""Descriptor chains: what a driver offered, parsed once into views of guest memory.

Hot path: `DmaSpace.resolve` runs for every buffer of every device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pyhyve.devices.virtio.spec import DESCRIPTOR_BYTES, MAX_CHAIN_BYTES, DescFlag

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyhyve.memory.guest import GuestMemory, MemoryRegion

MAX_CHAIN_DESCRIPTORS = 1024
"""Longest chain accepted, indirect tables included: also the kernel's UIO_MAXIOV, so one `preadv` always fits."""

_WRITE = int(DescFlag.WRITE)


class VirtqueueError(Exception):
    """The driver broke the rules of its ring; the device can only ask to be reset (2.1.2)."""


class DescriptorChain(NamedTuple):
    """One buffer: device-readable parts, then device-writable parts, checked against guest memory."""

    head: int
    """What names the chain in the used ring: a descriptor index (split) or a buffer ID (packed)."""
    slots: int
    """Ring descriptors taken: what a packed ring's used position advances by."""
    readable: list[memoryview]
    writable: list[memoryview]
    readable_bytes: int
    writable_bytes: int
    writable_ranges: list[tuple[int, int]]
    """Guest physical address and length of each of `writable`."""


class DmaSpace:
    """Guest memory as devices reach it: typed errors, ROM not writable, and the usual region found at once."""

    __slots__ = ("_end", "_memory", "_readonly", "_start", "_view", "mark_written")

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory
        self._start = self._end = 0
        self._readonly = False
        self._view = memoryview(b"")
        self.mark_written = memory.mark_written

    def window(self) -> tuple[int, int, memoryview]:
        """The writable region that was used last: its start, its end, its bytes; an empty one when there is none."""
        return (0, 0, self._view) if self._readonly else (self._start, self._end, self._view)

    def mark_dirty(self, gpa: int, length: int) -> None:
        """As `mark_written`, for words of a ring that nobody would take for code: all that costs is while it moves."""
        table = self._memory.dirty
        if table is not None:
            table.mark(gpa, length)

    def forget(self) -> None:
        """Regions changed: drop what is remembered of them."""
        self._start = self._end = 0

    def _select(self, region: MemoryRegion) -> None:
        self._start = region.gpa
        self._end = region.gpa + region.size_bytes
        self._view = region.view
        self._readonly = region.readonly

    def map(self, gpa: int, length: int, *, writable: bool) -> memoryview:
        """View of `length` bytes inside one region.

        Raises VirtqueueError when they are not all backed, or are read-only and `writable` is asked for.
        """
        if gpa < self._start or gpa + length > self._end:
            region = self._memory.find(gpa)
            if region is None or gpa + length > region.gpa + region.size_bytes:
                msg = f"no guest memory at {gpa:#x}+{length:#x}"
                raise VirtqueueError(msg)
            self._select(region)
        if writable and self._readonly:
            msg = f"guest memory at {gpa:#x} is read-only"
            raise VirtqueueError(msg)
        offset = gpa - self._start
        return self._view[offset : offset + length]

    def _pieces(self, gpa: int, length: int, *, writable: bool) -> Iterator[tuple[int, int]]:
        """Split a range where one region ends and the next begins; VirtqueueError when there is a hole."""
        while length:
            region = self._memory.find(gpa)
            if region is None or (writable and region.readonly):
                msg = f"no {'writable ' if writable else ''}guest memory at {gpa:#x}"
                raise VirtqueueError(msg)
            part = min(length, region.gpa + region.size_bytes - gpa)
            yield gpa, part
            gpa += part
            length -= part

    def resolve(self, head: int, slots: int, descriptors: list[tuple[int, int, int]]) -> DescriptorChain:
        """Turn (address, length, flags) triples into a chain.

        Raises VirtqueueError for an address outside guest memory, a length of zero, a readable part after a writable
        one (2.7.4.2) or too many bytes.
        """
        readable: list[memoryview] = []
        writable: list[memoryview] = []
        ranges: list[tuple[int, int]] = []
        readable_bytes = writable_bytes = 0
        for gpa, length, flags in descriptors:
            start = self._start
            offset = gpa - start
            if offset < 0 or gpa + length > self._end or self._readonly:
                region = self._memory.find(gpa)
                if region is None or gpa + length > region.gpa + region.size_bytes:
                    self._resolve_split(gpa, length, flags, (readable, writable, ranges))
                    if flags & _WRITE:
                        writable_bytes += length
                    else:
                        readable_bytes += length
                    continue
                self._select(region)
                offset = gpa - region.gpa
            if not length:
                msg = f"descriptor of {gpa:#x} has no length"
                raise VirtqueueError(msg)
            if flags & _WRITE:
                if self._readonly:
                    msg = f"device-writable buffer {gpa:#x}+{length:#x} is in read-only memory"
                    raise VirtqueueError(msg)
                writable.append(self._view[offset : offset + length])
                ranges.append((gpa, length))
                writable_bytes += length
            else:
                if writable:
                    msg = "device-readable descriptor after a device-writable one"
                    raise VirtqueueError(msg)
                readable.append(self._view[offset : offset + length])
                readable_bytes += length
        if readable_bytes + writable_bytes > MAX_CHAIN_BYTES or writable_bytes == MAX_CHAIN_BYTES:
            msg = f"descriptor chain of {readable_bytes + writable_bytes:#x} bytes"
            raise VirtqueueError(msg)
        return DescriptorChain(head, slots, readable, writable, readable_bytes, writable_bytes, ranges)

    def _resolve_split(
        self,
        gpa: int,
        length: int,
        flags: int,
        into: tuple[list[memoryview], list[memoryview], list[tuple[int, int]]],
    ) -> None:
        """Resolve a buffer that crosses regions; VirtqueueError as for `resolve`."""
        readable, writable, ranges = into
        is_write = bool(flags & _WRITE)
        if not is_write and writable:
            msg = "device-readable descriptor after a device-writable one"
            raise VirtqueueError(msg)
        if not length:
            msg = f"descriptor of {gpa:#x} has no length"
            raise VirtqueueError(msg)
        for part_gpa, part in self._pieces(gpa, length, writable=is_write):
            view = self.map(part_gpa, part, writable=is_write)
            if is_write:
                writable.append(view)
                ranges.append((part_gpa, part))
            else:
                readable.append(view)
        if len(readable) + len(writable) > 2 * MAX_CHAIN_DESCRIPTORS:
            msg = "descriptor chain crosses too many memory regions"
            raise VirtqueueError(msg)

    def snapshot_table(self, gpa: int, length: int) -> bytes:
        """Copy of an indirect descriptor table (2.7.5.3), so that the driver cannot change it while it is read.

        Raises VirtqueueError when its size is not a multiple of 16, is zero, or exceeds the longest chain.
        """
        if not length or length % DESCRIPTOR_BYTES or length > MAX_CHAIN_DESCRIPTORS * DESCRIPTOR_BYTES:
            msg = f"indirect descriptor table of {length} bytes"
            raise VirtqueueError(msg)
        return bytes(self.map(gpa, length, writable=False))
