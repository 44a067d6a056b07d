"""Extents: the pieces a VMDK disk is made of. The image holds its lock while it calls them."""

from __future__ import annotations

import sys
import zlib
from abc import ABC, abstractmethod
from collections import OrderedDict
from typing import TYPE_CHECKING

from pyhyve.image.allocating import Run
from pyhyve.image.contract import ImageError, ImageFormatError, ImageUnsupportedError, LayerState
from pyhyve.image.entries import EntryTable, ascending, run_length
from pyhyve.image.qcow2.compression import DeflateCodec
from pyhyve.image.vmdk.format import (
    COWD_MAGIC,
    GD_AT_END,
    GRAIN_MARKER,
    GTE_ZEROED,
    HEADER_SIZE_BYTES,
    MARKER,
    Flag,
    MarkerType,
    SparseHeader,
    parse_cowd_header,
    parse_sparse_header,
)
from pyhyve.support.arrays import array

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyhyve.image.storage import Storage

_GT_CACHE = 1024
_DIRTY_TABLES_LIMIT = 256
_CODEC_WINDOW_BITS = 15  # RFC 1950 streams
_SECTOR_BITS = 9
_MAX_SECTOR = 0xFFFFFFFF


class Extent(ABC):
    """`[start, start + length)` of the disk, in bytes."""

    def __init__(self, storage: Storage | None, start: int, length: int, type_name: str) -> None:
        self.storage = storage
        self.start = start
        self.length = length
        self.type_name = type_name

    @abstractmethod
    def locate(self, offset: int, length: int) -> Run:
        """The run at `offset` of the extent."""


class FlatExtent(Extent):
    """Bytes of a file from `host` on."""

    def __init__(self, storage: Storage, start: int, length: int, type_name: str, host: int) -> None:
        super().__init__(storage, start, length, type_name)
        self.host = host

    def locate(self, offset: int, length: int) -> Run:
        """One run."""
        return Run(length, LayerState.DATA, self.storage, self.host + offset)


class ZeroExtent(Extent):
    """No file: reads as zero, cannot be written."""

    def locate(self, offset: int, length: int) -> Run:
        """One run."""
        return Run(length, LayerState.ZERO)


def read_sparse_header(storage: Storage) -> SparseHeader:
    """The header of a sparse extent, or its footer when that is where the grain directory is stated."""
    data = storage.pread(HEADER_SIZE_BYTES, 0)
    if data[:4] == COWD_MAGIC:
        return parse_cowd_header(data)
    header = parse_sparse_header(data)
    if header.gd_offset != GD_AT_END:
        return header
    # The last three sectors: footer marker, footer, end-of-stream marker.
    tail = storage.pread(3 * 512, max(0, storage.size_bytes - 3 * 512))
    if len(tail) == 3 * 512:
        _value, size, kind = MARKER.unpack_from(tail)
        if kind == MarkerType.FOOTER and not size:
            footer = parse_sparse_header(tail[512:1024])
            if footer.gd_offset != GD_AT_END:
                return SparseHeader(
                    footer.version, footer.flags, footer.capacity, footer.grain_size, header.descriptor_offset,
                    header.descriptor_size, footer.num_gtes_per_gt, 0, footer.gd_offset, footer.over_head,
                    footer.compress_algorithm, has_footer=True,
                )  # fmt: skip
    msg = "invalid VMDK extent (the footer is missing: the file may be cut off)"
    raise ImageFormatError(msg)


