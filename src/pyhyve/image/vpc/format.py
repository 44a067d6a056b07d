"""On-disk structures of Virtual PC's VHD.

Source: Microsoft, Virtual Hard Disk Image Format Specification 1.0 (2006). Everything is big-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pyhyve.image.contract import ImageFormatError, ImageUnsupportedError
from pyhyve.support.enums import IntEnum

FOOTER_COOKIE = b"conectix"
DYNAMIC_COOKIE = b"cxsparse"
FOOTER_SIZE_BYTES = 512
DYNAMIC_HEADER_SIZE_BYTES = 1024
FILE_FORMAT_VERSION = 0x00010000
FEATURES_RESERVED = 2
NO_OFFSET = 0xFFFFFFFFFFFFFFFF
BAT_UNUSED = 0xFFFFFFFF
DEFAULT_BLOCK_SIZE_BYTES = 2 << 20
EPOCH_S = 946684800  # 2000-01-01 00:00 UTC, the origin of time stamps
MAX_SECTORS = 0xFF000000  # 2040 GiB
MAX_CYLINDERS, MAX_HEADS, MAX_SECTORS_PER_TRACK = 65535, 16, 255
MAX_GEOMETRY_SECTORS = MAX_CYLINDERS * MAX_HEADS * MAX_SECTORS_PER_TRACK
LOCATOR_COUNT = 8
MAX_LOCATOR_BYTES = 4096
# Programs that take the size from the footer rather than from the geometry.
EXACT_SIZE_CREATORS = frozenset((b"win ", b"d2v ", b"qem2", b"tap\0", b"CTXS", b"wa\0\0"))
FOOTER = struct.Struct(">8sIIQI4sHH4sQQHBBII16sB427x")
DYNAMIC_HEADER = struct.Struct(">8sQQIIII16sI4x512s192s256x")
LOCATOR = struct.Struct(">4sIIIQ")


class DiskType(IntEnum):
    """`Disk Type` of the footer."""

    FIXED = 2
    DYNAMIC = 3
    DIFFERENCING = 4


@dataclass(frozen=True, slots=True)
class Footer:
    """The footer; sizes in bytes."""

    disk_type: int
    data_offset: int
    current_size: int
    original_size: int
    cylinders: int
    heads: int
    sectors_per_track: int
    creator_application: bytes
    time_stamp: int
    unique_id: bytes
    saved_state: bool = False
    checksum_valid: bool = True

    @property
    def geometry_sectors(self) -> int:
        """Sectors that the geometry addresses."""
        return self.cylinders * self.heads * self.sectors_per_track


@dataclass(frozen=True, slots=True)
class ParentLocator:
    """One place to look for the parent: `data_length` bytes at `data_offset`, coded as `platform_code` says."""

    platform_code: bytes
    data_offset: int
    data_length: int


@dataclass(frozen=True, slots=True)
class DynamicHeader:
    """The dynamic disk header; offsets and sizes in bytes."""

    table_offset: int
    max_table_entries: int
    block_size: int
    parent_unique_id: bytes = bytes(16)
    parent_name: str = ""
    locators: tuple[ParentLocator, ...] = ()


def checksum(data: bytes | bytearray, field_offset: int) -> int:
    """One's complement of the sum of all bytes, the checksum field counted as zero."""
    return ~(sum(data) - sum(data[field_offset : field_offset + 4])) & 0xFFFFFFFF


def parse_footer(data: bytes) -> Footer:
    """Parse 512 bytes. A wrong checksum is noted, not refused: the copy at the other end may be no better."""
    if len(data) < FOOTER.size or data[:8] != FOOTER_COOKIE:
        msg = "invalid VPC image (no footer)"
        raise ImageFormatError(msg)
    (
        _cookie, _features, version, data_offset, time_stamp, creator, _major, _minor, _host, original, current,
        cylinders, heads, sectors, disk_type, stated, unique_id, saved_state,
    ) = FOOTER.unpack_from(data)  # fmt: skip
    if version >> 16 != FILE_FORMAT_VERSION >> 16:
        msg = f"unsupported VPC image (format version {version:#x})"
        raise ImageUnsupportedError(msg)
    return Footer(
        disk_type, data_offset, current, original, cylinders, heads, sectors, creator, time_stamp, unique_id,
        bool(saved_state), stated == checksum(data[: FOOTER.size], 64),
    )  # fmt: skip


