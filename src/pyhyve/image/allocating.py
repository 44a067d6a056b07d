"""What formats that map blocks of the disk to places in files have in common: walking runs, holes, barriers.

A format says where a range lies (`_locate`), stores what has no place yet (`_append`) and writes its tables
(`_write_back`); everything else of the contract follows.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from typing import TYPE_CHECKING, NamedTuple

from pyhyve.image.contract import Image, ImageFormatError, LayerExtent, LayerState

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pyhyve.image.contract import OpenRequest
    from pyhyve.image.storage import Storage

_ZERO_STEP_BYTES = 1 << 20


class Run(NamedTuple):
    """A range in one state. DATA lies at `host` of `storage`, or is packed (`storage` None, `host` names the unit)."""

    length: int
    state: LayerState
    storage: Storage | None = None
    host: int = 0


class AllocatingImage(Image):
    """Base of block-mapped formats. `_locate`, `_append` and `_write_back` are called with the lock held."""

    def __init__(self, request: OpenRequest) -> None:
        self.storage = request.storage
        self.readonly = not request.writable
        self._lock = threading.RLock()
        self._closed = False
        self._changed = False

    @abstractmethod
    def _locate(self, offset: int, length: int) -> Run:
        """The run at `offset`, at least 1 and at most `length` bytes long."""

    @abstractmethod
    def _append(self, view: memoryview, offset: int) -> int:
        """Store the start of `view` where no plain DATA is yet; returns how many bytes were stored (at least 1)."""

    def _read_packed(self, run: Run, part: memoryview, offset: int) -> None:
        """Fill `part` from a packed run; only formats whose `_locate` gives such runs have this."""
        msg = f"format '{self.format_name}' has no packed data, yet its table names some"
        raise ImageFormatError(msg)

    def _write_back(self) -> None:
        """Data, then tables, each followed by a barrier."""
        self.storage.flush()

    def _first_change(self) -> None:
        """Called once, with the lock held, before the first write of any kind: marks in headers that data changed."""

    def _start_change(self, offset: int, length: int) -> None:
        """Check a write, and announce the first one."""
        self.check_writable()
        self.check_range(offset, length)
        if not self._changed:
            with self._lock:
                if not self._changed:
                    self._first_change()
                    self._changed = True

    def _storages(self) -> Sequence[Storage]:
        """All files of the image."""
        return (self.storage,)

    # --- reading ---

    def pread_into(self, buffer: memoryview, offset: int) -> None:
        """Read through the chain."""
        self.check_range(offset, len(buffer))
        while buffer:
            with self._lock:
                run = self._locate(offset, len(buffer))
            part = buffer[: run.length]
            if run.state is LayerState.UNALLOCATED:
                self.read_backing(part, offset)
            elif run.state is LayerState.ZERO:
                part[:] = bytes(len(part))
            elif run.storage is not None:
                run.storage.pread_into(part, run.host)
            else:
                self._read_packed(run, part, offset)
            buffer = buffer[run.length :]
            offset += run.length

    def preadv(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Read; one host run is one preadv."""
        length = sum(map(len, buffers))
        self.check_range(offset, length)
        if not length:
            return
        with self._lock:
            run = self._locate(offset, length)
        if run.storage is not None and run.state is LayerState.DATA and run.length == length:
            run.storage.preadv(buffers, run.host)
        else:
            super().preadv(buffers, offset)

    def layer_extents(self, start: int, length: int) -> Iterator[LayerExtent]:
        """Runs of this layer."""
        self.check_range(start, length)
        while length > 0:
            with self._lock:
                run = self._locate(start, length)
            yield from self._describe(run, start)
            start += run.length
            length -= run.length

    def _describe(self, run: Run, start: int) -> Iterator[LayerExtent]:
        """A run as extents; formats with preallocated space report holes of the file by `_with_holes`."""
        if run.state is LayerState.DATA and run.storage is not None:
            yield LayerExtent(start, run.length, run.state, run.host, run.storage.filename)
        else:
            yield LayerExtent(start, run.length, run.state, compressed=run.state is LayerState.DATA)

    @staticmethod
    def _with_holes(run: Run, start: int) -> Iterator[LayerExtent]:
        if run.storage is None:
            return
        for at, length, has_data in run.storage.extents(run.host, run.length):
            inside = at - run.host
            yield LayerExtent(
                start + inside, length, LayerState.DATA, at, run.storage.filename, zero=not has_data
            )  # fmt: skip

    # --- writing ---

    def pwrite(self, buffer: bytes | bytearray | memoryview, offset: int) -> None:
        """Write in place, or to new space."""
        view = memoryview(buffer).cast("B")
        self._start_change(offset, len(view))
        while view:
            with self._lock:
                run = self._locate(offset, len(view))
                if run.storage is None or run.state is not LayerState.DATA:
                    done = self._append(view[: run.length], offset)
                    view, offset = view[done:], offset + done
                    continue
            run.storage.pwrite(view[: run.length], run.host)
            view, offset = view[run.length :], offset + run.length

    def pwritev(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Write; one host run is one pwritev."""
        length = sum(map(len, buffers))
        self._start_change(offset, length)
        if not length:
            return
        with self._lock:
            run = self._locate(offset, length)
        if run.storage is not None and run.state is LayerState.DATA and run.length == length:
            run.storage.pwritev(buffers, run.host)
        else:
            super().pwritev(buffers, offset)

    def write_zeroes(self, offset: int, length: int, *, unmap: bool = True) -> None:
        """Zero what holds data; what has no space already reads as zero or is written."""
        self._start_change(offset, length)
        while length > 0:
            with self._lock:
                run = self._locate(offset, length)
                below = self.backing is not None and offset < self.backing.size_bytes
                if run.state is LayerState.DATA and run.storage is not None:
                    run.storage.write_zeroes(run.host, run.length, unmap=unmap)
                    done = run.length
                elif run.state is LayerState.DATA or (run.state is LayerState.UNALLOCATED and below):
                    done = self._append_zeroes(offset, run.length)
                else:
                    done = run.length
            offset += done
            length -= done

    def _append_zeroes(self, offset: int, length: int) -> int:
        """Make the start of a packed or backed run read as zero; returns how much."""
        return self._append(memoryview(bytes(min(length, _ZERO_STEP_BYTES))), offset)

    def discard(self, offset: int, length: int) -> None:
        """Give back the space of stored data as holes; it then reads as zero."""
        self._start_change(offset, length)
        while length > 0:
            with self._lock:
                run = self._locate(offset, length)
            if run.state is LayerState.DATA and run.storage is not None:
                run.storage.discard(run.host, run.length)
            offset += run.length
            length -= run.length

    def flush(self) -> None:
        """Data, then what refers to it."""
        if not self.readonly:
            with self._lock:
                self._write_back()

    def disk_usage_bytes(self) -> int | None:
        """Space of all files of the image."""
        total = 0
        for storage in self._storages():
            used = storage.disk_usage_bytes()
            if used is None:
                return None
            total += used
        return total

    def close(self) -> None:
        """Flush and close the chain."""
        if self._closed:
            return
        self._closed = True
        try:
            self.flush()
        finally:
            for storage in self._storages():
                storage.close()
            if self.backing is not None:
                self.backing.close()
