"""An open qcow version 1 image.

There are no reference counts: space is only ever appended, so that an entry, once it is on disk, stays true. `flush`
writes data first, then L2 tables, then L1 entries, with barriers between.
"""

from __future__ import annotations

import _thread

from pyhyve.image.contract import (
    BackingReference,
    Image,
    ImageError,
    ImageFormatError,
    LayerExtent,
    LayerState,
    OpenRequest,
)
from pyhyve.image.qcow.format import OFLAG_COMPRESSED, parse_header
from pyhyve.image.qcow2.tables import load_u64, run_length, store_u64
from pyhyve.support.arrays import array
from pyhyve.support.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pyhyve.image.qcow2.compression import DeflateCodec

_L2_CACHE_TABLES = 512
_DECOMPRESSED_CACHE_CLUSTERS = 32


@dataclass(slots=True)
class _Run:
    length: int
    host: int  # 0 when unallocated
    entry: int


class QcowImage(Image):
    """qcow version 1."""

    format_name = "qcow"

    def __init__(self, request: OpenRequest) -> None:
        self.storage = request.storage
        self.readonly = not request.writable
        file_size = self.storage.size_bytes
        self.header = parse_header(self.storage.pread(4096, 0), file_size)
        self._bits = self.header.cluster_bits
        self._cluster_size = 1 << self._bits
        self._mask = self._cluster_size - 1
        self._l2_bits = self.header.l2_bits
        self._lock = _thread.RLock()
        self._l1: array[int] | None = None
        self._tables: dict[int, array[int]] = {}  # the one used last is last
        self._dirty: dict[int, tuple[int, int]] = {}
        self._dirty_l1: set[int] = set()
        self._end = max(file_size, self.header.l1_table_offset + self.header.l1_size * 8)
        self._deflate: DeflateCodec | None = None
        self._decompressed: dict[int, bytes] = {}
        self._closed = False

    @property
    def size_bytes(self) -> int:
        """Virtual size, in whole sectors."""
        return self.header.size // 512 * 512

    @property
    def cluster_size_bytes(self) -> int:
        """Cluster size."""
        return self._cluster_size

    @property
    def backing_reference(self) -> BackingReference | None:
        """Backing file name; the format has no place for the backing format."""
        return None if self.header.backing_file is None else BackingReference(self.header.backing_file)

    @property
    def _codec(self) -> DeflateCodec:
        if self._deflate is None:
            from pyhyve.image.qcow2.compression import DeflateCodec  # noqa: PLC0415 - as most commands need none

            self._deflate = DeflateCodec()
        return self._deflate

    # --- tables ---

    @property
    def _table1(self) -> array[int]:
        if self._l1 is None:
            size = self.header.l1_size * 8
            self._l1 = load_u64(self.storage.pread(size, self.header.l1_table_offset).ljust(size, b"\0"))
        return self._l1

    def _table(self, index: int) -> array[int] | None:
        table = self._tables.pop(index, None)
        if table is not None:
            self._tables[index] = table
            return table
        offset = self._table1[index]
        if not offset:
            return None
        size = 8 << self._l2_bits
        data = self.storage.pread(size, offset) if offset < self._end else b""
        if len(data) < size and offset + size > -(-self._end >> self._bits) << self._bits:
            msg = f"L2 table at {offset:#x} is outside the file"
            raise ImageFormatError(msg)
        table = load_u64(data.ljust(size, b"\0"))
        self._remember(index, table)
        return table

    def _remember(self, index: int, table: array[int]) -> None:
        self._tables[index] = table
        if len(self._tables) > _L2_CACHE_TABLES:
            for old in list(self._tables):
                if old not in self._dirty and old != index:
                    del self._tables[old]
                    return
            self._write_back()

    def _new_table(self, index: int) -> array[int]:
        size = 8 << self._l2_bits
        offset = -(-self._end // self._cluster_size) * self._cluster_size
        self._end = offset + size
        table = array("Q", (0,)) * (1 << self._l2_bits)
        self._dirty[index] = (0, len(table))
        self._table1[index] = offset
        self._dirty_l1.add(index)
        self._remember(index, table)
        return table

    def _lookup(self, offset: int, length: int) -> _Run:
        cluster = offset >> self._bits
        index = cluster & ((1 << self._l2_bits) - 1)
        inside = offset & self._mask
        limit = min((1 << self._l2_bits) - index, (inside + length + self._mask) >> self._bits)
        table = self._table(cluster >> self._l2_bits)
        if table is None:
            return _Run(min(length, (limit << self._bits) - inside), 0, 0)
        entry = table[index]
        if entry & OFLAG_COMPRESSED:
            return _Run(min(length, self._cluster_size - inside), 0, entry)
        count = run_length(table, index, limit, self._cluster_size if entry else 0) if limit > 1 else 1
        if entry and entry + (count << self._bits) > self._end + self._mask:
            msg = f"Cluster offset {entry:#x} is outside the file"
            raise ImageFormatError(msg)
        return _Run(min(length, (count << self._bits) - inside), entry + inside if entry else 0, entry)

    # --- reading ---

    def pread_into(self, buffer: memoryview, offset: int) -> None:
        """Read through the chain."""
        self.check_range(offset, len(buffer))
        while buffer:
            with self._lock:
                run = self._lookup(offset, len(buffer))
            part = buffer[: run.length]
            if run.entry & OFLAG_COMPRESSED:
                inside = offset & self._mask
                part[:] = memoryview(self._decompress(run.entry))[inside : inside + len(part)]
            elif run.entry:
                self.storage.pread_into(part, run.host)
            else:
                self.read_backing(part, offset)
            buffer = buffer[run.length :]
            offset += run.length

    def preadv(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Read; one host run is one preadv."""
        length = sum(map(len, buffers))
        self.check_range(offset, length)
        with self._lock:
            run = self._lookup(offset, max(1, length))
        if run.host and run.length == length:
            self.storage.preadv(buffers, run.host)
        else:
            super().preadv(buffers, offset)

    def _decompress(self, entry: int) -> bytes:
        with self._lock:
            data = self._decompressed.get(entry)
        if data is None:
            shift = 63 - self._bits
            length = entry >> shift & self._mask
            data = self._codec.decompress(self.storage.pread(length, entry & ((1 << shift) - 1)), self._cluster_size)
            with self._lock:
                self._decompressed[entry] = data
                if len(self._decompressed) > _DECOMPRESSED_CACHE_CLUSTERS:
                    del self._decompressed[next(iter(self._decompressed))]
        return data

    def layer_extents(self, start: int, length: int) -> Iterator[LayerExtent]:
        """Runs of this layer."""
        self.check_range(start, length)
        while length > 0:
            with self._lock:
                run = self._lookup(start, length)
            if run.entry & OFLAG_COMPRESSED:
                yield LayerExtent(start, run.length, LayerState.DATA, compressed=True)
            elif run.entry:
                yield LayerExtent(start, run.length, LayerState.DATA, run.host, self.storage.filename)
            else:
                yield LayerExtent(start, run.length, LayerState.UNALLOCATED)
            start += run.length
            length -= run.length

    # --- writing ---

    def pwrite(self, buffer: bytes | bytearray | memoryview, offset: int) -> None:
        """Write in place, or append new clusters."""
        view = memoryview(buffer).cast("B")
        self.check_writable()
        self.check_range(offset, len(view))
        while view:
            with self._lock:
                run = self._lookup(offset, len(view))
                if not run.host:
                    done = self._write_appending(view[: run.length], offset)
                    view, offset = view[done:], offset + done
                    continue
            self.storage.pwrite(view[: run.length], run.host)
            view, offset = view[run.length :], offset + run.length

    def pwritev(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Write; one host run is one pwritev."""
        length = sum(map(len, buffers))
        self.check_writable()
        self.check_range(offset, length)
        with self._lock:
            run = self._lookup(offset, max(1, length))
        if run.host and run.length == length:
            self.storage.pwritev(buffers, run.host)
        else:
            super().pwritev(buffers, offset)

    def _write_appending(self, view: memoryview, offset: int) -> int:
        """New clusters at the end of the file for an unallocated or compressed run, old content around the data."""
        first, last = offset >> self._bits, (offset + len(view) - 1) >> self._bits
        start, stop = first << self._bits, (last + 1) << self._bits
        host = -(-self._end // self._cluster_size) * self._cluster_size
        parts = [self._old(start, offset - start), view, self._old(offset + len(view), stop - offset - len(view))]
        self.storage.pwritev([part for part in parts if part], host)
        self._end = host + stop - start
        l1_index, index = first >> self._l2_bits, first & ((1 << self._l2_bits) - 1)
        count = last - first + 1
        self._set_entries(l1_index, index, array("Q", range(host, host + stop - start, self._cluster_size)))
        return min(len(view), (count << self._bits) - (offset - start))

    def _old(self, start: int, length: int) -> memoryview:
        view = memoryview(bytearray(length))
        inside = max(0, min(length, self.size_bytes - start))
        self.pread_into(view[:inside], start)
        return view

    def _set_entries(self, l1_index: int, index: int, entries: array[int]) -> None:
        table = self._table(l1_index)
        if table is None:
            table = self._new_table(l1_index)
        table[index : index + len(entries)] = entries
        low, high = self._dirty.get(l1_index, (index, index + len(entries)))
        self._dirty[l1_index] = (min(low, index), max(high, index + len(entries)))

    def compress(self, buffer: bytes | memoryview, offset: int) -> list[tuple[int, memoryview, bytes]]:
        """Compress whole clusters on the caller's thread."""
        view = memoryview(buffer).cast("B")
        self.check_writable()
        self.check_range(offset, len(view))
        if offset & self._mask or (len(view) & self._mask and offset + len(view) != self.size_bytes):
            msg = "compressed writes must cover whole clusters"
            raise ImageError(msg)
        size = self._cluster_size
        pieces = [(offset + at, view[at : at + size]) for at in range(0, len(view), size)]
        return [(at, piece, self._codec.compress(bytes(piece).ljust(size, b"\0"))) for at, piece in pieces]

    def append_compressed(self, parts: list[tuple[int, memoryview, bytes]]) -> None:
        """Append clusters compressed, or plain where that is not shorter."""
        for offset, piece, data in parts:
            if len(data) >= self._cluster_size:
                self.pwrite(piece, offset)
                continue
            cluster = offset >> self._bits
            with self._lock:
                place = self._end
                if place + len(data) >= 1 << (63 - self._bits):
                    msg = "the image file is too large for compressed clusters"
                    raise ImageError(msg)
                self._end += len(data)
                self.storage.pwrite(data, place)
                entry = OFLAG_COMPRESSED | len(data) << (63 - self._bits) | place
                self._set_entries(cluster >> self._l2_bits, cluster & ((1 << self._l2_bits) - 1), array("Q", (entry,)))

    def write_zeroes(self, offset: int, length: int, *, unmap: bool = True) -> None:
        """Write zero bytes where the range does not read as zero already; the format has no zero clusters."""
        del unmap
        self.check_writable()
        self.check_range(offset, length)
        backing_end = 0 if self.backing is None else self.backing.size_bytes
        while length > 0:
            with self._lock:
                run = self._lookup(offset, min(length, 1 << 20))
            if run.entry or offset < backing_end:
                self.pwrite(bytes(run.length), offset)
            offset += run.length
            length -= run.length

    def make_empty(self) -> None:
        """Forget all clusters: a zeroed L1 table and nothing behind it."""
        self.check_writable()
        with self._lock:
            self._tables.clear()
            self._dirty.clear()
            self._dirty_l1.clear()
            self._decompressed.clear()
            size = self.header.l1_size * 8
            self._l1 = array("Q", (0,)) * self.header.l1_size
            self.storage.pwrite(bytes(size), self.header.l1_table_offset)
            self.storage.flush()
            self._end = self.header.l1_table_offset + size
            self.storage.truncate(self._end)

    def _write_back(self) -> None:
        if self._dirty:
            self.storage.flush()
            for index, (low, high) in sorted(self._dirty.items()):
                self.storage.pwrite(store_u64(self._tables[index][low:high]), self._table1[index] + low * 8)
            self._dirty.clear()
            if self._dirty_l1:
                self.storage.flush()
                for index in sorted(self._dirty_l1):
                    self.storage.pwrite(self._table1[index].to_bytes(8, "big"), self.header.l1_table_offset + index * 8)
                self._dirty_l1.clear()
        self.storage.flush()

    def flush(self) -> None:
        """Data, then tables, then what refers to them."""
        if not self.readonly:
            with self._lock:
                self._write_back()

    def close(self) -> None:
        """Flush and close the chain."""
        if self._closed:
            return
        self._closed = True
        try:
            self.flush()
        finally:
            self.storage.close()
            if self.backing is not None:
                self.backing.close()
