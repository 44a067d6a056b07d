"""Records of a stream of rounds: read back as written, every damage found, nothing taken on trust."""

from __future__ import annotations

import io
import random
import struct
from zlib import crc32

import pytest

from pyhyve.state.errors import StateError, StateTruncatedError
from pyhyve.state.format import LIMITS, build_head, parse_head
from pyhyve.state.live import (
    MAX_RUN_BYTES,
    RECORD_BYTES,
    LiveFlag,
    Record,
    RecordKind,
    build_live_start,
    build_record,
    read_record,
)

START = build_live_start(b'{"a": 1}', 1 << 30, LiveFlag.ANSWERS)
PAGES = build_record(RecordKind.PAGES, 0x1234000, 3 * 4096, 0xDEADBEEF)


def test_start_is_read_back() -> None:
    head = parse_head(io.BytesIO(START).read, may_be_live=True)
    assert (head.machine, head.devices, head.pieces) == (b'{"a": 1}', b"", ())
    assert (head.is_live, head.flags, head.memory_bytes) == (True, LiveFlag.ANSWERS, 1 << 30)
    assert head.memory_offset == len(START)


def test_stream_of_rounds_is_refused_where_none_can_be() -> None:
    with pytest.raises(StateError, match="the state is damaged: header"):
        parse_head(io.BytesIO(START).read)


def test_state_that_is_not_live_has_no_flags() -> None:
    assert parse_head(io.BytesIO(build_head(b"{}", b"{}", (), 0)).read, may_be_live=True).flags == 0


@pytest.mark.parametrize("length", range(0, len(START), 7))
def test_truncated_start_is_refused(length: int) -> None:
    with pytest.raises(StateError, match=r"truncated|foreign or empty"):
        parse_head(io.BytesIO(START[:length]).read, may_be_live=True)


def test_machine_that_is_too_large_is_refused() -> None:
    with pytest.raises(StateError, match="too large to be saved"):
        build_live_start(bytes(LIMITS["machine"] + 1), 0, LiveFlag(0))


@pytest.mark.parametrize(
    "record",
    [
        Record(RecordKind.PAGES, 0x1234000, MAX_RUN_BYTES, 0xFFFFFFFF),
        Record(RecordKind.ZEROS, 0, 1 << 40, 0),
        Record(RecordKind.ROUND, 3, 12345, 0),
        Record(RecordKind.END, 0, 0, 0),
    ],
)
def test_record_is_read_back(record: Record) -> None:
    data = build_record(*record)
    assert len(data) == RECORD_BYTES
    assert read_record(io.BytesIO(data).read) == record


def test_every_flipped_bit_of_a_record_is_found() -> None:
    for bit in range(8 * len(PAGES)):
        damaged = bytearray(PAGES)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(StateError, match="damaged: a record of memory"):
            read_record(io.BytesIO(damaged).read)


@pytest.mark.parametrize("length", range(RECORD_BYTES))
def test_truncated_record_is_refused(length: int) -> None:
    with pytest.raises(StateTruncatedError):
        read_record(io.BytesIO(PAGES[:length]).read)


@pytest.mark.parametrize(
    ("kind", "gpa", "size"),
    [
        (RecordKind.PAGES, 0, 0),
        (RecordKind.PAGES, 1, 4096),
        (RecordKind.PAGES, 0, 4095),
        (RecordKind.PAGES, 0, MAX_RUN_BYTES + 4096),
        (RecordKind.PAGES, 1 << 52, 4096),
        (RecordKind.ZEROS, 0, 0),
        (RecordKind.ZEROS, 2048, 4096),
        (RecordKind.ZEROS, 0, (1 << 52) + 4096),
        (RecordKind.ZEROS, 1 << 63, 4096),
    ],
)
def test_record_that_makes_no_sense_is_refused(kind: RecordKind, gpa: int, size: int) -> None:
    with pytest.raises(StateError, match="damaged: a record of memory"):
        read_record(io.BytesIO(build_record(kind, gpa, size)).read)


def test_unknown_and_reserved_are_refused() -> None:
    for tag, reserved in ((b"GARB", 0), (b"PAGE", 1)):
        head = struct.pack("<4sIQQI", tag, reserved, 0, 4096, 0)
        with pytest.raises(StateError, match="damaged: a record of memory"):
            read_record(io.BytesIO(head + struct.pack("<I", crc32(head))).read)


def test_garbage_is_refused() -> None:
    source = random.Random()
    for _ in range(1000):
        with pytest.raises(StateError):
            read_record(io.BytesIO(source.randbytes(RECORD_BYTES)).read)
