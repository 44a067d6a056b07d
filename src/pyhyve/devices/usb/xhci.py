"""An xHCI host controller whose ports are empty (QEMU's `qemu-xhci`): USB 2 and 3 ports, command and event ring.

Nothing is ever plugged in, so no slot can be enabled. It is there because management tools give every Q35 one.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from pyhyve.devices.pci.device import PciDevice
from pyhyve.devices.pci.msi import Msix
from pyhyve.devices.pci.spec import BarKind
from pyhyve.devices.usb import xhci_spec as spec
from pyhyve.devices.usb.xhci_spec import (
    Completion,
    Operational,
    RingControl,
    Runtime,
    TrbType,
    UsbCommand,
    UsbStatus,
)
from pyhyve.devices.word_registers import WordRegisters
from pyhyve.memory.guest import GuestAddressError
from pyhyve.state.part import SaveablePart
from pyhyve.state.record import U32, U64, record

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyhyve.memory.guest import GuestMemory
    from pyhyve.state.contract import Saveable

MAX_PORTS = 15
"""Of each speed."""
_TRB = struct.Struct("<QII")
_SEGMENT = struct.Struct("<QI4x")
_SERIAL_BUS_RELEASE, _USB_3 = 0x60, 0x30
_CAPABILITIES_FROM = 0x70
_ALL = 0xFFFF_FFFF
_MAX_TRBS = 512
"""Commands carried out at once: a driver's ring may lead in circles."""


@record
class XhciState:
    """Registers, and where both rings are."""

    command: U32
    status: U32
    notification: U32
    ring: U64
    ring_control: U32
    contexts: U64
    configure: U32
    powered: U32
    management: U32
    moderation: U32
    table_size: U32
    table: U64
    dequeue: U64
    segment: U64
    segment_trbs: U32
    produced: U32
    cycle: U32


