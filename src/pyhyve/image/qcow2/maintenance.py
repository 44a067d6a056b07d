"""Changes to a whole qcow2 image: size, backing file, version, reference count width."""

from __future__ import annotations

from pyhyve.image.contract import CheckResult, ImageError, ImageUnsupportedError
from pyhyve.image.qcow2.format import (
    MAX_L1_SIZE_BYTES,
    OFLAG_ZERO,
    SIZE_OFFSET,
    V2_HEADER_LENGTH,
    Autoclear,
    Compatible,
    Incompatible,
)
from pyhyve.image.qcow2.snapshots import free_vm_state, host_runs
from pyhyve.image.qcow2.tables import store_u64
from pyhyve.support.arrays import array
from pyhyve.support.records import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pyhyve.image.qcow2.image import Qcow2Image
    from pyhyve.image.qcow2.metadata import Metadata


AMENDABLE = (
    "backing_file", "backing_fmt", "compat", "data_file", "data_file_raw", "lazy_refcounts", "refcount_bits", "size",
)  # fmt: skip


def resize(image: Qcow2Image, size_bytes: int) -> None:
    """Change the virtual size; clusters past a smaller size are freed."""
    meta, header = image.meta, image.meta.header
    if size_bytes % 512:
        msg = "The new size must be a multiple of 512"
        raise ImageError(msg)
    if header.nb_snapshots and header.version < 3:
        msg = "Can't resize a v2 image which has snapshots"
        raise ImageUnsupportedError(msg)
    old_size = header.size
    with meta.lock:
        free_vm_state(meta)  # it lies right behind the disk
    if size_bytes < old_size:
        _free_past(image, size_bytes)
    image.flush()
    with meta.lock:
        # Readers refuse a bitmap that is shorter than its disk: it grows first and shrinks last.
        if size_bytes > old_size:
            _resize_bitmaps(meta, size_bytes)
        _switch_size(meta, size_bytes)
        if size_bytes < old_size:
            _resize_bitmaps(meta, size_bytes)
        if header.has_data_file and header.autoclear_features & Autoclear.RAW_EXTERNAL_DATA:
            image.data.truncate(size_bytes)
    if size_bytes > old_size:
        cluster_end = min(size_bytes, -(-old_size // header.cluster_size) * header.cluster_size)
        if cluster_end > old_size:
            image.write_zeroes(old_size, cluster_end - old_size)
        below = 0 if image.backing is None else min(size_bytes, image.backing.size_bytes)
        if below > cluster_end:
            image.write_zeroes(cluster_end, below - cluster_end)
        image.flush()


def _resize_bitmaps(meta: Metadata, size_bytes: int) -> None:
    if meta.header.bitmaps is None:
        return
    from pyhyve.image.qcow2.bitmap_changes import BitmapChanges  # noqa: PLC0415 - images with bitmaps are rare

    changes = BitmapChanges(meta)
    changes.resize(size_bytes)
    changes.commit()


def make_empty(image: Qcow2Image) -> None:
    """Unmap everything; the virtual size stays."""
    _free_past(image, 0)
    image.flush()
    image.flush()


def _free_past(image: Qcow2Image, size_bytes: int) -> None:
    """Unmap the clusters that lie wholly past `size_bytes`."""
    meta, header = image.meta, image.meta.header
    cluster, last = -(-size_bytes >> meta.cluster_bits), -(-header.size >> meta.cluster_bits)
    words = meta.words_per_entry
    with meta.lock:
        while cluster < last:
            l1_index, index = divmod(cluster, header.l2_entries)
            count = min(last - cluster, header.l2_entries - index)
            if meta.table(l1_index) is not None:
                table = meta.writable_table(l1_index)
                low, high = index * words, (index + count) * words
                for host, taken in host_runs(meta, table.entries[low:high]):
                    meta.free(host << meta.cluster_bits, taken << meta.cluster_bits)
                table.entries[low:high] = array("Q", (0,)) * (high - low)
                meta.mark_table(l1_index, table, low, high)
                if index == 0:
                    meta.drop_table(l1_index)
            cluster += count


def cover_vm_state(meta: Metadata, end: int) -> None:
    """Let the L1 table reach up to byte `end` behind the disk; the caller holds the lock."""
    needed = meta.header.l1_entries_needed + -(-end // (meta.cluster_size * meta.header.l2_entries))
    if needed > len(meta.l1):
        _switch_size(meta, meta.header.size, max(needed, min(len(meta.l1) * 3 // 2, MAX_L1_SIZE_BYTES // 8)))


def _switch_size(meta: Metadata, size_bytes: int, min_l1_entries: int = 0) -> None:
    header = meta.header
    grown = replace(header, size=size_bytes)
    needed = max(grown.l1_entries_needed, min_l1_entries)
    if needed * 8 > MAX_L1_SIZE_BYTES:
        msg = "The image size is too large (try using a larger cluster size)"
        raise ImageError(msg)
    l1, offset, old = meta.l1, header.l1_table_offset, None
    if needed > header.l1_size:
        per_cluster = meta.cluster_size // 8
        entries = -(-needed // per_cluster) * per_cluster if header.l1_size else needed
        entries = min(entries, MAX_L1_SIZE_BYTES // 8)
        l1 = l1 + array("Q", (0,)) * (entries - len(l1))
        old = (offset, max(1, header.l1_size) * 8)
        offset, _ = meta.allocate(-(-len(l1) * 8 >> meta.cluster_bits), exact=True)
        meta.storage.pwrite(store_u64(l1), offset)
        meta.write_back()
    # size, crypt_method, l1_size and l1_table_offset are one write inside the first sector
    fields = (
        size_bytes.to_bytes(8, "big") + header.crypt_method.to_bytes(4, "big") + len(l1).to_bytes(4, "big")
        + offset.to_bytes(8, "big")
    )  # fmt: skip
    meta.storage.pwrite(fields, SIZE_OFFSET)
    meta.storage.flush()
    switched = replace(meta.header, size=size_bytes, l1_size=len(l1), l1_table_offset=offset)
    if old is None:
        meta.header = switched
    else:
        meta.replace_l1(l1, switched)
        meta.free(*old)
        meta.write_back()


def change_backing(image: Qcow2Image, filename: str | None, format_name: str | None) -> None:
    """Store another backing reference (None removes it); data is not touched."""
    if filename and image.header.autoclear_features & Autoclear.RAW_EXTERNAL_DATA:
        msg = "Cannot add a backing file to an image with a raw external data file"
        raise ImageUnsupportedError(msg)
    image.flush()
    with image.meta.lock:
        image.meta.write_header(
            replace(image.header, backing_file=filename or None, backing_format=format_name if filename else None)
        )


def amend(
    image: Qcow2Image, options: Mapping[str, str | int | bool], progress: Callable[[int, int], None] | None = None
) -> None:
    """Change creation options of an existing image; ImageUnsupportedError for what cannot be changed."""
    header = image.header
    for name in options:
        if name not in AMENDABLE:
            msg = f"Invalid parameter '{name}': this option is only supported for image creation"
            raise ImageUnsupportedError(msg)
    below = image.backing_reference
    names = (below.filename, below.format_name) if below is not None else (None, None)
    given = (options.get("backing_file") or None, options.get("backing_fmt") or None)
    if given not in {(None, None), names}:
        msg = "Cannot amend the backing file: use `pyhyve img rebase`"
        raise ImageUnsupportedError(msg)
    compat = str(options.get("compat", f"v{header.version}"))
    wanted = {"0.10": 2, "v2": 2, "1.1": 3, "v3": 3}.get(compat)
    if wanted is None:
        msg = f"Unknown compatibility level {compat}"
        raise ImageError(msg)
    if wanted > header.version:
        image.meta.write_header(replace(header, version=3, header_length=112, feature_name_table=True))
    bits = options.get("refcount_bits")
    if bits is not None:
        _change_refcount_bits(image, int(bits), wanted)
    lazy = options.get("lazy_refcounts")
    if lazy is not None:
        _change_lazy(image, enable=bool(lazy), version=wanted)
    if "data_file" in options:
        if not image.header.has_data_file:
            msg = "data-file can only be set for images that use an external data file"
            raise ImageError(msg)
        image.meta.write_header(replace(image.header, data_file=str(options["data_file"])))
    if options.get("data_file_raw") and not image.header.autoclear_features & Autoclear.RAW_EXTERNAL_DATA:
        msg = "data-file-raw cannot be set on existing images"
        raise ImageUnsupportedError(msg)
    if wanted < image.header.version:
        _downgrade(image)
    if "size" in options:
        image.resize(int(options["size"]))
    if progress is not None:
        progress(1, 1)


def _change_refcount_bits(image: Qcow2Image, bits: int, version: int) -> None:
    from pyhyve.image.qcow2.check import collect, rebuild_refcounts  # noqa: PLC0415 - rarely needed

    if bits & (bits - 1) or not 1 <= bits <= 64:
        msg = "Refcount width must be a power of two and may not exceed 64 bits"
        raise ImageError(msg)
    if version < 3 and bits != 16:
        msg = "Refcount widths other than 16 bits require compatibility level 1.1 or above (use compat=1.1 or greater)"
        raise ImageError(msg)
    order = bits.bit_length() - 1
    if order == image.header.refcount_order:
        return
    image.flush()
    with image.meta.lock:
        rebuild_refcounts(image.meta, collect(image.meta, CheckResult()), order)
        image.meta.byte_offset = 0


def _change_lazy(image: Qcow2Image, *, enable: bool, version: int) -> None:
    header = image.header
    if enable and version < 3:
        msg = "Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or greater)"
        raise ImageError(msg)
    with image.meta.lock:
        image.meta.write_back(final=True)
        features = header.compatible_features & ~Compatible.LAZY_REFCOUNTS
        incompatible = image.header.incompatible_features & ~Incompatible.DIRTY
        image.meta.write_header(
            replace(
                image.header,
                compatible_features=features | (Compatible.LAZY_REFCOUNTS if enable else 0),
                incompatible_features=incompatible,
            )
        )


def _downgrade(image: Qcow2Image) -> None:
    """Version 3 to 2: zero clusters become freed or written, then the header shrinks."""
    header = image.header
    kept = header.incompatible_features & ~(Incompatible.DIRTY | Incompatible.CORRUPT)
    if kept or header.refcount_order != 4:
        what = "a refcount width other than 16 bits" if header.refcount_order != 4 else "incompatible features"
        msg = f"Cannot downgrade an image with {what} to compatibility level 0.10"
        raise ImageUnsupportedError(msg)
    if header.nb_snapshots:
        msg = "Cannot downgrade an image with internal snapshots"
        raise ImageUnsupportedError(msg)
    if header.bitmaps is not None:
        msg = "Cannot downgrade an image with bitmaps"
        raise ImageUnsupportedError(msg)
    meta = image.meta
    backing_end = 0 if image.backing is None else image.backing.size_bytes
    zeroes = bytes(header.cluster_size)
    for l1_index in range(len(meta.l1)):
        with meta.lock:
            table = meta.table(l1_index)
            if table is None:
                continue
            flagged = [word for word, entry in enumerate(table.entries) if entry & OFLAG_ZERO and not entry >> 62 & 1]
            table = meta.writable_table(l1_index)
            for word in flagged:
                offset = (l1_index * header.l2_entries + word) << meta.cluster_bits
                if offset >= backing_end:
                    meta.free_entry(table.entries[word])
                    table.entries[word] = 0
                    meta.mark_table(l1_index, table, word, word + 1)
        for word in flagged:
            offset = (l1_index * header.l2_entries + word) << meta.cluster_bits
            if offset < backing_end:
                image.pwrite(memoryview(zeroes)[: header.size - offset], offset)
    image.flush()
    with meta.lock:
        meta.write_header(
            replace(
                image.header, version=2, compatible_features=0, autoclear_features=0, incompatible_features=0,
                header_length=V2_HEADER_LENGTH, extra_fields=b"", feature_name_table=False,
            )
        )  # fmt: skip
