"""What every kind of virtqueue offers a device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

from pyhyve.state.record import U32, record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyhyve.devices.virtio.chain import DescriptorChain, DmaSpace


@dataclass(frozen=True, slots=True)
class QueueLayout:
    """Where the driver put a queue: descriptor area, driver area, device area (2.6), and their number of entries."""

    size: int
    descriptor_gpa: int
    driver_gpa: int
    device_gpa: int
    legacy: bool = False
    """The rules of 2.7.2 for a legacy driver: the parts' places follow from the first one."""


@dataclass(frozen=True, slots=True)
class RingFeatures:
    """Negotiated features that change how rings work."""

    packed: bool = False
    event_index: bool = False
    indirect: bool = False


@record
class RingState:
    """How far the device has come in a ring, with nothing in flight.

    Split: the available and the used index. Packed: the next descriptor with the wrap counter in bit 31, and the used
    position modulo twice the ring's size.
    """

    available: U32
    used: U32


class Virtqueue(ABC):
    """The device's side of one ring. Not thread-safe: the device's lock guards it.

    A batch is `disable_notify`, then `pop` and `push` in any number, then one `flush`; finally `enable_notify` says
    whether the driver added more meanwhile. Every method raises VirtqueueError when the driver broke its rules; the
    queue is then dead until it is set up anew.
    """

    __slots__ = ("_barrier", "_dma", "_in_flight", "popped", "published", "size")

    def __init__(self, dma: DmaSpace, size: int) -> None:
        self.size = size
        self._dma = dma
        self._in_flight = 0
        self.popped = 0
        """Buffers taken since the queue was set up."""
        self.published = 0
        """Where the driver has been told that the used part ends, in the ring's own way of counting."""
        self._barrier = Lock()

    @property
    def in_flight(self) -> int:
        """Ring entries popped and not yet pushed."""
        return self._in_flight

    def _full_barrier(self) -> None:
        """Order earlier stores before later loads, also against vCPU threads running compiled guest code.

        Taking a lock is a read-modify-write with sequentially consistent order on every host.
        """
        with self._barrier:
            pass

    @abstractmethod
    def pop(self) -> DescriptorChain | None:
        """The next buffer the driver made available, or None."""

    def pop_room(self, wanted_bytes: int, limit: int) -> list[DescriptorChain]:
        """Buffers until their device-writable parts have room for `wanted_bytes`, there are `limit`, or no more."""
        found: list[DescriptorChain] = []
        while wanted_bytes > 0 and len(found) < limit and (chain := self.pop()) is not None:
            found.append(chain)
            wanted_bytes -= chain.writable_bytes
        return found

    def push_filled(self, chains: Sequence[DescriptorChain], length: int) -> None:
        """Give back buffers that `length` bytes fill one after another, all but the last one in full."""
        for chain in chains:
            size = min(length, chain.writable_bytes)
            self.push(chain, size)
            length -= size

    @abstractmethod
    def unpop(self, chain: DescriptorChain) -> None:
        """Take back the most recent `pop`, which gave `chain`: the next one gives it again."""

    @abstractmethod
    def save(self) -> RingState:
        """Where the ring stands; nothing may be in flight."""

    @abstractmethod
    def load(self, state: RingState) -> None:
        """Go on from where a ring like this stood; VirtqueueError for a position that it does not have."""

    @abstractmethod
    def push(self, chain: DescriptorChain, written_bytes: int) -> None:
        """Give a buffer back with the number of bytes written to its device-writable part."""

    @abstractmethod
    def flush(self) -> bool:
        """Publish what was pushed; whether the driver wants an interrupt for it."""

    @abstractmethod
    def wants_interrupt(self, since: int) -> bool:
        """Whether the driver now wants an interrupt for what was published since `published` was `since`.

        It may have taken those buffers meanwhile without one.
        """

    @abstractmethod
    def published_since(self, since: int) -> int:
        """How much was published since `published` was `since`, in ring entries."""

    @abstractmethod
    def disable_notify(self) -> None:
        """Tell the driver that kicks are not needed: the queue is being worked on."""

    @abstractmethod
    def enable_notify(self) -> bool:
        """Ask for kicks again; whether buffers are there already, so that no kick may come."""
