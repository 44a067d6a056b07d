"""Internal snapshots: the table, and taking, applying and deleting them.

Reference counts are per L1 table: a cluster reachable from two L1 tables counts twice even when both reach it through
one shared L2 table. COPIED flags are kept exact in the active L1 table and the L2 tables below it.
"""

from __future__ import annotations

from pyhyve.image.contract import ImageError, ImageFormatError, ImageUnsupportedError
from pyhyve.image.qcow2.format import (
    MAX_L1_SIZE_BYTES,
    MAX_SNAPSHOT_TABLE_SIZE_BYTES,
    MAX_SNAPSHOTS,
    OFFSET_MASK,
    OFLAG_COMPRESSED,
    OFLAG_COPIED,
    SIZE_OFFSET,
    SNAPSHOT_FIELDS_OFFSET,
    SnapshotEntry,
    build_snapshot_table,
    parse_snapshot_table,
)
from pyhyve.image.qcow2.tables import ascending, run_length, store_u64
from pyhyve.support.arrays import array
from pyhyve.support.records import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyhyve.image.contract import SnapshotInfo
    from pyhyve.image.qcow2.metadata import Metadata


def load_snapshots(meta: Metadata) -> tuple[SnapshotEntry, ...]:
    """The snapshot table; ImageFormatError when it is damaged."""
    header = meta.header
    if not header.nb_snapshots:
        return ()
    room = max(0, min(MAX_SNAPSHOT_TABLE_SIZE_BYTES, meta.storage.size_bytes - header.snapshots_offset))
    guess = min(room, 65536 + 256 * header.nb_snapshots)
    try:
        return parse_snapshot_table(
            meta.storage.pread(guess, header.snapshots_offset), header.nb_snapshots, header.size
        )
    except ImageFormatError:
        if guess == room:
            raise
    return parse_snapshot_table(meta.storage.pread(room, header.snapshots_offset), header.nb_snapshots, header.size)


def find_entry(meta: Metadata, wanted: SnapshotInfo) -> SnapshotEntry:
    """The table's entry of a snapshot; ImageError when it is gone."""
    for entry in load_snapshots(meta):
        if (entry.id, entry.name) == (wanted.id, wanted.name):
            return entry
    msg = f"Can't find snapshot '{wanted.name or wanted.id}'"
    raise ImageError(msg)


def table_bytes(meta: Metadata) -> int:
    """Length of the snapshot table in the file."""
    return len(build_snapshot_table(load_snapshots(meta)))


def tree_tables(meta: Metadata, l1: array[int]) -> Iterator[tuple[int, int, array[int]]]:
    """Each distinct L2 table of an L1: `(offset, times referenced, words)`; ImageFormatError on a bad offset."""
    offsets: dict[int, int] = {}
    for entry in l1:
        if entry & OFFSET_MASK:
            offsets[entry & OFFSET_MASK] = offsets.get(entry & OFFSET_MASK, 0) + 1
    for offset, times in offsets.items():
        if offset & (meta.cluster_size - 1):
            msg = f"L2 table offset {offset:#x} unaligned"
            raise ImageFormatError(msg)
        yield offset, times, meta.load_table(offset)


def host_runs(meta: Metadata, words: array[int]) -> Iterator[tuple[int, int]]:
    """Host clusters `(first, count)` that the entries of one L2 table refer to, data files excepted."""
    stride = meta.words_per_entry
    entries = words if stride == 1 else words[::2]
    external = meta.header.has_data_file
    index, total = 0, len(entries)
    while index < total:
        entry = entries[index]
        if entry & OFLAG_COMPRESSED:
            offset, length = meta.compressed_extent(entry)
            first = offset >> meta.cluster_bits
            yield first, ((offset + length - 1) >> meta.cluster_bits) - first + 1
            index += 1
            continue
        host = entry & OFFSET_MASK
        count = run_length(entries, index, total - index, meta.cluster_size if host else 0)
        if host and not external:
            if host & (meta.cluster_size - 1):
                msg = f"Cluster allocation offset {host:#x} unaligned"
                raise ImageFormatError(msg)
            yield host >> meta.cluster_bits, count
        index += count


def add_tree(meta: Metadata, l1: array[int], delta: int) -> None:
    """Add `delta` to everything reachable from `l1`, the L1 table itself excepted. All or nothing."""
    done: list[tuple[int, int]] = []
    end = max(meta.refcounts.high_water, -(-meta.storage.size_bytes >> meta.cluster_bits)) + 1
    try:
        for offset, times, words in tree_tables(meta, l1):
            for _ in range(times):
                for first, count in ((offset >> meta.cluster_bits, 1), *host_runs(meta, words)):
                    if first + count > end:
                        msg = f"a table refers to cluster {first:#x}, far past the end of the file"
                        raise ImageFormatError(msg)
                    meta.refcounts.add(first, count, delta)
                    done.append((first, count))
    except ImageError:
        for first, count in done:
            meta.refcounts.add(first, count, -delta)
        raise


