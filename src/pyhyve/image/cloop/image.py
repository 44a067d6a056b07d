"""An open cloop image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.image.allocating import Run
from pyhyve.image.cloop.format import HEADER_SIZE_BYTES, parse_header
from pyhyve.image.contract import ImageFormatError, LayerState
from pyhyve.image.entries import EntryTable
from pyhyve.image.packed import PackedImage, unpack

if TYPE_CHECKING:
    from pyhyve.image.contract import OpenRequest


class CloopImage(PackedImage):
    """cloop version 2.0."""

    format_name = "cloop"

    def __init__(self, request: OpenRequest) -> None:
        super().__init__(request)
        size = self.storage.size_bytes
        self.header = parse_header(self.storage.pread(HEADER_SIZE_BYTES, 0), size)
        self._offsets = EntryTable(self.storage, HEADER_SIZE_BYTES, self.header.num_blocks + 1, 8, big_endian=True)

    @property
    def size_bytes(self) -> int:
        """All blocks."""
        return self.header.block_size * self.header.num_blocks

    def _unit_start(self, unit: int) -> int:
        return unit * self.header.block_size

    def _locate(self, offset: int, length: int) -> Run:
        block, inside = divmod(offset, self.header.block_size)
        return Run(min(length, self.header.block_size - inside), LayerState.DATA, None, block)

    def _unpack(self, unit: int) -> bytes:
        with self._lock:
            start, end = self._offsets[unit], self._offsets[unit + 1]
        if not start <= end <= self.storage.size_bytes or end - start > 2 * self.header.block_size + 4096:
            msg = f"cloop block {unit} has invalid offsets ({start}, {end})"
            raise ImageFormatError(msg)
        return unpack("zlib", self.storage.pread(end - start, start), self.header.block_size)
