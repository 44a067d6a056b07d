"""QEMU under test: a second opinion, and the proof that `guest_kernel` works."""

from __future__ import annotations

import mmap
import os
import struct
import subprocess
import tempfile
import time
from pathlib import Path

from . import guest_kernel as kernel
from . import layout as at
from .guest_engine import GuestEngine

_TIMEOUT_S = 20.0


class QemuMachine:
    """QEMU with the RAM in a file both sides have mapped; they take turns by watching a word in it.

    Raises:
        FileNotFoundError: ``qemu-system-x86_64`` is not installed.
    """

    def __init__(self, *accelerator: str) -> None:
        self._accelerator = accelerator
        self._directory = tempfile.TemporaryDirectory()
        self._process: subprocess.Popen[bytes] | None = None
        self.ram = memoryview(b"")

    def start(self, image: kernel.KernelImage) -> None:
        """Start QEMU anew."""
        self._stop()
        ram, rom = Path(self._directory.name, "ram"), Path(self._directory.name, "rom")
        ram.unlink(missing_ok=True)
        ram.write_bytes(image.ram)
        rom.write_bytes(image.rom)
        with ram.open("r+b") as file:
            self.ram = memoryview(mmap.mmap(file.fileno(), kernel.RAM_SIZE))
        size = f"{kernel.RAM_SIZE >> 20}M"
        self._process = subprocess.Popen(
            [
                "qemu-system-x86_64", *self._accelerator, "-nodefaults", "-display", "none", "-no-reboot",
                "-machine", "pc,memory-backend=ram", "-m", size, "-bios", str(rom),
                "-object", f"memory-backend-file,id=ram,share=on,mem-path={ram},size={size}",
            ],
        )  # fmt: skip

    def go_on(self) -> int:
        """Ring, and watch until the kernel answers."""
        mailbox = kernel.MAILBOX_GPA
        struct.pack_into("<I", self.ram, mailbox, 1)
        deadline = time.monotonic() + _TIMEOUT_S
        turns = 0
        while self.ram[mailbox] == 1:
            os.sched_yield()
            turns += 1
            if turns & 0xFFF == 0:
                if self._process is None or self._process.poll() is not None:
                    return at.VECTOR_DIED
                if time.monotonic() > deadline:
                    return at.VECTOR_HUNG
        return at.VECTOR_DONE

    def _stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """End QEMU."""
        self._stop()
        self._directory.cleanup()


def tcg() -> GuestEngine:
    """QEMU's own translator."""
    machine = QemuMachine("-accel", "tcg", "-cpu", "Haswell")
    return GuestEngine("qemu", machine, kernel.Doorbell.MEMORY)
