"""Consistency check and repair: what the tables refer to, against the reference counts.

Expected counts are built in arrays of the same shape as refcount blocks, a run of clusters at a time, so that an
undamaged block is one array comparison.
"""

from __future__ import annotations

from pyhyve.image.contract import CheckResult, ImageFormatError
from pyhyve.image.qcow2.format import (
    L1_RESERVED_MASK,
    L2_RESERVED_MASK,
    OFFSET_MASK,
    OFLAG_COMPRESSED,
    OFLAG_COPIED,
    REFTABLE_OFFSET_MASK,
    Incompatible,
)
from pyhyve.image.qcow2.refcount import Counts, pack_counts, unpack_counts
from pyhyve.image.qcow2.tables import Runs, store_u64, used, used_bytes
from pyhyve.support.arrays import array
from pyhyve.support.records import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pyhyve.image.qcow2.format import Header
    from pyhyve.image.qcow2.metadata import Metadata

_MAX_MESSAGES = 10_000
_MAX_RUNS = 100_000


class References:
    """Expected counts by refcount block number; counts too large for the width are in `overflow`."""

    def __init__(self, meta: Metadata, result: CheckResult) -> None:
        self.meta, self.result = meta, result
        self.blocks: dict[int, Counts] = {}
        self.overflow: dict[int, int] = {}
        self.runs: dict[int, list[tuple[int, int]]] = {}  # `_located_runs` of some tables in use
        self._runs_left = _MAX_RUNS
        self._set_shape(meta.header.refcount_order)

    def _set_shape(self, order: int) -> None:
        self.order = order
        self.per_block = (self.meta.cluster_size * 8) >> order
        self.max_count = min((1 << (1 << order)) - 1, 255 if order < 3 else (1 << 64) - 1)
        self.none = unpack_counts(bytes(self.meta.cluster_size), order)
        self.file_clusters = -(-self.meta.storage.size_bytes >> self.meta.cluster_bits)
        self.end_cluster = -(-self.meta.storage.size_bytes >> self.meta.cluster_bits) + 1

    def add(self, first: int, count: int, times: int = 1) -> None:
        """Count `times` references to a run; a run far past the end of the file is a corruption."""
        if first + count > self.end_cluster:
            error(
                self.result,
                "ERROR: counting reference for region exceeding the end of the file by one cluster or more: offset "
                f"{first << self.meta.cluster_bits:#x} size {count << self.meta.cluster_bits:#x}",
            )
            return
        while count > 0:
            number, index = divmod(first, self.per_block)
            step = min(count, self.per_block - index)
            block = self.blocks.get(number)
            if block is None:
                block = self.blocks[number] = self.none[:]
            part = block[index : index + step]
            if part == self.none[:step] and times <= self.max_count:
                if isinstance(block, array):
                    block[index : index + step] = array(block.typecode, (times,)) * step
                else:
                    block[index : index + step] = bytes((times,)) * step
            else:
                for at in range(index, index + step):
                    total = block[at] + times
                    if total > self.max_count:
                        cluster = number * self.per_block + at
                        self.overflow[cluster] = self.overflow.get(cluster, 0) + total - self.max_count
                        total = self.max_count
                    block[at] = total
            first += step
            count -= step

    def add_bytes(self, offset: int, length: int) -> None:
        """Count one reference to the clusters of a byte range."""
        if length > 0:
            bits = self.meta.cluster_bits
            self.add(offset >> bits, ((offset + length - 1) >> bits) - (offset >> bits) + 1)

    def remember(self, table_offset: int, runs: list[tuple[int, int]]) -> None:
        """Keep the runs of a table, unless there are too many."""
        self._runs_left -= len(runs)
        if self._runs_left >= 0:
            self.runs[table_offset] = runs

    def get(self, cluster: int) -> int:
        """Expected count."""
        number, index = divmod(cluster, self.per_block)
        block = self.blocks.get(number)
        return 0 if block is None else block[index] + self.overflow.get(cluster, 0)


