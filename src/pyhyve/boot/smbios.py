"""SMBIOS tables (DMTF DSP0134 3.7): enough for tools that show what machine this is."""

from __future__ import annotations

import struct

from pyhyve.support.enums import IntEnum
from pyhyve.support.hints import Protocol

ENTRY_POINT_BYTES = 24
_MIB = 1 << 20
_EXTENDED_SIZE_FROM_MIB = 0x7FFF


class HasUuidBytes(Protocol):
    """A UUID, as the standard library's is."""

    @property
    def bytes_le(self) -> bytes:
        """Its first three fields in little-endian order."""


class StructureType(IntEnum):
    """Structure types."""

    BIOS = 0
    SYSTEM = 1
    CHASSIS = 3
    PROCESSOR = 4
    MEMORY_ARRAY = 16
    MEMORY_DEVICE = 17
    MAPPED_ADDRESS = 19
    BOOT = 32
    END = 127


def build_smbios(base: int, *, name: str, version: str, uuid: HasUuidBytes, memory_bytes: int, cpus: int) -> bytes:
    """Entry point (64-bit, 5.2.2) at `base` (16-byte aligned), followed by the structures."""
    structures = _structures(name, version, uuid, memory_bytes, cpus)
    entry = bytearray(
        struct.pack(
            "<5sBBBBBBBIQ",
            b"_SM3_", 0, ENTRY_POINT_BYTES, 3, 0, 0, 1, 0, len(structures), base + 32,
        )
    )  # fmt: skip
    entry[5] = -sum(entry) & 0xFF
    return bytes(entry).ljust(32, b"\0") + structures


def structure(kind: StructureType, handle: int, body: bytes, *strings: str) -> bytes:
    """One structure: header, formatted area, strings (6.1.3)."""
    texts = b"".join(text.encode("utf-8", "replace").replace(b"\0", b" ") + b"\0" for text in strings if text)
    return struct.pack("<BBH", kind, 4 + len(body), handle) + body + (texts or b"\0") + b"\0"


def _structures(name: str, version: str, uuid: HasUuidBytes, memory_bytes: int, cpus: int) -> bytes:
    mib = memory_bytes // _MIB
    size_field, extended = (mib, 0) if mib < _EXTENDED_SIZE_FROM_MIB else (_EXTENDED_SIZE_FROM_MIB, mib)
    kib = memory_bytes >> 10
    parts = [
        structure(
            StructureType.BIOS,
            0x000,
            struct.pack("<BBHBBQBBBBBB", 1, 2, 0xE000, 3, 0, 1 << 3, 0, 0x14, 0, 0, 0xFF, 0xFF),
            "pyhyve", version, "01/01/2024",
        ),
        structure(
            StructureType.SYSTEM,
            0x100,
            struct.pack("<BBBB16sBBB", 1, 2, 3, 4, uuid.bytes_le, 6, 0, 0),
            "pyhyve", "Standard PC (i440FX)", version, name or "guest",
        ),
        structure(StructureType.CHASSIS, 0x300, bytes([1, 1, 2, 0, 0, 3, 3, 3, 2]), "pyhyve", version),
    ]  # fmt: skip
    parts.extend(
        structure(
            StructureType.PROCESSOR,
            0x400 + index,
            struct.pack("<BBBBQBBHHHBBHHH", 1, 3, 1, 2, 0, 0, 0, 0, 0, 0, 0x41, 1, 0xFFFF, 0xFFFF, 0xFFFF)
            + struct.pack("<BBBBBBHH", 0, 0, 0, 1, 1, 1, 0x04, 1),
            f"CPU {index}", "pyhyve",
        )
        for index in range(cpus)
    )  # fmt: skip
    parts += [
        structure(
            StructureType.MEMORY_ARRAY,
            0x1000,
            struct.pack("<BBBIHHQ", 1, 3, 6, min(kib, 0x8000_0000), 0xFFFE, 1, memory_bytes if kib >> 31 else 0),
        ),
        structure(
            StructureType.MEMORY_DEVICE,
            0x1100,
            struct.pack("<HHHHHBBBBBHHBBBBBIH", 0x1000, 0xFFFE, 64, 64, size_field, 9, 0, 1, 0, 7, 2, 0, 2, 0, 0, 0, 0,
                        extended, 0),
            "DIMM 0", "pyhyve",
        ),
        structure(
            StructureType.MAPPED_ADDRESS,
            0x1300,
            struct.pack("<IIHBQQ", 0, min(kib - 1, 0xFFFF_FFFE), 0x1000, 1, 0, 0),
        ),
        structure(StructureType.BOOT, 0x2000, bytes(7)),
        structure(StructureType.END, 0x7F00, b""),
    ]  # fmt: skip
    return b"".join(parts)