def refresh_copied_flags(meta: Metadata) -> None:
    """Set COPIED exactly where the reference count is one, in the active tables."""
    counts, stride = meta.refcounts, meta.words_per_entry
    for l1_index, l1_entry in enumerate(meta.l1):
        offset = l1_entry & OFFSET_MASK
        if not offset:
            continue
        flag = OFLAG_COPIED if counts.get(offset >> meta.cluster_bits) == 1 else 0
        meta.set_l1_entry(l1_index, offset | flag)
        table = meta.table(l1_index)
        if table is None or meta.header.has_data_file:
            continue
        words = table.entries
        entries = words if stride == 1 else words[::2]
        low, high = len(entries), 0
        for index, count, flag in _flag_runs(meta, entries):
            first = entries[index] & ~OFLAG_COPIED | flag
            if entries[index] != first:
                start, stop = index * stride, (index + count) * stride
                words[start:stop:stride] = ascending(first, count, meta.cluster_size)
                low, high = min(low, index), max(high, index + count)
        if high:
            meta.mark_table(l1_index, table, low * stride, high * stride)


def _flag_runs(meta: Metadata, entries: array[int]) -> Iterator[tuple[int, int, int]]:
    """Runs `(index, count, flag)` of allocated entries whose COPIED flag must be `flag`."""
    counts, bits, size = meta.refcounts, meta.cluster_bits, meta.cluster_size
    index, total = 0, len(entries)
    while index < total:
        entry = entries[index]
        host = entry & OFFSET_MASK
        if entry & OFLAG_COMPRESSED or not host:
            index += 1 if entry & OFLAG_COMPRESSED else run_length(entries, index, total - index, 0)
            continue
        run = run_length(entries, index, total - index, size)
        if counts.all_equal_one(host >> bits, run):
            yield index, run, OFLAG_COPIED
        elif counts.none_equal_one(host >> bits, run):
            yield index, run, 0
        else:
            for at in range(run):
                yield index + at, 1, OFLAG_COPIED if counts.get((host >> bits) + at) == 1 else 0
        index += run


def _check_table_size(entries: tuple[SnapshotEntry, ...]) -> bytes:
    """The bytes of a table; ImageError when it is larger than readers accept."""
    data = build_snapshot_table(entries)
    if len(data) > MAX_SNAPSHOT_TABLE_SIZE_BYTES or len(entries) > MAX_SNAPSHOTS:
        msg = "Snapshot table would become too large"
        raise ImageError(msg)
    return data


def _write_snapshot_table(meta: Metadata, entries: tuple[SnapshotEntry, ...]) -> None:
    """Write a new table, switch the header to it and free the old one."""
    old_offset, old_length = meta.header.snapshots_offset, table_bytes(meta) if meta.header.nb_snapshots else 0
    offset = 0
    if entries:
        data = _check_table_size(entries)
        offset, _ = meta.allocate(-(-len(data) >> meta.cluster_bits), exact=True)
        meta.storage.pwrite(data, offset)
    meta.write_back()
    fields = len(entries).to_bytes(4, "big") + offset.to_bytes(8, "big")
    meta.storage.pwrite(fields, SNAPSHOT_FIELDS_OFFSET)
    meta.storage.flush()
    meta.header = replace(meta.header, nb_snapshots=len(entries), snapshots_offset=offset)
    if old_length:
        meta.free(old_offset, old_length)


def _copy_l1(meta: Metadata, l1: array[int]) -> int:
    """Write a copy of an L1 table without COPIED flags; returns its offset (0 for an empty table)."""
    if not l1:
        return 0
    offset, _ = meta.allocate(-(-len(l1) * 8 >> meta.cluster_bits), exact=True)
    plain = array("Q", (entry & ~OFLAG_COPIED for entry in l1))
    meta.storage.pwrite(store_u64(plain), offset)
    return offset


def _vm_state_tables(meta: Metadata) -> range:
    """The L1 entries behind those of the disk: a machine state lies there."""
    return range(meta.header.l1_entries_needed, len(meta.l1))


def free_vm_state(meta: Metadata) -> None:
    """Give up the machine state that was written, or came with an applied snapshot, and that no snapshot took."""
    taken = [index for index in _vm_state_tables(meta) if meta.l1[index] & OFFSET_MASK]
    if not taken:
        return
    meta.write_back()
    l1 = array("Q", (meta.l1[index] for index in taken))
    for index in taken:
        meta.detach_table(index)
    meta.write_back()
    add_tree(meta, l1, -1)
    meta.byte_offset = 0