def build_footer(footer: Footer) -> bytes:
    """The 512 bytes of a footer, with its checksum."""
    data = bytearray(
        FOOTER.pack(
            FOOTER_COOKIE, FEATURES_RESERVED, FILE_FORMAT_VERSION, footer.data_offset, footer.time_stamp,
            footer.creator_application, 5, 3, b"Wi2k", footer.original_size, footer.current_size, footer.cylinders,
            footer.heads, footer.sectors_per_track, footer.disk_type, 0, footer.unique_id, footer.saved_state,
        )
    )  # fmt: skip
    data[64:68] = checksum(data, 64).to_bytes(4, "big")
    return bytes(data)


def parse_dynamic_header(data: bytes, disk_size: int, file_size: int) -> DynamicHeader:
    """Parse and bound the 1024 bytes after the footer copy."""
    if len(data) < DYNAMIC_HEADER.size or data[:8] != DYNAMIC_COOKIE:
        msg = "invalid VPC image (no dynamic disk header)"
        raise ImageFormatError(msg)
    (
        _cookie, _data_offset, table_offset, version, entries, block_size, _checksum, parent_id, _parent_time, name,
        locators,
    ) = DYNAMIC_HEADER.unpack_from(data)  # fmt: skip
    if version >> 16 != 1:
        msg = f"unsupported VPC image (dynamic header version {version:#x})"
        raise ImageUnsupportedError(msg)
    if not 512 <= block_size <= 1 << 30 or block_size & (block_size - 1):
        msg = f"Invalid block size {block_size}"
        raise ImageFormatError(msg)
    if entries * block_size < disk_size:
        msg = "Page table too small"
        raise ImageFormatError(msg)
    if table_offset % 512 or table_offset + entries * 4 > file_size:
        msg = f"the block allocation table at {table_offset:#x} is not inside the file"
        raise ImageFormatError(msg)
    found = []
    for at in range(0, LOCATOR_COUNT * LOCATOR.size, LOCATOR.size):
        code, _space, length, _reserved, offset = LOCATOR.unpack_from(locators, at)
        if code != bytes(4) and 0 < length <= MAX_LOCATOR_BYTES:
            found.append(ParentLocator(code, offset, length))
    text = name.decode("utf-16-be", "replace").partition("\0")[0]
    return DynamicHeader(table_offset, entries, block_size, parent_id, text, tuple(found))


def build_dynamic_header(header: DynamicHeader) -> bytes:
    """The 1024 bytes of a dynamic disk header without a parent, with its checksum."""
    data = bytearray(
        DYNAMIC_HEADER.pack(
            DYNAMIC_COOKIE, NO_OFFSET, header.table_offset, FILE_FORMAT_VERSION, header.max_table_entries,
            header.block_size, 0, header.parent_unique_id, 0, b"", b"",
        )
    )  # fmt: skip
    data[36:40] = checksum(data, 36).to_bytes(4, "big")
    return bytes(data)


def bitmap_size_bytes(block_size: int) -> int:
    """Size of the sector bitmap before each block: one bit per sector, whole sectors."""
    return -(-block_size // (8 * 512) // 512) * 512


def geometry_for(total_sectors: int) -> tuple[int, int, int]:
    """Cylinders, heads and sectors per track by the algorithm of the specification's appendix."""
    total = min(total_sectors, MAX_GEOMETRY_SECTORS)
    if total >= 65535 * 16 * 63:
        sectors, heads = 255, 16
        cylinders_times_heads = total // sectors
    else:
        sectors = 17
        cylinders_times_heads = total // sectors
        heads = max(4, -(-cylinders_times_heads // 1024))
        if cylinders_times_heads >= heads * 1024 or heads > 16:
            sectors, heads = 31, 16
            cylinders_times_heads = total // sectors
        if cylinders_times_heads >= heads * 1024:
            sectors, heads = 63, 16
            cylinders_times_heads = total // sectors
    return cylinders_times_heads // heads, heads, sectors
