"""Virtio over PCI: the modern interface (VIRTIO 1.2, 4.1), with MSI-X or INTx.

One memory BAR holds the four structures, MSI-X has one of its own. Each queue has its own notification address, so
that an engine can watch the write itself (`NotifyRegistrar`).
"""

from __future__ import annotations

import threading
from struct import pack
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from pyhyve.accel.api import QueueWalker
from pyhyve.devices.pci.device import PciDevice, PciFunctionState
from pyhyve.devices.pci.msi import Msix
from pyhyve.devices.pci.spec import BarKind, CapabilityId
from pyhyve.devices.virtio.saving import VirtioSaver
from pyhyve.devices.virtio.spec import (
    COMMON_BYTES,
    ISR_CONFIG,
    ISR_QUEUE,
    NO_VECTOR,
    PCI_DEVICE_BASE,
    PCI_REVISION,
    PCI_VENDOR,
    CommonReg,
    DeviceType,
    Feature,
    PciCap,
)
from pyhyve.state.contract import Saveable
from pyhyve.state.record import U8, U16, U32, record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pyhyve.accel.routes import MessageRoute
    from pyhyve.devices.pci.device import Bar
    from pyhyve.devices.virtio.device import QueueState, VirtioDevice

_STRUCTURES_BAR = 0
_MSIX_BAR = 1
_COMMON_OFFSET = 0x0000
_ISR_OFFSET = 0x1000
_CONFIG_OFFSET = 0x2000
_NOTIFY_OFFSET = 0x3000
_NOTIFY_BYTES = 0x1000
_BAR_BYTES = 0x4000
_NOTIFY_MULTIPLIER = 4
_SUBSYSTEM_ID = 0x1100
_CLASS_CODES = {
    DeviceType.NET: 0x020000,
    DeviceType.BLOCK: 0x010000,
    DeviceType.CONSOLE: 0x078000,
    DeviceType.RNG: 0x00FF00,
    DeviceType.BALLOON: 0x00FF00,
    DeviceType.SCSI: 0x010000,
    DeviceType.VSOCK: 0x078000,
}


class NotifyRegistrar(Protocol):
    """Watches guest writes to an address without a trip through the bus, as `accel.api.Vm.on_notify` does."""

    def __call__(self, address: int, size: int, callback: Callable[[int], None], /) -> Callable[[], None]:
        """Call `callback(value)` for each write of `size` bytes at `address`; returns what ends that."""


@runtime_checkable
class EventRegistrar(Protocol):
    """An engine that can also signal an event descriptor."""

    def attach(self, address: int, size: int, event_fd: int) -> Callable[[], None]:
        """Signal `event_fd` for each write of `size` bytes at `address`; returns what ends that."""

    def route(self, event_fd: int, address: int, data: int) -> Callable[[], None] | None:
        """Send this message for each signal of `event_fd`; returns what ends that, or None where it cannot be done."""


def _nothing() -> None:
    pass


