"""An ATAPI CD-ROM drive (ATA/ATAPI-6, 9.9; the packets are those of `devices.scsi`)."""

from __future__ import annotations

import logging
import struct
from typing import TYPE_CHECKING, ClassVar

from pyhyve.devices.ide.drive import Drive, DriveState, Phase, swapped
from pyhyve.devices.ide.spec import GEN1, Command, ErrorBit, Feature, Reason
from pyhyve.devices.scsi.cdrom import failure, sense_data
from pyhyve.devices.scsi.spec import Command as ScsiCommand
from pyhyve.devices.scsi.spec import SenseCode, SenseKey

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.backends.block import BlockError
    from pyhyve.devices.ide.work import DriveWork
    from pyhyve.devices.scsi.cdrom import Result
    from pyhyve.devices.scsi.drive import DiscDrive

_LOG = logging.getLogger(__name__)
_PACKET_BYTES = 12
_NO_SENSE = sense_data(SenseKey.NO_SENSE, SenseCode.NONE)
_DONE = int(Reason.COMMAND | Reason.TO_HOST)
_NOTHING_TO_DO = {
    Command.STANDBY_IMMEDIATE, Command.IDLE_IMMEDIATE, Command.STANDBY, Command.IDLE, Command.SLEEP, Command.NOP,
}  # fmt: skip


