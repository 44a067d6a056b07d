"""Host bridge and LPC bridge of the Q35/ICH9 chipset: configuration through memory, and eight interrupt lines.

Intel 3 Series Express Chipset Family (316966), ICH9 Family (316972). As on the i440FX, memory attribute registers only
remember what they are told.
"""

from __future__ import annotations

from pyhyve.devices.bus import AddressConflictError
from pyhyve.devices.pci.device import PciDevice
from pyhyve.devices.pci.i440fx import VIRTUAL_SUBSYSTEM, VIRTUAL_SUBSYSTEM_VENDOR
from pyhyve.devices.pci.pirq import PIRQ_DISABLED, PirqRouting, RoutingBridge

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyhyve.devices.bus import AddressMap, Mapping
    from pyhyve.devices.contracts import LineSetter
    from pyhyve.devices.pci.bus import PciBus

ECAM_BASE = 0xB000_0000
"""Where SeaBIOS puts configuration space, and where it is for kernels that are started without firmware."""
ECAM_BYTES = 256 << 20
FIRST_GSI = 16
"""PIRQ A to H are inputs 16 to 23 of the I/O APIC (316972, 5.9.4)."""
LPC_SLOT = 31
PCIEXBAR, PCIEXBAR_ENABLE = 0x60, 0x01
_PAM0, _PAM_COUNT, _SMRAM, _ESMRAMC = 0x90, 7, 0x9D, 0x9E
_PMBASE, _ACPI_CONTROL, _RCBA = 0x40, 0x44, 0xF0
_ROUTES = (0x60, 0x61, 0x62, 0x63)


class Q35HostBridge(PciDevice):
    """The memory controller hub, function 0:0.0; configuration space of all functions appears where PCIEXBAR says."""

    def __init__(self, bus: PciBus, memory: AddressMap) -> None:
        super().__init__(
            vendor_id=0x8086,
            device_id=0x29C0,
            class_code=0x060000,
            subsystem_vendor_id=VIRTUAL_SUBSYSTEM_VENDOR,
            subsystem_id=VIRTUAL_SUBSYSTEM,
            name="host bridge",
        )
        self.writable[PCIEXBAR : PCIEXBAR + 8] = bytes((PCIEXBAR_ENABLE | 0x06, 0, 0, 0xF0, 0x0F, 0, 0, 0))
        self.writable[_PAM0 : _PAM0 + _PAM_COUNT] = b"\x30" + b"\x33" * (_PAM_COUNT - 1)
        self.writable[_SMRAM] = 0x7F
        self.writable[_ESMRAMC] = 0x07
        self.config[_SMRAM] = 0x02
        self._memory = memory
        self._space = ConfigSpace(bus)
        self._mapping: Mapping | None = None

    def config_write(self, offset: int, size: int, value: int) -> None:
        """Write configuration space; the window onto all of it moves at once."""
        super().config_write(offset, size, value)
        if offset < PCIEXBAR + 8 and offset + size > PCIEXBAR:
            self._place()

    def reset(self) -> None:
        """Power on: the window is closed."""
        super().reset()
        self._place()

    def load(self, state: Any) -> None:  # noqa: ANN401 - as in `PciDevice`
        """Take over the registers, and open the window."""
        super().load(state)
        self._place()

    def unmap(self) -> None:
        """Close the window too."""
        super().unmap()
        self.config[PCIEXBAR] &= ~PCIEXBAR_ENABLE & 0xFF
        self._place()

    def _place(self) -> None:
        register = int.from_bytes(self.config[PCIEXBAR : PCIEXBAR + 8], "little")
        if self._mapping is not None:
            self._memory.remove(self._mapping)
            self._mapping = None
        length = ECAM_BYTES >> min(register >> 1 & 3, 2)
        base = register & ~(length - 1) & 0xF_FFFF_FFFF
        if register & PCIEXBAR_ENABLE:
            try:
                self._mapping = self._memory.add(base, length, self._space, name="PCI configuration space")
            except AddressConflictError:
                return  # a guest's mistake: it finds nothing there


class ConfigSpace:
    """All functions' configuration space, 4 KiB for each (PCI Express 3.0, 7.2.2)."""

    def __init__(self, bus: PciBus) -> None:
        self._bus = bus

    def read(self, offset: int, size: int) -> int:
        """Read a register."""
        return self._bus.config_read(offset >> 20, offset >> 12 & 0xFF, offset & 0xFFF, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register."""
        self._bus.config_write(offset >> 20, offset >> 12 & 0xFF, offset & 0xFFF, size, value)


class Ich9LpcBridge(RoutingBridge):
    """The LPC bridge, function 31.0: PIRQ lines go to the I/O APIC, and where the guest wants it to ISA interrupts.

    `set_irq(gsi, level=)` drives an interrupt input; an ISA one that several lines share is high while any is.
    """

    def __init__(self, set_irq: LineSetter) -> None:
        super().__init__(
            vendor_id=0x8086,
            device_id=0x2918,
            class_code=0x060100,
            revision=2,
            subsystem_vendor_id=VIRTUAL_SUBSYSTEM_VENDOR,
            subsystem_id=VIRTUAL_SUBSYSTEM,
            name="LPC bridge",
        )
        self._set_irq = set_irq
        self._routing = PirqRouting(self, _ROUTES, set_irq)
        self.writable[_PMBASE : _PMBASE + 2] = b"\x80\xff"
        self.config[_PMBASE] = 0x01
        self.writable[_ACPI_CONTROL] = 0x87
        self.writable[_RCBA : _RCBA + 4] = b"\x01\xc0\xff\xff"
        for route in (*_ROUTES, *(route + 8 for route in _ROUTES)):
            self.writable[route] = 0x8F
            self.config[route] = PIRQ_DISABLED

    def set_pirq(self, line: int, /, *, level: bool) -> None:
        """Drive PIRQ `line` (0 to 3)."""
        self._set_irq(FIRST_GSI + line, level=level)
        self._routing.drive(line, level=level)

    def irq_of(self, line: int) -> int | None:
        """What PIRQ `line` is to a kernel that is started without firmware: an input of the I/O APIC."""
        return FIRST_GSI + line
