"""Character devices: files, sockets, the terminal."""

from __future__ import annotations

import os
import pty
import socket
import termios
import time
from typing import TYPE_CHECKING

import pytest

from pyhyve.backends.chardev import ChardevError, FileChardev, MemoryChardev, NullChardev
from pyhyve.backends.chardev_socket import UnixChardev
from pyhyve.backends.chardev_stdio import StdioChardev
from pyhyve.backends.ioloop import IoLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Loop:
    """Readers by descriptor, fired by hand."""

    def __init__(self) -> None:
        self.readers: dict[int, Callable[[], None]] = {}
        self.writers: dict[int, Callable[[], None]] = {}

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        self.readers[fd] = callback

    def remove_reader(self, fd: int) -> None:
        self.readers.pop(fd, None)

    def add_writer(self, fd: int, callback: Callable[[], None]) -> None:
        self.writers[fd] = callback

    def remove_writer(self, fd: int) -> None:
        self.writers.pop(fd, None)

    def turn(self) -> None:
        for callback in [*self.writers.values(), *self.readers.values()]:
            callback()


class Device:
    """A receiver with little room."""

    def __init__(self, room: int = 1 << 20) -> None:
        self.data = bytearray()
        self.limit = room

    @property
    def room(self) -> int:
        return self.limit - len(self.data)

    def receive(self, data: bytes) -> None:
        self.data += data


def test_file_gets_the_output(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"old contents")
    chardev = FileChardev(path)
    chardev.write(b"one\n")
    chardev.write(b"two\n")
    chardev.close()
    chardev.write(b"late")
    chardev.close()
    assert path.read_bytes() == b"one\ntwo\n"


def test_file_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ChardevError, match=r"console file:.*: No such file"):
        FileChardev(tmp_path / "missing" / "log")


def test_memory_and_null() -> None:
    memory, device = MemoryChardev(), Device()
    memory.feed(b"dropped: nobody listens yet")
    memory.start(Loop(), device)
    memory.feed(b"in")
    memory.write(b"out")
    assert (device.data, memory.output) == (b"in", b"out")
    null = NullChardev()
    null.start(Loop(), device)
    null.write(b"x")
    null.close()


class Line:
    """A Unix chardev with its loop."""

    def __init__(
        self, path: Path, room: int = 1 << 20, device: Device | None = None, chardev: UnixChardev | None = None
    ) -> None:
        self.path = path
        self.loop, self.device = Loop(), device or Device(room)
        self.chardev = chardev or UnixChardev(path)
        self.chardev.start(self.loop, self.device)

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(60)
        client.connect(str(self.path))
        self.loop.turn()
        return client


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    line = Line(tmp_path / "console")
    yield line
    line.chardev.close()


def test_unix_carries_both_ways_and_keeps_early_output(line: Line) -> None:
    line.chardev.write(b"before")
    with line.connect() as client:
        assert client.recv(100) == b"before"
        client.sendall(b"hello")
        line.loop.turn()
        assert line.device.data == b"hello"
        line.chardev.write(b"answer")
        assert client.recv(100) == b"answer"


def test_unix_takes_one_client_and_then_the_next(line: Line) -> None:
    first = line.connect()
    with line.connect() as second:
        assert second.recv(1) == b""
    first.close()
    line.loop.turn()
    with line.connect() as third:
        line.chardev.write(b"x")
        assert third.recv(1) == b"x"


def test_unix_output_nobody_reads_is_bounded(line: Line) -> None:
    for _ in range(40):
        line.chardev.write(bytes(1 << 16))
    line.chardev.write(b"the end")
    received = bytearray()
    with line.connect() as client:
        client.settimeout(0.2)
        while not received.endswith(b"the end"):
            received += client.recv(1 << 16)
            line.loop.turn()
    assert len(received) == 1 << 20
    assert not line.loop.writers, "nothing is left to write"


