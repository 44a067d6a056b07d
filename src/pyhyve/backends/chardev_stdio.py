"""The terminal as a character device, with Ctrl-A as the way out."""

from __future__ import annotations

import os
import select
import stat
import termios
import threading
import tty
from contextlib import suppress

from pyhyve.backends.chardev import InputPump, write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyhyve.backends.chardev import EventLoop, Receiver

_ESCAPE = 0x01
_HELP = b"\r\nCtrl-A x  quit\r\nCtrl-A a  send Ctrl-A\r\nCtrl-A h  this help\r\n"
_STALL_S = 1.0
"""How long output may wait for a reader before it is dropped."""


class StdioChardev:
    """Standard input and output. A terminal is put in raw mode between `start` and `close`.

    Ctrl-C reaches the guest; Ctrl-A x quits. When input is not a terminal, every byte goes to the guest;
    at its end the guest goes on.
    """

    connected = True
    output_room = 1 << 30

    def __init__(
        self, quit_requested: Callable[[], object], input_fd: int = 0, output_fd: int = 1, *, has_escapes: bool = True
    ) -> None:
        """`quit_requested` is called for Ctrl-A x, unless `has_escapes` is false: then somebody else reads them."""
        self._has_escapes = has_escapes
        self._quit_requested = quit_requested
        self._input_fd = input_fd
        self._output_fd = output_fd
        self._is_terminal = os.isatty(input_fd)
        self._saved: list[Any] | None = None
        self._pump: InputPump | None = None
        self._escaped = False
        self._broken = False
        self._feed_fd = -1

    def start(self, loop: EventLoop, receiver: Receiver) -> None:
        """Put the terminal in raw mode and read from it."""
        if self._is_terminal:
            with suppress(termios.error):
                self._saved = termios.tcgetattr(self._input_fd)
                tty.setraw(self._input_fd)
                self._keep_output_processing()
        try:
            fd = self._input_fd
            if stat.S_ISREG(os.fstat(fd).st_mode):
                fd = self._follow(fd)
            self._pump = InputPump(fd, loop, receiver, ended=_nothing, filter_=self._filter)
        except OSError:
            self._pump = None  # closed, or a device without readiness, like /dev/null: there is no input

    def write(self, data: bytes) -> None:
        """Write to standard output; a closed or stalled reader loses output, not the guest."""
        if self._broken:
            return
        view = memoryview(data)
        try:
            while view:
                _, writable, _ = select.select((), (self._output_fd,), (), _STALL_S)
                if not writable:
                    return
                view = view[os.write(self._output_fd, view[:_PIECE]) :]
        except BlockingIOError:
            return
        except (OSError, ValueError):
            self._broken = True

    def _follow(self, fd: int) -> int:
        """A pipe that carries the regular file `fd`, which has no readiness to wait for."""
        self._feed_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(write_fd, True)
        threading.Thread(target=_copy, args=(fd, write_fd), name="pyhyve-stdin", daemon=True).start()
        return self._feed_fd

    def resume(self) -> None:
        """The receiver has room again."""
        if self._pump is not None:
            self._pump.resume()

    def close(self) -> None:
        """Stop reading and restore the terminal."""
        if self._pump is not None:
            self._pump.stop()
            self._pump = None
        if self._feed_fd >= 0:
            os.close(self._feed_fd)  # which ends the copying thread
            self._feed_fd = -1
        if self._saved is not None:
            with suppress(termios.error):
                termios.tcsetattr(self._input_fd, termios.TCSADRAIN, self._saved)
            self._saved = None

    def _keep_output_processing(self) -> None:
        """Raw input needs no raw output: a lone newline of the host's own messages should still return."""
        attributes = termios.tcgetattr(self._input_fd)
        attributes[1] |= termios.OPOST
        termios.tcsetattr(self._input_fd, termios.TCSANOW, attributes)

    def _filter(self, data: bytes) -> bytes:
        if not (self._is_terminal and self._has_escapes) or (not self._escaped and _ESCAPE not in data):
            return data
        passed = bytearray()
        for byte in data:
            if not self._escaped:
                if byte == _ESCAPE:
                    self._escaped = True
                else:
                    passed.append(byte)
                continue
            self._escaped = False
            if byte in b"xX":
                self._quit_requested()
            elif byte in b"aA\x01":
                passed.append(_ESCAPE)
            else:
                self.write(_HELP)
        return bytes(passed)


_PIECE = 512
"""A pipe that is writable takes this much without blocking (POSIX PIPE_BUF)."""


def _copy(source_fd: int, target_fd: int) -> None:
    """Copy a file into a pipe until its end, or until nobody reads."""
    try:
        while data := os.read(source_fd, _PIECE):
            write_all(target_fd, data)
    except OSError:
        pass
    finally:
        os.close(target_fd)


def _nothing() -> None:
    """End of input: the guest goes on."""
