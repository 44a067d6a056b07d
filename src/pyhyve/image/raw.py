"""The raw format: the file is the disk; holes of the file are zero."""

from __future__ import annotations

from pyhyve.image.contract import (
    SECTOR_SIZE_BYTES,
    CreateOption,
    CreateRequest,
    Image,
    ImageError,
    ImageFormat,
    LayerExtent,
    LayerState,
    OpenRequest,
    OptionType,
)
from pyhyve.image.storage import preallocate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


PREALLOCATIONS = ("off", "falloc", "full")


class RawImage(Image):
    """A raw disk, or the window `[offset, offset + size)` of its file."""

    format_name = "raw"

    def __init__(self, request: OpenRequest) -> None:
        self.storage = request.storage
        self.readonly = not request.writable
        self._start = _runtime_number(request, "offset", 0)
        length = max(0, self.storage.size_bytes - self._start)
        window = _runtime_number(request, "size", length)
        if "size" in request.options and window % SECTOR_SIZE_BYTES:
            msg = f"Specified size is not a multiple of {SECTOR_SIZE_BYTES}"
            raise ImageError(msg)
        if self._start % SECTOR_SIZE_BYTES or window > length:
            msg = f"the window at {self._start} of {window} bytes is outside the file or not sector-aligned"
            raise ImageError(msg)
        self._windowed = "size" in request.options or self._start > 0
        self._size = -(-window // SECTOR_SIZE_BYTES) * SECTOR_SIZE_BYTES

    @property
    def size_bytes(self) -> int:
        """Length of the file, rounded up to sectors."""
        return self._size

    def pread_into(self, buffer: memoryview, offset: int) -> None:
        """Read straight into `buffer`."""
        self.check_range(offset, len(buffer))
        self.storage.pread_into(buffer, offset + self._start)

    def preadv(self, buffers: Sequence[memoryview], offset: int) -> None:
        """One scatter read."""
        self.check_range(offset, sum(map(len, buffers)))
        self.storage.preadv(buffers, offset + self._start)

    def pwrite(self, buffer: bytes | bytearray | memoryview, offset: int) -> None:
        """Write straight from `buffer`."""
        self._check_write(offset, len(buffer))
        if self.probed and offset < SECTOR_SIZE_BYTES:
            self._check_still_raw(bytes(buffer[:SECTOR_SIZE_BYTES]), offset)
        self.storage.pwrite(buffer, offset + self._start)

    def pwritev(self, buffers: Sequence[memoryview], offset: int) -> None:
        """One gather write."""
        self._check_write(offset, sum(map(len, buffers)))
        if self.probed and offset < SECTOR_SIZE_BYTES:
            self._check_still_raw(b"".join(buffers)[:SECTOR_SIZE_BYTES], offset)
        self.storage.pwritev(buffers, offset + self._start)

    def write_zeroes(self, offset: int, length: int, *, unmap: bool = True) -> None:
        """Punch a hole or zero the range."""
        self._check_write(offset, length)
        self.storage.write_zeroes(offset + self._start, length, unmap=unmap)

    def discard(self, offset: int, length: int) -> None:
        """Punch a hole."""
        self._check_write(offset, length)
        self.storage.discard(offset + self._start, length)

    def layer_extents(self, start: int, length: int) -> Iterator[LayerExtent]:
        """Data and holes of the file."""
        self.check_range(start, length)
        for at, run, has_data in self.storage.extents(start + self._start, length):
            state = LayerState.DATA if has_data else LayerState.ZERO
            yield LayerExtent(at - self._start, run, state, at, self.storage.filename)

    def resize(self, size_bytes: int) -> None:
        """Set the length of the file."""
        self.check_writable()
        if self._windowed:
            msg = "Cannot resize fixed-size raw disks"
            raise ImageError(msg)
        self.storage.truncate(size_bytes)
        self._size = size_bytes

    def flush(self) -> None:
        """Flush the file."""
        if not self.readonly:
            self.storage.flush()

    def close(self) -> None:
        """Close the file."""
        self.storage.close()

    def _check_write(self, offset: int, length: int) -> None:
        self.check_writable()
        self.check_range(offset, length)

    def _check_still_raw(self, data: bytes, offset: int) -> None:
        from pyhyve.image.registry import PROBE_SIZE_BYTES, probe_format  # noqa: PLC0415 - only for probed images

        head = bytearray(self.storage.pread(PROBE_SIZE_BYTES, self._start))
        head[offset : offset + len(data)] = data
        if probe_format(bytes(head), "") != "raw":
            msg = (
                "the format of this raw image was guessed, so its first sector may not become the header of another "
                "format: state format=raw"
            )
            raise ImageError(msg)


def _runtime_number(request: OpenRequest, name: str, default: int) -> int:
    text = request.options.get(name)
    if text is None:
        return default
    if not text.isdecimal():
        msg = f"Parameter '{name}' expects a number of bytes, not '{text}'"
        raise ImageError(msg)
    return int(text)


def create(request: CreateRequest) -> None:
    """A file of the wanted length: a hole, reserved (`falloc`) or written (`full`)."""
    preallocation = request.text("preallocation", "off")
    if preallocation not in PREALLOCATIONS:
        msg = f"Unsupported preallocation mode '{preallocation}'"
        raise ImageError(msg)
    storage, size = request.storage, request.size_bytes
    storage.truncate(size)
    preallocate(storage, 0, size, preallocation)


FORMAT = ImageFormat(
    name="raw",
    probe=lambda _head, _filename: 1,
    open=RawImage,
    create=create,
    options=(
        CreateOption(
            "extent_size_hint", OptionType.SIZE, "Extent size hint for the image file, 0 to disable", of_file=True
        ),
        CreateOption("nocow", OptionType.BOOLEAN, "Turn off copy-on-write (valid only on btrfs)", of_file=True),
        CreateOption(
            "preallocation", OptionType.STRING, "Preallocation mode (allowed values: off, falloc, full)", of_file=True
        ),
        CreateOption("size", OptionType.SIZE, "Virtual disk size"),
    ),
)
