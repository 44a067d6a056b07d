"""Packed virtqueues (VIRTIO 1.2, 2.8).

Hot path, as `split`. A descriptor's second word holds length, buffer ID and flags, so flags never change without
the rest.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from pyhyve.devices.virtio.chain import MAX_CHAIN_DESCRIPTORS, VirtqueueError
from pyhyve.devices.virtio.queue import QueueLayout, RingFeatures, RingState, Virtqueue
from pyhyve.devices.virtio.spec import DESCRIPTOR_BYTES, MAX_QUEUE_SIZE, DescFlag, EventFlag

if TYPE_CHECKING:
    from pyhyve.devices.virtio.chain import DescriptorChain, DmaSpace

_DESCRIPTOR = Struct("<QIHH")
_NEXT = int(DescFlag.NEXT)
_WRITE = int(DescFlag.WRITE)
_INDIRECT = int(DescFlag.INDIRECT)
_AVAIL = int(DescFlag.AVAIL)
_USED = int(DescFlag.USED)
_WRAP_BIT = 1 << 15
_SAVED_WRAP_BIT = 1 << 31


class PackedQueue(Virtqueue):
    """The device's side of a packed virtqueue."""

    __slots__ = (
        "_avail_index",
        "_avail_wrap",
        "_device_event",
        "_device_event_gpa",
        "_driver_event",
        "_event_index",
        "_indirect",
        "_ring",
        "_ring_gpa",
        "_used_position",
    )

    def __init__(self, dma: DmaSpace, layout: QueueLayout, features: RingFeatures) -> None:
        """Map the ring.

        Raises VirtqueueError for a size of 0 or above 32768, or a part that is misaligned (2.8) or not in guest
        memory.
        """
        size = layout.size
        if not 0 < size <= MAX_QUEUE_SIZE:
            msg = f"packed queue of {size} entries"
            raise VirtqueueError(msg)
        if layout.descriptor_gpa % 16 or layout.driver_gpa % 4 or layout.device_gpa % 4:
            msg = "packed queue is misaligned"
            raise VirtqueueError(msg)
        super().__init__(dma, size)
        self._ring = dma.map(layout.descriptor_gpa, DESCRIPTOR_BYTES * size, writable=True).cast("Q")
        self._ring_gpa = layout.descriptor_gpa
        self._driver_event = dma.map(layout.driver_gpa, 4, writable=False).cast("H")
        self._device_event = dma.map(layout.device_gpa, 4, writable=True).cast("H")
        self._device_event_gpa = layout.device_gpa
        self._event_index = features.event_index
        self._indirect = features.indirect
        self._avail_index = 0
        self._avail_wrap = _AVAIL
        # Positions count descriptors from the start of the queue's life; the ring's wrap counter is the parity of
        # position // size.
        self._used_position = self.published = 0

    def _available(self) -> bool:
        """Whether the driver made the next descriptor available (2.8.1)."""
        flags = self._ring[2 * self._avail_index + 1] >> 48
        return flags & (_AVAIL | _USED) == (_AVAIL if self._avail_wrap else _USED)

    def unpop(self, chain: DescriptorChain) -> None:
        """Take back the most recent `pop`."""
        self._avail_index -= chain.slots
        if self._avail_index < 0:
            self._avail_index += self.size
            self._avail_wrap ^= _AVAIL
        self._in_flight -= chain.slots
        self.popped -= 1

    def save(self) -> RingState:
        """Next descriptor and used position."""
        wrap = _SAVED_WRAP_BIT if self._avail_wrap else 0
        return RingState(available=self._avail_index | wrap, used=self._used_position % (2 * self.size))

    def load(self, state: RingState) -> None:
        """Go on from these positions."""
        index = state.available & ~_SAVED_WRAP_BIT
        if index >= self.size or state.used >= 2 * self.size:
            msg = f"packed queue: a position outside a ring of {self.size}"
            raise VirtqueueError(msg)
        self._avail_index = index
        self._avail_wrap = _AVAIL if state.available & _SAVED_WRAP_BIT else 0
        self._used_position = self.published = state.used

    def pop(self) -> DescriptorChain | None:
        """The next available buffer, or None; VirtqueueError when the driver broke the ring's rules."""
        index = self._avail_index
        ring = self._ring
        word = ring[2 * index + 1]
        flags = word >> 48
        if flags & (_AVAIL | _USED) != (_AVAIL if self._avail_wrap else _USED):
            return None
        slots = 1
        if flags & _INDIRECT:
            descriptors = self._indirect_table(ring[2 * index], word & 0xFFFFFFFF, flags)
        else:
            descriptors = [(ring[2 * index], word & 0xFFFFFFFF, flags)]
            limit = min(self.size, MAX_CHAIN_DESCRIPTORS)
            while flags & _NEXT:
                if slots >= limit:
                    msg = "descriptor chain loops or is too long"
                    raise VirtqueueError(msg)
                index = index + 1 if index + 1 < self.size else 0
                word = ring[2 * index + 1]
                flags = word >> 48
                if flags & _INDIRECT:
                    msg = "indirect descriptor inside a chain"
                    raise VirtqueueError(msg)
                descriptors.append((ring[2 * index], word & 0xFFFFFFFF, flags))
                slots += 1
        if self._in_flight + slots > self.size:
            msg = f"more than {self.size} descriptors are outstanding"
            raise VirtqueueError(msg)
        chain = self._dma.resolve(word >> 32 & 0xFFFF, slots, descriptors)
        self._in_flight += slots
        self.popped += 1
        index = self._avail_index + slots
        if index >= self.size:
            index -= self.size
            self._avail_wrap ^= _AVAIL
        self._avail_index = index
        return chain

    def _indirect_table(self, address: int, length: int, flags: int) -> list[tuple[int, int, int]]:
        """Descriptors of an indirect table (2.8.7): consecutive, only WRITE counts; VirtqueueError when malformed."""
        if not self._indirect:
            msg = "indirect descriptor was not negotiated"
            raise VirtqueueError(msg)
        if flags & _NEXT:
            msg = "indirect descriptor with a next one"
            raise VirtqueueError(msg)
        table = self._dma.snapshot_table(address, length)
        return [(gpa, size, bits & _WRITE) for gpa, size, _, bits in _DESCRIPTOR.iter_unpack(table)]

    def push(self, chain: DescriptorChain, written_bytes: int) -> None:
        """Write a used descriptor (2.8.6); the driver may see it at once."""
        cycle, index = divmod(self._used_position, self.size)
        flags = 0 if cycle & 1 else _AVAIL | _USED
        if written_bytes:
            flags |= _WRITE
        self._ring[2 * index + 1] = written_bytes | chain.head << 32 | flags << 48
        self._used_position += chain.slots
        self._in_flight -= chain.slots

    def flush(self) -> bool:
        """Whether to interrupt for what was pushed since the last call (2.8.10)."""
        new, old = self._used_position, self.published
        if new == old:
            return False
        self.published = new
        size = self.size
        first, last = old % size, (new - 1) % size
        if first <= last:
            self._dma.mark_written(self._ring_gpa + 16 * first, 16 * (last - first + 1))
        else:
            self._dma.mark_written(self._ring_gpa, 16 * size)
        self._full_barrier()
        return self._wants(old)

    def _wants(self, old: int) -> bool:
        mode = self._driver_event[1]
        new, size = self.published, self.size
        if mode == EventFlag.DESC and self._event_index:
            offset_wrap = self._driver_event[0]
            cycle = new // size
            # The wrap counter starts at 1 in cycle 0; an event of the other parity belongs to the cycle before.
            if (offset_wrap >> 15) == cycle & 1:
                cycle -= 1
            event = cycle * size + (offset_wrap & ~_WRAP_BIT)
            return old <= event < new
        return mode != EventFlag.DISABLE

    def wants_interrupt(self, since: int) -> bool:
        """By the driver's event suppression structure, as it is now (2.8.10)."""
        self._full_barrier()
        return self._wants(since)

    def published_since(self, since: int) -> int:
        """Descriptors."""
        return self.published - since

    def disable_notify(self) -> None:
        """Ask for no kicks."""
        self._device_event[1] = EventFlag.DISABLE
        self._dma.mark_dirty(self._device_event_gpa, 4)

    def enable_notify(self) -> bool:
        """Ask for a kick at the next descriptor; whether it is there already."""
        if self._event_index:
            self._device_event[0] = self._avail_index | (_WRAP_BIT if self._avail_wrap else 0)
            self._device_event[1] = EventFlag.DESC
        else:
            self._device_event[1] = EventFlag.ENABLE
        self._dma.mark_dirty(self._device_event_gpa, 4)
        self._full_barrier()
        return self._available()
