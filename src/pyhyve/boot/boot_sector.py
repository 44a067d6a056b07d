"""A boot sector that loads a Linux kernel and its initial RAM disk through a PC's firmware, and enters the kernel.

The kernel is entered as Linux Documentation/arch/x86/boot.rst says for real mode; whoever writes the disk has filled in
the setup header already, so that the code only copies. It reads by INT 13h, function 42h (EDD 3.0), and moves what it
read above 1 MiB by INT 15h, function 87h; INT 15h, E801h says how much memory there is. Errors go to the screen
(INT 10h, 0Eh), which SeaBIOS also shows on a serial console.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from pyhyve.boot.errors import BootError
from pyhyve.support.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence

SECTOR_BYTES = 512
READ_SECTORS = 56
"""Sectors of one read: they fit into 64 KiB, and two reads to REAL_MODE_GPA end below the BIOS's own data."""
READ_BYTES = READ_SECTORS * SECTOR_BYTES
REAL_MODE_GPA = 0x9_0000
"""Where the code expects the kernel's setup sectors."""
STACK_OFFSET = 0xC000
"""Where the kernel's real-mode stack begins, counted from there."""
PIECES = 3
_BUFFER_SEGMENT = 0x1000
_LOW_END_BYTES = 16 << 20
_BLOCK_BYTES = 1 << 16
_MESSAGE_LIMITS = (0x40, 0x1C)
_TABLE_OFFSET = 0x1BE
_DATA_OFFSET = 0x100
_SIGNATURE = b"\x55\xaa"

CODE = (
    ("31c0", "xor ax, ax"),
    ("8ed8", "mov ds, ax"),
    ("8ec0", "mov es, ax"),
    ("8ed0", "mov ss, ax"),
    ("bc007c", "mov sp, 0x7c00"),
    ("fc", "cld"),
    ("8816007d", "mov byte ptr [0x7d00], dl"),
    ("b801e8", "mov ax, 0xe801"),
    ("cd15", "int 0x15"),
    ("7276", "jb 0x7c8d"),
    ("85c0", "test ax, ax"),
    ("7402", "je 0x7c1d"),
    ("89da", "mov dx, bx"),
    ("3b16027d", "cmp dx, word ptr [0x7d02]"),
    ("726a", "jb 0x7c8d"),
    ("bd447d", "mov bp, 0x7d44"),
    # next_piece:
    ("668b4600", "mov eax, dword ptr [bp]"),
    ("66a30c7d", "mov dword ptr [0x7d0c], eax"),
    # next_read:
    ("b442", "mov ah, 0x42"),
    ("8a16007d", "mov dl, byte ptr [0x7d00]"),
    ("be047d", "mov si, 0x7d04"),
    ("cd13", "int 0x13"),
    ("7257", "jb 0x7c92"),
    ("668b4604", "mov eax, dword ptr [bp + 4]"),
    ("66a32e7d", "mov dword ptr [0x7d2e], eax"),
    ("c606317d93", "mov byte ptr [0x7d31], 0x93"),
    ("66c1e818", "shr eax, 0x18"),
    ("a2337d", "mov byte ptr [0x7d33], al"),
    ("b487", "mov ah, 0x87"),
    ("b90038", "mov cx, 0x3800"),
    ("be147d", "mov si, 0x7d14"),
    ("cd15", "int 0x15"),
    ("7237", "jb 0x7c92"),
    ("6681460400700000", "add dword ptr [bp + 4], 0x7000"),
    ("6683060c7d38", "add dword ptr [0x7d0c], 0x38"),
    ("ff4e08", "dec word ptr [bp + 8]"),
    ("75c0", "jne 0x7c2e"),
    ("83c50a", "add bp, 0xa"),
    ("81fd627d", "cmp bp, 0x7d62"),
    ("72af", "jb 0x7c26"),
    ("fa", "cli"),
    ("b80090", "mov ax, 0x9000"),
    ("8ed8", "mov ds, ax"),
    ("8ec0", "mov es, ax"),
    ("8ee0", "mov fs, ax"),
    ("8ee8", "mov gs, ax"),
    ("8ed0", "mov ss, ax"),
    ("bc00c0", "mov sp, 0xc000"),
    ("ea00002090", "ljmp 0x9020:0"),
    # too_small:
    ("be627d", "mov si, 0x7d62"),
    ("eb03", "jmp 0x7c95"),
    # unreadable:
    ("bea27d", "mov si, 0x7da2"),
    # print:
    ("ac", "lodsb al, byte ptr [si]"),
    ("84c0", "test al, al"),
    ("7409", "je 0x7ca3"),
    ("b40e", "mov ah, 0xe"),
    ("bb0700", "mov bx, 7"),
    ("cd10", "int 0x10"),
    ("ebf2", "jmp 0x7c95"),
    # stop:
    ("f4", "hlt"),
    ("ebfd", "jmp 0x7ca3"),
)
"""The code at 7C00h: bytes in hexadecimal digits, and what they say."""


