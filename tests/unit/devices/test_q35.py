"""The Q35's host bridge and the ICH9's LPC bridge."""

from __future__ import annotations

import pytest

from pyhyve.devices.bus import AddressMap
from pyhyve.devices.pci import spec
from pyhyve.devices.pci.bus import PciBus
from pyhyve.devices.pci.device import PciDevice, PciFunctionState
from pyhyve.devices.pci.q35 import ECAM_BASE, FIRST_GSI, LPC_SLOT, PCIEXBAR, Ich9LpcBridge, Q35HostBridge
from pyhyve.state.record import from_json, to_json


class Bench:
    def __init__(self) -> None:
        self.levels: dict[int, bool] = {}
        self.memory = AddressMap("memory", 1 << 40)
        self.lpc = Ich9LpcBridge(self._set_irq)
        self.bus = PciBus(
            AddressMap("port", 1 << 16), self.memory, send_msi=lambda *_: None, set_pirq=self.lpc.set_pirq
        )
        self.host = Q35HostBridge(self.bus, self.memory)
        self.card = PciDevice(vendor_id=0x1234, device_id=0x5678, class_code=0xFF0000, interrupt_pin=1, name="card")
        self.bus.attach(self.host, 0)
        self.bus.attach(self.lpc, LPC_SLOT, multifunction=True)
        self.bus.attach(self.card, 3)

    def _set_irq(self, line: int, /, *, level: bool) -> None:
        self.levels[line] = level

    def high(self) -> set[int]:
        return {line for line, level in self.levels.items() if level}


def test_configuration_space_is_where_pciexbar_says() -> None:
    bench = Bench()
    assert bench.memory.read(ECAM_BASE, 4) == 0xFFFF_FFFF
    bench.host.config_write(PCIEXBAR, 4, ECAM_BASE | 1)
    assert bench.memory.read(ECAM_BASE, 4) == 0x29C0_8086
    assert bench.memory.read(ECAM_BASE + (3 << 15), 4) == 0x5678_1234
    assert bench.memory.read(ECAM_BASE + (3 << 15) + 0x100, 4) == 0xFFFF_FFFF
    assert bench.memory.read(ECAM_BASE + (1 << 20), 4) == 0xFFFF_FFFF
    bench.memory.write(ECAM_BASE + (3 << 15) + spec.INTERRUPT_LINE, 1, 11)
    assert bench.card.config_read(spec.INTERRUPT_LINE, 1) == 11
    bench.host.config_write(PCIEXBAR + 4, 4, 1)
    assert bench.memory.read(ECAM_BASE + (1 << 32), 2) == 0x8086
    assert bench.memory.read(ECAM_BASE, 2) == 0xFFFF
    bench.host.reset()
    assert bench.memory.read(ECAM_BASE + (1 << 32), 2) == 0xFFFF


@pytest.mark.parametrize(("length", "buses"), [(0, 256), (1, 128), (2, 64)])
def test_configuration_space_can_be_shorter(length: int, buses: int) -> None:
    bench = Bench()
    bench.host.config_write(PCIEXBAR, 4, ECAM_BASE | length << 1 | 1)
    (mapping,) = bench.memory.mappings
    assert mapping.end - mapping.base == buses << 20


def test_configuration_space_in_the_way_of_others_is_not_there() -> None:
    bench = Bench()
    bench.memory.add(ECAM_BASE + 0x1000, 0x1000, bench.host._space, name="other")
    bench.host.config_write(PCIEXBAR, 4, ECAM_BASE | 1)
    assert len(bench.memory.mappings) == 1


def test_lines_reach_the_io_apic_and_isa_interrupts_that_are_routed() -> None:
    bench = Bench()
    line = bench.bus.pirq_of(bench.card)
    bench.card.set_intx(level=True)
    assert bench.high() == {FIRST_GSI + line}
    bench.lpc.config_write(0x60 + line, 1, 10)
    assert bench.high() == {FIRST_GSI + line, 10}
    bench.lpc.config_write(0x60 + line, 1, 0x8A)
    assert bench.high() == {FIRST_GSI + line}
    bench.card.set_intx(level=False)
    assert bench.high() == set()
    assert bench.lpc.irq_of(line) == FIRST_GSI + line


def test_state_goes_to_another_machine() -> None:
    bench, other = Bench(), Bench()
    bench.host.config_write(PCIEXBAR, 4, ECAM_BASE | 1)
    bench.lpc.config_write(0x61, 1, 5)
    bench.card.set_intx(level=True)
    other.bus.unmap_all()
    for name in ("host", "lpc", "card"):
        plain = to_json(getattr(bench, name).save())
        getattr(other, name).load(from_json(PciFunctionState, plain, name))
    assert other.memory.read(ECAM_BASE, 2) == 0x8086
    assert other.high() == bench.high()
    bench.bus.unmap_all()
    assert bench.memory.read(ECAM_BASE, 2) == 0xFFFF