class CommonConfig:
    """The common configuration structure (4.1.4.3): registers in, device calls out."""

    def __init__(self, device: VirtioDevice, vectors: int) -> None:
        """`vectors` is the number of MSI-X vectors the driver may choose from."""
        self._device = device
        self._vectors = vectors
        self.vector_changed: Callable[[], None] = _nothing
        """Called after the driver gave a queue a vector."""
        self.reset()

    def reset(self) -> None:
        """Forget the selectors."""
        self._device_select = self._driver_select = self._queue_select = 0

    @property
    def selectors(self) -> tuple[int, int, int]:
        """What the driver selected: 32 feature bits of the device, of its own, and a queue."""
        return self._device_select, self._driver_select, self._queue_select

    @selectors.setter
    def selectors(self, values: tuple[int, int, int]) -> None:
        self._device_select, self._driver_select, self._queue_select = values

    def _queue(self) -> QueueState | None:
        queues = self._device.queues
        return queues[self._queue_select] if self._queue_select < len(queues) else None

    def read(self, offset: int, size: int) -> int:
        """Value of a field, or of half of a 64-bit one; 0 for any other access (4.1.3.1)."""
        if offset >= CommonReg.QUEUE_DESC and offset < CommonReg.QUEUE_NOTIFY_DATA:
            queue = self._queue()
            if queue is None or offset % 4 or size < 4:
                return 0
            address = (queue.descriptor_gpa, queue.driver_gpa, queue.device_gpa)[(offset - CommonReg.QUEUE_DESC) >> 3]
            return address >> 8 * (offset & 4) & ((1 << 8 * size) - 1)
        return self._read_field(offset) & ((1 << 8 * size) - 1)

    def _read_field(self, offset: int) -> int:
        device = self._device
        match offset:
            case CommonReg.DEVICE_FEATURE_SELECT:
                return self._device_select
            case CommonReg.DEVICE_FEATURE:
                return device.device_features >> 32 * self._device_select & 0xFFFFFFFF if self._device_select < 2 else 0
            case CommonReg.DRIVER_FEATURE_SELECT:
                return self._driver_select
            case CommonReg.DRIVER_FEATURE:
                return device.driver_features >> 32 * self._driver_select & 0xFFFFFFFF if self._driver_select < 2 else 0
            case CommonReg.CONFIG_MSIX_VECTOR:
                return device.config_vector
            case CommonReg.NUM_QUEUES:
                return len(device.queues)
            case CommonReg.DEVICE_STATUS:
                return device.status
            case CommonReg.CONFIG_GENERATION:
                return device.config_generation
            case CommonReg.QUEUE_SELECT:
                return self._queue_select
            case CommonReg.QUEUE_MSIX_VECTOR:
                queue = self._queue()
                return NO_VECTOR if queue is None else queue.vector
            case CommonReg.QUEUE_SIZE | CommonReg.QUEUE_ENABLE | CommonReg.QUEUE_NOTIFY_OFF:
                queue = self._queue()
                if queue is None:
                    return 0
                if offset == CommonReg.QUEUE_SIZE:
                    return queue.size
                return int(queue.ring is not None) if offset == CommonReg.QUEUE_ENABLE else queue.index
            case _:
                return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """The driver wrote a field; what it may not write is dropped."""
        device = self._device
        match offset:
            case CommonReg.DEVICE_FEATURE_SELECT:
                self._device_select = value & 0xFFFFFFFF
            case CommonReg.DRIVER_FEATURE_SELECT:
                self._driver_select = value & 0xFFFFFFFF
            case CommonReg.DRIVER_FEATURE:
                device.write_driver_features(self._driver_select, value)
            case CommonReg.CONFIG_MSIX_VECTOR:
                device.config_vector = self._checked_vector(value)
            case CommonReg.DEVICE_STATUS:
                if not value & 0xFF:
                    self.reset()
                device.write_status(value & 0xFF)
            case CommonReg.QUEUE_SELECT:
                self._queue_select = value & 0xFFFF
            case _:
                queue = self._queue()
                if queue is not None:
                    self._write_queue(queue, offset, size, value)

    def _checked_vector(self, value: int) -> int:
        """A vector the function has, or NO_VECTOR, which tells the driver that it cannot (4.1.5.1.2.1)."""
        value &= 0xFFFF
        return value if value < self._vectors else NO_VECTOR

    def _write_queue(self, queue: QueueState, offset: int, size: int, value: int) -> None:
        device = self._device
        if offset == CommonReg.QUEUE_MSIX_VECTOR:
            queue.vector = self._checked_vector(value)
            self.vector_changed()
        elif offset == CommonReg.QUEUE_RESET:
            if value == 1 and device.has_feature(Feature.RING_RESET):
                device.reset_queue(queue.index)
        elif queue.ring is not None:
            return
        elif offset == CommonReg.QUEUE_SIZE:
            if 0 < value & 0xFFFF <= queue.max_size:
                queue.size = value & 0xFFFF
        elif offset == CommonReg.QUEUE_ENABLE:
            if value == 1:
                device.enable_queue(queue.index)
        elif CommonReg.QUEUE_DESC <= offset < CommonReg.QUEUE_NOTIFY_DATA and offset % 4 == 0 and size >= 4:
            name = ("descriptor_gpa", "driver_gpa", "device_gpa")[(offset - CommonReg.QUEUE_DESC) >> 3]
            if size == 8 and offset % 8 == 0:
                setattr(queue, name, value)
            else:
                shift = 8 * (offset & 4)
                old = getattr(queue, name)
                setattr(queue, name, old & ~(0xFFFFFFFF << shift) | (value & 0xFFFFFFFF) << shift)


