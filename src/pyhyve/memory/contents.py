"""Guest memory as a state holds it: found, checked, written, read back, or mapped from a file and read when needed."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import os
import threading
import time
from typing import TYPE_CHECKING, Any
from zlib import crc32

from pyhyve.memory.guest import HUGE_PAGE_SIZE_BYTES, PAGE_SIZE_BYTES
from pyhyve.state.errors import StateError
from pyhyve.state.format import MAX_PIECE_BYTES, MAX_PIECES, Piece

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pyhyve.memory.guest import GuestMemory, MemoryRegion
    from pyhyve.state.streams import StateSink, StateSource

_GAP_PAGES = 32
"""Zero pages between two others that are kept with them: fewer, longer runs are mapped faster."""
_MAP_FIXED = 0x10
_MAP_NORESERVE = 0x4000
_MREMAP_MAYMOVE, _MREMAP_FIXED = 1, 2
_ANONYMOUS = (mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
_SLICE_BYTES = 32 << 20
"""Guest memory taken over in one go: some 10 ms."""
_SLICE_PAUSE_S = 0.02
_DELAY_S = 1.0
_NICENESS = 10
_MAP_FAILED = ctypes.c_void_p(-1).value
_FALLOC_FL_KEEP_SIZE, _FALLOC_FL_PUNCH_HOLE = 1, 2


@functools.cache
def _libc() -> Any:  # noqa: ANN401 - foreign functions
    libc = ctypes.CDLL(None, use_errno=True)
    size, offset, pointer = ctypes.c_size_t, ctypes.c_int64, ctypes.c_void_p
    libc.memcmp.argtypes = (pointer, pointer, size)
    libc.mmap.argtypes = (pointer, size, ctypes.c_int, ctypes.c_int, ctypes.c_int, offset)
    libc.mmap.restype = pointer
    libc.munmap.argtypes = (pointer, size)
    libc.mremap.argtypes = (pointer, size, size, ctypes.c_int, pointer)
    libc.mremap.restype = pointer
    libc.madvise.argtypes = (pointer, size, ctypes.c_int)
    libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, offset, offset)
    return libc


def is_zero(address: int, size_bytes: int) -> bool:
    """Whether the host memory there is all zero: equal to itself one step further, and zero at its start."""
    libc = _libc()
    if ctypes.c_uint64.from_address(address).value:
        return False
    return bool(libc.memcmp(address, address + 8, size_bytes - 8) == 0)


def find_pieces(memory: GuestMemory) -> list[Piece]:
    """The runs of guest memory that are not zero, with their checksums; nothing may write meanwhile."""
    total = sum(region.size_bytes for region in memory.regions)
    gap = max(_GAP_PAGES, total // MAX_PIECES // PAGE_SIZE_BYTES)
    return [
        Piece(region.gpa + start, end - start, crc32(region.view[start:end]))
        for region in memory.regions
        for start, end in _runs(region, gap)
    ]


def data_ranges(region: MemoryRegion) -> Iterator[tuple[int, int]]:
    """Start and end, within `region`, of what the host has memory for; the rest is zero.

    Of shared memory, that is: reading it where nobody has written would take memory, which it does not elsewhere.
    """
    if region.fd < 0:
        yield 0, region.size_bytes
        return
    at = 0
    while at < region.size_bytes:
        try:
            start = os.lseek(region.fd, at, os.SEEK_DATA)
        except OSError:  # ENXIO: there is no more
            return
        at = min(os.lseek(region.fd, start, os.SEEK_HOLE), region.size_bytes)
        yield start, at


def _runs(region: MemoryRegion, gap_pages: int) -> Iterator[tuple[int, int]]:
    """Start and end, within `region`, of its runs of pages that are not all zero, cut at multiples of 2 MiB."""
    for start, last in data_ranges(region):
        at = start
        while at < last:
            # Cut by guest address: so runs of neighbouring chunks join up.
            end = min(last, at + MAX_PIECE_BYTES - (region.gpa + at) % MAX_PIECE_BYTES)
            if not is_zero(region.hva + at, end - at):
                yield from runs_in_chunk(region.hva, at, end, gap_pages * PAGE_SIZE_BYTES)
            at = end


def runs_in_chunk(hva: int, start: int, end: int, gap_bytes: int) -> Iterator[tuple[int, int]]:
    """Start and end of the runs of pages that are not zero (there are some), with gaps of up to `gap_bytes`."""
    first = last = -1
    for at in range(start, end, PAGE_SIZE_BYTES):
        if is_zero(hva + at, PAGE_SIZE_BYTES):
            continue
        if first >= 0 and at - last > gap_bytes:
            yield first, last
            first = at
        elif first < 0:
            first = at
        last = at + PAGE_SIZE_BYTES
    yield first, last


def write_pieces(memory: GuestMemory, pieces: Sequence[Piece], sink: StateSink) -> None:
    """Append the contents of `pieces`, zero pages as holes. Raises OSError."""
    for piece in pieces:
        region = region_of(memory, piece)
        start = piece.gpa - region.gpa
        for first, last in runs_in_chunk(region.hva, start, start + piece.size_bytes, 0):
            sink.skip_zeros(first - start)
            sink.write(region.view[first:last])
            start = last
        sink.skip_zeros(piece.gpa - region.gpa + piece.size_bytes - start)


def region_of(memory: GuestMemory, piece: Piece) -> MemoryRegion:
    """The region that a piece lies in. Raises StateError when there is none."""
    region = memory.find(piece.gpa)
    if region is None or piece.gpa + piece.size_bytes > region.gpa + region.size_bytes:
        msg = f"the state has memory at {piece.gpa:#x}, where this machine has none"
        raise StateError(msg)
    return region


def check_fit(memory: GuestMemory, pieces: Sequence[Piece]) -> None:
    """Raise StateError when a piece lies outside `memory`."""
    for piece in pieces:
        region_of(memory, piece)


def clear(memory: GuestMemory) -> None:
    """Make all of guest memory zero, giving the host's memory back."""
    for region in memory.regions:
        if region.fd >= 0:
            flags = _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE
            if _libc().fallocate(region.fd, flags, 0, region.size_bytes):
                _fail("clear")
        else:
            _map(region.hva, region.size_bytes, _ANONYMOUS[1], -1, 0)
            _libc().madvise(region.hva, region.size_bytes, mmap.MADV_HUGEPAGE)


