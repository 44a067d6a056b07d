"""The CD-ROM drive: its commands (MMC-6), and its way to the driver (VIRTIO 1.2, 5.6)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyhyve.backends.block import BlockError
from pyhyve.devices.scsi.cdrom import BLOCK_BYTES, Cdrom
from pyhyve.devices.scsi.drive import DiscDrive
from pyhyve.devices.scsi.spec import Command
from pyhyve.devices.virtio.scsi import VirtioScsi
from pyhyve.devices.virtio.spec import Status
from pyhyve.testing.virtio_driver import Segment, VirtioDriver
from pyhyve.testing.virtio_driver_transport import MiniMachine

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DISC = bytes(range(256)) * 8 * 3 + b"the end"
"""Three blocks and a little more."""
ILLEGAL_LBA = 0x2100
CONTROL, EVENTS, REQUESTS = range(3)


class Disc:
    """A backend over bytes."""

    readonly = True

    def __init__(self) -> None:
        self.is_broken = False
        self.is_closed = False

    @property
    def size_bytes(self) -> int:
        return len(DISC)

    def read(self, views: Sequence[memoryview], offset: int) -> None:
        if self.is_broken:
            raise BlockError(5, "scratched")
        for view in views:
            view[:] = DISC[offset : offset + len(view)]
            offset += len(view)

    def close(self) -> None:
        self.is_closed = True


class Drive:
    def __init__(self) -> None:
        self.machine = MiniMachine()
        self.disc = Disc()
        self.device = VirtioScsi(self.machine.memory, self.machine.loop)
        self.device.targets[0] = DiscDrive(self.disc)  # type: ignore[arg-type] # a mock
        self.transport = self.machine.plug_pci(self.device)
        self.driver = VirtioDriver(self.transport, self.machine.allocator)
        self.driver.start()

    def submit(self, queue: int, parts: list[Segment]) -> int | None:
        self.driver.submit(queue, parts)
        self.machine.run()
        used = self.driver.queues[queue].poll()
        return None if used is None else used.written_bytes

    def command(self, cdb: bytes, room: int = 0, lun: bytes = b"\1\0\0\0\0\0\0\0") -> tuple[int, int, bytes, bytes]:
        """Response code, residual, sense and data of a command."""
        request = self.driver.buffer(struct.pack("<8sQBBB32s", lun, 7, 0, 0, 0, cdb))
        response, data = self.driver.buffer(108), self.driver.buffer(max(room, 1))
        written = self.submit(REQUESTS, [request, response] + ([data] if room else []))
        assert written is not None
        sense_bytes, residual, _, status, code, sense = struct.unpack("<IIHBB96s", self.driver.read(response))
        assert (status == 2) == bool(sense_bytes)
        return code, residual, sense[:sense_bytes], self.driver.read(data)[: written - 108]


@pytest.fixture
def drive() -> Iterator[Drive]:
    drive = Drive()
    yield drive
    drive.device.close()
    assert drive.disc.is_closed
    drive.machine.close()


def read_10(lba: int, blocks: int) -> bytes:
    return struct.pack(">BxIxHx", Command.READ_10, lba, blocks)


def test_blocks_are_read_and_the_last_is_padded(drive: Drive) -> None:
    assert drive.command(read_10(1, 2), 2 * BLOCK_BYTES) == (0, 0, b"", DISC[2048:6144])
    assert drive.command(read_10(2, 2), 2 * BLOCK_BYTES) == (0, 0, b"", DISC[4096:].ljust(4096, b"\0"))
    read_12 = struct.pack(">BxIIxx", Command.READ_12, 0, 1)
    assert drive.command(read_12, BLOCK_BYTES) == (0, 0, b"", DISC[:2048])


def test_read_into_less_room_leaves_a_residual(drive: Drive) -> None:
    assert drive.command(read_10(0, 2), 1000) == (0, 3096, b"", DISC[:1000])


def test_read_beyond_the_disc_is_refused(drive: Drive) -> None:
    code, _, sense, data = drive.command(read_10(3, 2), 2 * BLOCK_BYTES)
    assert (code, sense[2], struct.unpack_from(">H", sense, 12)[0], data) == (0, 5, ILLEGAL_LBA, b"")


def test_disc_that_cannot_be_read_is_a_medium_error(drive: Drive) -> None:
    drive.disc.is_broken = True
    code, residual, sense, data = drive.command(read_10(0, 1), BLOCK_BYTES)
    assert (code, residual, sense[2], data) == (0, 0, 3, b"")


def test_capacity_and_identity(drive: Drive) -> None:
    assert drive.command(bytes((Command.READ_CAPACITY_10,)), 8)[3] == struct.pack(">II", 3, BLOCK_BYTES)
    identity = drive.command(bytes((Command.INQUIRY, 0, 0, 0, 36)), 36)[3]
    assert identity[:2] == b"\x05\x80"
    assert identity[8:16] == b"PYHYVE  "
    assert drive.command(bytes((Command.TEST_UNIT_READY,)))[2] == b""


def test_table_of_contents(drive: Drive) -> None:
    toc = drive.command(bytes((Command.READ_TOC, 0, 0, 0, 0, 0, 0, 0, 100)), 100)[3]
    assert struct.unpack(">HBB", toc[:4]) == (18, 1, 1)
    tracks = [struct.unpack_from(">BBxI", toc, at + 1) for at in (4, 12)]
    assert tracks == [(0x14, 1, 0), (0x14, 0xAA, 4)]
    toc = drive.command(bytes((Command.READ_TOC, 2, 0, 0, 0, 0, 0xAA, 0, 100)), 100)[3]
    assert toc[8:12] == bytes((0, 0, 2, 4))


def test_unknown_command_and_target(drive: Drive) -> None:
    sense = drive.command(b"\x0a")[2]
    assert (sense[2], sense[12]) == (5, 0x20)
    assert drive.command(bytes((Command.INQUIRY, 0, 0, 0, 36)), 36, lun=b"\1\3\0\0\0\0\0\0")[0] == 3


def test_control_requests_are_answered_and_events_never_come(drive: Drive) -> None:
    answer = drive.driver.buffer(5)
    drive.machine.memory.write(answer.gpa, b"\xff" * 5)
    assert drive.submit(CONTROL, [drive.driver.buffer(struct.pack("<II8sQ", 0, 0, b"", 1)), answer]) == 1
    assert drive.driver.read(answer)[0] == 0
    assert drive.submit(CONTROL, [drive.driver.buffer(struct.pack("<I8sI", 1, b"", 0)), answer]) == 5
    assert drive.driver.read(answer) == bytes(5)
    assert drive.submit(EVENTS, [drive.driver.buffer(16)]) is None


def test_request_without_room_for_its_answer_stops_the_device(drive: Drive) -> None:
    assert drive.submit(REQUESTS, [drive.driver.buffer(bytes(51)), drive.driver.buffer(10)]) is None
    assert drive.transport.read_status() & Status.NEEDS_RESET


@given(st.binary(min_size=32, max_size=32), st.integers(0, 1 << 40))
def test_any_command_gets_a_result_within_the_disc(cdb: bytes, size_bytes: int) -> None:
    drive = Cdrom(size_bytes)
    result = drive.execute(cdb)
    assert result.offset + result.length <= drive.blocks * BLOCK_BYTES
    assert len(result.data) < 100
    assert bool(result.sense) == bool(result.status)