def error(result: CheckResult, message: str) -> None:
    """Note a corruption."""
    result.corruptions += 1
    if len(result.errors) < _MAX_MESSAGES:
        result.errors.append(message)


def _collect_l2(refs: References, where: int, times: int, *, active: bool) -> None:
    meta, result = refs.meta, refs.result
    bits, size = meta.cluster_bits, meta.cluster_size
    entries = _first_words(meta, where)
    external = meta.header.has_data_file
    runs: list[tuple[int, int]] = []
    reserved = L2_RESERVED_MASK | (1 if meta.header.extended_l2 else 0)
    index, total, following = 0, len(entries), 0
    alike = Runs(entries, size)
    while index < total:
        entry = entries[index]
        if entry & OFLAG_COMPRESSED:
            offset, length = meta.compressed_extent(entry)
            if entry & OFLAG_COPIED:
                error(result, f"ERROR: coffset={offset:#x}: copied flag must never be set for compressed clusters")
            first = offset >> bits
            refs.add(first, ((offset + length - 1) >> bits) - first + 1, times)
            if active:
                result.allocated_clusters += 1
                result.compressed_clusters += 1
                result.fragmented_clusters += 1
            index += 1
            continue
        host = entry & OFFSET_MASK
        allocated = bool(host or (external and entry & OFLAG_COPIED))
        count = alike.length(index, ascending=allocated)
        if entry & reserved:
            for at in range(index, index + count):
                error(result, f"ERROR found l2 entry with reserved bits set: {entries[at]:x}")
        if allocated:
            if active:
                result.allocated_clusters += count
                result.fragmented_clusters += bool(following) and host != following
                following = host + count * size
            if host & (size - 1):
                for at in range(index, index + count):
                    host_at = entries[at] & OFFSET_MASK
                    error(result, f"ERROR offset={host_at:x}: Cluster is not properly aligned; L2 entry corrupted.")
            elif not external:
                refs.add(host >> bits, count, times)
                runs.append((entry, count))
        index += count
    if active:
        refs.remember(where, runs)


def _first_words(meta: Metadata, table_offset: int) -> array[int]:
    words = meta.load_table(table_offset)
    return words if meta.words_per_entry == 1 else words[::2]


def _collect_l1(refs: References, offset: int, l1: array[int], *, active: bool) -> None:
    meta = refs.meta
    refs.add_bytes(offset, len(l1) * 8)
    tables: dict[int, int] = {}
    for entry in l1:
        where = entry & OFFSET_MASK
        if not where:
            continue
        if entry & L1_RESERVED_MASK:
            error(refs.result, f"ERROR found L1 entry with reserved bits set: {entry:x}")
        if where & (meta.cluster_size - 1):
            error(refs.result, f"ERROR l2_offset={entry:x}: Table is not cluster aligned; L1 entry corrupted")
        tables[where] = tables.get(where, 0) + 1
    for where, times in tables.items():
        last = (where + meta.cluster_size - 1) >> meta.cluster_bits
        refs.add(where >> meta.cluster_bits, last - (where >> meta.cluster_bits) + 1, times)
        if last < refs.end_cluster:
            _collect_l2(refs, where, times, active=active)


def collect(meta: Metadata, result: CheckResult) -> References:
    """Count every reference in the image except those to refcount blocks."""
    refs, header = References(meta, result), meta.header
    refs.add(0, 1)
    _collect_l1(refs, header.l1_table_offset, meta.l1, active=True)
    if header.nb_snapshots:
        from pyhyve.image.qcow2.snapshots import load_snapshots, table_bytes  # noqa: PLC0415 - most images have none

        for entry in load_snapshots(meta):
            if entry.l1_table_offset & (meta.cluster_size - 1):
                error(result, f"ERROR snapshot {entry.id} ({entry.name}) l1_offset={entry.l1_table_offset:#x}: "
                              "L1 table is not cluster aligned; snapshot table entry corrupted")  # fmt: skip
            elif entry.l1_size:
                l1 = meta.load_l1(entry.l1_table_offset, entry.l1_size)
                _collect_l1(refs, entry.l1_table_offset, l1, active=False)
        refs.add_bytes(header.snapshots_offset, table_bytes(meta))
    if header.bitmaps is not None:
        from pyhyve.image.qcow2.bitmaps import bitmap_host_runs  # noqa: PLC0415 - as above

        for first, count in bitmap_host_runs(meta):
            refs.add(first, count)
    return refs


