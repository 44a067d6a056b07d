"""Between a disk and its image while a job copies it: writes of the guest and copies of the job do not overlap."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pyhyve.backends.block import BlockBackend

GRANULARITY_BYTES = 65536


class RangeLock:
    """Ranges of bytes that somebody works on; who wants one that overlaps waits."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held: list[tuple[int, int]] = []

    @contextmanager
    def hold(self, start: int, length: int) -> Iterator[None]:
        """Work on `[start, start + length)` alone."""
        mine = (start, start + length)
        with self._changed:
            while any(start < end and first < start + length for first, end in self._held):
                self._changed.wait()
            self._held.append(mine)
        try:
            yield
        finally:
            with self._changed:
                self._held.remove(mine)
                self._changed.notify_all()


class DirtyChunks:
    """Which chunks of a disk were written since they were copied."""

    def __init__(self) -> None:
        self._chunks: set[int] = set()
        self._lock = threading.Lock()

    def mark(self, start: int, length: int) -> None:
        """`[start, start + length)` was written."""
        with self._lock:
            self._chunks.update(range(start // GRANULARITY_BYTES, -(-(start + length) // GRANULARITY_BYTES)))

    def take(self) -> int | None:
        """Remove and return the start of a chunk; None when there is none."""
        with self._lock:
            return self._chunks.pop() * GRANULARITY_BYTES if self._chunks else None

    def __len__(self) -> int:
        return len(self._chunks)


class TrackedBackend:
    """A backend whose writes are told to a job: `before` they happen, and `after`, both with the range held."""

    def __init__(
        self,
        inner: BlockBackend,
        ranges: RangeLock,
        *,
        before: Callable[[int, int], None] | None = None,
        after: Callable[[int, int], None] | None = None,
    ) -> None:
        """`before` may raise BlockError, which fails the write."""
        self.inner = inner
        self.readonly = inner.readonly
        self._ranges = ranges
        self._before = before
        self._after = after

    @property
    def size_bytes(self) -> int:
        """Size of the disk."""
        return self.inner.size_bytes

    @contextmanager
    def _changing(self, offset: int, length: int) -> Iterator[None]:
        start = offset // GRANULARITY_BYTES * GRANULARITY_BYTES
        end = -(-(offset + length) // GRANULARITY_BYTES) * GRANULARITY_BYTES
        with self._ranges.hold(start, end - start):
            if self._before is not None:
                self._before(start, end - start)
            yield
            if self._after is not None:
                self._after(offset, length)

    def try_read(self, views: Sequence[memoryview], offset: int, length: int) -> bool:
        """As the disk."""
        return self.inner.try_read(views, offset, length)

    def read(self, views: Sequence[memoryview], offset: int) -> None:
        """As the disk."""
        self.inner.read(views, offset)

    def write(self, views: Sequence[memoryview], offset: int) -> None:
        """Write, and tell."""
        with self._changing(offset, sum(map(len, views))):
            self.inner.write(views, offset)

    def flush(self) -> None:
        """As the disk."""
        self.inner.flush()

    def discard(self, offset: int, length: int) -> None:
        """Discard, and tell."""
        with self._changing(offset, length):
            self.inner.discard(offset, length)

    def write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        """Write zeroes, and tell."""
        with self._changing(offset, length):
            self.inner.write_zeroes(offset, length, unmap=unmap)

    def close(self) -> None:
        """As the disk."""
        self.inner.close()
