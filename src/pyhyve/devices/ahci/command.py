"""What a driver puts into memory for one command: header, frame and region table, read once and checked."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from pyhyve.devices.ahci import spec
from pyhyve.devices.ahci.spec import Fis
from pyhyve.devices.ide.spec import Command
from pyhyve.memory.guest import GuestAddressError

if TYPE_CHECKING:
    from pyhyve.devices.ide.drive import Drive
    from pyhyve.memory.guest import GuestMemory

_HEADER = struct.Struct("<IIQ")
_REGION = struct.Struct("<QII")
_QUEUED = {Command.READ_FPDMA_QUEUED, Command.WRITE_FPDMA_QUEUED}
_FORCE_UNIT_ACCESS = 0x80


class SlotCommand:
    """The command in `slot`; what its region table has is given away from the front by `views`."""

    def __init__(self, memory: GuestMemory, list_gpa: int, slot: int) -> None:
        """Raises GuestAddressError when header or frame are not in memory."""
        self._memory = memory
        self.slot = slot
        self.header_gpa = list_gpa + spec.HEADER_BYTES * slot
        flags, _, table = _HEADER.unpack(memory.read(self.header_gpa, _HEADER.size))
        self.table_gpa = table & ~0x7F
        self._region_count = flags >> 16
        self.fis = memory.read(self.table_gpa, spec.FIS_BYTES)
        self.is_valid = flags & spec.HEADER_LENGTH_MASK >= 2 and self.fis[0] == Fis.HOST_TO_DEVICE
        self.transferred = 0
        self.had_packet = False
        self._regions: list[tuple[int, int]] | None = None
        self._next = self._into = 0

    @property
    def is_control(self) -> bool:
        """Whether the frame is for the device control register."""
        return not self.fis[1] & spec.FIS_COMMAND

    @property
    def code(self) -> int:
        """The command register."""
        return self.fis[2]

    @property
    def is_queued(self) -> bool:
        """Whether it is one of native command queuing."""
        return not self.is_control and self.code in _QUEUED

    @property
    def tag(self) -> int:
        """The tag of a queued command."""
        return self.fis[12] >> 3

    @property
    def control(self) -> int:
        """The device control register."""
        return self.fis[15]

    def hand_to(self, drive: Drive) -> int:
        """Fill the registers of `drive`; the command to execute: of a queued one, the plain one that does the same."""
        fis = self.fis
        features, count = fis[3] | fis[11] << 8, fis[12] | fis[13] << 8
        drive.lba_low, drive.lba_mid, drive.lba_high = (fis[4 + at] | fis[8 + at] << 8 for at in range(3))
        drive.device = fis[7]
        drive.error = 0
        if not self.is_queued:
            drive.features, drive.count = features, count
            return self.code
        drive.features, drive.count = 0, features
        if self.code == Command.READ_FPDMA_QUEUED:
            return Command.READ_DMA_EXT
        return Command.WRITE_DMA_FUA_EXT if fis[7] & _FORCE_UNIT_ACCESS else Command.WRITE_DMA_EXT

    def packet(self, length: int) -> bytes:
        """The ATAPI command. Raises GuestAddressError."""
        return self._memory.read(self.table_gpa + spec.ATAPI_COMMAND_AT, length)

    def views(self, length: int) -> list[tuple[int, memoryview]] | None:
        """Guest memory for the next `length` bytes, neighbours put together.

        None when the table is shorter, or names what is not memory.
        """
        try:
            ranges = self._take(length)
            return None if ranges is None else [(gpa, self._memory.view(gpa, size)) for gpa, size in ranges]
        except GuestAddressError:
            return None

    def _take(self, length: int) -> list[tuple[int, int]] | None:
        if self._regions is None:
            table = self._memory.read(self.table_gpa + spec.PRDT_AT, spec.PRD_BYTES * self._region_count)
            self._regions = [
                (gpa & ~1, (count & spec.PRD_LENGTH_MASK | 1) + 1) for gpa, _, count in _REGION.iter_unpack(table)
            ]
        ranges: list[tuple[int, int]] = []
        while length and self._next < len(self._regions):
            gpa, size = self._regions[self._next]
            gpa += self._into
            part = min(size - self._into, length)
            if ranges and sum(ranges[-1]) == gpa:
                ranges[-1] = (ranges[-1][0], ranges[-1][1] + part)
            else:
                ranges.append((gpa, part))
            length -= part
            self.transferred += part
            self._into += part
            if self._into == size:
                self._next, self._into = self._next + 1, 0
        return None if length else ranges

    def report(self) -> None:
        """Say in the header how much was transferred. Raises GuestAddressError."""
        self._memory.write(self.header_gpa + spec.TRANSFERRED_AT, self.transferred.to_bytes(8, "little")[:4])
