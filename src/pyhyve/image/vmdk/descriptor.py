"""The text descriptor of a VMDK disk (Virtual Disk Format 5.0, "The Descriptor File")."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pyhyve.image.contract import ImageFormatError, ImageUnsupportedError

MAX_DESCRIPTOR_BYTES = 1 << 20
MAX_EXTENTS = 4096
NO_PARENT_CID = 0xFFFFFFFF
FLAT_TYPES = frozenset(("FLAT", "VMFS"))
SPARSE_TYPES = frozenset(("SPARSE", "VMFSSPARSE"))
_VERSION_LINES = tuple(f"version={number}{end}".encode() for number in (1, 2, 3) for end in ("\n", "\r\n"))
_CID = re.compile(rb"^CID=([0-9A-Fa-f]{1,8})[ \t]*\r?$", re.MULTILINE)
_PARENT_CID = re.compile(rb"^parentCID=([0-9A-Fa-f]{1,8})[ \t]*\r?$", re.MULTILINE)
_CREATE_TYPE = re.compile(rb'^createType[ \t]*=[ \t]*"([^"\r\n]{0,64})"', re.MULTILINE)
_PARENT_HINT = re.compile(rb'^parentFileNameHint[ \t]*=[ \t]*"([^"\r\n]{0,4096})"', re.MULTILINE)
_EXTENT = re.compile(
    rb"^(RW|RDONLY|NOACCESS)[ \t]+([0-9]{1,19})[ \t]+([A-Z0-9]{1,16})"
    rb'(?:[ \t]+"([^"\r\n]{0,4096})")?(?:[ \t]+([0-9]{1,19}))?',
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class ExtentLine:
    """One line of the extent description; `sectors` and `offset` in sectors."""

    access: str
    sectors: int
    type: str
    filename: str
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What the descriptor says."""

    cid: int
    parent_cid: int
    create_type: str
    parent_hint: str | None
    extents: tuple[ExtentLine, ...]


def looks_like_descriptor(head: bytes) -> bool:
    """Whether the first line that is neither blank nor a comment states a version."""
    position = 0
    while position < len(head):
        if head[position : position + 1] in {b"#", b" ", b"\n", b"\r", b"\t"}:
            end = head.find(b"\n", position)
            if end < 0:
                return False
            position = end + 1
            continue
        return head.startswith(_VERSION_LINES, position)
    return False


def parse_descriptor(data: bytes) -> Descriptor:
    """Parse descriptor text. Raises ImageFormatError or ImageUnsupportedError."""
    text = data.partition(b"\0")[0]
    create_type = _CREATE_TYPE.search(text)
    cid, parent_cid = _CID.search(text), _PARENT_CID.search(text)
    if create_type is None or cid is None:
        msg = "invalid VMDK image descriptor"
        raise ImageFormatError(msg)
    hint = _PARENT_HINT.search(text)
    extents: list[ExtentLine] = []
    for match in _EXTENT.finditer(text):
        access, sectors, kind, name, offset = match.groups()
        if len(extents) >= MAX_EXTENTS:
            msg = f"the VMDK descriptor has more than {MAX_EXTENTS} extents"
            raise ImageFormatError(msg)
        extents.append(
            ExtentLine(
                access.decode(), int(sectors), kind.decode(), (name or b"").decode("utf-8", "surrogateescape"),
                int(offset or 0),
            )
        )  # fmt: skip
    return Descriptor(
        int(cid[1], 16),
        int(parent_cid[1], 16) if parent_cid else NO_PARENT_CID,
        create_type[1].decode("utf-8", "replace"),
        hint[1].decode("utf-8", "surrogateescape") if hint and hint[1] else None,
        tuple(extents),
    )


def check_extent_name(name: str) -> None:
    """Refuse extents outside the image's directory: a disk a guest has written must not name files of the host."""
    if not name or name.startswith("/") or ".." in name.split("/") or ":" in name.split("/", maxsplit=1)[0]:
        msg = f"the VMDK extent '{name}' is outside the directory of its descriptor: not supported"
        raise ImageUnsupportedError(msg)


def with_cid(data: bytes, cid: int) -> bytes:
    """The same text with another content ID."""
    return _CID.sub(b"CID=%08x" % cid, data, count=1)


def build_descriptor(
    descriptor: Descriptor, *, hardware_version: str, adapter_type: str, tools_version: str, disk_size_bytes: int
) -> bytes:
    """Descriptor text in QEMU's layout."""
    heads = 16 if adapter_type == "ide" else 255
    lines = []
    for extent in descriptor.extents:
        offset = f" {extent.offset}" if extent.type in FLAT_TYPES else ""
        lines.append(f'{extent.access} {extent.sectors} {extent.type} "{extent.filename}"{offset}\n')
    hint = "" if descriptor.parent_hint is None else f'parentFileNameHint="{descriptor.parent_hint}"'
    text = (
        "# Disk DescriptorFile\nversion=1\n"
        f"CID={descriptor.cid:08x}\nparentCID={descriptor.parent_cid:08x}\n"
        f'createType="{descriptor.create_type}"\n{hint}\n'
        f"# Extent description\n{''.join(lines)}\n"
        "# The Disk Data Base\n#DDB\n\n"
        f'ddb.virtualHWVersion = "{hardware_version}"\n'
        f'ddb.geometry.cylinders = "{disk_size_bytes // (63 * heads * 512)}"\n'
        f'ddb.geometry.heads = "{heads}"\nddb.geometry.sectors = "63"\n'
        f'ddb.adapterType = "{adapter_type}"\nddb.toolsVersion = "{tools_version}"\n'
    )
    return text.encode("utf-8", "surrogateescape")
