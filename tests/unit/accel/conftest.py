"""Machines of a few instructions on the host's /dev/kvm, whichever flavour it is."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from pyhyve.accel.api import ExitKind
from pyhyve.memory.guest import GuestMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyhyve.accel.kvm import KvmVm
    from pyhyve.accel.kvm_vcpu import KvmVcpu

CODE = 0x1000
MEMORY_SIZE_BYTES = 0x20000


class TinyMachine:
    """A VM with 128 KiB, real-mode code at 0x1000, and helpers to run it under a watchdog."""

    def __init__(self, code: bytes, **options: Any) -> None:
        from pyhyve.accel.kvm import KvmVm

        self.memory = GuestMemory()
        self.memory.add(0, MEMORY_SIZE_BYTES)
        self.memory.write(CODE, code)
        self.vm: KvmVm = KvmVm(self.memory, **options)
        self.vcpu: KvmVcpu = self.vm.create_vcpu(0)
        self.timer: threading.Timer | None = None

    def enter(self, **registers: int) -> None:
        state = {f"{name}.{part}": 0 for name in ("cs", "ds", "es", "ss") for part in ("selector", "base")}
        self.vcpu.write_registers(state | {"rip": CODE, "rsp": 0x8000, "rflags": 2} | registers)

    def run_to(self, kind: ExitKind, *, on_io: Callable[[], None] | None = None) -> None:
        """Run until an exit of `kind`; a kick in between means that the guest hangs."""
        timer = threading.Timer(60, self.vcpu.kick)
        timer.start()
        try:
            for _ in range(100_000):
                found = self.vcpu.run()
                if found.kind == kind:
                    return
                if found.kind in {ExitKind.IO, ExitKind.MMIO} and on_io is not None:
                    on_io()
                    continue
                pytest.fail(f"exit {found.kind!r} at {found.address:#x} {found.message}, not {kind!r}")
        finally:
            timer.cancel()
        pytest.fail("too many exits")

    def outputs_until_halt(self) -> list[tuple[int, int, int]]:
        """(port, size, value) of every OUT up to HLT."""
        found: list[tuple[int, int, int]] = []
        exit_ = self.vcpu.exit
        self.run_to(ExitKind.HALT, on_io=lambda: found.append((exit_.address, exit_.size, exit_.value)))
        return found

    def close(self) -> None:
        self.vm.close()
        self.memory.close()


@pytest.fixture
def tiny() -> Iterator[Callable[..., TinyMachine]]:
    """Makes `TinyMachine`s and closes them."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("no usable /dev/kvm on this host")
    made: list[TinyMachine] = []

    def make(code: str, **options: Any) -> TinyMachine:
        machine = TinyMachine(bytes.fromhex(code), **options)
        made.append(machine)
        return machine

    yield make
    for machine in made:
        machine.close()
