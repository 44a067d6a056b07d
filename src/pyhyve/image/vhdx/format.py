"""On-disk structures of VHDX.

Source: Microsoft, [MS-VHDX] Virtual Hard Disk v2 (VHDX) File Format; section numbers below are its own. Everything is
little-endian.
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass

from pyhyve.image.contract import ImageFormatError, ImageUnsupportedError
from pyhyve.image.vhdx.crc32c import crc32c
from pyhyve.support.enums import IntEnum, IntFlag

MIB = 1 << 20
FILE_IDENTIFIER = b"vhdxfile"  # 2.2.1
HEADER_OFFSETS = (64 << 10, 128 << 10)  # 2.2
REGION_TABLE_OFFSETS = (192 << 10, 256 << 10)
HEADER_SIZE_BYTES = 4096
REGION_TABLE_SIZE_BYTES = 64 << 10
METADATA_TABLE_SIZE_BYTES = 64 << 10
MAX_REGION_ENTRIES = 2047
MAX_DISK_SIZE_BYTES = 64 << 40
MIN_BLOCK_SIZE_BYTES, MAX_BLOCK_SIZE_BYTES = 1 << 20, 256 << 20
SECTORS_PER_BITMAP_BLOCK = 1 << 23  # 2.5
HEADER = struct.Struct("<4sIQ16s16s16sHHIQ")  # 2.2.2
REGION_TABLE_HEADER = struct.Struct("<4sII4x")  # 2.2.3
REGION_TABLE_ENTRY = struct.Struct("<16sQII")
METADATA_TABLE_HEADER = struct.Struct("<8s2xH20x")  # 2.6.1
METADATA_TABLE_ENTRY = struct.Struct("<16sIII4x")
NO_GUID = bytes(16)


def _guid(text: str) -> bytes:
    return uuid.UUID(text).bytes_le


REGION_BAT = _guid("2DC27766-F623-4200-9D64-115E9BFD4A08")
REGION_METADATA = _guid("8B7CA206-4790-4B9A-B8FE-575F050F886E")
ITEM_FILE_PARAMETERS = _guid("CAA16737-FA36-4D43-B3B6-33F0AA44E76B")
ITEM_VIRTUAL_DISK_SIZE = _guid("2FA54224-CD1B-4876-B211-5DBED83BF4B8")
ITEM_VIRTUAL_DISK_ID = _guid("BECA12AB-B2E6-4523-93EF-C309E000C746")
ITEM_LOGICAL_SECTOR_SIZE = _guid("8141BF1D-A96F-4709-BA47-F233A8FAAB5F")
ITEM_PHYSICAL_SECTOR_SIZE = _guid("CDA348C7-445D-4471-9CC9-E9885251C556")
_KNOWN_ITEMS = {
    ITEM_FILE_PARAMETERS: 8,
    ITEM_VIRTUAL_DISK_SIZE: 8,
    ITEM_VIRTUAL_DISK_ID: 16,
    ITEM_LOGICAL_SECTOR_SIZE: 4,
    ITEM_PHYSICAL_SECTOR_SIZE: 4,
}


class MetadataFlag(IntFlag):
    """Flags of a metadata table entry (2.6.1.2)."""

    IS_USER = 1
    IS_VIRTUAL_DISK = 2
    IS_REQUIRED = 4


class FileParameter(IntFlag):
    """Flags of the File Parameters item (2.6.2.1)."""

    LEAVE_BLOCKS_ALLOCATED = 1
    HAS_PARENT = 2


class PayloadBlock(IntEnum):
    """States of a payload block (2.5.1.1)."""

    NOT_PRESENT = 0
    UNDEFINED = 1
    ZERO = 2
    UNMAPPED = 3
    UNMAPPED_DRAFT = 5  # version 0.95 of the specification; QEMU still reads it
    FULLY_PRESENT = 6
    PARTIALLY_PRESENT = 7


@dataclass(frozen=True, slots=True)
class Header:
    """The header (2.2.2); `log_length` and `log_offset` in bytes."""

    sequence_number: int
    file_write_guid: bytes
    data_write_guid: bytes
    log_guid: bytes
    log_version: int
    log_length: int
    log_offset: int


@dataclass(frozen=True, slots=True)
class Region:
    """A region of the file, in bytes."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Metadata:
    """The metadata items; sizes in bytes."""

    block_size: int
    leave_blocks_allocated: bool
    virtual_disk_size: int
    logical_sector_size: int
    physical_sector_size: int
    virtual_disk_id: bytes

    @property
    def chunk_ratio(self) -> int:
        """Payload blocks between two sector bitmap blocks of the BAT (2.5)."""
        return SECTORS_PER_BITMAP_BLOCK * self.logical_sector_size // self.block_size

    @property
    def payload_blocks(self) -> int:
        """Blocks of the disk."""
        return -(-self.virtual_disk_size // self.block_size)

    @property
    def bat_entries(self) -> int:
        """Entries of the BAT of an image without parent."""
        blocks = self.payload_blocks
        return blocks + max(0, blocks - 1) // self.chunk_ratio


def sealed(data: bytes, size: int) -> bytes:
    """`data` padded to `size` with its CRC-32C in bytes 4 to 7."""
    whole = bytearray(data.ljust(size, b"\0"))
    whole[4:8] = bytes(4)
    whole[4:8] = crc32c(bytes(whole)).to_bytes(4, "little")
    return bytes(whole)


def is_sealed(data: bytes) -> bool:
    """Whether the CRC-32C in bytes 4 to 7 is right."""
    return crc32c(data[:4] + bytes(4) + data[8:]) == int.from_bytes(data[4:8], "little")


def parse_header(data: bytes) -> Header | None:
    """One of the two headers; None when it is not valid (the other counts then)."""
    if len(data) != HEADER_SIZE_BYTES or data[:4] != b"head" or not is_sealed(data):
        return None
    _signature, _crc, sequence, file_guid, data_guid, log_guid, log_version, version, length, offset = (
        HEADER.unpack_from(data)
    )
    if version != 1:
        return None
    return Header(sequence, file_guid, data_guid, log_guid, log_version, length, offset)


def build_header(header: Header) -> bytes:
    """The 4 KiB of a header."""
    fixed = HEADER.pack(
        b"head", 0, header.sequence_number, header.file_write_guid, header.data_write_guid, header.log_guid,
        header.log_version, 1, header.log_length, header.log_offset,
    )  # fmt: skip
    return sealed(fixed, HEADER_SIZE_BYTES)


def parse_region_table(data: bytes) -> dict[bytes, Region] | None:
    """Regions by GUID; None when the table is damaged. ImageUnsupportedError for an unknown required region."""
    if len(data) != REGION_TABLE_SIZE_BYTES or data[:4] != b"regi" or not is_sealed(data):
        return None
    count = REGION_TABLE_HEADER.unpack_from(data)[2]
    if count > MAX_REGION_ENTRIES:
        return None
    regions: dict[bytes, Region] = {}
    for number in range(count):
        at = REGION_TABLE_HEADER.size + number * REGION_TABLE_ENTRY.size
        guid, offset, length, required = REGION_TABLE_ENTRY.unpack_from(data, at)
        if guid not in {REGION_BAT, REGION_METADATA}:
            if required & 1:
                msg = f"unsupported VHDX image (required region {uuid.UUID(bytes_le=guid)})"
                raise ImageUnsupportedError(msg)
            continue
        if guid in regions or offset % MIB or length % MIB or offset < MIB or not length:
            return None
        regions[guid] = Region(offset, length)
    return regions if len(regions) == 2 else None


def build_region_table(bat: Region, metadata: Region) -> bytes:
    """The 64 KiB of a region table."""
    data = REGION_TABLE_HEADER.pack(b"regi", 0, 2)
    data += REGION_TABLE_ENTRY.pack(REGION_BAT, bat.offset, bat.length, 1)
    data += REGION_TABLE_ENTRY.pack(REGION_METADATA, metadata.offset, metadata.length, 1)
    return sealed(data, REGION_TABLE_SIZE_BYTES)


def parse_metadata(data: bytes) -> Metadata:
    """Parse and bound the metadata region (its first 1 MiB)."""
    if len(data) < METADATA_TABLE_SIZE_BYTES or data[:8] != b"metadata":
        msg = "invalid VHDX image (no metadata table)"
        raise ImageFormatError(msg)
    count = METADATA_TABLE_HEADER.unpack_from(data)[1]
    if METADATA_TABLE_HEADER.size + count * METADATA_TABLE_ENTRY.size > METADATA_TABLE_SIZE_BYTES:
        msg = "invalid VHDX image (too many metadata entries)"
        raise ImageFormatError(msg)
    items: dict[bytes, bytes] = {}
    for number in range(count):
        at = METADATA_TABLE_HEADER.size + number * METADATA_TABLE_ENTRY.size
        guid, offset, length, flags = METADATA_TABLE_ENTRY.unpack_from(data, at)
        size = _KNOWN_ITEMS.get(guid)
        if size is None:
            # A parent locator comes with HAS_PARENT, refused below by name.
            if flags & MetadataFlag.IS_REQUIRED and not flags & MetadataFlag.IS_USER and guid != _PARENT_LOCATOR:
                msg = f"unsupported VHDX image (required metadata item {uuid.UUID(bytes_le=guid)})"
                raise ImageUnsupportedError(msg)
            continue
        if offset < METADATA_TABLE_SIZE_BYTES or length < size or offset + size > len(data) or guid in items:
            msg = "invalid VHDX image (a metadata item lies outside its region)"
            raise ImageFormatError(msg)
        items[guid] = data[offset : offset + size]
    if len(items) < len(_KNOWN_ITEMS):
        msg = "invalid VHDX image (a metadata item is missing)"
        raise ImageFormatError(msg)
    block_size, flags = struct.unpack("<II", items[ITEM_FILE_PARAMETERS])
    metadata = Metadata(
        block_size,
        bool(flags & FileParameter.LEAVE_BLOCKS_ALLOCATED),
        int.from_bytes(items[ITEM_VIRTUAL_DISK_SIZE], "little"),
        int.from_bytes(items[ITEM_LOGICAL_SECTOR_SIZE], "little"),
        int.from_bytes(items[ITEM_PHYSICAL_SECTOR_SIZE], "little"),
        items[ITEM_VIRTUAL_DISK_ID],
    )
    if flags & FileParameter.HAS_PARENT:
        msg = "unsupported VHDX image (differencing images are not supported)"
        raise ImageUnsupportedError(msg)
    if metadata.logical_sector_size not in {512, 4096}:
        msg = f"invalid VHDX image (logical sectors of {metadata.logical_sector_size} bytes)"
        raise ImageFormatError(msg)
    if block_size & (block_size - 1) or not MIN_BLOCK_SIZE_BYTES <= block_size <= MAX_BLOCK_SIZE_BYTES:
        msg = f"invalid VHDX image (block size {block_size})"
        raise ImageFormatError(msg)
    if metadata.virtual_disk_size > MAX_DISK_SIZE_BYTES or metadata.virtual_disk_size % 512:
        msg = f"invalid VHDX image (disk size {metadata.virtual_disk_size})"
        raise ImageFormatError(msg)
    return metadata


_PARENT_LOCATOR = _guid("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C")


def build_metadata(metadata: Metadata) -> bytes:
    """Table and items of the metadata region."""
    required, disk = MetadataFlag.IS_REQUIRED, MetadataFlag.IS_REQUIRED | MetadataFlag.IS_VIRTUAL_DISK
    flags = FileParameter.LEAVE_BLOCKS_ALLOCATED if metadata.leave_blocks_allocated else FileParameter(0)
    items = (
        (ITEM_FILE_PARAMETERS, required, struct.pack("<II", metadata.block_size, flags)),
        (ITEM_VIRTUAL_DISK_SIZE, disk, metadata.virtual_disk_size.to_bytes(8, "little")),
        (ITEM_VIRTUAL_DISK_ID, disk, metadata.virtual_disk_id),
        (ITEM_LOGICAL_SECTOR_SIZE, disk, metadata.logical_sector_size.to_bytes(4, "little")),
        (ITEM_PHYSICAL_SECTOR_SIZE, disk, metadata.physical_sector_size.to_bytes(4, "little")),
    )
    table = METADATA_TABLE_HEADER.pack(b"metadata", len(items))
    values = b""
    for guid, item_flags, value in items:
        offset = METADATA_TABLE_SIZE_BYTES + len(values)
        table += METADATA_TABLE_ENTRY.pack(guid, offset, len(value), item_flags)
        values += value
    return table.ljust(METADATA_TABLE_SIZE_BYTES, b"\0") + values
