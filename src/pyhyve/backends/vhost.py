"""Vhost back ends: who moves a card's packets in place of the device model, once that has set the rings up.

`VhostBackend` is what the device asks of one; `KernelVhostNet` is the kernel's vhost-net over a tap. A vhost-user back
end (another process) would be one more: it takes the same steps as messages, and memory as descriptors, which
`GuestMemory(shared=True)` has.

Numbers and structures: Linux `include/uapi/linux/vhost.h`, `vhost_types.h`; a test compares them with the headers.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, Protocol

from pyhyve.backends.net import NetError
from pyhyve.support.enums import IntEnum

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyhyve.memory.guest import MemoryRegion

VHOST_NET_DEVICE = "/dev/vhost-net"
QUEUES_PER_PAIR = 2


class Ioctl(IntEnum):
    """Requests, without their `VHOST_` prefix."""

    GET_FEATURES = 0x8008AF00
    SET_FEATURES = 0x4008AF00
    SET_OWNER = 0xAF01
    SET_MEM_TABLE = 0x4008AF03
    SET_VRING_NUM = 0x4008AF10
    SET_VRING_ADDR = 0x4028AF11
    SET_VRING_BASE = 0x4008AF12
    GET_VRING_BASE = 0xC008AF12
    SET_VRING_KICK = 0x4008AF20
    SET_VRING_CALL = 0x4008AF21
    NET_SET_BACKEND = 0x4008AF30


FEATURES = Struct("<Q")
VRING_STATE = Struct("<II")
"""`vhost_vring_state`: index, number."""
VRING_FILE = Struct("<Ii")
"""`vhost_vring_file`: index, descriptor (-1 for none)."""
VRING_ADDR = Struct("<IIQQQQ")
"""`vhost_vring_addr`: index, flags, descriptor table, used ring, available ring, log address."""
MEMORY_HEAD = Struct("<II")
MEMORY_REGION = Struct("<QQQQ")
"""`vhost_memory_region`: guest address, size, our address, flags."""


@dataclass(frozen=True, slots=True)
class Vring:
    """One split ring, at addresses of this process; `base` is the available index to begin at."""

    size: int
    descriptors_hva: int
    available_hva: int
    used_hva: int
    base: int
    kick_fd: int
    call_fd: int


class VhostBackend(Protocol):
    """What moves the packets of a card's data queues. One thread at a time calls it."""

    features: int
    """Feature bits that concern rings and packets, as the back end offers them."""

    def prepare(self, features: int, regions: Sequence[MemoryRegion]) -> None:
        """Take the negotiated features and guest memory; before the first `start`. Raises NetError."""

    def start(self, queue: int, ring: Vring) -> None:
        """Serve a queue from now on. Raises NetError."""

    def stop(self, queue: int) -> int:
        """Serve it no longer, and return when nothing is under way: the available index that was reached."""

    def close(self) -> None:
        """Give everything up; idempotent."""


class KernelVhostNet:
    """The kernel's vhost-net, one descriptor for each pair of queues, over the descriptors of a tap."""

    def __init__(
        self,
        tap_fds: Sequence[int],
        *,
        fds: Sequence[int] = (),
        device: str = VHOST_NET_DEVICE,
        ioctl: Callable[..., int] = fcntl.ioctl,
    ) -> None:
        """Open `device` for every pair, or take over `fds`, which are. Raises NetError, which says what helps."""
        self._ioctl = ioctl
        self._tap_fds = tuple(tap_fds)
        self._fds = list(fds)
        try:
            while len(self._fds) < len(self._tap_fds):
                self._fds.append(os.open(device, os.O_RDWR | os.O_CLOEXEC))
            for fd in self._fds:
                self._call("SET_OWNER", fd, Ioctl.SET_OWNER)
            answer = bytearray(FEATURES.size)
            self._call("GET_FEATURES", self._fds[0], Ioctl.GET_FEATURES, answer)
        except OSError as error:
            self.close()
            msg = f"vhost-net: {device}: {error.strerror or error} (load the kernel module vhost_net, and be root)"
            raise NetError(msg) from error
        (self.features,) = FEATURES.unpack(answer)

    def _call(self, name: str, fd: int, request: Ioctl, argument: bytes | bytearray | None = None) -> None:
        try:
            if argument is None:
                self._ioctl(fd, request)
            elif isinstance(argument, bytearray):
                self._ioctl(fd, request, argument, True)  # noqa: FBT003 - fill it in place
            else:
                self._ioctl(fd, request, argument)
        except OSError as error:
            raise OSError(error.errno, f"VHOST_{name}: {error.strerror}") from error

    def prepare(self, features: int, regions: Sequence[MemoryRegion]) -> None:
        """Features and memory, for every pair."""
        table = MEMORY_HEAD.pack(len(regions), 0) + b"".join(
            MEMORY_REGION.pack(region.gpa, region.size_bytes, region.hva, 0) for region in regions
        )
        try:
            for fd in self._fds:
                self._call("SET_FEATURES", fd, Ioctl.SET_FEATURES, FEATURES.pack(features & self.features))
                self._call("SET_MEM_TABLE", fd, Ioctl.SET_MEM_TABLE, table)
        except OSError as error:
            msg = f"vhost-net: {error.strerror}"
            raise NetError(msg) from error

    def start(self, queue: int, ring: Vring) -> None:
        """Set the ring up and hand it to the kernel, with the tap as its other end."""
        fd, index = self._place(queue)
        addresses = VRING_ADDR.pack(index, 0, ring.descriptors_hva, ring.used_hva, ring.available_hva, 0)
        tap = VRING_FILE.pack(index, self._tap_fds[queue // QUEUES_PER_PAIR])
        try:
            self._call("SET_VRING_NUM", fd, Ioctl.SET_VRING_NUM, VRING_STATE.pack(index, ring.size))
            self._call("SET_VRING_BASE", fd, Ioctl.SET_VRING_BASE, VRING_STATE.pack(index, ring.base))
            self._call("SET_VRING_ADDR", fd, Ioctl.SET_VRING_ADDR, addresses)
            self._call("SET_VRING_KICK", fd, Ioctl.SET_VRING_KICK, VRING_FILE.pack(index, ring.kick_fd))
            self._call("SET_VRING_CALL", fd, Ioctl.SET_VRING_CALL, VRING_FILE.pack(index, ring.call_fd))
            self._call("NET_SET_BACKEND", fd, Ioctl.NET_SET_BACKEND, tap)
        except OSError as error:
            msg = f"vhost-net: queue {queue}: {error.strerror}"
            raise NetError(msg) from error

    def stop(self, queue: int) -> int:
        """Take the tap away, which waits for what is under way, and ask how far the ring has come."""
        fd, index = self._place(queue)
        answer = bytearray(VRING_STATE.pack(index, 0))
        with suppress(OSError):  # a queue that was never started
            self._call("NET_SET_BACKEND", fd, Ioctl.NET_SET_BACKEND, VRING_FILE.pack(index, -1))
            self._call("GET_VRING_BASE", fd, Ioctl.GET_VRING_BASE, answer)
        base: int = VRING_STATE.unpack(answer)[1]
        return base

    def _place(self, queue: int) -> tuple[int, int]:
        """Descriptor, and the index of the ring there."""
        return self._fds[queue // QUEUES_PER_PAIR], queue % QUEUES_PER_PAIR

    def close(self) -> None:
        """Close the descriptors; the kernel lets go of tap and memory."""
        for fd in self._fds:
            os.close(fd)
        self._fds = []
