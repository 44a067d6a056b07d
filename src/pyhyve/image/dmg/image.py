"""An open dmg image."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from pyhyve.image.allocating import Run
from pyhyve.image.contract import ImageFormatError, LayerState
from pyhyve.image.dmg.format import (
    COMPRESSIONS,
    KOLY_SIZE_BYTES,
    MAX_CHUNKS,
    Chunk,
    ChunkType,
    mish_blocks_of_plist,
    mish_blocks_of_resources,
    parse_koly,
    parse_mish,
)
from pyhyve.image.packed import PackedImage, unpack

if TYPE_CHECKING:
    from pyhyve.image.contract import OpenRequest


class DmgImage(PackedImage):
    """UDIF image. What no chunk describes reads as zero."""

    format_name = "dmg"

    def __init__(self, request: OpenRequest) -> None:
        super().__init__(request)
        size = self.storage.size_bytes
        # The trailer is the last 512 bytes; some files have a few bytes more behind it.
        tail_start = max(0, size - 2 * KOLY_SIZE_BYTES + 1)
        tail = self.storage.pread(size - tail_start, tail_start)
        at = tail.rfind(b"koly")
        self.koly = parse_koly(tail[at:] if at >= 0 else b"", tail_start + at)
        self._chunks = self._load_chunks()
        self._starts = [chunk.start_sector for chunk in self._chunks]

    def _load_chunks(self) -> list[Chunk]:
        koly = self.koly
        if koly.rsrc_fork_length:
            blocks = mish_blocks_of_resources(self.storage.pread(koly.rsrc_fork_length, koly.rsrc_fork_offset))
        elif koly.xml_length:
            blocks = mish_blocks_of_plist(self.storage.pread(koly.xml_length, koly.xml_offset))
        else:
            msg = "the dmg file has neither a property list nor a resource fork"
            raise ImageFormatError(msg)
        chunks: list[Chunk] = []
        for block in blocks:
            chunks.extend(parse_mish(block, koly.data_fork_offset))
            if len(chunks) > MAX_CHUNKS:
                msg = f"the dmg file has more than {MAX_CHUNKS} chunks"
                raise ImageFormatError(msg)
        chunks.sort()
        end, size = 0, self.storage.size_bytes
        for chunk in chunks:
            if chunk.start_sector < end:
                msg = f"two dmg chunks hold sector {chunk.start_sector}"
                raise ImageFormatError(msg)
            stored = chunk.type not in {ChunkType.ZERO, ChunkType.IGNORE}
            if stored and chunk.offset + chunk.length > size:
                msg = f"the dmg chunk at sector {chunk.start_sector} lies outside the file"
                raise ImageFormatError(msg)
            end = chunk.start_sector + chunk.sector_count
        return chunks

    @property
    def size_bytes(self) -> int:
        """Virtual size."""
        return self.koly.sector_count * 512

    def _unit_start(self, unit: int) -> int:
        return self._starts[unit] * 512

    def _locate(self, offset: int, length: int) -> Run:
        number = bisect_right(self._starts, offset // 512) - 1
        following = self._starts[number + 1] * 512 if number + 1 < len(self._starts) else offset + length
        if number < 0:
            return Run(min(length, following - offset), LayerState.ZERO)
        chunk = self._chunks[number]
        inside = offset - chunk.start_sector * 512
        left = chunk.sector_count * 512 - inside
        if left <= 0:
            return Run(min(length, following - offset), LayerState.ZERO)
        if chunk.type in COMPRESSIONS:
            return Run(min(length, left), LayerState.DATA, None, number)
        stored = chunk.length - inside if chunk.type == ChunkType.RAW else 0
        if stored > 0:
            return Run(min(length, left, stored), LayerState.DATA, self.storage, chunk.offset + inside)
        return Run(min(length, left), LayerState.ZERO)

    def _unpack(self, unit: int) -> bytes:
        chunk = self._chunks[unit]
        kind = COMPRESSIONS[ChunkType(chunk.type)]
        return unpack(kind, self.storage.pread(chunk.length, chunk.offset), chunk.sector_count * 512)
