"""Guests for tests of the daemon: a boot sector that greets on the serial port and echoes what it is sent."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

CODE = bytes.fromhex(
    "bafd03"  # again: mov dx, 0x3fd
    "ec"  # in al, dx
    "a801"  # test al, 1
    "74fb"  # jz -5
    "baf803"  # mov dx, 0x3f8
    "ec"  # in al, dx
    "ee"  # out dx, al
    "ebf1"  # jmp again
)
GREETING = b"ready\n"
EMULATORS = {
    "qemu": shutil.which("qemu-system-x86_64"),
    "pyhyve": shutil.which("pyhyve-system-x86_64", path=str(Path(sys.executable).parent)),
}


def boot_sector() -> bytes:
    """512 bytes that a BIOS boots."""
    hello = b"".join(b"\xba\xf8\x03\xb0" + bytes([letter]) + b"\xee" for letter in GREETING)
    code = hello + CODE
    return code.ljust(510, b"\0") + b"\x55\xaa"


def make_disk(path: Path, size_mib: int = 4) -> Path:
    """A raw disk with the boot sector."""
    path.write_bytes(boot_sector().ljust(size_mib << 20, b"\0"))
    return path


def document(name: str, disk: Path | None = None, *, emulator: str = "qemu", devices: str = "", extra: str = "") -> str:
    """A small domain's document."""
    path = EMULATORS[emulator]
    shown = (
        f"<disk type='file' device='disk'><driver name='qemu' type='{'qcow2' if disk.suffix == '.qcow2' else 'raw'}'/>"
        f"<source file='{disk}'/><target dev='vda' bus='virtio'/></disk>"
        if disk is not None
        else ""
    )
    cpu = "<cpu mode='maximum'/>" if emulator == "pyhyve" else ""
    return f"""<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory>{extra}
    <os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features>{cpu}<devices>
    <emulator>{path}</emulator>{shown}{devices}</devices></domain>"""


BUSY_CODE = bytes.fromhex(
    "31db"  # xor bx, bx
    "43"  # again: inc bx
    "0f20c0663500000100 0f22c0"  # flip CR0.WP: emulators forget translations, and so notice writes to memory again
    "b80020"  # mov ax, 0x2000
    "8ec0"  # next: mov es, ax
    "50"  # push ax
    "31ff"  # xor di, di
    "b90080"  # mov cx, 0x8000
    "89d8"  # mov ax, bx
    "f3ab"  # rep stosw
    "58"  # pop ax
    "050010"  # add ax, 0x1000
    "3d0090"  # cmp ax, 0x9000
    "75eb"  # jne next
    "ebd9"  # jmp again
)
"""A guest that writes 448 KiB of its memory over and over: too much to send it live where little may be sent."""


def make_busy_disk(path: Path) -> Path:
    """A raw disk with a guest that never rests."""
    path.write_bytes((BUSY_CODE.ljust(510, b"\0") + b"\x55\xaa").ljust(1 << 20, b"\0"))
    return path
