"""A CD-ROM drive with its disc, behind any transport."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pyhyve.backends.block import BlockStatistics
from pyhyve.devices.scsi.cdrom import Cdrom, Result

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pyhyve.backends.block import BlockBackend


class DiscDrive:
    """The drive's command set, with what holds the disc's contents. Whoever owns it is its transport."""

    def __init__(self, backend: BlockBackend | None) -> None:
        """None: the drive is empty."""
        self.drive = Cdrom(None if backend is None else backend.size_bytes)
        self.disc = backend
        self.statistics = BlockStatistics()
        self._lock = threading.Lock()

    @property
    def backend(self) -> BlockBackend:
        """What holds the disc's contents. Raises ValueError while the drive is empty."""
        if self.disc is None:
            msg = "the drive is empty"
            raise ValueError(msg)
        return self.disc

    @contextmanager
    def drained(self) -> Iterator[None]:
        """No request is under way inside the block."""
        with self._lock:
            yield

    def use_backend(self, backend: BlockBackend) -> None:
        """Read another disc from now on; only while drained."""
        self.disc = backend
        self.drive.insert(backend.size_bytes)

    def remove_backend(self) -> None:
        """The drive is empty from now on; only while drained."""
        self.disc = None
        self.drive.remove()

    def resize(self) -> None:
        """The disc's size changed."""
        if self.disc is not None:
            self.drive.insert(self.disc.size_bytes)

    def execute(self, cdb: bytes) -> Result:
        """Carry out a command; what is to be read is left to `read`."""
        return self.drive.execute(cdb)

    def try_read(self, views: Sequence[memoryview], offset: int, length: int) -> bool:
        """As `read`, without waiting; False when that is not possible."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            disc = self.disc
            if disc is None or offset + length > disc.size_bytes or not disc.try_read(views, offset, length):
                return False
            self.statistics.rd_operations += 1
            self.statistics.rd_bytes += length
            return True
        finally:
            self._lock.release()

    def read(self, views: Sequence[memoryview], offset: int, length: int) -> None:
        """Fill `views` with bytes of the disc; past its file's end, to the block's, are zeroes. Raises BlockError."""
        with self._lock:
            disc = self.disc
            there = 0 if disc is None else max(min(length, disc.size_bytes - offset), 0)
            if disc is not None and there == length:
                disc.read(views, offset)
            else:
                padded = bytearray(length)
                if disc is not None and there:
                    disc.read([memoryview(padded)[:there]], offset)
                done = 0
                for view in views:
                    view[:] = padded[done : done + len(view)]
                    done += len(view)
            self.statistics.rd_operations += 1
            self.statistics.rd_bytes += length
