"""What is behind the devices that a hostile driver meets: disks, networks and sockets that do anything they may do."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import TYPE_CHECKING

from pyhyve.backends.block import BlockError, open_backend
from pyhyve.backends.chardev import ChannelReceiver, MemoryChardev
from pyhyve.backends.net import Offload
from pyhyve.image.opening import OpenSettings, open_image

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from pyhyve.backends.block import BlockBackend
    from pyhyve.backends.ioloop import IoLoop


class Disk:
    """A small disk in memory; sometimes the host fails."""

    size_bytes = 1 << 16
    readonly = False

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._data = bytearray(self.size_bytes)

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or offset + length > self.size_bytes:
            msg = f"the device let {offset}+{length} through"
            raise AssertionError(msg)
        if self._rng.getrandbits(8) == 0:
            raise BlockError(errno.EIO, "bad luck")

    def try_read(self, views: Sequence[memoryview], offset: int, length: int) -> bool:
        if length != sum(map(len, views)):
            msg = "length and views differ"
            raise AssertionError(msg)
        if self._rng.getrandbits(6) == 0:
            return False
        for view in views:
            view[:] = self._data[offset : offset + len(view)]
            offset += len(view)
        return True

    def read(self, views: Sequence[memoryview], offset: int) -> None:
        self._check(offset, sum(map(len, views)))

    def write(self, views: Sequence[memoryview], offset: int) -> None:
        self._check(offset, sum(map(len, views)))
        for view in views:
            self._data[offset : offset + len(view)] = view
            offset += len(view)

    def flush(self) -> None:
        self._check(0, 0)

    def discard(self, offset: int, length: int) -> None:
        self._check(offset, length)

    def write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        self._check(offset, length)

    def close(self) -> None:
        pass


class Net:
    """A network with always one more packet, that sometimes stalls."""

    queues = 2
    offloads = Offload.CSUM | Offload.TSO4 | Offload.TSO6 | Offload.ECN

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._left = 0
        self.readable: Callable[[int], None] = lambda _queue: None
        self.writable: Callable[[int], None] = lambda _queue: None

    def start(self, loop: IoLoop, on_readable: Callable[[int], None], on_writable: Callable[[int], None]) -> None:
        self.readable, self.writable = on_readable, on_writable

    def set_header_bytes(self, count: int) -> None:
        pass

    def set_offloads(self, offloads: Offload) -> None:
        pass

    def set_active_queues(self, count: int) -> None:
        pass

    def set_reading(self, queue: int, *, enabled: bool) -> None:
        pass

    def send(self, queue: int, views: Sequence[memoryview], length: int) -> bool:
        if length != sum(map(len, views)) or length > 70000:
            msg = f"packet of {length} bytes"
            raise AssertionError(msg)
        return self._rng.getrandbits(6) != 0

    def arrive(self) -> None:
        """Let a few packets in."""
        self._left = self._rng.randrange(4)
        self.readable(0)

    def receive(self, queue: int, views: Sequence[memoryview]) -> int:
        if not self._left:
            return 0
        self._left -= 1
        length = min(sum(map(len, views)), self._rng.choice((13, 60, 1514, 9000, 65549)))
        left = length
        for view in views:
            part = min(left, len(view))
            view[:part] = b"\x5a" * part
            left -= part
            if not left:
                break
        return length

    def close(self) -> None:
        pass


class Sink(MemoryChardev):
    """Swallows output, most of the time."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng

    @property  # type: ignore[override]
    def output_room(self) -> int:
        return self._rng.getrandbits(3)

    @property  # type: ignore[override]
    def connected(self) -> bool:
        return bool(self._rng.getrandbits(1))

    def write(self, data: bytes) -> None:
        pass

    def stir(self) -> None:
        """The peer comes or goes, or takes more."""
        receiver = self._receiver
        if isinstance(receiver, ChannelReceiver):
            receiver.peer_changed()
            receiver.output_possible()


class Sockets:
    """The host's side of virtual sockets: programs that answer some ports, talk, stall and go away."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._far: list[socket.socket] = []
        self._on_client: Callable[[socket.socket, int], None] | None = None

    def start(self, loop: IoLoop, on_client: Callable[[socket.socket, int], None]) -> None:
        self._on_client = on_client

    def _pair(self) -> socket.socket:
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        self._far.append(far)
        if len(self._far) > 16:
            self._far.pop(0).close()
        return near

    def connect(self, port: int) -> socket.socket | None:
        return self._pair() if port & 1 else None

    def stir(self) -> None:
        """Let one program do something."""
        rng = self._rng
        act = rng.getrandbits(3)
        if act == 0 and self._on_client is not None:
            self._on_client(self._pair(), rng.randrange(4))
        elif self._far:
            far = rng.choice(self._far)
            with contextlib.suppress(OSError):
                if act < 3:
                    far.recv(1 << 16)
                elif act < 6:
                    far.send(bytes(rng.choice((1, 100, 5000))))
                elif act == 6:
                    far.shutdown(rng.choice((socket.SHUT_RD, socket.SHUT_WR)))
                else:
                    self._far.remove(far)
                    far.close()

    def close(self) -> None:
        for far in self._far:
            far.close()


class Wire(Net):
    """A network of sockets, which the emulator reads and writes by itself."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self._pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(self.queues)]
        for pair in self._pairs:
            for end in pair:
                end.setblocking(False)

    def packet_fd(self, queue: int) -> int:
        return self._pairs[queue][0].fileno()

    def arrive(self) -> None:
        queue = self._rng.randrange(self.queues)
        far = self._pairs[queue][1]
        with contextlib.suppress(OSError):
            while True:
                far.recv(70000)
        for _ in range(max(self._rng.randrange(-8, 4), 0)):  # often none, so that buffers gather
            with contextlib.suppress(OSError):
                far.send(b"\x5a" * self._rng.choice((1, 13, 60, 1514, 9000, 65549)))
        self.readable(queue)

    def receive(self, queue: int, views: Sequence[memoryview]) -> int:
        try:
            return os.readv(self.packet_fd(queue), views)
        except OSError:
            return 0

    def close(self) -> None:
        for pair in self._pairs:
            for end in pair:
                end.close()


def walked_disk() -> BlockBackend:
    """A disk in a file that the emulator reads and writes by itself."""
    fd = os.memfd_create("hostile", os.MFD_CLOEXEC)
    os.ftruncate(fd, Disk.size_bytes)
    path = f"/proc/self/fd/{fd}"
    try:
        return open_backend(open_image(path, OpenSettings(format_name="raw", writable=True)))
    finally:
        os.close(fd)
