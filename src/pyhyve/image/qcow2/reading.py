"""Opening qcow2 images and reading guest data.

Hot path: one lookup under the lock, then the guest's buffers go straight to preadv of the data file.
"""

from __future__ import annotations

import struct

from pyhyve.image.contract import (
    BackingReference,
    CheckResult,
    Image,
    ImageError,
    ImageFormatError,
    LayerExtent,
    LayerState,
    OpenRequest,
    SnapshotInfo,
)
from pyhyve.image.qcow2.format import (
    AUTOCLEAR_OFFSET,
    MAX_CLUSTER_BITS,
    Autoclear,
    Compatible,
    Header,
    Incompatible,
    RunKind,
    parse_header,
)
from pyhyve.image.qcow2.metadata import Metadata
from pyhyve.support.records import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pyhyve.image.qcow2.compression import Codec
    from pyhyve.image.qcow2.mapping import Mapping, Run
    from pyhyve.image.storage import Storage

_DECOMPRESSED_CACHE_CLUSTERS = 16


class Qcow2Reader(Image):
    """The reading half; `image.Qcow2Image` adds writing."""

    format_name = "qcow2"

    def __init__(self, request: OpenRequest) -> None:
        self.storage = request.storage
        self.readonly = not request.writable
        header = _read_header(request)
        self.meta = Metadata(self.storage, header)
        self._mapping: Mapping | None = None
        self.data: Storage = self.storage
        self._cluster_size = header.cluster_size
        self._mask = header.cluster_size - 1
        self._bits = header.cluster_bits
        self._codec: Codec | None = None
        self._decompressed: dict[int, bytes] = {}  # the one used last is last
        self.inflight: list[tuple[int, int]] = []
        self._closed = False
        self._preallocated: bool | None = None
        if header.has_data_file:
            name = request.options.get("data-file.filename") or header.data_file
            if not name:
                msg = "'data-file' is required for this image"
                raise ImageFormatError(msg)
            self.data = request.open_sibling(name, not self.readonly)
        try:
            if request.writable and not request.check_only:
                self._prepare_for_writing()
        except BaseException:
            self._close_data_file()
            raise

    def _prepare_for_writing(self) -> None:
        header = self.meta.header
        if header.incompatible_features & Incompatible.CORRUPT:
            msg = "qcow2: Image is corrupt; cannot be opened read/write"
            raise ImageFormatError(msg)
        if header.incompatible_features & Incompatible.DIRTY:
            self.check(fix_leaks=True, fix_errors=True)
        known = Autoclear.BITMAPS | Autoclear.RAW_EXTERNAL_DATA
        if header.autoclear_features & ~known:
            kept = header.autoclear_features & known
            self.storage.pwrite(kept.to_bytes(8, "big"), AUTOCLEAR_OFFSET)
            self.meta.header = replace(self.meta.header, autoclear_features=kept)

    @property
    def mapping(self) -> Mapping:
        """What the tables say about ranges; loaded with the first read: `info` and `check` ask for none."""
        if self._mapping is None:
            from pyhyve.image.qcow2.mapping import Mapping  # noqa: PLC0415 - as said

            self._mapping = Mapping(self.meta)
        return self._mapping

    # --- facts ---

    @property
    def header(self) -> Header:
        """The header as it is now."""
        return self.meta.header

    @property
    def size_bytes(self) -> int:
        """Virtual size."""
        return self.meta.header.size

    @property
    def cluster_size_bytes(self) -> int:
        """Cluster size."""
        return self._cluster_size

    @property
    def allocation_unit_bytes(self) -> int:
        """A subcluster, or a cluster."""
        return self._cluster_size // 32 if self.meta.header.extended_l2 else self._cluster_size

    def disk_usage_bytes(self) -> int | None:
        """Image file and external data file."""
        used = self.storage.disk_usage_bytes()
        if self.data is self.storage or used is None:
            return used
        data = self.data.disk_usage_bytes()
        return None if data is None else used + data

    @property
    def dirty(self) -> bool:
        """The dirty bit."""
        return bool(self.meta.header.incompatible_features & Incompatible.DIRTY)

    @property
    def backing_reference(self) -> BackingReference | None:
        """Backing file name and format from the header."""
        header = self.meta.header
        return None if header.backing_file is None else BackingReference(header.backing_file, header.backing_format)

    def specific_info(self) -> dict[str, object]:
        """ImageInfoSpecificQCow2, in qemu-img's order."""
        header = self.meta.header
        if header.version < 3:
            return {"compat": "0.10", "compression-type": "zlib", "refcount-bits": 16}
        info: dict[str, object] = {
            "compat": "1.1",
            "compression-type": "zstd" if header.compression_type else "zlib",
            "lazy-refcounts": bool(header.compatible_features & Compatible.LAZY_REFCOUNTS),
        }
        if header.bitmaps is not None:
            from pyhyve.image.qcow2.bitmaps import describe_bitmaps  # noqa: PLC0415 - images with bitmaps are rare

            info["bitmaps"] = describe_bitmaps(self.meta)
        info["refcount-bits"] = 1 << header.refcount_order
        if header.has_data_file:
            info["data-file"] = header.data_file or ""
            info["data-file-raw"] = bool(header.autoclear_features & Autoclear.RAW_EXTERNAL_DATA)
        info["corrupt"] = bool(header.incompatible_features & Incompatible.CORRUPT)
        info["extended-l2"] = header.extended_l2
        return info

    def layer_extents(self, start: int, length: int) -> Iterator[LayerExtent]:
        """Runs of this layer."""
        self.check_range(start, length)
        end, chunk = start + length, self._cluster_size * self.meta.header.l2_entries
        filename = self.data.filename
        recurse = self.data is self.storage and self._is_preallocated()
        while start < end:
            with self.meta.lock:
                first = self.mapping.lookup(start, end - start)
                runs = [first] if first.length > chunk else self.mapping.runs(start, min(end - start, chunk))
            for run in runs:
                if run.kind == RunKind.COMPRESSED:
                    yield LayerExtent(start, run.length, LayerState.DATA, compressed=True)
                elif run.kind == RunKind.DATA and recurse:
                    for host, part, has_data in self.storage.extents(run.host, run.length):
                        yield LayerExtent(
                            start + host - run.host, part, LayerState.DATA, host, filename, zero=not has_data
                        )
                else:
                    located = run.kind == RunKind.DATA or run.host
                    state = (LayerState.UNALLOCATED, LayerState.ZERO, LayerState.DATA)[run.kind]
                    yield LayerExtent(
                        start, run.length, state, run.host if located else None, filename if located else None
                    )
                start += run.length

    def _is_preallocated(self) -> bool:
        """Whether far more clusters are referenced than the file has blocks for: data clusters may be holes then."""
        if self._preallocated is None:
            taken = self.storage.disk_usage_bytes()
            if taken is None:
                return False
            used = taken >> self._bits
            limit = max(used * 10 // 9, used + 2)
            with self.meta.lock:
                self._preallocated = self.meta.refcounts.count_used(self.storage.size_bytes, limit) >= limit
        return self._preallocated

    # --- reading ---

    def pwrite(self, buffer: bytes | bytearray | memoryview, offset: int) -> None:
        """Refuse: this half only reads."""
        del buffer, offset
        self.check_writable()

    def pread_into(self, buffer: memoryview, offset: int) -> None:
        """Read through the chain."""
        self.preadv((buffer,), offset)

    def preadv(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Read through the chain; a range in one host run is one preadv into the caller's buffers."""
        length = len(buffers[0]) if len(buffers) == 1 else sum(map(len, buffers))
        self.check_range(offset, length)
        self._fill(buffers, offset, length)

    def _fill(self, buffers: Sequence[memoryview], offset: int, length: int) -> None:
        """Read what the tables map, which may lie behind the disk."""
        if not length:
            return
        meta = self.meta
        with meta.lock:
            runs = self.mapping.runs(offset, length)
            meta.users += 1
        try:
            if len(runs) == 1 and runs[0].kind == RunKind.DATA:
                self.data.preadv(buffers, runs[0].host)
                return
            from pyhyve.image.qcow2.mapping import scatter  # noqa: PLC0415 - loaded by now

            for part, run, at in scatter(buffers, runs, offset):
                self._read_run(part, run, at)
        finally:
            with meta.lock:
                meta.users -= 1

    def _read_run(self, buffer: memoryview, run: Run, offset: int) -> None:
        if run.kind == RunKind.DATA:
            self.data.pread_into(buffer, run.host)
        elif run.kind == RunKind.ZERO or offset >= self.size_bytes:
            buffer[:] = bytes(len(buffer))
        elif run.kind == RunKind.UNALLOCATED:
            self.read_backing(buffer, offset)
        else:
            inside = offset & self._mask
            data = self._decompress(run.entry, keep=len(buffer) < self._cluster_size)
            buffer[:] = data if len(buffer) == len(data) else memoryview(data)[inside : inside + len(buffer)]

    def _decompress(self, entry: int, *, keep: bool) -> bytes:
        with self.meta.lock:
            data = self._decompressed.pop(entry, None)
            if data is not None:
                self._decompressed[entry] = data
                return data
        host, length = self.meta.compressed_extent(entry)
        data = self.codec.decompress(self.storage.pread(length, host), self._cluster_size)
        if keep:
            with self.meta.lock:
                self._decompressed[entry] = data
                if len(self._decompressed) > _DECOMPRESSED_CACHE_CLUSTERS:
                    del self._decompressed[next(iter(self._decompressed))]
        return data

    @property
    def codec(self) -> Codec:
        """Compression of this image's clusters."""
        if self._codec is None:
            from pyhyve.image.qcow2.compression import codec_for  # noqa: PLC0415 - as most commands need none

            self._codec = codec_for(self.meta.header.compression_type)
        return self._codec

    def flush(self) -> None:
        """Data, reference counts, tables: in that order, with barriers between."""
        if self.readonly:
            return
        if self.data is not self.storage:
            self.data.flush()
        with self.meta.lock:
            self.meta.write_back()

    def close(self) -> None:
        """Flush metadata and close everything below."""
        if self._closed:
            return
        self._closed = True
        try:
            if not self.readonly:
                if self.data is not self.storage:
                    self.data.flush()
                with self.meta.lock:
                    if self.meta.bitmaps is not None:
                        self.meta.bitmaps.store()
                    self.meta.close()
        finally:
            self._close_data_file()
            self.storage.close()
            if self.backing is not None:
                self.backing.close()

    def check(self, *, fix_leaks: bool = False, fix_errors: bool = False) -> CheckResult:
        """Compare reference counts with what the tables refer to."""
        from pyhyve.image.qcow2.check import check  # noqa: PLC0415 - as above

        return check(self.meta, fix_leaks=fix_leaks, fix_errors=fix_errors)

    def select_snapshot(self, snapshot: SnapshotInfo) -> None:
        """Show a snapshot in place of the disk."""
        from pyhyve.image.qcow2.snapshots import find_entry  # noqa: PLC0415 - most commands need none

        meta, entry = self.meta, find_entry(self.meta, snapshot)
        if not self.readonly:
            msg = "a snapshot can be shown only in an image that is open read-only"
            raise ImageError(msg)
        l1 = meta.load_l1(entry.l1_table_offset, entry.l1_size)
        header = replace(
            meta.header, size=entry.disk_size, l1_size=entry.l1_size, l1_table_offset=entry.l1_table_offset
        )
        meta.replace_l1(l1, header)

    def pread_vm_state_into(self, buffer: memoryview, position: int) -> None:
        """Read a part of the machine state."""
        if position < 0:
            msg = "a machine state has no bytes before its first"
            raise ImageError(msg)
        self._fill((buffer,), self.meta.header.vm_state_offset + position, len(buffer))

    def _close_data_file(self) -> None:
        if self.data is not self.storage:
            self.data.close()

    def snapshots(self) -> Sequence[SnapshotInfo]:
        """Internal snapshots."""
        if not self.meta.header.nb_snapshots:
            return ()
        from pyhyve.image.qcow2.snapshots import load_snapshots  # noqa: PLC0415 - most commands need none

        return tuple(entry.info() for entry in load_snapshots(self.meta))


def _read_header(request: OpenRequest) -> Header:
    """Parse the header; the first cluster is read whole because the backing name may stand anywhere in it."""
    storage = request.storage
    head = storage.pread(4096, 0)
    if len(head) >= 24 and int.from_bytes(head[20:24], "big") <= MAX_CLUSTER_BITS:
        cluster = 1 << int.from_bytes(head[20:24], "big")
        backing = int.from_bytes(head[8:16], "big")
        if cluster > len(head) and len(head) == 4096 and (backing > 2048 or _extensions_overflow(head)):
            head = storage.pread(cluster, 0)
    return parse_header(head, storage.size_bytes)


def _extensions_overflow(head: bytes) -> bool:
    """Whether the header extensions go on past the bytes in hand."""
    version = int.from_bytes(head[4:8], "big")
    offset = 72 if version == 2 else int.from_bytes(head[100:104], "big")
    while offset + 8 <= len(head):
        kind, length = struct.unpack_from(">II", head, offset)
        if kind == 0:
            return False
        offset += 8 + (length + 7 & ~7)
    return True