def check(meta: Metadata, *, fix_leaks: bool, fix_errors: bool) -> CheckResult:
    """Check, and repair what is asked for. Writes only when something is repaired."""
    if not (meta.storage.writable or fix_leaks or fix_errors):  # no other call is in flight: no lock needs to be made
        return _check_once(meta, fix_leaks=False, fix_errors=False)
    with meta.lock:
        meta.write_back(final=True)
        result = _check_once(meta, fix_leaks=fix_leaks, fix_errors=fix_errors)
        fixed = result.corruptions_fixed or result.leaks_fixed
        if fixed or (fix_errors and not result.corruptions):
            if fixed:
                meta.write_back(final=True)
                again = _check_once(meta, fix_leaks=False, fix_errors=False)
                again.corruptions_fixed, again.leaks_fixed = result.corruptions_fixed, result.leaks_fixed
                again.errors, again.leak_messages = result.errors, result.leak_messages
                result = again
            bits = Incompatible.DIRTY | Incompatible.CORRUPT
            if fix_errors and not result.corruptions and meta.header.incompatible_features & bits:
                meta.set_incompatible(meta.header.incompatible_features & ~bits)
        return result


def _check_once(meta: Metadata, *, fix_leaks: bool, fix_errors: bool) -> CheckResult:
    result = CheckResult()
    header = meta.header
    result.total_clusters = -(-header.size >> meta.cluster_bits)
    refs = collect(meta, result)
    rebuild = _collect_blocks(refs)
    wrong, highest = _compare(refs)
    if fix_errors:
        rebuild = rebuild or _needs_rebuild(refs, wrong)
    if rebuild and fix_errors:
        result.corruptions_fixed = result.corruptions
        result.leaks_fixed = result.leaks
        result.errors.append("Rebuilding refcount structure")
        rebuild_refcounts(meta, refs, header.refcount_order)
        _refresh_copied_flags(meta)
        return result
    for cluster, (count, expected) in wrong.items():
        leak = count > expected
        if expected > meta.refcounts.max_count:
            continue  # these counts are too narrow: `amend -o refcount_bits` makes room
        if (leak and fix_leaks) or (not leak and fix_errors):
            meta.refcounts.set(cluster, expected)
            if leak:
                result.leaks_fixed += 1
            else:
                result.corruptions_fixed += 1
    result.image_end_offset = (highest + 1) << meta.cluster_bits
    _check_flags(refs, fix_errors=fix_errors)
    return result


def _collect_blocks(refs: References) -> bool:
    """Count the refcount structure itself; True when it is too damaged to be repaired in place."""
    meta, header, result = refs.meta, refs.meta.header, refs.result
    refs.add_bytes(header.refcount_table_offset, header.refcount_table_clusters << meta.cluster_bits)
    broken = False
    for number, entry in enumerate(used(meta.refcounts.table)):
        if not entry:
            continue
        offset = entry & REFTABLE_OFFSET_MASK
        cluster = offset >> meta.cluster_bits
        if entry & 0x1FF or offset & (meta.cluster_size - 1):
            error(result, f"ERROR refcount block {number} is not cluster aligned; refcount table entry corrupted")
            broken = True
        elif cluster >= refs.end_cluster - 1:
            error(result, f"ERROR refcount block {number} is outside image")
            broken = True
        else:
            refs.add(cluster, 1)
            if refs.get(cluster) != 1:
                error(result, f"ERROR refcount block {number} refcount={refs.get(cluster)}")
                broken = True
    return broken


