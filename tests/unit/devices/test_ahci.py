"""SATA drives as a driver meets them: ports, command lists, frames, queues (AHCI 1.3.1)."""

from __future__ import annotations

import errno
import struct
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyhyve.devices.ahci import spec
from pyhyve.devices.ahci.controller import FUNCTION, PORT_COUNT, SLOT, Ich9Ahci
from pyhyve.devices.ahci.spec import Fis, HbaRegister, PortCommand, PortInterrupt, PortRegister
from pyhyve.devices.bus import AddressMap
from pyhyve.devices.error_policy import ErrorPolicy, Failure
from pyhyve.devices.ide.cdrom import AtapiCdrom
from pyhyve.devices.ide.disk import AtaDisk, DiskOptions
from pyhyve.devices.ide.spec import Command, ErrorBit, StatusBit
from pyhyve.devices.ide.work import DriveWork
from pyhyve.devices.pci.bus import PciBus
from pyhyve.devices.scsi.drive import DiscDrive
from pyhyve.devices.scsi.spec import Command as ScsiCommand
from pyhyve.memory.guest import GuestMemory
from pyhyve.state.errors import StateError
from pyhyve.state.record import from_json, to_json
from pyhyve.testing.ahci_driver import PORT_MEMORY_BYTES, AhciDriver, Task
from tests.unit.devices.ide_bench import Image, pattern

if TYPE_CHECKING:
    from collections.abc import Iterator

SECTORS = 1024
DISC_BYTES = 2048 * 40
BASE, PORTS = 0xF000_0000, 0xC000
BUFFER = 0x8_0000
MEMORY_BYTES = 1 << 20
_OK = int(StatusBit.DRDY | StatusBit.DSC)


class Bench:
    """A controller with a disk on its first port and a CD-ROM on its third, and the drivers of both."""

    def __init__(self, *, slow: bool = False, readonly: bool = False, write_errors: str = "report") -> None:
        self.lock = threading.RLock()
        self.memory = GuestMemory(shared=False)
        self.memory.add(0, MEMORY_BYTES)
        self.space, self.ports = AddressMap("memory", 1 << 40), AddressMap("port", 1 << 16)
        self.levels: dict[int, bool] = {}
        self.messages: list[tuple[int, int]] = []
        self.pci = PciBus(self.ports, self.space, send_msi=self._message, set_pirq=self._set_line)
        self.controller = Ich9Ahci(self.memory, self.lock)
        self.pci.attach(self.controller, SLOT, FUNCTION)
        self.image = Image(pattern(SECTORS * 512, 1), slow=slow, readonly=readonly)
        self.disc = Image(pattern(DISC_BYTES, 2), readonly=True, slow=slow)
        self.failures: list[Failure] = []
        options = DiskOptions(serial="QM1", write_errors=ErrorPolicy(write_errors))
        self.disk = AtaDisk(DriveWork(self.lock, "hd"), self.image, options, on_failure=self.failures.append)
        self.cdrom = AtapiCdrom(DriveWork(self.lock, "cd"), DiscDrive(self.disc))
        self.controller.connect(0, 0, self.disk)
        self.controller.connect(2, 0, self.cdrom)
        self.controller.config_write(0x24, 4, BASE)
        self.controller.config_write(0x20, 4, PORTS)
        self.controller.config_write(0x04, 2, 0x07)
        self.hd = AhciDriver(self.space, self.lock, self.memory, BASE, 0, 0)
        self.cd = AhciDriver(self.space, self.lock, self.memory, BASE, 2, PORT_MEMORY_BYTES)

    def _message(self, address: int, data: int) -> None:
        self.messages.append((address, data))

    def _set_line(self, line: int, /, *, level: bool) -> None:
        self.levels[line] = level

    def line(self) -> bool:
        return self.levels.get(self.pci.pirq_of(self.controller), False)

    def data(self, length: int, at: int = BUFFER) -> bytes:
        return self.memory.read(at, length)

    def packet(self, packet: bytes, length: int) -> tuple[int, bytes]:
        task = Task(Command.PACKET, features=1, device=0)
        return self.cd.run(task, [(BUFFER, length)] if length else [], packet=packet), self.data(length)

    def close(self) -> None:
        self.disk.close()
        self.cdrom.close()
        self.memory.close()


