"""How large an image file will be, before it is made."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyhyve.image.contract import ImageUnsupportedError
from pyhyve.image.operations.work import merged_extents

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyhyve.image.contract import Image
    from pyhyve.image.qcow2.reading import Qcow2Reader
    from pyhyve.image.storage import Storage


@dataclass(frozen=True, slots=True)
class Measurement:
    """Bytes needed for the data there is, and when every cluster is written."""

    required: int
    fully_allocated: int
    bitmaps: int | None = None


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def measure(
    format_name: str, size_bytes: int, options: Mapping[str, str | int | bool], source: Image | None = None
) -> Measurement:
    """Measure a new image of `size_bytes` in `format_name`, filled from `source` when given."""
    size = _round_up(size_bytes, 512)
    if format_name == "raw":
        return Measurement(size, size)
    if format_name != "qcow2":
        msg = f"Block driver '{format_name}' does not support size measurement"
        raise ImageUnsupportedError(msg)
    return _measure_qcow2(size, options, source)


def _measure_qcow2(size: int, options: Mapping[str, str | int | bool], source: Image | None) -> Measurement:
    from pyhyve.image.contract import BackingReference, CreateRequest  # noqa: PLC0415 - only this format
    from pyhyve.image.qcow2.create import new_header  # noqa: PLC0415
    from pyhyve.image.qcow2.reading import Qcow2Reader  # noqa: PLC0415
    from pyhyve.image.storage import FileObjectStorage  # noqa: PLC0415

    backing = BackingReference(str(options["backing_file"])) if options.get("backing_file") else None
    request = CreateRequest(FileObjectStorage(io.BytesIO()), size, options, backing, _no_sibling)
    header = new_header(request)
    cluster = header.cluster_size
    entry = 16 if header.extended_l2 else 8
    aligned = _round_up(size, cluster)
    l2_entries = _round_up(aligned // cluster, cluster // entry)
    l1_entries = _round_up(l2_entries * entry // cluster, cluster // 8)
    metadata = cluster + l2_entries * entry + l1_entries * 8
    total = aligned + metadata + _refcount_bytes((metadata + aligned) // cluster, cluster, header.refcount_order)
    data = 0
    if source is not None:
        size = aligned  # as QEMU counts
    if source is None:
        data = size if options.get("preallocation") in {"falloc", "full"} else 0
    elif backing is not None:
        data = size
    else:
        counted = 0  # clusters up to here are counted
        for extent in merged_extents(source):
            if extent.data and not extent.zero:
                end = _round_up(extent.end, cluster)
                data += max(0, end - max(counted, extent.start - extent.start % cluster))
                counted = max(counted, end)
        if options.get("preallocation") in {"falloc", "full"}:
            data = size
    required = total - size + data
    bitmaps = None
    if isinstance(source, Qcow2Reader) and source.header.version >= 3 and header.version >= 3:
        bitmaps = _bitmaps_bytes(source, cluster)
    return Measurement(required, total, bitmaps)


def _bitmaps_bytes(source: Qcow2Reader, cluster: int) -> int:
    """Space of all bitmaps, as if each of their clusters had something set."""
    from pyhyve.image.qcow2.bitmap_changes import bitmap_bytes  # noqa: PLC0415 - only this format
    from pyhyve.image.qcow2.bitmaps import load_directory  # noqa: PLC0415
    from pyhyve.image.qcow2.format import build_bitmap_directory  # noqa: PLC0415

    entries, total = load_directory(source.meta), 0
    for entry in entries:
        clusters = -(-bitmap_bytes(source.size_bytes, entry.granularity_bits) // cluster)
        total += clusters * cluster + _round_up(clusters * 8, cluster)
    return total + _round_up(len(build_bitmap_directory(entries)), cluster)


def _refcount_bytes(clusters: int, cluster: int, order: int) -> int:
    blocks = table = 0
    while True:
        total = clusters + blocks + table
        new_blocks = -(-(total << order) // (8 * cluster))
        new_table = -(-new_blocks * 8 // cluster)
        if (new_blocks, new_table) == (blocks, table):
            return (blocks + table) * cluster
        blocks, table = new_blocks, new_table


def _no_sibling(name: str) -> Storage:
    raise FileNotFoundError(name)
