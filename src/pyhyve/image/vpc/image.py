"""Open VHD images.

A dynamic image grows at its end, where the footer is: the footer's copy at the start keeps the image readable until
`flush` has written the footer behind the new blocks, and only then the table entries that refer to them.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from pyhyve.image.allocating import AllocatingImage, Run
from pyhyve.image.contract import (
    BackingReference,
    Image,
    ImageError,
    ImageFormatError,
    ImageUnsupportedError,
    LayerExtent,
    LayerState,
    OpenRequest,
)
from pyhyve.image.entries import EntryTable
from pyhyve.image.vpc.format import (
    BAT_UNUSED,
    DYNAMIC_HEADER_SIZE_BYTES,
    EXACT_SIZE_CREATORS,
    FOOTER_COOKIE,
    FOOTER_SIZE_BYTES,
    MAX_GEOMETRY_SECTORS,
    MAX_SECTORS,
    DiskType,
    DynamicHeader,
    Footer,
    bitmap_size_bytes,
    parse_dynamic_header,
    parse_footer,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_BITMAP_CACHE = 256
_SECTOR_BITS = 9


def open_image(request: OpenRequest) -> Image:
    """The image of the type its footer states."""
    storage = request.storage
    head = storage.pread(FOOTER_SIZE_BYTES, 0)
    if not head.startswith(FOOTER_COOKIE):
        size = storage.size_bytes
        if size < FOOTER_SIZE_BYTES:
            msg = "invalid VPC image (shorter than a footer)"
            raise ImageFormatError(msg)
        head = storage.pread(FOOTER_SIZE_BYTES, size - FOOTER_SIZE_BYTES)
        if parse_footer(head).disk_type != DiskType.FIXED:
            msg = "invalid VPC image (the footer copy at the start is missing)"
            raise ImageFormatError(msg)
    footer = parse_footer(head)
    size = disk_size_bytes(footer, request.options.get("force_size_calc", "auto"))
    if size > MAX_SECTORS * 512:
        msg = f"the disk size {size} is larger than the format allows (2040 GiB)"
        raise ImageFormatError(msg)
    if footer.disk_type == DiskType.FIXED:
        return FixedImage(request, size)
    if footer.disk_type == DiskType.DIFFERENCING and request.writable:
        msg = "differencing VPC images can only be read"
        raise ImageUnsupportedError(msg)
    if footer.disk_type not in {DiskType.DYNAMIC, DiskType.DIFFERENCING}:
        msg = f"unsupported VPC image (disk type {footer.disk_type})"
        raise ImageUnsupportedError(msg)
    data = storage.pread(DYNAMIC_HEADER_SIZE_BYTES, footer.data_offset) if footer.data_offset < 1 << 62 else b""
    header = parse_dynamic_header(data, size, storage.size_bytes)
    if footer.disk_type == DiskType.DIFFERENCING:
        return DifferencingImage(request, size, header)
    return DynamicImage(request, size, header)


def disk_size_bytes(footer: Footer, calculation: str) -> int:
    """Virtual size: Virtual PC counts by geometry, most others by the footer's size; `calculation` overrides."""
    if calculation not in {"auto", "chs", "current_size"}:
        msg = f"Invalid size calculation algorithm '{calculation}': choose auto, chs or current_size"
        raise ImageError(msg)
    exact = footer.creator_application in EXACT_SIZE_CREATORS or footer.geometry_sectors == MAX_GEOMETRY_SECTORS
    if calculation == "current_size" or (calculation == "auto" and exact):
        return footer.current_size // 512 * 512
    return footer.geometry_sectors * 512


class _VpcImage(AllocatingImage):
    format_name = "vpc"

    def __init__(self, request: OpenRequest, size_bytes: int) -> None:
        super().__init__(request)
        self._size = size_bytes

    @property
    def size_bytes(self) -> int:
        """Virtual size."""
        return self._size


class FixedImage(_VpcImage):
    """The disk, then a footer."""

    def __init__(self, request: OpenRequest, size_bytes: int) -> None:
        super().__init__(request, size_bytes)
        if size_bytes > self.storage.size_bytes - FOOTER_SIZE_BYTES:
            msg = f"the file is too short for a fixed VPC image of {size_bytes} bytes"
            raise ImageFormatError(msg)

    def _locate(self, offset: int, length: int) -> Run:
        return Run(length, LayerState.DATA, self.storage, offset)

    def _append(self, view: memoryview, offset: int) -> int:
        self.storage.pwrite(view, offset)
        return len(view)

    def _describe(self, run: Run, start: int) -> Iterator[LayerExtent]:
        return self._with_holes(run, start)


