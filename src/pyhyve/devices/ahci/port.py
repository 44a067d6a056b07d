"""One port of the adapter: its registers, the command list, and the drive on it (AHCI 1.3.1, 3.3, 5 and 6).

The drive carries out one command after the other; queued ones wait in the port for their turn. All of it runs with the
machine lock held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.devices.ahci import spec
from pyhyve.devices.ahci.command import SlotCommand
from pyhyve.devices.ahci.spec import Fis, PortCommand, PortInterrupt, PortRegister
from pyhyve.devices.ide.drive import READY, DriveState, Phase
from pyhyve.devices.ide.spec import ControlBit, StatusBit
from pyhyve.memory.guest import GuestAddressError
from pyhyve.state.errors import StateError
from pyhyve.state.record import U8, U32, U64, record

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.devices.ide.drive import Drive
    from pyhyve.memory.guest import GuestMemory

_BUSY = StatusBit.BSY | StatusBit.DRQ
_ALL = 0xFFFF_FFFF


@record
class PortState:
    """Registers, whether an error holds the list up, the log of queued errors, and the drive."""

    list_gpa: U64
    fis_gpa: U64
    interrupts: U32
    enables: U32
    command: U32
    task: U32
    signature: U32
    control: U32
    errors: U32
    active: U32
    issued: U32
    slot: U8
    is_halted: bool
    in_reset: bool
    log: bytes
    drives: tuple[DriveState, ...]


class Port:
    """Registers at offsets 0 to 0x7F; `raised()` is called when an interrupt bit was set, `may_master` as for IDE."""

    def __init__(self, memory: GuestMemory, may_master: Callable[[], bool], raised: Callable[[], None]) -> None:
        self.drive: Drive | None = None
        self._memory = memory
        self._may_master = may_master
        self._raised = raised
        self._list_gpa = self._fis_gpa = 0
        self._current: SlotCommand | None = None
        self._queued: list[SlotCommand] = []
        self._is_advancing = False
        self.reset()

    def connect(self, drive: Drive) -> None:
        """Put a drive on the port. Raises ValueError when there is one."""
        if self.drive is not None:
            msg = "there is a drive on the port"
            raise ValueError(msg)
        self.drive = drive
        drive.host = self
        drive.is_serial = True
        self.reset()

    def reset(self) -> None:
        """Power on."""
        self._list_gpa = self._fis_gpa = 0
        self.clear()

    def clear(self) -> None:
        """Reset all but where the driver has its memory (10.4.3)."""
        self._interrupts = self.enables = 0
        self._command = int(PortCommand.SPIN_UP | PortCommand.POWER_ON)
        self._control = self._errors = self._slot = 0
        self._in_reset = False
        self._stop_list()
        self._reset_drive()

    @property
    def pending(self) -> int:
        """Interrupt bits that are set and wanted."""
        return self._interrupts & self.enables

    # -- registers ----------------------------------------------------------------------------------------------------

    def read(self, offset: int) -> int:
        """A register of 32 bits; 0 where there is none."""
        match offset:
            case PortRegister.CLB | PortRegister.CLBU:
                return self._list_gpa >> 8 * (offset - PortRegister.CLB) & _ALL
            case PortRegister.FB | PortRegister.FBU:
                return self._fis_gpa >> 8 * (offset - PortRegister.FB) & _ALL
            case PortRegister.IS:
                return self._interrupts
            case PortRegister.IE:
                return self.enables
            case PortRegister.CMD:
                return self._read_command()
            case PortRegister.TFD:
                return self._task | (StatusBit.BSY if self._current is not None and not self._is_queueing else 0)
            case PortRegister.SIG:
                return self._signature
            case PortRegister.SSTS:
                return self._link()
            case PortRegister.SCTL:
                return self._control
            case PortRegister.SERR:
                return self._errors
            case PortRegister.SACT:
                return self._active
            case PortRegister.CI:
                return self._issued
            case _:
                return 0

    def write(self, offset: int, value: int) -> None:
        """As `read`."""
        match offset:
            case PortRegister.CLB:
                self._list_gpa = self._list_gpa & ~_ALL | value & ~0x3FF
            case PortRegister.CLBU:
                self._list_gpa = self._list_gpa & _ALL | value << 32
            case PortRegister.FB:
                self._fis_gpa = self._fis_gpa & ~_ALL | value & ~0xFF
            case PortRegister.FBU:
                self._fis_gpa = self._fis_gpa & _ALL | value << 32
            case PortRegister.IS:
                self._interrupts &= ~value
            case PortRegister.IE:
                self.enables = value & spec.ENABLES
                self._raised()
            case PortRegister.CMD:
                self._write_command(value)
            case PortRegister.SCTL:
                self._write_control(value)
            case PortRegister.SERR:
                self._errors &= ~value
            case PortRegister.SACT:
                self._active |= value if self._command & PortCommand.START else 0
            case PortRegister.CI:
                self._issued |= value if self._command & PortCommand.START else 0
                self._advance()

    def _link(self) -> int:
        detect = self._control & spec.DETECT_MASK
        if detect == spec.DETECT_OFF:
            return spec.DETECT_OFF
        return spec.LINK_UP if self.drive is not None and detect != spec.DETECT_INIT else 0

    def _read_command(self) -> int:
        value = self._command | self._slot << spec.CURRENT_SLOT_SHIFT
        value |= PortCommand.RUNNING if value & PortCommand.START else 0
        return value | (PortCommand.FIS_RUNNING if value & PortCommand.FIS_RECEIVE else 0)

    def _write_command(self, value: int) -> None:
        before, self._command = self._command, value & spec.COMMAND_WRITABLE
        started = value & PortCommand.START
        if before & PortCommand.START and not started:
            self._give_up()
        if value & PortCommand.OVERRIDE and not started:
            self._task &= ~int(_BUSY)
        if value & PortCommand.FIS_RECEIVE and not before & PortCommand.FIS_RECEIVE and self.drive is not None:
            self._receive(Fis.DEVICE_TO_HOST, self._register_frame(0))
        if started and not before & PortCommand.START:
            self._advance()

    def _write_control(self, value: int) -> None:
        """A reset of the device begins with DET 1 and ends with 0 (10.4.2)."""
        before, self._control = self._control & spec.DETECT_MASK, value & 0xFFF
        if before == spec.DETECT_INIT and value & spec.DETECT_MASK != spec.DETECT_INIT:
            self._stop_list()
            self._reset_drive()

    # -- the drive ----------------------------------------------------------------------------------------------------

    def _reset_drive(self) -> None:
        """COMRESET or a software reset: the drive shows its signature."""
        drive = self.drive
        if drive is None:
            self._task, self._signature = spec.NO_DEVICE_TASK, spec.NO_DEVICE_SIGNATURE
            return
        drive.reset()
        self._task = drive.error << 8 | drive.status
        self._signature = (
            (drive.lba_high & 0xFF) << 24
            | (drive.lba_mid & 0xFF) << 16
            | (drive.lba_low & 0xFF) << 8
            | drive.count & 0xFF
        )
        self._receive(Fis.DEVICE_TO_HOST, self._register_frame(0))

    def _stop_list(self) -> None:
        self._current = None
        self._queued = []
        self._active = self._issued = 0
        self._is_halted = self._is_queueing = False
        self._log = b""

    def _give_up(self) -> None:
        """The list was stopped: what is under way never ends, and the drive is busy until it is reset (3.3.7)."""
        log = self._log
        was_busy = self._current is not None and not self._is_queueing
        if self._current is not None and self.drive is not None:
            self.drive.reset()
        self._stop_list()
        self._log = log
        if was_busy:
            self._task |= StatusBit.BSY

    # -- commands -----------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Go on as far as that goes without waiting for the drive's image."""
        if self._is_advancing:
            return
        self._is_advancing = True
        try:
            while self._step():
                pass
        except GuestAddressError:
            self._fail(PortInterrupt.HOST_BUS_FATAL)
        finally:
            self._is_advancing = False

    def _step(self) -> bool:
        drive = self.drive
        if drive is None or self._is_halted or not self._command & PortCommand.START or not self._may_master():
            return False
        command = self._current
        if command is None:
            return self._take_next(drive)
        match drive.phase:
            case Phase.BUSY:
                return False
            case Phase.TO_HOST:
                self._pass_to_host(drive, command)
            case Phase.FROM_HOST:
                self._pass_to_drive(drive, command)
            case Phase.DMA_TO_HOST | Phase.DMA_FROM_HOST:
                drive.transfer()
            case _:
                self._finish(drive, command)
        return True

    def _take_next(self, drive: Drive) -> bool:
        """Begin the next command; queued ones only enter the queue, until there are no others."""
        for ahead in range(1, spec.SLOTS + 1):
            slot = (self._slot + ahead) % spec.SLOTS
            if self._issued >> slot & 1:
                command = SlotCommand(self._memory, self._list_gpa, slot)
                if command.is_valid and command.is_queued and not drive.is_packet:
                    self._enqueue(command)
                    return not self._is_halted
                if not self._queued:
                    self._slot = slot
                    self._begin(drive, command)
                    return True
                break
        if not self._queued:
            return False
        self._is_queueing = True
        command = self._current = self._queued.pop(0)
        drive.execute(command.hand_to(drive))
        return True

    def _enqueue(self, command: SlotCommand) -> None:
        """The device took a queued command: its slot is free for the next when its bit in SACT is clear too."""
        self._slot = command.slot
        if command.tag != command.slot or not self._active >> command.slot & 1:
            self._fail(PortInterrupt.INTERFACE_FATAL)
            return
        self._issued &= ~(1 << command.slot)
        self._task = int(READY)
        self._queued.append(command)

    def _begin(self, drive: Drive, command: SlotCommand) -> None:
        if not command.is_valid:
            self._fail(PortInterrupt.INTERFACE_FATAL)
        elif command.is_control:
            self._control_device(command)
        else:
            self._is_queueing = False
            self._current = command
            drive.queue_log = self._log
            drive.execute(command.hand_to(drive))

    def _control_device(self, command: SlotCommand) -> None:
        """Device control: software reset while SRST is set (Serial ATA 3.0, 11.4)."""
        self._issued &= ~(1 << command.slot)
        was_in_reset, self._in_reset = self._in_reset, bool(command.control & ControlBit.SRST)
        if was_in_reset and not self._in_reset:
            self._reset_drive()

    def _pass_to_host(self, drive: Drive, command: SlotCommand) -> None:
        """The drive offers a block of data."""
        data = drive.drain()
        pieces = command.views(len(data))
        if pieces is None:
            self._overflow(drive)
            return
        at = 0
        for gpa, view in pieces:
            view[:] = data[at : at + len(view)]
            at += len(view)
            self._memory.mark_written(gpa, len(view))
        self._receive(Fis.PIO_SETUP, self._pio_frame(drive, len(data), to_host=True))
        self._interrupt(PortInterrupt.PIO_SETUP)
        drive.emptied()

    def _pass_to_drive(self, drive: Drive, command: SlotCommand) -> None:
        """The drive wants a block of data, or the packet."""
        length = len(drive.buffer)
        self._receive(Fis.PIO_SETUP, self._pio_frame(drive, length, to_host=False))
        if drive.is_packet and not command.had_packet:
            command.had_packet = True
            drive.fill(command.packet(length))
            return
        pieces = command.views(length)
        if pieces is None:
            self._overflow(drive)
            return
        drive.fill(b"".join(bytes(view) for _, view in pieces))

    def _overflow(self, drive: Drive) -> None:
        """The region table is too short, or leads nowhere."""
        self._interrupts |= int(PortInterrupt.OVERFLOW)
        drive.abort()

    def _finish(self, drive: Drive, command: SlotCommand) -> None:
        """The drive is done with a command."""
        self._current = None
        self._task = drive.error << 8 | drive.status
        failed = bool(drive.status & StatusBit.ERR)
        bit = 1 << command.slot
        if self._is_queueing:
            self._is_queueing = False
            if failed:
                self._log = self._error_log(command.tag)
                done = 0
            else:
                self._active &= ~bit
                done = bit
            frame = bytes((Fis.SET_DEVICE_BITS, spec.FIS_INTERRUPT, drive.status & 0x77, drive.error))
            self._receive(Fis.SET_DEVICE_BITS, frame + done.to_bytes(4, "little"))
            self._interrupt(PortInterrupt.SET_BITS)
        else:
            command.report()
            if not failed:
                self._issued &= ~bit
            self._receive(Fis.DEVICE_TO_HOST, self._register_frame(spec.FIS_INTERRUPT))
            self._interrupt(PortInterrupt.DEVICE_TO_HOST)
        if failed:
            self._fail(PortInterrupt.TASK_FILE_ERROR)

    def _fail(self, cause: PortInterrupt) -> None:
        """An error: the list stands still until the driver stops and starts it (6.2.2)."""
        self._is_halted = True
        self._queued = []
        if self._current is not None and self.drive is not None:
            self.drive.reset()
            self._current = None
        self._interrupt(cause)

    # -- frames and interrupts ----------------------------------------------------------------------------------------

    def _interrupt(self, cause: PortInterrupt) -> None:
        self._interrupts |= int(cause)
        self._raised()

    def _receive(self, kind: Fis, frame: bytes | bytearray) -> None:
        """Put a frame of the device into the driver's memory; where there is none, it is lost."""
        if not self._command & PortCommand.FIS_RECEIVE or not self._may_master():
            return
        try:
            self._memory.write(self._fis_gpa + spec.RECEIVED_AT[kind], frame)
        except GuestAddressError:
            self._interrupts |= int(PortInterrupt.HOST_BUS_FATAL)

    def _register_frame(self, flags: int, kind: Fis = Fis.DEVICE_TO_HOST) -> bytearray:
        frame = bytearray(spec.FIS_BYTES)
        frame[0:4] = bytes((kind, flags, self._task & 0xFF, self._task >> 8 & 0xFF))
        drive = self.drive
        if drive is not None:
            frame[4:7] = bytes((drive.lba_low & 0xFF, drive.lba_mid & 0xFF, drive.lba_high & 0xFF))
            frame[7] = drive.device & 0xFF
            frame[8:11] = bytes((drive.lba_low >> 8 & 0xFF, drive.lba_mid >> 8 & 0xFF, drive.lba_high >> 8 & 0xFF))
            frame[12], frame[13] = drive.count & 0xFF, drive.count >> 8 & 0xFF
        return frame

    def _error_log(self, tag: int) -> bytes:
        """The page of `QUEUE_LOG`: the command, its status and its address as in a frame, and a checksum."""
        page = self._register_frame(0).ljust(512, b"\0")
        page[0] = tag
        page[511] = -sum(page) & 0xFF
        return bytes(page)

    def _pio_frame(self, drive: Drive, length: int, *, to_host: bool) -> bytes:
        self._task = int(READY | StatusBit.DRQ)
        frame = self._register_frame(spec.FIS_INTERRUPT | (spec.FIS_TO_HOST if to_host else 0), Fis.PIO_SETUP)
        frame[15] = drive.status & 0xFF
        frame[16], frame[17] = length & 0xFF, length >> 8 & 0xFF
        return bytes(frame)

    # -- what the drive asks for (DriveHost) --------------------------------------------------------------------------

    def interrupt(self, _drive: Drive) -> None:
        """The drive goes on."""
        self._advance()

    def dma_wanted(self) -> None:
        """As `interrupt`: there is nothing to start."""
        self._advance()

    def dma_views(self, length: int) -> list[tuple[int, memoryview]] | None:
        """Guest memory for the next `length` bytes; None, and the command fails, for a table that is too short."""
        pieces = None if self._current is None else self._current.views(length)
        if pieces is None:
            self._interrupts |= int(PortInterrupt.OVERFLOW)
        return pieces

    def dma_done(self, transferred: int, wanted: int, *, failed: bool = False) -> None:
        """The drive says the rest with its status."""

    def mark_written(self, gpa: int, length: int) -> None:
        """The drive changed guest memory."""
        self._memory.mark_written(gpa, length)

    # -- state --------------------------------------------------------------------------------------------------------

    def save(self) -> PortState:
        """Everything; StateError while the error policy holds a request."""
        drives = () if self.drive is None else (self.drive.save(),)
        return PortState(
            list_gpa=self._list_gpa,
            fis_gpa=self._fis_gpa,
            interrupts=self._interrupts,
            enables=self.enables,
            command=int(self._command),
            task=int(self._task),
            signature=self._signature,
            control=self._control,
            errors=self._errors,
            active=self._active,
            issued=self._issued,
            slot=self._slot,
            is_halted=self._is_halted,
            in_reset=self._in_reset,
            log=self._log,
            drives=drives,
        )

    def load(self, state: PortState) -> None:
        """Take over everything; StateError when the drive is not on both sides."""
        if len(state.drives) != (self.drive is not None):
            msg = "AHCI: the state has other drives"
            raise StateError(msg)
        self._stop_list()
        if self.drive is not None:
            self.drive.load(state.drives[0])
        self._list_gpa, self._fis_gpa = state.list_gpa & ~0x3FF, state.fis_gpa & ~0xFF
        self._interrupts, self.enables = state.interrupts, state.enables & spec.ENABLES
        self._command = state.command & int(spec.COMMAND_WRITABLE)
        self._task, self._signature = state.task, state.signature
        self._control, self._errors = state.control & 0xFFF, state.errors
        self._active, self._issued, self._slot = state.active, state.issued, state.slot % spec.SLOTS
        self._is_halted, self._in_reset = state.is_halted, state.in_reset
        self._log = state.log[:512]

    def resume(self) -> None:
        """The machine goes on: so do commands that an error policy held, or that nobody began."""
        if self.drive is not None:
            self.drive.resume()
            self._advance()
