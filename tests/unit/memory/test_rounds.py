"""Memory sent in rounds arrives as it was, zeros cost nothing, and a hostile stream changes nothing but memory."""

from __future__ import annotations

import os
import random
import threading
from typing import TYPE_CHECKING
from zlib import crc32

import pytest

from pyhyve.memory import contents
from pyhyve.memory.guest import GuestMemory
from pyhyve.memory.rounds import CHUNK_BYTES, RoundWriter, read_rounds
from pyhyve.state import streams
from pyhyve.state.errors import StateError, StateTruncatedError
from pyhyve.state.live import RECORD_BYTES, RecordKind, build_record, read_record
from pyhyve.state.streams import FdSink, FdSource

if TYPE_CHECKING:
    from collections.abc import Sequence

PAGE, MIB = 4096, 1 << 20
HIGH = 0x1_0000_0000


def make_memory() -> GuestMemory:
    memory = GuestMemory(shared=False)
    memory.add(0, 8 * MIB)
    memory.add(HIGH - MIB, MIB, readonly=True, name="rom")
    memory.add(HIGH, 4 * MIB)
    return memory


class Bytes:
    """A sink and source of what was written."""

    start = 0

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)
        self._at = 0

    def write(self, data: bytes | memoryview) -> None:
        self.data += data

    def skip_zeros(self, size_bytes: int) -> None:
        raise AssertionError(size_bytes)

    def finish(self) -> None:
        raise AssertionError

    def read(self, size_bytes: int) -> bytes:
        part = bytes(self.data[self._at : self._at + size_bytes])
        self._at += len(part)
        return part

    def read_into(self, views: Sequence[memoryview]) -> None:
        for view in views:
            part = self.read(len(view))
            if len(part) < len(view):
                raise StateTruncatedError
            view[:] = part

    def records(self) -> list[tuple[RecordKind, int, int]]:
        found = []
        source = Bytes(bytes(self.data))
        while source._at < len(source.data):
            record = read_record(source.read)
            found.append((record.kind, record.gpa, record.size_bytes))
            if record.kind is RecordKind.PAGES:
                source.read(record.size_bytes)
        return found


def everything(memory: GuestMemory) -> list[tuple[int, int]]:
    return [(region.gpa, region.size_bytes) for region in memory.regions]


def same(a: GuestMemory, b: GuestMemory) -> bool:
    return all(one.view == other.view for one, other in zip(a.regions, b.regions, strict=True))


