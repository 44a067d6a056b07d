"""OVA packages: a tar archive that starts with an OVF descriptor.

Sources: DMTF DSP0243, Open Virtualization Format 2.1.1 (sections 5 to 7 and 9.1); POSIX.1-2017, pax (ustar headers).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from pyhyve.image.contract import ImageFormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyhyve.image.storage import Storage

BLOCK_SIZE_BYTES = 512
MAX_MEMBERS = 10_000
MAX_OVF_BYTES = 4 << 20
MAX_NAME_BYTES = 64 << 10
_REGULAR = frozenset((b"0", b"\0"))
_GNU_LONG_NAME, _PAX_HEADER = b"L", b"x"


@dataclass(frozen=True, slots=True)
class Member:
    """A file of the archive, in bytes."""

    name: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class DiskReference:
    """A disk of the DiskSection, with the file it refers to."""

    disk_id: str
    href: str
    compression: str = "identity"


def _number(field: bytes) -> int:
    """An octal header field, or GNU's base-256 form."""
    if field[0] & 0x80:
        return int.from_bytes(field, "big") & (1 << (8 * len(field) - 1)) - 1
    digits = field.strip(b" \0")
    try:
        return int(digits, 8) if digits else 0
    except ValueError as error:
        msg = "the OVA archive is damaged (a size is no number)"
        raise ImageFormatError(msg) from error


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _pax_path(data: bytes) -> str | None:
    while data:
        length, _space, _rest = data.partition(b" ")
        if not length.isdigit() or len(length) > 6 or not 0 < int(length) <= len(data):
            return None
        key, _equals, value = data[len(length) + 1 : int(length) - 1].partition(b"=")
        if key == b"path":
            return value.decode("utf-8", "surrogateescape")
        data = data[int(length) :]
    return None


def members(storage: Storage) -> Iterator[Member]:
    """Regular files of the archive in order. ImageFormatError when it is damaged."""
    size = storage.size_bytes
    position, long_name = 0, None
    for _number_of_header in range(MAX_MEMBERS):
        header = storage.pread(BLOCK_SIZE_BYTES, position)
        if len(header) < BLOCK_SIZE_BYTES or not any(header):
            return
        checksum = sum(header) - sum(header[148:156]) + 8 * 32
        if header[257:262] != b"ustar" or _number(header[148:156]) != checksum:
            msg = "the OVA archive is damaged (invalid tar header)"
            raise ImageFormatError(msg)
        length = _number(header[124:136])
        start = position + BLOCK_SIZE_BYTES
        if length > size - start:
            msg = "the OVA archive is cut off"
            raise ImageFormatError(msg)
        kind = header[156:157]
        if kind in {_GNU_LONG_NAME, _PAX_HEADER} and length <= MAX_NAME_BYTES:
            data = storage.pread(length, start)
            long_name = _text(data) if kind == _GNU_LONG_NAME else _pax_path(data)
        elif kind in _REGULAR:
            prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
            name = _text(header[:100])
            yield Member(long_name or (f"{prefix}/{name}" if prefix else name), start, length)
            long_name = None
        position = start + -(-length // BLOCK_SIZE_BYTES) * BLOCK_SIZE_BYTES
    msg = f"the OVA archive has more than {MAX_MEMBERS} members"
    raise ImageFormatError(msg)


def parse_ovf(data: bytes) -> tuple[DiskReference, ...]:
    """Disks with files, in the order of the DiskSection."""
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data or data[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        msg = "the OVF descriptor has a document type or is not UTF-8: refused"
        raise ImageFormatError(msg)
    try:
        root = ET.fromstring(data)  # noqa: S314 - without a document type there are no entities to expand
    except (ET.ParseError, ValueError, LookupError) as error:
        msg = f"the OVF descriptor is not well-formed: {error}"
        raise ImageFormatError(msg) from error
    files: dict[str, tuple[str, str]] = {}
    disks: list[DiskReference] = []
    for element in root.iter():
        tag = element.tag.rpartition("}")[2]
        attributes = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
        if tag == "File":
            files[attributes.get("id", "")] = attributes.get("href", ""), attributes.get("compression", "identity")
        elif tag == "Disk" and "fileRef" in attributes:
            href, compression = files.get(attributes["fileRef"], ("", ""))
            if not href:
                msg = f"the OVF disk '{attributes.get('diskId', '')}' refers to a file that is not listed"
                raise ImageFormatError(msg)
            disks.append(DiskReference(attributes.get("diskId", ""), href, compression or "identity"))
    return tuple(disks)
