"""PCI-to-PCI bridges: the type 1 header, the bus behind it, the windows through which accesses get there.

PCI-to-PCI Bridge Architecture Specification 1.2. Memory accesses of the devices behind a bridge, and their messages,
are never held up.
"""

from __future__ import annotations

from pyhyve.devices.pci import spec
from pyhyve.devices.pci.bus import SLOTS, PciBus
from pyhyve.devices.pci.device import PciDevice
from pyhyve.devices.pci.spec import BarKind, BridgeControl, CapabilityId, Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar

    from pyhyve.accel.routes import MessageRoute
    from pyhyve.devices.pci.device import Bar

REDHAT_VENDOR = 0x1B36
_CLASS = 0x060400
_WINDOWS = range(spec.IO_BASE, spec.PREFETCH_LIMIT_UPPER + 4)


class SecondaryBus(PciBus):
    """The bus behind `bridge`: what leaves it goes to the bus that the bridge is on."""

    def __init__(self, bridge: PciBridge, slots: range) -> None:
        """`slots` are those that there are."""
        # What is mapped, sent or driven goes through bus 0.
        self.leads_here = bridge
        self._devices = {}
        self.bridge = bridge
        self.slots = slots
        self.free_from = slots[0]
        self.reserved = frozenset()

    @property
    def _parent(self) -> PciBus:
        host = self.leads_here.host
        if not isinstance(host, PciBus):  # pragma: no cover - nothing is put behind a bridge that is nowhere
            msg = f"{self.leads_here.name} is on no bus"
            raise TypeError(msg)
        return host

    @property
    def number(self) -> int:
        """The secondary bus number; 0 until the guest chose one."""
        return self.leads_here.config[spec.SECONDARY_BUS]

    @property
    def is_reachable(self) -> bool:
        """Whether the bridge lets configuration accesses through."""
        return self.leads_here.is_powered

    def send_msi(self, address: int, data: int) -> None:
        """Deliver a message-signalled interrupt."""
        self._parent.send_msi(address, data)

    def message_route(self, address: int, data: int) -> MessageRoute | None:
        """As bus 0 does."""
        return self._parent.message_route(address, data)

    def drive_line(self, device: PciDevice, line: int, *, level: bool) -> None:
        """As bus 0 does."""
        self._parent.drive_line(device, line, level=level)

    def line_of(self, slot: int, pin: int) -> int:
        """The bridge hands the pins on, shifted by the slot (9.1)."""
        return self._parent.line_of(self.leads_here.slot, (slot + pin) & 3)

    def forwards(self, kind: BarKind, first: int, last: int) -> bool:
        """Whether all of `[first, last]` is in one of the bridge's windows, and in those of the bridges before it."""
        return self.leads_here.opens(kind, first, last) and self._parent.forwards(kind, first, last)

    def update_bar(self, device: PciDevice, bar: Bar) -> None:
        """As bus 0 does."""
        self._parent.update_bar(device, bar)


