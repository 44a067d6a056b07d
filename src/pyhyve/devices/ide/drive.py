"""What ATA and ATAPI drives share: the registers, the phases of a command, the buffer behind the data port.

All of it runs with the machine lock held.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pyhyve.devices.ide.spec import ErrorBit, Register, StatusBit
from pyhyve.state.errors import StateError
from pyhyve.state.record import I64, U8, U16, U32, U64, record
from pyhyve.support.enums import IntEnum

if TYPE_CHECKING:
    from pyhyve.devices.ide.work import DriveWork

READY = StatusBit.DRDY | StatusBit.DSC
MAX_BUFFER_BYTES = 1 << 17


class Phase(IntEnum):
    """What a drive waits for."""

    IDLE = 0
    """A command."""
    BUSY = 1
    """Its image."""
    TO_HOST = 2
    """The driver to read the buffer."""
    FROM_HOST = 3
    """The driver to fill the buffer."""
    DMA_TO_HOST = 4
    """The bus master to be started."""
    DMA_FROM_HOST = 5
    """As `DMA_TO_HOST`."""


class DriveHost(Protocol):
    """What a drive asks of its channel."""

    def interrupt(self, drive: Drive) -> None:
        """Raise the interrupt line, if `drive` is selected and may."""

    def dma_views(self, length: int) -> list[tuple[int, memoryview]] | None:
        """Guest memory for the next `length` bytes at most, with addresses; None for a table that leads nowhere."""

    def dma_wanted(self) -> None:
        """A drive stands ready to transfer: go on if the bus master was started."""

    def dma_done(self, transferred: int, wanted: int, *, failed: bool = False) -> None:
        """The transfer is over."""

    def mark_written(self, gpa: int, length: int) -> None:
        """The drive changed guest memory."""


@record
class DriveState:
    """Registers, each with what was written before it in the upper byte, and the transfer under way."""

    features: U16
    count: U16
    lba_low: U16
    lba_mid: U16
    lba_high: U16
    device: U8
    status: U8
    error: U8
    phase: U8
    buffer: bytes
    position: U32
    command: U8
    address: U64
    left: U64
    chunk: U32
    flags: U32
    heads: U8
    sectors: U8
    sense: bytes
    rest: bytes
    size_bytes: I64
    """Of the disk; -1 for a drive whose medium changes."""


class Drive(ABC):
    """A drive; `is_packet` tells ATAPI ones, which answer other commands."""

    is_packet: ClassVar[bool] = False

    def __init__(self, work: DriveWork) -> None:
        """The channel puts itself into `host`."""
        self.host: DriveHost = _Nobody()
        self.work = work
        self.features = self.count = self.lba_low = self.lba_mid = self.lba_high = 0
        self.device = 0
        self.status = int(READY)
        self.error = 0
        self.phase = Phase.IDLE
        self.buffer = bytearray()
        self.position = 0
        self.mode = 0
        """The transfer mode the driver chose."""
        self.is_serial = False
        """Whether it is on a port of Serial ATA, which queues commands."""
        self.queue_log = b""
        """What such a port knows of the queued command that failed last."""

    # -- registers ----------------------------------------------------------------------------------------------------

    def read_register(self, offset: int, *, previous: bool) -> int:
        """A command block register other than data and status; `previous`: what was in it before."""
        shift = 8 if previous else 0
        match offset:
            case Register.FEATURES:
                return self.error
            case Register.COUNT:
                return self.count >> shift & 0xFF
            case Register.LBA_LOW:
                return self.lba_low >> shift & 0xFF
            case Register.LBA_MID:
                return self.lba_mid >> shift & 0xFF
            case Register.LBA_HIGH:
                return self.lba_high >> shift & 0xFF
            case _:
                return self.device

    def write_register(self, offset: int, value: int) -> None:
        """As `read_register`; the command register is the channel's."""
        match offset:
            case Register.FEATURES:
                self.features = self.features << 8 & 0xFF00 | value
            case Register.COUNT:
                self.count = self.count << 8 & 0xFF00 | value
            case Register.LBA_LOW:
                self.lba_low = self.lba_low << 8 & 0xFF00 | value
            case Register.LBA_MID:
                self.lba_mid = self.lba_mid << 8 & 0xFF00 | value
            case Register.LBA_HIGH:
                self.lba_high = self.lba_high << 8 & 0xFF00 | value
            case _:
                self.device = value

    def selected_mode(self, kind: int) -> int:
        """The bit of the chosen transfer mode in IDENTIFY's words, when it is of this kind (8.46.11)."""
        return 1 << (self.mode & 7) if self.mode & 0xF8 == kind else 0

    def reset(self) -> None:
        """Give up what is under way, and show the signature (9.12)."""
        self.work.cancel()
        self.phase = Phase.IDLE
        self.buffer = bytearray()
        self.position = 0
        self.features = 0
        self.device = 0
        self.error = 1
        self.count = self.lba_low = 1
        self.lba_mid, self.lba_high = (0x14, 0xEB) if self.is_packet else (0, 0)
        self.status = 0 if self.is_packet else int(READY)

    # -- commands -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def execute(self, command: int) -> None:
        """Start a command."""

    @abstractmethod
    def transfer(self) -> None:
        """The bus master was started, in one of the DMA phases."""

    @abstractmethod
    def emptied(self) -> None:
        """The driver read the whole buffer."""

    @abstractmethod
    def filled(self) -> None:
        """The driver filled the whole buffer."""

    def succeed(self) -> None:
        """The command is done."""
        self.phase = Phase.IDLE
        self.error = 0
        self.status = int(READY)
        self.host.interrupt(self)

    def abort(self, error: int = ErrorBit.ABRT) -> None:
        """The command failed; `error` is the error register."""
        self.phase = Phase.IDLE
        self.error = int(error)
        self.status = int(READY | StatusBit.ERR)
        self.host.interrupt(self)

    def busy(self) -> None:
        """The image is asked."""
        self.phase = Phase.BUSY
        self.status = int(StatusBit.BSY | StatusBit.DSC)

    def offer(self, data: bytes | bytearray, *, interrupt: bool = True) -> None:
        """Have the driver read `data`, an even number of bytes."""
        self.buffer = bytearray(data)
        self.position = 0
        self.phase = Phase.TO_HOST
        self.status = int(READY | StatusBit.DRQ)
        if interrupt:
            self.host.interrupt(self)

    def ask(self, length: int, *, interrupt: bool) -> None:
        """Have the driver write `length` bytes."""
        self.buffer = bytearray(length)
        self.position = 0
        self.phase = Phase.FROM_HOST
        self.status = int(READY | StatusBit.DRQ)
        if interrupt:
            self.host.interrupt(self)

    def want_dma(self, phase: Phase) -> None:
        """Wait for the bus master, or go on at once when it was started before."""
        self.phase = phase
        self.status = int(READY | StatusBit.DRQ)
        self.host.dma_wanted()

    # -- the data port ------------------------------------------------------------------------------------------------

    def read_data(self, size: int) -> int:
        """The next bytes of the buffer; 0 when there is nothing to read."""
        if self.phase is not Phase.TO_HOST:
            return 0
        start = self.position
        value = int.from_bytes(self.buffer[start : start + size], "little")
        self.position = start + size
        if self.position >= len(self.buffer):
            self.phase = Phase.IDLE
            self.status = int(READY)
            self.emptied()
        return value

    def take(self, length: int, size: int) -> bytes:
        """Up to `length` bytes of the buffer at once, a multiple of `size`, but never the last ones."""
        if self.phase is not Phase.TO_HOST:
            return b""
        start = self.position
        end = start + min(length, len(self.buffer) - 4 - start) // size * size
        if end <= start:
            return b""
        self.position = end
        return bytes(self.buffer[start:end])

    def write_data(self, size: int, value: int) -> None:
        """Put bytes into the buffer; dropped when none are asked for."""
        if self.phase is not Phase.FROM_HOST:
            return
        start = self.position
        room = min(size, len(self.buffer) - start)
        self.buffer[start : start + room] = value.to_bytes(size, "little")[:room]
        self.position = start + room
        if self.position >= len(self.buffer):
            self.filled()

    def drain(self) -> bytes:
        """What is left of the buffer, all at once; `emptied` is the caller's to call."""
        data = bytes(self.buffer[self.position :])
        self.position = len(self.buffer)
        self.phase = Phase.IDLE
        self.status = int(READY)
        return data

    def fill(self, data: bytes) -> None:
        """Fill the buffer, all at once: `data` has its length."""
        self.buffer[:] = data
        self.position = len(self.buffer)
        self.filled()

    # -- state --------------------------------------------------------------------------------------------------------

    def resume(self) -> None:  # noqa: B027 - most have nothing to do
        """The machine goes on."""

    def close(self) -> None:
        """The machine ends; without the machine lock."""
        self.work.close()

    def fields(self) -> dict[str, Any]:
        """Values of `DriveState` that both kinds have."""
        if self.phase is Phase.BUSY:
            msg = "a disk waits for space on the host: make room and continue, then save"
            raise StateError(msg)
        return {
            "features": self.features,
            "count": self.count,
            "lba_low": self.lba_low,
            "lba_mid": self.lba_mid,
            "lba_high": self.lba_high,
            "device": self.device,
            "status": self.status,
            "error": self.error,
            "phase": int(self.phase),
            "buffer": bytes(self.buffer),
            "position": self.position,
        }

    @abstractmethod
    def save(self) -> DriveState:
        """Everything; StateError while the error policy holds a request."""

    def load(self, state: DriveState) -> None:
        """Take over what both kinds have. Raises StateError for what no drive can be in."""
        if state.phase > Phase.DMA_FROM_HOST or state.phase == Phase.BUSY or len(state.buffer) > MAX_BUFFER_BYTES:
            msg = "IDE: the state of a drive makes no sense"
            raise StateError(msg)
        self.features, self.count = state.features, state.count
        self.lba_low, self.lba_mid, self.lba_high = state.lba_low, state.lba_mid, state.lba_high
        self.device, self.status, self.error = state.device, state.status, state.error
        self.phase = Phase(state.phase)
        self.buffer = bytearray(state.buffer)
        self.position = min(state.position, len(self.buffer))
        if self.phase in {Phase.TO_HOST, Phase.FROM_HOST} and self.position == len(self.buffer):
            msg = "IDE: the state of a drive makes no sense"
            raise StateError(msg)


class _Nobody:
    """The host of a drive on no channel."""

    def interrupt(self, drive: Drive) -> None:
        """Nothing."""

    def dma_views(self, length: int) -> list[tuple[int, memoryview]] | None:
        """No memory."""
        return None if length else []

    def dma_wanted(self) -> None:
        """Nothing."""

    def dma_done(self, transferred: int, wanted: int, *, failed: bool = False) -> None:
        """Nothing."""

    def mark_written(self, gpa: int, length: int) -> None:
        """Nothing."""


def swapped(text: str, length: int) -> bytes:
    """A string of IDENTIFY data: padded, the bytes of each word exchanged (8.15.8)."""
    padded = text.encode("ascii", "replace")[:length].ljust(length)
    return b"".join(padded[at + 1 : at + 2] + padded[at : at + 1] for at in range(0, length, 2))
