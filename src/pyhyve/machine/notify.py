"""How a machine's engine watches queue notifications by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.accel.api import Vm
    from pyhyve.devices.virtio.pci import NotifyRegistrar


@runtime_checkable
class _RemovableNotify(Protocol):
    """An engine whose notification addresses can be moved: KVM's ioeventfds."""

    def on_notify(self, address: int, size: int, callback: Callable[[int], None], *, is_port: bool = False) -> None:
        """As `accel.api.Vm.on_notify`."""

    def remove_notify(self, address: int) -> None:
        """Undo `on_notify`."""


def notify_registrar(vm: Vm) -> NotifyRegistrar | None:
    """How the engine watches queue notifications by itself; None when they take the way through the bus."""
    if not isinstance(vm, _RemovableNotify):
        return None
    engine: _RemovableNotify = vm

    def register(address: int, size: int, callback: Callable[[int], None], /) -> Callable[[], None]:
        engine.on_notify(address, size, callback)
        return lambda: engine.remove_notify(address)

    return register
