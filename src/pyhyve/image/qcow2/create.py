"""New qcow2 images."""

from __future__ import annotations

from pyhyve.image.contract import CreateRequest, ImageError, ImageFormatError, ImageUnsupportedError, OpenRequest
from pyhyve.image.qcow2.format import (
    MAX_L1_SIZE_BYTES,
    OFLAG_COPIED,
    Autoclear,
    Compatible,
    CompressionType,
    Header,
    Incompatible,
    build_header,
)
from pyhyve.image.qcow2.refcount import RefcountStructure, pack_counts, unpack_counts
from pyhyve.image.qcow2.tables import ascending
from pyhyve.image.storage import preallocate
from pyhyve.support.arrays import array
from pyhyve.support.records import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyhyve.image.qcow2.image import Qcow2Image
    from pyhyve.image.storage import Storage

_VERSIONS = {"0.10": 2, "v2": 2, "1.1": 3, "v3": 3}
_NEEDS_V3 = "compatibility level 1.1 and above (use version=v3 or greater)"
PREALLOCATIONS = ("off", "metadata", "falloc", "full")


def new_header(request: CreateRequest) -> Header:
    """The header that the options ask for, tables not yet placed; ImageError when they contradict each other."""
    compat = request.text("compat", "1.1")
    version = _VERSIONS.get(compat or "")
    if version is None:
        msg = f"Invalid parameter '{compat}' for 'compat' (use v2 or v3)"
        raise ImageError(msg)
    cluster_size = request.number("cluster_size", 65536)
    if cluster_size & (cluster_size - 1) or not 512 <= cluster_size <= 2 << 20:
        msg = "Cluster size must be a power of two between 512 and 2048k"
        raise ImageError(msg)
    bits = request.number("refcount_bits", 16)
    if bits & (bits - 1) or not 1 <= bits <= 64:
        msg = "Refcount width must be a power of two and may not exceed 64 bits"
        raise ImageError(msg)
    compression = request.text("compression_type", "zlib")
    if compression not in {"zlib", "zstd"}:
        msg = f"Invalid parameter '{compression}' for 'compression_type' (use zlib or zstd)"
        raise ImageError(msg)
    if request.flag("encryption") or request.text("encrypt.format"):
        msg = "qcow2 encryption is not supported: encrypt the file system or the device that holds the image"
        raise ImageUnsupportedError(msg)
    data_file = request.text("data_file")
    raw_data, extended, lazy = (request.flag(name) for name in ("data_file_raw", "extended_l2", "lazy_refcounts"))
    if version < 3:
        for wanted, what in (
            (bits != 16, "Different refcount widths than 16 bits require"),
            (lazy, "Lazy refcounts only supported with"),
            (data_file is not None, "External data files are only supported with"),
            (compression != "zlib", "Non-zlib compression type is only supported with"),
            (extended, "Extended L2 entries are only supported with"),
        ):
            if wanted:
                msg = f"{what} {_NEEDS_V3}"
                raise ImageError(msg)
    if extended and cluster_size < 16384:
        msg = "Extended L2 entries are only supported with cluster sizes of at least 16384 bytes"
        raise ImageError(msg)
    if raw_data and data_file is None:
        msg = "data-file-raw requires data-file"
        raise ImageError(msg)
    if raw_data and request.backing is not None:
        msg = "Backing file and data-file-raw cannot be used at the same time"
        raise ImageError(msg)
    incompatible = (
        (Incompatible.DATA_FILE if data_file is not None else 0)
        | (Incompatible.COMPRESSION_TYPE if compression == "zstd" else 0)
        | (Incompatible.EXTENDED_L2 if extended else 0)
    )
    header = Header(
        version=version,
        cluster_bits=cluster_size.bit_length() - 1,
        size=-(-request.size_bytes // 512) * 512,
        l1_size=0,
        l1_table_offset=0,
        refcount_table_offset=0,
        refcount_table_clusters=1,
        incompatible_features=incompatible,
        compatible_features=Compatible.LAZY_REFCOUNTS if lazy else 0,
        autoclear_features=Autoclear.RAW_EXTERNAL_DATA if raw_data else 0,
        refcount_order=bits.bit_length() - 1,
        compression_type=CompressionType.ZSTD if compression == "zstd" else CompressionType.ZLIB,
        backing_file=request.backing.filename if request.backing else None,
        backing_format=request.backing.format_name if request.backing else None,
        data_file=data_file,
    )
    if header.l1_entries_needed * 8 > MAX_L1_SIZE_BYTES:
        msg = "The image size is too large for file format 'qcow2' (try using a larger cluster size)"
        raise ImageFormatError(msg)
    return replace(header, l1_size=max(1, header.l1_entries_needed) if header.size else 0)


def write_empty(storage: Storage, header: Header) -> Header:
    """Lay out header, refcount table, first refcount block and L1 table; the rest of the file is left as it is.

    The magic goes in last, so that a crash leaves no half-made image.
    """
    cluster = header.cluster_size
    counts = unpack_counts(bytes(cluster), header.refcount_order)
    for used in range(3):
        counts[used] = 1
    storage.pwrite((2 * cluster).to_bytes(8, "big").ljust(cluster, b"\0"), cluster)
    storage.pwrite(pack_counts(counts, header.refcount_order), 2 * cluster)
    refcounts = RefcountStructure(storage, header.cluster_bits, header.refcount_order, cluster, 1)
    l1_bytes = header.l1_size * 8
    first, _ = refcounts.allocate(max(1, -(-l1_bytes // cluster)))
    storage.pwrite(build_header(replace(header, refcount_table_offset=cluster, l1_table_offset=first * cluster)), 0)
    refcounts.write_back()
    storage.write_zeroes(first * cluster, l1_bytes)
    header = replace(
        header,
        l1_table_offset=first * cluster,
        refcount_table_offset=refcounts.table_offset,
        refcount_table_clusters=refcounts.table_clusters,
    )
    storage.pwrite(build_header(header), 0)
    return header


def create(request: CreateRequest) -> None:
    """Create an image, and its external data file."""
    mode = request.text("preallocation", "off")
    if mode not in PREALLOCATIONS:
        msg = f"Invalid parameter '{mode}' for 'preallocation'"
        raise ImageError(msg)
    header = new_header(request)
    if mode != "off" and header.backing_file and not header.extended_l2:
        msg = "Backing file and preallocation can only be used at the same time if extended_l2 is enabled"
        raise ImageError(msg)
    build_header(header)  # refuses what does not fit before anything is written
    data: Storage = request.storage
    if header.data_file:
        data = request.open_sibling(header.data_file)
        if header.autoclear_features & Autoclear.RAW_EXTERNAL_DATA or mode != "off":
            data.truncate(header.size)
    try:
        write_empty(request.storage, header)
        if mode != "off" or header.autoclear_features & Autoclear.RAW_EXTERNAL_DATA:
            _preallocate(request, data, mode if mode != "off" else "metadata")
    finally:
        if data is not request.storage:
            data.close()


def _preallocate(request: CreateRequest, data: Storage, mode: str) -> None:
    """Map every cluster of a new image."""
    from pyhyve.image.qcow2.image import Qcow2Image  # noqa: PLC0415 - only preallocated images need it

    opened = Qcow2Image(OpenRequest(request.storage, writable=True, open_sibling=lambda _name, _writable: data))
    preallocate_clusters(opened, 0, mode)
    opened.meta.close()


def preallocate_clusters(image: Qcow2Image, start: int, mode: str) -> None:
    """Map the clusters from byte `start` that nothing has; `falloc` and `full` also reserve or write their space."""
    meta = image.meta
    header, cluster = meta.header, meta.cluster_size
    total, at = -(-header.size // cluster), -(-start // cluster)
    first = at * cluster
    while at < total:
        l1_index, index = divmod(at, header.l2_entries)
        table = meta.writable_table(l1_index)
        count = min(total - at, header.l2_entries - index)
        words = table.entries[index * meta.words_per_entry : (index + count) * meta.words_per_entry]
        if any(words):  # zero clusters that hide a backing image
            at += count
            continue
        if header.has_data_file:
            host, taken = at * cluster, count
        else:
            host, taken = meta.allocate(count)
            length = min(taken * cluster, header.size - at * cluster)
            if mode == "metadata":
                meta.storage.truncate(max(meta.storage.size_bytes, host + length))
            else:
                preallocate(meta.storage, host, taken * cluster, mode)
        words = ascending(host | OFLAG_COPIED, taken, cluster)
        if header.extended_l2:
            pairs = array("Q", (0,)) * (2 * taken)  # space for all subclusters, none of them allocated
            pairs[::2] = words
            words = pairs
        low = index * meta.words_per_entry
        table.entries[low : low + len(words)] = words
        meta.mark_table(l1_index, table, low, low + len(words))
        at += taken
    if header.has_data_file and mode in {"falloc", "full"}:
        preallocate(image.data, first, header.size - first, mode)
