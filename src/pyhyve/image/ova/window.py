"""A range of another storage, read-only."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from pyhyve.image.contract import ImageReadonlyError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pyhyve.image.storage import Buffer, Storage


class WindowStorage:
    """`[offset, offset + size_bytes)` of `below`, which stays open when this is closed."""

    fd = None
    writable = False

    def __init__(self, below: Storage, offset: int, size_bytes: int, filename: str) -> None:
        self._below = below
        self._offset = offset
        self._size = size_bytes
        self.filename = filename

    @property
    def size_bytes(self) -> int:
        """Length of the window."""
        return self._size

    def pread(self, length: int, offset: int) -> bytes:
        """Bytes, fewer at the end of the window."""
        length = min(length, self._size - offset)
        return self._below.pread(length, self._offset + offset) if length > 0 else b""

    def pread_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer`; zero past the end."""
        inside = max(0, min(len(buffer), self._size - offset))
        if inside:
            self._below.pread_into(buffer[:inside], self._offset + offset)
        if inside < len(buffer):
            buffer[inside:] = bytes(len(buffer) - inside)

    def preadv(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Fill several buffers."""
        for buffer in buffers:
            self.pread_into(buffer, offset)
            offset += len(buffer)

    def extents(self, start: int, length: int) -> Iterator[tuple[int, int, bool]]:
        """All inside is data."""
        inside = max(0, min(length, self._size - start))
        if inside:
            yield start, inside, True
        if inside < length:
            yield start + inside, length - inside, False

    def disk_usage_bytes(self) -> int | None:
        """Not known for a part."""
        return None

    def flush(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """The storage below stays open."""

    def _refuse(self) -> NoReturn:
        msg = f"{self.filename} can only be read"
        raise ImageReadonlyError(msg)

    def pwrite(self, buffer: Buffer, offset: int) -> None:
        """Refused."""
        self._refuse()

    def pwritev(self, buffers: Sequence[Buffer], offset: int) -> None:
        """Refused."""
        self._refuse()

    def write_zeroes(self, offset: int, length: int, *, unmap: bool = True) -> None:
        """Refused."""
        self._refuse()

    def discard(self, offset: int, length: int) -> None:
        """Refused."""
        self._refuse()

    def truncate(self, size_bytes: int) -> None:
        """Refused."""
        self._refuse()

    def allocate(self, offset: int, length: int) -> None:
        """Refused."""
        self._refuse()
