"""The driver's side of virtqueues: what a guest kernel does, in Python, so that devices run without a guest.

`DriverQueue` is one ring (split or packed) in guest memory; `VirtioDriver` negotiates through a `DriverTransport`
and owns the queues.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from struct import Struct, pack_into, unpack_from
from typing import TYPE_CHECKING, Protocol

from pyhyve.devices.virtio.queue import QueueLayout
from pyhyve.devices.virtio.spec import DescFlag, EventFlag, Feature, Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyhyve.memory.guest import GuestMemory

_DESCRIPTOR = Struct("<QIHH")


class DriverError(Exception):
    """The device did not behave as a driver expects."""


class GuestAllocator:
    """Hands out guest memory from a region, in order."""

    def __init__(self, memory: GuestMemory, start: int, end: int) -> None:
        self.memory = memory
        self._next = start
        self._end = end

    def allocate(self, size_bytes: int, align: int = 16) -> int:
        """Guest physical address of fresh zeroed memory; MemoryError when the region is used up."""
        gpa = -(-self._next // align) * align
        if gpa + size_bytes > self._end:
            msg = f"no room for {size_bytes} bytes of guest memory"
            raise MemoryError(msg)
        self._next = gpa + size_bytes
        # A device may look at a ring as soon as it is enabled: what an earlier owner left there would be taken for
        # buffers of this one.
        self.memory.view(gpa, size_bytes)[:] = bytes(size_bytes)
        return gpa

    def rewind(self, mark: int) -> None:
        """Hand out again what was allocated since `mark` was read from `position`."""
        self._next = mark

    @property
    def position(self) -> int:
        """Where the next allocation starts at the earliest."""
        return self._next


@dataclass(frozen=True, slots=True)
class Segment:
    """A buffer's part: guest physical address, length, and whether the device writes it."""

    gpa: int
    length: int
    is_write: bool


@dataclass(frozen=True, slots=True)
class Used:
    """A buffer the device gave back: the token of `DriverQueue.add` and the bytes it says it wrote."""

    token: int
    written_bytes: int


