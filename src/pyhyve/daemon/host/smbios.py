"""SMBIOS tables of the host's firmware, and the ``<sysinfo>`` document made of them.

Source: DMTF DSP0134 (SMBIOS 3.6), sections 6.1 and 7; libvirt's documentation of ``<sysinfo>``.
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pyhyve.xml.document import Node, format_node

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["SmbiosError", "Structure", "format_sysinfo", "parse_tables"]

_HEADER: Final = struct.Struct("<BBH")
_END_OF_TABLE: Final = 127
_UNSET: Final = frozenset({"", "Not Specified"})


class SmbiosError(ValueError):
    """Tables that are none."""


@dataclass(frozen=True, slots=True)
class Structure:
    """One structure: its formatted area (with the header, so that offsets are the specification's) and its strings."""

    type: int
    data: bytes
    strings: Sequence[str]

    def text(self, offset: int) -> str:
        """Return the string whose number is at an offset; empty where there is none."""
        number = self.number(offset, "B")
        return self.strings[number - 1].strip() if 0 < number <= len(self.strings) else ""

    def number(self, offset: int, code: str) -> int:
        """Return the number at an offset (a :mod:`struct` code); 0 where an older structure has none."""
        layout = struct.Struct("<" + code)
        if offset + layout.size > len(self.data):
            return 0
        return int(layout.unpack_from(self.data, offset)[0])


def parse_tables(data: bytes) -> list[Structure]:
    """Split tables into structures. Raises SmbiosError."""
    structures, pos = [], 0
    while pos + _HEADER.size <= len(data):
        kind, length, _ = _HEADER.unpack_from(data, pos)
        if length < _HEADER.size or pos + length > len(data):
            msg = f"a structure of {length} bytes at {pos} does not fit"
            raise SmbiosError(msg)
        # Strings follow, each ended by a NUL, the set by one more (two NULs where there is no string at all).
        end = data.find(b"\0\0", pos + length)
        if end < 0:
            msg = f"the strings of the structure at {pos} have no end"
            raise SmbiosError(msg)
        strings = data[pos + length : end].split(b"\0") if end > pos + length else []
        structures.append(Structure(kind, data[pos : pos + length], [text.decode("latin-1") for text in strings]))
        pos = end + 2
        if kind == _END_OF_TABLE:
            break
    if not structures:
        msg = "no structures"
        raise SmbiosError(msg)
    return structures


_SUBJECTS: Final[dict[int, tuple[str, dict[str, int]]]] = {
    0: ("bios", {"vendor": 4, "version": 5, "date": 8}),
    1: ("system", {"manufacturer": 4, "product": 5, "version": 6, "serial": 7, "sku": 0x19, "family": 0x1A}),
    2: ("baseBoard", {"manufacturer": 4, "product": 5, "version": 6, "serial": 7, "asset": 8, "location": 0x0A}),
    3: ("chassis", {"manufacturer": 4, "version": 6, "serial": 7, "asset": 8}),
    4: (
        "processor",
        {"socket_destination": 4, "manufacturer": 7, "version": 0x10, "serial_number": 0x20, "part_number": 0x22},
    ),
    17: (
        "memory_device",
        {"locator": 0x10, "bank_locator": 0x11, "manufacturer": 0x17, "serial_number": 0x18, "part_number": 0x1A},
    ),
}
"""Element and string fields of each type that is shown."""
_MEMORY_FORMS: Final = {1: "Other", 2: "Unknown", 3: "SIMM", 9: "DIMM", 0x0D: "SODIMM", 0x0F: "FB-DIMM", 0x10: "Die"}
_MEMORY_TYPES: Final = {1: "Other", 2: "Unknown", 7: "RAM", 0x18: "DDR3", 0x1A: "DDR4", 0x1B: "LPDDR", 0x22: "DDR5"}


def _entries(structure: Structure) -> Iterator[tuple[str, str]]:
    for name, offset in _SUBJECTS[structure.type][1].items():
        text = structure.text(offset)
        if text not in _UNSET:
            yield name, text
    if structure.type == 0:
        major, minor = structure.number(0x14, "B"), structure.number(0x15, "B")
        if (major, minor) not in {(0, 0), (255, 255)}:
            yield "release", f"{major}.{minor}"
    elif structure.type == 1 and len(structure.data) >= 0x18:
        raw = structure.data[8:24]
        if raw not in {bytes(16), b"\xff" * 16}:
            # The first three fields are little-endian (section 7.2.1).
            yield "uuid", str(uuid.UUID(bytes_le=raw))
    elif structure.type == 4:
        for name, offset in (("external_clock", 0x12), ("max_speed", 0x14)):
            if speed := structure.number(offset, "H"):
                yield name, f"{speed} MHz"
    elif structure.type == 17:
        size = structure.number(0x0C, "H")
        if size == 0x7FFF:
            yield "size", f"{structure.number(0x1C, 'I') & 0x7FFFFFFF} MB"
        elif size not in {0, 0xFFFF}:
            yield "size", f"{size & 0x7FFF} {'kB' if size & 0x8000 else 'MB'}"
        yield "form_factor", _MEMORY_FORMS.get(structure.number(0x0E, "B"), "Unknown")
        yield "type", _MEMORY_TYPES.get(structure.number(0x12, "B"), "Unknown")
        if speed := structure.number(0x15, "H"):
            yield "speed", f"{speed} MT/s"


def format_sysinfo(structures: Sequence[Structure]) -> str:
    """Return the ``<sysinfo>`` document."""
    parts = []
    for kind, (element, _) in _SUBJECTS.items():
        for structure in structures:
            if structure.type == kind:
                entries = tuple(Node("entry", (("name", name),), text=text) for name, text in _entries(structure))
                if entries:
                    parts.append(Node(element, (), children=entries))
    oem = [text for structure in structures if structure.type == 11 for text in structure.strings if text]
    if oem:
        parts.append(Node("oemStrings", (), children=tuple(Node("entry", (), text=text) for text in oem)))
    return format_node(Node("sysinfo", (("type", "smbios"),), children=tuple(parts)))
