"""Cutting a disk into pieces of work and running them on threads.

zlib, zstd, preadv, pwrite and fdatasync run without the GIL, so plain threads use all cores.
"""

from __future__ import annotations

import os
import threading
from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import NamedTuple, TypeVar

    from pyhyve.image.contract import Extent, Image

CHUNK_BYTES = 2 << 20
SMALL_CHUNK_BYTES = 512 << 10
"""Where little is done for each chunk: both buffers of a thread stay in its processor's cache."""
MAP_STEP_BYTES = 1 << 30


if TYPE_CHECKING:
    _T = TypeVar("_T")

    class Piece(NamedTuple):
        """A range of the disk that is all zero or not known to be."""

        offset: int
        length: int
        zero: bool

else:
    Piece = namedtuple("Piece", "offset length zero")  # noqa: PYI024 - `typing` would be felt in short commands


def default_threads(limit: int | None = None) -> int:
    """As many threads as this process may use processors, at least two so that reading and writing overlap."""
    threads = max(2, len(os.sched_getaffinity(0)))
    return threads if limit is None else max(1, min(threads, limit))


def merged_extents(image: Image, start: int = 0, length: int | None = None) -> Iterator[Extent]:
    """`image.map` in bounded steps, with nothing merged."""
    end = image.size_bytes if length is None else start + length
    longest = max(MAP_STEP_BYTES, (end - start) >> 12)  # a disk of exabytes is not walked in gigabytes
    while start < end:
        step = min(longest, end - start)
        yield from image.map(start, step)
        start += step


def pieces(image: Image, chunk_bytes: int = CHUNK_BYTES, alignment: int = 1) -> Iterator[Piece]:
    """The disk as zero runs of any length and other runs of at most `chunk_bytes`.

    Cuts are multiples of `alignment` (a power of two up to `chunk_bytes`): a unit that is zero only in part belongs to
    a piece that is read.
    """
    mask = alignment - 1
    end = image.size_bytes
    data_start, data_end = 0, 0  # pending data run, aligned
    for extent in merged_extents(image):
        if extent.zero:
            continue
        low = extent.start & ~mask
        high = min(end, (extent.end + mask) & ~mask)
        if low <= data_end and data_end > data_start:
            data_end = max(data_end, high)
        else:
            if low > data_end:
                yield from _cut(data_start, data_end, chunk_bytes)
                yield Piece(data_end, low - data_end, zero=True)
            data_start, data_end = low, high
        while data_end - data_start >= 2 * chunk_bytes:
            stop = (data_start + chunk_bytes) & ~(chunk_bytes - 1)
            yield Piece(data_start, stop - data_start, zero=False)
            data_start = stop
    yield from _cut(data_start, data_end, chunk_bytes)
    if data_end < end:
        yield Piece(data_end, end - data_end, zero=True)


def _cut(start: int, end: int, chunk_bytes: int) -> Iterator[Piece]:
    while start < end:
        stop = min(end, (start + chunk_bytes) & ~(chunk_bytes - 1))
        yield Piece(start, stop - start, zero=False)
        start = stop


class Zeroes:
    """Fast tests for zero bytes: `bytearray == buffer` is one memcmp."""

    def __init__(self, size_bytes: int = CHUNK_BYTES) -> None:
        self._zeroes = bytearray(size_bytes)
        self._by_size: dict[int, bytearray] = {}

    def _of(self, length: int) -> bytearray:
        found = self._by_size.get(length)
        if found is None:
            if len(self._by_size) > 64:
                self._by_size.clear()
            found = self._by_size[length] = bytearray(length)
        return found

    def is_zero(self, view: memoryview) -> bool:
        """Whether all of `view` is zero."""
        return self._of(len(view)) == view

    def runs(self, view: memoryview, unit: int) -> Iterator[tuple[int, int, bool]]:
        """`(start, end, zero)` over `view` in units of `unit` bytes, equal neighbours merged."""
        length = len(view)
        if self.is_zero(view):
            yield 0, length, True
            return
        zero_unit = self._of(unit)
        start, state = 0, False
        for at in range(0, length, unit):
            part = view[at : at + unit]
            zero = (zero_unit if len(part) == unit else self._of(len(part))) == part
            if at == 0:
                state = zero
            elif zero is not state:
                yield start, at, state
                start, state = at, zero
        yield start, length, state


class Turnstile:
    """Lets numbered pieces of work pass in order."""

    def __init__(self) -> None:
        self._turn = 0
        self._failed = False
        self._condition = threading.Condition()

    def wait(self, number: int) -> bool:
        """Wait for the turn of `number`; False when an earlier piece failed."""
        with self._condition:
            while self._turn != number and not self._failed:
                self._condition.wait()
            return not self._failed

    def done(self, number: int, *, failed: bool = False) -> None:
        """Piece `number` is finished: the next may pass."""
        with self._condition:
            self._turn = number + 1
            self._failed = self._failed or failed
            self._condition.notify_all()


def run_parallel(items: Iterable[_T], work: Callable[[_T], None], threads: int) -> None:
    """Call `work(item)` for every item on `threads` threads; the first exception ends all and is raised here."""
    iterator = iter(items)
    lock = threading.Lock()
    failures: list[BaseException] = []

    def loop() -> None:
        while not failures:
            try:
                with lock:
                    item = next(iterator, None)
                if item is None:
                    return
                work(item)
            except BaseException as error:  # noqa: BLE001 - raised again by the caller's thread
                failures.append(error)
                return

    workers = [threading.Thread(target=loop, daemon=True) for _ in range(threads - 1)]
    for worker in workers:
        worker.start()
    try:
        loop()
    except BaseException as error:
        failures.append(error)
        raise
    finally:
        for worker in workers:
            worker.join()
    if failures:
        raise failures[0]
