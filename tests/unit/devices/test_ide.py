"""IDE drives as a driver meets them: ports, interrupts, bus mastering (ATA/ATAPI-6, SFF-8038i)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyhyve.devices.error_policy import ErrorPolicy
from pyhyve.devices.ide.spec import Command, ErrorBit, Feature, StatusBit
from pyhyve.devices.scsi.spec import Command as ScsiCommand
from pyhyve.state.errors import StateError
from pyhyve.state.record import from_json, to_json
from tests.unit.devices.ide_bench import (
    BASE,
    BUFFER,
    COMMAND,
    CONTROL,
    COUNT,
    DEVICE,
    ERROR,
    FEATURES,
    HIGH,
    LOW,
    MASTER,
    MID,
    PACKET_SLOT,
    SECOND,
    SECTORS,
    STATUS,
    Bench,
    pattern,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=[False, True], ids=["cached", "waiting"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(slow=request.param)
    yield made
    made.close()


def test_identify_tells_size_serial_and_interrupts(bench: Bench) -> None:
    bench.command(Command.IDENTIFY_DEVICE)
    assert bench.lines[0].level
    assert bench.status() == StatusBit.DRDY | StatusBit.DSC | StatusBit.DRQ
    assert not bench.lines[0].level
    words = struct.unpack("<256H", bench.data_in(512))
    assert words[60] | words[61] << 16 == words[100] | words[101] << 16 == SECTORS
    assert words[53] & 7 == 7
    assert words[1] * words[3] * words[6] <= SECTORS
    text = b"".join(struct.pack(">H", word) for word in words[10:20])
    assert text.strip() == b"QM1"
    assert bench.read(STATUS) == StatusBit.DRDY | StatusBit.DSC


def test_sectors_are_read_one_interrupt_each(bench: Bench) -> None:
    bench.command(Command.READ_SECTORS, 5, 3)
    data = b""
    for number in range(3):
        assert bench.status() & StatusBit.DRQ
        assert bench.lines[0].edges == number + 1
        data += bench.data_in(512, 4 if number else 2)
    assert data == bench.image.data[5 * 512 : 8 * 512]
    assert not bench.status() & StatusBit.DRQ
    assert bench.disk.statistics.rd_bytes == 3 * 512


def test_multiple_sectors_come_together(bench: Bench) -> None:
    bench.command(Command.SET_MULTIPLE, count=8)
    assert not bench.status() & StatusBit.ERR
    bench.command(Command.READ_MULTIPLE, 1, 10)
    assert bench.status() & StatusBit.DRQ
    data = bench.data_in(8 * 512)
    assert bench.status() & StatusBit.DRQ
    data += bench.data_in(2 * 512)
    assert data == bench.image.data[512 : 11 * 512]
    bench.command(Command.SET_MULTIPLE, count=3)
    assert bench.status() & StatusBit.ERR


def test_most_of_the_buffer_can_be_taken_at_once(bench: Bench) -> None:
    bench.command(Command.READ_SECTORS, 2, 1)
    bench.settle()
    channel = bench.controller.channels[0]
    first = bench.data_in(2)
    taken = channel.take(1 << 20, 2)
    assert len(taken) == 506
    assert not channel.take(2, 2)
    assert first + taken + bench.data_in(4) == bench.image.data[1024:1536]


def test_sectors_are_written_and_flushed(bench: Bench) -> None:
    data = pattern(1024, 9)
    bench.command(Command.WRITE_SECTORS, 7, 2)
    assert bench.read(STATUS) & StatusBit.DRQ
    assert not bench.lines[0].level
    bench.data_out(data[:512])
    assert bench.status() & StatusBit.DRQ
    bench.data_out(data[512:])
    assert not bench.status() & (StatusBit.DRQ | StatusBit.ERR)
    assert bench.image.data[7 * 512 : 9 * 512] == data
    bench.command(Command.FLUSH_CACHE)
    assert not bench.status() & StatusBit.ERR
    assert bench.image.flushes == 1


def test_write_cache_off_flushes_every_write(bench: Bench) -> None:
    bench.command(Command.SET_FEATURES, features=Feature.DISABLE_WRITE_CACHE)
    bench.status()
    bench.command(Command.WRITE_SECTORS, 0, 1)
    bench.data_out(bytes(512))
    assert not bench.status() & StatusBit.ERR
    assert bench.image.flushes == 1


def test_dma_reads_into_the_regions_of_the_table(bench: Bench) -> None:
    bench.table((BUFFER, 512), (BUFFER + 512, 512), (BUFFER + 0x8000, 0x10000 - 1024))
    bench.command(Command.READ_DMA, 16, 128)
    assert not bench.lines[0].level
    bench.start(to_memory=True)
    assert bench.read(MASTER + 2) & 0x07 == 0x04
    assert bench.lines[0].level
    assert not bench.status() & (StatusBit.DRQ | StatusBit.ERR)
    wanted = bench.image.data[16 * 512 : 144 * 512]
    assert bench.memory.read(BUFFER, 1024) == wanted[:1024]
    assert bench.memory.read(BUFFER + 0x8000, 0x10000 - 1024) == wanted[1024:]
    bench.write(MASTER + 2, 0x04)
    assert not bench.read(MASTER + 2) & 0x04


def test_dma_may_be_started_before_the_command(bench: Bench) -> None:
    bench.table((BUFFER, 512))
    bench.write(MASTER, 0x09)
    assert bench.read(MASTER + 2) & 1
    bench.command(Command.READ_DMA, 3, 1)
    bench.settle()
    assert bench.memory.read(BUFFER, 512) == bench.image.data[3 * 512 : 4 * 512]


def test_dma_writes_with_48_bit_addresses(bench: Bench) -> None:
    data = pattern(0x10000, 5)
    bench.memory.write(BUFFER, data)
    bench.table((BUFFER, 0))
    bench.extended(Command.WRITE_DMA_EXT, 300, 128)
    bench.start(to_memory=False)
    assert not bench.status() & StatusBit.ERR
    assert bench.image.data[300 * 512 : 428 * 512] == data


def test_table_that_is_too_short_leaves_no_interrupt(bench: Bench) -> None:
    bench.table((BUFFER, 512))
    bench.command(Command.READ_DMA, 0, 2)
    bench.start(to_memory=True)
    assert bench.read(MASTER + 2) & 0x07 == 0
    assert bench.read(STATUS) & StatusBit.BSY
    bench.write(CONTROL, 0x04)
    bench.write(CONTROL, 0x00)
    assert bench.read(STATUS) == StatusBit.DRDY | StatusBit.DSC


@pytest.mark.parametrize("region", [(0xFFFF_0000, 512), (0x10_0000, 512), (0xF_FF00, 512)])
def test_table_that_leads_nowhere_is_an_error(region: tuple[int, int], bench: Bench) -> None:
    bench.table(region)
    bench.command(Command.READ_DMA, 0, 1)
    bench.start(to_memory=True)
    assert bench.read(MASTER + 2) & 0x03 == 0x02
    assert bench.status() & StatusBit.ERR


def test_nothing_is_transferred_without_bus_mastering(bench: Bench) -> None:
    bench.controller.config_write(0x04, 2, 0x01)
    bench.table((BUFFER, 512))
    bench.command(Command.READ_DMA, 0, 1)
    bench.start(to_memory=True)
    assert bench.memory.read(BUFFER, 512) == bytes(512)


def test_cylinders_heads_and_sectors(bench: Bench) -> None:
    bench.command(Command.INITIALIZE_PARAMETERS, count=32, device=0x07)
    bench.status()
    bench.command(Command.READ_SECTORS, 2 << 8 | 5, 1, device=0x03)
    assert bench.status() & StatusBit.DRQ
    lba = (2 * 8 + 3) * 32 + 4
    assert bench.data_in(512) == bench.image.data[lba * 512 : lba * 512 + 512]
    bench.command(Command.READ_SECTORS, 0, 1, device=0)
    assert bench.status() & StatusBit.ERR


@pytest.mark.parametrize(("lba", "count"), [(SECTORS, 1), (SECTORS - 1, 2), (0x0FFF_FFFF, 0)])
def test_address_past_the_end_is_not_found(lba: int, count: int, bench: Bench) -> None:
    bench.command(Command.READ_SECTORS, lba, count)
    assert bench.status() & StatusBit.ERR
    assert bench.read(ERROR) == ErrorBit.IDNF


def test_unknown_command_is_aborted(bench: Bench) -> None:
    bench.command(0xB0)
    assert bench.status() & StatusBit.ERR
    assert bench.read(ERROR) == ErrorBit.ABRT


def test_native_size_is_told(bench: Bench) -> None:
    bench.command(Command.READ_NATIVE_MAX)
    bench.status()
    assert bench.read(LOW) | bench.read(MID) << 8 | bench.read(HIGH) << 16 == SECTORS - 1


def test_trim_discards_ranges(bench: Bench) -> None:
    bench.memory.write(BUFFER, struct.pack("<QQ", 100 | 8 << 48, 200 | 1 << 48).ljust(512, b"\0"))
    bench.table((BUFFER, 512))
    bench.extended(Command.DATA_SET_MANAGEMENT, 0, 1)
    bench.write(FEATURES, 1)
    bench.extended(Command.DATA_SET_MANAGEMENT, 0, 1)
    bench.start(to_memory=False)
    assert not bench.status() & StatusBit.ERR
    assert bench.image.discarded == [(100 * 512, 8 * 512), (200 * 512, 512)]


def test_readonly_disk_refuses_writes() -> None:
    bench = Bench(readonly=True)
    bench.command(Command.WRITE_SECTORS, 0, 1)
    assert bench.status() & StatusBit.ERR
    bench.close()


def test_signatures_after_reset_and_diagnostic(bench: Bench) -> None:
    for reset in ("control", "diagnostic"):
        if reset == "control":
            bench.write(CONTROL, 0x04)
            bench.write(CONTROL, 0x00)
        else:
            bench.write(COMMAND, Command.EXECUTE_DIAGNOSTIC)
        found = []
        for device in (0, PACKET_SLOT):
            bench.write(DEVICE, device)
            found.append(tuple(bench.read(port) for port in (ERROR, COUNT, LOW, MID, HIGH)))
        assert found == [(1, 1, 1, 0, 0), (1, 1, 1, 0x14, 0xEB)]


def test_channel_without_drives_reads_zero(bench: Bench) -> None:
    assert [bench.read(SECOND + offset) for offset in range(1, 8)] == [0] * 7
    bench.write(SECOND + 7, Command.IDENTIFY_DEVICE)
    bench.write(SECOND, 0x1234, 2)
    assert bench.read(SECOND, 2) == 0


def test_interrupts_can_be_disabled(bench: Bench) -> None:
    bench.write(CONTROL, 0x02)
    bench.command(Command.IDENTIFY_DEVICE)
    assert not bench.lines[0].level
    bench.write(CONTROL, 0x00)
    assert bench.lines[0].level
    assert bench.read(CONTROL) & StatusBit.DRQ
    assert bench.lines[0].level


def test_previous_contents_of_registers(bench: Bench) -> None:
    bench.write(DEVICE, 0x40)
    bench.write(LOW, 0x12)
    bench.write(LOW, 0x34)
    assert bench.read(LOW) == 0x34
    bench.write(CONTROL, 0x80)
    assert bench.read(LOW) == 0x12


# -- errors of the host ------------------------------------------------------------------------------------------------


def test_host_error_is_an_uncorrectable_one(bench: Bench) -> None:
    bench.image.broken = 5
    bench.command(Command.READ_SECTORS, 0, 1)
    assert bench.status() & StatusBit.ERR
    assert bench.read(ERROR) == ErrorBit.UNC
    assert [failure.action for failure in bench.failures] == [ErrorPolicy.REPORT]
    bench.table((BUFFER, 512))
    bench.command(Command.READ_DMA, 0, 1)
    bench.start(to_memory=True)
    assert bench.read(MASTER + 2) & 3 == 2


def test_full_host_stops_and_goes_on() -> None:
    bench = Bench(write_errors="enospc")
    bench.image.broken = 28
    bench.memory.write(BUFFER, b"x" * 512)
    bench.table((BUFFER, 512))
    bench.command(Command.WRITE_DMA, 1, 1)
    bench.start(to_memory=False)
    assert [failure.action for failure in bench.failures] == [ErrorPolicy.STOP]
    assert bench.read(STATUS) & StatusBit.BSY
    with pytest.raises(StateError, match="waits for space"):
        bench.controller.parts.save()
    bench.image.broken = 0
    bench.controller.resume()
    assert not bench.status() & (StatusBit.ERR | StatusBit.BSY)
    assert bench.image.data[512:1024] == b"x" * 512
    bench.close()


# -- packets -----------------------------------------------------------------------------------------------------------


def read_10(lba: int, blocks: int) -> bytes:
    return struct.pack(">BxIxH", ScsiCommand.READ_10, lba, blocks)


def test_packet_device_is_identified_its_way(bench: Bench) -> None:
    bench.command(Command.IDENTIFY_DEVICE, device=PACKET_SLOT)
    assert bench.status() & StatusBit.ERR
    assert (bench.read(MID), bench.read(HIGH)) == (0x14, 0xEB)
    bench.command(Command.IDENTIFY_PACKET_DEVICE, device=PACKET_SLOT)
    assert bench.status() & StatusBit.DRQ
    (first,) = struct.unpack_from("<H", bench.data_in(512))
    assert first == 0x85C0


@pytest.mark.parametrize("limit", [0xFFFE, 2048, 3000, 3, 0])
def test_blocks_come_in_pieces_of_the_limit(limit: int, bench: Bench) -> None:
    blocks = 1 if limit == 3 else 5
    bench.packet(read_10(3, blocks), limit=limit)
    assert bench.packet_data() == bench.disc.data[3 * 2048 : (3 + blocks) * 2048]
    assert bench.read(COUNT) == 3
    assert not bench.status() & StatusBit.ERR


def test_blocks_come_by_dma(bench: Bench) -> None:
    bench.table((BUFFER, 4096), (BUFFER + 0x4000, 4096))
    bench.packet(read_10(10, 4), dma=True)
    bench.start(to_memory=True)
    assert bench.lines[0].level
    assert bench.memory.read(BUFFER, 4096) == bench.disc.data[10 * 2048 : 12 * 2048]
    assert bench.memory.read(BUFFER + 0x4000, 4096) == bench.disc.data[12 * 2048 : 14 * 2048]
    bench.table((BUFFER, 36))
    bench.packet(bytes((ScsiCommand.INQUIRY, 0, 0, 0, 36)), dma=True)
    bench.start(to_memory=True)
    assert bench.memory.read(BUFFER + 8, 6) == b"PYHYVE"


def test_sense_tells_what_was_wrong_once(bench: Bench) -> None:
    bench.packet(read_10(1 << 20, 1))
    assert bench.status() & StatusBit.ERR
    assert bench.read(ERROR) >> 4 == 5
    for code in (0x21, 0x00):
        bench.packet(bytes((ScsiCommand.REQUEST_SENSE, 0, 0, 0, 18)))
        assert bench.packet_data()[12] == code


def test_unreadable_disc_is_a_medium_error(bench: Bench) -> None:
    bench.disc.broken = 5
    bench.packet(read_10(0, 1))
    assert bench.status() & StatusBit.ERR
    assert bench.read(ERROR) >> 4 == 3


def test_device_reset_ends_a_transfer(bench: Bench) -> None:
    bench.packet(read_10(0, 2))
    bench.settle()
    bench.write(COMMAND, Command.DEVICE_RESET)
    assert bench.read(STATUS) == 0
    assert (bench.read(MID), bench.read(HIGH)) == (0x14, 0xEB)


# -- state -------------------------------------------------------------------------------------------------------------


def copied(bench: Bench, *, slow: bool = False) -> Bench:
    """Another machine with the same drives, in the same state."""
    other = Bench(slow=slow)
    bench.controller.suspend()
    other.memory.write(0, bench.memory.read(0, 1 << 20))
    pairs = zip(bench.controller.saveables(), other.controller.saveables(), strict=True)
    for (name, part), (_, target) in pairs:
        plain = to_json(part.save())
        target.load(from_json(target.state_type, plain, f"ide{name}"))
    return other


def test_transfers_go_on_in_a_restored_machine(bench: Bench) -> None:
    bench.command(Command.READ_SECTORS, 5, 2)
    bench.settle()
    data = bench.data_in(100)
    other = copied(bench)
    data += other.data_in(412)
    assert other.status() & StatusBit.DRQ
    assert data + other.data_in(512) == bench.image.data[5 * 512 : 7 * 512]
    other.packet(read_10(1, 2), limit=2048)
    other.settle()
    first = other.data_in(1000)
    third = copied(other)
    assert first + third.data_in(1048) + third.packet_data() == bench.disc.data[2048 : 3 * 2048]
    third.table((BUFFER, 512))
    third.command(Command.READ_DMA, 2, 1)
    last = copied(third)
    last.start(to_memory=True)
    assert last.memory.read(BUFFER, 512) == bench.image.data[1024:1536]
    for made in (other, third, last):
        made.close()


def test_state_of_other_drives_is_refused(bench: Bench) -> None:
    state = bench.controller.parts.save()
    other = Bench()
    other.image.data = bytearray(512 * 8)
    other.disk.resize()
    with pytest.raises(StateError, match="the disk had"):
        other.controller.parts.load(state)
    other.controller.channels[0].drives[0] = None
    with pytest.raises(StateError, match="other drives"):
        other.controller.parts.load(state)
    other.close()


# -- hostile drivers ---------------------------------------------------------------------------------------------------

ACCESSES = st.tuples(
    st.sampled_from([*range(BASE, BASE + 8), CONTROL, *range(MASTER, MASTER + 8), SECOND, SECOND + 7]),
    st.sampled_from([1, 2, 4]),
    st.one_of(st.none(), st.integers(0, 0xFFFF_FFFF), st.sampled_from([int(command) for command in Command])),
)


@given(st.lists(ACCESSES, max_size=60))
def test_any_accesses_end_in_a_state_that_can_be_saved(accesses: list[tuple[int, int, int | None]]) -> None:
    bench = Bench()
    for port, size, value in accesses:
        if value is None:
            bench.read(port, size)
        else:
            bench.write(port, value & (1 << 8 * size) - 1, size)
    bench.settle()
    if all(drive.phase != 1 for drive in (bench.disk, bench.cdrom)):
        copied(bench).close()
    bench.close()
