"""What every kind of virtqueue offers a device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

from pyhyve.state.record import U32, record

if TYPE_CHECKING:
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

    __slots__ = ("_barrier", "_dma", "_in_flight", "popped", "size")

    def __init__(self, dma: DmaSpace, size: int) -> None:
        self.size = size
        self._dma = dma
        self._in_flight = 0
        self.popped = 0
        """Buffers taken since the queue was set up."""
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
    def disable_notify(self) -> None:
        """Tell the driver that kicks are not needed: the queue is being worked on."""

    @abstractmethod
    def enable_notify(self) -> bool:
        """Ask for kicks again; whether buffers are there already, so that no kick may come."""
