"""A volume's content over a stream, both ways, holes as holes where the client asks for them."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import TYPE_CHECKING, Final

from pyhyve.daemon.storage import faults
from pyhyve.daemon.streams import Hole

if TYPE_CHECKING:
    from pyhyve.daemon.daemon import Daemon
    from pyhyve.daemon.streams import Stream

__all__ = ["download", "open_volume", "upload"]

CHUNK_BYTES: Final = 256 << 10


def open_volume(path: str, offset: int, *, writable: bool) -> int:
    """Return a descriptor for a volume's file. Raises LibvirtError."""
    try:
        descriptor = os.open(path, (os.O_WRONLY if writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link within a pool, such as LVM's into /dev/mapper
            return open_volume(os.path.realpath(path), offset, writable=writable)
        raise faults.system(f"Unable to open stream for '{path}'", error) from error
    end = os.lseek(descriptor, 0, os.SEEK_END)
    if offset > end:
        os.close(descriptor)
        raise faults.argument(f"offset {offset} is behind the end of '{path}' ({end} bytes)")
    return descriptor


async def download(daemon: Daemon, stream: Stream, descriptor: int, offset: int, length: int, *, sparse: bool) -> None:
    """Send a file from an offset on, so many bytes or (0) all; closes the descriptor."""
    try:
        end = os.lseek(descriptor, 0, os.SEEK_END)
        if length:
            end = min(end, offset + length)
        while offset < end:
            if sparse:
                data_start, data_end = await daemon.run_blocking(_data, descriptor, offset, end)
                if data_start > offset:
                    await stream.write_hole(data_start - offset)
                offset = data_start
            else:
                data_end = end
            while offset < data_end:
                begun, offset = offset, await stream.send_file(descriptor, offset, data_end)
                if offset == begun:
                    return  # somebody cut the file meanwhile
    finally:
        os.close(descriptor)


def _data(descriptor: int, offset: int, end: int) -> tuple[int, int]:
    """The next run of data, empty at the end."""
    try:
        start = os.lseek(descriptor, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return end, end
        if error.errno in {errno.EINVAL, errno.ENOTSUP}:
            return offset, end
        raise
    return min(start, end), min(os.lseek(descriptor, start, os.SEEK_HOLE), end)


async def upload(daemon: Daemon, stream: Stream, descriptor: int, offset: int, length: int) -> None:
    """Write what comes, from an offset on, at most so many bytes (0: any number); closes the descriptor."""
    limit = offset + length if length else None
    try:
        while piece := await stream.read():
            size = int(piece) if isinstance(piece, Hole) else len(piece)
            if limit is not None and offset + size > limit:
                raise faults.argument(f"more than the {length} bytes announced")
            if isinstance(piece, Hole):
                await daemon.run_blocking(_store_hole, descriptor, size, offset)
                offset += size
            else:
                offset = await stream.store(piece, descriptor, offset, limit)
    except OSError as error:
        raise faults.system("cannot write to stream", error) from error
    finally:
        await asyncio.shield(daemon.run_blocking(os.close, descriptor))


def _store_hole(descriptor: int, size: int, offset: int) -> None:
    end = offset + size
    if os.lseek(descriptor, 0, os.SEEK_END) <= offset:
        os.ftruncate(descriptor, end)
        return
    zeros = bytes(min(size, CHUNK_BYTES))
    while offset < end:
        offset += os.pwrite(descriptor, zeros[: end - offset], offset)
