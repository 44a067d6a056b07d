"""The kernel inside a bzImage, decompressed once on the host and kept in the cache.

A bzImage decompresses itself in the guest, at every start and at the guest's speed. What it unpacks is an ELF file,
which kernels with CONFIG_PVH can be entered through directly (`boot.elf_kernel`).

The payload is described by the setup header (Linux Documentation/arch/x86/boot.rst: `payload_offset`,
`payload_length`, `kernel_version`).
"""

from __future__ import annotations

import contextlib
import io
import os
import time

from pyhyve.boot import bzimage, elf_kernel
from pyhyve.boot.errors import BootError
from pyhyve.support.errors import UserError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike
    from pathlib import Path
    from typing import BinaryIO

PAYLOAD_PROTOCOL = 0x208
"""Boot protocol that first names the payload."""
FIRST_PVH_RELEASE = (5, 0)
"""Before it, kernels with a PVH entry asked Xen for their memory map (Linux 1c1ed4731c, "xen/pvh: Add memory map")."""
MAX_SIZE_BYTES = 1 << 30
KEPT = 8
"""Decompressed kernels in the cache; each takes some 40 MB."""
_LZ4_BLOCK_BYTES = 8 << 20
_YOUNG_S = 0.1
"""A file changed this recently could change again within one tick of its clock, unseen."""
_ABSENT = ".none"
_PRESENT = ".elf"
_RELEASE = rb"(\d+)\.(\d+)"


def find_vmlinux(path: PathLike[str], file: BinaryIO) -> Path | None:
    """The decompressed kernel of the bzImage `path`, open as `file`; None when it has no PVH entry or cannot be kept.

    The first call for a kernel takes a part of a second, later ones microseconds. Never raises: the bzImage itself
    is there to be entered instead.
    """
    from pyhyve.support.cache import cache_directory  # noqa: PLC0415 - kernels are not always packed
    from pyhyve.support.files import write_atomically  # noqa: PLC0415 - ditto

    status = os.fstat(file.fileno())
    if time.time() - status.st_ctime < _YOUNG_S:
        return None
    key = f"{status.st_dev:x}-{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}-{status.st_ctime_ns:x}"
    try:
        directory = cache_directory("kernels")
        found = directory / f"{key}{_PRESENT}"
        if found.exists():
            with contextlib.suppress(OSError):
                os.utime(found)
            return found
        if (directory / f"{key}{_ABSENT}").exists():
            return None
        try:
            data = extract(file, str(path))
        except BootError:
            write_atomically(directory / f"{key}{_ABSENT}", b"")
            return None
        write_atomically(found, data)
        _prune(directory)
    except (OSError, UserError):
        return None
    return found


def extract(file: BinaryIO, name: str) -> bytes:
    """The ELF kernel in the bzImage `file`. Raises BootError when there is none with a PVH entry that can be used."""
    file.seek(0)
    head = file.read(bzimage.PROBE_BYTES)
    size = os.fstat(file.fileno()).st_size
    image = bzimage.parse_bzimage(head, size, name)
    if image.version < PAYLOAD_PROTOCOL or not image.has_64bit_entry or _release(head, file) < FIRST_PVH_RELEASE:
        msg = f"{name}: a kernel too old for the PVH entry"
        raise BootError(msg)
    offset, length = (
        int.from_bytes(head[at : at + 4], "little") for at in (bzimage.PAYLOAD_OFFSET, bzimage.PAYLOAD_LENGTH)
    )
    if length > image.kernel_size_bytes or offset > image.kernel_size_bytes - length:
        msg = f"{name}: damaged bzImage (its payload lies outside the file)"
        raise BootError(msg)
    file.seek(image.kernel_offset + offset)
    data = decompress(file.read(length), name)
    elf_kernel.parse_pvh(io.BytesIO(data), len(data), name)
    return data


def _release(head: bytes, file: BinaryIO) -> tuple[int, int]:
    """(major, minor) of the version text, (0, 0) when there is none."""
    at = int.from_bytes(head[bzimage.KERNEL_VERSION : bzimage.KERNEL_VERSION + 2], "little")
    if not at:
        return 0, 0
    file.seek(at + bzimage.JUMP)
    import re  # noqa: PLC0415 - kernels are unpacked once

    match = re.match(_RELEASE, file.read(64))
    return (int(match[1]), int(match[2])) if match else (0, 0)