def _compare(refs: References) -> tuple[dict[int, tuple[int, int]], int]:
    """Differences `{cluster: (count, expected)}` with messages, and the highest cluster in use."""
    meta, result = refs.meta, refs.result
    wrong: dict[int, tuple[int, int]] = {}
    highest = 0
    overflowing = {cluster // refs.per_block for cluster in refs.overflow}
    numbers = set(refs.blocks) | {number for number, entry in enumerate(used(meta.refcounts.table)) if entry}
    for number in sorted(numbers):
        if number not in refs.blocks and number * refs.per_block >= refs.file_clusters:
            continue  # all of it lies past the end of the file: a damaged table may name thousands of these
        expected = refs.blocks.get(number, refs.none)
        try:
            actual = meta.refcounts.block(number)
        except ImageFormatError:
            actual = None
        if actual is None:
            actual = refs.none
        base = number * refs.per_block
        last = _last_used(expected, actual[: max(0, refs.file_clusters - base)])
        if last >= 0:
            highest = base + last
        # Counts past the end of the file that nothing refers to are no leaks: there is nothing to leak.
        limit = max(refs.file_clusters - base, _last_used(expected, expected) + 1)
        actual, expected = actual[:limit], expected[:limit]
        if actual == expected and number not in overflowing:
            continue
        for index, (count, wanted) in enumerate(zip(actual, expected, strict=True)):
            want = wanted + refs.overflow.get(base + index, 0)
            if count == want or (not want and base + index >= refs.file_clusters):
                continue
            wrong[base + index] = (count, want)
            text = f"cluster {base + index} refcount={count} reference={want}"
            if count > want:
                result.leaks += 1
                if len(result.leak_messages) < _MAX_MESSAGES:
                    result.leak_messages.append(f"Leaked {text}")
            else:
                error(result, f"ERROR {text}")
    return wrong, highest


def _last_used(expected: Counts, actual: Counts) -> int:
    def last(counts: Counts) -> int:
        size = counts.itemsize if isinstance(counts, array) else 1
        raw = counts.tobytes() if isinstance(counts, array) else bytes(counts)
        return -(-used_bytes(raw) // size) - 1

    return max(last(expected), last(actual))


def _needs_rebuild(refs: References, wrong: dict[int, tuple[int, int]]) -> bool:
    """Whether a missing block would have to be made where something else lives."""
    table = refs.meta.refcounts.table
    return any(
        count < expected
        and (cluster // refs.per_block >= len(table) or not table[cluster // refs.per_block] & REFTABLE_OFFSET_MASK)
        for cluster, (count, expected) in wrong.items()
    )


def rebuild_refcounts(meta: Metadata, refs: References, order: int) -> None:
    """Write a fresh refcount structure behind everything in use and switch to it; the old one's clusters are free.

    `refs` must not count the old structure, except where it is ignored anyway: counts of the old table and blocks are
    dropped here.
    """
    clean = collect(meta, CheckResult())
    counts: dict[int, int] = {}
    for number, block in clean.blocks.items():
        base = number * clean.per_block
        counts.update((base + index, value) for index, value in enumerate(block) if value)
    for cluster, extra in clean.overflow.items():
        counts[cluster] += extra
    del refs
    per_block = (meta.cluster_size * 8) >> order
    limit = (1 << (1 << order)) - 1
    if counts and max(counts.values()) > limit:
        msg = f"Cannot decrease refcount width below {max(counts.values()).bit_length()} bits"
        raise ImageFormatError(msg)
    first = max(max(counts, default=0) + 1, -(-meta.storage.size_bytes >> meta.cluster_bits))
    numbers = {cluster // per_block for cluster in counts}
    table_clusters, blocks = 1, sorted(numbers)
    while True:
        own = range(first, first + table_clusters + len(blocks))
        wanted = sorted(numbers | {cluster // per_block for cluster in own})
        needed = -(-(wanted[-1] + 1) * 8 // meta.cluster_size)
        if wanted == blocks and needed <= table_clusters:
            break
        blocks, table_clusters = wanted, max(needed, table_clusters)
    counts.update(dict.fromkeys(own, 1))
    arrays = {number: unpack_counts(bytes(meta.cluster_size), order) for number in blocks}
    for cluster, value in counts.items():
        arrays[cluster // per_block][cluster % per_block] = value
    table = array("Q", (0,)) * (table_clusters * meta.cluster_size // 8)
    for position, number in enumerate(blocks):
        where = (first + table_clusters + position) << meta.cluster_bits
        table[number] = where
        meta.storage.pwrite(pack_counts(arrays[number], order), where)
    meta.storage.pwrite(store_u64(table), first << meta.cluster_bits)
    meta.storage.flush()
    header: Header = replace(
        meta.header,
        refcount_table_offset=first << meta.cluster_bits,
        refcount_table_clusters=table_clusters,
        refcount_order=order,
    )
    meta.write_header(header)
    meta.reload_refcounts()


def _count(meta: Metadata, cluster: int) -> int:
    """Reference count, zero where the structure itself is damaged."""
    try:
        return meta.refcounts.get(cluster)
    except ImageFormatError:
        return 0


def _uniform(meta: Metadata, first: int, count: int, *, copied: bool) -> bool:
    """Whether all clusters of a run (or, when not `copied`, none) are referenced exactly once."""
    try:
        if copied:
            return meta.refcounts.all_equal_one(first, count)
        return meta.refcounts.none_equal_one(first, count)
    except ImageFormatError:
        return False


def _refresh_copied_flags(meta: Metadata) -> None:
    from pyhyve.image.qcow2.snapshots import refresh_copied_flags  # noqa: PLC0415 - only for repairs

    refresh_copied_flags(meta)


def _check_flags(refs: References, *, fix_errors: bool) -> None:
    """COPIED must be set exactly where the count is one, in the active tables."""
    meta, result = refs.meta, refs.result
    bits, repair = meta.cluster_bits, False
    errors_before = result.corruptions
    for index, entry in enumerate(meta.l1):
        offset = entry & OFFSET_MASK
        if not offset or offset & (meta.cluster_size - 1) or entry & L1_RESERVED_MASK:
            continue
        count = _count(meta, offset >> bits)
        if (count == 1) != bool(entry & OFLAG_COPIED):
            error(result, f"ERROR OFLAG_COPIED L2 cluster: l1_index={index} l1_entry={entry:x} refcount={count}")
            repair = True
        runs: Iterable[tuple[int, int]] | None = refs.runs.get(offset)
        if runs is None:
            runs = _located_runs(meta, _first_words(meta, offset))
        repair = _check_table_flags(meta, runs, result) or repair
    if repair and fix_errors:
        _refresh_copied_flags(meta)
        result.corruptions_fixed += result.corruptions - errors_before


def _located_runs(meta: Metadata, entries: array[int]) -> Iterator[tuple[int, int]]:
    """`(first entry, entries)` of each run of clusters that lie whole and in order in the image file."""
    size, index, total = meta.cluster_size, 0, len(entries)
    alike = Runs(entries, size)
    while index < total:
        entry = entries[index]
        host = entry & OFFSET_MASK
        if entry & OFLAG_COMPRESSED or not host or host & (size - 1) or meta.header.has_data_file:
            index += 1 if host or entry & OFLAG_COMPRESSED else alike.length(index, ascending=False)
            continue
        run = alike.length(index, ascending=True)
        yield entry, run
        index += run


def _check_table_flags(meta: Metadata, runs: Iterable[tuple[int, int]], result: CheckResult) -> bool:
    bits, size, found = meta.cluster_bits, meta.cluster_size, False
    for entry, run in runs:
        host, copied = entry & OFFSET_MASK, bool(entry & OFLAG_COPIED)
        if not _uniform(meta, host >> bits, run, copied=copied):
            for at in range(run):
                count = _count(meta, (host >> bits) + at)
                if (count == 1) != copied:
                    word = entry + at * size
                    error(result, f"ERROR OFLAG_COPIED data cluster: l2_entry={word:x} refcount={count}")
                    found = True
    return found
