"""The xHCI controller without devices, as a driver meets it."""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from pyhyve.devices.bus import AddressMap
from pyhyve.devices.pci.bus import PciBus
from pyhyve.devices.usb.xhci import Xhci
from pyhyve.memory.guest import GuestMemory
from pyhyve.state.record import from_json, to_json

BASE = 0xF000_0000
OP, RUN, BELL = BASE + 0x40, BASE + 0x1000, BASE + 0x2000
RING, TABLE, EVENTS = 0x1000, 0x2000, 0x3000


class Bench:
    def __init__(self) -> None:
        self.memory = GuestMemory(shared=False)
        self.memory.add(0, 1 << 16)
        self.space = AddressMap("memory", 1 << 40)
        self.levels: dict[int, bool] = {}
        self.messages: list[tuple[int, int]] = []
        self.bus = PciBus(
            AddressMap("port", 1 << 16),
            self.space,
            send_msi=lambda address, data: self.messages.append((address, data)),
            set_pirq=self._set_line,
        )
        self.controller = Xhci(self.memory, usb2=15, usb3=15)
        self.bus.attach(self.controller, 3)
        self.controller.config_write(0x10, 4, BASE)
        self.controller.config_write(0x04, 2, 0x06)

    def _set_line(self, line: int, /, *, level: bool) -> None:
        self.levels[line] = level

    def read(self, address: int, size: int = 4) -> int:
        return self.space.read(address, size)

    def write(self, address: int, value: int, size: int = 4) -> None:
        self.space.write(address, size, value)

    def start(self) -> None:
        self.memory.write(TABLE, struct.pack("<QII", EVENTS, 16, 0))
        self.write(OP, 2)
        assert self.read(OP) == 0
        self.write(OP + 0x38, 8)
        self.write(OP + 0x30, 0x8000, 8)
        self.write(OP + 0x18, RING | 1, 8)
        self.write(RUN + 0x28, 1)
        self.write(RUN + 0x38, EVENTS, 8)
        self.write(RUN + 0x30, TABLE, 8)
        self.write(RUN + 0x20, 2)
        self.write(OP, 5)
        assert self.read(OP + 4) == 0

    def command(self, at: int, kind: int, *, cycle: int = 1, parameter: int = 0, flags: int = 0) -> None:
        self.memory.write(RING + 16 * at, struct.pack("<QII", parameter, 0, kind << 10 | flags | cycle))

    def event(self, at: int) -> tuple[int, int, int]:
        parameter, status, control = struct.unpack("<QII", self.memory.read(EVENTS + 16 * at, 16))
        return parameter, status >> 24, control & 1


def test_capabilities_name_the_ports() -> None:
    bench = Bench()
    assert bench.read(BASE, 1) == 0x40
    assert bench.read(BASE + 2, 2) == 0x0100
    assert bench.read(BASE + 4) >> 24 == 30
    assert (bench.read(BASE + 0x28), bench.read(BASE + 0x38)) == (15 << 8 | 16, 15 << 8 | 1)
    assert [bench.read(OP + 0x400 + 16 * port) for port in (0, 29, 30)] == [0x2A0, 0x2A0, 0]
    bench.write(OP + 0x400, 0)
    assert bench.read(OP + 0x400) == 0xA0
    assert bench.read(OP + 4) == 1


def test_commands_are_answered_in_the_event_ring() -> None:
    bench = Bench()
    bench.start()
    for at, kind in enumerate((23, 9, 11, 50)):
        bench.command(at, kind)
    bench.command(4, 6, parameter=RING, flags=2)
    bench.write(BELL, 0)
    assert [bench.event(at) for at in range(4)] == [
        (RING, 1, 1),
        (RING + 16, 9, 1),
        (RING + 32, 11, 1),
        (RING + 48, 5, 1),
    ]
    assert bench.levels[bench.bus.pirq_of(bench.controller)]
    assert bench.read(RUN + 0x20) == 3
    assert bench.read(OP + 4) == 8
    bench.write(RUN + 0x20, 3)
    assert not bench.levels[bench.bus.pirq_of(bench.controller)]
    bench.write(OP + 4, 8)
    assert bench.read(OP + 4) == 0


def test_events_wrap_and_a_full_ring_loses_them() -> None:
    bench = Bench()
    bench.start()
    bench.command(1, 6, parameter=RING, flags=2)
    for number in range(40):
        bench.command(0, 23, cycle=(number + 1) & 1)
        bench.command(1, 6, cycle=(number + 1) & 1, parameter=RING, flags=2)
        bench.write(BELL, 0)
        if number < 20:
            bench.write(RUN + 0x38, EVENTS + 16 * ((number + 1) % 16) | 8, 8)
    # Twenty were taken: the third round has three more, up to the one that the driver looks at next.
    assert [bench.event(at)[2] for at in range(6)] == [1, 1, 1, 0, 0, 0]


def test_ring_that_leads_in_circles_or_nowhere_halts() -> None:
    bench = Bench()
    bench.start()
    bench.command(0, 6, parameter=RING)
    bench.write(BELL, 0)
    assert bench.read(OP + 4) & 5 == 5
    bench.start()
    bench.command(0, 6, parameter=1 << 39)
    bench.write(BELL, 0)
    assert bench.read(OP + 4) & 5 == 5


def test_message_ends_what_is_pending() -> None:
    bench = Bench()
    msix = bench.controller.msix
    assert msix is not None
    msix.write(0, 8, 0xFEE0_0000)
    msix.write(8, 8, 0x42)
    bench.controller.config_write(msix.offset + 2, 2, 0x8000)
    bench.start()
    bench.command(0, 23)
    bench.write(BELL, 0)
    assert bench.messages == [(0xFEE0_0000, 0x42)]
    assert bench.read(RUN + 0x20) == 2


def test_state_goes_into_another_controller() -> None:
    first, second = Bench(), Bench()
    first.start()
    first.command(0, 23)
    first.write(BELL, 0)
    states = [to_json(part.save()) for _, part in first.controller.saveables()]
    for (_, part), state in zip(second.controller.saveables(), states, strict=True):
        part.load(from_json(part.state_type, state, "xhci"))
    for address in (OP, OP + 4, RUN + 0x20, RUN + 0x38, OP + 0x38):
        assert second.read(address) == first.read(address)
    first.bus.reset()
    assert first.read(OP) == 0xFFFF_FFFF


@settings(max_examples=100, deadline=None)
@given(
    ring=st.binary(min_size=64, max_size=64),
    writes=st.lists(
        st.tuples(
            st.sampled_from([OP, OP + 4, OP + 0x18, OP + 0x1C, OP + 0x400, RUN + 0x20, RUN + 0x28, RUN + 0x30, BELL])
            | st.integers(BASE, BASE + 0x3FFF),
            st.sampled_from([1, 2, 4, 8]),
            st.integers(0, (1 << 64) - 1) | st.sampled_from([5, RING | 1, TABLE, 1 << 34]),
        ),
        max_size=40,
    ),
)
def test_no_driver_gets_an_exception_out_of_it(ring: bytes, writes: list[tuple[int, int, int]]) -> None:
    bench = Bench()
    bench.start()
    bench.memory.write(RING, ring)
    for address, size, value in writes:
        bench.write(address, value & (1 << 8 * size) - 1, size)
        bench.read(address, size)
    bench.controller.save_registers()


def test_serial_bus_release_is_beside_the_capabilities() -> None:
    assert Bench().controller.config_read(0x60, 1) == 0x30
