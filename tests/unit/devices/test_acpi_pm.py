"""ACPI fixed hardware, i8042 and the small ports."""

from __future__ import annotations

import pytest

from pyhyve.devices.chipset.acpi_pm import AcpiPm, GpeBlock, SharedLine, SmiCommandPort
from pyhyve.devices.chipset.i8042 import I8042, SystemControlPortA
from pyhyve.devices.chipset.ports import DebugConsole
from tests.unit.devices.fakes import FakeLine, FakeTime

NS = 1_000_000_000


class Pm:
    def __init__(self) -> None:
        self.time = FakeTime()
        self.line = FakeLine()
        self.offs = 0
        self.chip = AcpiPm(self.time, self.time, self.line, self._off)

    def _off(self) -> None:
        self.offs += 1


@pytest.fixture
def pm() -> Pm:
    return Pm()


def test_timer_runs_at_3_579545_mhz_in_24_bits(pm: Pm) -> None:
    pm.time.advance(NS)
    assert pm.chip.read(8, 4) == 3_579_545
    pm.time.advance(4 * NS)
    assert pm.chip.read(8, 4) == 5 * 3_579_545 & 0xFFFFFF


def test_s5_powers_off_and_other_types_do_not(pm: Pm) -> None:
    pm.chip.write(4, 2, 0x2000 | 3 << 10)
    assert pm.offs == 0
    pm.chip.write(4, 2, 0x2000 | 5 << 10)
    assert pm.offs == 1
    assert pm.chip.read(4, 2) & 1, "SCI_EN survives"


def test_s5_in_two_byte_writes(pm: Pm) -> None:
    pm.chip.write(4, 1, 1)
    pm.chip.write(5, 1, 0x20 | 5 << 2)
    assert pm.offs == 1


def test_power_button_raises_sci_until_cleared(pm: Pm) -> None:
    pm.chip.press_power_button()
    assert not pm.line.level
    pm.chip.write(2, 2, 0x100)
    assert pm.line.level
    assert pm.chip.read(0, 2) == 0x100
    pm.chip.write(0, 2, 0x100)
    assert not pm.line.level
    assert pm.chip.read(0, 4) == 0x100 << 16


def test_timer_carry_interrupt(pm: Pm) -> None:
    pm.chip.write(2, 2, 1)
    pm.time.advance(3 * NS)
    assert pm.line.level
    pm.chip.write(0, 2, 1)
    assert not pm.line.level


def test_smi_command_switches_acpi_mode(pm: Pm) -> None:
    port = SmiCommandPort(pm.chip)
    port.write(0, 1, 0xF0)
    assert pm.chip.read(4, 2) & 1 == 0
    port.write(0, 1, 0xF1)
    assert pm.chip.read(4, 2) & 1
    assert port.read(0, 1) == 0xF1


def test_gpe_enable_bits_read_back() -> None:
    gpe = GpeBlock(FakeLine())
    gpe.write(3, 1, 0x5A)
    assert [gpe.read(i, 1) for i in range(4)] == [0, 0, 0, 0x5A]
    gpe.reset()
    assert gpe.read(3, 1) == 0


def test_gpe_raises_the_interrupt_until_the_guest_clears_it() -> None:
    line = FakeLine()
    gpe = GpeBlock(line)
    gpe.raise_event(1)
    assert not line.level
    gpe.write(2, 1, 2)
    assert line.level
    assert gpe.read(0, 1) == 2
    gpe.write(0, 1, 2)
    assert not line.level


def test_shared_line_is_high_while_any_source_is() -> None:
    line = FakeLine()
    shared = SharedLine(line)
    first, second = shared.source(), shared.source()
    first.set(level=True)
    second.set(level=True)
    first.set(level=False)
    assert line.level
    second.set(level=False)
    assert not line.level


def test_i8042_self_test_and_command_byte() -> None:
    controller = I8042(lambda: None)
    controller.control.write(0, 1, 0xAA)
    assert controller.control.read(0, 1) & 5 == 5
    assert controller.data.read(0, 1) == 0x55
    controller.control.write(0, 1, 0x60)
    controller.data.write(0, 1, 0x47)
    controller.control.write(0, 1, 0x20)
    assert controller.data.read(0, 1) == 0x47
    assert controller.control.read(0, 1) & 1 == 0


def test_i8042_without_keyboard_asks_to_resend() -> None:
    controller = I8042(lambda: None)
    controller.data.write(0, 1, 0xFF)
    assert controller.control.read(0, 1) & 0x41 == 0x41
    assert controller.data.read(0, 1) == 0xFE


def test_i8042_aux_loopback_is_marked() -> None:
    controller = I8042(lambda: None)
    controller.control.write(0, 1, 0xD3)
    controller.data.write(0, 1, 0x5A)
    assert controller.control.read(0, 1) & 0x20
    assert controller.data.read(0, 1) == 0x5A


def test_i8042_queue_is_bounded() -> None:
    controller = I8042(lambda: None)
    for _ in range(1000):
        controller.control.write(0, 1, 0xAA)
    count = 0
    while controller.control.read(0, 1) & 1:
        controller.data.read(0, 1)
        count += 1
    assert count <= 16


def test_reset_pulses() -> None:
    resets: list[str] = []
    controller = I8042(lambda: resets.append("i8042"))
    controller.control.write(0, 1, 0xFE)
    controller.control.write(0, 1, 0xFF)
    port_a = SystemControlPortA(lambda: resets.append("0x92"))
    port_a.write(0, 1, 2)
    port_a.write(0, 1, 3)
    port_a.write(0, 1, 3)
    assert resets == ["i8042", "0x92"]
    assert port_a.read(0, 1) == 3


def test_debug_console_passes_lines() -> None:
    lines: list[str] = []
    console = DebugConsole(lines.append)
    for byte in b"one\ntwo":
        console.write(0, 1, byte)
    assert console.read(0, 1) == 0xE9
    assert lines == ["one"]
    for _ in range(5000):
        console.write(0, 1, 0x78)
    assert max(len(line) for line in lines) <= 1024
