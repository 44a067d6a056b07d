"""i8259 pair, driven as Linux's and a BIOS's drivers do."""

from __future__ import annotations

import pytest

from pyhyve.devices.chipset.i8259 import ElcrPorts, I8259Pair


class Pic:
    def __init__(self) -> None:
        self.levels: list[bool] = []
        self.pair = I8259Pair(self.levels.append)
        self.master = self.pair.ports(0)
        self.slave = self.pair.ports(1)
        for ports, base, cascade in ((self.master, 0x30, 4), (self.slave, 0x38, 2)):
            ports.write(0, 1, 0x11)
            ports.write(1, 1, base)
            ports.write(1, 1, cascade)
            ports.write(1, 1, 0x01)
            ports.write(1, 1, 0x00)


@pytest.fixture
def pic() -> Pic:
    return Pic()


def test_edge_is_latched_and_acknowledged(pic: Pic) -> None:
    pic.pair.set_irq(4, level=True)
    assert pic.pair.intr
    assert pic.master.read(0, 1) == 0x10
    assert pic.pair.acknowledge() == 0x34
    assert not pic.pair.intr
    pic.master.write(0, 1, 0x0B)
    assert pic.master.read(0, 1) == 0x10
    pic.master.write(0, 1, 0x20)
    assert pic.master.read(0, 1) == 0
    assert not pic.pair.intr, "the line is still high: no new edge"
    pic.pair.set_irq(4, level=False)
    pic.pair.set_irq(4, level=True)
    assert pic.pair.intr


def test_slave_goes_through_the_cascade(pic: Pic) -> None:
    pic.pair.set_irq(10, level=True)
    pic.pair.set_irq(11, level=True)
    assert pic.pair.acknowledge() == 0x3A
    assert not pic.pair.intr
    pic.slave.write(0, 1, 0x62)
    pic.master.write(0, 1, 0x62)
    assert pic.pair.intr
    assert pic.pair.acknowledge() == 0x3B


def test_priority_blocks_lower_and_nests_higher(pic: Pic) -> None:
    pic.pair.set_irq(3, level=True)
    assert pic.pair.acknowledge() == 0x33
    pic.pair.set_irq(5, level=True)
    assert not pic.pair.intr
    pic.pair.set_irq(0, level=True)
    assert pic.pair.acknowledge() == 0x30
    pic.master.write(0, 1, 0x20)
    assert not pic.pair.intr
    pic.master.write(0, 1, 0x20)
    assert pic.pair.acknowledge() == 0x35


def test_mask_holds_back(pic: Pic) -> None:
    pic.master.write(1, 1, 0xFF)
    pic.pair.set_irq(1, level=True)
    assert not pic.pair.intr
    assert pic.master.read(1, 1) == 0xFF
    pic.master.write(1, 1, 0xFD)
    assert pic.pair.intr


def test_level_input_repeats_until_low(pic: Pic) -> None:
    elcr = ElcrPorts(pic.pair)
    elcr.write(1, 1, 0xFF)
    assert elcr.read(1, 1) == 0xDE
    pic.pair.set_irq(9, level=True)
    for _ in range(2):
        assert pic.pair.acknowledge() == 0x39
        pic.slave.write(0, 1, 0x20)
        pic.master.write(0, 1, 0x20)
    pic.pair.set_irq(9, level=False)
    assert not pic.pair.intr


def test_vanished_request_is_spurious(pic: Pic) -> None:
    assert pic.pair.acknowledge() == 0x37
    pic.master.write(0, 1, 0x0B)
    assert pic.master.read(0, 1) == 0, "a spurious interrupt is not in service"


def test_auto_eoi_leaves_nothing_in_service(pic: Pic) -> None:
    pic.master.write(0, 1, 0x11)
    for value in (0x30, 4, 0x03, 0):
        pic.master.write(1, 1, value)
    pic.pair.set_irq(6, level=True)
    assert pic.pair.acknowledge() == 0x36
    pic.pair.set_irq(7, level=True)
    assert pic.pair.intr


def test_poll_reads_and_acknowledges(pic: Pic) -> None:
    pic.pair.set_irq(1, level=True)
    pic.master.write(0, 1, 0x0C)
    assert pic.master.read(0, 1) == 0x81
    assert not pic.pair.intr


def test_rotation_moves_priority(pic: Pic) -> None:
    pic.pair.set_irq(0, level=True)
    assert pic.pair.acknowledge() == 0x30
    pic.master.write(0, 1, 0xA0)
    pic.pair.set_irq(0, level=False)
    pic.pair.set_irq(0, level=True)
    pic.pair.set_irq(1, level=True)
    assert pic.pair.acknowledge() == 0x31