def _map(address: int, size_bytes: int, flags: int, fd: int, offset: int) -> None:
    """Replace what is mapped there. Raises MemoryError."""
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    if _libc().mmap(address, size_bytes, protection, flags | _MAP_FIXED, fd, offset) == _MAP_FAILED:
        _fail("map")


def _fail(what: str) -> None:
    msg = f"cannot {what} guest memory: {os.strerror(ctypes.get_errno())}"
    raise MemoryError(msg)


def read_pieces(memory: GuestMemory, pieces: Sequence[Piece], source: StateSource) -> None:
    """Fill `memory`, which is zero, from `source`. Raises StateError when it ends early or is damaged, OSError."""
    for piece in pieces:
        view = memory.view(piece.gpa, piece.size_bytes)
        source.read_into([view])
        if crc32(view) != piece.checksum:
            raise damaged_at(piece)


def damaged_at(piece: Piece) -> StateError:
    """The error for contents that do not fit their checksum."""
    return StateError(f"the state is damaged: memory at {piece.gpa:#x}")


def can_map(memory: GuestMemory, offset: int) -> bool:
    """Whether `map_pieces` can do it: pages are pages of the file, and no other process shares the memory."""
    return offset % mmap.PAGESIZE == 0 and all(region.fd < 0 for region in memory.regions)


def map_pieces(memory: GuestMemory, pieces: Sequence[Piece], fd: int, offset: int) -> None:
    """Let `memory`, which is zero, show the file's contents from `offset` on; pages are read when they are needed.

    What the guest writes stays its own. Raises MemoryError.
    """
    for address, size_bytes, at in file_runs(memory, pieces, offset):
        _map(address, size_bytes, mmap.MAP_PRIVATE | _MAP_NORESERVE, fd, at)


def file_runs(memory: GuestMemory, pieces: Sequence[Piece], offset: int) -> list[tuple[int, int, int]]:
    """Host address, size and place in the file of the longest runs that `pieces` make up, the first at `offset`."""
    runs: list[list[int]] = []
    for piece in pieces:
        region = region_of(memory, piece)
        address = region.hva + piece.gpa - region.gpa
        if runs and runs[-1][0] + runs[-1][1] == address:
            runs[-1][1] += piece.size_bytes
        else:
            runs.append([address, piece.size_bytes, offset])
        offset += piece.size_bytes
    return [(address, size_bytes, at) for address, size_bytes, at in runs]


