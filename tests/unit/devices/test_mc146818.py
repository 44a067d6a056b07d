"""Real-time clock and CMOS."""

from __future__ import annotations

import pytest

from pyhyve.devices.chipset.mc146818 import Mc146818, cmos_memory_bytes
from tests.unit.devices.fakes import FakeLine, FakeTime

NS = 1_000_000_000
START = 1_700_000_000 * NS  # 2023-11-14 22:13:20 UTC, a Tuesday


class Rtc:
    def __init__(self, offset_ns: int = 0) -> None:
        self.time = FakeTime(START)
        self.line = FakeLine()
        self.chip = Mc146818(self.time, self.time, self.line, {0x5F: 3}, offset_ns)

    def __getitem__(self, register: int) -> int:
        self.chip.write(0, 1, register)
        return self.chip.read(1, 1)

    def __setitem__(self, register: int, value: int) -> None:
        self.chip.write(0, 1, register)
        self.chip.write(1, 1, value)


@pytest.fixture
def rtc() -> Rtc:
    return Rtc()


def test_time_reads_in_bcd(rtc: Rtc) -> None:
    assert [rtc[r] for r in (0, 2, 4, 6, 7, 8, 9, 0x32)] == [0x20, 0x13, 0x22, 3, 0x14, 0x11, 0x23, 0x20]


def test_time_starts_elsewhere() -> None:
    rtc = Rtc(offset_ns=-3600 * NS)
    assert [rtc[r] for r in (0, 2, 4)] == [0x20, 0x13, 0x21]


def test_boot_order_changes(rtc: Rtc) -> None:
    rtc.chip.set_boot_order("dcn")
    assert (rtc[0x3D], rtc[0x38]) == (0x23, 0x41)


def test_binary_and_twelve_hour_modes(rtc: Rtc) -> None:
    rtc[0x0B] = 0x04
    assert (rtc[0], rtc[4]) == (20, 0x80 | 10)


def test_setting_the_time_keeps_it_running(rtc: Rtc) -> None:
    rtc[0x0B] = 0x82
    for register, value in ((9, 0x30), (8, 0x06), (7, 0x15), (4, 0x12), (2, 0x34), (0, 0x56)):
        rtc[register] = value
    rtc.time.advance(5 * NS)
    assert rtc[0] == 0x56, "stopped while SET"
    rtc[0x0B] = 0x02
    rtc.time.advance(4 * NS)
    assert [rtc[r] for r in (9, 8, 7, 4, 2, 0)] == [0x30, 0x06, 0x15, 0x12, 0x35, 0x00]


def test_nonsense_time_is_ignored(rtc: Rtc) -> None:
    rtc[8] = 0x99
    rtc[7] = 0
    assert (rtc[8], rtc[7]) == (0x11, 0x14)


def test_update_in_progress_rises_before_the_second(rtc: Rtc) -> None:
    assert rtc[0x0A] & 0x80 == 0
    rtc.time.advance(NS - 100_000)
    assert rtc[0x0A] & 0x80


def test_update_interrupt_each_second(rtc: Rtc) -> None:
    rtc[0x0B] = 0x12
    rtc.time.advance(NS)
    assert rtc.line.level
    assert rtc[0x0C] == 0x90
    assert not rtc.line.level
    assert rtc[0x0C] == 0


def test_alarm_fires_at_its_second(rtc: Rtc) -> None:
    rtc[1], rtc[3], rtc[5] = 0x25, 0x13, 0x22
    rtc[0x0B] = 0x22
    rtc.time.advance(4 * NS)
    assert not rtc.line.level
    rtc.time.advance(NS)
    assert rtc.line.level
    assert rtc[0x0C] & 0xA0 == 0xA0


def test_periodic_interrupt_rate(rtc: Rtc) -> None:
    rtc[0x0A] = 0x26  # 1024 Hz
    rtc[0x0B] = 0x42
    count = 0
    for _ in range(2000):
        rtc.time.advance(500_000)
        if rtc.line.level:
            count += 1
            assert rtc[0x0C] & 0xC0 == 0xC0
    assert 1022 <= count <= 1025


def test_memory_keeps_bytes_across_reset(rtc: Rtc) -> None:
    rtc[0x40] = 0x77
    rtc.chip.reset()
    assert rtc[0x40] == 0x77
    assert rtc[0x5F] == 3
    assert rtc[0x0D] == 0x80


def test_memory_size_bytes_for_firmware() -> None:
    contents = cmos_memory_bytes(0xC0000000, 0x1_0000_0000, 2, "dc")
    assert contents[0x34] | contents[0x35] << 8 == (0xC0000000 - (16 << 20)) >> 16
    assert contents[0x5B] | contents[0x5C] << 8 | contents[0x5D] << 16 == 0x10000
    assert contents[0x3D] == 0x23
    assert contents[0x5F] == 1
