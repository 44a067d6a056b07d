"""An open VMDK disk: extents one after another, behind one descriptor."""

from __future__ import annotations

import secrets
from bisect import bisect_right
from collections import OrderedDict
from typing import TYPE_CHECKING

from pyhyve.image.allocating import AllocatingImage, Run
from pyhyve.image.contract import (
    BackingReference,
    CheckResult,
    ImageError,
    ImageFormatError,
    ImageUnsupportedError,
    LayerExtent,
    LayerState,
)
from pyhyve.image.vmdk.descriptor import (
    FLAT_TYPES,
    MAX_DESCRIPTOR_BYTES,
    NO_PARENT_CID,
    SPARSE_TYPES,
    Descriptor,
    ExtentLine,
    check_extent_name,
    parse_descriptor,
    with_cid,
)
from pyhyve.image.vmdk.extent import Extent, FlatExtent, SparseExtent, ZeroExtent, read_sparse_header
from pyhyve.image.vmdk.format import COWD_MAGIC, SPARSE_MAGIC, Flag, parse_sparse_header

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pyhyve.image.contract import OpenRequest
    from pyhyve.image.storage import Storage

_UNPACKED_CACHE_GRAINS = 32
_MAX_SIZE_BYTES = 1 << 62


def read_descriptor(storage: Storage) -> tuple[bytes, int]:
    """The descriptor's bytes and where they lie, of a descriptor file or a sparse extent that holds one."""
    if storage.pread(4, 0) == SPARSE_MAGIC:
        header = parse_sparse_header(storage.pread(512, 0))
        size = header.descriptor_size * 512
        offset = header.descriptor_offset * 512
        if not header.descriptor_offset or not 0 < size <= MAX_DESCRIPTOR_BYTES or offset >= storage.size_bytes:
            msg = "the VMDK file holds no descriptor of a valid size"
            raise ImageFormatError(msg)
        return storage.pread(size, offset), offset
    data = storage.pread(MAX_DESCRIPTOR_BYTES + 1, 0)
    if len(data) > MAX_DESCRIPTOR_BYTES:
        msg = "the VMDK descriptor file is too large"
        raise ImageFormatError(msg)
    return data, 0


