"""SMBIOS tables (DMTF DSP0134 3.7): enough for tools that show what machine this is."""

from __future__ import annotations

import struct

from pyhyve.support.enums import IntEnum
from pyhyve.support.hints import Protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

ENTRY_POINT_BYTES = 24
_ANCHOR_BYTES = 31
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
    BASEBOARD = 2
    CHASSIS = 3
    PROCESSOR = 4
    OEM_STRINGS = 11
    MEMORY_ARRAY = 16
    MEMORY_DEVICE = 17
    MAPPED_ADDRESS = 19
    BOOT = 32
    END = 127


def build_smbios(base: int, structures: bytes) -> bytes:
    """Entry point (64-bit, 5.2.2) at `base` (16-byte aligned), followed by the structures."""
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


def build_anchor(structures: bytes) -> bytes:
    """An entry point of version 2.8 (32-bit, 5.2.1) for firmware, which fills in the address."""
    count, largest, at = 0, 0, 0
    while at < len(structures):
        end = structures.index(b"\0\0", at + structures[at + 1]) + 2
        count, largest, at = count + 1, max(largest, end - at), end
    inner = bytearray(struct.pack("<5sBHIHB", b"_DMI_", 0, min(len(structures), 0xFFFF), 0, count, 0x28))
    inner[5] = -sum(inner) & 0xFF
    head = struct.pack("<4sBBBBHB5x", b"_SM_", 0, _ANCHOR_BYTES, 2, 8, min(largest, 0xFFFF), 0)
    anchor = bytearray(head + inner)
    anchor[4] = -sum(anchor) & 0xFF
    return bytes(anchor)


def _with_strings(kind: StructureType, handle: int, layout: Sequence[bytes | str]) -> bytes:
    """A structure whose parts are bytes, or strings: those become their numbers, 0 for empty ones (6.1.3)."""
    texts = [part for part in layout if isinstance(part, str) and part]
    numbers = iter(range(1, len(texts) + 1))
    body = b"".join(part if isinstance(part, bytes) else bytes((next(numbers) if part else 0,)) for part in layout)
    return structure(kind, handle, body, *texts)


def _identities(name: str, version: str, uuid: HasUuidBytes, given: Sequence[Mapping[str, Any]]) -> list[bytes]:
    """What says who made the machine: BIOS, system, baseboard, chassis, strings of the manufacturer's."""
    fields: dict[int, dict[str, Any]] = {}
    for entry in given:
        fields.setdefault(entry["type"], {}).update(entry)
    bios, system, chassis = (fields.get(kind, {}) for kind in (0, 1, 3))
    release = [int(part) for part in str(bios.get("release", "0.0")).split(".")]
    extension = bytes((0, 0x1C if bios.get("uefi") else 0x14))
    parts = [
        _with_strings(
            StructureType.BIOS, 0x000,
            (bios.get("vendor", "pyhyve"), bios.get("version", version), struct.pack("<H", 0xE000),
             bios.get("date", "01/01/2024"), struct.pack("<BQ", 0, 1 << 3), extension, bytes(release), b"\xff\xff"),
        ),
        _with_strings(
            StructureType.SYSTEM, 0x100,
            (system.get("manufacturer", "pyhyve"), system.get("product", "Standard PC (i440FX)"),
             system.get("version", version), system.get("serial", name or "guest"), uuid.bytes_le, b"\x06",
             system.get("sku", ""), system.get("family", "")),
        ),
    ]  # fmt: skip
    if 2 in fields:
        board = fields[2]
        texts = [board.get(key, "") for key in ("manufacturer", "product", "version", "serial", "asset")]
        rest = (b"\x01", board.get("location", ""), struct.pack("<HBB", 0x300, 0x0A, 0))
        parts.append(_with_strings(StructureType.BASEBOARD, 0x200, (*texts, *rest)))
    texts = [chassis.get("version", version), chassis.get("serial", ""), chassis.get("asset", "")]
    state = bytes((3, 3, 3, 2)) + bytes(8)
    layout = (chassis.get("manufacturer", "pyhyve"), b"\x01", *texts, state, chassis.get("sku", ""))
    parts.append(_with_strings(StructureType.CHASSIS, 0x300, layout))
    strings = [str(entry["value"]) for entry in given if entry["type"] == StructureType.OEM_STRINGS]
    if strings:
        parts.append(structure(StructureType.OEM_STRINGS, 0xE00, bytes((len(strings),)), *strings))
    return parts


def build_structures(
    *,
    name: str,
    version: str,
    uuid: HasUuidBytes,
    memory_bytes: int,
    cpus: int,
    given: Sequence[Mapping[str, Any]] = (),
) -> bytes:
    """All structures. `given` are fields that replace ours, by QEMU's names, each with the `type` of its structure."""
    mib = memory_bytes // _MIB
    size_field, extended = (mib, 0) if mib < _EXTENDED_SIZE_FROM_MIB else (_EXTENDED_SIZE_FROM_MIB, mib)
    kib = memory_bytes >> 10
    parts = _identities(name, version, uuid, given)
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
