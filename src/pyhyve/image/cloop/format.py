"""On-disk structures of compressed loop images, version 2.0 (the `cloop` kernel module's format).

Source: cloop.h of the cloop package. Everything is big-endian: a shell script of 128 bytes, block size, number of
blocks, then one offset per block and the end of the last; each block is a zlib stream.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyhyve.image.contract import ImageFormatError
from pyhyve.image.packed import MAX_UNIT_BYTES

MAGIC = b"#!/bin/sh\n#V2.0 Format\n"
BLOCK_SIZE_OFFSET = 128
HEADER_SIZE_BYTES = 136


@dataclass(frozen=True, slots=True)
class Header:
    """Block size in bytes, and how many there are."""

    block_size: int
    num_blocks: int


def parse_header(data: bytes, file_size: int) -> Header:
    """Parse and bound the first 136 bytes."""
    if len(data) < HEADER_SIZE_BYTES or not data.startswith(MAGIC):
        msg = "Image not in cloop format"
        raise ImageFormatError(msg)
    block_size = int.from_bytes(data[BLOCK_SIZE_OFFSET : BLOCK_SIZE_OFFSET + 4], "big")
    blocks = int.from_bytes(data[BLOCK_SIZE_OFFSET + 4 : HEADER_SIZE_BYTES], "big")
    if not block_size or block_size % 512 or block_size > MAX_UNIT_BYTES:
        msg = f"cloop block size {block_size} is not a multiple of 512 up to 64 MB"
        raise ImageFormatError(msg)
    if HEADER_SIZE_BYTES + (blocks + 1) * 8 > file_size:
        msg = f"cloop image has {blocks} blocks, more than fit in the file"
        raise ImageFormatError(msg)
    return Header(block_size, blocks)
