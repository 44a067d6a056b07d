"""An engine that plays a script of exits instead of running code."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from pyhyve.accel.api import ExitKind, VcpuExit

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from pyhyve.accel.api import InterruptChip
    from pyhyve.memory.guest import GuestMemory


class FakeVcpu:
    """Runs a generator; each `yield` is an exit that the helpers below have filled in."""

    def __init__(self, index: int, script: Callable[[FakeVcpu], Generator[None, None, None]]) -> None:
        self.index = index
        self.exit = VcpuExit()
        self.registers: dict[str, int] = {"rip": 0xFFF0, "cs.base": 0xFFFF0000}
        self.vectors: list[int] = []
        self.nmis = 0
        self.resets = 0
        self.intr = False
        self._script = script
        self._running = script(self)
        self._kicked = threading.Event()

    def run(self) -> VcpuExit:
        if self._kicked.is_set():
            self._kicked.clear()
            self.exit.kind = ExitKind.KICKED
            return self.exit
        if self.intr:
            self.exit.kind = ExitKind.INTERRUPT_WINDOW
            return self.exit
        next(self._running)
        return self.exit

    def kick(self) -> None:
        self._kicked.set()

    def set_interrupt(self, *, pending: bool) -> None:
        self.intr = pending

    def inject(self, vector: int) -> None:
        self.vectors.append(vector)

    def raise_nmi(self) -> None:
        self.nmis += 1

    def read_registers(self) -> Mapping[str, int]:
        return self.registers

    def write_registers(self, values: Mapping[str, int]) -> None:
        self.registers.update(values)

    def reset(self) -> None:
        self.resets += 1
        self._running = self._script(self)

    # -- for scripts --------------------------------------------------------------------------------------------------

    def _access(self, kind: ExitKind, address: int, size: int, value: int, *, is_write: bool) -> None:
        reason = self.exit
        reason.kind, reason.address, reason.size = kind, address, size
        reason.value, reason.is_write, reason.failed = value, is_write, False

    def out(self, port: int, value: int, size: int = 1) -> Generator[None, None, None]:
        self._access(ExitKind.IO, port, size, value, is_write=True)
        yield

    def inp(self, port: int, size: int = 1) -> Generator[None, None, int]:
        self._access(ExitKind.IO, port, size, 0, is_write=False)
        yield
        return self.exit.value

    def store(self, address: int, value: int, size: int = 4) -> Generator[None, None, None]:
        self._access(ExitKind.MMIO, address, size, value, is_write=True)
        yield

    def load(self, address: int, size: int = 4) -> Generator[None, None, int]:
        self._access(ExitKind.MMIO, address, size, 0, is_write=False)
        yield
        return self.exit.value

    def rdmsr(self, msr: int) -> Generator[None, None, int | None]:
        self._access(ExitKind.MSR_READ, msr, 8, 0, is_write=False)
        yield
        return None if self.exit.failed else self.exit.value

    def wrmsr(self, msr: int, value: int) -> Generator[None, None, bool]:
        self._access(ExitKind.MSR_WRITE, msr, 8, value, is_write=True)
        yield
        return not self.exit.failed

    def leave(self, kind: ExitKind, message: str = "") -> Generator[None, None, None]:
        self.exit.kind = kind
        self.exit.message = message
        yield


class FakeVm:
    """A `Vm` of scripted vCPUs."""

    has_kernel_irqchip = False

    def __init__(self, memory: GuestMemory, *scripts: Callable[[FakeVcpu], Generator[None, None, None]]) -> None:
        self.memory = memory
        self.vcpus: list[FakeVcpu] = []
        self.closed = False
        self.pauses_noted = 0
        self._scripts = scripts

    def create_vcpu(self, index: int) -> FakeVcpu:
        vcpu = FakeVcpu(index, self._scripts[index])
        self.vcpus.append(vcpu)
        return vcpu

    def note_pause(self) -> None:
        self.pauses_noted += 1

    def irqchip(self) -> InterruptChip:
        raise NotImplementedError

    def on_notify(self, address: int, size: int, callback: Callable[[int], None], *, is_port: bool = False) -> None:
        del address, size, callback, is_port

    def close(self) -> None:
        self.closed = True