class SparseExtent(Extent):
    """Grains found through a grain directory and grain tables, plain or compressed."""

    storage: Storage

    def __init__(
        self, storage: Storage, start: int, length: int, type_name: str, header: SparseHeader, *, writable: bool
    ) -> None:
        super().__init__(storage, start, length, type_name)
        self.header = header
        self.compressed = bool(header.flags & Flag.COMPRESSED)
        self.grain_bytes = header.grain_size << _SECTOR_BITS
        if writable and (header.has_footer or header.is_cowd or (header.version == 3 and not self.compressed)):
            msg = "this kind of VMDK extent can only be read (version 3, ESX COW or a directory at its end)"
            raise ImageUnsupportedError(msg)
        if storage.size_bytes < header.over_head << _SECTOR_BITS:
            msg = f"File truncated, expecting at least {header.over_head << _SECTOR_BITS} bytes"
            raise ImageFormatError(msg)
        self._directory = EntryTable(storage, header.gd_offset << _SECTOR_BITS, header.gd_size, 4)
        self._redundant: EntryTable | None = None
        if writable and header.flags & Flag.REDUNDANT_GRAIN_TABLE:
            self._redundant = EntryTable(storage, header.rgd_offset << _SECTOR_BITS, header.gd_size, 4)
        self._per_table = header.num_gtes_per_gt
        self._tables: OrderedDict[int, array[int]] = OrderedDict()
        self._dirty: dict[int, tuple[int, int]] = {}
        self._codec = DeflateCodec(_CODEC_WINDOW_BITS)

    # --- tables ---

    def _table(self, number: int) -> array[int] | None:
        table = self._tables.get(number)
        if table is not None:
            self._tables.move_to_end(number)
            return table
        sector = self._directory[number]
        if not sector:
            return None
        size = self._per_table * 4
        data = self.storage.pread(size, sector << _SECTOR_BITS)
        if len(data) < size:
            msg = f"the VMDK grain table at sector {sector} lies outside the file"
            raise ImageFormatError(msg)
        table = array("I", data)
        if sys.byteorder == "big":
            table.byteswap()
        self._remember(number, table)
        return table

    def _remember(self, number: int, table: array[int]) -> None:
        self._tables[number] = table
        if len(self._tables) > _GT_CACHE:
            for old in self._tables:
                if old not in self._dirty and old != number:
                    del self._tables[old]
                    break

    def _entry(self, offset: int) -> tuple[array[int] | None, int]:
        number, index = divmod(offset // self.grain_bytes, self._per_table)
        return self._table(number), index

    def locate(self, offset: int, length: int) -> Run:
        """The run at `offset`; packed runs are one grain."""
        inside = offset % self.grain_bytes
        table, index = self._entry(offset)
        limit = min(self._per_table - index, -(-(inside + length) // self.grain_bytes))
        if table is None:
            return Run(min(length, limit * self.grain_bytes - inside), LayerState.UNALLOCATED)
        entry = table[index]
        if not entry or (entry == GTE_ZEROED and self.header.flags & Flag.ZEROED_GRAIN):
            count = run_length(table, index, limit, 0)
            state = LayerState.ZERO if entry else LayerState.UNALLOCATED
            return Run(min(length, count * self.grain_bytes - inside), state)
        if self.compressed:
            return Run(min(length, self.grain_bytes - inside), LayerState.DATA, None, entry << _SECTOR_BITS)
        host = (entry << _SECTOR_BITS) + inside
        if host >= self.storage.size_bytes:
            msg = f"the VMDK grain at sector {entry} lies outside the file"
            raise ImageFormatError(msg)
        count = run_length(table, index, limit, self.header.grain_size)
        return Run(min(length, count * self.grain_bytes - inside), LayerState.DATA, self.storage, host)

    # --- compressed grains ---

    def compress(self, grain: bytes | memoryview) -> bytes:
        """A whole grain, deflated. Needs no lock."""
        return self._codec.compress(grain)

    def unpack(self, host: int, offset: int) -> bytes:
        """The grain stored at `host`, which starts at `offset` of the extent."""
        limit = 2 * self.grain_bytes
        if self.header.flags & Flag.MARKERS:
            data = self.storage.pread(GRAIN_MARKER.size, host)
            size = GRAIN_MARKER.unpack(data)[1] if len(data) == GRAIN_MARKER.size else 0
            if not 0 < size <= limit:
                msg = f"the VMDK grain at {host:#x} has an invalid compressed size ({size})"
                raise ImageFormatError(msg)
            packed = self.storage.pread(size, host + GRAIN_MARKER.size)
        else:
            packed = self.storage.pread(limit, host)
        stream = zlib.decompressobj(_CODEC_WINDOW_BITS)
        try:
            grain = stream.decompress(packed, self.grain_bytes)
        except zlib.error as error:
            msg = f"the VMDK grain at {host:#x} is damaged"
            raise ImageFormatError(msg) from error
        # The last grain may hold only what the disk has.
        if len(grain) < min(self.grain_bytes, self.length - offset):
            msg = f"the VMDK grain at {host:#x} is too short"
            raise ImageFormatError(msg)
        return grain.ljust(self.grain_bytes, b"\0")

    def append_packed(self, offset: int, packed: bytes) -> None:
        """Store a compressed grain behind the others."""
        data = packed
        if self.header.flags & Flag.MARKERS:
            data = GRAIN_MARKER.pack(offset >> _SECTOR_BITS, len(packed)) + packed
        place = self._end(1)
        self._check_place(place, -(-len(data) >> _SECTOR_BITS))
        self.storage.pwrite(data.ljust(-(-len(data) // 512) * 512, b"\0"), place << _SECTOR_BITS)
        self._set(offset, place, 1, 0)

    # --- writing ---

    def _end(self, alignment: int) -> int:
        """First free sector."""
        sectors = max(-(-self.storage.size_bytes >> _SECTOR_BITS), self.header.over_head)
        return -(-sectors // alignment) * alignment

    @staticmethod
    def _check_place(place: int, sectors: int) -> None:
        if place + sectors > _MAX_SECTOR:
            msg = "the VMDK extent file is as large as it can be (2 TiB)"
            raise ImageError(msg)

    def append(self, parts: list[memoryview], offset: int, grains: int) -> None:
        """Store whole grains (`parts`, one after another) that have no place yet, all in one grain table."""
        place = self._end(self.header.grain_size)
        self._check_place(place, grains * self.header.grain_size)
        self.storage.pwritev([part for part in parts if len(part)], place << _SECTOR_BITS)
        self._set(offset, place, grains, self.header.grain_size)

    def set_zeroed(self, offset: int, grains: int) -> None:
        """Grains that read as zero."""
        self._set(offset, GTE_ZEROED, grains, 0)

    def _set(self, offset: int, first: int, grains: int, step: int) -> None:
        number, index = divmod(offset // self.grain_bytes, self._per_table)
        table = self._table(number) or self._new_table(number)
        table[index : index + grains] = ascending("I", first, grains, step)
        low, high = self._dirty.get(number, (index, index + grains))
        self._dirty[number] = min(low, index), max(high, index + grains)

    def _new_table(self, number: int) -> array[int]:
        sectors = -(-self._per_table * 4 // 512)
        for directory in (self._directory, self._redundant):
            if directory is not None:
                place = self._end(1)
                self._check_place(place, sectors)
                self.storage.truncate((place + sectors) << _SECTOR_BITS)
                directory[number] = place
        table = array("I", (0,)) * self._per_table
        self._remember(number, table)
        self._dirty[number] = (0, self._per_table)
        return table

    @property
    def wants_write_back(self) -> bool:
        """Whether changed tables take more memory than they should."""
        return len(self._dirty) > _DIRTY_TABLES_LIMIT

    def write_back(self) -> None:
        """Data is durable first, then grain tables, then directories."""
        self.storage.flush()
        if not self._dirty:
            return
        for number, (low, high) in sorted(self._dirty.items()):
            part = self._tables[number][low:high]
            if sys.byteorder == "big":
                part.byteswap()
            data = part.tobytes()
            for directory in (self._redundant, self._directory):
                sector = directory[number] if directory is not None else 0
                if sector:
                    self.storage.pwrite(data, (sector << _SECTOR_BITS) + low * 4)
        self._dirty.clear()
        self.storage.flush()
        directories = [directory for directory in (self._redundant, self._directory) if directory is not None]
        if any(directory.is_dirty for directory in directories):
            for directory in directories:
                directory.write_back()
            self.storage.flush()

    def misplaced(self) -> Iterator[str]:
        """A line for every grain outside the file."""
        end = self.storage.size_bytes >> _SECTOR_BITS
        for number in range(self._directory.count):
            try:
                table = self._table(number)
            except ImageFormatError as error:
                yield f"ERROR: {error}"
                continue
            if table is not None and max(table) >= end:
                for index, entry in enumerate(table):
                    if entry >= end:
                        yield f"ERROR: grain {number * self._per_table + index} at sector {entry} is outside the file"
