"""New VMDK disks, laid out as QEMU does."""

from __future__ import annotations

import os
import secrets
import sys
from typing import TYPE_CHECKING

from pyhyve.image.contract import ImageError
from pyhyve.image.filename import parse_reference, resolve_relative
from pyhyve.image.storage import FileStorage
from pyhyve.image.vmdk.descriptor import NO_PARENT_CID, Descriptor, ExtentLine, build_descriptor, parse_descriptor
from pyhyve.image.vmdk.format import (
    COMPRESSION_DEFLATE,
    COMPRESSION_NONE,
    DEFAULT_GRAIN_SECTORS,
    DESCRIPTOR_SECTORS,
    GTES_PER_GT,
    Flag,
    SparseHeader,
    build_sparse_header,
)
from pyhyve.image.vmdk.image import read_descriptor
from pyhyve.support.arrays import array

if TYPE_CHECKING:
    from pyhyve.image.contract import BackingReference, CreateRequest
    from pyhyve.image.storage import Storage

SUBFORMATS = ("monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "streamOptimized")
ADAPTER_TYPES = ("ide", "buslogic", "lsilogic", "legacyESX")
SPLIT_BYTES = 0x80000000
_MAX_SPARSE_BYTES = 1 << 41


def create_vmdk(request: CreateRequest) -> None:
    """Create a disk; ImageError names a wrong option."""
    subformat = request.text("subformat", "monolithicSparse") or ""
    adapter = request.text("adapter_type", "ide") or "ide"
    hardware = request.text("hwversion")
    hardware = None if hardware == "undefined" else hardware
    tools = request.text("toolsversion", "2147483647") or ""
    flat, split = subformat.endswith("Flat"), subformat.startswith("twoGb")
    size = -(-request.size_bytes // 512) * 512
    message = None
    if subformat not in SUBFORMATS:
        message = f"Invalid subformat '{subformat}': choose one of {', '.join(SUBFORMATS)}"
    elif adapter not in ADAPTER_TYPES:
        message = f"Unknown adapter type: '{adapter}'"
    elif request.flag("compat6") and hardware is not None:
        message = "compat6 cannot be enabled with hwversion set"
    elif flat and request.flag("zeroed_grain"):
        message = "Flat image can't enable zeroed grain"
    elif flat and request.backing is not None:
        message = "Flat image can't have backing file"
    elif not split and not flat and size > _MAX_SPARSE_BYTES:
        message = "a sparse VMDK file holds at most 2 TiB: use subformat=twoGbMaxExtentSparse"
    elif any(character in text for text in (hardware or "", tools) for character in '"\r\n'):
        message = "hwversion and toolsversion cannot hold quotes or line ends"
    if message is not None:
        raise ImageError(message)
    hardware = hardware or ("6" if request.flag("compat6") else "4")
    own_name = os.path.basename(request.storage.filename)  # noqa: PTH119 - names are text here
    lines = []
    single = not flat and not split
    for number, start in enumerate(range(0, max(size, 1), SPLIT_BYTES if split else max(size, 1)), 1):
        length = min(SPLIT_BYTES, size - start) if split else size
        if single:
            name = own_name
            _create_sparse(request, request.storage, length, packed=subformat == "streamOptimized")
        else:
            name = extent_name(own_name, flat=flat, number=number if split else None)
            storage = request.open_sibling(name)
            try:
                if flat:
                    storage.truncate(length)
                else:
                    _create_sparse(request, storage, length, packed=False)
            finally:
                storage.close()
        lines.append(ExtentLine("RW", length // 512, "FLAT" if flat else "SPARSE", name))
    parent = request.backing
    descriptor = Descriptor(
        secrets.randbits(32),
        NO_PARENT_CID if parent is None else _content_id(parent, request.storage.filename),
        subformat,
        None if parent is None else parent.filename,
        tuple(lines),
    )
    text = build_descriptor(
        descriptor, hardware_version=hardware, adapter_type=adapter, tools_version=tools, disk_size_bytes=size
    )
    if single and len(text) > DESCRIPTOR_SECTORS * 512:
        msg = "the VMDK descriptor is too long for its place"
        raise ImageError(msg)
    request.storage.pwrite(text, 512 if single else 0)


def extent_name(name: str, *, flat: bool, number: int | None) -> str:
    """`disk.vmdk` → `disk-flat.vmdk`, `disk-f001.vmdk`, `disk-s001.vmdk`."""
    stem, dot, suffix = name.rpartition(".")
    if not dot:
        stem, suffix = name, ""
    tag = "flat" if number is None else f"{'f' if flat else 's'}{number:03d}"
    return f"{stem}-{tag}{dot}{suffix}"


def _content_id(parent: BackingReference, beside: str) -> int:
    """The content ID of the parent disk."""
    if parent.format_name not in {None, "vmdk"}:
        msg = f"Invalid backing file format: {parent.format_name}. Must be vmdk"
        raise ImageError(msg)
    path = parse_reference(resolve_relative(parent.filename, beside)).location
    try:
        storage = FileStorage.open(path, writable=False)
    except OSError as error:
        msg = f"Could not open '{path}': {error.strerror}"
        raise ImageError(msg) from error
    try:
        return parse_descriptor(read_descriptor(storage)[0]).cid
    finally:
        storage.close()


def _create_sparse(request: CreateRequest, storage: Storage, length: int, *, packed: bool) -> None:
    """Header, directories and empty grain tables, both copies."""
    grain = DEFAULT_GRAIN_SECTORS
    flags = Flag.NEW_LINE_TEST | Flag.REDUNDANT_GRAIN_TABLE
    zeroed = request.flag("zeroed_grain")
    version = 3 if packed else 2 if zeroed else 1
    if packed:
        flags |= Flag.COMPRESSED | Flag.MARKERS
    if zeroed:
        flags |= Flag.ZEROED_GRAIN
    tables = -(-length // (512 * grain * GTES_PER_GT))
    table_sectors = GTES_PER_GT * 4 // 512
    directory_sectors = -(-tables * 4 // 512)
    rgd = 1 + DESCRIPTOR_SECTORS
    gd = rgd + directory_sectors + tables * table_sectors
    over_head = -(-(gd + directory_sectors + tables * table_sectors) // grain) * grain
    header = SparseHeader(
        version, flags, length // 512, grain, 1, DESCRIPTOR_SECTORS, GTES_PER_GT, rgd, gd, over_head,
        COMPRESSION_DEFLATE if packed else COMPRESSION_NONE,
    )  # fmt: skip
    storage.pwrite(build_sparse_header(header), 0)
    for directory in (rgd, gd):
        first = directory + directory_sectors
        entries = array("I", range(first, first + tables * table_sectors, table_sectors))
        if sys.byteorder == "big":
            entries.byteswap()
        storage.pwrite(entries.tobytes(), directory * 512)
    storage.truncate(over_head * 512)
