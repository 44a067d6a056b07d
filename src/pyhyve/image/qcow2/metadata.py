"""The mapping tables of an open qcow2 image in memory, and the order in which they reach the file.

`flush` is the only way to disk, and its order makes a crash harmless: reference counts and data first, then (after a
barrier) L2 tables, then (after a barrier) the L1 entries that refer to new tables, and only after a last barrier are
clusters freed that the old tables referred to. A crash in between leaks clusters and corrupts nothing.

Callers hold `lock` around every method.
"""

from __future__ import annotations

import _thread

from pyhyve.image.contract import ImageFormatError
from pyhyve.image.qcow2.format import (
    INCOMPATIBLE_OFFSET,
    L1_RESERVED_MASK,
    OFFSET_MASK,
    OFLAG_COMPRESSED,
    OFLAG_COPIED,
    Compatible,
    Header,
    Incompatible,
    build_header,
)
from pyhyve.image.qcow2.tables import load_u64, store_u64, zeroes
from pyhyve.support.records import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyhyve.image.qcow2.bitmaps import DirtyBitmaps
    from pyhyve.image.qcow2.refcount import RefcountStructure
    from pyhyve.image.storage import Storage
    from pyhyve.support.arrays import array
    from pyhyve.support.conditions import Condition

_MAKING = _thread.allocate_lock()
_L2_CACHE_BYTES = 32 * 1024 * 1024


class L2Table:
    """One cached L2 table; `entries` holds one word per cluster, or two with extended entries."""

    __slots__ = ("dirty_high", "dirty_low", "entries", "offset")

    def __init__(self, offset: int, entries: array[int]) -> None:
        self.offset = offset
        self.entries = entries
        self.dirty_low = len(entries)
        self.dirty_high = 0

    def touch(self, low: int, high: int) -> None:
        """Words `low` to `high` changed."""
        self.dirty_low = min(self.dirty_low, low)
        self.dirty_high = max(self.dirty_high, high)


class Unclean:
    """What `Metadata.unclean` gives."""

    def __init__(self, metadata: Metadata) -> None:
        header = metadata.header
        self._metadata = metadata
        self._is_needed = header.version >= 3 and not header.incompatible_features & Incompatible.DIRTY

    def __enter__(self) -> None:
        if self._is_needed:
            self._metadata.set_dirty(dirty=True)

    def __exit__(self, *_: object) -> None:
        if self._is_needed:
            self._metadata.set_dirty(dirty=False)


