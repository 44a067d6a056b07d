"""One character device for a device of the guest and for people's monitor: Ctrl-A c goes from one to the other."""

from __future__ import annotations

from pyhyve.backends.chardev import PassingChardev

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.backends.chardev import Chardev, EventLoop, Receiver

_ESCAPE = 0x01
_HELP = (
    b"\r\nCtrl-A h       this help\r\nCtrl-A x       quit\r\nCtrl-A b       send a break\r\n"
    b"Ctrl-A c       go from the guest to the monitor, and back\r\nCtrl-A Ctrl-A  send Ctrl-A\r\n"
)
_ROOM_BYTES = 256
"""How much is read at once; more only waits in front of the escapes."""
_TYPED_BYTES = 4096
"""How much may wait for the monitor while that carries out a command; the rest waits in front of the escapes too."""
_BACKSPACES = (0x7F, 0x08)
_KILL_LINE = 0x15
_MAX_LINE_BYTES = 4096


class MuxChardev(PassingChardev):
    """Passes input to the device until Ctrl-A c, then to `on_typed`, if somebody set it; output of both goes out."""

    def __init__(self, inner: Chardev, quit_requested: Callable[[], object]) -> None:
        """`quit_requested` is called for Ctrl-A x."""
        super().__init__(inner)
        self._quit_requested = quit_requested
        self._receiver: Receiver | None = None
        self._escaped = False
        self._is_monitor = False
        self.on_typed: Callable[[bytes], None] | None = None
        """Called on the I/O thread with what is typed for the monitor; with nothing when the monitor's turn begins.

        Whoever sets it says with `typed_done` how much of that it has dealt with.
        """
        self._typed_bytes = 0
        self.close = inner.close

    def start(self, loop: EventLoop, receiver: Receiver) -> None:
        """Begin to pass input on."""
        self._receiver = receiver
        self.inner.start(loop, self)

    def typed_done(self, count: int) -> None:
        """The monitor has dealt with `count` bytes; with the lock under which input arrives."""
        self._typed_bytes -= count
        self.inner.resume()

    # -- as the receiver of the other device --------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """Little is read at once, and no more than whoever has the turn can take."""
        if self._is_monitor:
            return max(0, min(_TYPED_BYTES - self._typed_bytes, _ROOM_BYTES))
        if self._receiver is None:
            return _ROOM_BYTES
        return min(self._receiver.room, _ROOM_BYTES)

    def receive(self, data: bytes) -> None:
        """Take input apart."""
        passed = bytearray()
        for byte in data:
            if not self._escaped and byte != _ESCAPE:
                passed.append(byte)
            elif not self._escaped:
                self._escaped = True
            else:
                self._escaped = False
                if byte == _ESCAPE:
                    passed.append(byte)
                else:
                    self._pass(passed)
                    passed.clear()
                    self._command(chr(byte).lower())
        self._pass(passed)

    def _pass(self, data: bytearray) -> None:
        if not data:
            return
        if not self._is_monitor and self._receiver is not None:
            self._receiver.receive(bytes(data))
        elif self.on_typed is not None:
            self._typed_bytes += len(data)
            self.on_typed(bytes(data))

    def _command(self, letter: str) -> None:
        if letter == "x":
            self._quit_requested()
        elif letter == "c" and self.on_typed is not None:
            self._is_monitor = not self._is_monitor
            if self._is_monitor:
                self.on_typed(b"")
            else:
                self.write(b"\r\n")
                self.inner.resume()
        elif letter == "b":
            receive_break = getattr(self._receiver, "receive_break", None)
            if receive_break is not None:
                receive_break()
        elif letter in "h?":
            self.write(_HELP)


class TypedLines:
    """Lines as they are typed: shown on the way, with backspace; `done` takes each with its end."""

    def __init__(self, show: Callable[[bytes], None], done: Callable[[bytes], None]) -> None:
        self._show = show
        self._done = done
        self._line = bytearray()

    def receive(self, data: bytes) -> None:
        """Take what was typed."""
        for byte in data:
            if byte in b"\r\n":
                self._show(b"\r\n")
                line, self._line = bytes(self._line), bytearray()
                self._done(line + b"\n")
            elif byte in _BACKSPACES:
                if self._line:
                    del self._line[-1]
                    self._show(b"\b \b")
            elif byte == _KILL_LINE:
                self._show(b"\b \b" * len(self._line))
                self._line.clear()
            elif byte >= ord(" ") and len(self._line) < _MAX_LINE_BYTES:
                self._line.append(byte)
                self._show(bytes([byte]))
