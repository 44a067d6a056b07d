"""The layout of a state file (docs/state-format.md): numbers, limits, and the parsing of its head.

Everything here works on bytes. All integers are little-endian, all checksums CRC-32 as in zlib.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING
from zlib import crc32

from pyhyve.state.errors import StateError, StateTruncatedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

MAGIC = b"PYHYVEST"
VERSION = 1
LIVE_VERSION = 2
"""A stream of rounds of memory (`state.live`); what ends it is a state of `VERSION`."""
PAGE_BYTES = 4096
HEADER_BYTES = 64
_HEADER = struct.Struct("<8sIIQQQI16xI")
"""Magic, version, sections, bytes of all sections, offset and length of the contents, flags, reserved, checksum."""
_SECTION = struct.Struct("<16sQII")
"""Name, length in bytes, checksum, reserved. The data follow, padded to 8 bytes."""
_PIECE = struct.Struct("<QII")
"""Guest physical address, length in bytes, checksum of the contents."""
MACHINE, DEVICES, MEMORY = "machine", "devices", "memory"
LIMITS = {MACHINE: 1 << 20, DEVICES: 32 << 20, MEMORY: 32 << 20}
"""The sections, in this order, and the largest each may be."""
MAX_PIECE_BYTES = 2 << 20
MAX_PIECES = LIMITS[MEMORY] // _PIECE.size
_MAX_PADDING = 1 << 20
_HEADER_NAME, _SECTIONS_NAME, _TABLE_NAME = "header", "list of sections", "memory table"


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of guest memory that is not all zero: whole pages, at most `MAX_PIECE_BYTES`."""

    gpa: int
    size_bytes: int
    checksum: int


@dataclass(frozen=True, slots=True)
class Head:
    """All of a state but the contents of memory, which are at `memory_offset` from its start, piece after piece.

    Of a stream of rounds (`is_live`) it is what precedes them: `devices` is empty, and there are no pieces.
    """

    machine: bytes
    devices: bytes
    pieces: tuple[Piece, ...]
    memory_offset: int
    memory_bytes: int
    is_live: bool = False
    flags: int = 0
    """Of a stream of rounds."""


def build_head(machine: bytes, devices: bytes, pieces: Sequence[Piece], start: int) -> bytes:
    """Everything before the contents of memory, in a file in which the state begins at `start`.

    It is padded so that they begin on a page. Raises StateError when a section is larger than readers accept.
    """
    data = {MACHINE: machine, DEVICES: devices, MEMORY: b"".join(_pack_piece(piece) for piece in pieces)}
    return build_start(VERSION, data, start, sum(piece.size_bytes for piece in pieces), 0)


def build_start(version: int, data: Mapping[str, bytes], start: int, memory_bytes: int, flags: int) -> bytes:
    """Header and sections, padded to a page when the state begins at `start` of its file. Raises StateError."""
    sections = b""
    for name, body in data.items():
        if len(body) > LIMITS[name]:
            msg = f"the machine is too large to be saved: {len(body)} bytes of {name}, at most {LIMITS[name]}"
            raise StateError(msg)
        sections += _SECTION.pack(name.encode(), len(body), crc32(body), 0) + body + bytes(-len(body) % 8)
    memory_offset = HEADER_BYTES + len(sections)
    memory_offset += -(start + memory_offset) % PAGE_BYTES
    header = _HEADER.pack(MAGIC, version, len(data), len(sections), memory_offset, memory_bytes, flags, 0)
    header = header[:-4] + struct.pack("<I", crc32(header[:-4]))
    return header + sections + bytes(memory_offset - HEADER_BYTES - len(sections))


def _pack_piece(piece: Piece) -> bytes:
    return _PIECE.pack(piece.gpa, piece.size_bytes, piece.checksum)


def parse_head(read: Callable[[int], bytes], *, may_be_live: bool = False) -> Head:
    """Read a state up to the contents of its memory; `read(n)` gives the next `n` bytes, fewer at the end.

    With `may_be_live` it may be a stream of rounds, which is read up to the first. Raises StateError, which says what
    is wrong. Takes memory in proportion to what was read and at most some multiple of `LIMITS`, whatever the bytes are.
    """
    header = read(HEADER_BYTES)
    if header[: len(MAGIC)] != MAGIC[: len(header)] or not header:
        msg = "not a state of a machine (a foreign or empty file)"
        raise StateError(msg)
    if len(header) < HEADER_BYTES:
        raise StateTruncatedError
    _, version, count, section_bytes, memory_offset, memory_bytes, flags, checksum = _HEADER.unpack(header)
    if version > LIVE_VERSION:
        msg = f"the state has format version {version}; this version of pyhyve reads up to {LIVE_VERSION}"
        raise StateError(msg)
    if crc32(header[:-4]) != checksum:
        raise _damaged(_HEADER_NAME)
    padding = memory_offset - HEADER_BYTES - section_bytes
    is_live = version == LIVE_VERSION
    expected = [MACHINE] if is_live else list(LIMITS)
    if is_live and not may_be_live:
        raise _damaged(_HEADER_NAME)
    if count != len(expected) or section_bytes > sum(LIMITS.values()) + 64 * count or not 0 <= padding <= _MAX_PADDING:
        raise _damaged(_HEADER_NAME)
    data = read(section_bytes)
    if len(data) < section_bytes:
        raise StateTruncatedError
    found = dict(_sections(data))
    if list(found) != expected:
        raise _damaged(_SECTIONS_NAME)
    pieces = tuple(_pieces(found.get(MEMORY, b"")))
    if not is_live and sum(piece.size_bytes for piece in pieces) != memory_bytes:
        raise _damaged(_TABLE_NAME)
    if len(read(padding)) < padding:
        raise StateTruncatedError
    devices = found.get(DEVICES, b"")
    return Head(found[MACHINE], devices, pieces, memory_offset, memory_bytes, is_live, flags if is_live else 0)


def _sections(data: bytes) -> Iterable[tuple[str, bytes]]:
    at = 0
    while at < len(data):
        if at + _SECTION.size > len(data):
            raise _damaged(_SECTIONS_NAME)
        raw_name, size, checksum, _ = _SECTION.unpack_from(data, at)
        name = raw_name.rstrip(b"\0").decode("ascii", "replace")
        at += _SECTION.size
        if size > LIMITS.get(name, 0) or at + size > len(data):
            raise _damaged(_SECTIONS_NAME)
        body = data[at : at + size]
        if crc32(body) != checksum:
            where = f"section {name}"
            raise _damaged(where)
        yield name, body
        at += size + -size % 8


def _pieces(table: bytes) -> Iterable[Piece]:
    """The table's entries: by rising address, apart, in whole pages."""
    if len(table) % _PIECE.size:
        raise _damaged(_TABLE_NAME)
    end = 0
    for gpa, size, checksum in _PIECE.iter_unpack(table):
        if gpa < end or not 0 < size <= MAX_PIECE_BYTES or (gpa | size) % PAGE_BYTES or gpa >> 52:
            raise _damaged(_TABLE_NAME)
        end = gpa + size
        yield Piece(gpa, size, checksum)


def _damaged(what: str) -> StateError:
    return StateError(f"the state is damaged: {what}")
