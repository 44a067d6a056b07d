"""The head of a state: every damage is found, and costs neither time nor memory."""

from __future__ import annotations

import random
import struct
import tracemalloc
from typing import TYPE_CHECKING
from zlib import crc32

import pytest

from pyhyve.state.errors import StateError
from pyhyve.state.format import HEADER_BYTES, LIMITS, MAX_PIECE_BYTES, PAGE_BYTES, Piece, build_head, parse_head

if TYPE_CHECKING:
    from collections.abc import Callable

PIECES = (Piece(0, PAGE_BYTES, 1), Piece(1 << 20, MAX_PIECE_BYTES, 2), Piece(1 << 40, 3 * PAGE_BYTES, 0xFFFFFFFF))
HEAD = build_head(b'{"a": 1}', b"[]" * 1001, PIECES, 0)


def reader(data: bytes) -> Callable[[int], bytes]:
    at = 0

    def read(size: int) -> bytes:
        nonlocal at
        part = data[at : at + size]
        at += len(part)
        return part

    return read


def test_head_is_read_back() -> None:
    head = parse_head(reader(HEAD))
    assert (head.machine, head.devices, head.pieces) == (b'{"a": 1}', b"[]" * 1001, PIECES)
    assert head.memory_offset == len(HEAD)
    assert head.memory_offset % PAGE_BYTES == 0
    assert head.memory_bytes == MAX_PIECE_BYTES + 4 * PAGE_BYTES


@pytest.mark.parametrize("start", [1, 4095, 4096, 77_777])
def test_memory_begins_on_a_page_of_the_file(start: int) -> None:
    head = parse_head(reader(build_head(b"{}", b"{}", PIECES, start)))
    assert (start + head.memory_offset) % PAGE_BYTES == 0


@pytest.mark.parametrize("length", [0, 1, 7, 8, 63, 64, 65, 100, len(HEAD) - 1])
def test_truncated_head_is_refused(length: int) -> None:
    with pytest.raises(StateError, match=r"truncated|foreign or empty"):
        parse_head(reader(HEAD[:length]))


def test_every_flipped_bit_is_found_up_to_the_padding() -> None:
    used = HEAD.rstrip(b"\0")
    for position in range(len(used)):
        for bit in range(8):
            damaged = bytearray(HEAD)
            damaged[position] ^= 1 << bit
            reserved = _is_reserved(position)
            try:
                parse_head(reader(bytes(damaged)))
            except StateError:
                continue
            assert reserved, f"bit {bit} of byte {position} was not missed"


def _is_reserved(position: int) -> bool:
    """Reserved words of section headers, and the padding between sections: readers skip them."""
    at = HEADER_BYTES
    for size in (8, 2002, 16 * len(PIECES)):
        if at + 28 <= position < at + 32 or at + 32 + size <= position < at + 32 + size + -size % 8:
            return True
        at += 32 + size + -size % 8
    return False


def reseal(head: bytearray) -> bytes:
    """Make the header's checksum right again."""
    head[HEADER_BYTES - 4 : HEADER_BYTES] = struct.pack("<I", crc32(bytes(head[: HEADER_BYTES - 4])))
    return bytes(head)


def test_newer_format_is_refused_by_its_version() -> None:
    head = bytearray(HEAD)
    head[8:12] = struct.pack("<I", 3)
    with pytest.raises(StateError, match="format version 3; this version of pyhyve reads up to 2"):
        parse_head(reader(reseal(head)))


@pytest.mark.parametrize("data", [b"\x7fELF" + bytes(200), b"LibvirtQemudSave" + bytes(200), bytes(4096)])
def test_foreign_file_is_refused(data: bytes) -> None:
    with pytest.raises(StateError, match="not a state of a machine"):
        parse_head(reader(data))


@pytest.mark.parametrize(
    "table",
    [
        struct.pack("<QII", 1, 4096, 0),
        struct.pack("<QII", 0, 0, 0),
        struct.pack("<QII", 0, 4097, 0),
        struct.pack("<QII", 0, MAX_PIECE_BYTES + PAGE_BYTES, 0),
        struct.pack("<QII", 1 << 60, 4096, 0),
        struct.pack("<QII", 0, 8192, 0) + struct.pack("<QII", 4096, 4096, 0),
        bytes(15),
    ],
    ids=["misaligned", "empty", "size", "long", "far", "overlapping", "cut"],
)
def test_memory_table_that_makes_no_sense_is_refused(table: bytes) -> None:
    with pytest.raises(StateError, match="damaged: memory table"):
        parse_head(reader(forge(table)))


def forge(table: bytes) -> bytes:
    """A head with a memory table of our own, all checksums right."""
    sections = b""
    for name, data in (("machine", b"{}"), ("devices", b"{}"), ("memory", table)):
        sections += struct.pack("<16sQII", name.encode(), len(data), crc32(data), 0) + data + bytes(-len(data) % 8)
    offset = -(-(HEADER_BYTES + len(sections)) // PAGE_BYTES) * PAGE_BYTES
    size = sum(struct.unpack_from("<I", table, at + 8)[0] for at in range(0, len(table) - 15, 16))
    head = bytearray(struct.pack("<8sIIQQQI16xI", b"PYHYVEST", 1, 3, len(sections), offset, size, 0, 0))
    return (reseal(head) + sections).ljust(offset, b"\0")


def test_forged_sizes_cost_no_memory() -> None:
    head = bytearray(struct.pack("<8sIIQQQI16xI", b"PYHYVEST", 1, 3, 1 << 62, 1 << 63, 1 << 63, 0, 0))
    tracemalloc.start()
    with pytest.raises(StateError):
        parse_head(reader(reseal(head)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_machine_that_is_too_large_is_refused_when_saving() -> None:
    with pytest.raises(StateError, match="too large to be saved"):
        build_head(bytes(LIMITS["machine"] + 1), b"{}", (), 0)


def test_random_bytes_are_refused() -> None:
    random_source = random.Random()
    for _ in range(2000):
        data = bytearray(HEAD)
        for _ in range(random_source.randrange(1, 9)):
            data[random_source.randrange(HEADER_BYTES)] = random_source.randrange(256)
        try:
            head = parse_head(reader(reseal(data) if random_source.random() < 0.7 else bytes(data)))
        except StateError:
            continue
        assert head.pieces == PIECES