class Metadata:
    """Header, L1, L2 cache, reference counts and pending frees of one image."""

    def __init__(self, storage: Storage, header: Header) -> None:
        self.storage = storage
        self.header = header
        self._lock: Condition | None = None
        self.cluster_size = header.cluster_size
        self.cluster_bits = header.cluster_bits
        self.words_per_entry = 2 if header.extended_l2 else 1
        self._l1: array[int] | None = None
        self._dirty_l1: set[int] = set()
        self._tables: dict[int, L2Table] = {}  # the one used last is last
        self._dirty_tables: dict[int, L2Table] = {}
        self._table_limit = max(8, _L2_CACHE_BYTES // self.cluster_size)
        self._refcounts: RefcountStructure | None = None
        self._pending_free: list[tuple[int, int]] = []
        self.byte_offset = 0  # where the next compressed cluster may be appended
        self.bitmaps: DirtyBitmaps | None = None  # loaded by the first write that they have to record
        self.users = 0  # requests that hold host offsets: freed clusters wait until there are none

    @property
    def lock(self) -> Condition:
        """Held around every method; made when it is first taken, since `info` takes none."""
        if self._lock is None:
            with _MAKING:
                if self._lock is None:
                    from pyhyve.support.conditions import Condition  # noqa: PLC0415 - as above

                    self._lock = Condition()
        return self._lock

    # --- tables ---

    @property
    def l1(self) -> array[int]:
        """The active L1 table, read when first needed."""
        if self._l1 is None:
            self._l1 = self.load_l1(self.header.l1_table_offset, self.header.l1_size)
        return self._l1

    def load_l1(self, offset: int, entries: int) -> array[int]:
        """Any L1 table; ImageFormatError when it is cut off."""
        data = self.storage.pread(entries * 8, offset)
        if len(data) < entries * 8:
            if len(data) == 0 and entries:
                msg = "Could not read L1 table"
                raise ImageFormatError(msg)
            data = data.ljust(entries * 8, b"\0")
        return load_u64(data)

    @property
    def refcounts(self) -> RefcountStructure:
        """The reference counts, read when first needed."""
        if self._refcounts is None:
            from pyhyve.image.qcow2.refcount import RefcountStructure  # noqa: PLC0415 - readers need none

            header = self.header
            self._refcounts = RefcountStructure(
                self.storage, header.cluster_bits, header.refcount_order, header.refcount_table_offset,
                header.refcount_table_clusters,
            )  # fmt: skip
            self._refcounts.guard = self.guard
        return self._refcounts

    def reload_refcounts(self) -> None:
        """Forget the reference counts in memory; they are read again from where the header says."""
        self._refcounts = None

    def table(self, index: int) -> L2Table | None:
        """The L2 table of L1 entry `index`, or None when it is not allocated."""
        found = self._tables.pop(index, None)
        if found is not None:
            self._tables[index] = found
            return found
        l1 = self.l1
        if index >= len(l1):
            return None
        entry = l1[index]
        offset = entry & OFFSET_MASK
        if not offset:
            return None
        if entry & L1_RESERVED_MASK or offset & (self.cluster_size - 1):
            msg = f"L2 table offset {entry & ~OFLAG_COPIED:#x} unaligned or reserved bits set (L1 index: {index:#x})"
            raise ImageFormatError(msg)
        found = L2Table(offset, self.load_table(offset))
        self._remember(index, found)
        return found

    def load_table(self, offset: int) -> array[int]:
        """The words of the L2 table at `offset`; a part past the end of the file is zero."""
        return load_u64(self.storage.pread(self.cluster_size, offset).ljust(self.cluster_size, b"\0"))

    def _remember(self, index: int, table: L2Table) -> None:
        self._tables[index] = table
        if len(self._tables) > self._table_limit:
            for old in list(self._tables):
                if old not in self._dirty_tables and old != index:
                    del self._tables[old]
                    break
            else:
                self.write_back()

    def writable_table(self, index: int) -> L2Table:
        """The L2 table of `index`, made or copied so that this image alone owns it."""
        if index >= len(self.l1):
            msg = "the L1 table does not cover this offset"
            raise ImageFormatError(msg)
        entry = self.l1[index]
        table = self.table(index)
        if table is not None and entry & OFLAG_COPIED:
            return table
        first, _ = self.refcounts.allocate(1)
        self.guard(first << self.cluster_bits, self.cluster_size)
        offset = first << self.cluster_bits
        if table is None:
            table = L2Table(offset, zeroes(self.cluster_size // 8))
        else:
            self.free(table.offset, self.cluster_size)
            table = L2Table(offset, table.entries)
        table.touch(0, len(table.entries))
        self._remember(index, table)
        self._dirty_tables[index] = table
        self.l1[index] = offset | OFLAG_COPIED
        self._dirty_l1.add(index)
        return table

    def drop_table(self, index: int) -> None:
        """Give up an L2 table whose entries are all unallocated."""
        offset = self.l1[index] & OFFSET_MASK
        if offset:
            self.free(offset, self.cluster_size)
            self.detach_table(index)

    def detach_table(self, index: int) -> None:
        """Take an L2 table, which was written back, out of the active L1 table; its references stay."""
        self.set_l1_entry(index, 0)
        self._tables.pop(index, None)
        self._dirty_tables.pop(index, None)

    def mark_table(self, index: int, table: L2Table, low: int, high: int) -> None:
        """Words `low` to `high` of the table of `index` changed."""
        table.touch(low, high)
        self._dirty_tables[index] = table

    def set_l1_entry(self, index: int, entry: int) -> None:
        """Change one entry of the active L1 table."""
        if self.l1[index] != entry:
            self.l1[index] = entry
            self._dirty_l1.add(index)

    def replace_l1(self, l1: array[int], header: Header) -> None:
        """Switch to another L1 table that is already in the file (snapshot, resize)."""
        self._l1 = l1
        self._tables.clear()
        self._dirty_tables.clear()
        self._dirty_l1.clear()
        self.header = header

    # --- host space ---

    def allocate(self, clusters: int, *, exact: bool = False) -> tuple[int, int]:
        """`(host offset, clusters taken)`; the clusters are referenced once."""
        self.mark_dirty_bit()
        first, taken = self.refcounts.allocate(clusters, exact=exact)
        offset = first << self.cluster_bits
        self.guard(offset, taken << self.cluster_bits)
        return offset, taken

    def guard(self, offset: int, length: int) -> None:
        """Refuse to hand out space that fixed metadata occupies: the reference counts are wrong then."""
        header, refcounts = self.header, self.refcounts
        for name, start, size in (
            ("the header", 0, self.cluster_size),
            ("the active L1 table", header.l1_table_offset, header.l1_size * 8),
            ("the refcount table", refcounts.table_offset, refcounts.table_clusters << self.cluster_bits),
        ):
            if offset < start + size and start < offset + length:
                self.mark_corrupt()
                msg = f"Preventing invalid allocation of {name}: the image is corrupt"
                raise ImageFormatError(msg)

    def guard_in_place(self, offset: int, length: int) -> None:
        """As `guard`, for space that an L2 table says is ours: it must also lie inside the file."""
        if offset >> self.cluster_bits > self.refcounts.high_water:
            self.mark_corrupt()
            msg = f"Preventing a write at {offset:#x}, far past the end of the file: the image is corrupt"
            raise ImageFormatError(msg)
        self.guard(offset, length)

    def free(self, offset: int, length: int) -> None:
        """Drop one reference to the clusters of a range, once nothing on disk refers to them."""
        first = offset >> self.cluster_bits
        last = (offset + length - 1) >> self.cluster_bits
        self._pending_free.append((first, last - first + 1))
        if first <= self.byte_offset >> self.cluster_bits <= last:
            self.byte_offset = 0

    def free_entry(self, entry: int) -> None:
        """Drop the reference that a first L2 word holds."""
        if entry & OFLAG_COMPRESSED:
            offset, length = self.compressed_extent(entry)
            self.free(offset, length)
        elif entry & OFFSET_MASK and not self.header.has_data_file:
            self.free(entry & OFFSET_MASK, self.cluster_size)

    def compressed_extent(self, entry: int) -> tuple[int, int]:
        """Host offset and length (to the end of the last sector) of a compressed cluster."""
        shift = 62 - (self.cluster_bits - 8)
        offset = entry & ((1 << min(shift, 56)) - 1)
        sectors = (entry >> shift & ((1 << (62 - shift)) - 1)) + 1
        return offset, sectors * 512 - (offset & 511)

    # --- the way to disk ---

    @property
    def lazy(self) -> bool:
        """Whether reference counts may wait until the image is closed."""
        return bool(self.header.compatible_features & Compatible.LAZY_REFCOUNTS) and self.header.version >= 3

    def mark_dirty_bit(self) -> None:
        """With lazy reference counts: note on disk that they are about to become stale."""
        if self.lazy and not self.header.incompatible_features & Incompatible.DIRTY:
            self.set_incompatible(self.header.incompatible_features | Incompatible.DIRTY)

    def unclean(self) -> Unclean:
        """Mark the image dirty while reference counts and COPIED flags change together in many places.

        A crash in between then makes the next writer repair the counts. Version 2 has no such bit.
        """
        return Unclean(self)

    def set_dirty(self, *, dirty: bool) -> None:
        """Write everything, then the DIRTY bit."""
        self.write_back(final=True)
        if not dirty and self._refcounts is not None and self._refcounts.dirty:
            self.write_back(final=True)
        features = self.header.incompatible_features & ~Incompatible.DIRTY
        self.set_incompatible(features | (Incompatible.DIRTY if dirty else 0))

    def mark_corrupt(self) -> None:
        """Note on disk that the image must be repaired before it is written again."""
        if self.header.version >= 3 and self.storage.writable:
            self.set_incompatible(self.header.incompatible_features | Incompatible.CORRUPT)

    def set_incompatible(self, features: int) -> None:
        """Change incompatible_features on disk, durably."""
        self.header = replace(self.header, incompatible_features=features)
        self.storage.pwrite(features.to_bytes(8, "big"), INCOMPATIBLE_OFFSET)
        self.storage.flush()

    def write_header(self, header: Header) -> None:
        """Rewrite the header cluster's header, extensions and backing file name."""
        data = build_header(header)
        old = self.storage.pread(self.cluster_size, 0)
        if len(data) < len(old) and any(old[len(data) :]):
            data = data.ljust(len(old), b"\0")
        self.storage.pwrite(data, 0)
        self.storage.flush()
        self.header = header

    def write_back(self, *, final: bool = False) -> None:
        """Bring metadata to disk in order; data written before is covered by the barriers."""
        if self._refcounts is not None and self._refcounts.dirty and (final or not self.lazy):
            moved = self._refcounts.write_back()
            self.header = replace(
                self.header,
                refcount_table_offset=self._refcounts.table_offset,
                refcount_table_clusters=self._refcounts.table_clusters,
            )
            if moved is not None:
                self._pending_free.append(moved)
        if self._dirty_tables or self._dirty_l1:
            self.storage.flush()
            for table in sorted(self._dirty_tables.values(), key=lambda item: item.offset):
                low, high = table.dirty_low, table.dirty_high
                self.storage.pwrite(store_u64(table.entries[low:high]), table.offset + low * 8)
                table.dirty_low, table.dirty_high = len(table.entries), 0
            self._dirty_tables.clear()
            if self._dirty_l1:
                self.storage.flush()
                for index in sorted(self._dirty_l1):
                    where = self.header.l1_table_offset + index * 8
                    self.storage.pwrite(self.l1[index].to_bytes(8, "big"), where)
                self._dirty_l1.clear()
        self.storage.flush()
        if self._pending_free and not self.users:
            pending, self._pending_free = self._pending_free, []
            for first, count in pending:
                self.refcounts.add(first, count, -1)

    def close(self) -> None:
        """Write everything, including the counts of clusters freed last, and clear the dirty bit."""
        self.write_back(final=True)
        if self._refcounts is not None and self._refcounts.dirty:
            self.write_back(final=True)
        if self.lazy and self.header.incompatible_features & Incompatible.DIRTY:
            self.set_incompatible(self.header.incompatible_features & ~Incompatible.DIRTY)
