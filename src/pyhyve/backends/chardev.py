"""Character devices: the host's end of a serial port or console.

A backend never blocks the guest for long: what a socket's peer does not read is dropped beyond a limit. A device that
can wait (`ChannelReceiver`) is told how much can be written, and loses nothing.
"""

from __future__ import annotations

import os
from contextlib import suppress

from pyhyve.support.errors import UserError
from pyhyve.support.hints import Protocol, runtime_checkable

TYPE_CHECKING = False
if TYPE_CHECKING:
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


class PassingChardev:
    """What devices in front of another character device share; they decide what becomes of input."""

    def __init__(self, inner: Chardev) -> None:
        self.inner = inner

    @property
    def connected(self) -> bool:
        """Whether somebody is at the other end."""
        return self.inner.connected

    @property
    def output_room(self) -> int:
        """Bytes that `write` takes without losing any."""
        return self.inner.output_room

    def write(self, data: bytes) -> None:
        """Take output from the guest."""
        self.inner.write(data)

    def resume(self) -> None:
        """The receiver has room again."""
        self.inner.resume()


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


def write_all(fd: int, data: bytes) -> None:
    """Write every byte; raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