@pytest.fixture(params=[False, True], ids=["at once", "on its thread"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(slow=request.param)
    made.hd.begin()
    made.cd.begin()
    yield made
    made.close()


@pytest.fixture
def quick() -> Iterator[Bench]:
    made = Bench()
    made.hd.begin()
    made.cd.begin()
    yield made
    made.close()


def test_registers_say_what_there_is(quick: Bench) -> None:
    driver = quick.hd
    assert driver.read_host(HbaRegister.CAP) & 0x1F == PORT_COUNT - 1
    assert driver.read_host(HbaRegister.CAP) >> 8 & 0x1F == 31
    assert driver.read_host(HbaRegister.VS) == 0x0001_0301
    assert driver.read_host(HbaRegister.PI) == 0x3F
    assert (driver.read(PortRegister.SSTS), driver.read(PortRegister.SIG)) == (0x113, 0x0000_0101)
    assert (quick.cd.read(PortRegister.SSTS), quick.cd.read(PortRegister.SIG)) == (0x113, 0xEB14_0101)
    empty = AhciDriver(quick.space, quick.lock, quick.memory, BASE, 1, 0)
    assert [empty.read(at) for at in (PortRegister.SSTS, PortRegister.SIG, PortRegister.TFD)] == [0, 0xFFFF_FFFF, 0x7F]
    assert driver.read(PortRegister.TFD) == 0x0100 | _OK
    assert driver.received(Fis.DEVICE_TO_HOST)[:4] == bytes((0x34, 0, _OK, 1))


def test_identify_tells_of_queues(bench: Bench) -> None:
    assert bench.hd.run(Task(Command.IDENTIFY_DEVICE), [(BUFFER, 512)]) == _OK
    words = struct.unpack("<256H", bench.data(512))
    assert (words[75], words[76] & 0x100, words[93]) == (31, 0x100, 0)
    assert words[100] == SECTORS
    frame = bench.hd.received(Fis.PIO_SETUP)
    assert (frame[0], frame[1] & 0x20, frame[16] | frame[17] << 8) == (0x5F, 0x20, 512)
    assert bench.memory.read(spec.TRANSFERRED_AT, 4) == (512).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("command", "count"),
    [
        (Command.READ_DMA_EXT, 16),
        (Command.READ_SECTORS, 3),
        (Command.READ_MULTIPLE_EXT, 40),
        (Command.READ_DMA, 200),
        (Command.READ_SECTORS_EXT, 130),
    ],
)
def test_reads(bench: Bench, command: Command, count: int) -> None:
    length = count * 512
    pieces = [(BUFFER, 510), (BUFFER + 510, 4), (BUFFER + 0x4_0000, length - 514)]
    assert bench.hd.run(Task(command, 7, count), pieces) == _OK
    expected = pattern(SECTORS * 512, 1)[7 * 512 : 7 * 512 + length]
    assert bench.data(514) + bench.data(length - 514, BUFFER + 0x4_0000) == expected
    assert bench.hd.read(PortRegister.CI) == 0


@pytest.mark.parametrize("command", [Command.WRITE_DMA_EXT, Command.WRITE_SECTORS, Command.WRITE_DMA_FUA_EXT])
def test_writes(bench: Bench, command: Command) -> None:
    bench.memory.write(BUFFER, pattern(5 * 512, 9))
    assert bench.hd.run(Task(command, 100, 5), [(BUFFER, 1024), (BUFFER + 1024, 5 * 512 - 1024)]) == _OK
    assert bench.image.data[100 * 512 : 105 * 512] == pattern(5 * 512, 9)
    assert bench.image.flushes == (command == Command.WRITE_DMA_FUA_EXT)
    assert bench.hd.run(Task(Command.FLUSH_CACHE_EXT)) == _OK


def test_trim(bench: Bench) -> None:
    bench.memory.write(BUFFER, struct.pack("<QQ", 8 << 48 | 16, 1 << 48 | 100).ljust(512, b"\0"))
    assert bench.hd.run(Task(Command.DATA_SET_MANAGEMENT, count=1, features=1), [(BUFFER, 512)]) == _OK
    assert bench.image.discarded == [(16 * 512, 8 * 512), (100 * 512, 512)]


def test_queued_commands_end_one_by_one(bench: Bench) -> None:
    for slot in range(32):
        bench.hd.queue(slot, slot * 4, [(BUFFER + slot * 2048, 1024), (BUFFER + slot * 2048 + 1024, 1024)])
    bench.hd.issue(0xFFFF_FFFF, queued=True)
    assert bench.hd.wait(0xFFFF_FFFF, queued=True) == _OK
    assert bench.data(32 * 2048) == pattern(SECTORS * 512, 1)[: 32 * 2048]
    assert bench.hd.read(PortRegister.CI) == 0
    assert bench.hd.received(Fis.SET_DEVICE_BITS)[:4] == bytes((0xA1, 0x40, 0x50, 0))
    assert bench.hd.read(PortRegister.IS) & PortInterrupt.SET_BITS


def test_queued_writes(bench: Bench) -> None:
    bench.memory.write(BUFFER, pattern(4096, 5))
    bench.hd.queue(9, 40, [(BUFFER, 4096)], is_write=True)
    bench.hd.issue(1 << 9, queued=True)
    assert bench.hd.wait(1 << 9, queued=True) == _OK
    assert bench.image.data[40 * 512 : 48 * 512] == pattern(4096, 5)


def test_queued_error_is_in_the_log(bench: Bench) -> None:
    bench.hd.queue(3, SECTORS - 1, [(BUFFER, 1024)])
    bench.hd.queue(5, 0, [(BUFFER, 512)])
    bench.hd.issue(1 << 3 | 1 << 5, queued=True)
    bench.hd.wait(1 << 3, queued=True)
    assert bench.hd.read(PortRegister.IS) & PortInterrupt.TASK_FILE_ERROR
    assert bench.hd.read(PortRegister.TFD) >> 8 == ErrorBit.IDNF
    assert bench.hd.read(PortRegister.SACT) & 1 << 3
    bench.hd.write(PortRegister.IS, 0xFFFF_FFFF)
    bench.hd.restart()
    assert bench.hd.read(PortRegister.SACT) == 0
    assert bench.hd.run(Task(Command.READ_LOG_EXT, 0x10, 1), [(BUFFER, 512)]) == _OK
    page = bench.data(512)
    assert (page[0], page[2] & 1, page[3], sum(page) & 0xFF) == (3, 1, ErrorBit.IDNF, 0)
    assert bench.hd.run(Task(Command.READ_LOG_EXT, 0, 1), [(BUFFER, 512)]) == _OK
    assert bench.data(2, BUFFER + 0x20) == b"\1\0"


def test_errors_hold_the_list_up(bench: Bench) -> None:
    bench.hd.prepare(0, Task(Command.READ_DMA_EXT, SECTORS, 1).frame(), [(BUFFER, 512)])
    bench.hd.prepare(1, Task(Command.FLUSH_CACHE).frame())
    bench.hd.issue(1)
    assert bench.hd.wait(1) & StatusBit.ERR
    bench.hd.issue(2)
    assert bench.hd.read(PortRegister.CI) == 3
    assert bench.line()
    bench.hd.write(PortRegister.IS, 0xFFFF_FFFF)
    bench.hd.restart()
    assert bench.hd.read(PortRegister.CI) == 0
    assert bench.hd.run(Task(Command.FLUSH_CACHE), slot=1) == _OK


def test_tables_that_are_too_short_or_lead_nowhere_fail(bench: Bench) -> None:
    for regions in ([(BUFFER, 512)], [], [(BUFFER, 512), (1 << 36, 512)], [(MEMORY_BYTES - 512, 1024)]):
        for command in (Command.READ_DMA_EXT, Command.WRITE_DMA_EXT, Command.READ_MULTIPLE_EXT, Command.WRITE_MULTIPLE):
            assert bench.hd.run(Task(command, 0, 2), regions) & StatusBit.ERR
            assert bench.hd.read(PortRegister.IS) & PortInterrupt.OVERFLOW
            bench.hd.write(PortRegister.IS, 0xFFFF_FFFF)
            bench.hd.restart()
    assert bench.image.data == pattern(SECTORS * 512, 1)
    bench.hd.write(PortRegister.CLBU, 5)
    bench.hd.issue(1)
    assert bench.hd.read(PortRegister.IS) & PortInterrupt.HOST_BUS_FATAL


def test_frames_that_are_none_are_refused(quick: Bench) -> None:
    quick.hd.prepare(0, bytes(20))
    quick.hd.issue(1)
    assert quick.hd.read(PortRegister.IS) & PortInterrupt.INTERFACE_FATAL
    quick.hd.write(PortRegister.IS, 0xFFFF_FFFF)
    quick.hd.restart()
    quick.hd.queue(4, 0, [(BUFFER, 512)])
    quick.hd.issue(1 << 4)
    assert quick.hd.read(PortRegister.IS) & PortInterrupt.INTERFACE_FATAL


def test_disc_is_read_with_packets(bench: Bench) -> None:
    status, data = bench.packet(struct.pack(">BxIxHxxx", ScsiCommand.READ_10, 3, 5), 5 * 2048)
    assert (status, data) == (_OK, pattern(DISC_BYTES, 2)[3 * 2048 : 8 * 2048])
    task = Task(Command.PACKET, lba=0x0800 << 8, device=0)
    packet = struct.pack(">BxIxHxxx", ScsiCommand.READ_10, 1, 4)
    assert bench.cd.run(task, [(BUFFER, 4 * 2048)], packet=packet) == _OK
    assert bench.data(4 * 2048) == pattern(DISC_BYTES, 2)[2048 : 5 * 2048]
    assert bench.cd.run(Task(Command.IDENTIFY_PACKET_DEVICE), [(BUFFER, 512)]) == _OK


def test_disc_errors_have_their_sense_key(bench: Bench) -> None:
    status, _ = bench.packet(struct.pack(">BxIxHxxx", ScsiCommand.READ_10, 40, 1), 2048)
    assert (status & StatusBit.ERR, status >> 12) == (StatusBit.ERR, 5)
    bench.cd.write(PortRegister.IS, 0xFFFF_FFFF)
    bench.cd.restart()
    status, data = bench.packet(bytes((ScsiCommand.REQUEST_SENSE, 0, 0, 0, 18)), 18)
    assert (status, data[2]) == (_OK, 5)
    bench.disc.broken = errno.EIO
    status, _ = bench.packet(struct.pack(">BxIxHxxx", ScsiCommand.READ_10, 0, 1), 2048)
    assert (status & StatusBit.ERR, status >> 12) == (StatusBit.ERR, 3)


def test_resets_show_the_signature(bench: Bench) -> None:
    bench.hd.run(Task(Command.IDENTIFY_DEVICE), [(BUFFER, 512)])
    bench.hd.soft_reset()
    assert bench.hd.read(PortRegister.TFD) == 0x100 | _OK
    bench.hd.write(PortRegister.SCTL, 0x301)
    assert bench.hd.read(PortRegister.SSTS) == 0
    bench.hd.write(PortRegister.SCTL, 0x300)
    assert bench.hd.read(PortRegister.SSTS) == 0x113
    bench.hd.write_host(HbaRegister.GHC, 0x8000_0001)
    assert bench.hd.read_host(HbaRegister.GHC) == 0x8000_0000
    assert bench.hd.read(PortRegister.CMD) & PortCommand.START == 0
    bench.hd.begin()
    assert bench.hd.run(Task(Command.READ_DMA_EXT, 0, 1), [(BUFFER, 512)]) == _OK
    bench.pci.reset()
    assert bench.space.read(BASE, 4) == 0xFFFF_FFFF


def test_stopping_gives_up_what_is_under_way() -> None:
    bench = Bench(write_errors="stop")
    bench.hd.begin()
    bench.image.broken = errno.ENOSPC
    bench.hd.prepare(0, Task(Command.WRITE_DMA_EXT, 0, 1).frame(), [(BUFFER, 512)])
    bench.hd.issue(1)
    bench.disk.work.settle()
    assert bench.hd.read(PortRegister.TFD) & StatusBit.BSY
    bench.hd.write(PortRegister.CMD, bench.hd.read(PortRegister.CMD) & ~int(PortCommand.START))
    assert bench.hd.read(PortRegister.TFD) & StatusBit.BSY
    bench.hd.write(PortRegister.CMD, bench.hd.read(PortRegister.CMD) | PortCommand.OVERRIDE)
    assert not bench.hd.read(PortRegister.TFD) & StatusBit.BSY
    bench.image.broken = 0
    bench.hd.restart()
    assert bench.hd.run(Task(Command.FLUSH_CACHE)) == _OK
    bench.controller.resume()
    assert bench.image.data[:512] == pattern(SECTORS * 512, 1)[:512]
    bench.close()


def test_policy_stops_and_goes_on() -> None:
    bench = Bench(write_errors="stop")
    bench.hd.begin()
    bench.image.broken = errno.ENOSPC
    bench.memory.write(BUFFER, b"x" * 512)
    bench.hd.queue(1, 0, [(BUFFER, 512)], is_write=True)
    bench.hd.queue(2, 1, [(BUFFER, 512)], is_write=True)
    bench.hd.issue(6, queued=True)
    bench.disk.work.settle()
    assert [failure.action for failure in bench.failures] == [ErrorPolicy.STOP]
    with pytest.raises(StateError, match="waits for space"):
        bench.controller.save_ports()
    bench.image.broken = 0
    bench.controller.resume()
    assert bench.hd.wait(6, queued=True) == _OK
    assert bench.image.data[:1024] == b"x" * 1024
    bench.close()


def test_interrupts_are_level_or_messages(quick: Bench) -> None:
    assert not quick.line()
    quick.hd.run(Task(Command.FLUSH_CACHE))
    assert quick.line()
    assert quick.hd.read_host(HbaRegister.IS) == 1
    quick.hd.write(PortRegister.IS, 0xFFFF_FFFF)
    quick.hd.write_host(HbaRegister.IS, 1)
    assert not quick.line()
    msi = quick.controller.msi
    assert msi is not None
    quick.controller.config_write(msi.offset + 4, 4, 0xFEE0_0000)
    quick.controller.config_write(msi.offset + 12, 2, 0x45)
    quick.controller.config_write(msi.offset + 2, 2, 1)
    quick.cd.run(Task(Command.CHECK_POWER_MODE))
    assert quick.messages == [(0xFEE0_0000, 0x45)]
    assert not quick.line()


def test_registers_are_reached_through_ports_too(quick: Bench) -> None:
    quick.ports.write(PORTS + 0x10, 4, HbaRegister.VS)
    assert quick.ports.read(PORTS + 0x14, 4) == 0x0001_0301
    quick.ports.write(PORTS + 0x10, 4, spec.PORTS_AT + PortRegister.IE)
    quick.ports.write(PORTS + 0x14, 4, 1)
    assert quick.hd.read(PortRegister.IE) == 1


def test_nothing_is_mastered_without_leave(quick: Bench) -> None:
    quick.controller.config_write(0x04, 2, 0x03)
    quick.hd.prepare(0, Task(Command.FLUSH_CACHE).frame())
    quick.hd.issue(1)
    assert quick.hd.read(PortRegister.CI) == 1


def test_state_goes_into_another_controller(quick: Bench) -> None:
    quick.hd.run(Task(Command.READ_DMA_EXT, SECTORS, 1), [(BUFFER, 512)])
    states = [(part.state_type, to_json(part.save())) for _, part in quick.controller.saveables()]
    other = Bench()
    for (_, part), (kind, state) in zip(other.controller.saveables(), states, strict=True):
        part.load(from_json(kind, state, "ahci"))
    for register in PortRegister:
        assert other.hd.read(register) == quick.hd.read(register)
    assert other.line()
    other.hd.write(PortRegister.IS, 0xFFFF_FFFF)
    other.hd.restart()
    assert other.hd.run(Task(Command.READ_DMA_EXT, 5, 1), [(BUFFER, 512)]) == _OK
    assert other.data(512) == pattern(SECTORS * 512, 1)[5 * 512 : 6 * 512]
    bare = Ich9Ahci(quick.memory, quick.lock)
    with pytest.raises(StateError, match="other drives"):
        bare.load_ports(quick.controller.save_ports())
    other.close()


_LENGTHS = st.sampled_from([0, 2, 512, 4096, 0xFFFF, 1 << 22])
_ADDRESSES = st.sampled_from([BUFFER, 0, MEMORY_BYTES - 2, 1 << 40, 0xFFFF_FFFF_FFFF_FFFF]) | st.integers(
    0, (1 << 64) - 1
)
_STEP = st.one_of(
    st.tuples(st.just("host"), st.integers(0, 0x43), st.integers(0, 0xFFFF_FFFF)),
    st.tuples(st.just("port"), st.sampled_from(list(PortRegister)), st.integers(0, 0xFFFF_FFFF)),
    st.tuples(st.just("start"), st.just(0), st.just(0)),
    st.tuples(
        st.just("slot"),
        st.integers(0, 31),
        st.tuples(
            st.sampled_from([int(command) for command in Command]) | st.integers(0, 255),
            st.integers(0, SECTORS + 4) | st.integers(0, (1 << 48) - 1),
            st.integers(0, 0xFFFF),
            st.integers(0, 0xFFFF),
            st.binary(max_size=16),
            st.lists(st.tuples(_ADDRESSES, _LENGTHS), max_size=4),
            st.booleans(),
        ),
    ),
)


@settings(max_examples=150, deadline=None)
@given(steps=st.lists(_STEP, max_size=30), to_disc=st.booleans())
def test_no_driver_gets_an_exception_out_of_ports(steps: list[tuple[str, int, object]], *, to_disc: bool) -> None:
    bench = Bench()
    driver = bench.cd if to_disc else bench.hd
    driver.begin()
    for kind, where, what in steps:
        if kind == "start":
            driver.begin()
        elif kind == "host" and isinstance(what, int):
            driver.write_host(where, what)
        elif kind == "port" and isinstance(what, int):
            driver.write(where, what)
            driver.read(where)
        elif isinstance(what, tuple):
            command, lba, count, features, packet, regions, queued = what
            frame = Task(command, lba, where << 3 if queued else count, features).frame()
            table = driver.table(where)
            driver.prepare(where, frame, packet=packet)
            entries = b"".join(struct.pack("<QII", gpa, 0, length) for gpa, length in regions)
            bench.memory.write(table + spec.PRDT_AT, entries)
            bench.memory.write(driver.start + 32 * where + 2, len(regions).to_bytes(2, "little"))
            driver.issue(1 << where, queued=queued)
    bench.disk.work.settle()
    bench.cdrom.work.settle()
    bench.controller.save_ports()
    bench.pci.reset()
    assert bench.image.size_bytes == SECTORS * 512
    bench.close()
