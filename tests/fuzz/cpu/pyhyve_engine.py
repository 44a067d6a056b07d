"""pyhyve's own engine under test, through the interface the machine uses: memory, one vCPU, typed exits."""

from __future__ import annotations

import threading
from typing import Final

from pyhyve.accel.api import ExitKind
from pyhyve.accel.select import open_vm
from pyhyve.memory.guest import GuestMemory

from . import guest_kernel as kernel
from . import layout as at
from .guest_engine import GuestEngine

_HANG_TIMEOUT_S: Final = 60.0


class VmMachine:
    """A pyhyve virtual machine with nothing but memory and one vCPU.

    Args:
        accel: ``jit`` or ``kvm``.
    """

    def __init__(self, accel: str) -> None:
        self._memory = GuestMemory()
        self._memory.add(0, kernel.RAM_SIZE)
        self._memory.add(kernel.ROM_GPA, kernel.ROM_SIZE, readonly=True, name="rom")
        self.ram = self._memory.view(0, kernel.RAM_SIZE)
        self._vm = open_vm(accel, self._memory)
        self._vcpu = self._vm.create_vcpu(0)
        self._turns = 0
        self._hung = False
        self._closed = threading.Event()
        self._watchdog = threading.Thread(target=self._watch, daemon=True)
        self._watchdog.start()

    def start(self, image: kernel.KernelImage) -> None:
        """Reset, and let the kernel come up to its first ring."""
        self._memory.write(0, image.ram)
        self._memory.write(kernel.ROM_GPA, image.rom)
        self._vcpu.reset()
        self._run()

    def go_on(self) -> int:
        """Run the case."""
        return self._run()

    def _run(self) -> int:
        self._turns += 1
        self._hung = False
        leaving = self._vcpu.run()
        while leaving.kind == ExitKind.KICKED and not self._hung:
            leaving = self._vcpu.run()
        if leaving.kind == ExitKind.IO:
            return at.VECTOR_DONE
        if leaving.kind == ExitKind.INTERNAL_ERROR:
            message = f"the engine gave up: {leaving.message}"
            raise RuntimeError(message)
        return at.VECTOR_HUNG if leaving.kind == ExitKind.KICKED else at.VECTOR_DIED

    def _watch(self) -> None:
        """Kick the vCPU when a case takes too long."""
        seen = -1
        while not self._closed.wait(_HANG_TIMEOUT_S):
            if self._turns == seen:
                self._hung = True
                self._vcpu.kick()
            seen = self._turns

    def close(self) -> None:
        """End the virtual machine."""
        self._closed.set()
        self._watchdog.join()
        self._vm.close()
        self.ram = memoryview(b"")
        self._memory.close()


def jit() -> GuestEngine:
    """The translator."""
    return GuestEngine("pyhyve", VmMachine("jit"), kernel.Doorbell.PORT)


def kvm() -> GuestEngine:
    """The same through KVM, for hosts where it works: everything should agree."""
    return GuestEngine("kvm", VmMachine("kvm"), kernel.Doorbell.PORT)
