"""Character devices on descriptors: pseudo terminals, named pipes, files with input; and a ring in memory."""

from __future__ import annotations

import os
import tty
from contextlib import suppress

from pyhyve.backends.chardev import NO_LIMIT, ChannelReceiver, ChardevError, InputPump, PassingChardev, write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyhyve.backends.chardev import Chardev, EventLoop, Receiver


class PtyChardev:
    """A pseudo terminal of its own; `name` is the side for people. Output nobody reads is dropped."""

    connected = True
    output_room = NO_LIMIT

    def __init__(self) -> None:
        """Raises ChardevError."""
        try:
            self._fd, self._slave = os.openpty()
            tty.setraw(self._slave)
        except OSError as error:
            msg = f"chardev pty: {error.strerror}"
            raise ChardevError(msg) from error
        self.name = os.ttyname(self._slave)
        os.set_blocking(self._fd, False)
        self._pump: InputPump | None = None

    def start(self, loop: EventLoop, receiver: Receiver) -> None:
        """Read what people type. The machine keeps the people's side open too, so that it never ends."""
        self._pump = InputPump(self._fd, loop, receiver, ended=_nothing, filter_=lambda data: data)

    def write(self, data: bytes) -> None:
        """Show what the terminal's buffer takes."""
        if self._fd >= 0:
            with suppress(OSError):
                os.write(self._fd, data)

    def resume(self) -> None:
        """The receiver has room again."""
        if self._pump is not None:
            self._pump.resume()

    def close(self) -> None:
        """Close both sides; idempotent."""
        if self._pump is not None:
            self._pump.stop()
            self._pump = None
        if self._fd >= 0:
            os.close(self._fd)
            os.close(self._slave)
            self._fd = -1


class StreamChardev:
    """Output to one descriptor, input from another, when there is one. Owns both."""

    connected = True
    output_room = NO_LIMIT

    def __init__(self, output_fd: int, input_fd: int | None = None) -> None:
        """`input_fd` is a pipe or a terminal."""
        self._output_fd = output_fd
        self._input_fd = input_fd
        self._pump: InputPump | None = None

    def start(self, loop: EventLoop, receiver: Receiver) -> None:
        """Read the input, if any."""
        if self._input_fd is not None:
            os.set_blocking(self._input_fd, False)
            with suppress(OSError):  # a regular file has no readiness: its content is not input
                self._pump = InputPump(self._input_fd, loop, receiver, ended=_nothing, filter_=lambda data: data)

    def write(self, data: bytes) -> None:
        """Write; what the other side refuses is lost."""
        if self._output_fd >= 0:
            with suppress(OSError):
                write_all(self._output_fd, data)

    def resume(self) -> None:
        """The receiver has room again."""
        if self._pump is not None:
            self._pump.resume()

    def close(self) -> None:
        """Close both; idempotent."""
        if self._pump is not None:
            self._pump.stop()
            self._pump = None
        if self._output_fd >= 0:
            os.close(self._output_fd)
            self._output_fd = -1
        if self._input_fd is not None:
            os.close(self._input_fd)
            self._input_fd = None


class RingChardev:
    """Keeps the newest output in memory, for a monitor to read; what a monitor writes there is read back as well."""

    connected = True
    output_room = NO_LIMIT

    def __init__(self, size_bytes: int) -> None:
        """`size_bytes` is a power of two. Raises ChardevError."""
        if size_bytes <= 0 or size_bytes & (size_bytes - 1):
            msg = "size of ringbuf chardev must be power of two"
            raise ChardevError(msg)
        self._size = size_bytes
        self._data = bytearray()

    def start(self, loop: EventLoop, receiver: Receiver) -> None:
        """There is no input."""

    def write(self, data: bytes) -> None:
        """Keep the newest bytes."""
        self._data += data
        if len(self._data) > self._size:
            del self._data[: len(self._data) - self._size]

    def take(self, count: int) -> bytes:
        """Remove and return up to `count` of the oldest bytes."""
        taken = bytes(self._data[:count])
        del self._data[:count]
        return taken

    def resume(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing to release."""


class LoggedChardev(PassingChardev):
    """Another character device whose output also goes to a file."""

    def __init__(self, inner: Chardev, log_fd: int) -> None:
        """Owns both."""
        super().__init__(inner)
        self._log_fd = log_fd
        self.start = inner.start

    def write(self, data: bytes) -> None:
        """Log, then pass on."""
        if self._log_fd >= 0:
            with suppress(OSError):
                write_all(self._log_fd, data)
        super().write(data)

    def close(self) -> None:
        """Close both; idempotent."""
        self.inner.close()
        if self._log_fd >= 0:
            os.close(self._log_fd)
            self._log_fd = -1


class SwitchedChardev(PassingChardev):
    """A character device behind which another can be put while it is in use (`chardev-change`).

    It outlives the device that uses it: `close` only detaches that one, `release` closes what is behind it.
    """

    def __init__(self, inner: Chardev) -> None:
        super().__init__(inner)
        self._loop: EventLoop | None = None
        self._receiver: Receiver | None = None

    def start(self, loop: EventLoop, receiver: Receiver) -> None:
        """Begin to pass input to `receiver`."""
        self._loop, self._receiver = loop, receiver
        self.inner.start(loop, receiver)

    def switch(self, inner: Chardev) -> None:
        """Close what is behind it and put `inner` there."""
        self.inner.close()
        self.inner = inner
        if self._loop is not None and self._receiver is not None:
            inner.start(self._loop, self._receiver)
            if isinstance(self._receiver, ChannelReceiver):
                self._receiver.peer_changed()

    def send_break(self) -> bool:
        """Send a break to the device that uses it; False when that has no use for one."""
        receive_break = getattr(self._receiver, "receive_break", None)
        if receive_break is None:
            return False
        receive_break()
        return True

    def close(self) -> None:
        """The device that used it is gone."""
        self._receiver = None

    def release(self) -> None:
        """Close what is behind it; idempotent."""
        self._receiver = None
        self.inner.close()


def _nothing() -> None:
    """An end that matters to nobody."""
