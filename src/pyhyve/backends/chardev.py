"""Character devices: the host's end of a serial port or console.

A backend never blocks the guest for long: what a socket's peer does not read is dropped beyond a limit.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from pyhyve.support.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_READ_SIZE = 4096
_PENDING_LIMIT = 1 << 20


class ChardevError(UserError):
    """A character device that cannot be opened."""


class EventLoop(Protocol):
    """What a backend needs to learn about readable descriptors; callbacks run on the I/O thread."""

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        """Call `callback` while `fd` is readable."""

    def remove_reader(self, fd: int) -> None:
        """Stop watching `fd`; nothing happens when it is not watched."""


class Receiver(Protocol):
    """The device's side: takes input when it has room."""

    @property
    def room(self) -> int:
        """Bytes it can take now."""

    def receive(self, data: bytes) -> None:
        """Take input."""


class Chardev(Protocol):
    """One character device."""

    def start(self, loop: EventLoop, receiver: Receiver) -> None:
        """Begin to pass input to `receiver`."""

    def write(self, data: bytes) -> None:
        """Take output from the guest."""

    def resume(self) -> None:
        """The receiver has room again."""

    def close(self) -> None:
        """Release everything; idempotent."""


class NullChardev:
    """Swallows output and has no input."""

    def start(self, loop: EventLoop, receiver: Receiver) -> None:
        """Nothing to watch."""

    def write(self, data: bytes) -> None:
        """Drop it."""

    def resume(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing to release."""


class MemoryChardev(NullChardev):
    """Keeps output in `output`; input is fed by whoever holds it."""

    def __init__(self) -> None:
        self.output = bytearray()
        self._receiver: Receiver | None = None

    def start(self, loop: EventLoop, receiver: Receiver) -> None:
        """Remember where input goes."""
        self._receiver = receiver

    def write(self, data: bytes) -> None:
        """Keep it."""
        self.output += data

    def feed(self, data: bytes) -> None:
        """Pass `data` to the device, on the caller's thread."""
        if self._receiver is not None:
            self._receiver.receive(data)


class FileChardev(NullChardev):
    """Writes output to a file."""

    def __init__(self, path: Path) -> None:
        """Create or truncate `path`; raises ChardevError."""
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        except OSError as error:
            msg = f"console file:{path}: {error.strerror}"
            raise ChardevError(msg) from error

    def write(self, data: bytes) -> None:
        """Append; what the file system refuses is lost."""
        if self._fd >= 0:
            with suppress(OSError):
                write_all(self._fd, data)

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class InputPump:
    """Moves bytes from a descriptor to a receiver, no faster than it takes them."""

    def __init__(
        self,
        fd: int,
        loop: EventLoop,
        receiver: Receiver,
        *,
        ended: Callable[[], None],
        filter_: Callable[[bytes], bytes],
    ) -> None:
        """`ended` is called at end of file; `filter_` sees every piece before the receiver."""
        self._fd = fd
        self._loop = loop
        self._receiver = receiver
        self._ended = ended
        self._filter = filter_
        self._watching = False
        self.resume()

    def resume(self) -> None:
        """Watch the descriptor (again)."""
        if not self._watching:
            self._watching = True
            self._loop.add_reader(self._fd, self._readable)

    def stop(self) -> None:
        """Stop watching."""
        if self._watching:
            self._watching = False
            self._loop.remove_reader(self._fd)

    def _readable(self) -> None:
        room = self._receiver.room
        if room <= 0:
            self.stop()
            return
        try:
            data = os.read(self._fd, min(room, _READ_SIZE))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.stop()
            self._ended()
            return
        data = self._filter(data)
        if data:
            self._receiver.receive(data)


class UnixChardev:
    """Listens on a Unix socket, for one client at a time; output while nobody is connected is kept, up to a limit."""

    def __init__(self, path: Path) -> None:
        """Bind `path`, replacing a stale socket; raises ChardevError."""
        self._path = path
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            remove_stale_socket(path)
            self._listener.bind(str(path))
            self._listener.listen(1)
        except OSError as error:
            self._listener.close()
            msg = f"console unix:{path}: {error.strerror or error}"
            raise ChardevError(msg) from error
        self._client: socket.socket | None = None
        self._pump: InputPump | None = None
        self._loop: EventLoop | None = None
        self._receiver: Receiver | None = None
        self._pending = bytearray()
        self._closed = False

    def start(self, loop: EventLoop, receiver: Receiver) -> None:
        """Begin to accept clients."""
        self._loop, self._receiver = loop, receiver
        loop.add_reader(self._listener.fileno(), self._accept)

    def write(self, data: bytes) -> None:
        """Send what the client takes at once; keep the rest for later, the newest up to a limit."""
        self._pending += data
        if len(self._pending) > _PENDING_LIMIT:
            del self._pending[: len(self._pending) - _PENDING_LIMIT]
        self._flush()

    def resume(self) -> None:
        """The receiver has room again."""
        if self._pump is not None:
            self._pump.resume()

    def close(self) -> None:
        """Disconnect and remove the socket."""
        if self._closed:
            return
        self._closed = True
        self._hang_up()
        if self._loop is not None:
            self._loop.remove_reader(self._listener.fileno())
        self._listener.close()
        with suppress(OSError):
            self._path.unlink()

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        if self._client is not None or self._loop is None or self._receiver is None:
            client.close()
            return
        client.settimeout(0)
        self._client = client
        self._pump = InputPump(client.fileno(), self._loop, self._receiver, ended=self._hang_up, filter_=bytes)
        self._flush()

    def _flush(self) -> None:
        client = self._client
        if client is None or not self._pending:
            return
        try:
            sent = client.send(self._pending)
        except BlockingIOError:
            return
        except OSError:
            self._hang_up()
            return
        del self._pending[:sent]

    def _hang_up(self) -> None:
        client, pump = self._client, self._pump
        self._client = self._pump = None
        if pump is not None:
            pump.stop()
        if client is not None:
            client.close()


def remove_stale_socket(path: Path) -> None:
    """Remove the socket at `path` when nobody listens on it; raises OSError when somebody does."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    msg = "another program listens there"
    raise OSError(msg)


def write_all(fd: int, data: bytes) -> None:
    """Write every byte; raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
