"""Cutting a disk into pieces of work and running them on threads.

zlib, zstd, preadv, pwrite and fdatasync run without the GIL, so plain threads use all cores.
"""

from __future__ import annotations

import _thread
import os

from pyhyve.support.conditions import Condition
from pyhyve.support.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import TypeVar

    from pyhyve.image.contract import Extent, Image

    _T = TypeVar("_T")

CHUNK_BYTES = 2 << 20
SMALL_CHUNK_BYTES = 512 << 10
"""For comparing: both buffers of a thread stay in its processor's cache."""
MAP_STEP_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of the disk that is all zero or not known to be."""

    offset: int
    length: int
    zero: bool


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
        """`(start, end, zero)` over `view` in units of `unit` bytes (a multiple of 8), equal neighbours merged."""
        if self.is_zero(view):
            yield 0, len(view), True
            return
        zero_start = zero_end = 0
        for at in self._zero_units(view, unit):
            if at != zero_end:
                if zero_start < zero_end:
                    yield zero_start, zero_end, True
                yield zero_end, at, False
                zero_start = at
            zero_end = min(at + unit, len(view))
        if zero_start < zero_end:
            yield zero_start, zero_end, True
        if zero_end < len(view):
            yield zero_end, len(view), False

    def _zero_units(self, view: memoryview, unit: int) -> Iterator[int]:
        """Where units that are all zero start. Most others show that in their first word: those are not compared."""
        whole = len(view) - len(view) % unit
        words = view[:whole].cast("Q")[:: unit // 8].tolist()
        zero_unit, at = self._of(unit), -1
        for _ in range(words.count(0)):
            at = words.index(0, at + 1)
            if zero_unit == view[at * unit : (at + 1) * unit]:
                yield at * unit
        if whole < len(view) and self.is_zero(view[whole:]):
            yield whole


class Outlet:
    """Where threads hand in numbered pieces to be written, one after another.

    The kernel lets one thread at a time write to a file, and to wake a thread takes about as long as to write a piece.
    So nobody waits for a turn: who hands in a piece while another thread writes leaves it there and goes on to its next
    one, and the thread that writes takes all that is ready. Only who is far ahead waits: no more than `room` pieces
    and one of each thread are held.
    """

    def __init__(self, room: int, *, in_order: bool = True) -> None:
        self._room, self._in_order = room, in_order
        self._ready: dict[int, Callable[[], None]] = {}
        self._next = 0
        self._writing = self._stopped = False
        self._changed = Condition()

    def put(self, number: int, write: Callable[[], None]) -> None:
        """Hand in piece `number`, counted from 0; `write` is called now, or later on another thread.

        What it raises is raised on the thread that called it, which has to see to it that `stop` is called.
        """
        with self._changed:
            self._ready[number] = write
            while not self._stopped and (self._writing or not self._has_next()):
                if len(self._ready) <= self._room:
                    return
                self._changed.wait()
            if self._stopped:
                return
            self._writing = True
        self._write_ready()

    def stop(self) -> None:
        """After a failure: nothing more is written, and nobody waits any longer."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _has_next(self) -> bool:
        return self._next in self._ready if self._in_order else bool(self._ready)

    def _write_ready(self) -> None:
        while True:
            with self._changed:
                if self._stopped or not self._has_next():
                    self._writing = False
                    return
                write = self._ready.pop(self._next if self._in_order else next(iter(self._ready)))
                self._next += 1
                if len(self._ready) <= self._room // 2:  # not for each piece: see above
                    self._changed.notify_all()
            write()


def run_parallel(
    items: Iterable[_T], work: Callable[[_T], None], threads: int, stop: Callable[[], None] | None = None
) -> None:
    """Call `work(item)` for every item on `threads` threads; the first exception ends all and is raised here.

    `stop` is called after an exception, on any thread: it must let calls of `work` end that wait for others.
    """
    iterator = iter(items)
    lock = _thread.allocate_lock()
    failures: list[BaseException] = []

    def fail(error: BaseException) -> None:
        failures.append(error)
        if stop is not None:
            stop()

    def loop() -> None:
        while not failures:
            try:
                with lock:
                    item = next(iterator, None)
                if item is None:
                    return
                work(item)
            except BaseException as error:  # noqa: BLE001 - raised again by the caller's thread
                fail(error)
                return

    def worker(ended: _thread.LockType) -> None:
        try:
            loop()
        finally:
            ended.release()

    running: list[_thread.LockType] = []
    try:
        for _ in range(threads - 1):
            ended = _thread.allocate_lock()
            ended.acquire()
            _thread.start_new_thread(worker, (ended,))  # `threading` would be felt in short conversions
            running.append(ended)
        loop()
    except BaseException as error:
        fail(error)
        raise
    finally:
        for ended in running:
            ended.acquire()
    if failures:
        raise failures[0]
