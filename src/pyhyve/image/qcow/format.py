"""On-disk structures of qcow version 1, as QEMU's block/qcow.c defines them (there is no other specification)."""

from __future__ import annotations

import struct

from pyhyve.image.contract import ImageFormatError, ImageUnsupportedError
from pyhyve.support.records import dataclass

MAGIC = b"QFI\xfb"
VERSION = 1
HEADER = struct.Struct(">4sIQIIQBBHIQ")  # 48 bytes
OFLAG_COMPRESSED = 1 << 63
MAX_BACKING_NAME_BYTES = 1023
MAX_L1_SIZE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Header:
    """The header, with the backing file name it points to."""

    size: int
    cluster_bits: int
    l2_bits: int
    l1_table_offset: int
    mtime: int = 0
    backing_file: str | None = None

    @property
    def l1_size(self) -> int:
        """Entries of the L1 table."""
        return -(-self.size >> (self.cluster_bits + self.l2_bits))


def parse_header(data: bytes, file_size: int) -> Header:
    """Parse and bound the header from the first bytes of the file (4 KiB hold any backing name QEMU writes)."""
    if len(data) < HEADER.size or data[:4] != MAGIC:
        msg = "Image not in qcow format"
        raise ImageFormatError(msg)
    (
        _magic, version, backing_offset, backing_size, mtime, size, cluster_bits, l2_bits, _padding, crypt, l1_offset,
    ) = HEADER.unpack_from(data)  # fmt: skip
    if version != VERSION:
        msg = f"qcow (v{version}) does not support qcow version {version}; try the 'qcow2' driver instead"
        raise ImageFormatError(msg)
    if size <= 1:
        msg = "Image size is too small (must be at least 2 bytes)"
        raise ImageFormatError(msg)
    if not 9 <= cluster_bits <= 16:
        msg = "Cluster size must be between 512 and 64k"
        raise ImageFormatError(msg)
    if not 6 <= l2_bits <= 13:
        msg = "L2 table size must be between 512 and 64k"
        raise ImageFormatError(msg)
    if crypt:
        msg = "qcow AES encryption is not supported: it was never safe; decrypt the image with qemu-img convert"
        raise ImageUnsupportedError(msg)
    header = Header(size, cluster_bits, l2_bits, l1_offset, mtime)
    if size >= 1 << 63 or header.l1_size * 8 > MAX_L1_SIZE_BYTES:
        msg = "Image too large"
        raise ImageFormatError(msg)
    if l1_offset < HEADER.size or l1_offset > file_size:
        msg = "L1 table offset invalid"
        raise ImageFormatError(msg)
    if backing_offset:
        if backing_size > MAX_BACKING_NAME_BYTES:
            msg = "Backing file name too long"
            raise ImageFormatError(msg)
        if backing_offset + backing_size > len(data):
            msg = "Invalid backing file offset"
            raise ImageFormatError(msg)
        name = data[backing_offset : backing_offset + backing_size].decode("utf-8", "surrogateescape")
        header = Header(size, cluster_bits, l2_bits, l1_offset, mtime, name or None)
    return header


def build_header(header: Header) -> bytes:
    """Header and backing file name."""
    name = (header.backing_file or "").encode("utf-8", "surrogateescape")
    if len(name) > MAX_BACKING_NAME_BYTES:
        msg = "Backing file name too long"
        raise ImageFormatError(msg)
    fixed = HEADER.pack(
        MAGIC, VERSION, HEADER.size if name else 0, len(name), header.mtime, header.size, header.cluster_bits,
        header.l2_bits, 0, 0, header.l1_table_offset,
    )  # fmt: skip
    return fixed + name
