"""An ATA disk (ATA/ATAPI-6): PIO, multiple, DMA, 28- and 48-bit addresses, and cylinders for the oldest software."""

from __future__ import annotations

import logging
import struct
from typing import TYPE_CHECKING

from pyhyve.backends.block import BlockError, BlockStatistics
from pyhyve.devices.error_policy import ErrorPolicy, Failure
from pyhyve.devices.ide.drive import Drive, DriveState, Phase, swapped
from pyhyve.devices.ide.spec import (
    GEN1,
    QUEUE_DEPTH,
    QUEUE_LOG,
    QUEUES,
    SECTOR_BYTES,
    Command,
    DeviceBit,
    ErrorBit,
    Feature,
)
from pyhyve.state.errors import StateError
from pyhyve.support.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from pyhyve.backends.block import BlockBackend
    from pyhyve.devices.ide.work import DriveWork

_LOG = logging.getLogger(__name__)
MAX_MULTIPLE = 16
_HEADS, _SECTORS_PER_TRACK, _MAX_CYLINDERS = 16, 63, 16383
_LBA28_SECTORS = (1 << 28) - 1
_RANGE_SECTORS = 64
_LOGS = 1 << 5
"""Of words 84 and 87: there are logs."""
_NO_ERROR_LOG = b"\x80" + bytes(SECTOR_BYTES - 2) + b"\x80"
_INLINE_WRITE_BYTES = 1 << 16
"""Larger writes go to the drive's thread."""

