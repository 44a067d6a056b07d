"""What a block device reads and writes: images, with a path for raw files that needs no Python copy and no waiting.

Requests carry views of guest memory and go to `preadv`/`pwritev` as they are.
"""

from __future__ import annotations

import errno
import os
import queue
import threading
from typing import TYPE_CHECKING, Protocol

from pyhyve.image.contract import SECTOR_SIZE_BYTES, ImageError
from pyhyve.support.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyhyve.image.contract import Image

_IOV_MAX = 1024
_POOL_THREADS = 4


class BlockError(Exception):
    """A request could not be carried out. `code` is an errno; the text is one line for the log."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class BlockBackend(Protocol):
    """A disk's contents. Offsets and lengths in bytes, inside the disk. Any thread, several at once.

    Every method raises BlockError when the host cannot do it.
    """

    @property
    def size_bytes(self) -> int:
        """Size of the disk."""

    @property
    def readonly(self) -> bool:
        """Whether writes are refused."""

    def try_read(self, views: Sequence[memoryview], offset: int, length: int) -> bool:
        """Read without waiting for the disk; False when that is not possible (nothing useful was read)."""

    def read(self, views: Sequence[memoryview], offset: int) -> None:
        """Fill `views` from consecutive bytes."""

    def write(self, views: Sequence[memoryview], offset: int) -> None:
        """Store `views` at consecutive bytes."""

    def flush(self) -> None:
        """Return when completed writes are on stable storage."""

    def discard(self, offset: int, length: int) -> None:
        """The guest no longer needs these bytes."""

    def write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        """Make these bytes read as zero; `unmap` allows giving their space back."""

    def close(self) -> None:
        """Flush and release; idempotent."""


@dataclass(slots=True)
class BlockStatistics:
    """What a disk's requests added up to; the names are QEMU's (`BlockDeviceStats`)."""

    rd_bytes: int = 0
    wr_bytes: int = 0
    unmap_bytes: int = 0
    rd_operations: int = 0
    wr_operations: int = 0
    flush_operations: int = 0
    unmap_operations: int = 0
    rd_total_time_ns: int = 0
    wr_total_time_ns: int = 0
    flush_total_time_ns: int = 0
    unmap_total_time_ns: int = 0
    wr_highest_offset: int = 0
    failed_rd_operations: int = 0
    failed_wr_operations: int = 0
    failed_flush_operations: int = 0
    failed_unmap_operations: int = 0
    invalid_rd_operations: int = 0
    invalid_wr_operations: int = 0


class ImageBlock:
    """A disk in any image format. Owns the image, unless told otherwise."""

    def __init__(self, image: Image, *, owns: bool = True, discards: bool = True) -> None:
        """`discards` tells whether the guest's discards reach the image."""
        self._image = image
        self._closed = False
        self._owns = owns
        self._discards = discards

    @property
    def image(self) -> Image:
        """The image behind it, to look at."""
        return self._image

    @property
    def size_bytes(self) -> int:
        """Virtual size, in whole sectors: a trailing part of one is not reachable."""
        return self._image.size_bytes & ~511

    @property
    def readonly(self) -> bool:
        """Whether the image was opened for reading."""
        return self._image.readonly

    def try_read(self, views: Sequence[memoryview], offset: int, length: int) -> bool:
        """An image may have to wait for metadata: never."""
        return False

    def read(self, views: Sequence[memoryview], offset: int) -> None:
        """Read through the image's chain."""
        self._call(lambda: self._image.preadv(views, offset))

    def write(self, views: Sequence[memoryview], offset: int) -> None:
        """Write into the image."""
        self._call(lambda: self._image.pwritev(views, offset))

    def flush(self) -> None:
        """Flush data and metadata."""
        self._call(self._image.flush)

    def discard(self, offset: int, length: int) -> None:
        """Discard in the image."""
        if self._discards:
            self._call(lambda: self._image.discard(offset, length))

    def write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        """Write zeroes in the image."""
        self._call(lambda: self._image.write_zeroes(offset, length, unmap=unmap))

    def close(self) -> None:
        """Close the image."""
        if not self._closed:
            self._closed = True
            if self._owns:
                self._image.close()
            elif not self._image.readonly:
                self.flush()

    def _call(self, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            raise BlockError(error.errno or errno.EIO, str(error)) from error
        except (ImageError, MemoryError) as error:
            raise BlockError(errno.EIO, str(error) or type(error).__name__) from error


class RawFileBlock(ImageBlock):
    """A raw image in a file or block device: reads and writes go straight to the descriptor.

    Hot path: a cached read is one `preadv2` with RWF_NOWAIT on the caller's thread.
    """

    def __init__(self, image: Image, fd: int, start: int, *, owns: bool = True, discards: bool = True) -> None:
        """Use `image`, whose bytes are those of `fd` from `start` on."""
        super().__init__(image, owns=owns, discards=discards)
        self._fd = fd
        self._start = start
        self._nowait = hasattr(os, "RWF_NOWAIT")

    @property
    def direct(self) -> tuple[int, int, bool]:
        """The descriptor, where in it the disk begins, and whether RWF_NOWAIT works: for who reads and writes past us.

        The first sector is not to be written so.
        """
        return self._fd, self._start, self._nowait

    def try_read(self, views: Sequence[memoryview], offset: int, length: int) -> bool:
        """Read what the page cache holds."""
        if not self._nowait or len(views) > _IOV_MAX:
            return False
        try:
            return os.preadv(self._fd, views, offset + self._start, os.RWF_NOWAIT) == length
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in {errno.EOPNOTSUPP, errno.EINVAL}:
                self._nowait = False
            return False

    def write(self, views: Sequence[memoryview], offset: int) -> None:
        """Write into the page cache, or to the device. The first sector goes through the image, which may guard it."""
        if self.readonly or len(views) > _IOV_MAX or offset < SECTOR_SIZE_BYTES:
            super().write(views, offset)
            return
        try:
            done = os.pwritev(self._fd, views, offset + self._start)
        except OSError as error:
            raise BlockError(error.errno or errno.EIO, str(error)) from error
        if done != sum(map(len, views)):
            # A full disk or a signal: the image's loop finishes the rest or reports why it cannot.
            super().write(views, offset)


def open_backend(image: Image, *, owns: bool = True, discards: bool = True) -> BlockBackend:
    """The fastest backend for an open image; takes it over if it `owns` it."""
    storage = image.storage
    direct = getattr(storage, "is_direct", False)  # guests need not align what they ask for: the storage does
    plain = image.format_name == "raw" and image.backing is None and not direct
    if plain and storage.fd is not None and image.size_bytes:
        first = next(image.layer_extents(0, SECTOR_SIZE_BYTES))
        if first.offset is not None:
            return RawFileBlock(image, storage.fd, first.offset, owns=owns, discards=discards)
    return ImageBlock(image, owns=owns, discards=discards)


class BlockPool:
    """A few threads for requests that wait: cold reads, flushes, discards. Started when first needed."""

    def __init__(self, threads: int = _POOL_THREADS, name: str = "disk") -> None:
        self._name = name
        self._limit = threads
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._idle = 0
        self._closed = False

    def submit(self, job: Callable[[], None]) -> None:
        """Run `job` on a thread of the pool. It must not raise."""
        with self._lock:
            if self._idle:
                self._idle -= 1
            elif len(self._threads) < self._limit and not self._closed:
                thread = threading.Thread(
                    target=self._work, name=f"pyhyve-{self._name}-{len(self._threads)}", daemon=True
                )
                self._threads.append(thread)
                thread.start()
        self._jobs.put(job)

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            job()
            with self._lock:
                if self._jobs.empty():
                    self._idle += 1

    def close(self) -> None:
        """Finish what was submitted and end the threads; idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