def decompress(payload: bytes, name: str) -> bytes:
    """`payload` unpacked, by its first bytes. Raises BootError for damage and for formats unknown here (LZO)."""
    for magic, method in _METHODS.items():
        if payload.startswith(magic):
            return method(payload, name)
    msg = f"{name}: a payload packed in an unknown way ({payload[:4].hex(' ')})"
    raise BootError(msg)


def _stored(payload: bytes, _name: str) -> bytes:
    return payload


def _gzip(payload: bytes, name: str) -> bytes:
    import zlib  # noqa: PLC0415 - each kernel needs one of these, once

    return _bounded(lambda: zlib.decompressobj(31).decompress(payload, MAX_SIZE_BYTES + 1), zlib.error, name)


def _bzip2(payload: bytes, name: str) -> bytes:
    import bz2  # noqa: PLC0415 - see `_gzip`

    return _bounded(lambda: bz2.BZ2Decompressor().decompress(payload, MAX_SIZE_BYTES + 1), OSError, name)


def _lzma(payload: bytes, name: str) -> bytes:
    import lzma  # noqa: PLC0415 - see `_gzip`

    return _bounded(lambda: lzma.LZMADecompressor().decompress(payload, MAX_SIZE_BYTES + 1), lzma.LZMAError, name)


def _zstd(payload: bytes, name: str) -> bytes:
    import zstandard  # noqa: PLC0415 - see `_gzip`

    def unpack() -> bytes:
        # The builder appends the size after the frame: a stream reader stops there.
        with zstandard.ZstdDecompressor(max_window_size=1 << 30).stream_reader(io.BytesIO(payload)) as reader:
            return bytes(reader.read(MAX_SIZE_BYTES + 1))

    return _bounded(unpack, zstandard.ZstdError, name)


def _lz4(payload: bytes, name: str) -> bytes:
    """The legacy frame (lz4_Frame_format.md, "Legacy frame"): blocks of up to 8 MiB, each after its packed size."""
    from lz4 import block  # noqa: PLC0415 - see `_gzip`

    def unpack() -> bytes:
        pieces: list[bytes] = []
        at, total = 4, 0
        while len(payload) - at > 4 and total <= MAX_SIZE_BYTES:
            size = int.from_bytes(payload[at : at + 4], "little")
            if size > len(payload) - at - 4:
                raise EOFError
            pieces.append(block.decompress(payload[at + 4 : at + 4 + size], uncompressed_size=_LZ4_BLOCK_BYTES))
            at, total = at + 4 + size, total + len(pieces[-1])
        return b"".join(pieces)

    return _bounded(unpack, block.LZ4BlockError, name)


def _bounded(unpack: Callable[[], bytes], error_type: type[Exception], name: str) -> bytes:
    try:
        data = unpack()
    except (error_type, EOFError, MemoryError) as error:
        msg = f"{name}: damaged bzImage (its payload cannot be unpacked: {error})"
        raise BootError(msg) from error
    if len(data) > MAX_SIZE_BYTES:
        msg = f"{name}: its payload unpacks to more than {MAX_SIZE_BYTES >> 20} MiB"
        raise BootError(msg)
    return data


_METHODS: dict[bytes, Callable[[bytes, str], bytes]] = {
    elf_kernel.MAGIC: _stored,
    b"\x1f\x8b": _gzip,
    b"BZh": _bzip2,
    b"\xfd7zXZ\0": _lzma,
    b"\x5d\0\0": _lzma,
    b"\x28\xb5\x2f\xfd": _zstd,
    b"\x02\x21\x4c\x18": _lz4,
}


def _prune(directory: Path) -> None:
    """Forget the kernels that were not used for the longest time."""

    def used(path: Path) -> float:
        try:
            return path.stat().st_mtime
        except OSError:  # another process was quicker
            return 0.0

    for path in sorted(directory.glob(f"*{_PRESENT}"), key=used, reverse=True)[KEPT:]:
        path.unlink(missing_ok=True)
    for path in sorted(directory.glob(f"*{_ABSENT}"), key=used, reverse=True)[64:]:
        path.unlink(missing_ok=True)
