"""An open qcow2 image: writing guest data over `Metadata` and `Mapping`.

Hot path: one lookup under the lock, then the guest's buffers go straight to pwritev of the data file. Whoever changes
the mapping of guest clusters first claims them, so that two requests never allocate the same cluster.
"""

from __future__ import annotations

from pyhyve.image.contract import (
    ImageError,
)
from pyhyve.image.qcow2.format import (
    ALL_SUBCLUSTERS,
    ALL_ZERO_SUBCLUSTERS,
    OFFSET_MASK,
    OFLAG_COMPRESSED,
    OFLAG_COPIED,
    OFLAG_ZERO,
    Autoclear,
    RunKind,
)
from pyhyve.image.qcow2.reading import Qcow2Reader
from pyhyve.image.qcow2.tables import ascending, run_length

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyhyve.image.contract import SnapshotInfo
    from pyhyve.image.qcow2.mapping import Run
    from pyhyve.support.arrays import array

_DECOMPRESSED_CACHE_CLUSTERS = 16


class _Claim:
    """Within it, one thread owns the mapping of guest clusters `first` to `last` of `image`, which change."""

    def __init__(self, image: Qcow2Image, first: int, last: int) -> None:
        self._image, self._claim = image, (first, last)

    def __enter__(self) -> None:
        with self._image.meta.lock:
            self._image.wait_for(*self._claim)
            self._image.inflight.append(self._claim)

    def __exit__(self, *_exc: object) -> None:
        with self._image.meta.lock:
            self._image.inflight.remove(self._claim)
            self._image.meta.lock.notify_all()


