"""An open Parallels image: clusters are only ever appended; `flush` writes data, then the table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.image.allocating import AllocatingImage, Run
from pyhyve.image.contract import CheckResult, ImageError, ImageFormatError, ImageUnsupportedError, LayerState
from pyhyve.image.entries import EntryTable
from pyhyve.image.parallels.format import HEADER, IN_USE, IN_USE_OFFSET, parse_header

if TYPE_CHECKING:
    from pyhyve.image.contract import OpenRequest


class ParallelsImage(AllocatingImage):
    """Parallels expandable image."""

    format_name = "parallels"

    def __init__(self, request: OpenRequest) -> None:
        super().__init__(request)
        self.header = parse_header(self.storage.pread(HEADER.size, 0), self.storage.size_bytes)
        if self.header.ext_off and request.writable:
            msg = "this Parallels image has a format extension (dirty bitmaps), which writing would make wrong"
            raise ImageUnsupportedError(msg)
        self._cluster = self.header.cluster_size
        self._unit = self.header.entry_unit
        self._table = EntryTable(self.storage, HEADER.size, self.header.nb_bat_entries, 4)

    @property
    def size_bytes(self) -> int:
        """Virtual size."""
        return self.header.nb_sectors * 512

    @property
    def dirty(self) -> None:
        """Not told, as by QEMU."""

    def _locate(self, offset: int, length: int) -> Run:
        index, inside = divmod(offset, self._cluster)
        limit = -(-(inside + length) // self._cluster)
        entry = self._table[index]
        if not entry:
            count = self._table.run_length(index, limit, 0)
            return Run(min(length, count * self._cluster - inside), LayerState.UNALLOCATED)
        host = entry * self._unit + inside
        if host >= self.storage.size_bytes:
            msg = f"Parallels cluster {index} lies outside the file"
            raise ImageFormatError(msg)
        count = self._table.run_length(index, limit, self._cluster // self._unit)
        return Run(min(length, count * self._cluster - inside), LayerState.DATA, self.storage, host)

    def _first_change(self) -> None:
        self.storage.pwrite(IN_USE.to_bytes(4, "little"), IN_USE_OFFSET)

    def _append(self, view: memoryview, offset: int) -> int:
        index, inside = divmod(offset, self._cluster)
        count = self._table.run_length(index, -(-(inside + len(view)) // self._cluster), 0)
        done = min(len(view), count * self._cluster - inside)
        count = -(-(inside + done) // self._cluster)
        data_start = max(self.header.data_off * 512, HEADER.size + self.header.nb_bat_entries * 4)
        place = -(-max(self.storage.size_bytes, data_start) // self._unit)
        if place + count * (self._cluster // self._unit) > 0xFFFFFFFF:
            msg = "the Parallels image file is as large as it can be"
            raise ImageError(msg)
        self.storage.truncate(place * self._unit + count * self._cluster)
        self.storage.pwrite(view[:done], place * self._unit + inside)
        self._table.fill(index, place, count, self._cluster // self._unit)
        if self._table.wants_write_back:
            self._write_back()
        return done

    def _write_back(self) -> None:
        self.storage.flush()
        if self._table.is_dirty:
            self._table.write_back()
            self.storage.flush()

    def close(self) -> None:
        """Flush, take back the in-use flag and close."""
        if not self._closed and self._changed:
            self.flush()
            self.storage.pwrite(bytes(4), IN_USE_OFFSET)
        super().close()

    def check(self, *, fix_leaks: bool = False, fix_errors: bool = False) -> CheckResult:
        """Clusters inside the file and used once; what lies behind the last one is leaked."""
        fix_leaks = fix_leaks and not self.readonly
        fix_errors = fix_errors and not self.readonly
        result = CheckResult(total_clusters=self.header.nb_bat_entries)
        if self.header.in_use:
            result.errors.append("ERROR image was not closed correctly")
            if fix_errors:
                self.storage.pwrite(bytes(4), IN_USE_OFFSET)
                result.corruptions_fixed += 1
            else:
                result.corruptions += 1
        size = self.storage.size_bytes
        previous = highest = index = 0
        seen: set[int] = set()
        for page in self._table.pages():
            if page.count(0) == len(page):
                index, previous = index + len(page), 0
                continue
            for entry in page:
                index += 1
                if not entry:
                    previous = 0
                    continue
                offset = entry * self._unit
                if offset >= size or offset in seen:
                    what = "is outside image" if offset >= size else "is used twice"
                    result.errors.append(f"ERROR cluster {index - 1} {what}")
                    if fix_errors and offset >= size:
                        self._table[index - 1] = 0
                        result.corruptions_fixed += 1
                    else:
                        result.corruptions += 1
                    previous = 0
                    continue
                seen.add(offset)
                highest = max(highest, offset)
                result.allocated_clusters += 1
                result.fragmented_clusters += bool(previous) and previous + self._cluster != offset
                previous = offset
        self._write_back_fixes()
        result.image_end_offset = highest + self._cluster if highest else self.header.data_off * 512
        if size > result.image_end_offset:
            result.leaks = -(-(size - result.image_end_offset) // self._cluster)
            result.leak_messages.append(f"ERROR space leaked at the end of the image {size - result.image_end_offset}")
            if fix_leaks:
                self.storage.truncate(result.image_end_offset)
                result.leaks_fixed, result.leaks = result.leaks, 0
        return result

    def _write_back_fixes(self) -> None:
        if self._table.is_dirty:
            self._write_back()
