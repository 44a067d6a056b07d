"""A minimal PC BIOS for kernels entered through their 16-bit setup code: interrupt vectors and memory sizes.

Interrupts the setup code lives without (disks, video modes, power management) answer "not supported": carry set.
Memory is reported through INT 15h, functions E820h, E801h and 88h (ACPI 6.5, 15.1; Ralf Brown's interrupt list).
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyhyve.boot.e820 import E820Entry
    from pyhyve.memory.guest import GuestMemory

BIOS_SEGMENT = 0xF800
_VECTORS = 256
_ONE_MIB, _SIXTEEN_MIB = 1 << 20, 1 << 24
_LARGEST_KIB = 0xFFFF
_E801_BELOW_16M_KIB = 15 << 10

# The handlers, at fixed offsets of BIOS_SEGMENT. Each is entered with IP, CS and FLAGS on the stack, interrupts off.
_UNSUPPORTED, _IGNORE, _END_SLAVE, _END_MASTER = 0x00, 0x0B, 0x0C, 0x15
_VIDEO, _BASE_MEMORY, _KEYBOARD, _SYSTEM = 0x1C, 0x31, 0x35, 0x38
_DATA = 0xA0
"""Entry count, KiB for 88h, KiB below 16 MiB and 64 KiB blocks above it for E801h; then the E820 table."""
_CODE = bytes.fromhex(
    # 00 unsupported: set the caller's carry flag, AH = 86h (no such function)
    "55 89e5 804e0601"  # push bp; mov bp, sp; or byte [bp+6], 1
    "b486 5d cf"  # mov ah, 0x86; pop bp; iret
    # 0b ignore
    "cf"  # iret
    # 0c end of a slave's interrupt
    "50 b020 e6a0 e620 58 cf"  # push ax; mov al, 0x20; out 0xa0, al; out 0x20, al; pop ax; iret
    # 15 end of a master's interrupt
    "50 b020 e620 58 cf"  # push ax; mov al, 0x20; out 0x20, al; pop ax; iret
    # 1c video: 0Fh is 80-column text on page 0, 03h a cursor at the origin, the rest does nothing
    "80fc0f 740a 80fc03 7504"  # cmp ah, 0x0f; je 2b; cmp ah, 3; jne 2a
    "31c9 31d2 cf"  # xor cx, cx; xor dx, dx; 2a: iret
    "b80350 30ff cf"  # 2b: mov ax, 0x5003; xor bh, bh; iret
    # 31 base memory
    "b87f02 cf"  # mov ax, 639; iret
    # 35 keyboard: no key, no shift
    "31c0 cf"  # xor ax, ax; iret
    # 38 system services
    "663d20e80000 741f"  # cmp eax, 0xe820; je 5f
    "3d01e8 740b"  # cmp ax, 0xe801; je 50
    "80fc88 75b6"  # cmp ah, 0x88; jne unsupported
    "2ea1a200 eb45"  # mov ax, cs:[a2]; jmp 95
    "2ea1a400 89c1"  # 50: mov ax, cs:[a4]; mov cx, ax
    "2e8b1ea600 89da eb36"  # mov bx, cs:[a6]; mov dx, bx; jmp 95
    "6681fa50414d53 7598"  # 5f: cmp edx, 'SMAP'; jne unsupported
    "2e3b1ea000 7391"  # cmp bx, cs:[a0]; jae unsupported
    "56 57 6bf314 81c6a800"  # push si; push di; imul si, bx, 20; add si, a8
    "b90a00 fc 2ef3a5 5f 5e"  # mov cx, 10; cld; rep movsw es:[di], cs:[si]; pop di; pop si
    "43 2e3b1ea000 7203"  # inc bx; cmp bx, cs:[a0]; jb 8c
    "6631db 6689d0 66b914000000"  # xor ebx, ebx; 8c: mov eax, edx; mov ecx, 20
    "55 89e5 806606fe 5d cf"  # 95: push bp; mov bp, sp; and byte [bp+6], 0xfe; pop bp; iret
    "9090"
)


def install_bios(memory: GuestMemory, e820: Sequence[E820Entry]) -> None:
    """Write vectors, handlers and memory map into low guest memory."""
    usable = sum(entry.size_bytes for entry in e820 if entry.type == 1 and entry.base == _ONE_MIB)
    extended_kib = usable >> 10
    data = struct.pack(
        "<HHHH",
        len(e820),
        min(extended_kib, _LARGEST_KIB),
        min(extended_kib, _E801_BELOW_16M_KIB),
        min(max(usable + _ONE_MIB - _SIXTEEN_MIB, 0) >> 16, _LARGEST_KIB),
    )
    table = b"".join(struct.pack("<QQI", entry.base, entry.size_bytes, entry.type) for entry in e820)
    memory.write(BIOS_SEGMENT << 4, _CODE + data + table)
    memory.write(0, b"".join(struct.pack("<HH", _handler(vector), BIOS_SEGMENT) for vector in range(_VECTORS)))


def _handler(vector: int) -> int:
    """Offset of the code for an interrupt vector of the PC."""
    special = {0x10: _VIDEO, 0x11: _KEYBOARD, 0x12: _BASE_MEMORY, 0x15: _SYSTEM, 0x16: _KEYBOARD}
    if vector in special:
        return special[vector]
    if 0x08 <= vector < 0x10:
        return _END_MASTER
    if 0x70 <= vector < 0x78:
        return _END_SLAVE
    return _IGNORE if vector < 0x08 else _UNSUPPORTED
