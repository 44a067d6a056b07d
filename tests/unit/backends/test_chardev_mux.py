"""A character device that a device of the guest and a monitor share."""

from __future__ import annotations

from pyhyve.backends.chardev import MemoryChardev
from pyhyve.backends.chardev_mux import MuxChardev, TypedLines


class Loop:
    """Nothing is watched here."""

    def add_reader(self, fd: int, callback: object) -> None: ...
    def remove_reader(self, fd: int) -> None: ...
    def add_writer(self, fd: int, callback: object) -> None: ...
    def remove_writer(self, fd: int) -> None: ...


class Port:
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.got = bytearray()
        self.breaks = 0
        self.room = 16

    def receive(self, data: bytes) -> None:
        self.got += data

    def receive_break(self) -> None:
        self.breaks += 1


def test_input_goes_where_the_last_escape_says() -> None:
    quits: list[bool] = []
    typed: list[bytes] = []
    inner, port = MemoryChardev(), Port()
    mux = MuxChardev(inner, lambda: quits.append(True))
    mux.start(Loop(), port)
    inner.feed(b"a\x01cb")  # nobody listens: there is nowhere to go
    assert (bytes(port.got), mux.room) == (b"ab", 16)
    mux.on_typed = typed.append
    inner.feed(b"c\x01")
    inner.feed(b"cinfo\x01\x01")
    assert (bytes(port.got), typed, mux.room) == (b"abc", [b"", b"info\x01"], 256)
    mux.write(b"out")
    inner.feed(b"\x01cd\x01b\x01x\x01h\x01\x01\x01q")
    assert bytes(port.got) == b"abcd\x01"
    assert (port.breaks, quits) == (1, [True])
    assert inner.output.startswith(b"out\r\n\r\nCtrl-A h ")


class Resumed(MemoryChardev):
    """Counts how often it may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.times = 0

    def resume(self) -> None:
        self.times += 1


def test_input_waits_for_a_busy_monitor() -> None:
    inner = Resumed()
    mux = MuxChardev(inner, lambda: None)
    mux.start(Loop(), Port())
    typed: list[bytes] = []
    mux.on_typed = typed.append
    inner.feed(b"\x01c")
    for _ in range(100):
        inner.feed(b"y" * mux.room)
    waiting = sum(map(len, typed))
    assert (waiting, mux.room, inner.times) == (4096, 0, 0)
    mux.typed_done(waiting)
    assert (mux.room, inner.times) == (256, 1)


def test_lines_are_shown_while_they_are_typed() -> None:
    shown = bytearray()
    lines: list[bytes] = []
    typed = TypedLines(shown.extend, lines.append)
    typed.receive(b"\x7finx\x7ff")
    typed.receive(b"o\r")
    typed.receive(b"wrong\x15x\x00\n")
    typed.receive(b"y" * 5000 + b"\r")
    assert lines == [b"info\n", b"x\n", b"y" * 4096 + b"\n"]
    assert shown.startswith(b"inx\b \bfo\r\nwrong" + b"\b \b" * 5 + b"x\r\n")