@dataclass(frozen=True, slots=True)
class Piece:
    """`reads` times READ_BYTES from sector `lba` to address `gpa`."""

    lba: int
    gpa: int
    reads: int


@dataclass(frozen=True, slots=True)
class Partition:
    """The one entry of the partition table; sectors of 512 bytes."""

    kind: int
    lba: int
    sectors: int


def boot_sector(pieces: Sequence[Piece], memory_bytes: int, partition: Partition) -> bytes:
    """The disk's first 512 bytes, which load `pieces` on machines with at least `memory_bytes`.

    Raises BootError unless there are three pieces, each of 1 to 65,535 reads within the first 2 TiB and 4 GiB.
    """
    if len(pieces) != PIECES or not all(0 < piece.reads < 1 << 16 for piece in pieces):
        msg = f"a boot sector loads {PIECES} pieces of 1 to 65535 reads"
        raise BootError(msg)
    if any(piece.lba >> 32 or (piece.gpa + piece.reads * READ_BYTES) >> 32 for piece in pieces):
        msg = "a boot sector reads from the first 2 TiB of a disk, to the first 4 GiB of memory"
        raise BootError(msg)
    needed_blocks = -(-max(0, memory_bytes - _LOW_END_BYTES) // _BLOCK_BYTES)
    data = struct.pack("<xxH", min(needed_blocks, 0xFFFF))
    data += struct.pack("<BxHHHQ", 16, READ_SECTORS, 0, _BUFFER_SEGMENT, 0)
    data += bytes(16) + _descriptor(_BUFFER_SEGMENT << 4) + _descriptor(0) + bytes(16)
    data += b"".join(struct.pack("<IIH", piece.lba, piece.gpa, piece.reads) for piece in pieces)
    messages = (f"This disk needs {-(-memory_bytes >> 20)} MiB of memory\r\n", "This disk cannot be read\r\n")
    for text, limit in zip(messages, _MESSAGE_LIMITS, strict=True):
        data += text.encode().ljust(limit, b"\0")
    code = bytes.fromhex("".join(digits for digits, _ in CODE)).ljust(_DATA_OFFSET, b"\0")
    return (code + data).ljust(_TABLE_OFFSET, b"\0") + _entry(partition) + bytes(48) + _SIGNATURE


def _descriptor(base: int) -> bytes:
    """A data segment of 64 KiB."""
    return struct.pack("<HHBBBB", 0xFFFF, base & 0xFFFF, base >> 16 & 0xFF, 0x93, 0, base >> 24)


def _entry(partition: Partition) -> bytes:
    """A bootable entry; cylinders, heads and sectors say that only sector numbers count."""
    chs = b"\xfe\xff\xff"
    return b"\x80" + chs + bytes([partition.kind]) + chs + struct.pack("<II", partition.lba, partition.sectors)
