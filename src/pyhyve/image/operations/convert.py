"""Copying one disk into another: in parallel, holes kept, compressed when asked for."""

from __future__ import annotations

import errno
import os
import time

from pyhyve.image.contract import Image, ImageError, LayerState
from pyhyve.image.operations.work import (
    CHUNK_BYTES,
    Outlet,
    Piece,
    Zeroes,
    default_threads,
    pieces,
    run_parallel,
)
from pyhyve.image.raw import RawImage
from pyhyve.support.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    Progress = Callable[[int, int], None]
    Step = tuple[Callable[..., None], tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class ConvertSettings:
    """How to copy.

    `sparse_bytes` is the shortest run of zeroes that becomes a hole (0: everything is written). `target_is_zero`: the
    target reads as zero already. `in_order`: formats that allocate do so by rising offset, for later readers.
    `keep_backing`: ranges that the source's own layer does not hold are left to the target's backing image. `offload`
    copies inside the kernel without looking for zeroes. `salvage` replaces what cannot be read by zeroes. `rate_limit`
    is in bytes per second (0: none).
    """

    compress: bool = False
    sparse_bytes: int = 4096
    target_is_zero: bool = True
    keep_backing: bool = False
    offload: bool = False
    salvage: bool = False
    in_order: bool = True
    threads: int | None = None
    rate_limit: int = 0


class Concatenation:
    """Several source images read as one disk after another."""

    def __init__(self, images: Sequence[Image]) -> None:
        self.images = tuple(images)
        self.size_bytes = sum(image.size_bytes for image in images)

    def parts(self) -> Iterator[tuple[int, Image]]:
        """`(offset in the whole, image)`."""
        offset = 0
        for image in self.images:
            yield offset, image
            offset += image.size_bytes


class _Converter:
    def __init__(self, target: Image, settings: ConvertSettings, total: int, progress: Progress | None) -> None:
        self.target = target
        self.settings = settings
        self.total = total
        self._progress = progress
        self._done = 0
        self._begin = time.monotonic()
        self._buffers: list[memoryview] = []  # those in nobody's hands, the one used last is last
        cluster = target.cluster_size_bytes or 4096
        self.cluster = cluster
        unit = target.allocation_unit_bytes or cluster
        self.unit = max(settings.sparse_bytes, unit) if settings.sparse_bytes else 0
        # An exact multiple of the target's clusters: no cluster is written by two threads.
        self.chunk = max(CHUNK_BYTES, cluster)
        self._zeroes = Zeroes()
        self.outlet = Outlet(2 * default_threads(settings.threads), in_order=settings.in_order)

    def advance(self, length: int) -> None:
        """Count finished bytes, and wait when that was faster than the rate limit; one thread at a time writes."""
        self._done += length
        if self._progress is not None:
            self._progress(self._done, self.total)
        if self.settings.rate_limit:
            time.sleep(max(0.0, self._begin + self._done / self.settings.rate_limit - time.monotonic()))

    def copy(self, number: int, source: Image, base: int, piece: Piece) -> None:
        """Piece `number`, of `source`, which starts at `base` in the target."""
        buffer: memoryview | None = None
        steps: list[Step] = []
        if piece.zero:
            steps = [(self._zero, (base + piece.offset, piece.length))]
        elif not self._offload(source, base, piece):
            try:
                buffer = self._buffers.pop()
            except IndexError:
                buffer = memoryview(bytearray(self.chunk))
            steps = self._prepare(source, buffer[: piece.length], base, piece.offset)
        self.outlet.put(number, lambda: self._write(steps, buffer, piece.length))

    def _write(self, steps: list[Step], buffer: memoryview | None, length: int) -> None:
        for step, operands in steps:
            step(*operands)
        if buffer is not None:
            self._buffers.append(buffer)
        self.advance(length)

    def _prepare(self, source: Image, view: memoryview, base: int, at: int) -> list[Step]:
        """Read into `view`, look for zeroes and compress; what is left to do is writing, in order."""
        self._read(source, view, at)
        offset = base + at
        if not self.unit and not self.settings.compress:
            return [(self.target.pwrite, (view, offset))]
        steps: list[Step] = []
        runs: Iterable[tuple[int, int, bool]] = ((0, len(view), False),)
        if self.unit:
            runs = self._zeroes.runs(view, self.cluster if self.settings.compress else self.unit)
        for start, end, zero in runs:
            if zero:
                steps.append((self._zero, (offset + start, end - start)))
            elif self.settings.compress:
                parts = self.target.compress(view[start:end], offset + start)
                steps.append((self.target.append_compressed, (parts,)))
            else:
                steps.append((self.target.pwrite, (view[start:end], offset + start)))
        return steps

    def _read(self, source: Image, view: memoryview, offset: int) -> None:
        try:
            source.pread_into(view, offset)
        except (OSError, ImageError):
            if not self.settings.salvage:
                raise
            for at in range(0, len(view), 512):
                part = view[at : at + 512]
                try:
                    source.pread_into(part, offset + at)
                except (OSError, ImageError):
                    part[:] = bytes(len(part))

    def _zero(self, offset: int, length: int) -> None:
        if self.unit:
            if not self.settings.target_is_zero:
                self.target.write_zeroes(offset, length)
            return
        while length > 0:  # -S 0: the target is to be fully allocated
            step = min(length, self.chunk)
            zeroes = memoryview(bytes(step))
            if self.settings.compress:
                self.target.write_compressed(zeroes, offset)
            else:
                self.target.pwrite(zeroes, offset)
            offset += step
            length -= step

    def _offload(self, source: Image, base: int, piece: Piece) -> bool:
        """copy_file_range between two files; False when it is not possible here."""
        if not (self.settings.offload and isinstance(source, RawImage) and isinstance(self.target, RawImage)):
            return False
        source_fd, target_fd = source.storage.fd, self.target.storage.fd
        if source_fd is None or target_fd is None:
            return False
        start, end = piece.offset, min(piece.offset + piece.length, source.storage.size_bytes)
        try:
            while start < end:
                done = os.copy_file_range(source_fd, target_fd, end - start, start, base + start)
                if not done:
                    return False
                start += done
        except OSError:
            return False
        return True


def _own_pieces(source: Image, chunk: int) -> Iterator[Piece]:
    """Pieces of what the source's top layer holds itself; the rest shows the same backing image in the target."""
    for run in source.layer_extents(0, source.size_bytes):
        if run.state is LayerState.UNALLOCATED:
            continue
        if run.state is LayerState.ZERO:
            yield Piece(run.start, run.length, zero=True)
            continue
        start, end = run.start, run.start + run.length
        while start < end:
            stop = min(end, (start + chunk) & ~(chunk - 1))
            yield Piece(start, stop - start, zero=False)
            start = stop


def convert(sources: Concatenation, target: Image, settings: ConvertSettings, progress: Progress | None = None) -> None:
    """Copy all sources into `target`, which is large enough. Flushes nothing: the caller closes the target.

    Raises ImageError, or OSError such as ENOSPC.
    """
    converter = _Converter(target, settings, sources.size_bytes, progress)
    alignment = converter.cluster if len(sources.images) == 1 else 1
    if settings.compress and len(sources.images) > 1:
        _require_aligned(sources, converter.cluster)
        alignment = converter.cluster

    def items() -> Iterator[tuple[int, Image, int, Piece]]:
        number = 0
        for base, source in sources.parts():
            if settings.keep_backing:
                found = _own_pieces(source, converter.chunk)
            else:
                found = pieces(source, converter.chunk, min(alignment, converter.chunk))
            for piece in found:
                yield number, source, base, piece
                number += 1

    threads = default_threads(settings.threads)
    if len(sources.images) > 1 and alignment == 1:
        threads = 1  # a cluster of the target may hold the end of one source and the start of the next
    try:
        run_parallel(items(), lambda item: converter.copy(*item), threads, converter.outlet.stop)
    except OSError as error:
        verb = "writing" if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} else "copying"
        msg = f"error while {verb}: {error.strerror}"
        raise ImageError(msg) from error


def _require_aligned(sources: Concatenation, cluster: int) -> None:
    for base, source in sources.parts():
        if base % cluster:
            msg = f"cannot compress: source '{source.storage.filename}' does not start on a cluster of the target"
            raise ImageError(msg)