class DriverTransport(Protocol):
    """A driver's access to one device: registers in, interrupts counted."""

    legacy: bool

    def read_features(self) -> int:
        """Features the device offers."""

    def write_features(self, features: int) -> None:
        """Features the driver accepts."""

    def read_status(self) -> int:
        """Device status."""

    def write_status(self, status: int) -> None:
        """Set device status; 0 resets."""

    def queue_max_size(self, index: int) -> int:
        """Largest size of a queue, 0 when there is none."""

    def enable_queue(self, index: int, layout: QueueLayout) -> None:
        """Hand a ring to the device."""

    def reset_queue(self, index: int) -> None:
        """Take a ring back (RING_RESET)."""

    def notify(self, index: int) -> None:
        """Kick a queue."""

    def read_config(self, offset: int, size: int) -> int:
        """Device configuration space."""

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Device configuration space."""


class DriverQueue(ABC):
    """One ring. `indirect` puts each buffer of several parts into a table of its own."""

    def __init__(self, allocator: GuestAllocator, size: int, *, event_index: bool, indirect: bool) -> None:
        self.memory = allocator.memory
        self.size = size
        self.event_index = event_index
        self.indirect = indirect
        self._allocator = allocator
        self._tables: dict[int, int] = {}
        self.layout: QueueLayout

    def _store(self, gpa: int, data: bytes) -> None:
        self.memory.view(gpa, len(data))[:] = data

    def _load(self, gpa: int, form: str) -> int:
        return int(unpack_from(form, self.memory.view(gpa, 8))[0])

    def _indirect_table(self, slot: int, segments: Sequence[Segment], *, linked: bool) -> tuple[int, int]:
        """Write a table for `segments`; its address and length."""
        gpa = self._tables.get(slot)
        if gpa is None or len(segments) > 64:
            gpa = self._tables[slot] = self._allocator.allocate(16 * max(64, len(segments)))
        last = len(segments) - 1
        for i, segment in enumerate(segments):
            flags = int(DescFlag.WRITE) if segment.is_write else 0
            if linked and i < last:
                flags |= DescFlag.NEXT
            following = i + 1 if linked and i < last else 0
            fields = (
                (segment.gpa, segment.length, flags, following) if linked else (segment.gpa, segment.length, 0, flags)
            )
            self._store(gpa + 16 * i, _DESCRIPTOR.pack(*fields))
        return gpa, 16 * len(segments)

    @abstractmethod
    def add(self, segments: Sequence[Segment]) -> int:
        """Make a buffer available; its token. DriverError when the ring is full."""

    @abstractmethod
    def poll(self) -> Used | None:
        """The next used buffer, if any."""

    @abstractmethod
    def needs_kick(self) -> bool:
        """Whether the device wants to be told of the buffers added since the last call."""

    @abstractmethod
    def set_interrupts(self, *, enabled: bool) -> None:
        """Ask for an interrupt at the next used buffer, or for none."""


class SplitDriverQueue(DriverQueue):
    """The driver's side of a split ring."""

    def __init__(self, allocator: GuestAllocator, size: int, *, event_index: bool, indirect: bool) -> None:
        super().__init__(allocator, size, event_index=event_index, indirect=indirect)
        self.table = allocator.allocate(16 * size, 4096)
        self.avail = allocator.allocate(6 + 2 * size, 2)
        self.used = allocator.allocate(6 + 8 * size, 4096)
        self.layout = QueueLayout(size, self.table, self.avail, self.used)
        self._free = list(range(size - 1, -1, -1))
        self._chains: dict[int, list[int]] = {}
        self.available = self._kicked = self.seen = 0

    def add(self, segments: Sequence[Segment]) -> int:
        """Link descriptors (or one to a table) and put their head into the available ring."""
        use_table = self.indirect and len(segments) > 1
        count = 1 if use_table else len(segments)
        if count > len(self._free):
            msg = "the ring is full"
            raise DriverError(msg)
        indices = [self._free.pop() for _ in range(count)]
        head = indices[0]
        if use_table:
            gpa, length = self._indirect_table(head, segments, linked=True)
            self.write_descriptor(head, gpa, length, DescFlag.INDIRECT, 0)
        else:
            for i, segment in enumerate(segments):
                flags = int(DescFlag.WRITE) if segment.is_write else 0
                following = 0
                if i + 1 < count:
                    flags |= DescFlag.NEXT
                    following = indices[i + 1]
                self.write_descriptor(indices[i], segment.gpa, segment.length, flags, following)
        self._chains[head] = indices
        self.publish(head)
        return head

    def write_descriptor(self, index: int, gpa: int, length: int, flags: int, following: int) -> None:
        """Store one descriptor, right or wrong."""
        self._store(self.table + 16 * index, _DESCRIPTOR.pack(gpa, length, flags, following))

    def publish(self, head: int) -> None:
        """Put `head` into the available ring."""
        self._store(self.avail + 4 + 2 * (self.available % self.size), head.to_bytes(2, "little"))
        self.available = (self.available + 1) & 0xFFFF
        self._store(self.avail + 2, self.available.to_bytes(2, "little"))

    def poll(self) -> Used | None:
        """Take the next entry of the used ring and free its descriptors."""
        if self._load(self.used + 2, "<H") == self.seen:
            return None
        token, written = unpack_from("<II", self.memory.view(self.used + 4 + 8 * (self.seen % self.size), 8))
        self.seen = (self.seen + 1) & 0xFFFF
        if self.event_index:
            self.set_interrupts(enabled=True)
        if token not in self._chains:
            msg = f"the device used buffer {token}, which is not outstanding"
            raise DriverError(msg)
        self._free += self._chains.pop(token)
        return Used(token, written)

    def needs_kick(self) -> bool:
        """By `avail_event`, or the used ring's flag."""
        old, self._kicked = self._kicked, self.available
        if self.event_index:
            event = self._load(self.used + 4 + 8 * self.size, "<H")
            return (self.available - event - 1) & 0xFFFF < (self.available - old) & 0xFFFF
        return not self._load(self.used, "<H") & 1

    def set_interrupts(self, *, enabled: bool) -> None:
        """By `used_event`, or the available ring's flag."""
        if self.event_index:
            event = self.seen if enabled else (self.seen - 1) & 0xFFFF
            self._store(self.avail + 4 + 2 * self.size, event.to_bytes(2, "little"))
        else:
            self._store(self.avail, (not enabled).to_bytes(2, "little"))


