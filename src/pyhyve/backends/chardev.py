"""Character devices: the host's end of a serial port or console.

A backend never blocks the guest for long: what a socket's peer does not read is dropped beyond a limit. A device that
can wait (`ChannelReceiver`) is told how much can be written, and loses nothing.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from pyhyve.support.errors import UserError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

_READ_SIZE = 4096
_PENDING_LIMIT = 1 << 20
NO_LIMIT = 1 << 30
"""Room of a device that takes anything at once."""


class ChardevError(UserError):
    """A character device that cannot be opened."""


class EventLoop(Protocol):
    """What a backend needs to learn about its descriptors; callbacks run on the I/O thread."""

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        """Call `callback` while `fd` is readable."""

    def remove_reader(self, fd: int) -> None:
        """Stop watching `fd`; nothing happens when it is not watched."""

    def add_writer(self, fd: int, callback: Callable[[], None]) -> None:
        """Call `callback` while `fd` takes output, or has failed."""

    def remove_writer(self, fd: int) -> None:
        """Stop waiting for `fd` to take output; nothing happens when nobody waits."""


class Receiver(Protocol):
    """The device's side: takes input when it has room."""

    @property
    def room(self) -> int:
        """Bytes it can take now."""

    def receive(self, data: bytes) -> None:
        """Take input."""


@runtime_checkable
class ChannelReceiver(Receiver, Protocol):
    """A device whose guest is told whether somebody is at the other end, and which can hold back its output.

    Both are called on the I/O thread, never from within `Chardev.write`.
    """

    def peer_changed(self) -> None:
        """`Chardev.connected` changed."""

    def output_possible(self) -> None:
        """`Chardev.output_room` is no longer used up."""


class Chardev(Protocol):
    """One character device."""

    @property
    def connected(self) -> bool:
        """Whether somebody is at the other end."""

    @property
    def output_room(self) -> int:
        """Bytes that `write` takes without losing any; a little more is fine."""

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

    connected = True
    output_room = NO_LIMIT

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
    """Listens on a Unix socket, for one client at a time.

    Output while nobody is connected is kept for the first client, the newest up to a limit; for a `ChannelReceiver`,
    whose guest knows that nobody is there, it is dropped.
    """

    def __init__(self, path: Path | None, *, fd: int | None = None, label: str = "console") -> None:
        """Bind `path`, replacing a stale socket, or take over the listening descriptor `fd`; raises ChardevError."""
        self._path = path
        where = f"{label} unix:{path}" if fd is None else f"{label} fd:{fd}"
        try:
            self._listener = _listen(path) if fd is None else _adopt(fd)
            self._listener.settimeout(0)
        except OSError as error:
            msg = f"{where}: {error.strerror or error}"
            raise ChardevError(msg) from error
        self._client: socket.socket | None = None
        self._pump: InputPump | None = None
        self._loop: EventLoop | None = None
        self._receiver: Receiver | None = None
        self._channel: ChannelReceiver | None = None
        self._pending = bytearray()
        self._waits_for_room = False
        self._closed = False

    @property
    def connected(self) -> bool:
        """Whether a client is there."""
        return self._client is not None

    @property
    def output_room(self) -> int:
        """What the limit leaves, while there is a client to wait for."""
        room = NO_LIMIT if self._client is None else max(0, _PENDING_LIMIT - len(self._pending))
        if not room:
            self._waits_for_room = True
        return room

    def start(self, loop: EventLoop, receiver: Receiver) -> None:
        """Begin to accept clients."""
        self._loop, self._receiver = loop, receiver
        self._channel = receiver if isinstance(receiver, ChannelReceiver) else None
        loop.add_reader(self._listener.fileno(), self._accept)

    def write(self, data: bytes) -> None:
        """Send what the client takes at once; keep the rest for later."""
        if self._client is None and self._channel is not None:
            return
        first = not self._pending
        self._pending += data
        if self._channel is None and len(self._pending) > _PENDING_LIMIT:
            del self._pending[: len(self._pending) - _PENDING_LIMIT]
        if first:
            self._send_or_wait()

    def resume(self) -> None:
        """The receiver has room again."""
        if self._pump is not None:
            self._pump.resume()

    def close(self) -> None:
        """Disconnect and remove the socket."""
        if self._closed:
            return
        self._closed = True
        self._channel = None
        self._hang_up()
        if self._loop is not None:
            self._loop.remove_reader(self._listener.fileno())
        self._listener.close()
        if self._path is not None:
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
        self._send_or_wait()
        if self._channel is not None:
            self._channel.peer_changed()

    def _send(self) -> bool:
        """Send what the client takes; False when it is gone."""
        if self._client is not None:
            try:
                del self._pending[: self._client.send(self._pending)]
            except BlockingIOError:
                pass
            except OSError:
                return False
        return True

    def _send_or_wait(self) -> None:
        """Send what the client takes; a failure shows when the loop tries the rest."""
        if self._pending:
            self._send()
            if self._pending and self._client is not None and self._loop is not None:
                self._loop.add_writer(self._client.fileno(), self._writable)

    def _writable(self) -> None:
        """The client takes more, or is gone."""
        if not self._send():
            self._hang_up()
            return
        if not self._pending and self._client is not None and self._loop is not None:
            self._loop.remove_writer(self._client.fileno())
        if self._waits_for_room and 2 * len(self._pending) < _PENDING_LIMIT:
            self._waits_for_room = False
            if self._channel is not None:
                self._channel.output_possible()

    def _hang_up(self) -> None:
        client, pump = self._client, self._pump
        self._client = self._pump = None
        if pump is not None:
            pump.stop()
        if client is not None:
            if self._loop is not None:
                self._loop.remove_writer(client.fileno())
            client.close()
        if self._channel is not None:
            self._pending.clear()
            self._waits_for_room = False
            self._channel.peer_changed()
            self._channel.output_possible()


def _adopt(fd: int) -> socket.socket:
    import socket  # noqa: PLC0415 - most machines have no such console

    return socket.socket(fileno=fd)


def _listen(path: Path | None) -> socket.socket:
    """A socket that listens at `path`; raises OSError."""
    import socket  # noqa: PLC0415 - see `_adopt`

    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        if path is not None:
            remove_stale_socket(path)
            listener.bind(str(path))
        listener.listen(1)
    except OSError:
        listener.close()
        raise
    return listener


def remove_stale_socket(path: Path) -> None:
    """Remove the socket at `path` when nobody listens on it; raises OSError when somebody does."""
    import socket  # noqa: PLC0415 - see `_adopt`

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
