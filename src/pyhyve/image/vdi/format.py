"""On-disk structures of VirtualBox's VDI 1.1.

Source: VirtualBox's VDICore.h, and QEMU's block/vdi.c, which documents the header field by field.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pyhyve.image.contract import ImageFormatError, ImageUnsupportedError
from pyhyve.support.enums import IntEnum

SIGNATURE = 0xBEDA107F
VERSION_1_1 = 0x00010001
HEADER_SIZE_BYTES = 512
STATED_HEADER_SIZE = 0x180
TEXT = b"<<< Oracle VM VirtualBox Disk Image >>>\n"
BLOCK_UNALLOCATED = 0xFFFFFFFF
BLOCK_DISCARDED = 0xFFFFFFFE
DEFAULT_BLOCK_SIZE_BYTES = 1 << 20
BLOCKS_MAX = 0x3FFFFFFF
_NO_UUID = bytes(16)
# szFileInfo, u32Signature, u32Version, cbHeader, u32Type, fFlags, szComment, offBlocks, offData, geometry (cylinders,
# heads, sectors, sector size), unused, cbDisk, cbBlock, cbBlockExtra, cBlocks, cBlocksAllocated, four UUIDs
HEADER = struct.Struct("<64sIIIII256sII4II Q IIII 16s16s16s16s 56x")
BLOCKS_ALLOCATED_OFFSET = 388


class ImageType(IntEnum):
    """`u32Type`."""

    DYNAMIC = 1
    STATIC = 2
    UNDO = 3
    DIFFERENCING = 4


@dataclass(frozen=True, slots=True)
class Header:
    """What the header says about the layout; sizes and offsets in bytes, blocks in blocks."""

    image_type: int
    offset_bmap: int
    offset_data: int
    disk_size: int
    block_size: int
    blocks_in_image: int
    blocks_allocated: int
    uuid_image: bytes = _NO_UUID
    uuid_last_snap: bytes = _NO_UUID
    text: bytes = TEXT


def parse_header(data: bytes, file_size: int) -> Header:
    """Parse and bound the first 512 bytes. Raises ImageFormatError or ImageUnsupportedError."""
    if len(data) < HEADER.size:
        msg = "Image not in VDI format (the header is cut off)"
        raise ImageFormatError(msg)
    (
        text, signature, version, _header_size, image_type, _flags, _comment, offset_bmap, offset_data, _cylinders,
        _heads, _sectors, sector_size, _unused, disk_size, block_size, block_extra, blocks, allocated, uuid, snap,
        uuid_link, uuid_parent,
    ) = HEADER.unpack_from(data)  # fmt: skip
    if signature != SIGNATURE:
        msg = f"Image not in VDI format (bad signature {signature:08x})"
        raise ImageFormatError(msg)
    if version != VERSION_1_1:
        msg = f"unsupported VDI image (version {version >> 16}.{version & 0xFFFF})"
        raise ImageUnsupportedError(msg)
    disk_size = -(-disk_size // 512) * 512
    if image_type not in {ImageType.DYNAMIC, ImageType.STATIC} or uuid_link != _NO_UUID or uuid_parent != _NO_UUID:
        msg = "unsupported VDI image (differencing images are not supported)"
        raise ImageUnsupportedError(msg)
    if sector_size != 512 or block_extra:
        msg = f"unsupported VDI image (sector size {sector_size}, {block_extra} extra bytes per block)"
        raise ImageUnsupportedError(msg)
    if not 1 << 12 <= block_size <= 1 << 26 or block_size & (block_size - 1):
        msg = f"unsupported VDI image (block size {block_size})"
        raise ImageUnsupportedError(msg)
    if blocks > BLOCKS_MAX or disk_size > blocks * block_size:
        msg = f"unsupported VDI image (disk size {disk_size}, image bitmap has room for {blocks * block_size})"
        raise ImageFormatError(msg)
    if offset_bmap % 512 or offset_bmap < HEADER.size or offset_bmap + blocks * 4 > file_size:
        msg = f"the VDI block map at {offset_bmap:#x} is not inside the file"
        raise ImageFormatError(msg)
    if offset_data % 512 or offset_data < offset_bmap + blocks * 4:
        msg = f"the VDI data offset {offset_data:#x} is invalid"
        raise ImageFormatError(msg)
    return Header(
        image_type, offset_bmap, offset_data, disk_size, block_size, blocks, allocated, uuid, snap, text
    )  # fmt: skip


def build_header(header: Header) -> bytes:
    """The 512 bytes of a new image's header."""
    return HEADER.pack(
        header.text, SIGNATURE, VERSION_1_1, STATED_HEADER_SIZE, header.image_type, 0, b"", header.offset_bmap,
        header.offset_data, 0, 0, 0, 512, 0, header.disk_size, header.block_size, 0, header.blocks_in_image,
        header.blocks_allocated, header.uuid_image, header.uuid_last_snap, _NO_UUID, _NO_UUID,
    )  # fmt: skip