class PackedDriverQueue(DriverQueue):
    """The driver's side of a packed ring."""

    def __init__(self, allocator: GuestAllocator, size: int, *, event_index: bool, indirect: bool) -> None:
        super().__init__(allocator, size, event_index=event_index, indirect=indirect)
        self.ring = allocator.allocate(16 * size, 4096)
        self.driver_event = allocator.allocate(4, 4)
        self.device_event = allocator.allocate(4, 4)
        self.layout = QueueLayout(size, self.ring, self.driver_event, self.device_event)
        self._ids = list(range(size - 1, -1, -1))
        self._slots: dict[int, int] = {}
        self._room = size
        self.next = self._kicked = self.used_next = 0
        """Positions from the start of the ring's life; position // size has the wrap counter's parity."""

    def _wrap(self, position: int) -> bool:
        return not position // self.size & 1

    def add(self, segments: Sequence[Segment]) -> int:
        """Write descriptors in ring order, the first one's flags last."""
        use_table = self.indirect and len(segments) > 1
        count = 1 if use_table else len(segments)
        if count > self._room:
            msg = "the ring is full"
            raise DriverError(msg)
        token = self._ids.pop()
        start = self.next
        entries = [(segment.gpa, segment.length, int(DescFlag.WRITE) * segment.is_write) for segment in segments]
        if use_table:
            entries = [(*self._indirect_table(token, segments, linked=False), int(DescFlag.INDIRECT))]
        for i in reversed(range(count)):
            gpa, length, flags = entries[i]
            if i + 1 < count:
                flags |= DescFlag.NEXT
            self.write_descriptor(start + i, gpa, length, token, flags)
        self.next = start + count
        self._room -= count
        self._slots[token] = count
        return token

    def write_descriptor(self, position: int, gpa: int, length: int, token: int, flags: int) -> None:
        """Store one descriptor, right or wrong, marked available."""
        flags |= DescFlag.AVAIL if self._wrap(position) else DescFlag.USED
        self._store(self.ring + 16 * (position % self.size), _DESCRIPTOR.pack(gpa, length, token, flags))

    def poll(self) -> Used | None:
        """Take the next used descriptor."""
        view = self.memory.view(self.ring + 16 * (self.used_next % self.size), 16)
        _, written, token, flags = _DESCRIPTOR.unpack(view)
        both = DescFlag.AVAIL | DescFlag.USED
        if flags & both != (both if self._wrap(self.used_next) else 0):
            return None
        if token not in self._slots:
            msg = f"the device used buffer {token}, which is not outstanding"
            raise DriverError(msg)
        count = self._slots.pop(token)
        self._ids.append(token)
        self.used_next += count
        self._room += count
        if self.event_index:
            self.set_interrupts(enabled=True)
        return Used(token, written)

    def needs_kick(self) -> bool:
        """By the device's event suppression structure."""
        old, self._kicked = self._kicked, self.next
        offset_wrap: int
        flags: int
        offset_wrap, flags = unpack_from("<HH", self.memory.view(self.device_event, 4))
        if flags == EventFlag.DESC:
            cycle = self.next // self.size
            if bool(offset_wrap >> 15) != self._wrap(self.next):
                cycle -= 1
            return old <= cycle * self.size + (offset_wrap & 0x7FFF) < self.next
        return flags == EventFlag.ENABLE

    def set_interrupts(self, *, enabled: bool) -> None:
        """By the driver's event suppression structure."""
        event = self.memory.view(self.driver_event, 4)
        if not enabled:
            pack_into("<HH", event, 0, 0, EventFlag.DISABLE)
        elif self.event_index:
            wrap = int(self._wrap(self.used_next)) << 15
            pack_into("<HH", event, 0, self.used_next % self.size | wrap, EventFlag.DESC)
        else:
            pack_into("<HH", event, 0, 0, EventFlag.ENABLE)


