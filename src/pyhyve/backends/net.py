"""What a network device sends to and receives from. No packet is interpreted here.

A packet crosses this seam as views that hold a virtio-net header (`header_bytes` long) and an Ethernet frame, so that
a tap moves both between kernel and guest memory in one system call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from pyhyve.support.enums import IntFlag
from pyhyve.support.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyhyve.backends.ioloop import IoLoop

MAX_FRAME_BYTES = 65535 + 14 + 4
"""Longest frame: a segmentation-offloaded packet of 64 KiB with Ethernet and VLAN headers."""


class NetError(UserError):
    """A network backend that cannot be set up; one line for the user."""


class Offload(IntFlag):
    """Work on packets that a backend takes over from the guest, or may leave to it."""

    NONE = 0
    CSUM = 1
    TSO4 = 2
    TSO6 = 4
    ECN = 8
    UFO = 16


class NetBackend(Protocol):
    """The host's end of a network card. Calls come from any thread, one at a time; what it calls runs on the loop."""

    @property
    def queues(self) -> int:
        """Pairs of queues."""

    @property
    def offloads(self) -> Offload:
        """What it can do for packets the guest sends, and leave undone in packets it receives."""

    def start(self, loop: IoLoop, on_readable: Callable[[int], None], on_writable: Callable[[int], None]) -> None:
        """Serve on `loop`: `on_readable(queue)` when packets wait and reading is on, `on_writable` after a stall."""

    def set_header_bytes(self, count: int) -> None:
        """Length of the virtio-net header in front of each frame: 12, or 10 for a legacy driver."""

    def set_offloads(self, offloads: Offload) -> None:
        """What packets towards the guest may leave undone."""

    def set_active_queues(self, count: int) -> None:
        """Use the first `count` pairs only."""

    def set_reading(self, queue: int, *, enabled: bool) -> None:
        """Call `on_readable` for `queue`, or not while the guest has no buffers.

        Who watches the descriptors of `PacketDescriptors` when it is enabled has precedence.
        """

    def send(self, queue: int, views: Sequence[memoryview], length: int) -> bool:
        """Send header and frame of `length` bytes together; False means not now: `on_writable` will follow.

        What the network refuses is dropped, as on a wire.
        """

    def receive(self, queue: int, views: Sequence[memoryview]) -> int:
        """Put header and frame of one packet into `views`; their length, 0 when no packet waits."""

    def close(self) -> None:
        """Release; idempotent."""


@runtime_checkable
class PacketDescriptors(Protocol):
    """A backend whose packets also pass through descriptors, without it."""

    def packet_fd(self, queue: int) -> int:
        """One read or write of this descriptor, which never waits, is one packet with its header."""
