"""On-disk structures of Parallels disk images (expandable images, `.hds`).

Source: QEMU's docs/interop/parallels.txt.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pyhyve.image.contract import ImageFormatError, ImageUnsupportedError

MAGIC_OLD = b"WithoutFreeSpace"
MAGIC_EXTENDED = b"WithouFreSpacExt"
VERSION = 2
IN_USE = 0x746F6E59
DEFAULT_CLUSTER_SIZE_BYTES = 1 << 20
MAX_CLUSTER_SIZE_BYTES = 1 << 28
HEADS = 16
SECTORS_PER_CYLINDER = 32
# magic, version, heads, cylinders, tracks, nb_bat_entries, nb_sectors, in_use, data_off, flags, ext_off
HEADER = struct.Struct("<16sIIIIIQIIIQ")
IN_USE_OFFSET = 44
MAX_BAT_ENTRIES = (1 << 31) // 4


@dataclass(frozen=True, slots=True)
class Header:
    """The header. `tracks` is the cluster size and `data_off` the start of data, both in sectors."""

    extended: bool
    cylinders: int
    tracks: int
    nb_bat_entries: int
    nb_sectors: int
    in_use: bool
    data_off: int
    ext_off: int = 0

    @property
    def cluster_size(self) -> int:
        """Bytes of a cluster."""
        return self.tracks * 512

    @property
    def entry_unit(self) -> int:
        """Bytes that one step of a BAT entry stands for."""
        return self.cluster_size if self.extended else 512


def parse_header(data: bytes, file_size: int) -> Header:
    """Parse and bound the first 64 bytes."""
    if len(data) < HEADER.size or data[:16] not in {MAGIC_OLD, MAGIC_EXTENDED}:
        msg = "Image not in Parallels format"
        raise ImageFormatError(msg)
    (
        magic, version, _heads, cylinders, tracks, entries, sectors, in_use, data_off, _flags, ext_off,
    ) = HEADER.unpack_from(data)  # fmt: skip
    extended = magic == MAGIC_EXTENDED
    if version != VERSION:
        msg = f"unsupported Parallels image (version {version})"
        raise ImageUnsupportedError(msg)
    if not 0 < tracks * 512 <= MAX_CLUSTER_SIZE_BYTES:
        msg = f"Invalid image: cluster size of {tracks} sectors"
        raise ImageFormatError(msg)
    if not extended:
        sectors &= 0xFFFFFFFF
    if sectors >= 1 << 54 or entries > MAX_BAT_ENTRIES or sectors > entries * tracks:
        msg = f"Invalid image: {entries} table entries for {sectors} sectors"
        raise ImageFormatError(msg)
    if HEADER.size + entries * 4 > file_size:
        msg = "Catalog too large: the block allocation table is not inside the file"
        raise ImageFormatError(msg)
    return Header(extended, cylinders, tracks, entries, sectors, in_use == IN_USE, data_off, ext_off)


def build_header(header: Header) -> bytes:
    """The 64 bytes of a new image's header."""
    return HEADER.pack(
        MAGIC_EXTENDED if header.extended else MAGIC_OLD, VERSION, HEADS, header.cylinders, header.tracks,
        header.nb_bat_entries, header.nb_sectors, IN_USE if header.in_use else 0, header.data_off, 0, header.ext_off,
    )  # fmt: skip
