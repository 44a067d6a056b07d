"""A controller with IDE drives whose contents are in memory, and a driver for it."""

from __future__ import annotations

import functools
import struct
import threading
from typing import TYPE_CHECKING

from pyhyve.backends.block import BlockError
from pyhyve.devices.bus import AddressMap
from pyhyve.devices.error_policy import ErrorPolicy, Failure
from pyhyve.devices.ide.cdrom import AtapiCdrom
from pyhyve.devices.ide.disk import AtaDisk, DiskOptions
from pyhyve.devices.ide.piix3 import CHANNEL_PORTS, Piix3Ide
from pyhyve.devices.ide.spec import Command, StatusBit
from pyhyve.devices.ide.work import DriveWork
from pyhyve.devices.pci.bus import PciBus
from pyhyve.devices.scsi.drive import DiscDrive
from pyhyve.memory.guest import GuestMemory
from tests.unit.devices.fakes import FakeLine

if TYPE_CHECKING:
    from collections.abc import Sequence

SECTORS = 1024
DISC_BYTES = 2048 * 40
BASE, CONTROL, SECOND = CHANNEL_PORTS[0][0], CHANNEL_PORTS[0][1], CHANNEL_PORTS[1][0]
DATA, FEATURES, COUNT, LOW, MID, HIGH, DEVICE, COMMAND = range(BASE, BASE + 8)
STATUS = COMMAND
ERROR = FEATURES
MASTER = 0xC000
TABLE, BUFFER = 0x1000, 0x10000
PACKET_SLOT = 0x10
"""Device register of the drive that is the CD-ROM."""


class Image:
    """A backend in memory; `slow` ones are read on the drive's thread."""

    def __init__(self, data: bytes, *, readonly: bool = False, slow: bool = False) -> None:
        self.data = bytearray(data)
        self.readonly = readonly
        self.slow = slow
        self.broken: int = 0
        self.flushes = 0
        self.discarded: list[tuple[int, int]] = []
        self.is_closed = False

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def try_read(self, views: Sequence[memoryview], offset: int, length: int) -> bool:
        if self.slow or self.broken:
            return False
        self.read(views, offset)
        return True

    def read(self, views: Sequence[memoryview], offset: int) -> None:
        if self.broken:
            raise BlockError(self.broken, "broken")
        for view in views:
            view[:] = self.data[offset : offset + len(view)]
            offset += len(view)

    def write(self, views: Sequence[memoryview], offset: int) -> None:
        if self.broken:
            raise BlockError(self.broken, "broken")
        for view in views:
            self.data[offset : offset + len(view)] = view
            offset += len(view)

    def flush(self) -> None:
        self.flushes += 1

    def discard(self, offset: int, length: int) -> None:
        self.discarded.append((offset, length))

    def write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        self.data[offset : offset + length] = bytes(length)

    def close(self) -> None:
        self.is_closed = True


@functools.cache
def pattern(size: int, seed: int) -> bytes:
    return b"".join(struct.pack("<II", at, seed) for at in range(0, size, 8))


