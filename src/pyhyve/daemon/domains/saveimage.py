"""The file of a saved machine: a head, its document, then what the emulator wrote.

The layout is libvirt's (the QEMU driver's save image, version 2), so that either can read the other's: magic, version,
length of the document with its terminating zero (and padding), whether the machine ran, how the rest is compressed,
where a cookie starts inside the document's room, 56 bytes unused.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

from pyhyve.daemon.domains.faults import failed, internal, system_error

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["SaveHeader", "read_header", "rewrite_document", "write_header"]

MAGIC: Final = b"LibvirtQemudSave"
PARTIAL: Final = b"LibvirtQemudPart"
"""The magic of a file whose writing never finished."""
VERSION: Final = 2
_HEAD: Final = struct.Struct("<16sIIIII56x")
DOCUMENT_MAX: Final = 64 << 20
_ROOM: Final = 1024
"""Spare bytes behind the document, so that it can be changed in place."""


@dataclass(frozen=True, slots=True)
class SaveHeader:
    """What a saved machine's file says before the machine's state; ``offset`` is where that begins."""

    document: str
    running: bool
    compression: int
    cookie: str
    offset: int


def _room(document: bytes, cookie: bytes) -> tuple[bytes, int]:
    text = document + b"\0"
    cookie_offset = 0
    if cookie:
        cookie_offset = len(text)
        text += cookie + b"\0"
    return text, cookie_offset


def write_header(file: BinaryIO, document: str, *, running: bool, cookie: str = "", partial: bool = True) -> int:
    """Write the head of a new file; return where the state goes. :func:`finish` makes it whole."""
    text, cookie_offset = _room(document.encode(), cookie.encode())
    text = text.ljust(-(-(len(text) + _ROOM) // 4096) * 4096 - _HEAD.size % 4096, b"\0")
    magic = PARTIAL if partial else MAGIC
    file.write(_HEAD.pack(magic, VERSION, len(text), int(running), 0, cookie_offset) + text)
    file.flush()
    return file.tell()


def finish(path: Path) -> None:
    """Make a file whole, now that everything is in it, and have it on disk. Raises OSError."""
    with path.open("r+b") as file:
        file.write(MAGIC)
        file.flush()
        os.fsync(file.fileno())


def read_header(path: Path) -> SaveHeader:
    """Read the head of a file. Raises LibvirtError where it is none. Blocks."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD.size)
            if len(head) < _HEAD.size:
                raise failed("failed to read qemu header")
            magic, version, length, running, compression, cookie_offset = _HEAD.unpack(head)
            if magic == PARTIAL:
                raise failed("save image is incomplete")
            if magic != MAGIC:
                raise failed("image magic is incorrect")
            if version > VERSION:
                raise failed(f"image version is not supported ({version} > {VERSION})")
            if not 0 < length <= DOCUMENT_MAX:
                raise failed(f"invalid header data length: {length}")
            room = file.read(length)
            offset = file.tell()
    except OSError as error:
        raise system_error(f"Failed to open file '{path}'", error) from error
    if len(room) < length:
        raise failed("failed to read domain XML")
    cookie = room[cookie_offset:].split(b"\0", 1)[0] if cookie_offset else b""
    try:
        document = room.split(b"\0", 1)[0].decode()
    except UnicodeDecodeError as error:
        raise failed("failed to read domain XML") from error
    return SaveHeader(document, bool(running), compression, cookie.decode(errors="replace"), offset)


def rewrite_document(path: Path, document: str, *, running: bool | None = None) -> None:
    """Replace the document of a saved machine, in place. Raises LibvirtError where it does not fit. Blocks."""
    header = read_header(path)
    text, cookie_offset = _room(document.encode(), header.cookie.encode())
    length = header.offset - _HEAD.size
    if len(text) > length:
        raise internal("new xml too large to fit in file")
    ran = header.running if running is None else running
    try:
        with path.open("r+b") as file:
            head = _HEAD.pack(MAGIC, VERSION, length, int(ran), header.compression, cookie_offset)
            file.write(head + text.ljust(length, b"\0"))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise system_error(f"failed to write header to domain save file '{path}'", error) from error