class VmdkImage(AllocatingImage):
    """VMDK of any supported subformat."""

    format_name = "vmdk"

    def __init__(self, request: OpenRequest) -> None:
        super().__init__(request)
        self._text, self._text_offset = b"", 0
        self._extents: list[Extent] = []
        self._cid_checked = False
        self._unpacked: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        try:
            self._open(request)
        except BaseException:
            self._close_extents()
            raise
        self._starts = [extent.start for extent in self._extents]
        last = self._extents[-1]
        self._size = last.start + last.length
        if self._size > _MAX_SIZE_BYTES:
            self._close_extents()
            msg = "the VMDK disk is too large"
            raise ImageFormatError(msg)

    def _open(self, request: OpenRequest) -> None:
        magic = self.storage.pread(4, 0)
        if magic == COWD_MAGIC:
            self.descriptor = Descriptor(0, NO_PARENT_CID, "vmfsSparse", None, ())
            self._add_sparse(self.storage, "")
            return
        self._text, self._text_offset = read_descriptor(self.storage)
        self.descriptor = parse_descriptor(self._text)
        if magic == SPARSE_MAGIC and parse_sparse_header(self.storage.pread(512, 0)).capacity:
            self._add_sparse(self.storage, "")
            return
        if not self.descriptor.extents:
            msg = "the VMDK descriptor names no extents"
            raise ImageFormatError(msg)
        for line in self.descriptor.extents:
            self._add_line(line, request)

    def _next_start(self) -> int:
        return self._extents[-1].start + self._extents[-1].length if self._extents else 0

    def _add_sparse(self, storage: Storage, type_name: str, sectors: int | None = None) -> None:
        header = read_sparse_header(storage)
        if sectors is not None and sectors > header.capacity:
            msg = f"the VMDK extent '{storage.filename}' is smaller than its descriptor says"
            raise ImageFormatError(msg)
        length = (header.capacity if sectors is None else sectors) * 512
        extent = SparseExtent(storage, self._next_start(), length, type_name, header, writable=not self.readonly)
        self._extents.append(extent)

    def _add_line(self, line: ExtentLine, request: OpenRequest) -> None:
        length = line.sectors * 512
        if not line.sectors or length > _MAX_SIZE_BYTES or line.offset > 1 << 53:
            msg = f"the VMDK extent '{line.filename}' has an invalid size or offset"
            raise ImageFormatError(msg)
        if line.type == "ZERO" and line.access != "NOACCESS":
            self._extents.append(ZeroExtent(None, self._next_start(), length, line.type))
            return
        if line.access == "NOACCESS" or line.type not in FLAT_TYPES | SPARSE_TYPES:
            msg = f"Unsupported extent type '{line.type}' ({line.access})"
            raise ImageUnsupportedError(msg)
        if line.access == "RDONLY" and request.writable:
            msg = f"the VMDK extent '{line.filename}' is read-only"
            raise ImageUnsupportedError(msg)
        check_extent_name(line.filename)
        storage = request.open_sibling(line.filename, request.writable)
        try:
            if line.type in FLAT_TYPES:
                self._extents.append(
                    FlatExtent(storage, self._next_start(), length, line.type, line.offset * 512)
                )  # fmt: skip
            else:
                self._add_sparse(storage, line.type, line.sectors)
        except BaseException:
            storage.close()
            raise

    def _storages(self) -> Sequence[Storage]:
        others = [extent.storage for extent in self._extents if extent.storage is not None]
        return [self.storage, *(storage for storage in others if storage is not self.storage)]

    def _close_extents(self) -> None:
        for storage in self._storages()[1:]:
            storage.close()

    # --- facts ---

    @property
    def size_bytes(self) -> int:
        """Virtual size: all extents together."""
        return self._size

    @property
    def cluster_size_bytes(self) -> int | None:
        """Grain size of the first extent, when it is sparse."""
        first = self._extents[0]
        return first.grain_bytes if isinstance(first, SparseExtent) else None

    @property
    def backing_reference(self) -> BackingReference | None:
        """The parent disk; always VMDK."""
        hint = self.descriptor.parent_hint
        return BackingReference(hint, "vmdk") if hint else None

    def specific_info(self) -> Mapping[str, object]:
        """Content IDs, create type and extents."""
        extents = []
        for extent in self._extents:
            fields: dict[str, object] = {"compressed": True} if _is_packed(extent) else {}
            fields["virtual-size"] = extent.length
            if extent.storage is not None:
                fields["filename"] = extent.storage.filename
            if isinstance(extent, SparseExtent):
                fields["cluster-size"] = extent.grain_bytes
            fields["format"] = extent.type_name
            extents.append(fields)
        return {
            "cid": self.descriptor.cid,
            "parent-cid": self.descriptor.parent_cid,
            "create-type": self.descriptor.create_type,
            "extents": extents,
        }

    # --- reading ---

    def _extent(self, offset: int) -> Extent:
        return self._extents[bisect_right(self._starts, offset) - 1]

    def _locate(self, offset: int, length: int) -> Run:
        extent = self._extent(offset)
        inside = offset - extent.start
        return extent.locate(inside, min(length, extent.length - inside))

    def _read_packed(self, run: Run, part: memoryview, offset: int) -> None:
        extent = self._extent(offset)
        if not isinstance(extent, SparseExtent):
            msg = "a flat VMDK extent has no compressed grains"
            raise ImageFormatError(msg)
        key = extent.start, run.host
        inside = (offset - extent.start) % extent.grain_bytes
        with self._lock:
            data = self._unpacked.get(key)
        if data is None:
            data = extent.unpack(run.host, offset - extent.start - inside)
            with self._lock:
                self._unpacked[key] = data
                if len(self._unpacked) > _UNPACKED_CACHE_GRAINS:
                    self._unpacked.popitem(last=False)
        part[:] = memoryview(data)[inside : inside + len(part)]

    def _describe(self, run: Run, start: int) -> Iterator[LayerExtent]:
        if run.state is LayerState.DATA and isinstance(self._extent(start), FlatExtent):
            return self._with_holes(run, start)
        return super()._describe(run, start)

    def read_backing(self, buffer: memoryview, offset: int) -> None:
        """Read the parent, once its content ID was found to be the one this disk was made over."""
        if self.backing is not None and not self._cid_checked:
            below = self.backing
            if not isinstance(below, VmdkImage) or below.descriptor.cid != self.descriptor.parent_cid:
                msg = "the parent of this VMDK disk was changed after the disk was made (its content ID differs)"
                raise ImageFormatError(msg)
            self._cid_checked = True
        super().read_backing(buffer, offset)

    # --- writing ---

    def _first_change(self) -> None:
        if not self._text:
            return
        text = with_cid(self._text, secrets.randbits(32))
        if self._text_offset:  # inside an extent: the padding gives way, the size stays
            text = text.rstrip(b"\0").ljust(len(self._text), b"\0")
            if len(text) > len(self._text):
                msg = "the VMDK descriptor has no room for another content ID"
                raise ImageError(msg)
        self._text = text
        self.storage.pwrite(text, self._text_offset)
        self.descriptor = parse_descriptor(self._text)

    def _old(self, start: int, length: int) -> memoryview:
        view = memoryview(bytearray(length))
        inside = max(0, min(length, self._size - start))
        self.pread_into(view[:inside], start)
        return view

    def _append(self, view: memoryview, offset: int) -> int:
        extent = self._extent(offset)
        if not isinstance(extent, SparseExtent):
            msg = "a VMDK extent of zeroes cannot be written"
            raise ImageUnsupportedError(msg)
        grain = extent.grain_bytes
        start = offset - (offset - extent.start) % grain
        if extent.compressed:
            view = view[: start + grain - offset]
        grains = -(-(offset + len(view) - start) // grain)
        end = start + grains * grain
        parts = [self._old(start, offset - start), view, self._old(offset + len(view), end - offset - len(view))]
        if extent.compressed:
            extent.append_packed(start - extent.start, extent.compress(b"".join(parts)))
        else:
            extent.append(parts, start - extent.start, grains)
        if extent.wants_write_back:
            self._write_back()
        return len(view)

    def _append_zeroes(self, offset: int, length: int) -> int:
        extent = self._extent(offset)
        if isinstance(extent, SparseExtent) and extent.header.flags & Flag.ZEROED_GRAIN:
            grain = extent.grain_bytes
            inside = offset - extent.start
            whole = length // grain
            if not inside % grain and whole:
                extent.set_zeroed(inside, whole)
                return whole * grain
        return super()._append_zeroes(offset, length)

    def compress(self, buffer: bytes | memoryview, offset: int) -> list[tuple[int, memoryview, bytes]]:
        """Compress whole grains on the caller's thread."""
        view = memoryview(buffer).cast("B")
        self._start_change(offset, len(view))
        extent = self._extents[0]
        if len(self._extents) > 1 or not isinstance(extent, SparseExtent) or not extent.compressed:
            msg = "only VMDK disks with subformat=streamOptimized hold compressed data"
            raise ImageUnsupportedError(msg)
        grain = extent.grain_bytes
        if offset % grain or (len(view) % grain and offset + len(view) != self._size):
            msg = "compressed writes must cover whole clusters"
            raise ImageError(msg)
        pieces = [(offset + at, view[at : at + grain]) for at in range(0, len(view), grain)]
        return [(at, piece, extent.compress(bytes(piece).ljust(grain, b"\0"))) for at, piece in pieces]

    def append_compressed(self, parts: list[tuple[int, memoryview, bytes]]) -> None:
        """Append compressed grains."""
        extent = self._extents[0]
        if isinstance(extent, SparseExtent):
            for offset, _piece, data in parts:
                with self._lock:
                    extent.append_packed(offset, data)
                    if extent.wants_write_back:
                        self._write_back()

    def _write_back(self) -> None:
        for extent in self._extents:
            if isinstance(extent, SparseExtent):
                extent.write_back()
            elif extent.storage is not None:
                extent.storage.flush()
        if self.storage is not self._extents[0].storage:
            self.storage.flush()

    def check(self, *, fix_leaks: bool = False, fix_errors: bool = False) -> CheckResult:
        """Grains inside their files."""
        result = CheckResult()
        for extent in self._extents:
            if isinstance(extent, SparseExtent):
                result.errors.extend(extent.misplaced())
        result.corruptions = len(result.errors)
        return result


def _is_packed(extent: Extent) -> bool:
    return isinstance(extent, SparseExtent) and extent.compressed
