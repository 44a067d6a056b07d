"""A UHCI host controller whose two ports are empty (Universal Host Controller Interface, Design Guide 1.1, chapter 2).

Nothing is ever plugged in, so no transfer is ever carried out: what a driver puts on the schedule stays there until it
gives up. It is there because management tools give every PC one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.devices.pci.device import PciDevice
from pyhyve.devices.pci.spec import BarKind
from pyhyve.support.enums import IntFlag

if TYPE_CHECKING:
    from pyhyve.devices.contracts import Clock

_NS_PER_FRAME = 1_000_000
_BAR, _BAR_BYTES = 4, 32
_USBCMD, _USBSTS, _USBINTR, _FRNUM, _FLBASEADD, _SOFMOD = 0x00, 0x02, 0x04, 0x06, 0x08, 0x0C
_PORTS = (0x10, 0x12)
_SOF_DEFAULT = 0x40
_LEGACY_SUPPORT = 0xC0
_SERIAL_BUS_RELEASE = 0x60
_PORT_ALWAYS_ONE = 1 << 7
_PORT_WRITABLE = 1 << 2 | 1 << 9 | 1 << 12
"""Enable is refused without a device; reset, suspend and resume can be set."""


class Command(IntFlag):
    """USBCMD (2.1.1)."""

    RUN = 1 << 0
    HOST_RESET = 1 << 1
    GLOBAL_RESET = 1 << 2


class Status(IntFlag):
    """USBSTS (2.1.2)."""

    HALTED = 1 << 5


class Uhci(PciDevice):
    """The controller of the PIIX3, function 2 of the chip."""

    def __init__(self, clock: Clock) -> None:
        """Frames are counted by `clock` while the controller runs."""
        super().__init__(
            vendor_id=0x8086,
            device_id=0x7020,
            class_code=0x0C0300,
            revision=1,
            subsystem_vendor_id=0x1AF4,
            subsystem_id=0x1100,
            interrupt_pin=4,
            name="UHCI",
        )
        self._clock = clock
        self.config[_SERIAL_BUS_RELEASE] = 0x10
        self.writable[_LEGACY_SUPPORT : _LEGACY_SUPPORT + 2] = b"\xff\xff"
        self.add_bar(_BAR, _BAR_BYTES, BarKind.IO, self)
        self._clear()

    def _clear(self) -> None:
        self._command = self._interrupts = self._base = 0
        self._status = int(Status.HALTED)
        self._modify = _SOF_DEFAULT
        self._frame = 0
        self._started_ns: int | None = None
        self._port_bits = [0, 0]

    def reset(self) -> None:
        """Return to the power-on state."""
        self._clear()
        super().reset()

    def read(self, offset: int, size: int) -> int:
        """Read a register, or part of one."""
        value = 0
        for at in range(offset & ~1, offset + size, 2):
            value |= self._word(at) << 8 * (at - (offset & ~1))
        return value >> 8 * (offset & 1) & ((1 << 8 * size) - 1)

    def _word(self, offset: int) -> int:
        match offset:
            case 0x00:
                return self._command
            case 0x02:
                return self._status
            case 0x04:
                return self._interrupts
            case 0x06:
                return self._frame_number()
            case 0x08:
                return self._base & 0xFFFF
            case 0x0A:
                return self._base >> 16
            case 0x0C:
                return self._modify
            case 0x10 | 0x12:
                return _PORT_ALWAYS_ONE | self._port_bits[(offset - _PORTS[0]) >> 1]
            case _:
                return 0 if offset < _BAR_BYTES else 0xFFFF

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register; those of 16 bits as a whole, as drivers do."""
        if offset == _FLBASEADD and size == 4:
            self._base = value & 0xFFFFF000
            return
        if size == 4:
            self.write(offset, 2, value & 0xFFFF)
            self.write(offset + 2, 2, value >> 16)
            return
        match offset:
            case 0x00:
                self._write_command(value & 0xFF)
            case 0x02:
                self._status &= ~(value & 0x1F)
            case 0x04:
                self._interrupts = value & 0xF
            case 0x06:
                if self._started_ns is None:
                    self._frame = value & 0x7FF
            case 0x08:
                self._base = self._base & 0xFFFF0000 | value & 0xF000
            case 0x0A:
                self._base = self._base & 0xFFFF | value << 16
            case 0x0C:
                self._modify = value & 0x7F
            case 0x10 | 0x12:
                self._port_bits[(offset - _PORTS[0]) >> 1] = value & _PORT_WRITABLE

    def _write_command(self, value: int) -> None:
        if value & (Command.HOST_RESET | Command.GLOBAL_RESET):
            self._clear()
            self._command = value & Command.GLOBAL_RESET
            return
        running = bool(value & Command.RUN)
        if running and self._started_ns is None:
            self._started_ns = self._clock.now_ns()
            self._status &= ~Status.HALTED
        elif not running:
            self._frame = self._frame_number()
            self._started_ns = None
            self._status |= Status.HALTED
        self._command = value

    def _frame_number(self) -> int:
        if self._started_ns is None:
            return self._frame
        return self._frame + (self._clock.now_ns() - self._started_ns) // _NS_PER_FRAME & 0x7FF
