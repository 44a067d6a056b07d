"""Tap interfaces with a virtio-net header (Linux `tun`, Documentation/networking/tuntap.rst).

One descriptor per queue; checksums and segmentation are left to whoever needs them, and packets move between the
kernel and guest memory in one `readv` or `writev`.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path
from struct import pack, unpack
from typing import TYPE_CHECKING

from pyhyve.backends.ioloop import EXCLUSIVE, READABLE
from pyhyve.backends.net import NetError, Offload

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyhyve.backends.ioloop import IoLoop

# <linux/if_tun.h>
_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_TUNGETIFF = 0x800454D2
_TUNSETVNETHDRSZ = 0x400454D8
_TUNSETQUEUE = 0x400454D9
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_IFF_MULTI_QUEUE = 0x0100
_IFF_ATTACH_QUEUE = 0x0200
_IFF_DETACH_QUEUE = 0x0400
_TUN_F_CSUM = 0x01
_TUN_F_TSO4 = 0x02
_TUN_F_TSO6 = 0x04
_TUN_F_TSO_ECN = 0x08
_TUN_F_UFO = 0x10

_TUN_FLAGS = {
    Offload.CSUM: _TUN_F_CSUM,
    Offload.TSO4: _TUN_F_TSO4,
    Offload.TSO6: _TUN_F_TSO6,
    Offload.ECN: _TUN_F_TSO_ECN,
    Offload.UFO: _TUN_F_UFO,
}
_CLONE_DEVICE = "/dev/net/tun"
_NAME_BYTES = 15
_HEADER_BYTES = 12


def _explain(name: str, error: OSError) -> str:
    """One line that says why a tap could not be opened, and what helps."""
    match error.errno:
        case errno.EPERM | errno.EACCES:
            return (
                f"tap {name}: no permission (run as root, have an administrator create it for you with "
                f"`ip tuntap add {name} mode tap user $USER vnet_hdr`, or use --net user)"
            )
        case errno.ENOENT | errno.ENODEV | errno.ENXIO:
            return f"tap {name}: {_CLONE_DEVICE} is missing (load the kernel module `tun`, or use --net user)"
        case errno.EBUSY:
            return f"tap {name}: already in use by another machine"
        case errno.EINVAL:
            return f"tap {name}: exists with other settings (not a tap, or with or without several queues)"
        case _:
            return f"tap {name}: {error.strerror or error}"


class Tap:
    """A tap interface, created if it does not exist (then it vanishes with the last descriptor)."""

    def __init__(self, name: str, *, queues: int = 1, descriptors: Sequence[int] = ()) -> None:
        """Open `name` with `queues` descriptors, or take over those that are given; raises NetError."""
        if not name or len(name.encode()) > _NAME_BYTES or "/" in name or name in {".", ".."}:
            msg = f"tap {name!r}: not an interface name (1 to {_NAME_BYTES} bytes)"
            raise NetError(msg)
        self.name = name
        self.vhost: bool | None = None
        """Whether the kernel shall move the packets (vhost-net); None: where it can."""
        self.vhost_fds: list[int] = []
        """Descriptors of vhost-net that were passed to us, for whoever uses it."""
        self._fds: list[int] = []
        self._active = queues
        self._loop: IoLoop | None = None
        self._on_readable: Callable[[int], None] | None = None
        try:
            if descriptors:
                self._take(descriptors)
            else:
                self._fds.extend(_open_queue(name, several=queues > 1) for _ in range(queues))
            self.set_header_bytes(_HEADER_BYTES)
        except OSError as error:
            self.close()
            raise NetError(_explain(name, error)) from error
        except NetError:
            self.close()
            raise
        self._offloads = self._probe_offloads()

    @classmethod
    def adopt(cls, fds: Sequence[int]) -> Tap:
        """A tap whose descriptors, one for each queue, somebody else opened; takes them over, raises NetError."""
        return cls("fd", queues=len(fds), descriptors=fds)

    def _take(self, fds: Sequence[int]) -> None:
        """Take over descriptors that are open; raises OSError and NetError."""
        self._fds = list(fds)
        for fd in fds:
            name, flags = unpack("=16sH22x", fcntl.ioctl(fd, _TUNGETIFF, bytes(40)))
            self.name = name.rstrip(b"\0").decode(errors="replace")
            if not flags & _IFF_TAP or not flags & _IFF_VNET_HDR:
                msg = f"tap {self.name}: its descriptor was opened without IFF_TAP or IFF_VNET_HDR"
                raise NetError(msg)
            os.set_blocking(fd, False)

    @property
    def fds(self) -> tuple[int, ...]:
        """The descriptors, one for each pair of queues."""
        return tuple(self._fds)

    @property
    def queues(self) -> int:
        """Pairs of queues."""
        return len(self._fds)

    @property
    def offloads(self) -> Offload:
        """What this kernel's tun driver takes."""
        return self._offloads

    def _probe_offloads(self) -> Offload:
        """Find what TUNSETOFFLOAD accepts, most first; leaves everything off."""
        base = Offload.CSUM | Offload.TSO4 | Offload.TSO6 | Offload.ECN
        for candidate in (base | Offload.UFO, base, Offload.CSUM):
            with suppress(OSError):
                self._apply_offloads(candidate)
                self._apply_offloads(Offload.NONE)
                return candidate
        return Offload.NONE

    def _apply_offloads(self, offloads: Offload) -> None:
        flags = sum(flag for offload, flag in _TUN_FLAGS.items() if offload in offloads)
        for fd in self._fds:
            fcntl.ioctl(fd, _TUNSETOFFLOAD, flags)

    def start(self, loop: IoLoop, on_readable: Callable[[int], None], on_writable: Callable[[int], None]) -> None:
        """Serve on `loop`; a tap never stalls on writing."""
        self._loop, self._on_readable = loop, on_readable

    def set_header_bytes(self, count: int) -> None:
        """Set the kernel's idea of the header; raises OSError where it is refused."""
        for fd in self._fds:
            fcntl.ioctl(fd, _TUNSETVNETHDRSZ, pack("=i", count))

    def set_offloads(self, offloads: Offload) -> None:
        """What the kernel may leave undone in packets towards the guest."""
        with suppress(OSError):
            self._apply_offloads(offloads & self._offloads)

    def set_active_queues(self, count: int) -> None:
        """Detach the queues from `count` on, so that the kernel steers no packets there."""
        if self.queues == 1:
            return
        for index, fd in enumerate(self._fds):
            if (index < count) != (index < self._active):
                flag = _IFF_ATTACH_QUEUE if index < count else _IFF_DETACH_QUEUE
                with suppress(OSError):
                    fcntl.ioctl(fd, _TUNSETQUEUE, _ifreq("", flag))
        self._active = count

    def set_reading(self, queue: int, *, enabled: bool) -> None:
        """Watch the queue's descriptor, or stop."""
        loop, callback = self._loop, self._on_readable
        if loop is None or callback is None or queue >= len(self._fds):
            return
        if enabled:
            # Exclusive, and so after all who watch it already: a vCPU that sleeps takes a packet before this thread.
            loop.watch(self._fds[queue], READABLE | EXCLUSIVE, lambda _events: callback(queue))
        else:
            loop.unwatch(self._fds[queue])

    def packet_fd(self, queue: int) -> int:
        """The queue's descriptor: one read or write of it is one packet, header included."""
        return self._fds[queue]

    def send(self, queue: int, views: Sequence[memoryview], length: int) -> bool:
        """One packet in one `writev`; what the kernel refuses (a bad header, link down) is dropped."""
        with suppress(OSError):
            os.writev(self._fds[queue], views)
        return True

    def receive(self, queue: int, views: Sequence[memoryview]) -> int:
        """One packet in one `readv`."""
        try:
            return os.readv(self._fds[queue], views)
        except OSError:
            return 0

    def close(self) -> None:
        """Close the descriptors; idempotent."""
        for fd in self._fds:
            if self._loop is not None:
                self._loop.unwatch(fd)
            os.close(fd)
        for fd in self.vhost_fds:
            os.close(fd)
        self.vhost_fds = []
        self._fds = []


def _ifreq(name: str, flags: int) -> bytes:
    """`struct ifreq` with a name and flags."""
    return pack("=16sH22x", name.encode(), flags)


def _open_queue(name: str, *, several: bool) -> int:
    """One descriptor of tap `name`; raises OSError."""
    fd = os.open(_CLONE_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR | (_IFF_MULTI_QUEUE if several else 0)
        fcntl.ioctl(fd, _TUNSETIFF, _ifreq(name, flags))
    except OSError:
        os.close(fd)
        raise
    return fd


def interface_mtu(name: str) -> int | None:
    """MTU of a host interface, if it is there."""
    try:
        return int(Path(f"/sys/class/net/{name}/mtu").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
