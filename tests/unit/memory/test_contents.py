"""Guest memory into a state and back, copied or mapped."""

from __future__ import annotations

import os
import random
import threading
from typing import TYPE_CHECKING

import pytest

from pyhyve.memory import contents
from pyhyve.memory.guest import GuestMemory
from pyhyve.state.errors import StateCancelledError, StateError
from pyhyve.state.format import MAX_PIECE_BYTES
from pyhyve.state.streams import FdSink, FdSource

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PAGE = 4096
MIB = 1 << 20


def call(work: Callable[[], None]) -> None:
    work()


def make_memory(*, shared: bool = False) -> GuestMemory:
    memory = GuestMemory(shared=shared)
    memory.add(0, 640 << 10)
    memory.add(0xC0000, 8 * MIB - 0xC0000)
    memory.add(1 << 32, 4 * MIB)
    return memory


def scatter(memory: GuestMemory, seed: int) -> dict[int, bytes]:
    """Write pages here and there, with a byte at either end of some."""
    source = random.Random(seed)
    written = {}
    for region in memory.regions:
        for _ in range(40):
            gpa = region.gpa + source.randrange(region.size_bytes // PAGE) * PAGE
            page = bytearray(PAGE)
            page[source.choice((0, 8, 2000, PAGE - 1))] = source.randrange(1, 256)
            memory.write(gpa, page)
            written[gpa] = bytes(page)
    return written


def image(memory: GuestMemory) -> list[bytes]:
    return [bytes(region.view) for region in memory.regions]


@pytest.mark.parametrize("shared", [False, True])
def test_pieces_hold_all_that_is_not_zero(shared: bool) -> None:
    memory = make_memory(shared=shared)
    written = scatter(memory, 1)
    pieces = contents.find_pieces(memory)
    covered = {gpa for piece in pieces for gpa in range(piece.gpa, piece.gpa + piece.size_bytes, PAGE)}
    assert written.keys() <= covered
    assert all(piece.size_bytes <= MAX_PIECE_BYTES for piece in pieces)
    assert len(covered) < sum(region.size_bytes for region in memory.regions) // PAGE


def test_zero_memory_has_no_pieces() -> None:
    assert contents.find_pieces(make_memory()) == []


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("through", ["file", "pipe"])
def test_memory_is_read_back(tmp_path: Path, shared: bool, through: str) -> None:
    memory = make_memory()
    scatter(memory, 2)
    pieces = contents.find_pieces(memory)
    other = make_memory(shared=shared)
    if through == "file":
        fd = os.open(tmp_path / "memory", os.O_RDWR | os.O_CREAT)
        sink = FdSink(fd)
        contents.write_pieces(memory, pieces, sink)
        sink.finish()
        assert os.fstat(fd).st_size == sum(piece.size_bytes for piece in pieces)
        os.lseek(fd, 0, os.SEEK_SET)
        contents.read_pieces(other, pieces, FdSource(fd))
        os.close(fd)
    else:
        reading, writing = os.pipe()
        thread = threading.Thread(target=lambda: contents.write_pieces(memory, pieces, FdSink(writing)))
        thread.start()
        contents.read_pieces(other, pieces, FdSource(reading))
        thread.join()
        os.close(reading)
        os.close(writing)
    assert image(other) == image(memory)


def write_file(path: Path, memory: GuestMemory, prefix: int) -> tuple[int, list[contents.Piece]]:
    pieces = contents.find_pieces(memory)
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.lseek(fd, prefix, os.SEEK_SET)
    sink = FdSink(fd)
    contents.write_pieces(memory, pieces, sink)
    sink.finish()
    return fd, pieces


def test_mapped_memory_is_copied_on_write_and_then_its_own(tmp_path: Path) -> None:
    memory = make_memory()
    scatter(memory, 3)
    fd, pieces = write_file(tmp_path / "memory", memory, 2 * PAGE)
    other = make_memory()
    contents.map_pieces(other, pieces, fd, 2 * PAGE)
    assert image(other) == image(memory)
    gpa = pieces[0].gpa
    other.write(gpa, b"changed")
    expected = image(other)
    assert os.pread(fd, 7, 2 * PAGE) != b"changed"
    errors: list[StateError] = []
    settling = contents.Settling(other, pieces, os.dup(fd), 2 * PAGE, errors.append, call)
    settling.start()
    settling.wait()
    assert errors == []
    os.ftruncate(fd, 0)  # reading a page that still depended on the file would end this process
    assert image(other) == expected
    os.close(fd)


def test_damage_in_mapped_memory_is_found(tmp_path: Path) -> None:
    memory = make_memory()
    scatter(memory, 4)
    fd, pieces = write_file(tmp_path / "memory", memory, 0)
    byte = os.pread(fd, 1, 5 * PAGE + 17)
    os.pwrite(fd, bytes([byte[0] ^ 0x10]), 5 * PAGE + 17)
    errors: list[StateError] = []
    settling = contents.Settling(make_memory(), pieces, os.dup(fd), 0, errors.append, call)
    settling.start()
    settling.wait()
    assert len(errors) == 1
    assert "damaged: memory at 0x" in str(errors[0])
    os.lseek(fd, 0, os.SEEK_SET)
    with pytest.raises(StateError, match="damaged: memory at 0x"):
        contents.read_pieces(make_memory(), pieces, FdSource(fd))
    os.close(fd)


def test_file_that_ends_early_is_found(tmp_path: Path) -> None:
    memory = make_memory()
    scatter(memory, 5)
    fd, pieces = write_file(tmp_path / "memory", memory, 0)
    os.ftruncate(fd, os.fstat(fd).st_size - 1)
    os.lseek(fd, 0, os.SEEK_SET)
    with pytest.raises(StateError, match="truncated"):
        contents.read_pieces(make_memory(), pieces, FdSource(fd))
    errors: list[StateError] = []
    settling = contents.Settling(make_memory(), pieces, fd, 0, errors.append, call)
    settling.start()
    settling.wait()
    assert len(errors) == 1


@pytest.mark.parametrize("shared", [False, True])
def test_cleared_memory_is_zero_even_where_a_file_was_mapped(tmp_path: Path, shared: bool) -> None:
    memory = make_memory(shared=shared)
    scatter(memory, 6)
    fd, pieces = write_file(tmp_path / "memory", memory, 0)
    if not shared:
        contents.map_pieces(memory, pieces, fd, 0)
    contents.clear(memory)
    assert contents.find_pieces(memory) == []
    os.close(fd)


def test_piece_outside_memory_is_refused() -> None:
    with pytest.raises(StateError, match="memory at 0xa0000, where this machine has none"):
        contents.check_fit(make_memory(), [contents.Piece(0xA0000, PAGE, 0)])
    with pytest.raises(StateError, match="where this machine has none"):
        contents.check_fit(make_memory(), [contents.Piece(0x9F000, 2 * PAGE, 0)])


def test_writing_to_a_reader_who_sleeps_can_be_cancelled() -> None:
    reading, writing = os.pipe()
    cancelled = threading.Event()
    threading.Timer(0.2, cancelled.set).start()
    with pytest.raises(StateCancelledError):
        FdSink(writing, cancelled.is_set).write(bytes(8 * MIB))
    os.close(reading)
    os.close(writing)