class Bench:
    """A controller with a disk and a CD-ROM on its first channel, and its driver."""

    def __init__(self, *, slow: bool = False, readonly: bool = False, write_errors: str = "report") -> None:
        self.lock = threading.RLock()
        self.memory = GuestMemory(shared=False)
        self.memory.add(0, 1 << 20)
        self.ports = AddressMap("port", 1 << 16)
        self.lines = [FakeLine(), FakeLine()]
        self.controller = Piix3Ide(self.lines, self.memory, self.lock)
        self.pci = PciBus(
            self.ports, AddressMap("memory", 1 << 40), send_msi=lambda *_: None, set_pirq=lambda *_, **__: None
        )
        self.pci.attach(self.controller, 1, 1)
        for channel, (command, control) in zip(self.controller.channels, CHANNEL_PORTS, strict=True):
            self.ports.add(command, 8, channel, name="IDE")
            self.ports.add(control, 1, channel.control, name="IDE control", width=1)
        self.image = Image(pattern(SECTORS * 512, 1), slow=slow, readonly=readonly)
        self.disc = Image(pattern(DISC_BYTES, 2), readonly=True, slow=slow)
        self.failures: list[Failure] = []
        options = DiskOptions(serial="QM1", write_errors=ErrorPolicy(write_errors))
        self.disk = AtaDisk(DriveWork(self.lock, "hd"), self.image, options, on_failure=self.failures.append)
        self.cdrom = AtapiCdrom(DriveWork(self.lock, "cd"), DiscDrive(self.disc))
        self.controller.channels[0].add(0, self.disk)
        self.controller.channels[0].add(1, self.cdrom)
        self.controller.config_write(0x20, 4, MASTER)
        self.controller.config_write(0x04, 2, 0x05)

    def read(self, port: int, size: int = 1) -> int:
        with self.lock:
            return self.ports.read(port, size)

    def write(self, port: int, value: int, size: int = 1) -> None:
        with self.lock:
            self.ports.write(port, size, int(value))

    def settle(self) -> None:
        self.disk.work.settle()
        self.cdrom.work.settle()

    def status(self) -> int:
        """The status once the drive is not busy; acknowledges its interrupt."""
        self.settle()
        return self.read(STATUS)

    def command(self, command: int, lba: int = 0, count: int = 0, *, features: int = 0, device: int = 0x40) -> None:
        self.write(DEVICE, device | (lba >> 24 & 0xF if lba < 1 << 28 else 0))
        self.write(FEATURES, features)
        for port, value in ((COUNT, count), (LOW, lba), (MID, lba >> 8), (HIGH, lba >> 16)):
            self.write(port, value & 0xFF)
        self.write(COMMAND, command)

    def extended(self, command: int, lba: int, count: int) -> None:
        self.write(DEVICE, 0x40)
        for port, value in ((COUNT, count), (LOW, lba), (MID, lba >> 8), (HIGH, lba >> 16)):
            shift = 8 if port == COUNT else 24
            self.write(port, value >> shift & 0xFF)
            self.write(port, value & 0xFF)
        self.write(COMMAND, command)

    def data_in(self, length: int, size: int = 2) -> bytes:
        return b"".join(self.read(DATA, size).to_bytes(size, "little") for _ in range(length // size))

    def data_out(self, data: bytes) -> None:
        for at in range(0, len(data), 2):
            self.write(DATA, int.from_bytes(data[at : at + 2], "little"), 2)

    def table(self, *regions: tuple[int, int]) -> None:
        """Write a table of physical regions and load it."""
        for number, (address, size) in enumerate(regions):
            last = 0x8000_0000 if number == len(regions) - 1 else 0
            self.memory.write(TABLE + 8 * number, struct.pack("<II", address, size & 0xFFFF | last))
        self.write(MASTER + 4, TABLE, 4)
        self.write(MASTER + 2, 0x06)

    def start(self, *, to_memory: bool) -> None:
        self.write(MASTER, 0x00)
        self.write(MASTER, 0x09 if to_memory else 0x01)
        self.settle()

    def packet(self, cdb: bytes, *, limit: int = 0xFFFE, dma: bool = False) -> None:
        self.write(DEVICE, PACKET_SLOT)
        self.write(FEATURES, int(dma))
        self.write(MID, limit & 0xFF)
        self.write(HIGH, limit >> 8)
        self.write(COMMAND, Command.PACKET)
        assert self.read(STATUS) & StatusBit.DRQ
        assert self.read(COUNT) == 1
        self.data_out(cdb.ljust(12, b"\0"))

    def packet_data(self) -> bytes:
        """Data of a packet command, as long as there is any."""
        data = b""
        while self.status() & StatusBit.DRQ:
            assert self.read(COUNT) == 2
            length = self.read(MID) | self.read(HIGH) << 8
            data += self.data_in(length + length % 2)[:length]
        return data

    def close(self) -> None:
        self.disk.close()
        self.cdrom.close()
        self.memory.close()