def test_rounds_bring_memory_over_while_it_changes() -> None:
    random_source = random.Random(7)
    memory, other, stream = make_memory(), make_memory(), Bytes()
    for _ in range(60):
        gpa = random_source.choice([0, HIGH]) + random_source.randrange(4 * MIB - 3 * PAGE)
        memory.write(gpa, random_source.randbytes(random_source.randrange(1, 3 * PAGE)))
    memory.write(HIGH - 17, b"reset vector here")
    writer = RoundWriter(memory, stream)
    writer.begin(1, 13 * MIB)
    counted: list[int] = []
    writer.write(everything(memory), counted.append, skip_zeros=True)
    assert sum(counted) == 13 * MIB
    assert max(counted) <= CHUNK_BYTES
    assert writer.sent.normal_bytes + writer.sent.zero_bytes == 13 * MIB
    assert not any(kind is RecordKind.ZEROS for kind, _, _ in stream.records())
    for number in range(2, 5):
        dirty = []
        for _ in range(20):
            page = random_source.choice([0, HIGH]) + random_source.randrange(4 * MIB // PAGE) * PAGE
            memory.write(page, random_source.choice([bytes(PAGE), random_source.randbytes(PAGE)]))
            dirty.append((page, PAGE))
        writer.begin(number, len(dirty) * PAGE)
        writer.write(dirty, counted.append)
    writer.end()
    assert read_rounds(other, stream) == 4
    assert same(memory, other)


def test_zero_pages_cost_a_record_for_a_run() -> None:
    memory, stream = make_memory(), Bytes()
    writer = RoundWriter(memory, stream)
    memory.write(3 * MIB, b"x")
    writer.write(everything(memory), lambda _: None)
    assert stream.records() == [
        (RecordKind.ZEROS, 0, 3 * MIB),
        (RecordKind.PAGES, 3 * MIB, PAGE),
        (RecordKind.ZEROS, 3 * MIB + PAGE, 5 * MIB - PAGE),
        (RecordKind.ZEROS, HIGH - MIB, MIB),
        (RecordKind.ZEROS, HIGH, 4 * MIB),
    ]


def test_page_that_became_zero_is_cleared() -> None:
    memory, other = make_memory(), make_memory()
    other.write(5 * PAGE, b"old" * 4000)
    stream = Bytes()
    writer = RoundWriter(memory, stream)
    writer.write([(4 * PAGE, 5 * PAGE)], lambda _: None)
    writer.end()
    read_rounds(other, stream)
    assert same(memory, other)


def test_rounds_go_through_a_pipe() -> None:
    memory, other = make_memory(), make_memory()
    memory.write(100, random.Random(1).randbytes(3 * MIB))
    reading, writing = os.pipe()

    def send() -> None:
        writer = RoundWriter(memory, FdSink(writing))
        writer.write(everything(memory), lambda _: None)
        writer.end()
        os.close(writing)

    thread = threading.Thread(target=send)
    thread.start()
    read_rounds(other, FdSource(reading))
    thread.join()
    os.close(reading)
    assert same(memory, other)


def test_shared_memory_that_nobody_wrote_is_not_read() -> None:
    memory = GuestMemory(shared=True)
    region = memory.add(0, 64 * MIB)
    memory.write(5 * MIB, b"x")
    memory.write(40 * MIB - 1, b"xy")
    assert list(contents.data_ranges(region)) == [(5 * MIB, 5 * MIB + PAGE), (40 * MIB - PAGE, 40 * MIB + PAGE)]
    pieces = contents.find_pieces(memory)
    assert [(piece.gpa, piece.size_bytes) for piece in pieces] == [
        (5 * MIB, PAGE),
        (40 * MIB - PAGE, PAGE),
        (40 * MIB, PAGE),
    ]
    writer = RoundWriter(memory, Bytes())
    writer.write([(start, end - start) for start, end in contents.data_ranges(region)], lambda _: None)
    assert os.fstat(region.fd).st_blocks * 512 == 3 * PAGE


def test_shared_memory_without_a_byte_has_nothing_to_send() -> None:
    memory = GuestMemory(shared=True)
    assert list(contents.data_ranges(memory.add(0, 64 * MIB))) == []
    assert contents.find_pieces(memory) == []


def stream_of(*parts: bytes) -> Bytes:
    return Bytes(b"".join(parts))


@pytest.mark.parametrize("gpa", [8 * MIB - PAGE, 20 * MIB, HIGH - PAGE, HIGH + 4 * MIB - PAGE, 1 << 51])
@pytest.mark.parametrize("kind", [RecordKind.PAGES, RecordKind.ZEROS])
def test_pages_where_there_is_no_memory_are_refused(gpa: int, kind: RecordKind) -> None:
    data = bytes(2 * PAGE)
    with pytest.raises(StateError, match=r"memory at 0x[0-9a-f]+, where this machine has none"):
        read_rounds(make_memory(), stream_of(build_record(kind, gpa, len(data), crc32(data)), data))


def test_huge_run_of_zeros_costs_no_memory_here() -> None:
    with pytest.raises(StateError, match="where this machine has none"):
        read_rounds(make_memory(), stream_of(build_record(RecordKind.ZEROS, 0, 1 << 51)))


def test_contents_that_do_not_fit_their_checksum_are_refused() -> None:
    with pytest.raises(StateError, match="damaged: memory at 0x1000"):
        read_rounds(make_memory(), stream_of(build_record(RecordKind.PAGES, PAGE, PAGE, 1), bytes(PAGE)))


def test_every_truncated_stream_is_refused() -> None:
    memory, stream = make_memory(), Bytes()
    memory.write(PAGE, b"x")
    writer = RoundWriter(memory, stream)
    writer.begin(1, PAGE)
    writer.write([(0, 3 * PAGE)], lambda _: None)
    writer.end()
    whole = bytes(stream.data)
    assert read_rounds(make_memory(), Bytes(whole)) == 1
    for length in [*range(0, len(whole), 61), len(whole) - 1, len(whole) - RECORD_BYTES]:
        with pytest.raises(StateTruncatedError):
            read_rounds(make_memory(), Bytes(whole[:length]))


class FakeClock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now_s += seconds


def test_sink_keeps_to_a_limit_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    monkeypatch.setattr(streams, "time", clock)
    fd = os.memfd_create("sink")
    limit, begin_s, begin_bytes = 0, clock.now_s, 0

    def max_bandwidth() -> int:
        if limit:  # what was written by now, but for a tenth of a second's worth, was allowed by now
            assert sink.written_bytes - begin_bytes <= limit * (clock.now_s - begin_s + 0.1) + max(limit // 10, 4096)
        return limit

    sink = FdSink(fd, max_bandwidth=max_bandwidth)

    def seconds_for(size_bytes: int, new_limit: int) -> float:
        nonlocal limit, begin_s, begin_bytes
        limit, begin_s, begin_bytes = new_limit, clock.now_s, sink.written_bytes
        sink.write(bytes(size_bytes))
        assert sink.written_bytes == begin_bytes + size_bytes
        return clock.now_s - begin_s

    assert seconds_for(8 << 20, 0) == 0
    assert 3.8 < seconds_for(256 << 10, 64 << 10) < 4.1
    assert 7.8 < seconds_for(8 << 20, 1 << 20) < 8.2
    assert seconds_for(8 << 20, 0) == 0
    clock.now_s += 60  # a pause gives no right to a burst
    assert 3.8 < seconds_for(256 << 10, 64 << 10) < 4.1
    assert os.fstat(fd).st_size == sink.written_bytes
    os.close(fd)


def test_sink_does_not_wait_for_an_old_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    monkeypatch.setattr(streams, "time", clock)
    fd = os.memfd_create("sink")
    sink = FdSink(fd, max_bandwidth=lambda: 16 if clock.now_s < 1001 else 1 << 20)
    sink.write(bytes(1 << 20))  # the first 4 KiB take four minutes by the old one
    assert clock.now_s < 1004
    os.close(fd)
