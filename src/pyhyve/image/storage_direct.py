"""A file without the page cache (O_DIRECT), for the cache modes `none` and `directsync`.

The kernel wants aligned offsets, lengths and memory. Requests that have them go straight through; others go through an
aligned buffer, and writes of parts of blocks read the rest of them first. Such a read-modify-write excludes all writes
to the same blocks meanwhile, so that no byte of another request is put back.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pyhyve.image.contract import ImageError
from pyhyve.image.storage import MAX_OFFSET, FileStorage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pyhyve.image.storage import Buffer

BOUNCE_BYTES = 1 << 20
_LARGEST_ALIGNMENT_BYTES = 4096
_IOV_MAX = 1024


def aligned_buffer(length: int) -> memoryview:
    """Zeroed memory that begins at a page."""
    return memoryview(mmap.mmap(-1, max(length, 1)))[:length]


class DirectFileStorage(FileStorage):
    """A regular file or block device opened with O_DIRECT; every method takes any offset, length and buffer."""

    is_direct = True
    longest_write_bytes = 1 << 30  # no page cache is taken

    def __init__(self, fd: int, filename: str, *, writable: bool, cache: str = "none") -> None:
        super().__init__(fd, filename, writable=writable, cache=cache)
        self._changed = threading.Condition()
        self._writes: list[tuple[int, int, bool]] = []
        self._local = threading.local()
        self.alignment_bytes = self._find_alignment()

    def _find_alignment(self) -> int:
        """The smallest block that can be read; a file with nothing in it tells nothing."""
        buffer = aligned_buffer(_LARGEST_ALIGNMENT_BYTES)
        if not self.size_bytes:
            return _LARGEST_ALIGNMENT_BYTES
        alignment = 512
        while alignment <= _LARGEST_ALIGNMENT_BYTES:
            try:
                # Behind a first block too: the end of a short file can be read at any length.
                os.preadv(self.fd, (buffer[:alignment],), 0)
                os.preadv(self.fd, (buffer[:alignment],), alignment)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                alignment *= 2
            else:
                return alignment
        msg = f"Could not open '{self.filename}': no alignment found that O_DIRECT accepts"
        raise ImageError(msg)

    def _bounce(self) -> memoryview:
        buffer: memoryview | None = getattr(self._local, "buffer", None)
        if buffer is None:
            buffer = self._local.buffer = aligned_buffer(BOUNCE_BYTES)
        return buffer

    def _is_aligned(self, buffers: Sequence[Buffer], offset: int) -> bool:
        mask = self.alignment_bytes - 1
        return not offset & mask and not any(len(buffer) & mask for buffer in buffers)

    # --- reading ---

    def preadv(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Fill several buffers; zero past the end."""
        if self._is_aligned(buffers, offset):
            try:
                super().preadv(buffers, offset)
            except OSError as error:
                if error.errno != errno.EINVAL:  # else the memory is not aligned
                    raise
            else:
                return
        for view in buffers:
            self._read_bounced(view, offset)
            offset += len(view)

    def _read_bounced(self, view: memoryview, offset: int) -> None:
        bounce, mask = self._bounce(), self.alignment_bytes - 1
        done = 0
        while done < len(view):
            start = (offset + done) & ~mask
            skip = offset + done - start
            step = min(len(view) - done, len(bounce) - skip)
            part = bounce[: (skip + step + mask) & ~mask]
            self._read_whole(part, start)
            view[done : done + step] = part[skip : skip + step]
            done += step

    def _read_whole(self, part: memoryview, start: int) -> None:
        """Aligned bytes into aligned memory; the end of the file may lie in a block."""
        done, mask = 0, self.alignment_bytes - 1
        while done < len(part):
            count = os.preadv(self.fd, (part[done:],), start + done)
            done += count
            if not count or count & mask:
                break
        if done < len(part):
            part[done:] = bytes(len(part) - done)

    def pread(self, length: int, offset: int) -> bytes:
        """Bytes, fewer at the end of the file."""
        length = max(0, min(length, self.size_bytes - offset))
        if offset > MAX_OFFSET or not length:
            return b""
        data = bytearray(length)
        self._read_bounced(memoryview(data), offset)
        return bytes(data)

    # --- writing ---

    def pwrite(self, buffer: Buffer, offset: int) -> None:
        """Store `buffer`."""
        self.pwritev((buffer,), offset)

    def pwritev(self, buffers: Sequence[Buffer], offset: int) -> None:
        """Store several buffers."""
        if self._is_aligned(buffers, offset):
            length = sum(map(len, buffers))
            try:
                with self._claim(offset, offset + length, exclusive=False):
                    super().pwritev(buffers, offset)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
            else:
                return
        for buffer in buffers:
            view = memoryview(buffer).cast("B")
            self._write_bounced(view, offset)
            offset += len(view)

    def _write_bounced(self, view: memoryview, offset: int) -> None:
        bounce, mask = self._bounce(), self.alignment_bytes - 1
        done = 0
        while done < len(view):
            start = (offset + done) & ~mask
            skip = offset + done - start
            step = min(len(view) - done, len(bounce) - skip)
            stop = (skip + step + mask) & ~mask
            end = offset + done + step
            partial = bool(skip or (skip + step) & mask)
            # What ends in a block must not make the file longer than it is asked to be: nothing else may grow it.
            limit = MAX_OFFSET if partial and end > self.size_bytes else start + stop
            with self._claim(start, limit, exclusive=partial):
                size = self.size_bytes
                part = bounce[:stop]
                if skip:
                    self._read_whole(part[: mask + 1], start)
                if (skip + step) & mask and not (skip and stop == mask + 1):
                    self._read_whole(part[stop - mask - 1 :], start + stop - mask - 1)
                part[skip : skip + step] = view[done : done + step]
                super().pwritev((part,), start)
                if start + stop > max(size, end) and not self._is_block:
                    os.ftruncate(self.fd, max(size, end))
            done += step

    @contextmanager
    def _claim(self, start: int, end: int, *, exclusive: bool) -> Iterator[None]:
        """Own a range: a read-modify-write alone, whole blocks beside other whole blocks."""
        claim = (start, end, exclusive)
        with self._changed:
            while any(low < end and start < high and (exclusive or other) for low, high, other in self._writes):
                self._changed.wait()
            self._writes.append(claim)
        try:
            yield
        finally:
            with self._changed:
                self._writes.remove(claim)
                self._changed.notify_all()
