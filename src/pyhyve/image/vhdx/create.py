"""New VHDX files, laid out as QEMU does: log, BAT, metadata, 4 MiB of room, blocks."""

from __future__ import annotations

import sys
from os import urandom
from typing import TYPE_CHECKING

from pyhyve.image.contract import ImageError
from pyhyve.image.vhdx.format import (
    FILE_IDENTIFIER,
    HEADER_OFFSETS,
    MAX_BLOCK_SIZE_BYTES,
    MAX_DISK_SIZE_BYTES,
    MIB,
    NO_GUID,
    REGION_TABLE_OFFSETS,
    Header,
    Metadata,
    PayloadBlock,
    Region,
    build_header,
    build_metadata,
    build_region_table,
)
from pyhyve.support.arrays import array

if TYPE_CHECKING:
    from pyhyve.image.contract import CreateRequest
    from pyhyve.image.storage import Storage

_ROOM_BYTES = 4 * MIB


def new_guid() -> bytes:
    """A version 4 GUID (RFC 9562, section 5.4) in Microsoft's byte order."""
    guid = bytearray(urandom(16))
    guid[7] = guid[7] & 0x0F | 0x40
    guid[8] = guid[8] & 0x3F | 0x80
    return bytes(guid)


def default_block_size(size_bytes: int) -> int:
    """QEMU's choice by disk size."""
    for limit_gib, block_mib in ((32 << 10, 64), (100, 32), (1, 16)):
        if size_bytes > limit_gib << 30:
            return block_mib * MIB
    return 8 * MIB


def create_vhdx(request: CreateRequest) -> None:
    """Create an empty image; ImageError names a wrong option."""
    subformat = request.text("subformat", "dynamic")
    if subformat not in {"dynamic", "fixed"}:
        msg = f"Invalid subformat '{subformat}': choose dynamic or fixed"
        raise ImageError(msg)
    size = -(-request.size_bytes // 512) * 512
    block = request.number("block_size", 0) or default_block_size(size)
    log_length = max(MIB, request.number("log_size", MIB))
    message = None
    if size > MAX_DISK_SIZE_BYTES:
        message = "Image size too large; max of 64TB"
    elif log_length % MIB or log_length >= 1 << 32:
        message = "Log size must be a multiple of 1 MB"
    elif block % MIB:
        message = "Block size must be a multiple of 1 MB"
    elif block & (block - 1):
        message = "Block size must be a power of two"
    elif block > MAX_BLOCK_SIZE_BYTES:
        message = f"Block size must not exceed {MAX_BLOCK_SIZE_BYTES}"
    if message is not None:
        raise ImageError(message)
    fixed = subformat == "fixed"
    metadata = Metadata(block, fixed, size, 512, 512, new_guid())
    bat = Region(MIB + log_length, max(1, -(-metadata.bat_entries * 8 // MIB)) * MIB)
    metadata_region = Region(bat.offset + bat.length, MIB)
    data_start = metadata_region.offset + metadata_region.length + _ROOM_BYTES
    storage = request.storage
    storage.pwrite(FILE_IDENTIFIER + "pyhyve".encode("utf-16-le"), 0)
    first, file_guid, data_guid = int.from_bytes(urandom(4), "little"), new_guid(), new_guid()
    for number, offset in enumerate(HEADER_OFFSETS):
        header = Header(first + number, file_guid, data_guid, NO_GUID, 0, log_length, MIB)
        storage.pwrite(build_header(header), offset)
    for offset in REGION_TABLE_OFFSETS:
        storage.pwrite(build_region_table(bat, metadata_region), offset)
    storage.pwrite(build_metadata(metadata), metadata_region.offset)
    storage.truncate(data_start + (size if fixed else 0))
    if fixed:
        _fill_bat(storage, bat.offset, metadata, PayloadBlock.FULLY_PRESENT | data_start, block)
    elif request.flag("block_state_zero", default=True):
        _fill_bat(storage, bat.offset, metadata, PayloadBlock.ZERO, 0)


def _fill_bat(storage: Storage, offset: int, metadata: Metadata, first: int, step: int) -> None:
    """Entries `first, first + step, …` for all payload blocks; sector bitmap entries stay zero."""
    ratio = metadata.chunk_ratio
    for block in range(0, metadata.payload_blocks, ratio):
        count = min(ratio, metadata.payload_blocks - block)
        start = first + block * step
        entries = array("Q", range(start, start + count * step, step)) if step else array("Q", (first,)) * count
        if sys.byteorder == "big":
            entries.byteswap()
        storage.pwrite(entries.tobytes(), offset + (block + block // ratio) * 8)