class AtapiCdrom(Drive):
    """The drive's registers and packets; `disc_drive` is its mechanism, and closed with it."""

    is_packet: ClassVar[bool] = True

    def __init__(self, work: DriveWork, disc_drive: DiscDrive) -> None:
        super().__init__(work)
        self.disc_drive = disc_drive
        self._command = 0
        self._sense = _NO_SENSE
        self._address = self._left = self._limit = 0
        self._rest = b""
        self._uses_dma = False

    def reset(self) -> None:
        """Give up what is under way."""
        super().reset()
        self._left, self._rest = 0, b""
        self._uses_dma = False

    def execute(self, command: int) -> None:
        """Start a command."""
        self._command = command
        self._left, self._rest = 0, b""
        match command:
            case Command.PACKET:
                limit = self.lba_mid & 0xFF | (self.lba_high & 0xFF) << 8
                self._limit = 0xFFFE if limit in {0, 0xFFFF} else limit
                self._uses_dma = bool(self.features & 1)
                self.count = int(Reason.COMMAND)
                self.ask(_PACKET_BYTES, interrupt=False)
            case Command.IDENTIFY_PACKET_DEVICE:
                self.offer(self._identify())
            case Command.DEVICE_RESET:
                self.reset()
            case Command.IDENTIFY_DEVICE | Command.READ_SECTORS:
                device = self.device
                self.reset()
                self.device = device
                self.abort()
            case Command.SET_FEATURES if self.features & 0xFF == Feature.SET_TRANSFER_MODE:
                self.mode = self.count & 0xFF
                self.succeed()
            case Command.CHECK_POWER_MODE:
                self.count = 0xFF
                self.succeed()
            case _ if command in _NOTHING_TO_DO:
                self.succeed()
            case _:
                self.abort()

    # -- packets ------------------------------------------------------------------------------------------------------

    def filled(self) -> None:
        """A packet came."""
        packet = bytes(self.buffer)
        self.buffer = bytearray()
        if packet[0] == ScsiCommand.REQUEST_SENSE:
            data, self._sense = self._sense[: packet[4]], _NO_SENSE
            self._answer(data)
            return
        self._finish(self.disc_drive.execute(packet))

    def _finish(self, result: Result) -> None:
        if result.sense:
            self._refuse(result.sense)
        elif result.length:
            self._address, self._left = result.offset, result.length
            if self._uses_dma:
                self._want_dma()
            else:
                self._next_chunk()
        else:
            self._answer(result.data)

    def _answer(self, data: bytes) -> None:
        """Hand over `data`, which is not of the disc."""
        self._rest = data
        if not data:
            self._complete()
        elif self._uses_dma:
            self._want_dma()
        else:
            self._next_chunk()

    def _want_dma(self) -> None:
        self.count = int(Reason.TO_HOST)
        self.want_dma(Phase.DMA_TO_HOST)

    def _complete(self) -> None:
        self.count = _DONE
        self.succeed()

    def _refuse(self, sense: bytes) -> None:
        """CHECK CONDITION (9.9.3): the sense key is in the error register."""
        self._sense = sense
        self._left, self._rest = 0, b""
        self.count = _DONE
        self.abort(ErrorBit.ABRT | (sense[2] & 0xF) << 4)

    # -- data ---------------------------------------------------------------------------------------------------------

    def _next_chunk(self) -> None:
        """Offer as much as the driver takes at once."""
        length = min(len(self._rest) or self._left, self._limit)
        if length % 2 and length < (len(self._rest) or self._left):
            length = max(length - 1, 2)  # all but the last are even (9.9.4)
        if self._rest:
            data, self._rest = self._rest[:length], self._rest[length:]
            self._offer(data)
            return
        data_read = bytearray(length)

        def there() -> None:
            self._address += length
            self._left -= length
            self._offer(data_read)

        self._read([memoryview(data_read)], length, there)

    def _offer(self, data: bytes | bytearray) -> None:
        self.count = int(Reason.TO_HOST)
        self.lba_mid, self.lba_high = len(data) & 0xFF, len(data) >> 8
        self.offer(data + b"\0" if len(data) % 2 else data)

    def _read(self, views: list[memoryview], length: int, done: Callable[[], None]) -> None:
        """Read of the disc at the present address: at once without waiting, else on the drive's thread."""
        address, disc = self._address, self.disc_drive
        if self.work.attempt(lambda: disc.try_read(views, address, length)):
            done()
            return

        def finished(error: BlockError | None) -> None:
            if error is None:
                done()
                return
            _LOG.warning("CD-ROM: %s", error)
            if self._uses_dma:
                self.host.dma_done(0, 1, failed=True)
            self._refuse(failure(SenseKey.MEDIUM_ERROR, SenseCode.UNRECOVERED_READ_ERROR).sense)

        self.busy()
        self.work.submit(lambda: disc.read(views, address, length), finished)

    def emptied(self) -> None:
        """The driver read a chunk: the next, or the end of the command."""
        if self._left or self._rest:
            self._next_chunk()
        elif self._command == Command.PACKET:
            self._complete()

    def transfer(self) -> None:
        """Move all of a packet's data into memory."""
        wanted = len(self._rest) or self._left
        pieces = self.host.dma_views(wanted)
        if pieces is None:
            self.host.dma_done(0, wanted, failed=True)
            self._refuse(failure(SenseKey.MEDIUM_ERROR, SenseCode.UNRECOVERED_READ_ERROR).sense)
            return
        views = [view for _, view in pieces]
        length = sum(map(len, views))

        def arrived() -> None:
            for gpa, view in pieces:
                self.host.mark_written(gpa, len(view))
            self._left, self._rest = 0, b""
            self.host.dma_done(length, wanted)
            if length == wanted:
                self._complete()
            else:
                self.busy()  # as in `AtaDisk`

        if not self._rest:
            self._read(views, length, arrived)
            return
        done = 0
        for view in views:
            view[:] = self._rest[done : done + len(view)]
            done += len(view)
        arrived()

    # -- identity and state -------------------------------------------------------------------------------------------

    def _identify(self) -> bytes:
        """IDENTIFY PACKET DEVICE data (8.16): a removable CD-ROM drive, packets of 12 bytes."""
        words = [0] * 256
        words[0] = 0x85C0
        words[49] = 0x0B00
        words[53] = 0x0006
        words[63] = 0x0007 | self.selected_mode(0x20) << 8
        words[64] = 0x0003
        words[65:69] = [120] * 4
        words[80] = 0x0070
        words[82], words[83], words[84] = 0x4010, 0x4000, 0x4000
        words[85], words[87] = 0x4010, 0x4000
        words[88] = 0x003F | self.selected_mode(0x40) << 8
        if self.is_serial:
            words[76] = GEN1
        else:
            words[93] = 0x6001
        data = bytearray(struct.pack("<256H", *words))
        data[46:54] = swapped("1.0", 8)
        data[54:94] = swapped("PYHYVE CD-ROM", 40)
        return bytes(data)

    def save(self) -> DriveState:
        """Everything but the disc, which is the image's."""
        return DriveState(
            **self.fields(),
            command=self._command,
            address=self._address,
            left=self._left,
            chunk=self._limit,
            flags=self.mode << 16 | self.disc_drive.drive.is_locked << 1 | self._uses_dma,
            heads=0,
            sectors=0,
            sense=self._sense,
            rest=self._rest,
            size_bytes=-1,
        )

    def load(self, state: DriveState) -> None:
        """Take over everything."""
        super().load(state)
        self._command = state.command
        self._address, self._left = state.address, min(state.left, 1 << 40)
        self._limit = min(max(state.chunk, 1), 0xFFFE)
        self.mode = state.flags >> 16 & 0xFF
        self.disc_drive.drive.is_locked = bool(state.flags & 2)
        self._uses_dma = bool(state.flags & 1)
        self._sense = state.sense if len(state.sense) == len(_NO_SENSE) else _NO_SENSE
        self._rest = state.rest[:0xFFFF]

    def close(self) -> None:
        """Close the disc."""
        super().close()
        disc = self.disc_drive.disc
        if disc is not None:
            disc.close()