class Qcow2Image(Qcow2Reader):
    """qcow2 version 2 or 3."""

    def pwrite(self, buffer: bytes | bytearray | memoryview, offset: int) -> None:
        """Write, allocating and copying clusters as needed."""
        self.pwritev((memoryview(buffer).cast("B"),), offset)

    def pwritev(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Write; a range in one owned host run is one pwritev from the caller's buffers."""
        length = sum(map(len, buffers))
        self.check_writable()
        self.check_range(offset, length)
        self._note_write(offset, length)
        if not length:
            return
        if len(buffers) > 1:
            with self.meta.lock:
                run = self._in_place(offset, length, (offset >> self._bits, (offset + length - 1) >> self._bits))
            if run is not None:
                try:
                    if run.length == length:
                        self.data.pwritev(buffers, run.host)
                        return
                finally:
                    with self.meta.lock:
                        self.meta.users -= 1
        for buffer in buffers:
            self._store(memoryview(buffer).cast("B"), offset)
            offset += len(buffer)

    def _store(self, view: memoryview, offset: int) -> None:
        while view:
            done = self._write_some(view, offset)
            view = view[done:]
            offset += done

    def _in_place(self, offset: int, length: int, clusters: tuple[int, int]) -> Run | None:
        """The owned host run at `offset`, which then counts as used, or None; waits for allocations in `clusters`."""
        meta = self.meta
        self.wait_for(*clusters)
        run = self.mapping.lookup(offset, length)
        if run.kind != RunKind.DATA or not run.entry & OFLAG_COPIED:
            return None
        if self.data is self.storage:
            meta.guard_in_place(run.host, run.length)
        meta.users += 1
        return run

    def wait_for(self, first: int, last: int) -> None:
        """Wait for allocations in guest clusters `first` to `last`; the caller holds the lock."""
        while any(low <= last and first <= high for low, high in self.inflight):
            self.meta.lock.wait()

    def _write_some(self, view: memoryview, offset: int) -> int:
        """Write a first part of `view`; returns its length."""
        meta = self.meta
        claim = (offset >> self._bits, (offset + len(view) - 1) >> self._bits)
        with meta.lock:
            run = self._in_place(offset, len(view), claim)
            if run is None:
                self.inflight.append(claim)
        try:
            if run is not None:
                self.data.pwrite(view[: run.length], run.host)
                return run.length
            if meta.header.extended_l2:
                return self._write_extended(view[: self._cluster_size - (offset & self._mask)], offset)
            return self._write_allocating(view, offset)
        finally:
            with meta.lock:
                if run is not None:
                    meta.users -= 1
                else:
                    self.inflight.remove(claim)
                    meta.lock.notify_all()

    def _entry_at(self, cluster: int) -> tuple[int, int, array[int] | None]:
        entries = self.meta.header.l2_entries
        l1_index, index = divmod(cluster, entries)
        table = self.meta.table(l1_index)
        return l1_index, index, None if table is None else table.entries

    def _write_allocating(self, view: memoryview, offset: int) -> int:
        """Give clusters at `offset` a place of their own; the caller has claimed them."""
        meta, bits, size = self.meta, self._bits, self._cluster_size
        first = offset >> bits
        with meta.lock:
            l1_index, index, entries = self._entry_at(first)
            limit = min(meta.header.l2_entries - index, ((offset + len(view) - 1) >> bits) - first + 1)
            entry = 0 if entries is None else entries[index]
            owned = bool(entry & OFLAG_COPIED)
            located = bool(entry & OFFSET_MASK or (owned and self.data is not self.storage))
            located = located and not entry & OFLAG_COMPRESSED
            if owned and located and not entry & OFLAG_ZERO:
                return self._write_again(view, offset)
            count = limit
            if entries is not None:
                count = 1 if entry & OFLAG_COMPRESSED else run_length(entries, index, limit, size if located else 0)
            if self.data is not self.storage:
                host, taken, fresh = first << bits, count, False
            elif owned and located:
                host, taken, fresh = entry & OFFSET_MASK, count, False
                meta.guard_in_place(host, taken << bits)
            else:
                meta.writable_table(l1_index)  # before the data, so that data stays in one run
                unwritten = meta.refcounts.high_water << bits
                host, taken = meta.allocate(count)
                fresh = host >= unwritten
            reused = owned and located
        start, end = first << bits, (first + taken) << bits
        stop = min(offset + len(view), end)
        try:
            self._write_with_fill(view[: stop - offset], offset, start, end, host, fresh=fresh)
        except BaseException:
            if self.data is self.storage and not reused:
                with meta.lock:
                    meta.free(host, taken << bits)
            raise
        with meta.lock:
            table = meta.writable_table(l1_index)
            if not reused:
                for old in set(table.entries[index : index + taken]):
                    self._forget(old)
            table.entries[index : index + taken] = ascending(host | OFLAG_COPIED, taken, size)
            meta.mark_table(l1_index, table, index, index + taken)
        return stop - offset

    def _write_again(self, view: memoryview, offset: int) -> int:
        """Another thread allocated the cluster in the meantime: it is written in place."""
        run = self.mapping.lookup(offset, len(view))
        self.data.pwrite(view[: run.length], run.host)
        return run.length

    def _write_with_fill(self, view: memoryview, offset: int, start: int, end: int, host: int, *, fresh: bool) -> None:
        """Write guest range `[start, end)` to `host`: `view` at `offset`, old content around it.

        `fresh` host space reads as zero already, so zero content around the data is left out.
        """
        parts: list[memoryview] = [view]
        at = host + offset - start
        stop = offset + len(view)
        if offset > start:
            head = self._old_content(start, offset - start, skip_zero=fresh)
            if head is not None:
                parts.insert(0, head)
                at = host
        if stop < end:
            tail = self._old_content(stop, end - stop, skip_zero=fresh)
            if tail is not None:
                parts.append(tail)
        self.data.pwritev(parts, at)

    def _old_content(self, start: int, length: int, *, skip_zero: bool) -> memoryview | None:
        inside = length if start > self.size_bytes else max(0, min(length, self.size_bytes - start))
        if skip_zero:
            with self.meta.lock:
                runs = self.mapping.runs(start, inside)
            backing_end = self._backing_end()
            if all(
                run.kind == RunKind.ZERO or (run.kind == RunKind.UNALLOCATED and start >= backing_end) for run in runs
            ):
                return None
        view = memoryview(bytearray(length))
        self._fill((view[:inside],), start, inside)
        return view

    def _backing_end(self) -> int:
        """Where the backing image ends to show through."""
        return 0 if self.backing is None else min(self.backing.size_bytes, self.size_bytes)

    def _forget(self, entry: int) -> None:
        """Drop the reference of an L2 word that is about to be replaced."""
        if entry & OFLAG_COMPRESSED:
            self._decompressed.clear()
        if self.data is self.storage or entry & OFLAG_COMPRESSED:
            self.meta.free_entry(entry)

    def _write_extended(self, view: memoryview, offset: int) -> int:
        """Write inside one cluster of an image with subclusters; the caller has claimed it."""
        meta, sub_size = self.meta, self._cluster_size // 32
        cluster = offset >> self._bits
        start = cluster << self._bits
        stop = offset + len(view)
        low, high = (offset - start) // sub_size, -(-(stop - start) // sub_size)
        with meta.lock:
            l1_index, index, entries = self._entry_at(cluster)
            entry, bitmap = (0, 0) if entries is None else (entries[2 * index], entries[2 * index + 1])
            external = self.data is not self.storage
            in_place = bool(entry & OFLAG_COPIED) and not entry & OFLAG_COMPRESSED
            fresh = False
            if external:
                host, in_place = start, True
            elif in_place:
                host = entry & OFFSET_MASK
                meta.guard_in_place(host, self._cluster_size)
            else:
                meta.writable_table(l1_index)  # before the data, as above
                unwritten = meta.refcounts.high_water << self._bits
                host, _ = meta.allocate(1)
                fresh = host >= unwritten
                if entry & OFLAG_COMPRESSED or bitmap & ALL_SUBCLUSTERS:
                    low, high = 0, 32  # the old cluster is shared or compressed: take all of it along
        fill_low, fill_high = start + low * sub_size, start + high * sub_size
        try:
            self._write_with_fill(view, offset, fill_low, fill_high, host + low * sub_size, fresh=fresh)
        except BaseException:
            if not in_place:
                with meta.lock:
                    meta.free(host, self._cluster_size)
            raise
        members = ((1 << (high - low)) - 1) << low
        with meta.lock:
            table = meta.writable_table(l1_index)
            if not in_place:
                self._forget(entry)
                bitmap = 0 if entry & OFLAG_COMPRESSED else bitmap
            table.entries[2 * index] = host | OFLAG_COPIED
            table.entries[2 * index + 1] = (bitmap | members) & ~(members << 32)
            meta.mark_table(l1_index, table, 2 * index, 2 * index + 2)
        return len(view)

    def compress(self, buffer: bytes | memoryview, offset: int) -> list[tuple[int, memoryview, bytes]]:
        """Compress whole clusters (the last one of the disk may be short) on the caller's thread."""
        view = memoryview(buffer).cast("B")
        self.check_writable()
        self.check_range(offset, len(view))
        if offset & self._mask or (len(view) & self._mask and offset + len(view) != self.size_bytes):
            msg = "compressed writes must cover whole clusters"
            raise ImageError(msg)
        if self.data is not self.storage:
            msg = "Cannot use compression with an external data file"
            raise ImageError(msg)
        size = self._cluster_size
        parts: list[tuple[int, memoryview, bytes]] = []
        for at in range(0, len(view), size):
            piece = view[at : at + size]
            whole = piece if len(piece) == size else bytes(piece) + bytes(size - len(piece))
            parts.append((offset + at, piece, self.codec.compress(whole)))
        return parts

    def append_compressed(self, parts: list[tuple[int, memoryview, bytes]]) -> None:
        """Store compressed clusters `(guest offset, plain, compressed)`; what did not shrink is stored plain."""
        meta = self.meta
        if not parts:
            return
        self._note_write(parts[0][0], parts[-1][0] + len(parts[-1][1]) - parts[0][0])
        first, last = parts[0][0] >> self._bits, parts[-1][0] >> self._bits
        small = [part for part in parts if len(part[2]) < self._cluster_size]
        with _Claim(self, first, last):
            with meta.lock:
                meta.writable_table(first // meta.header.l2_entries)
                places = [self._allocate_bytes(len(part[2])) for part in small]
            at = 0
            while at < len(small):
                upto = at + 1
                while upto < len(small) and places[upto] == places[upto - 1] + len(small[upto - 1][2]):
                    upto += 1
                self.storage.pwritev([part[2] for part in small[at:upto]], places[at])
                at = upto
            with meta.lock:
                for (guest, _plain, data), place in zip(small, places, strict=True):
                    self._set_compressed(guest >> self._bits, place, len(data))
        for guest, plain, data in parts:
            if len(data) >= self._cluster_size:
                view = plain
                while view:
                    done = self._write_some(view, guest)
                    view, guest = view[done:], guest + done  # noqa: PLW2901 - consumed piecewise

    def _set_compressed(self, cluster: int, place: int, length: int) -> None:
        meta = self.meta
        l1_index, index = divmod(cluster, meta.header.l2_entries)
        table = meta.writable_table(l1_index)
        word = index * meta.words_per_entry
        if table.entries[word]:
            self._forget(table.entries[word])
        sectors = ((place + length - 1) >> 9) - (place >> 9)
        table.entries[word] = OFLAG_COMPRESSED | sectors << (62 - (self._bits - 8)) | place
        if meta.words_per_entry == 2:
            table.entries[word + 1] = 0
        meta.mark_table(l1_index, table, word, word + meta.words_per_entry)

    def _allocate_bytes(self, length: int) -> int:
        """Space for compressed data, packed behind the last one; each host cluster touched gains a reference."""
        meta, counts = self.meta, self.meta.refcounts
        meta.mark_dirty_bit()
        room = -meta.byte_offset & self._mask
        current = meta.byte_offset >> self._bits
        if room and not 0 < counts.get(current) < counts.max_count:
            room = 0
        place = meta.byte_offset
        if room >= length:
            counts.add(current, 1, 1)
        else:
            clusters = -(-(length - room) >> self._bits)
            host, _ = meta.allocate(clusters, exact=True)
            if room and host == (current + 1) << self._bits:
                counts.add(current, 1, 1)
            else:
                place, needed = host, -(-length >> self._bits)
                if needed > clusters:
                    meta.free(host, clusters << self._bits)
                    place, _ = meta.allocate(needed, exact=True)
        if place >= 1 << min(62 - (self._bits - 8), 56):
            msg = "the image file is too large for compressed clusters"
            raise ImageError(msg)
        meta.byte_offset = place + length
        return place

    # --- zeroes ---

    def write_zeroes(self, offset: int, length: int, *, unmap: bool = True) -> None:
        """Whole clusters become zero clusters (or are freed where nothing shines through); edges are written."""
        self.check_writable()
        self.check_range(offset, length)
        self._note_write(offset, length)
        end = offset + length
        low = -(-offset >> self._bits)
        high = -(-end >> self._bits) if end == self.size_bytes else end >> self._bits
        header = self.meta.header
        raw_data = header.has_data_file and header.autoclear_features & Autoclear.RAW_EXTERNAL_DATA
        flagless = header.version < 3 and self.backing is not None
        if raw_data or flagless or low >= high:
            self._write_zero_bytes(offset, length)
            return
        self._write_zero_bytes(offset, (low << self._bits) - offset)
        with _Claim(self, low, high - 1):
            self._zero_clusters(low, high, unmap=unmap, hint=False)
        self._write_zero_bytes(high << self._bits, end - (high << self._bits))

    def _write_zero_bytes(self, offset: int, length: int) -> None:
        while length > 0:
            with self.meta.lock:
                run = self.mapping.lookup(offset, min(length, 1 << 20))
            backing_end = self._backing_end()
            if run.kind != RunKind.ZERO and not (run.kind == RunKind.UNALLOCATED and offset >= backing_end):
                view = memoryview(bytes(run.length))
                at = offset
                while view:
                    done = self._write_some(view, at)
                    view, at = view[done:], at + done
            offset += run.length
            length -= run.length

    def _zero_clusters(self, low: int, high: int, *, unmap: bool, hint: bool) -> None:
        """Make guest clusters `[low, high)` read as zero; the caller has claimed them.

        A `hint` (discard) leaves clusters alone that are unallocated and read as zero.
        """
        meta, header = self.meta, self.meta.header
        backing_end = self._backing_end()
        entries_per_table, words = header.l2_entries, meta.words_per_entry
        while low < high:
            l1_index, index = divmod(low, entries_per_table)
            count = min(high - low, entries_per_table - index)
            plain = low << self._bits >= backing_end
            with meta.lock:
                if plain and (hint or header.version < 3) and meta.table(l1_index) is None:
                    low += count
                    continue
                table = meta.writable_table(l1_index)
                at, stop = index, index + count
                while at < stop:
                    at += self._zero_run(table.entries, at, stop - at, unmap=unmap, skip_empty=hint and plain)
                meta.mark_table(l1_index, table, index * words, (index + count) * words)
            low += count

    def _zero_run(self, entries: array[int], index: int, limit: int, *, unmap: bool, skip_empty: bool) -> int:
        """Make guest clusters from `index` of a table read as zero, those that are alike; returns how many.

        With `skip_empty` unallocated clusters stay so.
        """
        header, size, words = self.meta.header, self._cluster_size, self.meta.words_per_entry
        firsts = entries if words == 1 else entries[::2]
        entry = firsts[index]
        host = entry & OFFSET_MASK
        compressed = bool(entry & OFLAG_COMPRESSED)
        count = 1 if compressed else run_length(firsts, index, limit, size if host else 0)
        if skip_empty and not entry:
            return count
        owned = header.version >= 3 and bool(entry & OFLAG_COPIED) and not compressed
        keep = owned and (not unmap or self.data is not self.storage)
        if not keep:
            if host and not compressed and self.data is self.storage:
                self.meta.free(host, count * size)
            else:
                self._forget(entry)
            entry = host = 0
        flag = OFLAG_ZERO if header.version >= 3 and words == 1 else 0
        low, high = index * words, (index + count) * words
        entries[low:high:words] = ascending(entry | flag, count, size if host else 0)
        if words == 2:
            entries[low + 1 : high : 2] = ascending(ALL_ZERO_SUBCLUSTERS, count, 0)
        return count

    def discard(self, offset: int, length: int) -> None:
        """Free whole clusters; with a backing image they become zero clusters (version 2 keeps them then)."""
        self.check_writable()
        self.check_range(offset, length)
        end = offset + length
        low = -(-offset >> self._bits)
        high = -(-end >> self._bits) if end == self.size_bytes else end >> self._bits
        header = self.meta.header
        if low >= high or header.has_data_file or (header.version < 3 and self.backing is not None):
            return
        self._note_write(offset, length)
        with _Claim(self, low, high - 1):
            self._zero_clusters(low, high, unmap=True, hint=True)

    def _note_write(self, offset: int, length: int) -> None:
        if self.meta.header.bitmaps is not None:
            from pyhyve.image.qcow2.bitmaps import note_write  # noqa: PLC0415 - images with bitmaps are rare

            note_write(self.meta, offset, length)

    # --- snapshots ---

    def create_snapshot(
        self, name: str, *, date_ns: int, vm_clock_ns: int = 0, vm_state_size_bytes: int = 0, icount: int | None = None
    ) -> SnapshotInfo:
        """Take a snapshot."""
        from pyhyve.image.qcow2.snapshots import create_snapshot  # noqa: PLC0415 - as above

        self.check_writable()
        with self.meta.lock:
            taken = create_snapshot(
                self.meta, name, date_ns, vm_clock_ns=vm_clock_ns, vm_state_size=vm_state_size_bytes, icount=icount
            )
        return taken.info()

    def apply_snapshot(self, snapshot: SnapshotInfo) -> None:
        """Go back to a snapshot."""
        from pyhyve.image.qcow2.snapshots import apply_snapshot, find_entry  # noqa: PLC0415 - as above

        self.check_writable()
        with self.meta.lock:
            self._decompressed.clear()
            apply_snapshot(self.meta, find_entry(self.meta, snapshot))

    def delete_snapshot(self, snapshot: SnapshotInfo) -> None:
        """Delete a snapshot."""
        from pyhyve.image.qcow2.snapshots import delete_snapshot, find_entry  # noqa: PLC0415 - as above

        self.check_writable()
        with self.meta.lock:
            delete_snapshot(self.meta, find_entry(self.meta, snapshot))

    def pwrite_vm_state(self, buffer: bytes | bytearray | memoryview, position: int) -> None:
        """Store a part of a machine state where QEMU has it: behind the clusters that the disk's L1 entries cover."""
        from pyhyve.image.qcow2.maintenance import cover_vm_state  # noqa: PLC0415 - as above

        self.check_writable()
        view = memoryview(buffer).cast("B")
        with self.meta.lock:
            cover_vm_state(self.meta, position + len(view))
        self._store(view, self.meta.header.vm_state_offset + position)

    def resize(self, size_bytes: int) -> None:
        """Grow or shrink the disk."""
        from pyhyve.image.qcow2.maintenance import resize  # noqa: PLC0415 - as above

        self.check_writable()
        resize(self, size_bytes)

    def make_empty(self) -> None:
        """Free every cluster of this layer, so that the backing image shows through."""
        from pyhyve.image.qcow2.maintenance import make_empty  # noqa: PLC0415 - as above

        self.check_writable()
        make_empty(self)
