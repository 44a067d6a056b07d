"""On-disk structures of Apple's UDIF disk images (`.dmg`).

Apple publishes no specification; names follow the headers in its DiskImages framework as described in QEMU's
block/dmg.c and "Demystifying the DMG File Format" (J. Levin). Everything is big-endian.
"""

from __future__ import annotations

import binascii
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pyhyve.image.contract import ImageFormatError, ImageUnsupportedError
from pyhyve.image.packed import MAX_UNIT_BYTES
from pyhyve.support.enums import IntEnum

if TYPE_CHECKING:
    from collections.abc import Iterator

KOLY_SIZE_BYTES = 512
MISH_HEADER_SIZE_BYTES = 204
MAX_PLIST_BYTES = 16 << 20
MAX_RESOURCE_BYTES = 16 << 20
MAX_CHUNKS = 300_000
CHUNK = struct.Struct(">I4xQQQQ")  # type, comment, sector number, sector count, offset, length
_DATA = re.compile(rb"<data>([A-Za-z0-9+/=\s]*)</data>")


class ChunkType(IntEnum):
    """How a chunk is stored."""

    ZERO = 0
    RAW = 1
    IGNORE = 2
    COMMENT = 0x7FFFFFFE
    ADC = 0x80000004
    ZLIB = 0x80000005
    BZIP2 = 0x80000006
    LZFSE = 0x80000007
    LZMA = 0x80000008
    TERMINATOR = 0xFFFFFFFF


COMPRESSIONS = {ChunkType.ZLIB: "zlib", ChunkType.BZIP2: "bzip2", ChunkType.LZMA: "xz"}


@dataclass(frozen=True, slots=True)
class Koly:
    """The trailer; offsets and lengths in bytes."""

    data_fork_offset: int
    rsrc_fork_offset: int
    rsrc_fork_length: int
    xml_offset: int
    xml_length: int
    sector_count: int


class Chunk(NamedTuple):
    """`sector_count` sectors from `start_sector` on, stored in `length` bytes at `offset` of the file."""

    start_sector: int
    sector_count: int
    type: int
    offset: int
    length: int


def parse_koly(data: bytes, position: int) -> Koly:
    """Parse and bound the trailer found at `position` of the file."""
    if len(data) < KOLY_SIZE_BYTES or data[:4] != b"koly":
        msg = "Could not locate UDIF trailer in dmg file"
        raise ImageFormatError(msg)
    fields = (int.from_bytes(data[at : at + 8], "big") for at in (0x18, 0x28, 0x30, 0xD8, 0xE0, 0x1EC))
    koly = Koly(*fields)
    if (
        koly.data_fork_offset > position
        or koly.rsrc_fork_offset + koly.rsrc_fork_length > position
        or koly.xml_offset + koly.xml_length > position
        or koly.sector_count >= 1 << 54
    ):
        msg = "the dmg trailer points outside the file"
        raise ImageFormatError(msg)
    if koly.xml_length > MAX_PLIST_BYTES or koly.rsrc_fork_length > MAX_RESOURCE_BYTES:
        msg = "the dmg property list or resource fork is too large"
        raise ImageFormatError(msg)
    return koly


def mish_blocks_of_plist(data: bytes) -> Iterator[bytes]:
    """Decoded `<data>` elements of the property list."""
    for match in _DATA.finditer(data):
        try:
            yield binascii.a2b_base64(match[1])
        except binascii.Error as error:
            msg = "the dmg property list holds damaged data"
            raise ImageFormatError(msg) from error


def mish_blocks_of_resources(data: bytes) -> Iterator[bytes]:
    """Resources of a resource fork: offset of the data, then each with its length before it."""
    start = int.from_bytes(data[:4], "big")
    end = start + int.from_bytes(data[8:12], "big")
    if len(data) < 16 or not start < end <= len(data):
        msg = "the dmg resource fork is damaged"
        raise ImageFormatError(msg)
    while start < end:
        length = int.from_bytes(data[start : start + 4], "big")
        if not 0 < length <= end - start - 4:
            msg = "the dmg resource fork is damaged"
            raise ImageFormatError(msg)
        yield data[start + 4 : start + 4 + length]
        start += 4 + length


def parse_mish(block: bytes, data_fork_offset: int) -> Iterator[Chunk]:
    """The chunks of a `mish` block; nothing for other data."""
    if block[:4] != b"mish" or len(block) < MISH_HEADER_SIZE_BYTES + CHUNK.size:
        return
    first_sector = int.from_bytes(block[8:16], "big")
    base = data_fork_offset + int.from_bytes(block[0x18:0x20], "big")
    end = len(block) - (len(block) - MISH_HEADER_SIZE_BYTES) % CHUNK.size
    for kind, sector, count, offset, length in CHUNK.iter_unpack(block[MISH_HEADER_SIZE_BYTES:end]):
        if kind in {ChunkType.COMMENT, ChunkType.TERMINATOR} or not count:
            continue
        if kind not in {ChunkType.ZERO, ChunkType.IGNORE, ChunkType.RAW, *COMPRESSIONS}:
            name = {ChunkType.ADC: "ADC", ChunkType.LZFSE: "LZFSE"}.get(kind, f"{kind:#x}")
            msg = f"unsupported dmg image (compressed with {name})"
            raise ImageUnsupportedError(msg)
        packed = kind in COMPRESSIONS
        if packed and (count * 512 > MAX_UNIT_BYTES or length > MAX_UNIT_BYTES):
            msg = f"a dmg chunk of {count} sectors in {length} bytes is too large"
            raise ImageFormatError(msg)
        if first_sector + sector + count >= 1 << 54:
            msg = "a dmg chunk lies outside the disk"
            raise ImageFormatError(msg)
        yield Chunk(first_sector + sector, count, kind, base + offset, length)
