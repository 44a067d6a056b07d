"""A channel with up to two drives: command and control blocks, the interrupt line, bus mastering."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from pyhyve.devices.ide.drive import DriveState, Phase
from pyhyve.devices.ide.spec import (
    ALWAYS_ONE,
    LAST_ENTRY,
    MAX_ENTRIES,
    BusMasterCommand,
    BusMasterRegister,
    BusMasterStatus,
    Command,
    ControlBit,
    DeviceBit,
    Register,
)
from pyhyve.memory.guest import GuestAddressError
from pyhyve.state.errors import StateError
from pyhyve.state.record import U8, U32, record

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.devices.contracts import IrqLine
    from pyhyve.devices.ide.drive import Drive
    from pyhyve.memory.guest import GuestMemory

_REGION = struct.Struct("<II")
_DMA_PHASES = (Phase.DMA_TO_HOST, Phase.DMA_FROM_HOST)


@record
class ChannelState:
    """Registers of the channel and its bus master, and the drives."""

    control: U8
    selected: U8
    pending: bool
    command: U8
    status: U8
    table: U32
    drives: tuple[DriveState, ...]
    units: U8
    """Which units are there, one bit each."""


class Channel:
    """Command block registers at offsets 0 to 7; `control` is the one port of the control block."""

    def __init__(self, line: IrqLine, memory: GuestMemory, may_master: Callable[[], bool]) -> None:
        """`may_master` tells whether the function may read and write guest memory."""
        self.drives: list[Drive | None] = [None, None]
        self.control = _ControlBlock(self)
        self._line = line
        self._memory = memory
        self._may_master = may_master
        self._control = 0
        self._selected = 0
        self._pending = False
        self._bm_command = self._bm_status = self._bm_table = 0

    def add(self, unit: int, drive: Drive) -> None:
        """Connect a drive. Raises ValueError when there is one."""
        if self.drives[unit] is not None:
            msg = f"IDE unit {unit} is in use"
            raise ValueError(msg)
        self.drives[unit] = drive
        drive.host = self
        drive.reset()

    @property
    def _drive(self) -> Drive | None:
        return self.drives[self._selected]

    def reset(self) -> None:
        """Power on."""
        self._control = self._selected = 0
        self._bm_command = self._bm_status = self._bm_table = 0
        for drive in self.drives:
            if drive is not None:
                drive.reset()
        self._set_pending(pending=False)

    # -- command block ------------------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """Read a register; the data port takes 16 and 32 bits at once."""
        drive = self._drive
        if offset == Register.DATA:
            return 0 if drive is None else drive.read_data(size)
        if size != 1:
            return (1 << 8 * size) - 1
        if offset == Register.COMMAND:
            self._set_pending(pending=False)
            return self.status()
        if drive is None:
            return 0
        return drive.read_register(offset, previous=bool(self._control & ControlBit.HOB))

    def status(self) -> int:
        """The status register; 0 where no drive is."""
        return 0 if self._drive is None else self._drive.status

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register: both drives hear it, but data and commands, which are for the selected one."""
        if offset == Register.DATA:
            if self._drive is not None:
                self._drive.write_data(size, value)
            return
        if size != 1:
            return
        self._control &= ~int(ControlBit.HOB)
        if offset == Register.COMMAND:
            self._execute(value)
            return
        if offset == Register.DEVICE:
            self._selected = int(bool(value & DeviceBit.DEV))
            value |= ALWAYS_ONE
        for drive in self.drives:
            if drive is not None and (drive.phase is Phase.IDLE or offset == Register.DEVICE):
                drive.write_register(offset, value)

    def _execute(self, command: int) -> None:
        if command == Command.EXECUTE_DIAGNOSTIC:
            self._set_pending(pending=False)
            for drive in self.drives:
                if drive is not None:
                    drive.reset()
            self._selected = 0
            if self._drive is not None:
                self.interrupt(self._drive)
            return
        drive = self._drive
        if drive is None or (drive.phase is Phase.BUSY and command != Command.DEVICE_RESET):
            return
        self._set_pending(pending=False)
        drive.execute(command)

    def take(self, length: int, size: int) -> bytes:
        """Bytes behind the data port, all but the last few, for who wants many at once (`accel.api.BufferedReads`)."""
        return b"" if self._drive is None else self._drive.take(length, size)

    # -- control block ------------------------------------------------------------------------------------------------

    def write_control(self, value: int) -> None:
        """The device control register: software reset while SRST is set, interrupts unless nIEN is."""
        rising = value & ~self._control & ControlBit.SRST
        self._control = value
        if rising:
            self._selected = 0
            self._set_pending(pending=False)
            for drive in self.drives:
                if drive is not None:
                    drive.reset()
        self._drive_line()

    # -- interrupts ---------------------------------------------------------------------------------------------------

    def interrupt(self, drive: Drive) -> None:
        """A drive wants attention."""
        if drive is self._drive:
            self._set_pending(pending=True)

    def _set_pending(self, *, pending: bool) -> None:
        if pending:
            self._bm_status |= int(BusMasterStatus.INTERRUPT)
        self._pending = pending
        self._drive_line()

    def _drive_line(self) -> None:
        self._line.set(level=self._pending and not self._control & ControlBit.NIEN)

    # -- bus master (SFF-8038i) ---------------------------------------------------------------------------------------

    def read_master(self, offset: int, size: int) -> int:
        """Registers of the bus master, 8 bytes."""
        registers = struct.pack("<BxBxI", self._bm_command, self._bm_status, self._bm_table)
        return int.from_bytes(registers[offset : offset + size], "little")

    def write_master(self, offset: int, size: int, value: int) -> None:
        """Start, status, table."""
        if offset >= BusMasterRegister.TABLE:
            shift = 8 * (offset - BusMasterRegister.TABLE)
            mask = (1 << 8 * size) - 1 << shift
            self._bm_table = (self._bm_table & ~mask | value << shift & mask) & 0xFFFF_FFFC
            return
        for at in range(offset, min(offset + size, BusMasterRegister.TABLE)):
            byte = value >> 8 * (at - offset) & 0xFF
            if at == BusMasterRegister.COMMAND:
                self._write_master_command(byte)
            elif at == BusMasterRegister.STATUS:
                keep = self._bm_status & ~byte & (BusMasterStatus.ERROR | BusMasterStatus.INTERRUPT)
                set_by_driver = byte & (BusMasterStatus.DRIVE_0_DMA | BusMasterStatus.DRIVE_1_DMA)
                self._bm_status = int(keep | set_by_driver | self._bm_status & BusMasterStatus.ACTIVE)

    def _write_master_command(self, value: int) -> None:
        started = value & BusMasterCommand.START and not self._bm_command & BusMasterCommand.START
        self._bm_command = value & int(BusMasterCommand.START | BusMasterCommand.TO_MEMORY)
        if started:
            self._bm_status |= int(BusMasterStatus.ACTIVE)
            self.dma_wanted()
        elif not value & BusMasterCommand.START:
            self._bm_status &= ~int(BusMasterStatus.ACTIVE)

    def dma_wanted(self) -> None:
        """Begin when both the drive and the bus master are ready."""
        drive = self._drive
        if drive is not None and drive.phase in _DMA_PHASES and self._bm_status & BusMasterStatus.ACTIVE:
            drive.transfer()

    def dma_views(self, length: int) -> list[tuple[int, memoryview]] | None:
        """Guest memory for the next `length` bytes at most, as the table of physical regions has it.

        Neighbours are put together. None when the table, or what it names, is not memory, or mastering is off.
        """
        if not self._may_master():
            return None
        ranges: list[tuple[int, int]] = []
        at = self._bm_table
        try:
            for _ in range(MAX_ENTRIES):
                address, rest = _REGION.unpack(self._memory.read(at, _REGION.size))
                size = min(rest & 0xFFFE or 0x10000, length)
                address &= ~1
                if ranges and sum(ranges[-1]) == address:
                    ranges[-1] = (ranges[-1][0], ranges[-1][1] + size)
                else:
                    ranges.append((address, size))
                length -= size
                at += _REGION.size
                if not length or rest & LAST_ENTRY:
                    break
            return [(gpa, self._memory.view(gpa, size)) for gpa, size in ranges]
        except GuestAddressError:
            return None

    def dma_done(self, transferred: int, wanted: int, *, failed: bool = False) -> None:
        """The transfer is over; a table that was too short shows as such: no longer active, no interrupt."""
        self._bm_status &= ~int(BusMasterStatus.ACTIVE)
        if failed:
            self._bm_status |= int(BusMasterStatus.ERROR)

    def mark_written(self, gpa: int, length: int) -> None:
        """A drive changed guest memory."""
        self._memory.mark_written(gpa, length)

    # -- state --------------------------------------------------------------------------------------------------------

    def save(self) -> ChannelState:
        """Registers and drives."""
        drives = [drive for drive in self.drives if drive is not None]
        return ChannelState(
            control=self._control,
            selected=self._selected,
            pending=self._pending,
            command=self._bm_command,
            status=self._bm_status,
            table=self._bm_table,
            drives=tuple(drive.save() for drive in drives),
            units=self._units(),
        )

    def load(self, state: ChannelState) -> None:
        """Take over registers and drives; StateError when other drives are there."""
        drives = [drive for drive in self.drives if drive is not None]
        if state.units != self._units() or len(state.drives) != len(drives):
            msg = "IDE: the state has other drives on a channel"
            raise StateError(msg)
        for drive, saved in zip(drives, state.drives, strict=True):
            drive.load(saved)
        self._control, self._selected = state.control, state.selected & 1
        self._bm_command, self._bm_status, self._bm_table = state.command, state.status, state.table & 0xFFFF_FFFC
        self._pending = state.pending
        self._drive_line()

    def _units(self) -> int:
        return sum(1 << unit for unit, drive in enumerate(self.drives) if drive is not None)


class _ControlBlock:
    """The alternate status and device control register."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def read(self, _offset: int, size: int) -> int:
        """The status, which acknowledges nothing."""
        return self._channel.status() if size == 1 else (1 << 8 * size) - 1

    def write(self, _offset: int, size: int, value: int) -> None:
        """Write the control register."""
        if size == 1:
            self._channel.write_control(value)
