"""Kernel images made for tests."""

from __future__ import annotations

import struct


def bzimage(
    *,
    version: int = 0x20F,
    kernel: bytes = b"\x90" * 4096,
    setup_sectors: int = 1,
    loadflags: int = 1,
    xloadflags: int = 1,
    pref_address: int = 0x1000000,
    init_size: int = 0x200000,
    relocatable: int = 1,
    alignment: int = 0x200000,
    initrd_addr_max: int = 0x7FFFFFFF,
    cmdline_size: int = 2047,
    syssize: int | None = None,
    payload: bytes = b"",
    release: str = "",
) -> bytes:
    """A bzImage with these header fields; `payload` is the packed kernel in its code, `release` its version text."""
    payload_offset = 0x300
    if payload:
        kernel = kernel[:payload_offset].ljust(payload_offset, b"\x90") + payload
        kernel += bytes(-len(kernel) % 16)
    image = bytearray((setup_sectors + 1) * 512 if setup_sectors else 5 * 512)
    image[0x1F1] = setup_sectors
    struct.pack_into("<I", image, 0x1F4, len(kernel) // 16 if syssize is None else syssize)
    image[0x1FE:0x202] = b"\x55\xaa\xeb\x6a"
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x206, version)
    image[0x211] = loadflags
    struct.pack_into("<II", image, 0x22C, initrd_addr_max, alignment)
    image[0x234] = relocatable
    struct.pack_into("<HI", image, 0x236, xloadflags, cmdline_size)
    struct.pack_into("<QI", image, 0x258, pref_address, init_size)
    if payload:
        struct.pack_into("<II", image, 0x248, payload_offset, len(payload))
    if release:
        struct.pack_into("<H", image, 0x20E, 0x100)
        image[0x300 : 0x300 + len(release)] = release.encode()
    return bytes(image) + kernel


def pvh_elf(*, entry: int = 0x1000123, gpa: int = 0x1000000, payload: bytes = b"\xf4" * 64, note: bool = True) -> bytes:
    """An ELF-64 kernel with one segment and, unless told otherwise, the PVH note."""
    name = b"Xen\0" if note else b"GNU\0"
    notes = struct.pack("<III", 4, 1, 6) + b"Xen\0" + b"\x01\0\0\0" + struct.pack("<III", 4, 4, 18) + name
    notes += struct.pack("<I", entry)
    notes_at = 64 + 2 * 56
    payload_at = notes_at + len(notes)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    head = ident + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, gpa, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 7, payload_at, 0, gpa, len(payload), 0x1000, 0x1000)
    note_header = struct.pack("<IIQQQQQQ", 4, 4, notes_at, 0, 0, len(notes), len(notes), 4)
    return head + load + note_header + notes + payload
