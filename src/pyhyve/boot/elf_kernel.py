"""ELF kernels with a PVH entry: program headers and the Xen note that names the entry point.

ELF-64/ELF-32 object file format; note XEN_ELFNOTE_PHYS32_ENTRY of xen/include/public/elfnote.h.
"""

from __future__ import annotations

import struct

from pyhyve.boot.errors import BootError
from pyhyve.support.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

MAGIC = b"\x7fELF"
_CLASS_64 = 2
_LITTLE_ENDIAN = 1
_PT_LOAD, _PT_NOTE = 1, 4
_XEN_PHYS32_ENTRY = 18
_MAX_PROGRAM_HEADERS = 128
_MAX_NOTE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Segment:
    """A loadable piece of the file."""

    offset: int
    gpa: int
    file_bytes: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class PvhKernel:
    """What to load and where to enter, in 32-bit protected mode."""

    entry: int
    segments: tuple[Segment, ...]

    @property
    def end(self) -> int:
        """First address after the kernel."""
        return max(segment.gpa + segment.memory_bytes for segment in self.segments)


def parse_pvh(file: BinaryIO, file_size_bytes: int, name: str) -> PvhKernel:
    """Parse an ELF kernel; raises BootError when it is damaged or has no PVH note."""
    headers = _program_headers(file, name)
    entry = None
    segments = []
    for kind, offset, gpa, file_bytes, memory_bytes in headers:
        if kind not in {_PT_LOAD, _PT_NOTE}:
            continue
        if offset + file_bytes > file_size_bytes:
            msg = f"{name}: truncated ELF file (a segment ends at byte {offset + file_bytes} of {file_size_bytes})"
            raise BootError(msg)
        if kind == _PT_NOTE and entry is None:
            file.seek(offset)
            entry = _find_entry(file.read(min(file_bytes, _MAX_NOTE_BYTES)))
        elif kind == _PT_LOAD and memory_bytes:
            if file_bytes > memory_bytes:
                msg = f"{name}: damaged ELF file (a segment is larger in the file than in memory)"
                raise BootError(msg)
            segments.append(Segment(offset, gpa, file_bytes, memory_bytes))
    if entry is None or not segments:
        msg = f"{name}: not a Linux kernel (no bzImage header, no PVH note)"
        raise BootError(msg)
    return PvhKernel(entry, tuple(segments))


def _program_headers(file: BinaryIO, name: str) -> list[tuple[int, int, int, int, int]]:
    """(type, file offset, physical address, bytes in file, bytes in memory) of each header."""
    file.seek(0)
    head = file.read(64)
    try:
        if head[5] != _LITTLE_ENDIAN:
            msg = f"{name}: not an x86 kernel (big-endian ELF)"
            raise BootError(msg)
        if head[4] == _CLASS_64:
            table, entry_bytes, count = *struct.unpack_from("<Q", head, 32), *struct.unpack_from("<HH", head, 54)
            layout, order = struct.Struct("<IIQQQQQQ"), (0, 2, 4, 5, 6)
        else:
            table, entry_bytes, count = *struct.unpack_from("<I", head, 28), *struct.unpack_from("<HH", head, 42)
            layout, order = struct.Struct("<IIIIIIII"), (0, 1, 3, 4, 5)
        if entry_bytes < layout.size or count > _MAX_PROGRAM_HEADERS:
            msg = f"{name}: damaged ELF file ({count} program headers of {entry_bytes} bytes)"
            raise BootError(msg)
        file.seek(table)
        data = file.read(entry_bytes * count)
        found = []
        for i in range(count):
            fields = layout.unpack_from(data, i * entry_bytes)
            found.append((fields[order[0]], fields[order[1]], fields[order[2]], fields[order[3]], fields[order[4]]))
    except (struct.error, IndexError, OverflowError, OSError, ValueError) as error:
        msg = f"{name}: truncated ELF file"
        raise BootError(msg) from error
    return found


def _find_entry(notes: bytes) -> int | None:
    position = 0
    while position + 12 <= len(notes):
        name_bytes, value_bytes, kind = struct.unpack_from("<III", notes, position)
        name_start = position + 12
        value_start = name_start + (name_bytes + 3 & ~3)
        if kind == _XEN_PHYS32_ENTRY and notes[name_start : name_start + name_bytes] == b"Xen\0":
            return int.from_bytes(notes[value_start : value_start + min(value_bytes, 8)], "little")
        position = value_start + (value_bytes + 3 & ~3)
    return None