class Channel(Device):
    """A receiver that knows of its peer and holds back its output."""

    def __init__(self, room: int = 1 << 20) -> None:
        super().__init__(room)
        self.events: list[str] = []

    def peer_changed(self) -> None:
        self.events.append("peer")

    def output_possible(self) -> None:
        self.events.append("possible")


def test_unix_channel_loses_nothing_and_tells_when_it_takes_more(tmp_path: Path) -> None:
    device = Channel()
    line = Line(tmp_path / "channel", device=device)
    line.chardev.write(b"nobody hears this")
    assert not line.chardev.connected
    with line.connect() as client:
        assert line.chardev.connected
        sent = bytearray()
        while line.chardev.output_room:
            piece = os.urandom(1 << 16)
            line.chardev.write(piece)
            sent += piece
        assert len(sent) > 1 << 20
        assert device.events == ["peer"]
        received = bytearray()
        while len(received) < len(sent):
            received += client.recv(1 << 16)
            line.loop.turn()
        assert received == sent
        assert device.events == ["peer", "possible"]
        assert line.chardev.output_room
    line.loop.turn()
    assert device.events[2:] == ["peer", "possible"]
    assert not line.chardev.connected
    line.chardev.close()


def test_unix_channel_gives_up_output_of_a_client_that_is_gone(tmp_path: Path) -> None:
    device = Channel(room=0)
    line = Line(tmp_path / "channel", device=device)
    client = line.connect()
    while line.chardev.output_room:
        line.chardev.write(bytes(1 << 16))
    client.close()
    line.loop.turn()
    assert device.events[1:] == ["peer", "possible"]
    with line.connect() as client:
        line.chardev.write(b"fresh")
        assert client.recv(100) == b"fresh"
    line.chardev.close()


def test_unix_takes_over_a_listening_descriptor(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "given"))
        listener.listen(1)
        line = Line(tmp_path / "given", chardev=UnixChardev(None, fd=listener.detach()))
    with line.connect() as client:
        line.chardev.write(b"hello")
        assert client.recv(100) == b"hello"
    line.chardev.close()
    assert (tmp_path / "given").exists(), "who made the socket removes it"


def test_unix_waits_while_the_device_has_no_room(tmp_path: Path) -> None:
    line = Line(tmp_path / "console", room=3)
    with line.connect() as client:
        client.sendall(b"abcdef")
        for _ in range(3):
            line.loop.turn()
        assert line.device.data == b"abc"
        assert len(line.loop.readers) == 1, "only the listener is watched"
        line.device.data.clear()
        line.chardev.resume()
        line.loop.turn()
        assert line.device.data == b"def"
    line.chardev.close()


def test_unix_socket_goes_away(tmp_path: Path) -> None:
    line = Line(tmp_path / "console")
    line.chardev.close()
    line.chardev.close()
    assert not (tmp_path / "console").exists()
    assert line.loop.readers == {}


def test_unix_refuses_a_socket_in_use_and_replaces_a_stale_one(tmp_path: Path) -> None:
    path = tmp_path / "console"
    first = UnixChardev(path)
    with pytest.raises(ChardevError, match="another program listens"):
        UnixChardev(path)
    first.close()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    UnixChardev(path).close()


class Terminal:
    """A pseudo-terminal whose other end the test holds."""

    def __init__(self) -> None:
        self.ours, self.theirs = pty.openpty()
        self.quits = 0
        self.loop, self.device = Loop(), Device()
        self.before = termios.tcgetattr(self.theirs)
        self.chardev = StdioChardev(self._quit, self.theirs, self.theirs)
        self.chardev.start(self.loop, self.device)

    def _quit(self) -> None:
        self.quits += 1

    def type(self, data: bytes) -> bytes:
        os.write(self.ours, data)
        self.loop.turn()
        return bytes(self.device.data)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.chardev.close()
    os.close(terminal.ours)
    os.close(terminal.theirs)


