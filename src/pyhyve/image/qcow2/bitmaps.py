"""Persistent dirty bitmaps: described, kept, and (those marked `auto`) updated by our writes.

A bitmap that records writes is marked `in_use` on disk before the first write it has to record, and stored when the
image is closed: after a crash every reader sees that it cannot be trusted.
"""

from __future__ import annotations

from pyhyve.image.contract import ImageFormatError
from pyhyve.image.qcow2.format import (
    OFFSET_MASK,
    BitmapEntry,
    BitmapFlag,
    build_bitmap_directory,
    parse_bitmap_directory,
)
from pyhyve.image.qcow2.tables import load_u64, store_u64
from pyhyve.support.records import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyhyve.image.qcow2.metadata import Metadata
    from pyhyve.support.arrays import array

MAX_BITMAP_BYTES = 64 * 1024 * 1024
_FLAG_NAMES = ((BitmapFlag.IN_USE, "in-use"), (BitmapFlag.AUTO, "auto"))


def load_directory(meta: Metadata) -> tuple[BitmapEntry, ...]:
    """The bitmap directory, empty without the extension."""
    extension = meta.header.bitmaps
    if extension is None:
        return ()
    data = meta.storage.pread(extension.bitmap_directory_size, extension.bitmap_directory_offset)
    return parse_bitmap_directory(data, extension)


def describe_bitmaps(meta: Metadata) -> list[dict[str, object]]:
    """As `qemu-img info` lists them."""
    return [
        {
            "flags": [name for flag, name in _FLAG_NAMES if entry.flags & flag],
            "name": entry.name,
            "granularity": 1 << entry.granularity_bits,
        }
        for entry in load_directory(meta)
    ]


def load_bitmap_table(meta: Metadata, entry: BitmapEntry) -> array[int]:
    """Where the clusters of one bitmap's data are."""
    size = entry.bitmap_table_size * 8
    return load_u64(meta.storage.pread(size, entry.bitmap_table_offset).ljust(size, b"\0"))


def bitmap_host_runs(meta: Metadata) -> Iterator[tuple[int, int]]:
    """Host clusters `(first, count)` that the bitmaps take: directory, tables, data."""
    extension, bits = meta.header.bitmaps, meta.cluster_bits
    if extension is None:
        return
    yield extension.bitmap_directory_offset >> bits, -(-extension.bitmap_directory_size >> bits)
    for entry in load_directory(meta):
        if entry.bitmap_table_size:
            yield entry.bitmap_table_offset >> bits, -(-entry.bitmap_table_size * 8 >> bits)
        for word in load_bitmap_table(meta, entry):
            if word & OFFSET_MASK:
                yield (word & OFFSET_MASK) >> bits, 1


class _Recording:
    def __init__(self, entry: BitmapEntry, bits: bytearray) -> None:
        self.entry, self.bits = entry, bits


class DirtyBitmaps:
    """The bitmaps of one image that record writes, in memory."""

    def __init__(self, meta: Metadata) -> None:
        self._meta = meta
        self._directory = list(load_directory(meta))
        self._recordings: dict[int, _Recording] = {}
        for number, entry in enumerate(self._directory):
            if entry.flags & BitmapFlag.AUTO and not entry.flags & BitmapFlag.IN_USE:
                self._recordings[number] = _Recording(entry, self._load(entry))
                self._directory[number] = replace(entry, flags=entry.flags | BitmapFlag.IN_USE)
        if self._recordings:
            self._write_directory()

    def _load(self, entry: BitmapEntry) -> bytearray:
        meta = self._meta
        granules = -(-meta.header.size >> entry.granularity_bits)
        length = (granules + 7) // 8
        clusters = -(-length >> meta.cluster_bits)
        if length > MAX_BITMAP_BYTES or clusters > entry.bitmap_table_size:
            msg = f"Bitmap '{entry.name}' is too large or its table too small"
            raise ImageFormatError(msg)
        data = bytearray()
        for word in load_bitmap_table(meta, entry)[:clusters]:
            if word & OFFSET_MASK:
                data += meta.storage.pread(meta.cluster_size, word & OFFSET_MASK).ljust(meta.cluster_size, b"\0")
            else:
                data += (b"\xff" if word & 1 else b"\0") * meta.cluster_size
        return data

    def _write_directory(self) -> None:
        extension = self._meta.header.bitmaps
        if extension is None:
            return
        self._meta.storage.pwrite(build_bitmap_directory(tuple(self._directory)), extension.bitmap_directory_offset)
        self._meta.storage.flush()

    def record(self, offset: int, length: int) -> None:
        """A range was written."""
        for recording in self._recordings.values():
            shift = recording.entry.granularity_bits
            first, last = offset >> shift, (offset + length - 1) >> shift
            bits = recording.bits
            low, high = first >> 3, last >> 3
            head, tail = 0xFF << (first & 7) & 0xFF, 0xFF >> (7 - (last & 7))
            if low == high:
                bits[low] |= head & tail
            else:
                bits[low] |= head
                bits[low + 1 : high] = b"\xff" * (high - low - 1)
                bits[high] |= tail

    def store(self) -> None:
        """Write the bitmaps back and mark them consistent."""
        meta = self._meta
        for number, recording in self._recordings.items():
            entry = recording.entry
            table = load_bitmap_table(meta, entry)
            changed = False
            for index in range(-(-len(recording.bits) >> meta.cluster_bits)):
                data = recording.bits[index << meta.cluster_bits : (index + 1) << meta.cluster_bits]
                if not table[index] & OFFSET_MASK:
                    if not any(data):
                        changed |= table[index] != 0
                        table[index] = 0
                        continue
                    table[index], _ = meta.allocate(1, exact=True)
                    changed = True
                meta.storage.pwrite(data, table[index] & OFFSET_MASK)
            if changed:
                meta.write_back(final=True)
                meta.storage.pwrite(store_u64(table), entry.bitmap_table_offset)
            self._directory[number] = replace(entry, flags=entry.flags & ~BitmapFlag.IN_USE)
        if self._recordings:
            meta.storage.flush()
            self._write_directory()


def note_write(meta: Metadata, offset: int, length: int) -> None:
    """Record a write in the bitmaps that want it."""
    if length <= 0:
        return
    with meta.lock:
        if meta.bitmaps is None:
            meta.bitmaps = DirtyBitmaps(meta)
        meta.bitmaps.record(offset, length)
