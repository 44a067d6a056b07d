"""Guests of a few instructions, in machine code: kernels with a PVH entry, and boot sectors."""

from __future__ import annotations

import struct

LOAD_GPA = 0x10_0000
SECTOR_BYTES = 512
_PT_LOAD, _PT_NOTE = 1, 4
_XEN_PHYS32_ENTRY = 18

HALT = b"\xf4\xeb\xfd"
"""`again: hlt; jmp again`."""


def out32(port: int, value: int, size: int = 1) -> bytes:
    """OUT of a constant, in 32-bit code."""
    load = b"\xb8" + struct.pack("<I", value) + b"\xba" + struct.pack("<I", port)
    return load + {1: b"\xee", 2: b"\x66\xef", 4: b"\xef"}[size]


ACPI_SLEEP_S5 = out32(0x604, 0x3400, size=2)
"""Powers the machine off, in 32-bit code."""


def print32(text: str) -> bytes:
    """Write `text` to COM1, in 32-bit code."""
    return b"".join(out32(0x3F8, byte) for byte in text.encode())


def print16(text: str) -> bytes:
    """Write `text` to COM1, in 16-bit code."""
    return b"\xba\xf8\x03" + b"".join(b"\xb0" + bytes((byte,)) + b"\xee" for byte in text.encode())


def kernel(code: bytes) -> bytes:
    """An ELF-32 kernel that runs `code` in 32-bit protected mode, with paging and interrupts off."""
    note = struct.pack("<III4sI", 4, 4, _XEN_PHYS32_ENTRY, b"Xen", LOAD_GPA)
    note_at = 52 + 2 * 32
    code_at = note_at + len(note)
    head = b"\x7fELF\x01\x01\x01" + bytes(9)
    head += struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, LOAD_GPA, 52, 0, 0, 52, 32, 2, 0, 0, 0)
    load = struct.pack("<8I", _PT_LOAD, code_at, LOAD_GPA, LOAD_GPA, len(code), len(code), 7, 4096)
    notes = struct.pack("<8I", _PT_NOTE, note_at, 0, 0, len(note), len(note), 4, 4)
    return head + load + notes + note + code


def boot_sector(code: bytes) -> bytes:
    """A master boot record with `code`, entered in real mode at 0:7C00."""
    return code.ljust(SECTOR_BYTES - 2, b"\0") + b"\x55\xaa"