def _create_snapshot(meta: Metadata, new: SnapshotEntry) -> SnapshotEntry:
    entries = load_snapshots(meta)
    if not new.vm_state_size:
        free_vm_state(meta)
    meta.write_back()
    number = max((int(entry.id) for entry in entries if entry.id.isdecimal()), default=0) + 1
    entry = replace(new, l1_size=len(meta.l1), id=str(number), disk_size=meta.header.size)
    _check_table_size((*entries, entry))
    # The disk is shared from now on; the machine state moves, references and all, to the snapshot.
    vm_state = _vm_state_tables(meta)
    add_tree(meta, meta.l1[: vm_state.start], 1)
    entry = replace(entry, l1_table_offset=_copy_l1(meta, meta.l1))
    for index in vm_state:
        meta.detach_table(index)
    refresh_copied_flags(meta)
    _write_snapshot_table(meta, (*entries, entry))
    meta.write_back()
    return entry


def _delete_snapshot(meta: Metadata, entry: SnapshotEntry) -> None:
    l1 = meta.load_l1(entry.l1_table_offset, entry.l1_size) if entry.l1_size else array("Q")
    _write_snapshot_table(meta, tuple(other for other in load_snapshots(meta) if other.id != entry.id))
    meta.write_back()
    add_tree(meta, l1, -1)
    if entry.l1_size:
        meta.free(entry.l1_table_offset, entry.l1_size * 8)
    meta.byte_offset = 0
    refresh_copied_flags(meta)
    meta.write_back()


def _apply_snapshot(meta: Metadata, entry: SnapshotEntry) -> None:
    meta.write_back()
    header = meta.header
    if entry.disk_size != header.size and header.version < 3:
        msg = "The snapshot has another disk size than the image"
        raise ImageUnsupportedError(msg)
    l1 = meta.load_l1(entry.l1_table_offset, entry.l1_size) if entry.l1_size else array("Q")
    old_l1, old_offset = meta.l1, header.l1_table_offset
    needed = replace(header, size=entry.disk_size).l1_entries_needed
    if needed * 8 > MAX_L1_SIZE_BYTES:
        msg = f"Snapshot '{entry.id}' has a disk size that no L1 table can cover"
        raise ImageFormatError(msg)
    l1.extend(array("Q", (0,)) * max(0, needed - len(l1)))
    add_tree(meta, l1, 1)
    offset = _copy_l1(meta, l1) or old_offset
    meta.write_back()
    switched = replace(header, size=entry.disk_size, l1_size=len(l1), l1_table_offset=offset)
    fields = (
        switched.size.to_bytes(8, "big") + header.crypt_method.to_bytes(4, "big") + len(l1).to_bytes(4, "big")
        + offset.to_bytes(8, "big")
    )  # fmt: skip
    meta.storage.pwrite(fields, SIZE_OFFSET)
    meta.storage.flush()
    meta.replace_l1(array("Q", (word & ~OFLAG_COPIED for word in l1)), replace(meta.header, size=switched.size,
                    l1_size=len(l1), l1_table_offset=offset))  # fmt: skip
    add_tree(meta, old_l1, -1)
    if offset != old_offset and len(old_l1):
        meta.free(old_offset, len(old_l1) * 8)
    meta.byte_offset = 0
    refresh_copied_flags(meta)
    meta.write_back()


def create_snapshot(
    meta: Metadata, name: str, date_ns: int, *, vm_clock_ns: int = 0, vm_state_size: int = 0, icount: int | None = None
) -> SnapshotEntry:
    """Take a snapshot of the disk as it is; the caller holds the lock and has nothing in flight."""
    if meta.header.has_data_file:
        msg = "Internal snapshots are not supported with an external data file"
        raise ImageUnsupportedError(msg)
    if len(name.encode("utf-8", "surrogateescape")) > 0xFFFF:
        msg = "the snapshot name is too long"
        raise ImageError(msg)
    date_s, date_rest = divmod(date_ns, 1_000_000_000)
    new = SnapshotEntry(0, 0, "", name, date_s, date_rest, vm_clock_ns, vm_state_size, 0, icount)
    with meta.unclean():
        return _create_snapshot(meta, new)


def delete_snapshot(meta: Metadata, entry: SnapshotEntry) -> None:
    """Remove a snapshot and free what only it referred to."""
    with meta.unclean():
        _delete_snapshot(meta, entry)


def apply_snapshot(meta: Metadata, entry: SnapshotEntry) -> None:
    """Make the disk what it was when the snapshot was taken; what was written since is freed."""
    with meta.unclean():
        _apply_snapshot(meta, entry)
