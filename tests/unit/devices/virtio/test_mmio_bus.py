"""Virtio devices on a board without PCI: their places, and their state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pyhyve.backends.ioloop import IoLoop
from pyhyve.devices.bus import AddressMap
from pyhyve.devices.virtio.mmio_bus import BASE_GPA, FIRST_GSI, SLOTS, MmioBus
from pyhyve.devices.virtio.rng import VirtioRng
from pyhyve.devices.virtio.spec import MMIO_MAGIC, MmioReg
from pyhyve.memory.guest import GuestMemory
from pyhyve.state.record import from_json, to_json
from tests.unit.devices.fakes import FakeLine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Bench:
    def __init__(self) -> None:
        self.memory, self.space = GuestMemory(shared=False), AddressMap("memory", 1 << 40)
        self.memory.add(0, 1 << 20)
        self.lines: dict[int, FakeLine] = {}
        self.notified: dict[int, Callable[[int], None]] = {}
        self.bus = MmioBus(self.space, self._line, self._register)
        self.loop = IoLoop("test")

    def _line(self, gsi: int) -> FakeLine:
        return self.lines.setdefault(gsi, FakeLine())

    def _register(self, address: int, size: int, callback: Callable[[int], None], /) -> Callable[[], None]:
        assert size == 4
        self.notified[address] = callback
        return lambda: None

    def add(self) -> VirtioRng:
        device = VirtioRng(self.memory, self.loop, source=bytes)
        self.bus.attach(device, "rng")
        return device

    def close(self) -> None:
        self.loop.stop()
        self.memory.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def test_devices_have_places_and_interrupts_of_their_own(bench: Bench) -> None:
    for _ in range(SLOTS):
        bench.add()
    with pytest.raises(ValueError, match="all 8 places"):
        bench.add()
    assert [(slot.gpa, slot.gsi) for slot in bench.bus] == [
        (BASE_GPA + 0x200 * number, FIRST_GSI + number) for number in range(SLOTS)
    ]
    assert bench.space.read(BASE_GPA + 0x200 + MmioReg.MAGIC_VALUE, 4) == MMIO_MAGIC
    assert sorted(bench.notified) == [BASE_GPA + 0x200 * number + MmioReg.QUEUE_NOTIFY for number in range(SLOTS)]
    slots = list(bench.bus)
    slots[3].transport.queue_interrupt(0)
    assert [gsi for gsi, line in bench.lines.items() if line.level] == [FIRST_GSI + 3]
    bench.bus.reset()
    assert not any(line.level for line in bench.lines.values())


def test_state_goes_to_another_machine(bench: Bench) -> None:
    bench.add()
    (slot,) = bench.bus
    bench.space.write(slot.gpa + MmioReg.QUEUE_SEL, 4, 0)
    bench.space.write(slot.gpa + MmioReg.QUEUE_NUM, 4, 16)
    bench.space.write(slot.gpa + MmioReg.STATUS, 4, 3)
    slot.transport.config_interrupt()
    slot.suspend()
    other = Bench()
    other.add()
    (target,) = other.bus
    target.suspend()
    for (name, part), (_, into) in zip(slot.saveables(), target.saveables(), strict=True):
        into.load(from_json(into.state_type, to_json(part.save()), f"mmio.0{name}"))
    target.resume()
    assert other.space.read(target.gpa + MmioReg.STATUS, 4) == 3
    assert other.space.read(target.gpa + MmioReg.INTERRUPT_STATUS, 4) == 2
    assert other.lines[FIRST_GSI].level
    assert target.transport.device.queues[0].size == 16
    other.close()
