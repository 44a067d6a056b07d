"""Host bridge and ISA bridge of the i440FX/PIIX3 chipset: configuration mechanism #1 and PIRQ routing.

Intel 82441FX (290549), 82371SB (290550). Memory attribute registers only remember what they are told: the machine
has RAM everywhere below 1 MiB.
"""

from __future__ import annotations

from pyhyve.devices.pci.device import PciDevice
from pyhyve.devices.pci.pirq import PirqRouting, RoutingBridge
from pyhyve.state.record import U8, U32, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ClassVar

    from pyhyve.devices.contracts import LineSetter
    from pyhyve.devices.pci.bus import PciBus

CONFIG_PORT = 0xCF8
CONFIG_PORT_SIZE = 8
CONFIG_ENABLE = 1 << 31
RESET_CONTROL = 1
"""Offset of port 0xCF9 in the configuration port range (82371SB, 2.5.5)."""
RESET_CPU = 1 << 2
RESET_HARD = 1 << 1

VIRTUAL_SUBSYSTEM_VENDOR, VIRTUAL_SUBSYSTEM = 0x1AF4, 0x1100
"""By these, on the host bridge, firmware knows that it runs in a virtual machine and has a fw_cfg device."""
PAM0 = 0x59
SMRAM = 0x72
PIRQ_ROUTE = 0x60
PIRQ_DEFAULT = (10, 10, 11, 11)


class I440fxBridge(PciDevice):
    """The host bridge, function 0:0.0."""

    def __init__(self) -> None:
        super().__init__(
            vendor_id=0x8086,
            device_id=0x1237,
            class_code=0x060000,
            revision=2,
            subsystem_vendor_id=VIRTUAL_SUBSYSTEM_VENDOR,
            subsystem_id=VIRTUAL_SUBSYSTEM,
            name="host bridge",
        )
        self.writable[PAM0 : PAM0 + 7] = b"\x30" + b"\x33" * 6
        self.writable[SMRAM] = 0x7F
        self.config[SMRAM] = 0x02


class Piix3IsaBridge(RoutingBridge):
    """The ISA bridge, function 0:1.0: routes the four PIRQ lines to ISA interrupts.

    `set_irq(irq, level=)` drives an interrupt input; a line shared by several PIRQs is high while any of them is.
    """

    def __init__(self, set_irq: LineSetter) -> None:
        super().__init__(vendor_id=0x8086, device_id=0x7000, class_code=0x060100, name="ISA bridge")
        self._routing = PirqRouting(self, tuple(range(PIRQ_ROUTE, PIRQ_ROUTE + 4)), set_irq)
        self.writable[PIRQ_ROUTE : PIRQ_ROUTE + 4] = b"\x8f" * 4
        self.config[PIRQ_ROUTE : PIRQ_ROUTE + 4] = bytes(PIRQ_DEFAULT)
        self.writable[0x4C] = 0x7F
        self.config[0x4C] = 0x4D
        self.writable[0x4E] = self.writable[0x4F] = 0xFF
        self.config[0x4E] = 0x03

    def set_pirq(self, line: int, /, *, level: bool) -> None:
        """Drive PIRQ `line` (0 to 3)."""
        self._routing.drive(line, level=level)

    def irq_of(self, line: int) -> int | None:
        """The ISA interrupt of PIRQ `line`, or None while it is disconnected."""
        return self._routing.irq_of(line)


@record
class ConfigPortsState:
    """The address register and the reset control register."""

    address: U32
    reset_control: U8


class ConfigPorts:
    """Ports 0xCF8 to 0xCFF: configuration address and data, and the reset control register inside them."""

    state_type: ClassVar = ConfigPortsState
    state_version: ClassVar = 1

    def __init__(self, bus: PciBus, reset_requested: Callable[[], None]) -> None:
        """`reset_requested` is called when the guest resets the machine through port 0xCF9."""
        self._bus = bus
        self._reset_requested = reset_requested
        self._address = 0
        self._reset_control = 0

    def save(self) -> ConfigPortsState:
        """Both registers."""
        return ConfigPortsState(address=self._address, reset_control=self._reset_control)

    def load(self, state: ConfigPortsState) -> None:
        """Take over both registers."""
        self._address = state.address & 0x80FF_FFFC
        self._reset_control = state.reset_control & RESET_HARD

    def read(self, offset: int, size: int) -> int:
        """Read a port."""
        if offset >= 4:
            if not self._address & CONFIG_ENABLE:
                return (1 << (8 * size)) - 1
            address = self._address
            register = address & 0xFC | offset & 3
            return self._bus.config_read(address >> 16 & 0xFF, address >> 8 & 0xFF, register, size)
        if offset == 0 and size == 4:
            return self._address
        if offset == RESET_CONTROL and size == 1:
            return self._reset_control
        return (1 << (8 * size)) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a port."""
        if offset >= 4:
            address = self._address
            if address & CONFIG_ENABLE:
                register = address & 0xFC | offset & 3
                self._bus.config_write(address >> 16 & 0xFF, address >> 8 & 0xFF, register, size, value)
        elif offset == 0 and size == 4:
            self._address = value & 0x80FF_FFFC
        elif offset == RESET_CONTROL and size == 1:
            self._reset_control = value & RESET_HARD
            if value & RESET_CPU:
                self._reset_requested()

    def reset(self) -> None:
        """Return to the power-on state."""
        self._address = 0
        self._reset_control = 0
