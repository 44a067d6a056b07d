"""Guest memory sent while a guest changes it: runs of pages as records of a stream, and what takes them in."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING
from zlib import crc32

from pyhyve.memory import contents
from pyhyve.memory.contents import is_zero
from pyhyve.state.format import Piece
from pyhyve.state.live import RecordKind, build_record, read_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pyhyve.memory.guest import GuestMemory, MemoryRegion
    from pyhyve.state.streams import StateSink, StateSource

CHUNK_BYTES = 256 << 10
"""What is copied out of guest memory at once."""
_CLEAR_BYTES = 2 << 20


@dataclass(slots=True)
class Sent:
    """What was sent so far, in bytes of guest memory."""

    normal_bytes: int = 0
    zero_bytes: int = 0


class RoundWriter:
    """Writes runs of guest memory as records.

    The guest may write meanwhile: a chunk is copied first, and then looked at and sent. What it writes to a page after
    that marks the page again.
    """

    def __init__(self, memory: GuestMemory, sink: StateSink) -> None:
        self._memory = memory
        self._sink = sink
        self._copy = bytearray(CHUNK_BYTES)
        self._view = memoryview(self._copy)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._copy))
        self._zero_start = self._zero_end = 0
        self.sent = Sent()

    def begin(self, number: int, size_bytes: int) -> None:
        """Begin round `number`, of about `size_bytes`."""
        self._sink.write(build_record(RecordKind.ROUND, number, size_bytes))

    def write(self, runs: Sequence[tuple[int, int]], done: Callable[[int], None], *, skip_zeros: bool = False) -> None:
        """Send `runs` (address, size), each inside one region; `done(bytes)` is called after each part of it.

        With `skip_zeros`, pages that are zero are left out: the destination's still are. Raises OSError, StateError.
        """
        for gpa, size in runs:
            source = self._memory.view(gpa, size)
            for at in range(0, size, CHUNK_BYTES):
                length = min(CHUNK_BYTES, size - at)
                self._view[:length] = source[at : at + length]
                self._write_chunk(gpa + at, length, skip_zeros=skip_zeros)
                done(length)
        self._flush_zeros()

    def _write_chunk(self, gpa: int, length: int, *, skip_zeros: bool) -> None:
        at = 0
        for start, end in self._runs(length):
            if not skip_zeros:
                self._add_zeros(gpa + at, start - at)
            self._flush_zeros()
            data = self._view[start:end]
            record = build_record(RecordKind.PAGES, gpa + start, end - start, crc32(data))
            self._sink.write(b"".join((record, data)))
            self.sent.normal_bytes += end - start
            self.sent.zero_bytes += start - at
            at = end
        self.sent.zero_bytes += length - at
        if not skip_zeros:
            self._add_zeros(gpa + at, length - at)

    def _runs(self, length: int) -> Iterator[tuple[int, int]]:
        """Start and end, in the copy, of the runs of pages that are not zero."""
        if not is_zero(self._address, length):
            yield from contents.runs_in_chunk(self._address, 0, length, 0)

    def _add_zeros(self, gpa: int, size_bytes: int) -> None:
        """Runs of zero pages that touch, also over chunks, are one record; regions may touch too, but not as one."""
        if not size_bytes:
            return
        region = self._memory.find(gpa)
        if gpa != self._zero_end or (region is not None and region.gpa == gpa):
            self._flush_zeros()
            self._zero_start = gpa
        self._zero_end = gpa + size_bytes

    def _flush_zeros(self) -> None:
        size = self._zero_end - self._zero_start
        if size:
            self._sink.write(build_record(RecordKind.ZEROS, self._zero_start, size))
        self._zero_start = self._zero_end = 0

    def end(self) -> None:
        """There are no more pages."""
        self._sink.write(build_record(RecordKind.END))


def read_rounds(memory: GuestMemory, source: StateSource) -> int:
    """Take in records up to the last one; the number of rounds. `memory` was zero before the first.

    Nothing but guest memory is written to, and no more than a record is held. Raises StateError when the stream ends,
    is damaged, or has memory where there is none; OSError.
    """
    rounds = 0
    while True:
        record = read_record(source.read)
        match record.kind:
            case RecordKind.END:
                return rounds
            case RecordKind.ROUND:
                rounds += 1
            case RecordKind.PAGES:
                piece = [Piece(record.gpa, record.size_bytes, record.checksum)]
                contents.check_fit(memory, piece)
                contents.read_pieces(memory, piece, source)
            case RecordKind.ZEROS:
                region = contents.region_of(memory, Piece(record.gpa, record.size_bytes, record.checksum))
                _clear(region, record.gpa - region.gpa, record.size_bytes)


def _clear(region: MemoryRegion, start: int, size_bytes: int) -> None:
    """Zero pages of a region; those that are zero are not touched, so that the host need not have memory for them."""
    for at in range(start, start + size_bytes, _CLEAR_BYTES):
        length = min(_CLEAR_BYTES, start + size_bytes - at)
        if not is_zero(region.hva + at, length):
            region.view[at : at + length] = bytes(length)