def test_terminal_is_raw_and_restored(terminal: Terminal) -> None:
    raw = termios.tcgetattr(terminal.theirs)
    assert raw[3] & (termios.ICANON | termios.ECHO | termios.ISIG) == 0
    terminal.chardev.close()
    assert termios.tcgetattr(terminal.theirs) == terminal.before


def test_terminal_passes_control_c_to_the_guest(terminal: Terminal) -> None:
    assert terminal.type(b"ls\x03") == b"ls\x03"


def test_ctrl_a_x_quits(terminal: Terminal) -> None:
    assert terminal.type(b"a\x01xb") == b"ab"
    assert terminal.quits == 1


def test_ctrl_a_in_two_reads_and_doubled(terminal: Terminal) -> None:
    terminal.type(b"\x01")
    assert terminal.type(b"a") == b"\x01"
    assert terminal.type(b"\x01h") == b"\x01"
    assert b"quit" in os.read(terminal.ours, 1000)
    assert terminal.quits == 0


def test_pipe_input_is_not_interpreted() -> None:
    read_end, write_end = os.pipe()
    loop, device = Loop(), Device()
    chardev = StdioChardev(lambda: pytest.fail("quit"), read_end, write_end)
    chardev.start(loop, device)
    os.write(write_end, b"\x01x")
    loop.turn()
    assert device.data == b"\x01x"
    chardev.write(b"out")
    assert os.read(read_end, 10) == b"out"
    os.close(write_end)
    loop.turn()
    assert loop.readers == {}
    chardev.close()
    os.close(read_end)


def test_output_to_a_closed_pipe_is_dropped() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    chardev = StdioChardev(lambda: None, write_end, write_end)
    chardev.write(b"x")
    chardev.write(b"y")
    chardev.close()
    os.close(write_end)


class StandardStreams:
    """A chardev between a given input and an output file, on a real loop."""

    def __init__(self, input_fd: int, output: Path) -> None:
        self.device = Device()
        self.loop = IoLoop("test")
        self.output = output.open("w+b")
        self.chardev = StdioChardev(lambda: None, input_fd, self.output.fileno())
        self.loop.start()
        self.chardev.start(self.loop, self.device)

    def close(self) -> None:
        self.chardev.close()
        self.loop.stop()
        self.output.close()


def test_stdio_reads_and_writes_regular_files(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_bytes(b"line\n" * 3000)
    with script.open("rb") as file:
        streams = StandardStreams(file.fileno(), tmp_path / "output")
        deadline = time.monotonic() + 60
        while len(streams.device.data) < 15000 and time.monotonic() < deadline:
            time.sleep(0.01)
        streams.chardev.write(b"said by the guest")
        streams.close()
    assert streams.device.data == b"line\n" * 3000
    assert (tmp_path / "output").read_bytes() == b"said by the guest"


def test_stdio_with_a_file_larger_than_a_pipe_closes_at_once(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_bytes(bytes(1 << 20))
    with script.open("rb") as file:
        streams = StandardStreams(file.fileno(), tmp_path / "output")
        streams.device.limit = 16
        streams.close()
    assert len(streams.device.data) <= 1 << 16


@pytest.mark.parametrize("path", ["/dev/null", "/dev/zero"])
def test_stdio_without_readiness_has_no_input_and_still_writes(path: str, tmp_path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    streams = StandardStreams(fd, tmp_path / "output")
    streams.chardev.write(b"out")
    streams.chardev.resume()
    streams.close()
    os.close(fd)
    assert (tmp_path / "output").read_bytes() == b"out"


def test_stdio_at_the_end_of_a_pipe_is_no_longer_watched(tmp_path: Path) -> None:
    read_fd, write_fd = os.pipe()
    device, loop = Device(), Loop()
    chardev = StdioChardev(lambda: None, read_fd, 1)
    chardev.start(loop, device)
    os.write(write_fd, b"last words")
    os.close(write_fd)
    loop.turn()
    loop.turn()
    assert device.data == b"last words"
    assert not loop.readers
    chardev.close()
    os.close(read_fd)
