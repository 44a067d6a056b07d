"""I/O APIC, local APIC and the whole interrupt chip."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from pyhyve.devices.irq.chip import ApicInterruptChip
from pyhyve.devices.irq.message import message_from_msi
from pyhyve.devices.irq.vectors import PlainVectors
from tests.unit.devices.fakes import FakeTime

if TYPE_CHECKING:
    from pyhyve.accel.routes import MessageRoute

ID, VERSION, TPR, PPR, EOI, LDR, DFR, SVR = 0x20, 0x30, 0x80, 0xA0, 0xB0, 0xD0, 0xE0, 0xF0
ISR, TMR, IRR, ESR, ICR, ICR_HIGH = 0x100, 0x180, 0x200, 0x280, 0x300, 0x310
LVT_TIMER, LINT0, INITIAL, CURRENT, DIVIDE = 0x320, 0x350, 0x380, 0x390, 0x3E0
MS = 1_000_000


class Pins:
    def __init__(self) -> None:
        self.intr = False
        self.nmis = 0
        self.inits = 0
        self.startups: list[int] = []

    def set_interrupt(self, *, pending: bool) -> None:
        self.intr = pending

    def raise_nmi(self) -> None:
        self.nmis += 1

    def init(self) -> None:
        self.inits += 1

    def startup(self, vector: int) -> None:
        self.startups.append(vector)


class Tsc:
    tsc_hz = 2_000_000_000

    def __init__(self, time: FakeTime) -> None:
        self._time = time

    def read_tsc(self, index: int) -> int:
        del index
        return 2 * self._time.now_ns()


class Chip:
    def __init__(self, cpus: int = 2) -> None:
        self.time = FakeTime()
        self.chip = ApicInterruptChip(threading.RLock(), self.time, self.time, Tsc(self.time), cpus)
        self.pins = [Pins() for _ in range(cpus)]
        self.pages = [self.chip.page_of(i) for i in range(cpus)]
        for i, pins in enumerate(self.pins):
            self.chip.connect(i, pins)
            self.write(SVR, 0x1FF, i)

    def read(self, offset: int, cpu: int = 0) -> int:
        return self.pages[cpu].read(offset, 4)

    def write(self, offset: int, value: int, cpu: int = 0) -> None:
        self.pages[cpu].write(offset, 4, value)

    def redirect(self, pin: int, low: int, high: int = 0) -> None:
        for half, value in enumerate((low, high)):
            self.chip.ioapic.write(0, 4, 0x10 + 2 * pin + half)
            self.chip.ioapic.write(0x10, 4, value)

    def entry(self, pin: int) -> int:
        self.chip.ioapic.write(0, 4, 0x10 + 2 * pin)
        return self.chip.ioapic.read(0x10, 4)

    def pulse(self, gsi: int) -> None:
        self.chip.set_gsi(gsi, level=True)
        self.chip.set_gsi(gsi, level=False)


@pytest.fixture
def apic() -> Chip:
    return Chip()


def test_identification(apic: Chip) -> None:
    assert apic.read(VERSION) == 0x50014
    assert apic.read(ID, 1) == 1 << 24
    apic.chip.ioapic.write(0, 4, 1)
    assert apic.chip.ioapic.read(0x10, 4) == 0x170020


def test_edge_interrupt_is_delivered_and_acknowledged(apic: Chip) -> None:
    apic.redirect(4, 0x34)
    apic.pulse(4)
    assert apic.pins[0].intr
    assert apic.read(IRR + 0x10) == 1 << 0x14
    assert apic.chip.acknowledge(0) == 0x34
    assert not apic.pins[0].intr
    assert apic.read(ISR + 0x10) == 1 << 0x14
    assert apic.read(PPR) == 0x30
    apic.write(EOI, 0)
    assert apic.read(ISR + 0x10) == 0


def test_masked_edge_is_lost(apic: Chip) -> None:
    apic.redirect(4, 0x1_0034)
    apic.pulse(4)
    apic.redirect(4, 0x34)
    assert not apic.pins[0].intr


def test_level_interrupt_repeats_until_the_line_falls(apic: Chip) -> None:
    apic.redirect(10, 0x803A)
    apic.chip.set_gsi(10, level=True)
    for _ in range(2):
        assert apic.chip.acknowledge(0) == 0x3A
        assert apic.entry(10) & 1 << 14
        assert not apic.pins[0].intr
        apic.write(EOI, 0)
    assert apic.pins[0].intr
    apic.chip.set_gsi(10, level=False)
    assert apic.chip.acknowledge(0) == 0x3A
    apic.write(EOI, 0)
    assert apic.chip.acknowledge(0) is None
    assert not apic.entry(10) & 1 << 14


def test_level_interrupt_waits_while_masked(apic: Chip) -> None:
    apic.redirect(10, 0x1_803A)
    apic.chip.set_gsi(10, level=True)
    assert not apic.pins[0].intr
    apic.redirect(10, 0x803A)
    assert apic.pins[0].intr


def test_ioapic_eoi_register(apic: Chip) -> None:
    apic.redirect(10, 0x803A)
    apic.chip.set_gsi(10, level=True)
    apic.chip.set_gsi(10, level=False)
    apic.chip.ioapic.write(0x40, 4, 0x3A)
    assert not apic.entry(10) & 1 << 14


def test_priorities(apic: Chip) -> None:
    apic.redirect(4, 0x45)
    apic.redirect(5, 0x61)
    apic.pulse(4)
    assert apic.chip.acknowledge(0) == 0x45
    apic.pulse(5)
    assert apic.chip.acknowledge(0) == 0x61
    apic.pulse(4)
    assert not apic.pins[0].intr
    apic.write(EOI, 0)
    assert not apic.pins[0].intr, "0x45 is still in service: same class"
    apic.write(EOI, 0)
    assert apic.chip.acknowledge(0) == 0x45


def test_task_priority_holds_back(apic: Chip) -> None:
    apic.write(TPR, 0x50)
    apic.redirect(4, 0x45)
    apic.pulse(4)
    assert not apic.pins[0].intr
    apic.write(TPR, 0)
    assert apic.pins[0].intr


def test_logical_destination_reaches_both(apic: Chip) -> None:
    for cpu in range(2):
        apic.write(LDR, 1 << (24 + cpu), cpu)
    apic.redirect(4, 0x800 | 0x45, 3 << 24)
    apic.pulse(4)
    assert apic.pins[0].intr
    assert apic.pins[1].intr


def test_lowest_priority_picks_one(apic: Chip) -> None:
    for cpu in range(2):
        apic.write(LDR, 1 << (24 + cpu), cpu)
    apic.write(TPR, 0x20)
    apic.redirect(4, 0x900 | 0x45, 3 << 24)
    apic.pulse(4)
    assert (apic.pins[0].intr, apic.pins[1].intr) == (False, True)


def test_cluster_model(apic: Chip) -> None:
    for cpu in range(2):
        apic.write(DFR, 0x0FFFFFFF, cpu)
        apic.write(LDR, (0x10 | 1 << cpu) << 24, cpu)
    apic.redirect(4, 0x800 | 0x45, 0x12 << 24)
    apic.pulse(4)
    assert (apic.pins[0].intr, apic.pins[1].intr) == (False, True)


def test_msi_is_delivered(apic: Chip) -> None:
    apic.chip.send_msi(0xFEE01000, 0x4055)
    assert apic.chip.acknowledge(1) == 0x55
    assert message_from_msi(0xC0000000, 0x55) is None


def test_interprocessor_interrupts(apic: Chip) -> None:
    apic.write(ICR_HIGH, 1 << 24)
    apic.write(ICR, 0x40FD)
    assert apic.chip.acknowledge(1) == 0xFD
    apic.write(ICR, 0x4_40F0)
    assert apic.chip.acknowledge(0) == 0xF0
    apic.write(ICR, 0xC_4400)
    assert (apic.pins[0].nmis, apic.pins[1].nmis) == (0, 1)
    apic.write(ICR, 0x4500)
    apic.write(ICR, 0x8500)
    apic.write(ICR, 0x4609)
    assert (apic.pins[1].inits, apic.pins[1].startups) == (1, [9])
    assert apic.read(ICR) & 1 << 12 == 0


def test_illegal_vector_is_an_error(apic: Chip) -> None:
    apic.write(0x370, 0xFE)
    apic.write(ICR, 0x4_4005)
    apic.write(ESR, 0)
    assert apic.read(ESR) == 0x20
    apic.write(ESR, 0)
    assert apic.read(ESR) == 0


def test_one_shot_timer(apic: Chip) -> None:
    apic.write(LVT_TIMER, 0xEC)
    apic.write(DIVIDE, 0b0011)
    apic.write(INITIAL, 1000)
    apic.time.advance(8_000)
    assert apic.read(CURRENT) == 500
    apic.time.advance(8_000)
    assert apic.read(CURRENT) == 0
    assert apic.chip.acknowledge(0) == 0xEC
    apic.write(EOI, 0)
    apic.time.advance(MS)
    assert not apic.pins[0].intr


def test_periodic_timer(apic: Chip) -> None:
    apic.write(LVT_TIMER, 0x2_00EC)
    apic.write(DIVIDE, 0b1011)
    apic.write(INITIAL, 1_000_000)
    count = 0
    for _ in range(100):
        apic.time.advance(MS // 10)
        if apic.pins[0].intr:
            count += 1
            assert apic.chip.acknowledge(0) == 0xEC
            apic.write(EOI, 0)
    assert count == 10


def test_tsc_deadline_timer(apic: Chip) -> None:
    apic.write(LVT_TIMER, 0x4_00EC)
    assert apic.chip.write_msr(0, 0x6E0, 2 * MS)
    assert apic.chip.read_msr(0, 0x6E0) == 2 * MS
    apic.time.advance(MS - 1)
    assert not apic.pins[0].intr
    apic.time.advance(1)
    assert apic.pins[0].intr
    assert apic.chip.read_msr(0, 0x6E0) == 0
    apic.chip.write_msr(0, 0x6E0, 10 * MS)
    apic.chip.write_msr(0, 0x6E0, 0)
    assert apic.chip.acknowledge(0) == 0xEC
    apic.write(EOI, 0)
    apic.time.advance(100 * MS)
    assert not apic.pins[0].intr


def test_masked_timer_is_silent(apic: Chip) -> None:
    apic.write(LVT_TIMER, 0x1_00EC)
    apic.write(INITIAL, 1000)
    apic.time.advance(MS)
    assert not apic.pins[0].intr


def test_i8259_passes_through_virtual_wire_until_masked() -> None:
    apic = Chip()
    pic = apic.chip.pic.ports(0)
    for offset, value in ((0, 0x11), (1, 0x20), (1, 4), (1, 1), (1, 0)):
        pic.write(offset, 1, value)
    apic.redirect(0, 0x1_0000)
    apic.write(LINT0, 0x700)
    apic.chip.set_gsi(0, level=True)
    assert apic.pins[0].intr
    assert not apic.pins[1].intr
    apic.write(LINT0, 0x1_0700)
    assert not apic.pins[0].intr
    apic.write(LINT0, 0x700)
    assert apic.chip.acknowledge(0) == 0x20


def test_reset_state_lets_the_i8259_through() -> None:
    apic = Chip()
    apic.chip.reset()
    assert apic.read(LINT0) == 0x700
    assert apic.read(LINT0, 1) == 0x10000
    assert apic.read(SVR) == 0xFF


def test_software_disabled_apic_masks_and_takes_nothing(apic: Chip) -> None:
    apic.write(LVT_TIMER, 0xEC)
    apic.write(SVR, 0xFF)
    assert apic.read(LVT_TIMER) == 0x1_00EC
    apic.write(LVT_TIMER, 0xEC)
    assert apic.read(LVT_TIMER) == 0x1_00EC
    apic.chip.send_msi(0xFEE00000, 0x55)
    assert apic.chip.acknowledge(0) is None


def test_x2apic_registers_are_msrs(apic: Chip) -> None:
    chip = apic.chip
    assert chip.read_msr(0, 0x802) is None
    assert not chip.write_msr(0, 0x1B, 0xFEE00000 | 1 << 10)
    assert chip.write_msr(1, 0x1B, 0xFEE00000 | 3 << 10)
    assert chip.read_msr(1, 0x802) == 1
    assert chip.read_msr(1, 0x80D) == 2
    assert chip.write_msr(1, 0x80F, 0x1FF)
    assert chip.write_msr(1, 0x83F, 0x77)
    assert chip.acknowledge(1) == 0x77
    assert chip.write_msr(1, 0x80B, 0)
    assert not chip.write_msr(1, 0x80B, 1)
    assert chip.write_msr(1, 0x830, 0 << 32 | 0x40F1)
    assert chip.acknowledge(0) == 0xF1
    assert not chip.write_msr(1, 0x802, 5)
    assert not chip.write_msr(1, 0x1B, 0xFEE00000 | 1 << 11), "xAPIC only after being disabled"


def test_spurious_when_the_request_went_away(apic: Chip) -> None:
    assert apic.chip.acknowledge(0) is None


def test_gsi_out_of_range_is_ignored(apic: Chip) -> None:
    apic.chip.set_gsi(24, level=True)
    apic.chip.set_gsi(5000, level=True)
    assert not apic.pins[0].intr


def test_messages_follow_a_processor_that_keeps_its_own_vectors() -> None:
    chip = Chip()
    looked = [0, 0]

    def look(index: int) -> None:
        looked[index] += 1

    kept = [PlainVectors(), PlainVectors()]
    for index, vectors in enumerate(kept):
        chip.chip.keep_vectors(index, vectors, lambda index=index: look(index))  # type: ignore[misc]  # its own number
    assert all(vectors.enabled for vectors in kept)
    for _ in range(3):  # the first finds the way, the others know it
        kept[1].irr = 0
        chip.chip.send_msi(0xFEE0_1000, 0x41)
        assert (kept[0].irr, kept[1].irr) == (0, 1 << 0x41)
    assert looked == [0, 3]
    assert not chip.pins[1].intr, "the pin is for the other chips"

    kept[1].irr = 0
    chip.write(SVR, 0xFF, 1)
    chip.chip.send_msi(0xFEE0_1000, 0x41)
    assert kept[1].irr == 0, "a disabled one takes nothing"
    chip.write(SVR, 0x1FF, 1)
    chip.write(ID, 5 << 24, 1)
    chip.chip.send_msi(0xFEE0_1000, 0x41)
    assert kept[1].irr == 0, "it answers to another number now"
    chip.chip.send_msi(0xFEE0_5000, 0x41)
    assert kept[1].irr == 1 << 0x41

    kept[1].irr = 0
    chip.chip.send_msi(0xFEE0_5000, 0x41 | 0xC000)  # level-triggered
    chip.chip.send_msi(0xFEE0_5000, 0x41 | 0xC000)
    assert kept[1].tmr == 1 << 0x41
    assert chip.chip.has_interrupt(1)
    assert not chip.chip.has_interrupt(0)


def test_way_of_a_message_holds_until_something_changes() -> None:
    chip = Chip()
    for index in range(2):
        chip.chip.keep_vectors(index, PlainVectors(), lambda: None)
    ended: list[str] = []

    def learn() -> MessageRoute:
        route = chip.chip.route(0xFEE0_1000, 0x41)
        assert route is not None
        chip.chip.send_msi(0xFEE0_1000, 0x41)
        assert chip.chip.route(0xFEE0_1000, 0x41) is route
        assert (route.vector, route.vectors) == (0x41, chip.chip.lapics[1].vectors)
        assert route.while_valid(lambda: ended.append("changed"))
        return route

    for change in (
        lambda: chip.write(ID, 1 << 24, 1),
        lambda: chip.write(SVR, 0x1FF, 0),
        lambda: chip.chip.write_msr(0, 0x1B, 0xFEE0_0900),
        chip.chip.routes_changed,
        lambda: chip.chip.load(chip.chip.save()),
    ):
        route = learn()
        change()
        assert ended.pop() == "changed"
        assert not ended
        assert not route.while_valid(lambda: None)
    chip.chip.reset()
    chip.write(SVR, 0x1FF, 1)
    learn()
    chip.chip.initialised(1)
    assert ended == ["changed"]


def test_ways_of_messages_for_several_processors_are_not_kept() -> None:
    chip = Chip()
    for index in range(2):
        chip.chip.keep_vectors(index, PlainVectors(), lambda: None)
    for address, data in ((0xFEEF_F000, 0x41), (0xFEE0_1000, 0xC041), (0xFEE0_1000, 0x400), (0xFEE0_7000, 0x41)):
        chip.chip.send_msi(address, data)
        assert chip.chip.route(address, data) is None


def test_table_of_ways_is_bounded() -> None:
    chip = Chip()
    for index in range(2):
        chip.chip.keep_vectors(index, PlainVectors(), lambda: None)
    messages = [
        (0xFEE0_0000 | cpu << 12, vector | mode) for mode in (0, 0x100) for cpu in (0, 1) for vector in range(16, 100)
    ]
    ended = 0

    def end() -> None:
        nonlocal ended
        ended += 1

    for address, data in messages:
        chip.chip.send_msi(address, data)
        route = chip.chip.route(address, data)
        assert route is None or route.while_valid(end)
        assert len(chip.chip._routes) <= 256
    assert ended == 256
    for count in range(500):
        if len(chip.chip._routes) < 256:
            chip.chip.send_msi(0xFEE0_0000 | count % 2 << 12, 100 + count // 2)
        chip.chip.send_msi(0xFEEF_F000, 0x41)  # for all of them: it has no way that could be kept
    assert (ended, len(chip.chip._routes)) == (256, 256)
    for lapic in chip.chip.lapics:
        lapic.vectors.irr &= (1 << 100) - 1
    assert chip.chip.lapics[0].vectors.irr == chip.chip.lapics[1].vectors.irr == (1 << 100) - (1 << 16)
