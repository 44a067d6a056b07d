"""Split virtqueues (VIRTIO 1.2, 2.7).

Hot path: one `pop`, `push` per request. Ring words are read and written through cast memoryviews, each as a single
access of its natural size.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from pyhyve.devices.virtio.chain import MAX_CHAIN_DESCRIPTORS, DescriptorChain, VirtqueueError
from pyhyve.devices.virtio.queue import QueueLayout, RingFeatures, RingState, Virtqueue
from pyhyve.devices.virtio.spec import (
    AVAIL_NO_INTERRUPT,
    DESCRIPTOR_BYTES,
    MAX_QUEUE_SIZE,
    USED_NO_NOTIFY,
    DescFlag,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyhyve.accel.api import WalkedQueue
    from pyhyve.devices.virtio.chain import DmaSpace

_DESCRIPTOR = Struct("<QIHH")
_NEXT = int(DescFlag.NEXT)
_WRITE = int(DescFlag.WRITE)
_INDIRECT = int(DescFlag.INDIRECT)


def legacy_layout(size: int, gpa: int, align: int) -> QueueLayout:
    """Where a legacy driver's contiguous ring of `size` entries has its parts (2.7.2)."""
    driver_gpa = gpa + DESCRIPTOR_BYTES * size
    end = driver_gpa + 6 + 2 * size
    return QueueLayout(size, gpa, driver_gpa, (end + align - 1) // align * align, legacy=True)


class SplitQueue(Virtqueue):
    """The device's side of a split virtqueue."""

    __slots__ = (
        "_avail",
        "_avail_seen",
        "_event_index",
        "_indirect",
        "_mask",
        "_next_avail",
        "_next_used",
        "_table",
        "_used",
        "_used_gpa",
        "_used_words",
    )

    def __init__(self, dma: DmaSpace, layout: QueueLayout, features: RingFeatures) -> None:
        """Map the ring.

        Raises VirtqueueError when the size is not a power of two up to 32768, or a part is misaligned (2.7) or not
        in guest memory.
        """
        size = layout.size
        if not 0 < size <= MAX_QUEUE_SIZE or size & (size - 1):
            msg = f"split queue of {size} entries"
            raise VirtqueueError(msg)
        if layout.descriptor_gpa % 16 or layout.driver_gpa % 2 or layout.device_gpa % 4:
            msg = "split queue is misaligned"
            raise VirtqueueError(msg)
        super().__init__(dma, size)
        self._table = dma.map(layout.descriptor_gpa, DESCRIPTOR_BYTES * size, writable=False)
        self._avail = dma.map(layout.driver_gpa, 6 + 2 * size, writable=False).cast("H")
        used = dma.map(layout.device_gpa, 6 + 8 * size, writable=True)
        self._used_words = used.cast("H")
        self._used = used[4 : 4 + 8 * size].cast("Q")
        self._used_gpa = layout.device_gpa
        self._mask = size - 1
        self._event_index = features.event_index
        self._indirect = features.indirect
        self._next_avail = self._avail_seen = 0
        self._next_used = self.published = 0

    @property
    def position(self) -> int:
        """Available index of the next buffer: what `resume_at` takes."""
        return self._next_avail

    def resume_at(self, position: int) -> None:
        """Go on from where another device stopped: the available index, and the used index that is in the ring."""
        self._next_avail = self._avail_seen = position & 0xFFFF
        self._next_used = self.published = self._used_words[1]
        self.enable_notify()

    def unpop(self, chain: DescriptorChain) -> None:
        """Take back the most recent `pop`."""
        self._next_avail = (self._next_avail - 1) & 0xFFFF
        self._in_flight -= 1
        self.popped -= 1

    def save(self) -> RingState:
        """Available and used index."""
        return RingState(available=self._next_avail, used=self._next_used)

    def load(self, state: RingState) -> None:
        """Go on from these indexes."""
        if state.available > 0xFFFF or state.used > 0xFFFF:
            msg = "split queue: an index of more than 16 bits"
            raise VirtqueueError(msg)
        self._next_avail = self._avail_seen = state.available
        self._next_used = self.published = state.used

    def pop(self) -> DescriptorChain | None:
        """The next available buffer (2.7.6), or None; VirtqueueError when the driver broke the ring's rules."""
        position = self._next_avail
        if position == self._avail_seen:
            available = self._avail[1]
            if available == position:
                return None
            if (available - position) & 0xFFFF > self.size:
                msg = f"available index went from {position} to {available} in a ring of {self.size}"
                raise VirtqueueError(msg)
            self._avail_seen = available
        if self._in_flight >= self.size:
            msg = f"more than {self.size} buffers are outstanding"
            raise VirtqueueError(msg)
        head = self._avail[2 + (position & self._mask)]
        if head > self._mask:
            msg = f"available ring names descriptor {head} of {self.size}"
            raise VirtqueueError(msg)
        address, length, flags, following = _DESCRIPTOR.unpack_from(self._table, head << 4)
        if flags & _INDIRECT:
            descriptors = self._indirect_table(address, length, flags)
        elif flags & _NEXT:
            descriptors = self._walk(self._table, self.size, (address, length, flags, following))
        else:
            descriptors = [(address, length, flags)]
        chain = self._dma.resolve(head, 1, descriptors)
        self._next_avail = (position + 1) & 0xFFFF
        self._in_flight += 1
        self.popped += 1
        return chain

    def pop_room(self, wanted_bytes: int, limit: int) -> list[DescriptorChain]:
        """As the base class's; buffers of one part, as network drivers offer them, without a call for each."""
        found: list[DescriptorChain] = []
        available = self._avail[1]
        position = self._next_avail
        count = (available - position) & 0xFFFF
        if count > self.size - self._in_flight:
            # The driver broke a rule, which `pop` will find.
            return super().pop_room(wanted_bytes, limit)
        self._avail_seen = available
        count = min(count, limit)
        table, avail, mask = self._table, self._avail, self._mask
        unpack = _DESCRIPTOR.unpack_from
        start, end, view = self._dma.window()
        while count and wanted_bytes > 0:
            head = avail[2 + (position & mask)]
            if head > mask:
                break
            gpa, length, flags, _ = unpack(table, head << 4)
            if flags != _WRITE or gpa < start or gpa + length > end or not length:
                break
            offset = gpa - start
            found.append(DescriptorChain(head, 1, [], [view[offset : offset + length]], 0, length, [(gpa, length)]))
            wanted_bytes -= length
            position = (position + 1) & 0xFFFF
            count -= 1
        self._next_avail = position
        self._in_flight += len(found)
        self.popped += len(found)
        if count and wanted_bytes > 0:
            found += super().pop_room(wanted_bytes, limit - len(found))
        return found

    def push_filled(self, chains: Sequence[DescriptorChain], length: int) -> None:
        """As the base class's."""
        used, mask, position = self._used, self._mask, self._next_used
        for chain in chains:
            size = min(chain.writable_bytes, length)
            used[position & mask] = chain.head | size << 32
            position += 1
            length -= size
        self._next_used = position & 0xFFFF
        self._in_flight -= len(chains)

    def walk(self, walked: WalkedQueue, kind: str) -> tuple[int, int]:
        """Have the engine serve the queue; its status, and whether the driver wants an interrupt."""
        self._next_avail, self._next_used, self.published, _, status, served, wants = walked.run(
            kind, self._next_avail, self._next_used, self.published, self._in_flight
        )
        self._avail_seen = self._next_avail
        self.popped += served
        return status, wants

    @property
    def stands(self) -> tuple[int, int, int]:
        """Available index, used index, and the used index that the driver knows."""
        return self._next_avail, self._next_used, self.published

    def taken_back(self, next_avail: int, next_used: int, published: int) -> None:
        """The engine served the queue by itself, up to here."""
        self._next_avail = self._avail_seen = next_avail
        self._next_used, self.published = next_used, published

    def _walk(
        self, table: memoryview | bytes, entries: int, first: tuple[int, int, int, int]
    ) -> list[tuple[int, int, int]]:
        """Follow `next` from `first`; VirtqueueError on a loop, an index outside `table`, or a nested table."""
        address, length, flags, following = first
        descriptors = [(address, length, flags)]
        limit = min(entries, MAX_CHAIN_DESCRIPTORS)
        unpack = _DESCRIPTOR.unpack_from
        while flags & _NEXT:
            if following >= entries:
                msg = f"descriptor names {following} of {entries} as its next"
                raise VirtqueueError(msg)
            if len(descriptors) >= limit:
                msg = "descriptor chain loops or is too long"
                raise VirtqueueError(msg)
            address, length, flags, following = unpack(table, following << 4)
            if flags & _INDIRECT:
                if table is not self._table:
                    msg = "indirect descriptor inside an indirect table"
                    raise VirtqueueError(msg)
                # 2.7.5.3.1 forbids both flags in one descriptor, not a table as the last part of a chain.
                descriptors += self._indirect_table(address, length, flags)
                if len(descriptors) > MAX_CHAIN_DESCRIPTORS:
                    msg = "descriptor chain is too long"
                    raise VirtqueueError(msg)
                return descriptors
            descriptors.append((address, length, flags))
        return descriptors

    def _indirect_table(self, address: int, length: int, flags: int) -> list[tuple[int, int, int]]:
        """Descriptors of an indirect table (2.7.5.3); VirtqueueError when it may not be, or is malformed."""
        if not self._indirect:
            msg = "indirect descriptor was not negotiated"
            raise VirtqueueError(msg)
        if flags & _NEXT:
            msg = "indirect descriptor with a next one"
            raise VirtqueueError(msg)
        table = self._dma.snapshot_table(address, length)
        first = _DESCRIPTOR.unpack_from(table, 0)
        if first[2] & _INDIRECT:
            msg = "indirect descriptor inside an indirect table"
            raise VirtqueueError(msg)
        return self._walk(table, length >> 4, first)

    def push(self, chain: DescriptorChain, written_bytes: int) -> None:
        """Put a buffer into the used ring (2.7.8); the driver sees it after `flush`."""
        self._used[self._next_used & self._mask] = chain.head | written_bytes << 32
        self._next_used = (self._next_used + 1) & 0xFFFF
        self._in_flight -= 1

    def flush(self) -> bool:
        """Advance the used index; whether to interrupt (2.7.7)."""
        new, old = self._next_used, self.published
        if new == old:
            return False
        self._used_words[1] = new
        self.published = new
        count = (new - old) & 0xFFFF
        first = old & self._mask
        if first + count <= self.size:
            self._dma.mark_written(self._used_gpa, 4 + 8 * (first + count))
        else:
            self._dma.mark_written(self._used_gpa, 6 + 8 * self.size)
        self._full_barrier()
        if self._event_index:
            event = self._avail[2 + self.size]
            return (new - event - 1) & 0xFFFF < count
        return not self._avail[0] & AVAIL_NO_INTERRUPT

    def wants_interrupt(self, since: int) -> bool:
        """By `used_event` or the flag, as they are now (2.7.7)."""
        self._full_barrier()
        if self._event_index:
            event = self._avail[2 + self.size]
            return (self.published - event - 1) & 0xFFFF < (self.published - since) & 0xFFFF
        return not self._avail[0] & AVAIL_NO_INTERRUPT

    def published_since(self, since: int) -> int:
        """Entries of the used ring."""
        return (self.published - since) & 0xFFFF

    def disable_notify(self) -> None:
        """Set the used ring's flag; with the event index, nothing need be done (2.7.10)."""
        if not self._event_index:
            self._used_words[0] = USED_NO_NOTIFY
            self._dma.mark_dirty(self._used_gpa, 2)

    def enable_notify(self) -> bool:
        """Ask for a kick at the next buffer; whether one is there already."""
        if self._event_index:
            self._used_words[2 + 4 * self.size] = self._next_avail
            self._dma.mark_dirty(self._used_gpa + 4 + 8 * self.size, 2)
        else:
            self._used_words[0] = 0
            self._dma.mark_dirty(self._used_gpa, 2)
        self._full_barrier()
        return self._avail[1] != self._next_avail
