"""What a format stands on: bytes of a file, a Python file object or a network block device.

All methods may be called from several threads at once; ranges past the end read as zero.
"""

from __future__ import annotations

import errno
import io
import os
import stat

from pyhyve.image.contract import ImageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ctypes
    from collections.abc import Iterator, Sequence
    from typing import BinaryIO, Protocol
else:
    Protocol = object  # importing `typing` would be felt in short commands

_IOV_MAX = 1024
MAX_OFFSET = (1 << 63) - 1  # what off_t holds; damaged tables ask for more
_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2
_FALLOC_FL_ZERO_RANGE = 16
_ZERO_CHUNK = bytes(1 << 20)
_FIRST_BLOCK_BYTES = 4096

Buffer = bytes | bytearray | memoryview


class Storage(Protocol):
    """A growable array of bytes."""

    filename: str
    writable: bool

    @property
    def size_bytes(self) -> int:
        """Current length."""

    @property
    def fd(self) -> int | None:
        """Descriptor for zero-copy paths, when there is one."""

    def pread_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer`; bytes past the end are zero."""

    def preadv(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Fill several buffers from consecutive bytes."""

    def pread(self, length: int, offset: int) -> bytes:
        """`length` bytes, or fewer at the end of the storage."""

    def pwrite(self, buffer: Buffer, offset: int) -> None:
        """Store `buffer`; grows the storage."""

    def pwritev(self, buffers: Sequence[Buffer], offset: int) -> None:
        """Store several buffers at consecutive bytes."""

    def write_zeroes(self, offset: int, length: int, *, unmap: bool = True) -> None:
        """Make a range read as zero, as a hole where possible; grows the storage."""

    def discard(self, offset: int, length: int) -> None:
        """Give back the space of a range (it then reads as zero or as before)."""

    def truncate(self, size_bytes: int) -> None:
        """Set the length; new bytes are zero."""

    def allocate(self, offset: int, length: int) -> None:
        """Reserve space for a range, reading as zero where nothing was written; grows the storage."""

    def extents(self, start: int, length: int) -> Iterator[tuple[int, int, bool]]:
        """Runs `(start, length, has_data)` that cover the range; holes of the file have no data."""

    def disk_usage_bytes(self) -> int | None:
        """Space taken on the host; None when it cannot be known."""

    def flush(self) -> None:
        """Barrier to stable storage."""

    def close(self) -> None:
        """Release; idempotent."""


_libc: ctypes.CDLL | None = None


def _fallocate(fd: int, mode: int, offset: int, length: int) -> bool:
    """fallocate(2); False when the filesystem cannot do it."""
    global _libc  # noqa: PLW0603 - loading libc costs a millisecond of start-up that most commands do not need
    import ctypes  # noqa: PLC0415 - as above

    if _libc is None:
        _libc = ctypes.CDLL(None, use_errno=True)
        _libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    while _libc.fallocate(fd, mode, offset, length) != 0:
        code = ctypes.get_errno()
        if code == errno.EINTR:
            continue
        if code in {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV}:
            return False
        raise OSError(code, os.strerror(code))
    return True


class FileStorage:
    """A regular file or block device by descriptor. Owns the descriptor."""

    is_direct = False  # whether the descriptor wants aligned requests
    longest_write_bytes = 512 << 10
    """Longer writes are cut. The kernel takes page cache for a write in pieces as large as the write, and the largest
    come from memory that nobody used lately: to fill those takes up to three times as long in a virtual machine."""

    def __init__(self, fd: int, filename: str, *, writable: bool, cache: str = "writeback") -> None:
        self._fd: int | None = fd
        self._sync = cache != "unsafe"
        self.filename = filename
        self.writable = writable
        mode = os.fstat(fd).st_mode
        self._is_block = stat.S_ISBLK(mode)
        self._block_size = os.lseek(fd, 0, os.SEEK_END) if self._is_block else 0

    @classmethod
    def open(cls, path: str, *, writable: bool, create: bool = False, cache: str = "writeback") -> FileStorage:
        """Take over a path; raises OSError, or ImageError for what is neither file nor block device.

        `cache` is QEMU's mode: `none` and `directsync` go past the page cache (O_DIRECT), `writethrough` and
        `directsync` write with O_DSYNC, `unsafe` never flushes.
        """
        flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK
        if create:
            flags |= os.O_CREAT
        if cache in {"writethrough", "directsync"}:
            flags |= os.O_DSYNC
        direct = cache in {"none", "directsync"}
        try:
            fd = os.open(path, flags | (os.O_DIRECT if direct else 0), 0o644)
        except OSError as error:
            if not direct or error.errno != errno.EINVAL:
                raise
            msg = f"Could not open '{path}': file system does not support O_DIRECT (cache={cache})"
            raise ImageError(msg) from error
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            os.close(fd)
            kind = "a directory" if stat.S_ISDIR(mode) else "neither a regular file nor a block device"
            msg = f"Could not open '{path}': it is {kind}"
            raise ImageError(msg)
        if not direct:
            return cls(fd, path, writable=writable, cache=cache)
        from pyhyve.image.storage_direct import DirectFileStorage  # noqa: PLC0415 - it builds on this module

        try:
            return DirectFileStorage(fd, path, writable=writable, cache=cache)
        except BaseException:
            os.close(fd)
            raise

    @property
    def is_block_device(self) -> bool:
        """Whether this is a device rather than a regular file."""
        return self._is_block

    @property
    def fd(self) -> int:
        """The open descriptor."""
        if self._fd is None:
            msg = f"{self.filename}: already closed"
            raise ImageError(msg)
        return self._fd

    @property
    def size_bytes(self) -> int:
        """Length of the file or device."""
        return self._block_size if self._is_block else os.fstat(self.fd).st_size

    def pread_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer`; zero past the end."""
        self.preadv((buffer,), offset)

    def preadv(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Fill several buffers; zero past the end."""
        fd = self.fd
        for first in range(0, len(buffers), _IOV_MAX):
            pending = list(buffers[first : first + _IOV_MAX])
            while pending:
                done = os.preadv(fd, pending, offset)
                offset += done
                if done == 0:
                    for view in pending:
                        view[:] = bytes(len(view))
                        offset += len(view)
                    break
                while pending and done >= len(pending[0]):
                    done -= len(pending.pop(0))
                if pending and done:
                    pending[0] = pending[0][done:]

    def pread(self, length: int, offset: int) -> bytes:
        """Bytes, fewer at the end of the file."""
        if offset > MAX_OFFSET:
            return b""
        data = os.pread(self.fd, length, offset)
        while 0 < len(data) < length:
            more = os.pread(self.fd, length - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def pwrite(self, buffer: Buffer, offset: int) -> None:
        """Store `buffer`."""
        fd = self.fd
        limit = self.longest_write_bytes
        if len(buffer) <= limit:
            done = os.pwrite(fd, buffer, offset)
            if done == len(buffer):
                return
        else:
            done = 0
        view = memoryview(buffer)
        while done < len(view):
            done += os.pwrite(fd, view[done : done + limit], offset + done)

    def pwritev(self, buffers: Sequence[Buffer], offset: int) -> None:
        """Store several buffers."""
        if len(buffers) == 1:
            FileStorage.pwrite(self, buffers[0], offset)
            return
        fd = self.fd
        for first in range(0, len(buffers), _IOV_MAX):
            pending = list(buffers[first : first + _IOV_MAX])
            while pending:
                done = os.pwritev(fd, pending, offset)
                offset += done
                while pending and done >= len(pending[0]):
                    done -= len(pending.pop(0))
                if pending and done:
                    pending[0] = memoryview(pending[0])[done:]

    def write_zeroes(self, offset: int, length: int, *, unmap: bool = True) -> None:
        """Zero a range, as a hole with `unmap`."""
        if length <= 0:
            return
        size = self.size_bytes
        if not self._is_block:
            if offset + length > size:
                os.ftruncate(self.fd, offset + length)
                length = max(0, size - offset)
                if not length:
                    return
            mode = (_FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE) if unmap else _FALLOC_FL_ZERO_RANGE
            if _fallocate(self.fd, mode, offset, length):
                return
        while length > 0:
            step = min(length, len(_ZERO_CHUNK))
            self.pwrite(memoryview(_ZERO_CHUNK)[:step], offset)
            offset += step
            length -= step

    def discard(self, offset: int, length: int) -> None:
        """Punch a hole."""
        length = min(length, self.size_bytes - offset)
        if length > 0 and not self._is_block:
            _fallocate(self.fd, _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE, offset, length)

    def truncate(self, size_bytes: int) -> None:
        """Set the length; a block device only has to be long enough."""
        if not self._is_block:
            if size_bytes and not self.size_bytes:
                # As QEMU: with a first block on disk, the alignment that O_DIRECT wants can be found out by reading.
                self.pwrite(_ZERO_CHUNK[: min(size_bytes, _FIRST_BLOCK_BYTES)], 0)
            os.ftruncate(self.fd, size_bytes)
        elif size_bytes > self._block_size:
            msg = f"{self.filename}: the device is too small for {size_bytes} bytes"
            raise ImageError(msg)

    def allocate(self, offset: int, length: int) -> None:
        """Reserve blocks."""
        if length > 0 and not self._is_block:
            os.posix_fallocate(self.fd, offset, length)

    def extents(self, start: int, length: int) -> Iterator[tuple[int, int, bool]]:
        """Runs by SEEK_DATA and SEEK_HOLE."""
        fd, end = self.fd, start + length
        position = start
        while position < end:
            try:
                data = os.lseek(fd, position, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    data = end
                elif error.errno == errno.EINVAL:
                    data = position
                    yield position, end - position, True
                    return
                else:
                    raise
            if data > position:
                stop = min(data, end)
                yield position, stop - position, False
                position = stop
                continue
            stop = min(os.lseek(fd, position, os.SEEK_HOLE), end)
            yield position, stop - position, True
            position = stop

    def disk_usage_bytes(self) -> int:
        """Blocks taken on the host."""
        return os.fstat(self.fd).st_blocks * 512

    def flush(self) -> None:
        """Barrier by fdatasync, unless the cache mode is `unsafe`."""
        if self._sync:
            os.fdatasync(self.fd)

    def close(self) -> None:
        """Close the descriptor."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class FileObjectStorage:
    """A seekable binary Python file object; one lock orders the calls. The object stays the caller's to close."""

    fd = None

    def __init__(self, file: BinaryIO, filename: str = "<file>", *, writable: bool | None = None) -> None:
        self._file = file
        import threading  # noqa: PLC0415 - images in files start more quickly without it

        self._lock = threading.Lock()
        self.filename = filename
        self.writable = file.writable() if writable is None else writable

    @property
    def size_bytes(self) -> int:
        """Length found by seeking."""
        with self._lock:
            return self._file.seek(0, io.SEEK_END)

    def pread_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer`; zero past the end."""
        data = self.pread(len(buffer), offset)
        buffer[: len(data)] = data
        if len(data) < len(buffer):
            buffer[len(data) :] = bytes(len(buffer) - len(data))

    def preadv(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Fill several buffers."""
        for buffer in buffers:
            self.pread_into(buffer, offset)
            offset += len(buffer)

    def pread(self, length: int, offset: int) -> bytes:
        """Bytes, fewer at the end."""
        if offset > MAX_OFFSET:
            return b""
        parts = []
        with self._lock:
            self._file.seek(offset)
            while length > 0:
                part = self._file.read(length)
                if not part:
                    break
                parts.append(part)
                length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def pwrite(self, buffer: Buffer, offset: int) -> None:
        """Store `buffer`."""
        with self._lock:
            end = self._file.seek(0, io.SEEK_END)
            while end < offset:
                end += self._file.write(_ZERO_CHUNK[: offset - end])
            self._file.seek(offset)
            view = memoryview(buffer)
            while view:
                view = view[self._file.write(view) :]

    def pwritev(self, buffers: Sequence[Buffer], offset: int) -> None:
        """Store several buffers."""
        for buffer in buffers:
            self.pwrite(buffer, offset)
            offset += len(buffer)

    def write_zeroes(self, offset: int, length: int, *, unmap: bool = True) -> None:
        """Write zero bytes."""
        del unmap
        while length > 0:
            step = min(length, len(_ZERO_CHUNK))
            self.pwrite(memoryview(_ZERO_CHUNK)[:step], offset)
            offset += step
            length -= step

    def discard(self, offset: int, length: int) -> None:
        """Nothing to give back."""

    def truncate(self, size_bytes: int) -> None:
        """Cut, or grow with zero bytes."""
        size = self.size_bytes
        if size_bytes > size:
            self.write_zeroes(size, size_bytes - size)
        else:
            with self._lock:
                self._file.truncate(size_bytes)

    def allocate(self, offset: int, length: int) -> None:
        """Grow to the end of the range."""
        if offset + length > self.size_bytes:
            self.truncate(offset + length)

    def extents(self, start: int, length: int) -> Iterator[tuple[int, int, bool]]:
        """Everything up to the end is data."""
        inside = max(0, min(length, self.size_bytes - start))
        if inside:
            yield start, inside, True
        if inside < length:
            yield start + inside, length - inside, False

    def disk_usage_bytes(self) -> int:
        """The length."""
        return self.size_bytes

    def flush(self) -> None:
        """Flush Python's buffer, and the file below it when there is one."""
        with self._lock:
            self._file.flush()
            try:
                fd = self._file.fileno()
            except (OSError, AttributeError):
                return
            os.fdatasync(fd)

    def close(self) -> None:
        """Flush; the owner closes the object."""
        if self.writable:
            with self._lock:
                if not self._file.closed:
                    self._file.flush()


def preallocate(storage: Storage, start: int, length: int, mode: str) -> None:
    """Reserve (`falloc`) or write (`full`) `[start, start + length)`."""
    if mode == "falloc":
        storage.allocate(start, length)
    elif mode == "full":
        zeroes = memoryview(bytes(1 << 20))
        end = start + length
        for at in range(start, end, len(zeroes)):
            storage.pwrite(zeroes[: end - at], at)
