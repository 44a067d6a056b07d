"""Virtio over MMIO, for boards without PCI: the modern interface (VIRTIO 1.2, 4.2.2) and the legacy one (4.2.4)."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, ClassVar

from pyhyve.devices.virtio.spec import (
    ISR_CONFIG,
    ISR_QUEUE,
    MMIO_MAGIC,
    MMIO_VENDOR_ID,
    Feature,
    MmioReg,
)
from pyhyve.devices.virtio.split import legacy_layout
from pyhyve.state.errors import StateError
from pyhyve.state.record import U8, U32, record

if TYPE_CHECKING:
    from pyhyve.devices.contracts import IrqLine
    from pyhyve.devices.virtio.device import QueueState, VirtioDevice

REGION_BYTES = 0x200
"""Size of the register region boards reserve for one device."""

_ADDRESS_REGISTERS = {
    MmioReg.QUEUE_DESC_LOW: ("descriptor_gpa", 0),
    MmioReg.QUEUE_DESC_HIGH: ("descriptor_gpa", 32),
    MmioReg.QUEUE_DRIVER_LOW: ("driver_gpa", 0),
    MmioReg.QUEUE_DRIVER_HIGH: ("driver_gpa", 32),
    MmioReg.QUEUE_DEVICE_LOW: ("device_gpa", 0),
    MmioReg.QUEUE_DEVICE_HIGH: ("device_gpa", 32),
}
_MODERN_ONLY_FEATURES = int(Feature.VERSION_1 | Feature.RING_PACKED | Feature.RING_RESET)
_MAX_LEGACY_ALIGN_BYTES = 1 << 16


@record
class VirtioMmioState:
    """Interrupt status, selectors, and a legacy driver's page size, alignments and page frames by queue."""

    legacy: bool
    isr: U8
    device_select: U32
    driver_select: U32
    queue_select: U32
    page_size_bytes: U32
    aligns: tuple[U32, ...]
    frames: tuple[U32, ...]


