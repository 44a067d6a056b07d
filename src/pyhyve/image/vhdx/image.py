"""An open VHDX image.

BAT entries are eight bytes that never cross a sector, so they are updated in place after the data they refer to is
durable; the log is not needed for that, and a log left by another program is replayed before anything else.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pyhyve.image.allocating import AllocatingImage, Run
from pyhyve.image.contract import CheckResult, ImageFormatError, ImageUnsupportedError, LayerExtent, LayerState
from pyhyve.image.entries import EntryTable
from pyhyve.image.vhdx.create import new_guid
from pyhyve.image.vhdx.format import (
    FILE_IDENTIFIER,
    HEADER_OFFSETS,
    HEADER_SIZE_BYTES,
    MIB,
    NO_GUID,
    REGION_BAT,
    REGION_METADATA,
    REGION_TABLE_OFFSETS,
    REGION_TABLE_SIZE_BYTES,
    Header,
    PayloadBlock,
    Region,
    build_header,
    parse_header,
    parse_metadata,
    parse_region_table,
)
from pyhyve.image.vhdx.log import LogReader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyhyve.image.contract import OpenRequest

_STATE_MASK = 7
_OFFSET_MASK = ~(MIB - 1)


class VhdxImage(AllocatingImage):
    """VHDX without parent, dynamic or fixed."""

    format_name = "vhdx"

    def __init__(self, request: OpenRequest) -> None:
        super().__init__(request)
        storage = self.storage
        if storage.pread(len(FILE_IDENTIFIER), 0) != FILE_IDENTIFIER:
            msg = "Image not in VHDX format"
            raise ImageFormatError(msg)
        self._current = 0  # which header is the active one
        self.header = self._load_header()
        self.log_replayed = self._replay_log()
        regions = self._load_regions()
        where = regions[REGION_METADATA]
        self.metadata = parse_metadata(storage.pread(min(where.length, MIB), where.offset))
        bat = regions[REGION_BAT]
        if self.metadata.bat_entries * 8 > bat.length:
            msg = "invalid VHDX image (the BAT is too small for the disk)"
            raise ImageFormatError(msg)
        self._regions_end = max(region.offset + region.length for region in regions.values())
        self._block = self.metadata.block_size
        self._ratio = self.metadata.chunk_ratio
        self._table = EntryTable(storage, bat.offset, self.metadata.bat_entries, 8)
        self._end: int | None = None

    # --- headers, regions, log ---

    def _load_header(self) -> Header:
        found = []
        for number, offset in enumerate(HEADER_OFFSETS):
            header = parse_header(self.storage.pread(HEADER_SIZE_BYTES, offset))
            if header is not None:
                found.append((header.sequence_number, number, header))
        if not found:
            msg = "invalid VHDX image (both headers are damaged)"
            raise ImageFormatError(msg)
        _sequence, self._current, header = max(found, key=lambda item: item[:2])
        return header

    def _load_regions(self) -> dict[bytes, Region]:
        for offset in REGION_TABLE_OFFSETS:
            regions = parse_region_table(self.storage.pread(REGION_TABLE_SIZE_BYTES, offset))
            if regions is not None:
                bat, metadata = regions[REGION_BAT], regions[REGION_METADATA]
                if max(bat.offset, metadata.offset) < min(
                    bat.offset + bat.length, metadata.offset + metadata.length
                ):  # fmt: skip
                    msg = "invalid VHDX image (regions overlap)"
                    raise ImageFormatError(msg)
                return regions
        msg = "invalid VHDX image (both region tables are damaged)"
        raise ImageFormatError(msg)

    def _replay_log(self) -> bool:
        if self.header.log_guid == NO_GUID or not self.header.log_length:
            return False
        log = LogReader(self.storage, self.header)
        sequence = log.active_sequence()
        if sequence:
            if self.readonly:
                msg = (
                    "the VHDX image is opened read-only, but contains a log that needs to be replayed: run "
                    "`pyhyve img check -r all` on it"
                )
                raise ImageUnsupportedError(msg)
            log.replay(sequence)
        if not self.readonly:
            self._update_header(replace(self.header, log_guid=NO_GUID))
        return bool(sequence)

    def _update_header(self, changed: Header) -> None:
        """Write a changed header with the next sequence numbers to both places, the inactive one first."""
        for _ in range(2):
            self.header = replace(changed, sequence_number=(self.header.sequence_number + 1) & (1 << 64) - 1)
            self._current = 1 - self._current
            self.storage.pwrite(build_header(self.header), HEADER_OFFSETS[self._current])
            self.storage.flush()

    def _first_change(self) -> None:
        self._update_header(replace(self.header, file_write_guid=new_guid(), data_write_guid=new_guid()))

    # --- the disk ---

    @property
    def size_bytes(self) -> int:
        """Virtual size."""
        return self.metadata.virtual_disk_size

    @property
    def cluster_size_bytes(self) -> int:
        """Block size."""
        return self._block

    def _index(self, block: int) -> int:
        return block + block // self._ratio

    def _locate(self, offset: int, length: int) -> Run:
        block, inside = divmod(offset, self._block)
        limit = min(-(-(inside + length) // self._block), self._ratio - block % self._ratio)
        index = self._index(block)
        entry = self._table[index]
        state = entry & _STATE_MASK
        if state != PayloadBlock.FULLY_PRESENT:
            if state in {PayloadBlock.PARTIALLY_PRESENT, 4}:
                msg = f"VHDX block {block} has a state ({state}) that an image without parent cannot have"
                raise ImageFormatError(msg)
            count = self._table.run_length(index, limit, 0)
            return Run(min(length, count * self._block - inside), LayerState.ZERO)
        host = (entry & _OFFSET_MASK) + inside
        if host < self._regions_end or host - inside >= self.storage.size_bytes:
            msg = f"VHDX block {block} at {host - inside:#x} lies outside the file"
            raise ImageFormatError(msg)
        count = self._table.run_length(index, limit, self._block)
        return Run(min(length, count * self._block - inside), LayerState.DATA, self.storage, host)

    def _describe(self, run: Run, start: int) -> Iterator[LayerExtent]:
        # As QEMU, which has no block status for this format: all of the disk counts as data.
        yield LayerExtent(start, run.length, LayerState.DATA)

    def _find_end(self) -> int:
        if self._end is None:
            highest = self._regions_end - self._block
            for page in self._table.pages():
                present = (entry for entry in page if entry & _STATE_MASK == PayloadBlock.FULLY_PRESENT)
                highest = max(highest, max(present, default=0) & _OFFSET_MASK)
            if highest >= self.storage.size_bytes:
                msg = "a VHDX block lies outside the file"
                raise ImageFormatError(msg)
            end = max(highest + self._block, self.storage.size_bytes)
            self._end = -(-end // MIB) * MIB
        return self._end

    def _append(self, view: memoryview, offset: int) -> int:
        block, inside = divmod(offset, self._block)
        done = min(len(view), self._block - inside)
        place = self._find_end()
        self.storage.truncate(place + self._block)
        self.storage.pwrite(view[:done], place + inside)
        self._end = place + self._block
        self._table[self._index(block)] = place | PayloadBlock.FULLY_PRESENT
        if self._table.wants_write_back:
            self._write_back()
        return done

    def _write_back(self) -> None:
        self.storage.flush()
        if self._table.is_dirty:
            self._table.write_back()
            self.storage.flush()

    def check(self, *, fix_leaks: bool = False, fix_errors: bool = False) -> CheckResult:
        """Blocks inside the file; a replayed log counts as one corruption fixed."""
        result = CheckResult(corruptions_fixed=int(self.log_replayed))
        size = self.storage.size_bytes
        index = 0
        for page in self._table.pages():
            if page.count(PayloadBlock.ZERO) + page.count(PayloadBlock.NOT_PRESENT) == len(page):
                index += len(page)
                continue
            for entry in page:
                is_payload = (index + 1) % (self._ratio + 1) != 0
                offset = entry & _OFFSET_MASK
                if (
                    is_payload
                    and entry & _STATE_MASK == PayloadBlock.FULLY_PRESENT
                    and not self._regions_end <= offset < size
                ):
                    result.corruptions += 1
                    result.errors.append(f"ERROR: BAT entry {index} points to {offset:#x}, outside the file")
                index += 1
        return result