class Xhci(PciDevice):
    """The function; all registers are in its first BAR. `usb2` and `usb3` ports of each speed."""

    def __init__(self, memory: GuestMemory, *, usb2: int = 4, usb3: int = 4) -> None:
        super().__init__(
            vendor_id=0x1B36,
            device_id=0x000D,
            class_code=0x0C0330,
            revision=1,
            subsystem_vendor_id=0x1AF4,
            subsystem_id=0x1100,
            interrupt_pin=1,
            name="xHCI",
        )
        self._memory = memory
        self._usb2, self._usb3 = usb2, usb3
        self.config[_SERIAL_BUS_RELEASE] = _USB_3
        self._next_capability = _CAPABILITIES_FROM
        self.add_bar(0, spec.SPACE_BYTES, BarKind.MEM64, WordRegisters(self.read_register, self.write_register))
        Msix(self, 2, 1)
        self.parts = SaveablePart(XhciState, self.save_registers, self.load_registers)
        self.reset_registers()

    def reset_registers(self) -> None:
        """What the driver's reset does too (4.2)."""
        self._command = self._notification = self._ring_control = self._configure = 0
        self._status = int(UsbStatus.HALTED)
        self._ring = self._contexts = self._table = self._dequeue = self._segment = 0
        self._powered = (1 << self._usb2 + self._usb3) - 1
        self._management = self._table_size = self._segment_trbs = self._produced = 0
        self._moderation = spec.MODERATION_DEFAULT
        self._cycle = 1

    def reset(self) -> None:
        """Power on."""
        super().reset()
        self.reset_registers()

    # -- registers of 32 bits -----------------------------------------------------------------------------------------

    def read_register(self, offset: int) -> int:
        """A register; 0 where there is none."""
        if offset < spec.CAPABILITY_BYTES:
            return self._read_capability(offset)
        if offset >= spec.DOORBELLS_AT:
            return 0
        if offset >= spec.RUNTIME_AT:
            return self._read_runtime(offset - spec.RUNTIME_AT)
        return self._read_operational(offset - spec.CAPABILITY_BYTES)

    def _read_capability(self, offset: int) -> int:
        ports = self._usb2 + self._usb3
        first, second = spec.PROTOCOLS_AT, spec.PROTOCOLS_AT + 0x10
        return {
            0x00: spec.VERSION << 16 | spec.CAPABILITY_BYTES,
            0x04: ports << 24 | 1 << 8 | spec.MAX_SLOTS,
            0x08: 0x0F,
            0x10: spec.PROTOCOLS_AT // 4 << 16 | 1,
            0x14: spec.DOORBELLS_AT,
            0x18: spec.RUNTIME_AT,
            first: 0x0200_0402,
            first + 4: spec.PROTOCOL_NAME,
            first + 8: self._usb2 << 8 | self._usb3 + 1,
            second: 0x0300_0002,
            second + 4: spec.PROTOCOL_NAME,
            second + 8: self._usb3 << 8 | 1,
        }.get(offset, 0)

    def _read_operational(self, offset: int) -> int:
        if offset >= Operational.PORTS:
            number, register = divmod(offset - Operational.PORTS, spec.PORT_BYTES)
            if register or number >= self._usb2 + self._usb3:
                return 0
            return spec.PORT_DETECTING | (spec.PORT_POWER if self._powered >> number & 1 else 0)
        match offset:
            case Operational.COMMAND:
                return self._command
            case Operational.STATUS:
                return self._status
            case Operational.PAGE_SIZE:
                return 1
            case Operational.NOTIFICATION:
                return self._notification
            case Operational.RING:
                return self._ring_control & RingControl.RUNNING
            case Operational.CONTEXTS:
                return self._contexts & _ALL
            case 0x34:
                return self._contexts >> 32
            case Operational.CONFIGURE:
                return self._configure
            case _:
                return 0

    def _read_runtime(self, offset: int) -> int:
        match offset:
            case Runtime.MANAGEMENT:
                return self._management
            case Runtime.MODERATION:
                return self._moderation
            case Runtime.TABLE_SIZE:
                return self._table_size
            case Runtime.TABLE | 0x34:
                return self._table >> 8 * (offset & 4) & _ALL
            case Runtime.DEQUEUE | 0x3C:
                return self._dequeue >> 8 * (offset & 4) & _ALL
            case _:
                return 0

    def write_register(self, offset: int, value: int) -> None:
        """As `read_register`."""
        if offset == spec.DOORBELLS_AT:
            self._run_commands()
        elif spec.RUNTIME_AT <= offset < spec.DOORBELLS_AT:
            self._write_runtime(offset - spec.RUNTIME_AT, value)
        elif spec.CAPABILITY_BYTES <= offset < spec.RUNTIME_AT:
            self._write_operational(offset - spec.CAPABILITY_BYTES, value)

    def _write_operational(self, offset: int, value: int) -> None:
        if offset >= Operational.PORTS:
            number, register = divmod(offset - Operational.PORTS, spec.PORT_BYTES)
            if not register and number < self._usb2 + self._usb3:
                bit = 1 << number
                self._powered = self._powered | bit if value & spec.PORT_POWER else self._powered & ~bit
            return
        match offset:
            case Operational.COMMAND:
                self._write_command(value)
            case Operational.STATUS:
                self._status &= ~(value & int(spec.STATUS_CLEARED))
            case Operational.NOTIFICATION:
                self._notification = value & 0xFFFF
            case Operational.RING:
                if value & (RingControl.STOP | RingControl.ABORT):
                    self._ring_control &= ~int(RingControl.RUNNING)
                self._ring = self._ring & ~_ALL | value & ~0x3F
                self._ring_control = self._ring_control & int(RingControl.RUNNING) | value & int(RingControl.CYCLE)
            case 0x1C:
                self._ring = self._ring & _ALL | value << 32
            case Operational.CONTEXTS:
                self._contexts = self._contexts & ~_ALL | value & ~0x3F
            case 0x34:
                self._contexts = self._contexts & _ALL | value << 32
            case Operational.CONFIGURE:
                self._configure = value & 0xFF

    def _write_command(self, value: int) -> None:
        if value & UsbCommand.RESET:
            self.reset_registers()
            self._drive()
            return
        if value & UsbCommand.RESTORE:
            self._status |= int(UsbStatus.SAVE_ERROR)  # what was saved is nowhere: the driver starts afresh
        kept = UsbCommand.RUN | UsbCommand.INTERRUPTS | UsbCommand.HOST_ERRORS | UsbCommand.WRAP_EVENTS
        self._command = value & int(kept)
        if value & UsbCommand.RUN:
            self._status &= ~int(UsbStatus.HALTED)
        else:
            self._status |= int(UsbStatus.HALTED)
            self._ring_control &= ~int(RingControl.RUNNING)
        self._drive()

    def _write_runtime(self, offset: int, value: int) -> None:
        match offset:
            case Runtime.MANAGEMENT:
                pending = self._management & ~value & spec.PENDING
                self._management = pending | value & spec.ENABLED
                self._drive()
            case Runtime.MODERATION:
                self._moderation = value
            case Runtime.TABLE_SIZE:
                self._table_size = value & 0xFFFF
            case Runtime.TABLE:
                self._table = self._table & ~_ALL | value & ~0x3F
                self._find_segment()
            case 0x34:
                self._table = self._table & _ALL | value << 32
                self._find_segment()
            case Runtime.DEQUEUE:
                busy = self._dequeue & ~value & spec.HANDLER_BUSY
                self._dequeue = self._dequeue & ~_ALL | value & ~0xF | busy | value & 7
            case 0x3C:
                self._dequeue = self._dequeue & _ALL | value << 32

    # -- rings --------------------------------------------------------------------------------------------------------

    def _find_segment(self) -> None:
        """The event ring's only segment (6.5), as the driver's table has it."""
        self._segment_trbs = self._produced = 0
        self._cycle = 1
        if not self._table_size or not self._table:
            return
        try:
            base, size = _SEGMENT.unpack(self._memory.read(self._table, _SEGMENT.size))
        except GuestAddressError:
            self._host_error()
            return
        if spec.MIN_SEGMENT <= size & 0xFFFF <= spec.MAX_SEGMENT:
            self._segment, self._segment_trbs = base & ~0x3F, size & 0xFFFF

    def _host_error(self) -> None:
        self._status |= int(UsbStatus.HOST_ERROR | UsbStatus.HALTED)
        self._command &= ~int(UsbCommand.RUN)

    def _run_commands(self) -> None:
        """The doorbell of the command ring (4.6)."""
        if not self._command & UsbCommand.RUN or not self.bus_master:
            return
        self._ring_control |= int(RingControl.RUNNING)
        try:
            for _ in range(_MAX_TRBS):
                if not self._take_command():
                    return
            self._host_error()
        except GuestAddressError:
            self._host_error()

    def _take_command(self) -> bool:
        """Carry out the next command; False when the driver has put none there."""
        parameter, _, control = _TRB.unpack(self._memory.read(self._ring, _TRB.size))
        if control & spec.TRB_CYCLE != self._ring_control & RingControl.CYCLE:
            return False
        kind = control >> spec.TRB_TYPE_SHIFT & 0x3F
        if kind == TrbType.LINK:
            self._ring = parameter & ~0xF
            if control & spec.TRB_TOGGLE:
                self._ring_control ^= int(RingControl.CYCLE)
            return True
        at, self._ring = self._ring, self._ring + _TRB.size
        match kind:
            case TrbType.NO_OP_COMMAND:
                code = Completion.SUCCESS
            case TrbType.ENABLE_SLOT:
                code = Completion.NO_SLOTS
            case _ if TrbType.ENABLE_SLOT < kind < TrbType.NO_OP_COMMAND:
                code = Completion.SLOT_NOT_ENABLED
            case _:
                code = Completion.TRB_ERROR
        self._report(at, code)
        return True

    def _report(self, command_gpa: int, code: Completion) -> None:
        """Put an event into the ring (4.9.4); a full one loses it."""
        if not self._segment_trbs:
            return
        gpa = self._segment + self._produced * _TRB.size
        following = (self._produced + 1) % self._segment_trbs
        if self._segment + following * _TRB.size == self._dequeue & ~0xF:
            return
        control = TrbType.COMMAND_COMPLETION << spec.TRB_TYPE_SHIFT | self._cycle
        self._memory.write(gpa, _TRB.pack(command_gpa, code << 24, control))
        self._produced = following
        if not following:
            self._cycle ^= 1
        self._status |= int(UsbStatus.EVENT)
        self._management |= spec.PENDING
        self._dequeue |= spec.HANDLER_BUSY
        self._drive()

    def _drive(self) -> None:
        """A message ends what is pending; the pin shows it (4.17.5)."""
        both = spec.PENDING | spec.ENABLED
        wanted = self._management & both == both and bool(self._command & UsbCommand.INTERRUPTS)
        if self.msix is not None and self.msix.enabled:
            if wanted:
                self._management &= ~spec.PENDING
                self.msix.notify(0)
        else:
            self.set_intx(level=wanted)

    # -- state --------------------------------------------------------------------------------------------------------

    def saveables(self) -> Iterable[tuple[str, Saveable]]:
        """The function, and its registers."""
        yield "", self
        yield ".registers", self.parts

    def save_registers(self) -> XhciState:
        """All registers."""
        return XhciState(**{name: getattr(self, f"_{name}") for name in XhciState.__annotations__})

    def load_registers(self, state: XhciState) -> None:
        """Take over all registers."""
        for name in XhciState.__annotations__:
            setattr(self, f"_{name}", getattr(state, name))
        self._segment_trbs = min(self._segment_trbs, spec.MAX_SEGMENT)
        self._produced %= max(self._segment_trbs, 1)
        self._cycle &= 1
        self._ring_control &= int(RingControl.CYCLE | RingControl.RUNNING)
