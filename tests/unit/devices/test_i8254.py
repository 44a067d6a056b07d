"""i8254 and port 0x61: Linux's calibration loops, clock events and BIOS uses."""

from __future__ import annotations

import pytest

from pyhyve.devices.chipset.i8254 import FREQUENCY_HZ, I8254, SystemControlPort
from tests.unit.devices.fakes import FakeLine, FakeTime

NS = 1_000_000_000


class Pit:
    def __init__(self) -> None:
        self.time = FakeTime()
        self.line = FakeLine()
        self.chip = I8254(self.time, self.time, self.line)
        self.port61 = SystemControlPort(self.chip, self.time)

    def out(self, offset: int, *values: int) -> None:
        for value in values:
            self.chip.write(offset, 1, value)

    def read16(self, channel: int) -> int:
        return self.chip.read(channel, 1) | self.chip.read(channel, 1) << 8

    def latch(self, channel: int) -> int:
        self.out(3, channel << 6)
        return self.read16(channel)

    def ticks(self, count: int) -> None:
        """Advance to just after so many counts."""
        self.time.advance(-(-count * NS // FREQUENCY_HZ) + 1)


@pytest.fixture
def pit() -> Pit:
    return Pit()


def test_periodic_interrupts_come_at_the_programmed_rate(pit: Pit) -> None:
    pit.out(3, 0x34)
    pit.out(0, 0xA9, 0x04)  # 1193 counts: 1000 Hz
    edges = pit.line.edges
    pit.time.advance(NS)
    assert abs(pit.line.edges - edges - 1000) <= 1


def test_one_shot_fires_once(pit: Pit) -> None:
    pit.out(3, 0x38)
    pit.out(0, 0x00, 0x10)
    edges = pit.line.edges
    pit.time.advance(NS)
    assert pit.line.edges == edges + 1


def test_mode_0_output_rises_at_terminal_count(pit: Pit) -> None:
    pit.out(3, 0x30)
    assert not pit.line.level
    pit.out(0, 100, 0)
    pit.ticks(99)
    assert not pit.line.level
    pit.ticks(2)
    assert pit.line.level


def test_count_goes_down_and_wraps_in_mode_2(pit: Pit) -> None:
    pit.out(3, 0x34)
    pit.out(0, 0, 0)
    assert pit.latch(0) == 0
    pit.ticks(100)
    assert pit.latch(0) in {0x10000 - 100, 0x10000 - 101}
    pit.ticks(0x10000)
    assert 0x10000 - 110 < pit.latch(0) <= 0x10000 - 100


def test_latched_count_stands_still_until_read(pit: Pit) -> None:
    pit.out(3, 0x34)
    pit.out(0, 0, 0)
    pit.ticks(10)
    pit.out(3, 0x00)
    pit.ticks(1000)
    assert pit.read16(0) in {0x10000 - 10, 0x10000 - 11}
    assert pit.latch(0) < 0x10000 - 1000


def test_channel_2_times_a_calibration_loop(pit: Pit) -> None:
    """pit_calibrate_tsc: gate on, mode 0, then wait for OUT in port 0x61."""
    pit.port61.write(0, 1, pit.port61.read(0, 1) & ~2 | 1)
    pit.out(3, 0xB0)
    latch = FREQUENCY_HZ // 100
    pit.out(2, latch & 0xFF, latch >> 8)
    assert pit.port61.read(0, 1) & 0x20 == 0
    pit.time.advance(9_990_000)
    assert pit.port61.read(0, 1) & 0x20 == 0
    pit.time.advance(20_000)
    assert pit.port61.read(0, 1) & 0x20


def test_fast_calibration_sees_the_high_byte_fall(pit: Pit) -> None:
    """quick_pit_calibrate reads channel 2 unlatched, low then high byte."""
    pit.port61.write(0, 1, 1)
    pit.out(3, 0xB0)
    pit.out(2, 0xFF, 0xFF)
    assert pit.read16(2) >> 8 == 0xFF
    pit.ticks(257)
    assert pit.read16(2) >> 8 == 0xFE


def test_gate_low_stops_channel_2(pit: Pit) -> None:
    pit.port61.write(0, 1, 1)
    pit.out(3, 0xB6)
    pit.out(2, 0, 0x10)
    pit.port61.write(0, 1, 0)
    first = pit.latch(2)
    pit.ticks(50)
    assert pit.latch(2) == first


def test_refresh_toggle_moves(pit: Pit) -> None:
    seen = set()
    for _ in range(10):
        pit.time.advance(8_000)
        seen.add(pit.port61.read(0, 1) & 0x10)
    assert seen == {0, 0x10}


def test_read_back_gives_status_then_count(pit: Pit) -> None:
    pit.out(3, 0x36)
    pit.out(3, 0xE2)
    assert pit.chip.read(0, 1) & 0x7F == 0x40 | 0x36, "null count: nothing loaded yet"
    pit.out(0, 0x10, 0x00)
    pit.out(3, 0xC2)
    assert pit.chip.read(0, 1) & 0x40 == 0
    assert pit.read16(0) == 0x10


def test_square_wave_counts_by_two(pit: Pit) -> None:
    pit.out(3, 0x36)
    pit.out(0, 0, 0x10)
    pit.ticks(0x10)
    assert pit.latch(0) in {0x1000 - 0x20, 0x1000 - 0x22}


def test_bcd_counts_in_decimal(pit: Pit) -> None:
    pit.out(3, 0x35)
    pit.out(0, 0x00, 0x10)
    pit.ticks(1)
    assert pit.latch(0) in {0x0999, 0x0998}


@pytest.mark.parametrize("mode", range(8))
def test_every_mode_survives_any_count(pit: Pit, mode: int) -> None:
    for count in (0, 1, 2, 3, 0xFFFF):
        for channel in range(3):
            pit.out(3, channel << 6 | 0x30 | mode << 1)
            pit.out(channel, count & 0xFF, count >> 8)
            pit.time.advance(2_000_000)
            assert 0 <= pit.latch(channel) <= 0xFFFF


def test_shortest_period_cannot_flood(pit: Pit) -> None:
    pit.out(3, 0x34)
    pit.out(0, 2, 0)
    edges = pit.line.edges
    pit.time.advance(NS // 100)
    assert pit.line.edges - edges <= 101