def take_over(address: int, size_bytes: int) -> None:
    """Replace what is mapped there by memory of the process's own with the same contents; nothing may write meanwhile.

    Raises MemoryError.
    """
    room = size_bytes + HUGE_PAGE_SIZE_BYTES
    libc = _libc()
    start = libc.mmap(None, room, *_ANONYMOUS, -1, 0)
    if start == _MAP_FAILED:
        _fail("copy")
    skipped = (address - start) % HUGE_PAGE_SIZE_BYTES
    copy = start + skipped
    libc.madvise(copy, size_bytes, mmap.MADV_HUGEPAGE)
    ctypes.memmove(copy, address, size_bytes)
    moved = libc.mremap(copy, size_bytes, size_bytes, _MREMAP_MAYMOVE | _MREMAP_FIXED, address)
    for rest, length in ((start, skipped), (copy + size_bytes, room - skipped - size_bytes)):
        if length:
            libc.munmap(rest, length)
    if moved == _MAP_FAILED:
        _fail("replace")


class Settling:
    """After `map_pieces`: checks the file's contents and takes them over, on a thread of its own.

    When it is done, guest memory no longer depends on the file. Until then the file must not be truncated. It begins
    after a while, and with low priority, so that it does not keep the guest from answering.
    """

    def __init__(
        self,
        memory: GuestMemory,
        pieces: Sequence[Piece],
        fd: int,
        offset: int,
        on_damage: Callable[[StateError], None],
        while_still: Callable[[Callable[[], None]], None],
    ) -> None:
        """Takes `fd` over. Both callbacks are called on the thread.

        `on_damage` gets contents that do not fit their checksum, once. `while_still(work)` calls `work` while nothing
        reads or writes guest memory, and returns when that is done.
        """
        self._memory = memory
        self._pieces = pieces
        self._fd = fd
        self._offset = offset
        self._on_damage = on_damage
        self._while_still = while_still
        self._stop = threading.Event()
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pyhyve-settle", daemon=True)

    def start(self) -> None:
        """Begin; once."""
        self._thread.start()

    def wait(self) -> None:
        """Return when guest memory is its own, soon."""
        self._hurry.set()
        if self._thread.ident is not None:
            self._thread.join()

    def stop(self) -> None:
        """Give up; does not wait: the thread may wait for the caller. Idempotent."""
        self._stop.set()
        self._hurry.set()
        if self._thread.ident is None:
            self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _run(self) -> None:
        try:
            if not self._hurry.wait(_DELAY_S):
                with contextlib.suppress(OSError):
                    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
            self._check()
            self._take_over()
        except StateError as error:
            self._on_damage(error)
        except (OSError, ValueError, MemoryError) as error:
            self._on_damage(StateError(f"the state's memory cannot be taken over: {error}"))
        finally:
            self._close()

    def _check(self) -> None:
        if not self._pieces:
            return
        end = self._offset + sum(piece.size_bytes for piece in self._pieces)
        with mmap.mmap(self._fd, end, access=mmap.ACCESS_READ) as mapping, memoryview(mapping) as view:
            at = self._offset
            for piece in self._pieces:
                if self._stop.is_set():
                    return
                with view[at : at + piece.size_bytes] as contents:
                    if crc32(contents) != piece.checksum:
                        raise damaged_at(piece)
                at += piece.size_bytes

    def _take_over(self) -> None:
        """In slices: the guest stands still for each, but for none of them long."""
        for part in _slices(file_runs(self._memory, self._pieces, self._offset)):
            if self._stop.is_set():
                return
            self._while_still(lambda part=part: self._take_over_part(part))  # type: ignore[misc] # binds the value
            if not self._hurry.is_set():
                time.sleep(_SLICE_PAUSE_S)

    def _take_over_part(self, part: Sequence[tuple[int, int]]) -> None:
        for address, size_bytes in part:
            if not self._stop.is_set():
                take_over(address, size_bytes)


def _slices(runs: Sequence[tuple[int, int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Groups of (address, size) of at most `_SLICE_BYTES` together."""
    part: list[tuple[int, int]] = []
    room = _SLICE_BYTES
    for address, size_bytes, _ in runs:
        at, left = address, size_bytes
        while left:
            step = min(left, room)
            part.append((at, step))
            at, left, room = at + step, left - step, room - step
            if not room:
                yield part
                part, room = [], _SLICE_BYTES
    if part:
        yield part
