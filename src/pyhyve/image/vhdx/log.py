"""The log of a VHDX file: finding the active sequence and replaying it ([MS-VHDX] 2.3)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyhyve.image.contract import ImageFormatError
from pyhyve.image.vhdx.format import MIB, is_sealed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyhyve.image.storage import Storage
    from pyhyve.image.vhdx.format import Header

SECTOR_SIZE_BYTES = 4096
ENTRY_HEADER = struct.Struct("<4sIIIQI4x16sQQ")
DESCRIPTOR_SIZE_BYTES = 32
DATA_DESCRIPTOR = struct.Struct("<4s4s8sQQ")
ZERO_DESCRIPTOR = struct.Struct("<4s4xQQQ")
MAX_LOG_SIZE_BYTES = 256 * MIB
# Each entry's checksum is computed once; entries that overlap in a forged log must not add up.
MAX_CHECKED_BYTES = 16 * MIB
MAX_GROWTH_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Entry:
    """A log entry's header; `position` and `tail` are offsets in the log."""

    position: int
    length: int
    tail: int
    sequence_number: int
    descriptor_count: int
    flushed_file_offset: int
    last_file_offset: int

    @property
    def descriptor_sectors(self) -> int:
        """Sectors of header and descriptors."""
        used = ENTRY_HEADER.size + self.descriptor_count * DESCRIPTOR_SIZE_BYTES
        return -(-used // SECTOR_SIZE_BYTES)


def read_wrapped(storage: Storage, header: Header, position: int, length: int) -> bytes:
    """Bytes of the log from `position`, going on at its start."""
    first = min(length, header.log_length - position)
    data = storage.pread(first, header.log_offset + position)
    if first < length:
        data += storage.pread(length - first, header.log_offset)
    return data


def parse_entry(data: bytes, position: int, header: Header) -> Entry | None:
    """The entry header at `position`, when it looks like one of this log."""
    if len(data) < ENTRY_HEADER.size or data[:4] != b"loge":
        return None
    _signature, _crc, length, tail, sequence, count, guid, flushed, last = ENTRY_HEADER.unpack_from(data)
    entry = Entry(position, length, tail, sequence, count, flushed, last)
    sane = (
        guid == header.log_guid
        and sequence > 0
        and 0 < length <= header.log_length
        and not length % SECTOR_SIZE_BYTES
        and tail < header.log_length
        and not tail % SECTOR_SIZE_BYTES
        and entry.descriptor_sectors * SECTOR_SIZE_BYTES <= length
    )
    return entry if sane else None


class LogReader:
    """Reads the log that `header` (the active header) describes. ImageFormatError when it makes no sense."""

    def __init__(self, storage: Storage, header: Header) -> None:
        self._storage = storage
        self._header = header
        self._valid: dict[int, bool] = {}
        self._checked = 0
        if header.log_version or header.log_length % MIB or header.log_offset % MIB or header.log_offset < MIB:
            msg = "invalid VHDX image (the log's place is invalid)"
            raise ImageFormatError(msg)
        if header.log_length > MAX_LOG_SIZE_BYTES or header.log_offset + header.log_length > storage.size_bytes:
            msg = "invalid VHDX image (the log lies outside the file)"
            raise ImageFormatError(msg)

    def active_sequence(self) -> list[Entry]:
        """Entries from tail to head of the newest complete sequence; empty when there is none."""
        found: dict[int, Entry] = {}
        for position in range(0, self._header.log_length, SECTOR_SIZE_BYTES):
            data = self._storage.pread(ENTRY_HEADER.size, self._header.log_offset + position)
            entry = parse_entry(data, position, self._header)
            if entry is not None:
                found[position] = entry
        for head in sorted(found.values(), key=lambda entry: entry.sequence_number, reverse=True):
            sequence = self._sequence(found, head)
            if sequence:
                return sequence
        return []

    def _sequence(self, found: dict[int, Entry], head: Entry) -> list[Entry]:
        entries: list[Entry] = []
        position, total = head.tail, 0
        while True:
            entry = found.get(position)
            if entry is None or (entries and entry.sequence_number != entries[-1].sequence_number + 1):
                return []
            total += entry.length
            if total > self._header.log_length or not self._is_valid(entry):
                return []
            entries.append(entry)
            if entry is head:
                return entries
            position = (position + entry.length) % self._header.log_length

    def _is_valid(self, entry: Entry) -> bool:
        valid = self._valid.get(entry.position)
        if valid is None:
            self._checked += entry.length
            if self._checked > MAX_CHECKED_BYTES:
                msg = "the VHDX log has too many entries to check"
                raise ImageFormatError(msg)
            valid = is_sealed(read_wrapped(self._storage, self._header, entry.position, entry.length))
            self._valid[entry.position] = valid
        return valid

    def _updates(self, entry: Entry) -> Iterator[tuple[int, int, bytes | None]]:
        """`(file offset, length, data or None for zeroes)` of an entry's descriptors."""
        data = read_wrapped(self._storage, self._header, entry.position, entry.length)
        data_at = entry.descriptor_sectors * SECTOR_SIZE_BYTES
        for number in range(entry.descriptor_count):
            at = ENTRY_HEADER.size + number * DESCRIPTOR_SIZE_BYTES
            signature = data[at : at + 4]
            if signature == b"zero":
                _signature, length, offset, sequence = ZERO_DESCRIPTOR.unpack_from(data, at)
                content = None
            elif signature == b"desc":
                _signature, trailing, leading, offset, sequence = DATA_DESCRIPTOR.unpack_from(data, at)
                length = SECTOR_SIZE_BYTES
                sector = data[data_at : data_at + SECTOR_SIZE_BYTES]
                data_at += SECTOR_SIZE_BYTES
                if len(sector) < SECTOR_SIZE_BYTES or sector[:4] != b"data":
                    msg = "the VHDX log is damaged (a data sector is missing)"
                    raise ImageFormatError(msg)
                stated = int.from_bytes(sector[4:8], "little") << 32 | int.from_bytes(sector[-4:], "little")
                if stated != sequence:
                    msg = "the VHDX log is damaged (a data sector belongs to another entry)"
                    raise ImageFormatError(msg)
                content = leading + sector[8:-4] + trailing
            else:
                msg = "the VHDX log is damaged (unknown descriptor)"
                raise ImageFormatError(msg)
            if sequence != entry.sequence_number or offset % SECTOR_SIZE_BYTES or length % SECTOR_SIZE_BYTES:
                msg = "the VHDX log is damaged (a descriptor contradicts its entry)"
                raise ImageFormatError(msg)
            yield offset, length, content

    def replay(self, sequence: list[Entry]) -> None:
        """Carry out a sequence; the storage is flushed, the header is left to the caller."""
        storage = self._storage
        size = storage.size_bytes
        limit = size + MAX_GROWTH_BYTES
        updates: list[list[tuple[int, int, bytes | None]]] = []
        for entry in sequence:
            if entry.flushed_file_offset > size:
                msg = "the VHDX file is shorter than its log says: it was cut off"
                raise ImageFormatError(msg)
            found = list(self._updates(entry))
            if entry.last_file_offset > limit or any(offset + SECTOR_SIZE_BYTES > limit for offset, *_rest in found):
                msg = "the VHDX log writes far behind the end of the file"
                raise ImageFormatError(msg)
            updates.append(found)
        for entry, found in zip(sequence, updates, strict=True):
            for offset, length, content in found:
                if content is not None:
                    storage.pwrite(content, offset)
                    continue
                inside = min(length, storage.size_bytes - offset)
                if inside > 0:
                    storage.write_zeroes(offset, inside)
            if storage.size_bytes < entry.last_file_offset:
                storage.truncate(-(-entry.last_file_offset // MIB) * MIB)
        storage.flush()