@record
class VirtioPciState:
    """The function, the ISR status, and the selectors of the common configuration."""

    function: PciFunctionState
    isr: U8
    device_select: U32
    driver_select: U32
    queue_select: U16


class VirtioPci(PciDevice):
    """A PCI function that carries one virtio device."""

    state_type: ClassVar[type[Any]] = VirtioPciState

    def __init__(
        self,
        device: VirtioDevice,
        *,
        name: str = "",
        register_notify: NotifyRegistrar | None = None,
    ) -> None:
        """Carry `device`; `register_notify` lets the engine watch the notification addresses by itself."""
        type_name = device.device_type.name.lower()
        super().__init__(
            vendor_id=PCI_VENDOR,
            device_id=PCI_DEVICE_BASE + device.device_type,
            class_code=_CLASS_CODES[device.device_type],
            revision=PCI_REVISION,
            subsystem_vendor_id=PCI_VENDOR,
            subsystem_id=_SUBSYSTEM_ID,
            interrupt_pin=1,
            name=name or f"virtio-{type_name}",
        )
        self.device = device
        self._register_notify = register_notify
        engine: object = register_notify
        if isinstance(engine, QueueWalker):
            device.use_walker(engine)
            device.kick_address = self._kick_address
            device.queue_route = self._queue_route
        self._cancel_notify: list[Callable[[], None]] = []
        self._isr = 0
        self._isr_lock = threading.Lock()
        vectors = len(device.queues) + 1
        self._common = CommonConfig(device, vectors)
        self._common.vector_changed = self._vectors_changed
        self.add_bar(_STRUCTURES_BAR, _BAR_BYTES, BarKind.MEM32, _Structures(self, self._common), width=8)
        self._msix = Msix(self, _MSIX_BAR, vectors)
        self._routes: dict[int, tuple[tuple[int, int], Callable[[], None]]] = {}
        if isinstance(engine, QueueWalker) or any(device.call_fd(queue.index) is not None for queue in device.queues):
            self._msix.on_change = self._vectors_changed
        self._add_structure(PciCap.COMMON, _COMMON_OFFSET, COMMON_BYTES)
        self._add_structure(PciCap.ISR, _ISR_OFFSET, 1)
        self._add_structure(PciCap.DEVICE, _CONFIG_OFFSET, 0x1000)
        notify_bytes = _NOTIFY_MULTIPLIER * len(device.queues)
        self._add_structure(PciCap.NOTIFY, _NOTIFY_OFFSET, notify_bytes, pack("<I", _NOTIFY_MULTIPLIER))
        self._window = self._add_structure(PciCap.PCI, 0, 0, bytes(4), writable=True)
        device.attach(self)

    def _add_structure(
        self, kind: PciCap, offset: int, length: int, extra: bytes = b"", *, writable: bool = False
    ) -> int:
        """Add a `virtio_pci_cap` (4.1.4); `writable` ones are the PCI configuration access window (4.1.4.9)."""
        body = pack("<BBBBxxII", 16 + len(extra), kind, _STRUCTURES_BAR, 0, offset, length) + extra
        mask = b"\0\0\xff\0\0\0" + b"\xff" * 8 if writable else b""
        return self.add_capability(CapabilityId.VENDOR, body, mask)

    # -- interrupts (InterruptSink) -----------------------------------------------------------------------------------

    def queue_interrupt(self, index: int) -> None:
        """Used buffer notification (2.9)."""
        self._interrupt(self.device.queues[index].vector, ISR_QUEUE)

    def config_interrupt(self) -> None:
        """Configuration change notification."""
        self._interrupt(self.device.config_vector, ISR_CONFIG)

    def _interrupt(self, vector: int, cause: int) -> None:
        if self._msix.enabled:
            if vector != NO_VECTOR:
                self._msix.notify(vector)
            return
        with self._isr_lock:
            self._isr |= cause
        self.set_intx(level=True)

    def read_isr(self) -> int:
        """Read and clear the ISR status, which lowers INTx (4.1.4.5)."""
        with self._isr_lock:
            value, self._isr = self._isr, 0
        self.set_intx(level=False)
        if self._isr:
            # A cause that arrived in between must not lose its interrupt.
            self.set_intx(level=True)
        return value

    # -- PciDevice ----------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Reset the function and the device behind it."""
        self.device.reset()
        self.refresh_routes()
        self._common.reset()
        with self._isr_lock:
            self._isr = 0
        super().reset()

    def save(self) -> VirtioPciState:
        """The function and its registers; the device behind it is saved by itself."""
        with self._isr_lock:
            isr = self._isr
        device, driver, queue = self._common.selectors
        return VirtioPciState(
            function=self.save_function(), isr=isr, device_select=device, driver_select=driver, queue_select=queue
        )

    def load(self, state: VirtioPciState) -> None:
        """Take over the function and its registers."""
        self.load_function(state.function)
        self._common.selectors = (state.device_select, state.driver_select, state.queue_select)
        with self._isr_lock:
            self._isr = state.isr

    def saveables(self) -> Iterable[tuple[str, Saveable]]:
        """The function, what all virtio devices have, and what only this one has."""
        yield "", self
        yield ".virtio", VirtioSaver(self.device)
        if isinstance(self.device, Saveable):
            yield f".{self.device.device_type.name.lower()}", self.device

    def suspend(self) -> None:
        """Have the device stand still."""
        self.device.suspend()

    def resume(self) -> None:
        """Let the device go on."""
        self.refresh_routes()
        self.device.resume()

    def identity(self, config: bytes | bytearray) -> bytes:
        """As for any function, less the data of the configuration access window."""
        fixed = bytearray(super().identity(config))
        data = self._window + 16
        fixed[data : data + 4] = bytes(4)
        return bytes(fixed)

    def _kick_address(self, index: int) -> int | None:
        """Where writes kick a queue, as the BAR lies now."""
        base = self.bars[_STRUCTURES_BAR].address
        return None if base is None else base + _NOTIFY_OFFSET + _NOTIFY_MULTIPLIER * index

    def bar_moved(self, bar: Bar) -> None:
        """Have the engine watch the notification addresses where they are now."""
        if bar.index != _STRUCTURES_BAR or self._register_notify is None:
            return
        for cancel in self._cancel_notify:
            cancel()
        self._cancel_notify = []
        if bar.address is not None:
            base = bar.address + _NOTIFY_OFFSET
            self._cancel_notify = [
                self._watch(self._register_notify, base + _NOTIFY_MULTIPLIER * queue.index, queue.index)
                for queue in self.device.queues
            ]

    def _watch(self, register: NotifyRegistrar, address: int, index: int) -> Callable[[], None]:
        """Have the engine watch one notification address."""
        event_fd = self.device.kick_fd(index)
        if event_fd is not None and isinstance(register, EventRegistrar):
            return register.attach(address, 2, event_fd)
        return register(address, 2, self._notifier(index))

    def _queue_route(self, index: int) -> MessageRoute | None:
        """The way of a queue's interrupts now."""
        message = self._msix.message(self.device.queues[index].vector)
        host = self.host
        return None if message is None or host is None else host.message_route(*message)

    def _vectors_changed(self) -> None:
        """Interrupts may go elsewhere now, or nowhere."""
        self.refresh_routes()
        self.device.routes_changed()

    def refresh_routes(self) -> None:
        """Have the engine turn calls of the device's back end into messages, as the guest wants them now."""
        engine: object = self._register_notify
        if not isinstance(engine, EventRegistrar):
            return
        for queue in self.device.queues:
            event_fd = self.device.call_fd(queue.index)
            if event_fd is None:
                continue
            wanted = self._msix.message(queue.vector)
            current = self._routes.get(queue.index)
            if current is not None and current[0] == wanted:
                continue
            if current is not None:
                del self._routes[queue.index]
                current[1]()
            cancel = None if wanted is None else engine.route(event_fd, *wanted)
            if wanted is not None and cancel is not None:
                self._routes[queue.index] = (wanted, cancel)
            self.device.calls_routed(queue.index, is_routed=cancel is not None)

    def _notifier(self, index: int) -> Callable[[int], None]:
        return lambda _value: self.device.kick(index)

    def config_read(self, offset: int, size: int) -> int:
        """Read configuration space; `pci_cfg_data` reads through the window."""
        target = self._window_target(offset, size)
        if target is not None:
            bar, bar_offset, length = target
            value = bar.device.read(bar_offset, length)
            data = self._window + 16
            self.config[data : data + length] = (value & ((1 << 8 * length) - 1)).to_bytes(length, "little")
        return super().config_read(offset, size)

    def config_write(self, offset: int, size: int, value: int) -> None:
        """Write configuration space; `pci_cfg_data` writes through the window."""
        target = self._window_target(offset, size)
        if target is None:
            super().config_write(offset, size, value)
            return
        self.config[offset : offset + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
        bar, bar_offset, length = target
        data = self._window + 16
        bar.device.write(bar_offset, length, int.from_bytes(self.config[data : data + length], "little"))

    def _window_target(self, offset: int, size: int) -> tuple[Bar, int, int] | None:
        """BAR, offset and length that an access of `pci_cfg_data` means; None for any other access or a bad window."""
        data = self._window + 16
        if offset != data:
            return None
        bar = self.bars.get(self.config[self._window + 4])
        bar_offset = int.from_bytes(self.config[self._window + 8 : self._window + 12], "little")
        length = int.from_bytes(self.config[self._window + 12 : self._window + 16], "little")
        if bar is None or length not in {1, 2, 4} or bar_offset % length or bar_offset + length > bar.size_bytes:
            return None
        return bar, bar_offset, length


class _Structures:
    """The register device of the structures' BAR."""

    def __init__(self, function: VirtioPci, common: CommonConfig) -> None:
        self._function = function
        self._device = function.device
        self._common = common

    def read(self, offset: int, size: int) -> int:
        """Read one of the structures."""
        if offset < _ISR_OFFSET:
            return self._common.read(offset, size)
        if offset < _CONFIG_OFFSET:
            return self._function.read_isr() if offset == _ISR_OFFSET else 0
        if offset < _NOTIFY_OFFSET:
            return self._device.read_config(offset - _CONFIG_OFFSET, size)
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Write one of the structures; a notification may carry any value, its address names the queue."""
        if offset >= _NOTIFY_OFFSET:
            self._device.kick((offset - _NOTIFY_OFFSET) // _NOTIFY_MULTIPLIER)
        elif offset < _ISR_OFFSET:
            self._common.write(offset, size, value)
        elif offset >= _CONFIG_OFFSET:
            self._device.write_config(offset - _CONFIG_OFFSET, size, value)
