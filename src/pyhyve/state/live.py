"""The stream of a machine that moves while it runs (docs/state-format.md): rounds of memory, then a state.

Everything here works on bytes, as in `state.format`, whose state without memory ends the stream.
"""

from __future__ import annotations

import struct
from enum import Enum, IntFlag
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from pyhyve.state.errors import StateError, StateTruncatedError
from pyhyve.state.format import LIVE_VERSION, MACHINE, MAX_PIECE_BYTES, PAGE_BYTES, build_start

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_RUN_BYTES = MAX_PIECE_BYTES
"""The largest run of pages whose contents follow."""
_RECORD = struct.Struct("<4sIQQII")
"""Kind, reserved, address, length in bytes, checksum of the contents, checksum of the bytes before."""
RECORD_BYTES = _RECORD.size
_ADDRESS_BITS = 52
_DAMAGED = "the state is damaged: a record of memory"
READY = b"PYHYVEOK"
"""What the destination answers when it has the whole state."""
GO = b"PYHYVEGO"
"""What the source answers to that: from here on the machine is the destination's."""


class LiveFlag(IntFlag):
    """Bits of the header's flags."""

    ANSWERS = 1
    """The stream goes both ways: the source waits for `READY`, the destination for `GO`."""


class RecordKind(Enum):
    """What a record is, by its first four bytes."""

    PAGES = b"PAGE"
    """Contents of a run of pages follow."""
    ZEROS = b"ZERO"
    """A run of pages is zero now."""
    ROUND = b"PASS"
    """A round begins: `gpa` is its number, from 1 on, `size_bytes` what is to be sent in it."""
    END = b"DONE"
    """There are no more pages; a state without memory follows."""


class Record(NamedTuple):
    """A record of the stream, checked in itself."""

    kind: RecordKind
    gpa: int
    size_bytes: int
    checksum: int


def build_live_start(machine: bytes, memory_bytes: int, flags: LiveFlag) -> bytes:
    """What a stream begins with. Raises StateError when `machine` is larger than readers accept."""
    return build_start(LIVE_VERSION, {MACHINE: machine}, 0, memory_bytes, flags)


def build_record(kind: RecordKind, gpa: int = 0, size_bytes: int = 0, checksum: int = 0) -> bytes:
    """A record's `RECORD_BYTES` bytes."""
    head = _RECORD.pack(kind.value, 0, gpa, size_bytes, checksum, 0)[:-4]
    return head + struct.pack("<I", crc32(head))


def read_record(read: Callable[[int], bytes]) -> Record:
    """The next record; `read(n)` gives the next `n` bytes, fewer at the end. Raises StateError."""
    data = read(RECORD_BYTES)
    if len(data) < RECORD_BYTES:
        raise StateTruncatedError
    tag, reserved, gpa, size, checksum, own = _RECORD.unpack(data)
    try:
        kind = RecordKind(tag)
    except ValueError:
        raise StateError(_DAMAGED) from None
    if crc32(data[:-4]) != own or reserved:
        raise StateError(_DAMAGED)
    if kind in {RecordKind.PAGES, RecordKind.ZEROS}:
        limit = MAX_RUN_BYTES if kind is RecordKind.PAGES else 1 << _ADDRESS_BITS
        if not 0 < size <= limit or (gpa | size) % PAGE_BYTES or gpa >> _ADDRESS_BITS:
            raise StateError(_DAMAGED)
    return Record(kind, gpa, size, checksum)