_READS = {Command.READ_SECTORS, Command.READ_SECTORS_NO_RETRY, Command.READ_MULTIPLE}
_READS_EXT = {Command.READ_SECTORS_EXT, Command.READ_MULTIPLE_EXT}
_WRITES = {Command.WRITE_SECTORS, Command.WRITE_SECTORS_NO_RETRY, Command.WRITE_MULTIPLE}
_WRITES_EXT = {Command.WRITE_SECTORS_EXT, Command.WRITE_MULTIPLE_EXT}
_DMA_READS = {Command.READ_DMA, Command.READ_DMA_NO_RETRY, Command.READ_DMA_EXT}
_DMA_WRITES = {Command.WRITE_DMA, Command.WRITE_DMA_NO_RETRY, Command.WRITE_DMA_EXT, Command.WRITE_DMA_FUA_EXT}
_MULTIPLE = {
    Command.READ_MULTIPLE, Command.READ_MULTIPLE_EXT, Command.WRITE_MULTIPLE, Command.WRITE_MULTIPLE_EXT,
}  # fmt: skip
_VERIFIES = {Command.READ_VERIFY, Command.READ_VERIFY_NO_RETRY, Command.READ_VERIFY_EXT}
_EXT = {
    *_READS_EXT, *_WRITES_EXT, Command.READ_DMA_EXT, Command.WRITE_DMA_EXT, Command.WRITE_DMA_FUA_EXT,
    Command.READ_VERIFY_EXT,
}  # fmt: skip
_TRANSFERS = _READS | _READS_EXT | _WRITES | _WRITES_EXT | _DMA_READS | _DMA_WRITES | _VERIFIES
_NOTHING_TO_DO = {
    Command.STANDBY_IMMEDIATE, Command.IDLE_IMMEDIATE, Command.STANDBY, Command.IDLE, Command.SLEEP,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class DiskOptions:
    """How the disk presents itself, and what happens when the host cannot."""

    serial: str = ""
    model: str = "PYHYVE HARDDISK"
    read_errors: ErrorPolicy = ErrorPolicy.REPORT
    write_errors: ErrorPolicy = ErrorPolicy.REPORT


class AtaDisk(Drive):
    """A disk. Owns its backend: `close` closes it."""

    def __init__(
        self,
        work: DriveWork,
        backend: BlockBackend,
        options: DiskOptions | None = None,
        *,
        on_failure: Callable[[Failure], None] | None = None,
    ) -> None:
        """`on_failure` is called with the machine lock held; after one whose action is STOP, `resume` tries again."""
        super().__init__(work)
        self.options = options or DiskOptions()
        self.statistics = BlockStatistics()
        self._backend = backend
        self._on_failure = on_failure
        self._sectors = backend.size_bytes // SECTOR_BYTES
        self._command = 0
        self._address = self._left = self._chunk = 0
        self._held: Callable[[], None] | None = None
        self._power_on()

    def _power_on(self) -> None:
        self._multiple = MAX_MULTIPLE
        self._heads, self._track = _HEADS, _SECTORS_PER_TRACK
        self._caches_writes = True

    # -- what stands behind it (machine.block.attach.BlockDevice) -----------------------------------------------------

    @property
    def backend(self) -> BlockBackend:
        """What holds the disk's contents."""
        return self._backend

    def drained(self) -> AbstractContextManager[None]:
        """No request is under way inside the block, and none begins."""
        return self.work.drained()

    def use_backend(self, backend: BlockBackend) -> None:
        """Read and write another backend from now on; only while drained. The old one is the caller's."""
        self._backend = backend
        self.resize()

    def resize(self) -> None:
        """The backend's size changed: drivers of such disks look when they start."""
        self._sectors = self._backend.size_bytes // SECTOR_BYTES

    # -- commands -----------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Give up what is under way; settings go back."""
        self._held = None
        super().reset()
        self._power_on()

    def execute(self, command: int) -> None:
        """Start a command."""
        self._command = command
        if command in _TRANSFERS:
            self._start_transfer(command)
            return
        match command:
            case Command.IDENTIFY_DEVICE:
                self._left = 0
                self.offer(self._identify())
            case Command.FLUSH_CACHE | Command.FLUSH_CACHE_EXT:
                self._flush()
            case Command.SET_MULTIPLE:
                self._set_multiple(self.count & 0xFF)
            case Command.SET_FEATURES:
                self._set_features()
            case Command.INITIALIZE_PARAMETERS:
                self._track, self._heads = max(self.count & 0xFF, 1), (self.device & DeviceBit.HEAD) + 1
                self.succeed()
            case Command.READ_NATIVE_MAX:
                self._put_lba(min(self._sectors, _LBA28_SECTORS) - 1)
                self.succeed()
            case Command.READ_NATIVE_MAX_EXT:
                self._put_lba_ext(self._sectors - 1)
                self.succeed()
            case Command.CHECK_POWER_MODE:
                self.count = self.count & 0xFF00 | 0xFF
                self.succeed()
            case Command.READ_LOG_EXT if self.is_serial:
                self._read_log(self.lba_low & 0xFF)
            case Command.DATA_SET_MANAGEMENT:
                self._data_set_management()
            case _ if command in _NOTHING_TO_DO or command >> 4 in {1, 7}:
                self.succeed()  # 1x: recalibrate, 7x: seek
            case Command.IDENTIFY_PACKET_DEVICE | Command.PACKET | Command.DEVICE_RESET | _:
                self.abort()

    def _set_multiple(self, sectors: int) -> None:
        if sectors > MAX_MULTIPLE or sectors & (sectors - 1):
            self.abort()
            return
        self._multiple = sectors
        self.succeed()

    def _set_features(self) -> None:
        match self.features & 0xFF:
            case Feature.ENABLE_WRITE_CACHE:
                self._caches_writes = True
            case Feature.DISABLE_WRITE_CACHE:
                self._caches_writes = False
            case Feature.SET_TRANSFER_MODE:
                self.mode = self.count & 0xFF
            case (
                Feature.DISABLE_LOOK_AHEAD | Feature.ENABLE_LOOK_AHEAD
                | Feature.DISABLE_REVERTING | Feature.ENABLE_REVERTING
            ):  # fmt: skip
                pass
            case _:
                self.abort()
                return
        self.succeed()

    def _data_set_management(self) -> None:
        """TRIM (ACS-2, 7.10): blocks of ranges follow."""
        blocks = self.count
        if not self.features & 1 or not 0 < blocks <= _RANGE_SECTORS or self._backend.readonly:
            self.abort()
            return
        self._chunk = self._left = blocks
        self.want_dma(Phase.DMA_FROM_HOST)

    def _read_log(self, page: int) -> None:
        """The directory of logs, or that of queued commands (ACS-2, 7.26)."""
        self._left = 0
        if page == 0:
            directory = bytearray(SECTOR_BYTES)
            directory[0] = directory[2 * QUEUE_LOG] = 1
            self.offer(directory)
        elif page == QUEUE_LOG:
            self.offer(self.queue_log.ljust(SECTOR_BYTES, b"\0") if self.queue_log else _NO_ERROR_LOG)
        else:
            self.abort()

    # -- addresses ----------------------------------------------------------------------------------------------------

    def _lba(self, *, extended: bool) -> int | None:
        low, mid, high = self.lba_low, self.lba_mid, self.lba_high
        short = low & 0xFF | (mid & 0xFF) << 8 | (high & 0xFF) << 16
        if extended:
            return short | (low >> 8) << 24 | (mid >> 8) << 32 | (high >> 8) << 40
        head = self.device & DeviceBit.HEAD
        if self.device & DeviceBit.LBA:
            return short | head << 24
        sector, cylinder = low & 0xFF, mid & 0xFF | (high & 0xFF) << 8
        if not 0 < sector <= self._track or head >= self._heads:
            return None
        return (cylinder * self._heads + head) * self._track + sector - 1

    def _put_lba(self, lba: int) -> None:
        self.lba_low, self.lba_mid, self.lba_high = lba & 0xFF, lba >> 8 & 0xFF, lba >> 16 & 0xFF
        self.device = self.device & ~int(DeviceBit.HEAD) | lba >> 24 & 0xF

    def _put_lba_ext(self, lba: int) -> None:
        self.lba_low = lba & 0xFF | (lba >> 24 & 0xFF) << 8
        self.lba_mid = lba >> 8 & 0xFF | (lba >> 32 & 0xFF) << 8
        self.lba_high = lba >> 16 & 0xFF | (lba >> 40 & 0xFF) << 8

    # -- transfers ----------------------------------------------------------------------------------------------------

    def _start_transfer(self, command: int) -> None:
        is_extended = command in _EXT
        sectors = (self.count or 0x10000) if is_extended else (self.count & 0xFF or 0x100)
        lba = self._lba(extended=is_extended)
        is_write = command in _WRITES | _WRITES_EXT | _DMA_WRITES
        if lba is None or lba + sectors > self._sectors:
            self.abort(ErrorBit.IDNF)
            return
        if (is_write and self._backend.readonly) or (command in _MULTIPLE and not self._multiple):
            self.abort()
            return
        self._address, self._left = lba, sectors
        self._chunk = self._multiple if command in _MULTIPLE else 1
        if command in _VERIFIES:
            self.succeed()
        elif command in _DMA_READS | _DMA_WRITES:
            self.want_dma(Phase.DMA_FROM_HOST if is_write else Phase.DMA_TO_HOST)
        elif is_write:
            self.ask(min(self._chunk, self._left) * SECTOR_BYTES, interrupt=False)
        else:
            self._read_chunk()

    def _read_chunk(self) -> None:
        sectors = min(self._chunk, self._left)
        data = bytearray(sectors * SECTOR_BYTES)
        view, offset = memoryview(data), self._address * SECTOR_BYTES

        def there() -> None:
            self._count_read(len(data))
            self._address += sectors
            self._left -= sectors
            self.offer(data)

        self._perform_read([view], offset, len(data), there)

    def _perform_read(self, views: list[memoryview], offset: int, length: int, done: Callable[[], None]) -> None:
        """Read at once when that takes no waiting, else on the drive's thread."""
        backend = self._backend
        if self.work.attempt(lambda: backend.try_read(views, offset, length)):
            done()
            return
        self._perform(lambda: self._backend.read(views, offset), done, is_read=True)

    def _perform(
        self, action: Callable[[], None], done: Callable[[], None], *, is_read: bool, at_once: bool = False
    ) -> None:
        """Carry out `action` on the drive's thread, or `at_once`, then `done`; or what the error policy says."""

        def finished(error: BlockError | None) -> None:
            if error is None:
                done()
                return
            policy = self.options.read_errors if is_read else self.options.write_errors
            kind = policy.action(error.code)
            _LOG.warning("IDE disk: %s (%s)", error, kind.value)
            if is_read:
                self.statistics.failed_rd_operations += 1
            else:
                self.statistics.failed_wr_operations += 1
            if kind is ErrorPolicy.STOP:
                self.busy()
                self._held = lambda: self._perform(action, done, is_read=is_read)
            if self._on_failure is not None:
                self._on_failure(Failure(error, is_read, kind))
            if kind is ErrorPolicy.IGNORE:
                done()
            elif kind is not ErrorPolicy.STOP:
                self._fail(is_read=is_read)

        failure: list[BlockError] = []

        def act() -> bool:
            try:
                action()
            except BlockError as error:
                failure.append(error)
            return True

        if at_once and self.work.attempt(act):
            finished(failure[0] if failure else None)
            return
        self.busy()
        self.work.submit(action, finished)

    def _fail(self, *, is_read: bool) -> None:
        """The host's error becomes one of the medium."""
        is_dma = self._command in _DMA_READS | _DMA_WRITES | {Command.DATA_SET_MANAGEMENT}
        if is_dma:
            self.host.dma_done(0, 1, failed=True)
        self.abort(ErrorBit.UNC if is_read else ErrorBit.ABRT)

    def resume(self) -> None:
        """Try again what the error policy held."""
        held, self._held = self._held, None
        if held is not None:
            held()

    def emptied(self) -> None:
        """The driver read a chunk: the next."""
        if self._left:
            self._read_chunk()

    def filled(self) -> None:
        """The driver wrote a chunk: to the disk with it."""
        data, sectors = self.buffer, len(self.buffer) // SECTOR_BYTES
        self.buffer = bytearray()
        view, offset = memoryview(data), self._address * SECTOR_BYTES

        def write() -> None:
            self._write([view], offset)

        def stored() -> None:
            self._count_write(offset, len(data))
            self._address += sectors
            self._left -= sectors
            if self._left:
                self.ask(min(self._chunk, self._left) * SECTOR_BYTES, interrupt=True)
            else:
                self.succeed()

        # Into the page cache, as a rule.
        self._perform(write, stored, is_read=False, at_once=True)

    def _write(self, views: list[memoryview], offset: int) -> None:
        self._backend.write(views, offset)
        if not self._caches_writes or self._command == Command.WRITE_DMA_FUA_EXT:
            self._backend.flush()

    def transfer(self) -> None:
        """Move the whole of a DMA command between disk and memory."""
        if self._command == Command.DATA_SET_MANAGEMENT:
            self._take_ranges()
            return
        wanted = self._left * SECTOR_BYTES
        pieces = self.host.dma_views(wanted)
        if pieces is None:
            self.host.dma_done(0, wanted, failed=True)
            self.abort()
            return
        views = [view for _, view in pieces]
        length = sum(map(len, views))
        offset = self._address * SECTOR_BYTES
        if self.phase is Phase.DMA_TO_HOST:

            def arrived() -> None:
                for gpa, view in pieces:
                    self.host.mark_written(gpa, len(view))
                self._count_read(length)
                self._finish_dma(length, wanted)

            self._perform_read(views, offset, length, arrived)
            return

        def write() -> None:
            self._write(views, offset)

        def stored() -> None:
            self._count_write(offset, length)
            self._finish_dma(length, wanted)

        self._perform(write, stored, is_read=False, at_once=length <= _INLINE_WRITE_BYTES)

    def _finish_dma(self, length: int, wanted: int) -> None:
        self._left = 0
        self.host.dma_done(length, wanted)
        if length == wanted:
            self.succeed()
        else:
            self.busy()  # a table that is too short: the drive waits for a reset, as SFF-8038i, 3.1 has it

    def _take_ranges(self) -> None:
        """The blocks of a TRIM command: 48 bits of address and 16 of count in each entry."""
        wanted = self._left * SECTOR_BYTES
        pieces = self.host.dma_views(wanted)
        data = b"" if pieces is None else b"".join(bytes(view) for _, view in pieces)
        ranges = []
        for (entry,) in struct.iter_unpack("<Q", data[: len(data) & ~7]):
            lba, sectors = entry & (1 << 48) - 1, entry >> 48
            if sectors and lba + sectors > self._sectors:
                data = b""
            ranges.append((lba * SECTOR_BYTES, sectors * SECTOR_BYTES))
        if len(data) != wanted:
            self.host.dma_done(len(data), wanted, failed=True)
            self.abort()
            return

        def discard() -> None:
            for offset, length in ranges:
                if length:
                    self._backend.discard(offset, length)

        def done() -> None:
            self.statistics.unmap_operations += 1
            self._finish_dma(wanted, wanted)

        self._perform(discard, done, is_read=False)

    def _flush(self) -> None:
        def flush() -> None:
            if not self._backend.readonly:
                self._backend.flush()

        def done() -> None:
            self.statistics.flush_operations += 1
            self.succeed()

        self._perform(flush, done, is_read=False)

    def _count_read(self, length: int) -> None:
        self.statistics.rd_operations += 1
        self.statistics.rd_bytes += length

    def _count_write(self, offset: int, length: int) -> None:
        statistics = self.statistics
        statistics.wr_operations += 1
        statistics.wr_bytes += length
        statistics.wr_highest_offset = max(statistics.wr_highest_offset, offset + length)

    # -- identity -----------------------------------------------------------------------------------------------------

    def _identify(self) -> bytes:
        """IDENTIFY DEVICE data (8.15)."""
        words = [0] * 256
        sectors = self._sectors
        cylinders = min(sectors // (_HEADS * _SECTORS_PER_TRACK), _MAX_CYLINDERS)
        now = max(min(sectors // (self._heads * self._track), 0xFFFF), 1)
        capacity = now * self._heads * self._track
        short = min(sectors, _LBA28_SECTORS)
        words[0] = 0x0040
        words[1], words[3], words[6] = cylinders, _HEADS, _SECTORS_PER_TRACK
        words[47] = 0x8000 | MAX_MULTIPLE
        words[49] = 0x0B00
        words[50] = 0x4000
        words[51] = words[52] = 0x0200
        words[53] = 0x0007
        words[54], words[55], words[56] = now, self._heads, self._track
        words[57], words[58] = capacity & 0xFFFF, capacity >> 16 & 0xFFFF
        words[59] = 0x0100 | self._multiple if self._multiple else 0
        words[60], words[61] = short & 0xFFFF, short >> 16
        words[63] = 0x0007 | self.selected_mode(0x20) << 8
        words[64] = 0x0003
        words[65:69] = [120] * 4
        words[80], words[81] = 0x00F0, 0x0016
        words[82], words[83], words[84] = 0x4028, 0x7400, 0x4000
        words[85] = 0x4008 | (0x20 if self._caches_writes else 0)
        words[86], words[87] = 0x3400, 0x4000
        words[88] = 0x003F | self.selected_mode(0x40) << 8
        if self.is_serial:
            words[75], words[76] = QUEUE_DEPTH - 1, GEN1 | QUEUES
            words[84], words[87] = words[84] | _LOGS, words[87] | _LOGS
        else:
            words[93] = 0x6001
        words[100:104] = [sectors >> 16 * part & 0xFFFF for part in range(4)]
        words[106] = 0x6000
        if not self._backend.readonly:
            words[69], words[105], words[169] = 0x4000, 1, 1
        data = bytearray(struct.pack("<256H", *words))
        data[20:40] = swapped(self.options.serial, 20)
        data[46:54] = swapped("1.0", 8)
        data[54:94] = swapped(self.options.model, 40)
        return bytes(data)

    # -- state --------------------------------------------------------------------------------------------------------

    def save(self) -> DriveState:
        """Everything; StateError while the error policy holds a request."""
        return DriveState(
            **self.fields(),
            command=self._command,
            address=self._address,
            left=self._left,
            chunk=self._chunk,
            flags=self.mode << 16 | self._multiple << 8 | self._caches_writes,
            heads=self._heads,
            sectors=self._track,
            sense=b"",
            rest=b"",
            size_bytes=self._sectors * SECTOR_BYTES,
        )

    def load(self, state: DriveState) -> None:
        """Take over everything; StateError for a disk of another size."""
        if state.size_bytes != self._sectors * SECTOR_BYTES:
            msg = f"IDE disk: the disk had {state.size_bytes} bytes, not {self._sectors * SECTOR_BYTES}"
            raise StateError(msg)
        super().load(state)
        self._held = None
        self._command = state.command
        self._address, self._left, self._chunk = state.address, min(state.left, 0x10000), max(state.chunk, 1)
        self.mode, self._multiple = state.flags >> 16 & 0xFF, min(state.flags >> 8 & 0xFF, MAX_MULTIPLE)
        self._caches_writes = bool(state.flags & 1)
        self._heads, self._track = max(state.heads, 1), max(state.sectors, 1)
        if self._address + self._left > self._sectors and self._command in _TRANSFERS:
            msg = "IDE disk: the state of a transfer is past the end of the disk"
            raise StateError(msg)

    def close(self) -> None:
        """Finish, flush and close."""
        super().close()
        self._backend.close()
