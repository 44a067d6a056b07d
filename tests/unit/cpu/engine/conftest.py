"""A small long-mode guest without devices: flat, identity-mapped, at CPL 0."""

from __future__ import annotations

import struct
import threading
from typing import TYPE_CHECKING

import pytest

from pyhyve.accel.api import ExitKind
from pyhyve.accel.emulator import EmulatorVm
from pyhyve.memory.guest import GuestMemory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyhyve.accel.api import VcpuExit

RAM_BYTES = 8 << 20
TABLES = 0x100000
CODE = 0x10000
STACK = 0x80000
WATCHDOG_S = 60.0
IDT = 0x3000
GDT = 0x2000


class Guest:
    """Write code, set registers, run to HLT."""

    def __init__(self) -> None:
        self.memory = GuestMemory()
        self.memory.add(0, RAM_BYTES)
        self.vm = EmulatorVm(self.memory)
        self.vcpu = self.vm.create_vcpu(0)
        self.memory.write(TABLES, struct.pack("<Q", TABLES + 0x1003))
        self.memory.write(TABLES + 0x1000, struct.pack("<Q", TABLES + 0x2003))
        self.memory.write(TABLES + 0x2000, struct.pack("<Q", TABLES + 0x3003))
        for page in range(512):
            self.map(page << 12, page << 12)
        for entry in range(1, 4):
            self.memory.write(TABLES + 0x2000 + 8 * entry, struct.pack("<Q", entry << 21 | 0x83))
        self.memory.write(GDT, struct.pack("<3Q", 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF))
        segment = {"base": 0, "limit": 0xFFFFFFFF, "attributes": 0xC093, "selector": 16}
        values = {f"{name}.{part}": v for name in ("ds", "es", "ss", "fs", "gs") for part, v in segment.items()}
        values |= {"cs.base": 0, "cs.limit": 0xFFFFFFFF, "cs.attributes": 0xA09B, "cs.selector": 8}
        self.vcpu.write_registers(
            values
            | {
                "cr0": 0x80000031,
                "cr3": TABLES,
                "cr4": 0x620,
                "efer": 0xD00,
                "rflags": 2,
                "rsp": STACK,
                "rip": CODE,
                "gdtr.base": GDT,
                "gdtr.limit": 23,
                "idtr.base": IDT,
                "idtr.limit": 0xFFF,
            }
        )

    def map(self, address: int, gpa: int, flags: int = 3) -> None:
        """Map one of the first 512 pages."""
        self.memory.write(TABLES + 0x3000 + 8 * (address >> 12), struct.pack("<Q", gpa | flags))

    def gate(self, vector: int, handler: int) -> None:
        """An interrupt gate to `handler`."""
        low = handler & 0xFFFF | 8 << 16 | 0x8E00 << 32 | (handler >> 16 & 0xFFFF) << 48
        self.memory.write(IDT + 16 * vector, struct.pack("<2Q", low, handler >> 32))

    def code(self, text: str, at: int = CODE) -> None:
        """Machine code in hexadecimal, written by the host."""
        self.memory.write(at, bytes.fromhex(text))

    def run(self, **registers: int) -> VcpuExit:
        """Set registers, run until the machine is needed."""
        self.vcpu.write_registers(registers)
        return self.resume()

    def resume(self) -> VcpuExit:
        """Run until the machine is needed; a guest that never needs it is kicked out after some seconds."""
        watchdog = threading.Timer(WATCHDOG_S, self.vcpu.kick)
        watchdog.start()
        try:
            return self.vcpu.run()
        finally:
            watchdog.cancel()

    def run_to_halt(self, **registers: int) -> dict[str, int]:
        """Set registers, run; the guest must halt. Returns all registers."""
        reason = self.run(**registers)
        assert reason.kind == ExitKind.HALT, reason.kind
        return dict(self.vcpu.read_registers())


@pytest.fixture
def guest() -> Iterator[Guest]:
    made = Guest()
    yield made
    made.vm.close()
    made.memory.close()
