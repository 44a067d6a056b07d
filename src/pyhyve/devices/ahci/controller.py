"""The SATA function of the ICH9 (Intel 316972, 15) in AHCI mode: six ports, registers in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.devices.ahci import spec
from pyhyve.devices.ahci.port import Port, PortState
from pyhyve.devices.ahci.spec import Capability, HbaRegister, HostControl
from pyhyve.devices.pci.device import PciDevice
from pyhyve.devices.pci.i440fx import VIRTUAL_SUBSYSTEM, VIRTUAL_SUBSYSTEM_VENDOR
from pyhyve.devices.pci.msi import Msi
from pyhyve.devices.pci.spec import BarKind, CapabilityId
from pyhyve.devices.word_registers import WordRegisters
from pyhyve.state.part import SaveablePart
from pyhyve.state.record import U32, record

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable

    from pyhyve.devices.ide.drive import Drive
    from pyhyve.memory.guest import GuestMemory
    from pyhyve.state.contract import Saveable

PORT_COUNT = 6
SLOT, FUNCTION = 31, 2
"""Where it is on a Q35."""
_INDEX_BAR, _INDEX_BYTES, _INDEX, _DATA = 4, 32, 0x10, 0x14
_ABAR = 5
_MAP, _MAP_AHCI, _PORT_CONTROL = 0x90, 0x40, 0x92
_CAPABILITIES = (
    Capability.SLOTS_32 | Capability.AHCI_ONLY | Capability.GEN1 | Capability.COMMAND_LIST_OVERRIDE | Capability.NCQ
    | Capability.ADDRESSES_64
)  # fmt: skip


@record
class AhciState:
    """The adapter's registers, and its ports."""

    control: U32
    interrupts: U32
    index: U32
    ports: tuple[PortState, ...]


class Ich9Ahci(PciDevice):
    """The adapter; drives are on buses 0 to 5, one each."""

    def __init__(self, memory: GuestMemory, lock: threading.RLock, *, name: str = "SATA") -> None:
        """`lock` is the machine's."""
        super().__init__(
            vendor_id=0x8086,
            device_id=0x2922,
            class_code=0x010601,
            revision=2,
            subsystem_vendor_id=VIRTUAL_SUBSYSTEM_VENDOR,
            subsystem_id=VIRTUAL_SUBSYSTEM,
            interrupt_pin=1,
            name=name,
        )
        self._lock = lock
        self._control = int(HostControl.AHCI)
        self._interrupts = 0
        self.index = 0
        self.ports = tuple(Port(memory, lambda: self.bus_master, self.update) for _ in range(PORT_COUNT))
        self.parts = SaveablePart(AhciState, self.save_ports, self.load_ports)
        self.config[_MAP] = _MAP_AHCI
        self.writable[_PORT_CONTROL] = (1 << PORT_COUNT) - 1
        Msi(self)
        location = _INDEX_BAR + 4 | _INDEX >> 2 << 4  # in the form of Serial ATA AHCI 1.3.1, 2.4
        self.add_capability(CapabilityId.SATA, b"\x10\x00" + location.to_bytes(4, "little"))
        self.add_bar(_INDEX_BAR, _INDEX_BYTES, BarKind.IO, _IndexPair(self))
        self.add_bar(_ABAR, spec.ABAR_BYTES, BarKind.MEM32, WordRegisters(self.read_register, self.write_register))

    # -- drives (as of any controller of such) ------------------------------------------------------------------------

    def units(self, bus: int) -> list[Drive | None]:
        """The drives on a bus, None for places that are free."""
        return [self.ports[bus].drive]

    def connect(self, bus: int, _unit: int, drive: Drive) -> None:
        """Put a drive on a bus."""
        self.ports[bus].connect(drive)

    @property
    def drives(self) -> list[Drive]:
        """All drives."""
        return [port.drive for port in self.ports if port.drive is not None]

    # -- registers ----------------------------------------------------------------------------------------------------

    def read_register(self, offset: int) -> int:
        """A register of 32 bits."""
        if offset >= spec.PORTS_AT:
            number, register = divmod(offset - spec.PORTS_AT, spec.PORT_BYTES)
            return self.ports[number].read(register) if number < PORT_COUNT else 0
        match offset:
            case HbaRegister.CAP:
                return int(_CAPABILITIES) | PORT_COUNT - 1
            case HbaRegister.GHC:
                return self._control
            case HbaRegister.IS:
                return self._interrupts
            case HbaRegister.PI:
                return (1 << PORT_COUNT) - 1
            case HbaRegister.VS:
                return spec.VERSION
            case _:
                return 0

    def write_register(self, offset: int, value: int) -> None:
        """As `read_register`."""
        if offset >= spec.PORTS_AT:
            number, register = divmod(offset - spec.PORTS_AT, spec.PORT_BYTES)
            if number < PORT_COUNT:
                self.ports[number].write(register, value)
        elif offset == HbaRegister.GHC:
            if value & HostControl.RESET:
                self._clear()
            else:
                self._control = int(HostControl.AHCI) | value & int(HostControl.INTERRUPTS)
                self.update()
        elif offset == HbaRegister.IS:
            self._interrupts &= ~value
            self.update()

    def _clear(self) -> None:
        self._control, self._interrupts = int(HostControl.AHCI), 0
        for port in self.ports:
            port.clear()
        self.update()

    def update(self) -> None:
        """Collect what ports raised; send a message, or drive the pin."""
        for number, port in enumerate(self.ports):
            if port.pending:
                self._interrupts |= 1 << number
        level = bool(self._interrupts and self._control & HostControl.INTERRUPTS)
        if self.msi is not None and self.msi.enabled:
            if level:
                self.msi.notify()
        else:
            self.set_intx(level=level)

    # -- PciDevice ----------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Power on."""
        super().reset()
        self._control, self._interrupts, self.index = int(HostControl.AHCI), 0, 0
        for port in self.ports:
            port.reset()

    def suspend(self) -> None:
        """Finish what is under way."""
        for drive in self.drives:
            drive.work.settle()

    def resume(self) -> None:
        """Try again what an error policy held."""
        with self._lock:
            for port in self.ports:
                port.resume()

    def saveables(self) -> Iterable[tuple[str, Saveable]]:
        """The function, and what is behind it."""
        yield "", self
        yield ".ports", self.parts

    def save_ports(self) -> AhciState:
        """Registers and ports."""
        ports = tuple(port.save() for port in self.ports)
        return AhciState(control=self._control, interrupts=self._interrupts, index=self.index, ports=ports)

    def load_ports(self, state: AhciState) -> None:
        """Take over registers and ports; StateError for other drives."""
        for port, saved in zip(self.ports, state.ports, strict=False):
            port.load(saved)
        self._control = int(HostControl.AHCI) | state.control & int(HostControl.INTERRUPTS)
        self._interrupts = state.interrupts
        self.index = state.index & 0xFFC


class _IndexPair:
    """The same registers through ports: index and data (15.2.1)."""

    def __init__(self, controller: Ich9Ahci) -> None:
        self._controller = controller

    def read(self, offset: int, size: int) -> int:
        """Read index or data."""
        if size == 4 and offset == _INDEX:
            return self._controller.index
        if size == 4 and offset == _DATA:
            return self._controller.read_register(self._controller.index)
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Write index or data."""
        if size == 4 and offset == _INDEX:
            self._controller.index = value & 0xFFC
        elif size == 4 and offset == _DATA:
            self._controller.write_register(self._controller.index, value)
