"""How a machine's engine watches queue notifications by itself."""

from __future__ import annotations

from pyhyve.accel.api import QueueWalker
from pyhyve.support.hints import Protocol, runtime_checkable

TYPE_CHECKING = False
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


@runtime_checkable
class _EventNotify(_RemovableNotify, Protocol):
    """One that signals event descriptors."""

    def attach_ioeventfd(self, event_fd: int, address: int, size: int) -> None:
        """Signal `event_fd` for each guest write here."""

    def route_event(self, event_fd: int, address: int, data: int) -> Callable[[], None] | None:
        """Send this message for each signal of `event_fd`; returns what ends that."""


class _EventRegistrar:
    """KVM's way: event descriptors that the kernel signals; a vhost back end takes them directly."""

    def __init__(self, engine: _EventNotify) -> None:
        self._engine = engine

    def __call__(self, address: int, size: int, callback: Callable[[int], None], /) -> Callable[[], None]:
        """Call `callback` on a thread of the engine's."""
        self._engine.on_notify(address, size, callback)
        return lambda: self._engine.remove_notify(address)

    def attach(self, address: int, size: int, event_fd: int) -> Callable[[], None]:
        """Signal `event_fd`."""
        self._engine.attach_ioeventfd(event_fd, address, size)
        return lambda: self._engine.remove_notify(address)

    def route(self, event_fd: int, address: int, data: int) -> Callable[[], None] | None:
        """Send a message for each signal, in the kernel."""
        return self._engine.route_event(event_fd, address, data)


class _Registrar:
    """An engine that calls back."""

    def __init__(self, engine: _RemovableNotify) -> None:
        self._engine = engine

    def __call__(self, address: int, size: int, callback: Callable[[int], None], /) -> Callable[[], None]:
        """Call `callback` for each write."""
        self._engine.on_notify(address, size, callback)
        return lambda: self._engine.remove_notify(address)


class _WalkingRegistrar(_Registrar):
    """One that also serves queues by itself."""

    def __init__(self, engine: _RemovableNotify, walker: QueueWalker) -> None:
        super().__init__(engine)
        self.walk_queue = walker.walk_queue


def notify_registrar(vm: Vm) -> NotifyRegistrar | None:
    """How the engine watches queue notifications by itself; None when they take the way through the bus."""
    found: object = vm
    if isinstance(found, _EventNotify):
        return _EventRegistrar(found)
    if not isinstance(found, _RemovableNotify):
        return None
    if isinstance(found, QueueWalker):
        return _WalkingRegistrar(found, found)
    return _Registrar(found)
