"""What the KVM benchmarks share: guests, commands, and the smallest kernel there is."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import require_program
from pyhyve.boot.vmlinux import find_vmlinux
from pyhyve.guest.builder import DEFAULT_NAME, GuestSpec, build_guest, find_guest
from pyhyve.kvm.probe import KvmKind, probe
from pyhyve.support.errors import UserError

if TYPE_CHECKING:
    from pyhyve.guest.repository import Report

MEMORY_MIB = 256
LOAD_GPA = 0x100000
SIGN = b"@"
_NOTE_XEN_PHYS32_ENTRY = 18
# mov edx, 0x3f8 / mov al, '@' / out dx, al / mov al, '\n' / out dx, al / cli / hlt / jmp $-1
_CODE = bytes.fromhex("baf8030000 b040 ee b00a ee fa f4 ebfd")


def require_kvm() -> None:
    """Raise UserError where no hardware KVM is: there these benchmarks run in the nested machine."""
    found = probe()
    if not found.usable:
        msg = f"{found.reason}; use python -m tests.nested --qemu --shell 'python3 -m benchmarks boot --accel kvm'"
        raise UserError(msg)


def require_any_kvm() -> bool:
    """Whether it is hardware KVM. Raises UserError where `/dev/kvm` does not open; the smallest kernels run on any."""
    found = probe()
    if found.kind is KvmKind.NONE:
        raise UserError(found.reason)
    return found.kind is KvmKind.HARDWARE


def guest_files(report: Report) -> tuple[Path, Path]:
    """Kernel and initrd: those the nested machine was given, or a guest built here."""
    given = os.environ.get("PYHYVE_GUESTS_GIVEN")
    guest = find_guest(DEFAULT_NAME) if given else build_guest(GuestSpec(), report, lambda _text: None)
    return guest.kernel, guest.initrd


def unpacked(kernel: Path) -> Path:
    """The kernel inside a bzImage, as ours caches it. Raises UserError when it has no PVH entry."""
    with kernel.open("rb") as file:
        found = find_vmlinux(kernel, file)
    if found is None:
        msg = f"{kernel}: no kernel with a PVH entry in it"
        raise UserError(msg)
    return found


def tiny_kernel(path: Path) -> Path:
    """Write a PVH kernel that prints one character on the first serial port, then halts."""
    note = struct.pack("<III4sI", 4, 4, _NOTE_XEN_PHYS32_ENTRY, b"Xen\0", LOAD_GPA)
    headers = 64 + 2 * 56
    note_at, code_at = headers, 0x1000
    elf = struct.pack(
        "<4sBBBB8xHHIQQQIHHHHHH",
        *(b"\x7fELF", 2, 1, 1, 0, 2, 62, 1, LOAD_GPA, 64, 0, 0, 64, 56, 2, 0, 0, 0),
    )
    load = struct.pack("<IIQQQQQQ", 1, 5, code_at, LOAD_GPA, LOAD_GPA, len(_CODE), len(_CODE), 0x1000)
    notes = struct.pack("<IIQQQQQQ", 4, 4, note_at, 0, 0, len(note), len(note), 4)
    path.write_bytes((elf + load + notes + note).ljust(code_at, b"\0") + _CODE)
    return path


def ours(kernel: Path, initrd: Path | None, append: str, *, any_kvm: bool = False) -> list[str]:
    """`pyhyve run` on KVM; `any_kvm` takes software flavours too."""
    installed = ("-c", "from pyhyve.cli.main import command; command()")  # what the installed program consists of
    command = [
        *(
            sys.executable,
            *((str(Path(__file__).with_name("on_any_kvm.py")),) if any_kvm else installed),
            "run",
            "--accel",
            "kvm",
            "--memory",
            f"{MEMORY_MIB}M",
            "--no-reboot",
        ),
        *("--kernel", str(kernel), "--append", append),
    ]
    return command if initrd is None else [*command, "--initrd", str(initrd)]


def qemu(machine: str, kernel: Path, initrd: Path | None, append: str) -> list[str]:
    """QEMU on KVM with the same memory, one CPU and a serial port."""
    program = require_program("qemu-system-x86_64", "qemu-system-x86")
    command = [
        *(program, "-accel", "kvm", "-cpu", "host", "-machine", machine, "-m", f"{MEMORY_MIB}M", "-nodefaults"),
        *("-display", "none", "-serial", "stdio", "-no-reboot", "-kernel", str(kernel), "-append", append),
    ]
    return command if initrd is None else [*command, "-initrd", str(initrd)]


def qemu_version() -> str:
    """As QEMU says it."""
    program = require_program("qemu-system-x86_64", "qemu-system-x86")
    text = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    return text.split("\n", 1)[0].removeprefix("QEMU emulator version ").split(" ")[0]
