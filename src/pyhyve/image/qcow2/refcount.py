"""Reference counts of host clusters: lookup, allocation and write-back of qcow2's two-level refcount structure.

Counts live unpacked in memory, one array per refcount block. Nothing is written before `write_back`, which the image
calls inside its flush order. Callers hold the image's lock.
"""

from __future__ import annotations

import sys

from pyhyve.image.contract import ImageError, ImageFormatError
from pyhyve.image.qcow2.format import MAX_REFCOUNT_TABLE_SIZE_BYTES, REFTABLE_FIELDS_OFFSET, REFTABLE_OFFSET_MASK
from pyhyve.image.qcow2.tables import load_u64, store_u64
from pyhyve.support.arrays import array

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.image.storage import Storage

_TYPECODES = {4: "H", 5: "I", 6: "Q"}
_CACHE_BYTES = 32 * 1024 * 1024
_MAX_FULL_BLOCKS_PAST_END = 64
_SWAP = sys.byteorder == "little"

Counts = bytearray | array  # type: ignore[type-arg]


def unpack_counts(data: bytes, order: int) -> Counts:
    """Counts of one block; widths below 8 bits (lowest bits first) become one byte each."""
    if order >= 4:
        values = array(_TYPECODES[order])
        values.frombytes(data)
        if _SWAP:
            values.byteswap()
        return values
    if order == 3:
        return bytearray(data)
    width, per_byte = 1 << order, 8 >> order
    unpacked = bytearray(len(data) * per_byte)
    mask = (1 << width) - 1
    for part in range(per_byte):
        unpacked[part::per_byte] = data.translate(bytes((value >> (part * width)) & mask for value in range(256)))
    return unpacked


