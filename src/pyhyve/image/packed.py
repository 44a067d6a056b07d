"""Read-only images whose data comes in compressed units that are unpacked whole."""

from __future__ import annotations

import bz2
import lzma
import zlib
from abc import abstractmethod
from collections import OrderedDict
from typing import TYPE_CHECKING, ClassVar, Protocol

from pyhyve.image.allocating import AllocatingImage, Run
from pyhyve.image.contract import ImageFormatError, ImageReadonlyError, ImageUnsupportedError, LayerExtent, LayerState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyhyve.image.contract import OpenRequest

MAX_UNIT_BYTES = 64 << 20
_CACHE_BYTES = 16 << 20
_LZMA_MEMORY_BYTES = 128 << 20


class _Decompressor(Protocol):
    def decompress(self, data: bytes, max_length: int = ...) -> bytes: ...


_DECOMPRESSORS: dict[str, Callable[[], _Decompressor]] = {
    "zlib": zlib.decompressobj,
    "bzip2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_AUTO, memlimit=_LZMA_MEMORY_BYTES),
}


def unpack(kind: str, data: bytes, size_bytes: int) -> bytes:
    """Exactly `size_bytes` from a `zlib`, `bzip2` or `xz` stream; ImageFormatError when there are fewer."""
    try:
        found = _DECOMPRESSORS[kind]().decompress(data, size_bytes)
    except (zlib.error, OSError, lzma.LZMAError, EOFError, ValueError) as error:
        msg = f"a {kind} block of the image is damaged"
        raise ImageFormatError(msg) from error
    if len(found) != size_bytes:
        msg = f"a {kind} block of the image is too short"
        raise ImageFormatError(msg)
    return found


class PackedImage(AllocatingImage):
    """Base of read-only compressed formats: `_locate` gives packed runs, `_unpack` the unit at a run's `host`."""

    format_name: ClassVar[str]

    def __init__(self, request: OpenRequest) -> None:
        if request.writable:
            msg = f"{self.format_name} images can only be read"
            raise ImageUnsupportedError(msg)
        super().__init__(request)
        self._units: OrderedDict[int, bytes] = OrderedDict()
        self._cached_bytes = 0

    @property
    def dirty(self) -> None:
        """Not told, as by QEMU."""

    @abstractmethod
    def _unpack(self, unit: int) -> bytes:
        """The content of a unit."""

    @abstractmethod
    def _unit_start(self, unit: int) -> int:
        """Where a unit starts on the disk."""

    def _read_packed(self, run: Run, part: memoryview, offset: int) -> None:
        unit = run.host
        with self._lock:
            data = self._units.get(unit)
            if data is not None:
                self._units.move_to_end(unit)
        if data is None:
            data = self._unpack(unit)
            with self._lock:
                if unit not in self._units:
                    self._units[unit] = data
                    self._cached_bytes += len(data)
                while len(self._units) > 1 and self._cached_bytes > _CACHE_BYTES:
                    self._cached_bytes -= len(self._units.popitem(last=False)[1])
        inside = offset - self._unit_start(unit)
        part[:] = memoryview(data)[inside : inside + len(part)]

    def _describe(self, run: Run, start: int) -> Iterator[LayerExtent]:
        # As QEMU, which has no block status for these formats: all of the disk counts as data.
        yield LayerExtent(start, run.length, LayerState.DATA)

    def _append(self, view: memoryview, offset: int) -> int:
        msg = f"{self.format_name} images can only be read"
        raise ImageReadonlyError(msg)