class DynamicImage(_VpcImage):
    """Blocks, each behind its sector bitmap. As in QEMU every sector of a block counts as written."""

    def __init__(self, request: OpenRequest, size_bytes: int, header: DynamicHeader) -> None:
        super().__init__(request, size_bytes)
        self.header = header
        self._block = header.block_size
        self._bitmap = bitmap_size_bytes(header.block_size)
        self._table = EntryTable(self.storage, header.table_offset, header.max_table_entries, 4, big_endian=True)
        self._end: int | None = None  # where the footer is, or the next block goes
        self._footer = b""

    @property
    def cluster_size_bytes(self) -> int:
        """Block size."""
        return self._block

    def _locate(self, offset: int, length: int) -> Run:
        index, inside = divmod(offset, self._block)
        entry = self._table[index]
        if entry == BAT_UNUSED:
            count = self._table.run_length(index, -(-(inside + length) // self._block), 0)
            return Run(min(length, count * self._block - inside), LayerState.ZERO)
        host = (entry << _SECTOR_BITS) + self._bitmap + inside
        if host >= self.storage.size_bytes:
            msg = f"VPC block {index} lies outside the file"
            raise ImageFormatError(msg)
        return Run(min(length, self._block - inside), LayerState.DATA, self.storage, host)

    def _find_end(self) -> int:
        if self._end is None:
            highest = 0
            for page in self._table.pages():
                highest = max(highest, max((entry for entry in page if entry != BAT_UNUSED), default=0))
            table_end = self.header.table_offset + -(-self.header.max_table_entries * 4 // 512) * 512
            blocks_end = (highest << _SECTOR_BITS) + self._bitmap + self._block if highest else 0
            self._end = max(table_end, blocks_end, FOOTER_SIZE_BYTES + DYNAMIC_HEADER_SIZE_BYTES)
            if self._end > self.storage.size_bytes:
                msg = "the file is too short: blocks lie outside of it"
                raise ImageFormatError(msg)
            self._footer = self.storage.pread(FOOTER_SIZE_BYTES, 0)
        return self._end

    def _append(self, view: memoryview, offset: int) -> int:
        index, inside = divmod(offset, self._block)
        done = min(len(view), self._block - inside)
        place = self._find_end()
        end = place + self._bitmap + self._block
        if place >> _SECTOR_BITS >= BAT_UNUSED:
            msg = "the VPC image file is as large as it can be"
            raise ImageError(msg)
        size = self.storage.size_bytes
        if size > place:  # the footer, or what a crash left
            self.storage.write_zeroes(place, min(end, size) - place)
        if size < end:
            self.storage.truncate(end)
        self.storage.pwrite(b"\xff" * self._bitmap, place)
        self.storage.pwrite(view[:done], place + self._bitmap + inside)
        self._end = end
        self._table[index] = place >> _SECTOR_BITS
        if self._table.wants_write_back:
            self._write_back()
        return done

    def _write_back(self) -> None:
        if self._table.is_dirty and self._end is not None:
            self.storage.pwrite(self._footer, self._end)
            self.storage.flush()
            self._table.write_back()
        self.storage.flush()


class DifferencingImage(DynamicImage):
    """Sectors whose bit is set are here, all others in the parent. Read-only."""

    def __init__(self, request: OpenRequest, size_bytes: int, header: DynamicHeader) -> None:
        super().__init__(request, size_bytes, header)
        self._bits: OrderedDict[int, str] = OrderedDict()

    @property
    def backing_reference(self) -> BackingReference | None:
        """The parent: the relative locator when there is one, else its name beside this image."""
        name = self.header.parent_name
        for locator in self.header.locators:
            if locator.platform_code == b"W2ru" and locator.data_offset < 1 << 62:
                data = self.storage.pread(locator.data_length, locator.data_offset)
                name = data.decode("utf-16-le", "replace").partition("\0")[0] or name
        name = name.replace("\\", "/").removeprefix("./")
        return BackingReference(name, "vpc") if name else None

    def _locate(self, offset: int, length: int) -> Run:
        run = super()._locate(offset, length)
        if run.state is not LayerState.DATA:
            return Run(run.length, LayerState.UNALLOCATED)
        index, inside = divmod(offset, self._block)
        bits = self._bits.get(index)
        if bits is None:
            data = self.storage.pread(self._bitmap, run.host - inside - self._bitmap)
            bits = f"{int.from_bytes(data.ljust(self._bitmap, bytes(1)), 'big'):0{self._bitmap * 8}b}"
            self._bits[index] = bits
            if len(self._bits) > _BITMAP_CACHE:
                self._bits.popitem(last=False)
        sector = inside >> _SECTOR_BITS
        here = bits[sector]
        stop = bits.find("0" if here == "1" else "1", sector)
        stop = len(bits) if stop < 0 else stop
        run_bytes = min(run.length, (stop << _SECTOR_BITS) - inside)
        if here == "0":
            return Run(run_bytes, LayerState.UNALLOCATED)
        return Run(run_bytes, LayerState.DATA, self.storage, run.host)
