"""VDI, VirtualBox's format: dynamic and static images; differencing images are refused."""

from __future__ import annotations

import sys

from pyhyve.image.contract import CreateOption, CreateRequest, Image, ImageError, ImageFormat, OpenRequest, OptionType
from pyhyve.image.vdi.format import (
    BLOCK_UNALLOCATED,
    BLOCKS_MAX,
    DEFAULT_BLOCK_SIZE_BYTES,
    SIGNATURE,
    Header,
    ImageType,
    build_header,
)


def probe(head: bytes, filename: str) -> int:
    """Signature after the text."""
    del filename
    return 100 if head[64:68] == SIGNATURE.to_bytes(4, "little") else 0


def open_vdi(request: OpenRequest) -> Image:
    """Open; imported late to keep start-up short."""
    from pyhyve.image.vdi.image import VdiImage  # noqa: PLC0415

    return VdiImage(request)


def create(request: CreateRequest) -> None:
    """An empty image of 1 MiB blocks; `static` gives every block its place at once."""
    import os  # noqa: PLC0415 - only for new identifiers

    from pyhyve.support.arrays import array  # noqa: PLC0415 - only for new images

    block = DEFAULT_BLOCK_SIZE_BYTES
    size = -(-request.size_bytes // 512) * 512
    blocks = -(-size // block)
    if blocks > BLOCKS_MAX:
        msg = f"Unsupported VDI image size (size is {size}, max supported is {BLOCKS_MAX * block})"
        raise ImageError(msg)
    static = request.flag("static")
    bmap_bytes = -(-blocks * 4 // 512) * 512
    header = Header(
        image_type=ImageType.STATIC if static else ImageType.DYNAMIC,
        offset_bmap=512,
        offset_data=512 + bmap_bytes,
        disk_size=size,
        block_size=block,
        blocks_in_image=blocks,
        blocks_allocated=blocks if static else 0,
        uuid_image=_random_uuid(os.urandom(16)),
        uuid_last_snap=_random_uuid(os.urandom(16)),
    )
    request.storage.pwrite(build_header(header), 0)
    for first in range(0, blocks, 1 << 16):
        count = min(1 << 16, blocks - first)
        entries = array("I", range(first, first + count)) if static else array("I", (BLOCK_UNALLOCATED,)) * count
        if not _LITTLE:
            entries.byteswap()
        request.storage.pwrite(entries.tobytes(), header.offset_bmap + first * 4)
    request.storage.truncate(header.offset_data + (blocks * block if static else 0))


def _random_uuid(data: bytes) -> bytes:
    """A version 4 UUID (RFC 9562, section 5.4) from random bytes, in VDI's little-endian field order."""
    uuid = bytearray(data)
    uuid[7] = uuid[7] & 0x0F | 0x40
    uuid[8] = uuid[8] & 0x3F | 0x80
    return bytes(uuid)


_LITTLE = sys.byteorder == "little"

FORMAT = ImageFormat(
    name="vdi",
    probe=probe,
    open=open_vdi,
    create=create,
    options=(
        CreateOption("size", OptionType.SIZE, "Virtual disk size"),
        CreateOption("static", OptionType.BOOLEAN, "VDI static (pre-allocated) image", default="off"),
    ),
)