def pack_counts(values: Counts, order: int) -> bytes:
    """The bytes of a refcount block."""
    if isinstance(values, array):
        if _SWAP:
            values = values[:]
            values.byteswap()
        return values.tobytes()
    if order == 3:
        return bytes(values)
    width, per_byte = 1 << order, 8 >> order
    packed = 0
    for part in range(per_byte):
        packed |= int.from_bytes(values[part::per_byte], "big") << (part * width)
    return packed.to_bytes(len(values) // per_byte, "big")


class RefcountStructure:
    """The refcount table and its blocks."""

    def __init__(self, storage: Storage, cluster_bits: int, order: int, table_offset: int, table_clusters: int) -> None:
        self._storage = storage
        self._bits = cluster_bits
        self._order = order
        self._cluster_size = 1 << cluster_bits
        self.entries_per_block = (self._cluster_size * 8) >> order
        self.max_count = (1 << (1 << order)) - 1
        self.table_offset = table_offset
        self.table_clusters = table_clusters
        table_bytes = storage.pread(table_clusters << cluster_bits, table_offset)
        self.table = load_u64(table_bytes.ljust(table_clusters << cluster_bits, b"\0"))
        memory = self.entries_per_block * max(1, (1 << order) // 8)
        self._cache_limit = max(4, _CACHE_BYTES // memory)
        self._blocks: dict[int, Counts] = {}  # the one used last is last
        self._dirty: dict[int, tuple[int, int]] = {}  # block number: first and past-last changed count
        self._dirty_entries: set[int] = set()
        self._moved_from: tuple[int, int] | None = None
        self.guard: Callable[[int, int], None] = _accept  # refuses space that something else must occupy
        self._hint = 0
        self.high_water = -(-storage.size_bytes >> cluster_bits)  # clusters from here on were never written

    # --- counts ---

    def block(self, number: int) -> Counts | None:
        """The counts of block `number`, or None when it does not exist; ImageFormatError when it is misplaced."""
        block = self._blocks.pop(number, None)
        if block is not None:
            self._blocks[number] = block
            return block
        if number >= len(self.table):
            return None
        offset = self.table[number] & REFTABLE_OFFSET_MASK
        if not offset:
            return None
        if offset & (self._cluster_size - 1):
            msg = f"Refcount block offset {offset:#x} unaligned (reftable index: {number:#x})"
            raise ImageFormatError(msg)
        data = self._storage.pread(self._cluster_size, offset)
        if not data:
            msg = f"Refcount block at {offset:#x} is outside the file (reftable index: {number:#x})"
            raise ImageFormatError(msg)
        block = unpack_counts(data.ljust(self._cluster_size, b"\0"), self._order)
        self._keep(number, block)
        return block

    def _keep(self, number: int, block: Counts) -> None:
        self._blocks[number] = block
        if len(self._blocks) > self._cache_limit:
            for old in list(self._blocks):
                if old not in self._dirty and old != number:
                    del self._blocks[old]
                    if len(self._blocks) <= self._cache_limit:
                        break

    def get(self, cluster: int) -> int:
        """Count of one host cluster."""
        block = self.block(cluster // self.entries_per_block)
        return 0 if block is None else block[cluster % self.entries_per_block]

    def count_used(self, file_size: int, limit: int) -> int:
        """Referenced clusters inside the file, counted up to about `limit`."""
        used, number = 0, 0
        clusters = -(-file_size >> self._bits)
        while number * self.entries_per_block < clusters and used < limit:
            block = self.block(number)
            if block is not None:
                part = block[: clusters - number * self.entries_per_block]
                used += len(part) - part.count(0)
            number += 1
        return used

    def all_equal_one(self, cluster: int, count: int) -> bool:
        """Whether a run of clusters is referenced exactly once each."""
        while count > 0:
            number, index = divmod(cluster, self.entries_per_block)
            step = min(count, self.entries_per_block - index)
            block = self.block(number)
            if block is None:
                return False
            part = block[index : index + step]
            ones = array(part.typecode, (1,)) * step if isinstance(part, array) else b"\1" * step
            if part != ones:
                return False
            cluster += step
            count -= step
        return True

    def none_equal_one(self, cluster: int, count: int) -> bool:
        """Whether no cluster of a run is referenced exactly once."""
        while count > 0:
            number, index = divmod(cluster, self.entries_per_block)
            step = min(count, self.entries_per_block - index)
            block = self.block(number)
            if block is not None and 1 in block[index : index + step]:
                return False
            cluster += step
            count -= step
        return True

    def add(self, cluster: int, count: int, delta: int) -> None:
        """Add `delta` to `count` clusters from `cluster`; missing blocks are made.

        Raises ImageError on overflow and ImageFormatError when a count would fall below zero; nothing changed then in
        the block concerned.
        """
        per = self.entries_per_block
        while count > 0:
            number, index = divmod(cluster, per)
            step = min(count, per - index)
            block = self.block(number)
            if block is None:
                if delta < 0:
                    msg = f"cluster {cluster:#x} is used and has no reference count"
                    raise ImageFormatError(msg)
                self._create_block(number)
                continue
            self._add_in_block(block, index, step, delta)
            self._touch(number, index, index + step)
            if delta < 0:
                self._hint = min(self._hint, cluster)
            cluster += step
            count -= step

    def _touch(self, number: int, low: int, high: int) -> None:
        known = self._dirty.get(number)
        self._dirty[number] = (low, high) if known is None else (min(low, known[0]), max(high, known[1]))

    def _add_in_block(self, block: Counts, index: int, step: int, delta: int) -> None:
        part = block[index : index + step]
        if step == 1 or part.count(part[0]) == step:
            low = high = part[0]
        else:
            low, high = min(part), max(part)
        if low + delta < 0:
            msg = "a reference count would fall below zero"
            raise ImageFormatError(msg)
        if high + delta > self.max_count:
            msg = "The reference counts of this image are too narrow: a cluster cannot be referenced once more"
            raise ImageError(msg)
        if low == high:
            new = low + delta
            if isinstance(block, array):
                block[index : index + step] = array(block.typecode, (new,)) * step
            else:
                block[index : index + step] = bytes((new,)) * step
        else:
            for at in range(index, index + step):
                block[at] += delta

    def set(self, cluster: int, value: int) -> None:
        """Force one count (repair); ImageError when the width cannot hold it."""
        if value > self.max_count:
            msg = f"a reference count of {value} does not fit"
            raise ImageError(msg)
        number, index = divmod(cluster, self.entries_per_block)
        block = self.block(number)
        if block is None:
            if value == 0:
                return
            self._create_block(number)
            block = self._blocks[number]
        block[index] = value
        self._touch(number, index, index + 1)
        if value == 0:
            self._hint = min(self._hint, cluster)

    # --- allocation ---

    def allocate(self, count: int, *, exact: bool = True) -> tuple[int, int]:
        """Take free clusters: `(first, taken)`, contiguous; `taken == count` when `exact`, else 1..count."""
        if exact and count >= self.entries_per_block // 2:
            return self._append_region(count), count
        while True:
            first, taken = self._search(count, exact=exact)
            missing = self._first_missing_block(first, taken)
            if missing is None:
                break
            self._create_block(missing)
        self.add(first, taken, 1)
        self.high_water = max(self.high_water, first + taken)
        return first, taken

    def _first_missing_block(self, first: int, count: int) -> int | None:
        per = self.entries_per_block
        for number in range(first // per, (first + count - 1) // per + 1):
            if number >= len(self.table) or not self.table[number] & REFTABLE_OFFSET_MASK:
                return number
        return None

    def _search(self, count: int, *, exact: bool) -> tuple[int, int]:
        position = self._hint
        end_of_file = -(-self._storage.size_bytes >> self._bits)
        full_past_end = 0
        first_free: int | None = None
        run_start, run = position, 0
        while run < count:
            number, index = divmod(position, self.entries_per_block)
            block = self.block(number)
            if block is None:
                free_until = (number + 1) * self.entries_per_block
                free = free_until - position
            else:
                if not run:
                    index = _first_zero(block, index)
                    if index < 0:
                        position = (number + 1) * self.entries_per_block
                        run_start = position
                        full_past_end += position > end_of_file
                        if full_past_end > _MAX_FULL_BLOCKS_PAST_END:
                            msg = "the reference counts claim space far past the end of the file"
                            raise ImageFormatError(msg)
                        continue
                    position = number * self.entries_per_block + index
                    run_start = position
                free = _zero_run(block, index, count - run)
                if not free:
                    if not exact:
                        break
                    run, run_start = 0, position
                    continue
            if first_free is None:
                first_free = run_start
                self._hint = max(self._hint, run_start)
            step = min(free, count - run)
            run += step
            position += step
            if not exact and run < count and block is not None and index + step < self.entries_per_block:
                break
            if run < count and block is not None and index + step < self.entries_per_block:
                run, run_start = 0, position
        return run_start, run

    def _create_block(self, number: int) -> None:
        """Make the missing block `number` in the first cluster it covers: that one is free, as all it covers are."""
        if number >= len(self.table):
            self._append_region(0, number + 1)
        if self.table[number] & REFTABLE_OFFSET_MASK:
            return
        if number == 0:
            msg = "the header has no reference count: the image is corrupt"
            raise ImageFormatError(msg)
        self.guard(number * self.entries_per_block << self._bits, self._cluster_size)
        empty = unpack_counts(bytes(self._cluster_size), self._order)
        empty[0] = 1
        self._keep(number, empty)
        self._touch(number, 0, len(empty))
        self.table[number] = number * self.entries_per_block << self._bits
        self.high_water = max(self.high_water, number * self.entries_per_block + 1)
        self._dirty_entries.add(number)

    def _append_region(self, count: int, min_entries: int = 0) -> int:
        """Reference `count` fresh clusters in one run behind everything, with all the structure they need.

        A refcount block normally sits in the range it covers, so no run could be longer than one block covers. Here
        the run comes first, then its blocks, then (when the table is too short, or shorter than `min_entries`) a new
        table. Returns the run's first cluster.
        """
        per = self.entries_per_block
        last = max((number for number, entry in enumerate(self.table) if entry & REFTABLE_OFFSET_MASK), default=-1)
        first = max(self.high_water, (last + 1) * per)
        blocks, table_clusters = 1, 0
        while True:
            lowest, highest = first // per, (first + count + blocks + table_clusters - 1) // per
            entries = max(min_entries, highest + 1)
            wanted_table = self._table_clusters_for(entries) if entries > len(self.table) else 0
            if highest - lowest < blocks and wanted_table <= table_clusters:
                break
            blocks, table_clusters = max(blocks, highest - lowest + 1), max(table_clusters, wanted_table)
        if table_clusters:
            self._move_table((first + count + blocks) << self._bits, table_clusters)
        for position, number in enumerate(range(lowest, highest + 1)):
            block = unpack_counts(bytes(self._cluster_size), self._order)
            self._keep(number, block)
            self._touch(number, 0, len(block))
            self.table[number] = (first + count + position) << self._bits
            self._dirty_entries.add(number)
        self.add(first, count + highest - lowest + 1, 1)
        self.add(first + count + blocks, table_clusters, 1)
        self.high_water = first + count + blocks + table_clusters
        return first

    def _table_clusters_for(self, entries: int) -> int:
        """Clusters of a table that holds `entries` with room to grow; ImageError when that is too much."""
        per_cluster = self._cluster_size // 8
        limit = MAX_REFCOUNT_TABLE_SIZE_BYTES >> self._bits
        if entries > limit * per_cluster:
            msg = "the image file would become too large for its reference count table"
            raise ImageError(msg)
        return min(limit, -(-max(entries, len(self.table) + len(self.table) // 2) // per_cluster))

    def _move_table(self, offset: int, clusters: int) -> None:
        self.table.extend(array("Q", (0,)) * (clusters * (self._cluster_size // 8) - len(self.table)))
        if self._moved_from is None:
            self._moved_from = (self.table_offset, self.table_clusters)
        else:
            self.add(self.table_offset >> self._bits, self.table_clusters, -1)
        self.table_offset = offset
        self.table_clusters = clusters

    # --- write-back ---

    @property
    def dirty(self) -> bool:
        """Whether `write_back` has something to write."""
        return bool(self._dirty or self._dirty_entries or self._moved_from)

    def write_back(self) -> tuple[int, int] | None:
        """Write changed blocks, then the table entries that need them (with barriers).

        Returns `(first cluster, clusters)` of a table that was replaced, for the caller to free after its own barrier.
        """
        for number in sorted(self._dirty):
            offset = self.table[number] & REFTABLE_OFFSET_MASK
            block = self._blocks[number]
            if self._order >= 3:
                low, high = self._dirty[number]
                self._storage.pwrite(pack_counts(block[low:high], self._order), offset + (low << self._order >> 3))
            else:
                self._storage.pwrite(pack_counts(block, self._order), offset)
        self._dirty.clear()
        freed = None
        if self._moved_from is not None:
            self._storage.pwrite(store_u64(self.table), self.table_offset)
            self._storage.flush()
            fields = self.table_offset.to_bytes(8, "big") + self.table_clusters.to_bytes(4, "big")
            self._storage.pwrite(fields, REFTABLE_FIELDS_OFFSET)
            self._storage.flush()
            freed = (self._moved_from[0] >> self._bits, self._moved_from[1])
            self._moved_from = None
            self._dirty_entries.clear()
        elif self._dirty_entries:
            self._storage.flush()
            for number in sorted(self._dirty_entries):
                self._storage.pwrite(self.table[number].to_bytes(8, "big"), self.table_offset + 8 * number)
            self._dirty_entries.clear()
        return freed


def _accept(offset: int, length: int) -> None:
    """No space is taken for certain."""


def _first_zero(block: Counts, start: int) -> int:
    """Index of the first zero count from `start`, or -1."""
    if isinstance(block, bytearray):
        return block.find(0, start)
    try:
        return block.index(0, start)
    except ValueError:
        return -1


def _zero_run(block: Counts, index: int, limit: int) -> int:
    """Zero counts in a row from `index`, at most `limit`."""
    limit = min(limit, len(block) - index)
    part = block[index : index + limit]
    if not any(part):
        return limit
    raw = bytes(part) if isinstance(part, bytearray) else part.tobytes()
    size = 1 if isinstance(part, bytearray) else part.itemsize
    return (len(raw) - len(raw.lstrip(b"\0"))) // size