class VirtioMmio:
    """The registers of one virtio device, and its interrupt line. Word accesses only below the configuration."""

    state_type: ClassVar = VirtioMmioState
    state_version: ClassVar = 1

    def __init__(self, device: VirtioDevice, line: IrqLine, *, legacy: bool = False) -> None:
        """Carry `device`; `legacy` offers the interface of drafts before 1.0 (Version register 1)."""
        self.device = device
        self.legacy = legacy
        self._line = line
        self._isr_lock = threading.Lock()
        self._clear()
        device.attach(self)

    def _clear(self) -> None:
        self._isr = 0
        self._device_select = self._driver_select = self._queue_select = 0
        self._page_size_bytes = 0
        self._align: dict[int, int] = {}
        self._frames: dict[int, int] = {}

    def reset(self) -> None:
        """Power-on state."""
        self.device.reset()
        with self._isr_lock:
            self._clear()
        self._line.set(level=False)

    def save(self) -> VirtioMmioState:
        """The registers; the device behind them is saved by itself."""
        indexes = range(len(self.device.queues))
        return VirtioMmioState(
            legacy=self.legacy,
            isr=self._isr,
            device_select=self._device_select,
            driver_select=self._driver_select,
            queue_select=self._queue_select,
            page_size_bytes=self._page_size_bytes,
            aligns=tuple(self._align.get(index, 0) for index in indexes),
            frames=tuple(self._frames.get(index, 0) for index in indexes),
        )

    def load(self, state: VirtioMmioState) -> None:
        """Take over the registers and drive the line; raises StateError for the other interface."""
        if state.legacy != self.legacy or len(state.aligns) != len(state.frames):
            msg = "virtio MMIO: the state is of the other interface (legacy or modern)"
            raise StateError(msg)
        self._device_select, self._driver_select = state.device_select, state.driver_select
        self._queue_select, self._page_size_bytes = state.queue_select, state.page_size_bytes
        self._align = {index: align for index, align in enumerate(state.aligns) if align}
        self._frames = {index: frame for index, frame in enumerate(state.frames) if frame}
        with self._isr_lock:
            self._isr = state.isr
        self._line.set(level=bool(state.isr))

    # -- interrupts (InterruptSink) -----------------------------------------------------------------------------------

    def queue_interrupt(self, index: int) -> None:
        """Used buffer notification."""
        self._interrupt(ISR_QUEUE)

    def config_interrupt(self) -> None:
        """Configuration change notification."""
        self._interrupt(ISR_CONFIG)

    def _interrupt(self, cause: int) -> None:
        with self._isr_lock:
            self._isr |= cause
        self._line.set(level=True)

    def _acknowledge(self, causes: int) -> None:
        with self._isr_lock:
            self._isr &= ~causes
            pending = self._isr
        if not pending:
            self._line.set(level=False)
            if self._isr:
                # A cause that arrived in between must not lose its interrupt.
                self._line.set(level=True)

    # -- RegisterDevice -----------------------------------------------------------------------------------------------

    def _queue(self) -> QueueState | None:
        queues = self.device.queues
        return queues[self._queue_select] if self._queue_select < len(queues) else None

    def read(self, offset: int, size: int) -> int:
        """Read a register or device configuration; 0 for accesses that 4.2.2.2 forbids."""
        if offset >= MmioReg.CONFIG:
            return self.device.read_config(offset - MmioReg.CONFIG, size)
        if size != 4 or offset % 4:
            return 0
        device = self.device
        match offset:
            case MmioReg.MAGIC_VALUE:
                return MMIO_MAGIC
            case MmioReg.VERSION:
                return 1 if self.legacy else 2
            case MmioReg.DEVICE_ID:
                return device.device_type
            case MmioReg.VENDOR_ID:
                return MMIO_VENDOR_ID
            case MmioReg.DEVICE_FEATURES:
                features = device.device_features & ~_MODERN_ONLY_FEATURES if self.legacy else device.device_features
                return features >> 32 * self._device_select & 0xFFFFFFFF if self._device_select < 2 else 0
            case MmioReg.INTERRUPT_STATUS:
                return self._isr
            case MmioReg.STATUS:
                return device.status
            case MmioReg.CONFIG_GENERATION:
                return 0 if self.legacy else device.config_generation
            case MmioReg.SHM_LEN_LOW | MmioReg.SHM_LEN_HIGH | MmioReg.SHM_BASE_LOW | MmioReg.SHM_BASE_HIGH:
                return 0xFFFFFFFF  # no shared memory region has length -1 (4.2.2.1)
            case MmioReg.QUEUE_NUM_MAX | MmioReg.QUEUE_READY | MmioReg.QUEUE_PFN:
                queue = self._queue()
                if queue is None:
                    return 0
                if offset == MmioReg.QUEUE_NUM_MAX:
                    return queue.max_size
                if offset == MmioReg.QUEUE_READY:
                    return 0 if self.legacy else int(queue.ring is not None)
                return self._frames.get(queue.index, 0) if self.legacy else 0
            case _:
                return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register or device configuration; what is forbidden is dropped."""
        if offset >= MmioReg.CONFIG:
            self.device.write_config(offset - MmioReg.CONFIG, size, value)
            return
        if size != 4:
            return
        device = self.device
        match offset:
            case MmioReg.QUEUE_NOTIFY:
                device.kick(value)
            case MmioReg.INTERRUPT_ACK:
                self._acknowledge(value)
            case MmioReg.DEVICE_FEATURES_SEL:
                self._device_select = value
            case MmioReg.DRIVER_FEATURES_SEL:
                self._driver_select = value
            case MmioReg.DRIVER_FEATURES:
                device.write_driver_features(self._driver_select, value)
            case MmioReg.QUEUE_SEL:
                self._queue_select = value
            case MmioReg.STATUS:
                if value == 0:
                    self.reset()
                else:
                    device.write_status(value, legacy=self.legacy)
            case MmioReg.GUEST_PAGE_SIZE:
                self._page_size_bytes = value
            case _:
                queue = self._queue()
                if queue is not None:
                    (self._write_legacy_queue if self.legacy else self._write_queue)(queue, offset, value)

    def _write_queue(self, queue: QueueState, offset: int, value: int) -> None:
        if offset == MmioReg.QUEUE_READY:
            if value == 1:
                self.device.enable_queue(queue.index)
            elif value == 0 and queue.ring is not None:
                self.device.reset_queue(queue.index)
        elif offset == MmioReg.QUEUE_RESET:
            if value == 1 and self.device.has_feature(Feature.RING_RESET):
                self.device.reset_queue(queue.index)
        elif queue.ring is not None:
            return
        elif offset == MmioReg.QUEUE_NUM:
            if 0 < value <= queue.max_size:
                queue.size = value
        elif offset in _ADDRESS_REGISTERS:
            name, shift = _ADDRESS_REGISTERS[MmioReg(offset)]
            setattr(queue, name, getattr(queue, name) & ~(0xFFFFFFFF << shift) | value << shift)

    def _write_legacy_queue(self, queue: QueueState, offset: int, value: int) -> None:
        if offset == MmioReg.QUEUE_NUM:
            if 0 < value <= queue.max_size:
                queue.size = value
        elif offset == MmioReg.QUEUE_ALIGN:
            if 0 < value <= _MAX_LEGACY_ALIGN_BYTES and not value & (value - 1):
                self._align[queue.index] = value
        elif offset == MmioReg.QUEUE_PFN:
            size = queue.size
            if queue.ring is not None:
                self.device.reset_queue(queue.index)
            self._frames[queue.index] = value
            if value:
                align = self._align.get(queue.index, 4096)
                layout = legacy_layout(size, value * self._page_size_bytes, align)
                self.device.enable_queue(queue.index, legacy_layout=layout)
