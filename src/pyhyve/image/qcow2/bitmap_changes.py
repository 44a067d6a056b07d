"""Adding, removing, clearing, merging and resizing persistent bitmaps.

Changes collect in memory; `commit` writes new tables and a new directory, switches the header to them, and only then
frees what they replace: after a crash the old bitmaps or the new ones are there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyhyve.image.contract import ImageError, ImageFormatError, ImageUnsupportedError
from pyhyve.image.qcow2.bitmaps import MAX_BITMAP_BYTES, load_bitmap_table, load_directory
from pyhyve.image.qcow2.format import (
    MAX_BITMAP_DIRECTORY_SIZE_BYTES,
    MAX_BITMAPS,
    OFFSET_MASK,
    Autoclear,
    BitmapEntry,
    BitmapFlag,
    BitmapsExtension,
    build_bitmap_directory,
)
from pyhyve.image.qcow2.tables import store_u64
from pyhyve.support.arrays import array
from pyhyve.support.records import replace

if TYPE_CHECKING:
    from pyhyve.image.qcow2.metadata import Metadata

MAX_NAME_BYTES = 1023
DIRTY_TRACKING = 1  # the only type of bitmap that the specification knows


def bitmap_bytes(size_bytes: int, granularity_bits: int) -> int:
    """Length of a bitmap over a disk, one bit a granule; ImageFormatError when that is too much memory."""
    length = (-(-size_bytes >> granularity_bits) + 7) // 8
    if length > MAX_BITMAP_BYTES:
        msg = "the bitmap would be too large: use a larger granularity"
        raise ImageFormatError(msg)
    return length


def load_bits(meta: Metadata, entry: BitmapEntry) -> bytearray:
    """The bits of one bitmap, lowest granule in the lowest bit of the first byte."""
    length = bitmap_bytes(meta.header.size, entry.granularity_bits)
    data = bytearray()
    for word in load_bitmap_table(meta, entry):
        if len(data) >= length:
            break
        if word & OFFSET_MASK:
            data += meta.storage.pread(meta.cluster_size, word & OFFSET_MASK).ljust(meta.cluster_size, b"\0")
        else:
            data += (b"\xff" if word & 1 else b"\0") * meta.cluster_size
    if len(data) < length:
        msg = f"Bitmap '{entry.name}': its table is too small"
        raise ImageFormatError(msg)
    del data[length:]
    return data


def merge_bits(target: bytearray, target_shift: int, source: bytes | bytearray, source_shift: int) -> bytearray:
    """Set in `target` what is set in `source`; the shifts are log2 of the granularities."""
    if target_shift == source_shift:
        both = int.from_bytes(target, "little") | int.from_bytes(source, "little")
        return bytearray(both.to_bytes(max(len(target), len(source)), "little")[: len(target)])
    for index, value in enumerate(source):
        for bit in range(8) if value else ():
            if value >> bit & 1:
                start = (index * 8 + bit) << source_shift
                first = start >> target_shift
                last = min((start + (1 << source_shift) - 1) >> target_shift, len(target) * 8 - 1)
                for granule in range(first, last + 1):
                    target[granule >> 3] |= 1 << (granule & 7)
    return target


@dataclass(slots=True)
class _Bitmap:
    entry: BitmapEntry
    bits: bytearray | None = None  # None: as on disk


class BitmapChanges:
    """The bitmaps of an image while they are changed; the caller holds the lock of `meta`."""

    def __init__(self, meta: Metadata) -> None:
        if meta.header.version < 3:
            msg = "Cannot store dirty bitmaps in qcow2 v2 files"
            raise ImageUnsupportedError(msg)
        if meta.bitmaps is not None:  # those that record writes: bring them to disk first
            meta.bitmaps.store()
            meta.bitmaps = None
        self._meta = meta
        self._old = load_directory(meta)
        self._bitmaps = [_Bitmap(entry) for entry in self._old]
        self._size = meta.header.size

    def find(self, name: str) -> _Bitmap:
        """A bitmap by name."""
        for bitmap in self._bitmaps:
            if bitmap.entry.name == name:
                return bitmap
        msg = f"Dirty bitmap '{name}' not found"
        raise ImageError(msg)

    def _usable(self, name: str) -> _Bitmap:
        bitmap = self.find(name)
        if bitmap.entry.flags & BitmapFlag.IN_USE:
            msg = f"Bitmap '{name}' is inconsistent and cannot be used"
            raise ImageError(msg)
        return bitmap

    def _bits(self, bitmap: _Bitmap) -> bytearray:
        if bitmap.bits is None:
            bitmap.bits = load_bits(self._meta, bitmap.entry)
        return bitmap.bits

    def add(self, name: str, granularity_bytes: int | None = None, *, enabled: bool = True) -> None:
        """A new bitmap with nothing set; the default granularity is the cluster size within 4 to 64 KiB."""
        if any(bitmap.entry.name == name for bitmap in self._bitmaps):
            msg = f"Bitmap already exists: {name}"
            raise ImageError(msg)
        if not name or len(name.encode("utf-8", "surrogateescape")) > MAX_NAME_BYTES:
            msg = f"Bitmap name must have 1 to {MAX_NAME_BYTES} bytes"
            raise ImageError(msg)
        if granularity_bytes is None:
            granularity_bytes = min(max(self._meta.cluster_size, 4096), 65536)
        if granularity_bytes & (granularity_bytes - 1) or not 512 <= granularity_bytes <= 1 << 31:
            msg = "Granularity must be power of 2 and at least 512"
            raise ImageError(msg)
        if len(self._bitmaps) >= MAX_BITMAPS:
            msg = "Maximum number of persistent bitmaps is already reached"
            raise ImageError(msg)
        shift = granularity_bytes.bit_length() - 1
        flags = BitmapFlag.AUTO if enabled else 0
        bits = bytearray(bitmap_bytes(self._size, shift))
        self._bitmaps.append(_Bitmap(BitmapEntry(0, 0, flags, DIRTY_TRACKING, shift, name, b""), bits))

    def remove(self, name: str) -> None:
        """Remove a bitmap, consistent or not."""
        self._bitmaps.remove(self.find(name))

    def clear(self, name: str) -> None:
        """Set no granule."""
        bitmap = self._usable(name)
        bitmap.bits = bytearray(bitmap_bytes(self._size, bitmap.entry.granularity_bits))

    def enable(self, name: str, *, enabled: bool = True) -> None:
        """Whether the bitmap records writes."""
        bitmap = self._usable(name)
        flags = bitmap.entry.flags & ~BitmapFlag.AUTO | (BitmapFlag.AUTO if enabled else 0)
        bitmap.entry = replace(bitmap.entry, flags=flags)

    def merge(self, name: str, source: str, other: Metadata | None = None) -> None:
        """Set what `source` has set, a bitmap of this image or of `other`."""
        bitmap = self._usable(name)
        if other is None:
            found = self._usable(source)
            bits, shift = self._bits(found), found.entry.granularity_bits
        else:
            entry = next((entry for entry in load_directory(other) if entry.name == source), None)
            if entry is None:
                msg = f"Dirty bitmap '{source}' not found"
                raise ImageError(msg)
            if entry.flags & BitmapFlag.IN_USE:
                msg = f"Bitmap '{source}' is inconsistent and cannot be used"
                raise ImageError(msg)
            if other.header.size != self._size:
                msg = (
                    f"Bitmaps are of different sizes (destination size is {self._size}, source size is "
                    f"{other.header.size}) and can't be merged"
                )
                raise ImageError(msg)
            bits, shift = load_bits(other, entry), entry.granularity_bits
        bitmap.bits = merge_bits(self._bits(bitmap), bitmap.entry.granularity_bits, bits, shift)

    def resize(self, size_bytes: int) -> None:
        """Fit all bitmaps to another size of the disk; what is new has nothing set."""
        for bitmap in self._bitmaps:
            bits = self._bits(self._usable(bitmap.entry.name))
            shift = bitmap.entry.granularity_bits
            length = bitmap_bytes(size_bytes, shift)
            del bits[length:]
            bits += bytes(length - len(bits))
            rest = -(-size_bytes >> shift) & 7
            if rest and bits:
                bits[-1] &= (1 << rest) - 1
        self._size = size_bytes

    def commit(self) -> None:
        """Write the changes and switch to them."""
        meta = self._meta
        kept = [
            bitmap.entry if bitmap.bits is None else self._write(bitmap.entry, bitmap.bits) for bitmap in self._bitmaps
        ]
        extension = None
        if kept:
            data = build_bitmap_directory(tuple(kept))
            if len(data) > MAX_BITMAP_DIRECTORY_SIZE_BYTES:
                msg = "the bitmap directory would become too large"
                raise ImageError(msg)
            offset, _ = meta.allocate(-(-len(data) >> meta.cluster_bits), exact=True)
            meta.storage.pwrite(data, offset)
            extension = BitmapsExtension(len(kept), len(data), offset)
        meta.write_back(final=True)
        old = meta.header.bitmaps
        features = meta.header.autoclear_features & ~Autoclear.BITMAPS
        features |= Autoclear.BITMAPS if extension is not None else 0
        meta.write_header(replace(meta.header, bitmaps=extension, autoclear_features=features))
        if old is not None:
            meta.free(old.bitmap_directory_offset, old.bitmap_directory_size)
        tables = {entry.bitmap_table_offset for entry in kept}
        for entry in self._old:
            if entry.bitmap_table_offset not in tables:
                self._free(entry)
        meta.write_back(final=True)

    def _write(self, entry: BitmapEntry, bits: bytearray) -> BitmapEntry:
        meta = self._meta
        table = array("Q")
        for at in range(0, len(bits), meta.cluster_size):
            part = bits[at : at + meta.cluster_size]
            place = 0
            if any(part):
                place, _ = meta.allocate(1, exact=True)
                meta.storage.pwrite(part.ljust(meta.cluster_size, b"\0"), place)
            table.append(place)
        if not table:
            return replace(entry, bitmap_table_offset=0, bitmap_table_size=0)
        offset, _ = meta.allocate(-(-len(table) * 8 >> meta.cluster_bits), exact=True)
        meta.storage.pwrite(store_u64(table), offset)
        return replace(entry, bitmap_table_offset=offset, bitmap_table_size=len(table))

    def _free(self, entry: BitmapEntry) -> None:
        meta = self._meta
        for word in load_bitmap_table(meta, entry):
            if word & OFFSET_MASK:
                meta.free(word & OFFSET_MASK, meta.cluster_size)
        if entry.bitmap_table_size:
            meta.free(entry.bitmap_table_offset, entry.bitmap_table_size * 8)


def copy_bitmaps(source: Metadata, target: Metadata, *, skip_broken: bool = False) -> list[str]:
    """Copy all bitmaps of one image to another of the same size; returns the names of broken ones, left out."""
    skipped: list[str] = []
    with target.lock:
        changes = BitmapChanges(target)
        for entry in load_directory(source):
            if entry.flags & BitmapFlag.IN_USE:
                if not skip_broken:
                    msg = (
                        f"Cannot copy inconsistent bitmap '{entry.name}': try --skip-broken-bitmaps, or use "
                        "'pyhyve img bitmap --remove'"
                    )
                    raise ImageFormatError(msg)
                skipped.append(entry.name)
                continue
            changes.add(entry.name, 1 << entry.granularity_bits, enabled=bool(entry.flags & BitmapFlag.AUTO))
            changes.merge(entry.name, entry.name, source)
        changes.commit()
    return skipped
