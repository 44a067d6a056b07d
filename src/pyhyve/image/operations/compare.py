"""Comparing the content of two disks."""

from __future__ import annotations

import threading

from pyhyve.image.operations.work import SMALL_CHUNK_BYTES, Zeroes, default_threads, merged_extents, run_parallel
from pyhyve.support.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyhyve.image.contract import Extent, Image

_SECTOR = 512


@dataclass(frozen=True, slots=True)
class Comparison:
    """The outcome: `offset` of the first difference, and whether it is one of allocation (strict mode only)."""

    identical: bool
    offset: int = 0
    allocation: bool = False


def _zip_extents(first: Image, second: Image, end: int) -> Iterator[tuple[int, int, Extent, Extent]]:
    """Ranges over which both images are uniform: `(start, length, extent, extent)`."""
    streams = merged_extents(first, 0, end), merged_extents(second, 0, end)
    left, right, at = next(streams[0], None), next(streams[1], None), 0
    while left is not None and right is not None and at < end:
        stop = min(left.end, right.end)
        yield at, stop - at, left, right
        at = stop
        if left.end == stop:
            left = next(streams[0], None)
        if right.end == stop:
            right = next(streams[1], None)


def first_difference(left: memoryview, right: memoryview) -> int | None:
    """Index of the first sector that differs, in bytes, or None."""
    if bytearray(left) == right:
        return None
    for at in range(0, len(left), _SECTOR):
        if bytes(left[at : at + _SECTOR]) != bytes(right[at : at + _SECTOR]):
            return at
    return None


def compare(
    first: Image, second: Image, *, strict: bool = False, progress: Callable[[int, int], None] | None = None
) -> Comparison:
    """Compare over the longer of both sizes; what only one image has must be zero."""
    common = min(first.size_bytes, second.size_bytes)
    total = max(first.size_bytes, second.size_bytes)
    lock, local, zeroes = threading.Lock(), threading.local(), Zeroes()
    found: list[Comparison] = []
    done = 0

    def buffers(length: int) -> tuple[memoryview, bytearray, memoryview]:
        """Left (as view and as object: `startswith` of a bytearray is one memcmp) and right of this thread."""
        if not hasattr(local, "left"):
            local.left, local.right = bytearray(SMALL_CHUNK_BYTES), memoryview(bytearray(SMALL_CHUNK_BYTES))
        left: bytearray = local.left
        return memoryview(left)[:length], left, local.right[:length]

    def advance(length: int) -> None:
        nonlocal done
        with lock:
            done += length
            if progress is not None:
                progress(done, total)

    def differs(offset: int, *, allocation: bool = False) -> None:
        with lock:
            found.append(Comparison(identical=False, offset=offset, allocation=allocation))

    def items() -> Iterator[tuple[int, int, Image | None, Image | None]]:
        for start, length, left, right in _zip_extents(first, second, common):
            if strict and left.present != right.present:
                differs(start, allocation=True)
                return
            yield from chunks(start, length, None if left.zero else first, None if right.zero else second)
        longer = first if first.size_bytes > second.size_bytes else second
        if total > common:
            for extent in merged_extents(longer, common, total - common):
                yield from chunks(extent.start, extent.length, None if extent.zero else longer, None)

    def chunks(
        start: int, length: int, left: Image | None, right: Image | None
    ) -> Iterator[tuple[int, int, Image | None, Image | None]]:
        end = start + length
        if left is None and right is None:
            advance(length)
            return
        while start < end:
            if found:
                return
            stop = min(end, (start + SMALL_CHUNK_BYTES) & ~(SMALL_CHUNK_BYTES - 1))
            yield start, stop - start, left, right
            start = stop

    def work(item: tuple[int, int, Image | None, Image | None]) -> None:
        start, length, left, right = item
        view, left_bytes, right_view = buffers(length)
        one, other = (left, right) if left is not None else (right, left)
        if one is not None:
            one.pread_into(view, start)
        if other is None:
            if not zeroes.is_zero(view):
                for at in range(0, length, _SECTOR):
                    if any(view[at : at + _SECTOR]):
                        differs(start + at)
                        break
        else:
            other.pread_into(right_view, start)
            if not left_bytes.startswith(right_view):
                differs(start + (first_difference(view, right_view) or 0))
        advance(length)

    run_parallel(items(), work, default_threads())
    if not found:
        return Comparison(identical=True)
    return min(found, key=lambda item: item.offset)
