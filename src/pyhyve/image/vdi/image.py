"""An open VDI image.

Blocks are handed out in the order of their slots. `flush` makes data durable, then the count of blocks, then the map:
a map entry on disk never points to a slot that could be handed out again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.image.allocating import AllocatingImage, Run
from pyhyve.image.contract import CheckResult, ImageFormatError, LayerExtent, LayerState
from pyhyve.image.entries import EntryTable
from pyhyve.image.vdi.format import (
    BLOCK_DISCARDED,
    BLOCK_UNALLOCATED,
    BLOCKS_ALLOCATED_OFFSET,
    HEADER_SIZE_BYTES,
    ImageType,
    parse_header,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyhyve.image.contract import OpenRequest


class VdiImage(AllocatingImage):
    """VDI, dynamic or static."""

    format_name = "vdi"

    def __init__(self, request: OpenRequest) -> None:
        super().__init__(request)
        self.header = parse_header(self.storage.pread(HEADER_SIZE_BYTES, 0), self.storage.size_bytes)
        self._block = self.header.block_size
        self._table = EntryTable(self.storage, self.header.offset_bmap, self.header.blocks_in_image, 4)
        self._next: int | None = None  # first slot that no block has; found when first needed

    @property
    def size_bytes(self) -> int:
        """Virtual size."""
        return self.header.disk_size

    @property
    def cluster_size_bytes(self) -> int:
        """Block size."""
        return self._block

    def _locate(self, offset: int, length: int) -> Run:
        index, inside = divmod(offset, self._block)
        limit = -(-(inside + length) // self._block)
        slot = self._table[index]
        if slot >= BLOCK_DISCARDED:
            count = self._table.run_length(index, limit, 0)
            return Run(min(length, count * self._block - inside), LayerState.ZERO)
        if slot >= self.header.blocks_in_image:
            msg = f"VDI block {index} is at slot {slot}, outside the image"
            raise ImageFormatError(msg)
        count = min(self._table.run_length(index, limit, 1), self.header.blocks_in_image - slot)
        host = self.header.offset_data + slot * self._block + inside
        return Run(min(length, count * self._block - inside), LayerState.DATA, self.storage, host)

    def _describe(self, run: Run, start: int) -> Iterator[LayerExtent]:
        if run.state is LayerState.DATA and self.header.image_type == ImageType.STATIC:
            return self._with_holes(run, start)
        return super()._describe(run, start)

    def _first_free(self) -> int:
        if self._next is None:
            used = (max((slot for slot in page if slot < BLOCK_DISCARDED), default=-1) for page in self._table.pages())
            self._next = max(used, default=-1) + 1
        return self._next

    def _append(self, view: memoryview, offset: int) -> int:
        index, inside = divmod(offset, self._block)
        done = min(len(view), self._block - inside)
        slot = self._first_free()
        if slot >= self.header.blocks_in_image:
            msg = "the VDI block map uses slots twice or leaves some out: check the image"
            raise ImageFormatError(msg)
        host = self.header.offset_data + slot * self._block
        size = self.storage.size_bytes
        if size > host:  # left over from a crash
            self.storage.write_zeroes(host, min(self._block, size - host))
        if size < host + self._block:
            self.storage.truncate(host + self._block)
        self.storage.pwrite(view[:done], host + inside)
        self._next = slot + 1
        self._table[index] = slot
        if self._table.wants_write_back:
            self._write_back()
        return done

    def _write_back(self) -> None:
        self.storage.flush()
        if self._table.is_dirty and self._next is not None:
            self.storage.pwrite(self._next.to_bytes(4, "little"), BLOCKS_ALLOCATED_OFFSET)
            self.storage.flush()
            self._table.write_back()
            self.storage.flush()

    def check(self, *, fix_leaks: bool = False, fix_errors: bool = False) -> CheckResult:
        """Slots in range and used once, and their count; `fix_errors` corrects the count."""
        result = CheckResult()
        blocks = self.header.blocks_in_image
        seen = bytearray(-(-blocks // 8))
        index = allocated = 0
        for page in self._table.pages():
            if page.count(BLOCK_UNALLOCATED) == len(page):
                index += len(page)
                continue
            for slot in page:
                if slot < BLOCK_DISCARDED:
                    if slot >= blocks:
                        result.corruptions += 1
                        result.errors.append(f"ERROR: block index {index} out of range, is {slot}")
                    else:
                        allocated += 1
                        if seen[slot >> 3] >> (slot & 7) & 1:
                            result.corruptions += 1
                            result.errors.append(f"ERROR: block index {index} shares slot {slot} with another")
                        seen[slot >> 3] |= 1 << (slot & 7)
                index += 1
        stated = int.from_bytes(self.storage.pread(4, BLOCKS_ALLOCATED_OFFSET), "little")
        if allocated != stated:
            if fix_errors and not self.readonly and not result.corruptions:
                self.storage.pwrite(allocated.to_bytes(4, "little"), BLOCKS_ALLOCATED_OFFSET)
                result.corruptions_fixed += 1
            else:
                result.corruptions += 1
                result.errors.append(f"ERROR: allocated blocks mismatch, is {allocated}, should be {stated}")
        return result
