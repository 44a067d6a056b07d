"""The engine of a machine that is never started (`-machine none`): management tools ask it what there could be."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.accel.api import Vcpu
    from pyhyve.memory.guest import GuestMemory


class _NoInterrupts:
    """Interrupts nobody receives."""

    def set_gsi(self, gsi: int, *, level: bool) -> None:
        """Drop it."""

    def send_msi(self, address: int, data: int) -> None:
        """Drop it."""


class EmptyVm:
    """No processor. `has_kernel_irqchip` tells which engine would have been taken."""

    def __init__(self, memory: GuestMemory, *, has_kvm: bool) -> None:
        self.memory = memory
        self.has_kernel_irqchip = has_kvm
        self._chip = _NoInterrupts()

    def irqchip(self) -> _NoInterrupts:
        """Where interrupts end."""
        return self._chip

    def create_vcpu(self, index: int) -> Vcpu:
        """There are none."""
        msg = f"an empty machine has no processor {index}"
        raise RuntimeError(msg)

    def on_notify(self, address: int, size: int, callback: Callable[[int], None], *, is_port: bool = False) -> None:
        """Nobody writes there."""

    def remove_notify(self, address: int) -> None:
        """Nobody wrote there."""

    def close(self) -> None:
        """Nothing to release."""


def open_empty(choice: str, memory: GuestMemory) -> EmptyVm:
    """An empty machine of the engine `choice`; `auto` is KVM where it can be had."""
    from pyhyve.accel.select import AccelError  # noqa: PLC0415 - only for such machines

    has_kvm = False
    if choice != "jit":
        from pyhyve.kvm.probe import probe  # noqa: PLC0415 - only when KVM is asked for

        found = probe()
        has_kvm = found.usable
        if choice == "kvm" and not has_kvm:
            msg = f"accel kvm: {found.reason}"
            raise AccelError(msg)
    return EmptyVm(memory, has_kvm=has_kvm)
