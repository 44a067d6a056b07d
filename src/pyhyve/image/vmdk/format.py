"""On-disk structures of VMDK extents.

Source: VMware, Virtual Disk Format 5.0 (hosted sparse extents, ESX COW disks, stream-optimized compressed disks).
Everything is little-endian; offsets are in sectors unless a name says otherwise.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pyhyve.image.contract import ImageFormatError, ImageUnsupportedError
from pyhyve.support.enums import IntEnum, IntFlag

SPARSE_MAGIC = b"KDMV"
COWD_MAGIC = b"COWD"
SECTOR_SIZE_BYTES = 512
HEADER_SIZE_BYTES = 512
GD_AT_END = 0xFFFFFFFFFFFFFFFF
GTE_ZEROED = 1
CHECK_BYTES = b"\n \r\n"
COMPRESSION_NONE, COMPRESSION_DEFLATE = 0, 1
DEFAULT_GRAIN_SECTORS = 128
GTES_PER_GT = 512
DESCRIPTOR_SECTORS = 20
MAX_GRAIN_SECTORS = 1 << 15
MAX_GTES_PER_GT = 4096
MAX_CAPACITY_SECTORS = 1 << 53
# magic, version, flags, capacity, grainSize, descriptorOffset, descriptorSize, numGTEsPerGT, rgdOffset, gdOffset,
# overHead, uncleanShutdown, the four line-end characters, compressAlgorithm
SPARSE_HEADER = struct.Struct("<4sIIQQQQIQQQB4sH433x")
# magic, version, flags, numSectors, grainSize, gdOffset, numGDEntries, freeSector
COWD_HEADER = struct.Struct("<4sIIIIIII")
MARKER = struct.Struct("<QII")  # val, size, type
GRAIN_MARKER = struct.Struct("<QI")  # lba, size


class Flag(IntFlag):
    """`flags` of a sparse header."""

    NEW_LINE_TEST = 1
    REDUNDANT_GRAIN_TABLE = 1 << 1
    ZEROED_GRAIN = 1 << 2
    COMPRESSED = 1 << 16
    MARKERS = 1 << 17


class MarkerType(IntEnum):
    """Metadata markers of stream-optimized extents."""

    END_OF_STREAM = 0
    GRAIN_TABLE = 1
    GRAIN_DIRECTORY = 2
    FOOTER = 3


@dataclass(frozen=True, slots=True)
class SparseHeader:
    """The layout of a sparse extent, of either kind."""

    version: int
    flags: int
    capacity: int
    grain_size: int
    descriptor_offset: int
    descriptor_size: int
    num_gtes_per_gt: int
    rgd_offset: int
    gd_offset: int
    over_head: int
    compress_algorithm: int = COMPRESSION_NONE
    has_footer: bool = False
    is_cowd: bool = False
    gd_entries: int | None = None

    @property
    def gd_size(self) -> int:
        """Entries of the grain directory."""
        if self.gd_entries is not None:
            return self.gd_entries
        return -(-self.capacity // (self.num_gtes_per_gt * self.grain_size))


def parse_sparse_header(data: bytes) -> SparseHeader:
    """Parse and bound the 512 bytes of a sparse header (or footer)."""
    if len(data) < SPARSE_HEADER.size or data[:4] != SPARSE_MAGIC:
        msg = "invalid VMDK extent (no sparse header)"
        raise ImageFormatError(msg)
    (
        _magic, version, flags, capacity, grain, desc_offset, desc_size, gtes, rgd, gd, over_head, _unclean, check,
        algorithm,
    ) = SPARSE_HEADER.unpack_from(data)  # fmt: skip
    if flags & Flag.NEW_LINE_TEST and check != CHECK_BYTES:
        msg = "the VMDK file was damaged by a text-mode transfer (its line ends changed)"
        raise ImageFormatError(msg)
    if not 1 <= version <= 3:
        msg = f"Unsupported VMDK version {version}"
        raise ImageUnsupportedError(msg)
    compressed = bool(flags & Flag.COMPRESSED)
    if compressed and algorithm != COMPRESSION_DEFLATE:
        msg = f"unsupported VMDK compression algorithm {algorithm}"
        raise ImageUnsupportedError(msg)
    _check_grain(grain, gtes, capacity)
    return SparseHeader(
        version, flags, capacity, grain, desc_offset, desc_size, gtes, rgd, gd, over_head, algorithm
    )  # fmt: skip


def parse_cowd_header(data: bytes) -> SparseHeader:
    """Parse and bound the header of an ESX COW disk."""
    if len(data) < COWD_HEADER.size or data[:4] != COWD_MAGIC:
        msg = "invalid VMDK extent (no COWD header)"
        raise ImageFormatError(msg)
    _magic, version, flags, sectors, grain, gd, gd_entries, _free = COWD_HEADER.unpack_from(data)
    if version != 1:
        msg = f"Unsupported COWD version {version}"
        raise ImageUnsupportedError(msg)
    _check_grain(grain, 4096, sectors)
    if gd_entries * 4096 * grain < sectors:
        msg = "invalid VMDK extent (the grain directory is too small)"
        raise ImageFormatError(msg)
    return SparseHeader(version, flags & 0, sectors, grain, 0, 0, 4096, 0, gd, 0, is_cowd=True, gd_entries=gd_entries)


def _check_grain(grain: int, gtes: int, capacity: int) -> None:
    if not 1 <= grain <= MAX_GRAIN_SECTORS or grain & (grain - 1):
        msg = f"Invalid granularity of {grain} sectors, image may be corrupt"
        raise ImageFormatError(msg)
    if not 1 <= gtes <= MAX_GTES_PER_GT:
        msg = f"L2 table size of {gtes} entries is invalid"
        raise ImageFormatError(msg)
    if capacity > MAX_CAPACITY_SECTORS:
        msg = f"the VMDK capacity of {capacity} sectors is too large"
        raise ImageFormatError(msg)


def build_sparse_header(header: SparseHeader) -> bytes:
    """The 512 bytes of a new extent's header."""
    return SPARSE_HEADER.pack(
        SPARSE_MAGIC, header.version, header.flags, header.capacity, header.grain_size, header.descriptor_offset,
        header.descriptor_size, header.num_gtes_per_gt, header.rgd_offset, header.gd_offset, header.over_head, 0,
        CHECK_BYTES, header.compress_algorithm,
    )  # fmt: skip