class VirtioDriver:
    """Brings a device up as section 3.1.1 says, and runs buffers through its queues."""

    def __init__(self, transport: DriverTransport, allocator: GuestAllocator) -> None:
        self.transport = transport
        self.allocator = allocator
        self.features = 0
        self.queues: list[DriverQueue] = []

    def start(self, features: int | None = None, *, queue_size: int | None = None) -> None:
        """Negotiate `features` (default: all offered) and enable every queue; DriverError when refused."""
        transport = self.transport
        transport.write_status(0)
        transport.write_status(Status.ACKNOWLEDGE)
        transport.write_status(Status.ACKNOWLEDGE | Status.DRIVER)
        offered = transport.read_features()
        self.features = offered if features is None else features
        transport.write_features(self.features)
        status = Status.ACKNOWLEDGE | Status.DRIVER
        if not transport.legacy:
            status |= Status.FEATURES_OK
            transport.write_status(status)
            if not transport.read_status() & Status.FEATURES_OK:
                msg = f"the device refused features {self.features:#x}"
                raise DriverError(msg)
        self.queues = []
        index = 0
        while size := transport.queue_max_size(index):
            queue = self.make_queue(min(size, queue_size or size))
            self.queues.append(queue)
            transport.enable_queue(index, queue.layout)
            index += 1
        transport.write_status(status | Status.DRIVER_OK)

    def make_queue(self, size: int) -> DriverQueue:
        """A ring of the negotiated kind."""
        kind = PackedDriverQueue if self.features & Feature.RING_PACKED else SplitDriverQueue
        queue = kind(
            self.allocator,
            size,
            event_index=bool(self.features & Feature.EVENT_IDX),
            indirect=bool(self.features & Feature.INDIRECT_DESC),
        )
        if self.transport.legacy and isinstance(queue, SplitDriverQueue):
            # A legacy ring is one piece (2.7.2): lay it out anew.
            gpa = self.allocator.allocate(16 * size + 6 + 2 * size + 4096 + 6 + 8 * size, 4096)
            queue.table, queue.avail = gpa, gpa + 16 * size
            queue.used = -(-(queue.avail + 6 + 2 * size) // 4096) * 4096
            queue.layout = QueueLayout(size, queue.table, queue.avail, queue.used, legacy=True)
        return queue

    def buffer(self, data: bytes | int, align: int = 16) -> Segment:
        """A part in fresh guest memory: device-readable with `data` in it, or device-writable of that length."""
        if isinstance(data, int):
            return Segment(self.allocator.allocate(data, align), data, is_write=True)
        gpa = self.allocator.allocate(len(data), align)
        self.allocator.memory.view(gpa, len(data))[:] = data
        return Segment(gpa, len(data), is_write=False)

    def submit(self, index: int, segments: Sequence[Segment]) -> int:
        """Add a buffer and kick if the device wants it; the token."""
        token = self.queues[index].add(segments)
        if self.queues[index].needs_kick():
            self.transport.notify(index)
        return token

    def read(self, segment: Segment) -> bytes:
        """What is in a part now."""
        return self.allocator.memory.read(segment.gpa, segment.length)