class PciBridge(PciDevice):
    """A bridge; `secondary` is the bus behind it."""

    bar_count: ClassVar[int] = spec.BRIDGE_BAR_COUNT
    secondary: SecondaryBus

    def __init__(self, *, device_id: int, interrupt_pin: int = 0, name: str, slots: range = range(1, SLOTS)) -> None:
        super().__init__(
            vendor_id=REDHAT_VENDOR, device_id=device_id, class_code=_CLASS, interrupt_pin=interrupt_pin, name=name
        )
        self.secondary = SecondaryBus(self, slots)
        self.config[spec.HEADER_TYPE] = spec.HEADER_BRIDGE
        self._declare(spec.PRIMARY_BUS, 0, 0xFFFF_FFFF, 4)
        self._declare(spec.IO_BASE, 0x00F0, 0xF0F0, 2)
        self._declare(spec.MEMORY_BASE, 0x0000_FFF0, 0xFFF0_FFF0, 4)
        prefetch = spec.PREFETCH_64BIT << 16 | spec.PREFETCH_64BIT
        self._declare(spec.PREFETCH_BASE, 0x0000_FFF0 | prefetch, 0xFFF0_FFF0, 4)
        self._declare(spec.PREFETCH_BASE_UPPER, 0, 0xFFFF_FFFF_FFFF_FFFF, 8)
        self._declare(spec.BRIDGE_CONTROL, 0, sum(BridgeControl), 2)

    def _declare(self, offset: int, value: int, writable: int, size: int) -> None:
        self._set(offset, size, value)
        self.writable[offset : offset + size] = writable.to_bytes(size, "little")

    def add_subsystem(self, vendor_id: int = 0, device_id: int = 0) -> None:
        """Where such a header has its subsystem (4.1 of the specification)."""
        self.add_capability(CapabilityId.SUBSYSTEM, (device_id << 32 | vendor_id << 16).to_bytes(6, "little"))

    @property
    def is_powered(self) -> bool:
        """Whether the devices behind the bridge can be reached."""
        return True

    def emptied(self) -> None:
        """Hook: the last device behind the bridge was taken out."""

    # -- windows ------------------------------------------------------------------------------------------------------

    @property
    def io_window(self) -> tuple[int, int]:
        """First and last port; the last is below the first while the window is closed."""
        first = (self.config[spec.IO_BASE] & 0xF0) << 8
        return first, (self.config[spec.IO_LIMIT] & 0xF0) << 8 | spec.IO_WINDOW_BYTES - 1

    @property
    def memory_window(self) -> tuple[int, int]:
        """As `io_window`, of memory."""
        first = (self.config_read(spec.MEMORY_BASE, 2) & 0xFFF0) << 16
        return first, (self.config_read(spec.MEMORY_LIMIT, 2) & 0xFFF0) << 16 | spec.MEMORY_WINDOW_BYTES - 1

    @property
    def prefetch_window(self) -> tuple[int, int]:
        """As `memory_window`, of memory that can be read ahead."""
        read = self.config_read
        first = read(spec.PREFETCH_BASE_UPPER, 4) << 32 | (read(spec.PREFETCH_BASE, 2) & 0xFFF0) << 16
        last = read(spec.PREFETCH_LIMIT_UPPER, 4) << 32 | (read(spec.PREFETCH_LIMIT, 2) & 0xFFF0) << 16
        return first, last | spec.MEMORY_WINDOW_BYTES - 1

    def opens(self, kind: BarKind, first: int, last: int) -> bool:
        """Whether the bridge lets accesses to all of `[first, last]` through."""
        if kind is BarKind.IO:
            windows = [self.io_window] if self.config[spec.COMMAND] & Command.IO else []
        elif self.config[spec.COMMAND] & Command.MEMORY:
            windows = [self.memory_window, self.prefetch_window]
        else:
            windows = []
        return any(low <= first and last <= high for low, high in windows)

    def _windows_moved(self) -> None:
        for _, device in self.secondary.walk():
            device.update_bars()

    # -- accesses -----------------------------------------------------------------------------------------------------

    def config_write(self, offset: int, size: int, value: int) -> None:
        """Write configuration space; windows and a reset of the bus behind follow at once."""
        was_reset = self.config[spec.BRIDGE_CONTROL] & BridgeControl.SECONDARY_RESET
        super().config_write(offset, size, value)
        if offset in _WINDOWS or offset <= spec.COMMAND < offset + size:
            self._windows_moved()
        if self.config[spec.BRIDGE_CONTROL] & BridgeControl.SECONDARY_RESET and not was_reset:
            self.secondary.reset()

    def reset(self) -> None:
        """Power on: the windows are closed, the bus behind is reset too."""
        super().reset()
        self.secondary.reset()

    def load(self, state: Any) -> None:  # noqa: ANN401 - as in `PciDevice`
        """Take over the registers; what is behind is loaded after it."""
        super().load(state)
        self._windows_moved()


class PlainPciBridge(PciBridge):
    """A bridge to a conventional bus without hotplug: QEMU's `pci-bridge`."""

    def __init__(self, name: str) -> None:
        super().__init__(device_id=0x0001, name=name)
        self.add_subsystem()
