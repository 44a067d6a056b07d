"""PCI-to-PCI bridges and root ports: numbers, windows, interrupts, the slot's protocol, and hostile drivers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyhyve.devices.bus import AddressMap
from pyhyve.devices.pci import express_spec, spec
from pyhyve.devices.pci.bridge import PciBridge, PlainPciBridge
from pyhyve.devices.pci.bus import PciBus
from pyhyve.devices.pci.device import PciDevice
from pyhyve.devices.pci.express import PciePciBridge
from pyhyve.devices.pci.express_spec import Indicator, SlotControl, SlotStatus
from pyhyve.devices.pci.root_port import PcieRootPort
from pyhyve.devices.pci.spec import BarKind
from pyhyve.machine.pci_setup import PciResourceError, configure_pci
from pyhyve.state.errors import StateError
from pyhyve.state.record import from_json, to_json

_WINDOW = 0xC000_0000
_ON = Indicator.ON << express_spec.POWER_SHIFT
_OFF = Indicator.OFF << express_spec.POWER_SHIFT | SlotControl.POWER_OFF


class Registers:
    def __init__(self) -> None:
        self.value = 0x55

    def read(self, _offset: int, _size: int) -> int:
        return self.value

    def write(self, _offset: int, _size: int, value: int) -> None:
        self.value = value


def make_card(*, io: bool = False, name: str = "card") -> PciDevice:
    card = PciDevice(vendor_id=0x1234, device_id=0x5678, class_code=0xFF0000, interrupt_pin=1, name=name)
    card.add_bar(0, 4096, BarKind.MEM32, Registers())
    if io:
        card.add_bar(1, 32, BarKind.IO, Registers())
    return card


class Bench:
    """A root port in 2.0 with a card, a bridge to PCI in 3 with a card in its slot 5."""

    def __init__(self) -> None:
        self.levels: dict[int, bool] = {}
        self.messages: list[tuple[int, int]] = []
        self.let_go = 0
        self.ports, self.memory = AddressMap("port", 1 << 16), AddressMap("memory", 1 << 52)
        self.bus = PciBus(self.ports, self.memory, send_msi=self._message, set_pirq=self._set_line)
        self.port = PcieRootPort(port=16, slot=3)
        self.port.on_let_go = self._let_go
        self.bridge = PciePciBridge("bridge")
        self.bus.attach(self.port, 2, multifunction=True)
        self.bus.attach(self.bridge, 3)
        self.card, self.old = make_card(), make_card(io=True, name="old")
        self.port.secondary.attach(self.card)
        self.port.inserted(announce=False)
        self.bridge.secondary.attach(self.old, 5)
        capability = self.port.config[spec.CAPABILITY_POINTER]
        while self.port.config[capability] != spec.CapabilityId.EXPRESS:
            capability = self.port.config[capability + 1]
        self.control = capability + express_spec.SLOT_CONTROL
        self.status = capability + express_spec.SLOT_STATUS

    def _message(self, address: int, data: int) -> None:
        self.messages.append((address, data))

    def _set_line(self, line: int, /, *, level: bool) -> None:
        self.levels[line] = level

    def _let_go(self) -> None:
        self.let_go += 1
        for device in list(self.port.secondary):
            self.port.secondary.detach(device)
        self.port.emptied()

    def configure(self) -> None:
        configure_pci(self.bus, window_first=_WINDOW, irq_of=lambda line: 16 + line)

    def slot_status(self) -> int:
        return self.port.config_read(self.status, 2)


def test_header_is_a_bridge_of_several_functions() -> None:
    bench = Bench()
    assert bench.bus.config_read(0, 2 << 3, spec.HEADER_TYPE, 1) == 0x81
    assert bench.bus.config_read(0, 3 << 3, spec.HEADER_TYPE, 1) == 0x01
    assert bench.bus.config_read(0, 2 << 3, 0, 4) == 0x000C_1B36
    # A type 0 header's registers are others: nothing of a third BAR is there.
    bench.bus.config_write(0, 2 << 3, 0x18, 4, 0x0003_0200)
    assert bench.bus.config_read(0, 2 << 3, 0x18, 4) == 0x0003_0200


def test_messages_of_devices_behind_bridges_go_the_ways_that_bus_0_knows() -> None:
    bench = Bench()
    asked: list[tuple[int, int]] = []

    def find_route(address: int, data: int) -> None:
        asked.append((address, data))

    bench.bus = PciBus(
        bench.ports, bench.memory, send_msi=bench._message, set_pirq=bench._set_line, find_route=find_route
    )
    bench.bus.attach(bench.port, 2)
    assert bench.port.secondary.message_route(0xFEE0_0000, 0x41) is None
    assert asked == [(0xFEE0_0000, 0x41)]


def test_buses_are_found_by_the_numbers_the_guest_gave() -> None:
    bench = Bench()
    assert bench.bus.config_read(1, 0, 0, 4) == 0xFFFF_FFFF
    bench.bus.config_write(0, 2 << 3, spec.PRIMARY_BUS, 4, 0x07_07_00)
    bench.bus.config_write(0, 3 << 3, spec.PRIMARY_BUS, 4, 0x09_08_00)
    assert bench.bus.config_read(7, 0, 0, 4) == bench.bus.config_read(8, 5 << 3, 0, 4) == 0x5678_1234
    assert bench.bus.config_read(8, 0, 0, 4) == bench.bus.config_read(9, 5 << 3, 0, 4) == 0xFFFF_FFFF
    bench.bus.config_write(8, 5 << 3, spec.INTERRUPT_LINE, 1, 9)
    assert bench.old.config[spec.INTERRUPT_LINE] == 9


def test_memory_is_reached_through_windows_only() -> None:
    bench = Bench()
    bench.port.config_write(spec.COMMAND, 2, 2)
    bench.card.config_write(spec.BAR0, 4, 0xC010_0000)
    bench.card.config_write(spec.COMMAND, 2, 2)
    assert bench.memory.read(0xC010_0000, 1) == 0xFF
    bench.port.config_write(spec.MEMORY_BASE, 4, 0xC010_C010)
    assert bench.memory.read(0xC010_0000, 1) == 0x55
    bench.port.config_write(spec.COMMAND, 2, 0)
    assert bench.memory.read(0xC010_0000, 1) == 0xFF
    bench.port.config_write(spec.COMMAND, 2, 2)
    bench.port.config_write(spec.MEMORY_BASE, 4, 0xC020_C020)
    assert bench.memory.read(0xC010_0000, 1) == 0xFF
    bench.port.config_write(spec.PREFETCH_BASE, 4, 0xC010_C010)
    assert bench.memory.read(0xC010_0000, 1) == 0x55
    bench.port.config_write(spec.PREFETCH_BASE_UPPER, 4, 1)
    assert bench.memory.read(0xC010_0000, 1) == 0xFF


def test_setup_numbers_buses_and_opens_windows() -> None:
    bench = Bench()
    bench.configure()
    assert (bench.port.secondary.number, bench.bridge.secondary.number) == (1, 2)
    bar, old_bar, old_ports = bench.card.bars[0].address, bench.old.bars[0].address, bench.old.bars[1].address
    assert bar is not None
    assert old_bar is not None
    assert old_ports is not None
    assert bench.memory.read(bar, 1) == bench.memory.read(old_bar, 1) == bench.ports.read(old_ports, 1) == 0x55
    first, last = bench.port.memory_window
    assert (first % (1 << 20), last - first + 1) == (0, 2 << 20)
    assert bench.port.io_window[0] > bench.port.io_window[1]
    assert bench.card.config[spec.INTERRUPT_LINE] == 16 + bench.bus.pirq_of(bench.port)
    bench.configure()
    assert bench.card.bars[0].address == bar


def test_setup_says_when_there_are_too_many_buses() -> None:
    bench = Bench()
    bus: PciBus = bench.bridge.secondary
    for _ in range(254):
        below = PlainPciBridge("deep")
        bus.attach(below)
        bus = below.secondary
    with pytest.raises(PciResourceError, match="there are 256 buses at most"):
        bench.configure()


def test_pins_are_swizzled_on_the_way_up() -> None:
    bench = Bench()
    for slot, line in ((5, (3 - 1 + 5) & 3), (6, (3 - 1 + 6) & 3)):
        bench.old.slot = slot
        assert bench.bridge.secondary.pirq_of(bench.old) == line
        bench.old.set_intx(level=True)
        assert bench.levels[line]
        bench.old.set_intx(level=False)
        assert not bench.levels[line]


def test_port_has_one_slot() -> None:
    bench = Bench()
    with pytest.raises(ValueError, match="slot 1 function 0 not available"):
        bench.port.secondary.attach(make_card(), 1)
    with pytest.raises(ValueError, match="not available"):
        bench.port.secondary.attach(make_card())
    bench.port.secondary.attach(make_card(), 0, 1)


def test_hot_plugged_device_is_announced_and_seen_with_power() -> None:
    bench = Bench()
    bench.port.secondary.detach(bench.card)
    bench.port.reset()
    assert bench.slot_status() == 0
    assert bench.port.config_read(bench.control, 2) & (0x300 | SlotControl.POWER_OFF) == _OFF
    bench.port.config_write(spec.PRIMARY_BUS, 4, 0x0101_00)
    bench.port.config_write(bench.control, 2, _OFF | SlotControl.INTERRUPT | SlotControl.BUTTON | SlotControl.PRESENCE)
    line = bench.bus.pirq_of(bench.port)
    bench.port.config_write(bench.status, 2, 0xFFFF)
    assert not bench.levels.get(line)
    bench.port.secondary.attach(bench.card)
    bench.port.inserted(announce=True)
    assert bench.slot_status() == SlotStatus.OCCUPIED | SlotStatus.PRESENCE | SlotStatus.BUTTON
    assert bench.levels[line]
    assert bench.bus.config_read(1, 0, 0, 4) == 0xFFFF_FFFF
    bench.port.config_write(bench.status, 2, int(SlotStatus.PRESENCE | SlotStatus.BUTTON))
    assert not bench.levels[line]
    bench.port.config_write(bench.control, 2, _ON)
    assert bench.bus.config_read(1, 0, 0, 4) == 0x5678_1234
    assert bench.slot_status() == SlotStatus.OCCUPIED | SlotStatus.COMMAND
    assert bench.let_go == 0


def test_device_goes_when_power_and_its_indicator_are_off() -> None:
    bench = Bench()
    bench.configure()
    bench.port.press_button()
    assert bench.slot_status() == SlotStatus.OCCUPIED | SlotStatus.BUTTON
    bench.port.config_write(bench.control, 2, Indicator.BLINK << express_spec.POWER_SHIFT)
    assert bench.port.is_blinking
    bench.port.config_write(bench.control, 2, Indicator.BLINK << express_spec.POWER_SHIFT | SlotControl.POWER_OFF)
    assert bench.let_go == 0
    assert bench.card.bars[0].address is None
    bench.port.config_write(bench.control, 2, int(_OFF))
    assert bench.let_go == 1
    assert not bench.port.is_occupied
    assert bench.slot_status() & SlotStatus.PRESENCE


def test_messages_are_sent_once_for_what_is_pending() -> None:
    bench = Bench()
    bench.configure()
    port, msix = bench.port, bench.port.msix
    assert msix is not None
    msix.write(0, 8, 0xFEE0_0000)
    msix.write(8, 8, 0x41)
    port.config_write(msix.offset + 2, 2, spec.MSIX_ENABLE)
    port.config_write(bench.control, 2, _ON | SlotControl.INTERRUPT | SlotControl.BUTTON)
    port.press_button()
    port.press_button()
    assert bench.messages == [(0xFEE0_0000, 0x41)]
    port.config_write(bench.status, 2, int(SlotStatus.BUTTON))
    port.press_button()
    assert len(bench.messages) == 2


def test_port_without_hotplug_has_no_controller() -> None:
    port = PcieRootPort(hotplug=False)
    bench = Bench()
    bench.bus.attach(port, 4)
    port.secondary.attach(make_card())
    port.inserted(announce=False)
    port.config_write(bench.control, 2, int(_OFF))
    assert (port.is_powered, port.is_occupied, port.is_off) == (True, True, False)


def test_secondary_reset_and_reset_reach_what_is_behind() -> None:
    bench = Bench()
    bench.configure()
    bench.bridge.config_write(spec.BRIDGE_CONTROL, 2, int(spec.BridgeControl.SECONDARY_RESET))
    assert (bench.old.bars[0].address, bench.old.command) == (None, 0)
    assert bench.card.bars[0].address is not None
    bench.bus.reset()
    assert (bench.card.bars[0].address, bench.port.secondary.number) == (None, 0)
    assert bench.port.is_occupied


def test_state_goes_into_another_machine() -> None:
    first, second = Bench(), Bench()
    first.configure()
    first.port.config_write(first.control, 2, _ON | SlotControl.INTERRUPT | SlotControl.BUTTON)
    first.port.press_button()
    states = [to_json(device.save()) for _, device in first.bus.walk()]
    second.bus.unmap_all()
    for (_, device), state in zip(second.bus.walk(), states, strict=True):
        device.load(from_json(device.state_type, state, device.name))
    assert second.card.bars[0].address == first.card.bars[0].address is not None
    assert second.bus.config_read(1, 0, 0, 4) == 0x5678_1234
    assert second.levels[second.bus.pirq_of(second.port)]
    other = PcieRootPort(port=17, slot=3)
    with pytest.raises(StateError, match="of another device"):
        other.load(from_json(other.state_type, states[0], "port"))


_ACCESS = st.tuples(
    st.sampled_from(["config", "memory", "port", "plug", "button"]),
    st.integers(0, 3),
    st.integers(0, 0xFF),
    st.sampled_from([1, 2, 4]),
    st.integers(0, 0xFFFF_FFFF) | st.sampled_from([0, 0xFFFF_FFFF, 0xC010_C000, 0x0700, 0x0701_00, 7]),
)


@settings(max_examples=200, deadline=None)
@given(accesses=st.lists(_ACCESS, max_size=60))
def test_no_driver_gets_an_exception_out_of_bridges(accesses: list[tuple[str, int, int, int, int]]) -> None:
    bench = Bench()
    below = PlainPciBridge("below")
    bench.bridge.secondary.attach(below, 6)
    below.secondary.attach(make_card(io=True), 1)
    places = [(0, 2 << 3), (0, 3 << 3), (1, 0), (2, 6 << 3)]
    bench.configure()
    for kind, place, offset, size, value in accesses:
        bus, devfn = places[place]
        if kind == "config":
            bench.bus.config_write(bus, devfn, offset & -size, size, value & (1 << 8 * size) - 1)
            bench.bus.config_read(value & 0xFF, devfn, offset & -size, size)
        elif kind == "memory":
            bench.memory.write(value, size, 0)
        elif kind == "port":
            bench.ports.read(value & 0xFFFF, size)
        elif kind == "plug" and not list(bench.port.secondary):
            bench.port.secondary.attach(make_card())
            bench.port.inserted(announce=True)
        elif kind == "button":
            bench.port.press_button()
    for _, device in bench.bus.walk():
        for bar in device.bars.values():
            space = bench.ports if bar.kind is BarKind.IO else bench.memory
            assert bar.address is None or space.find(bar.address) is not None
    bench.bus.reset()
    assert not bench.memory.mappings
    bench.configure()
    assert isinstance(bench.port, PciBridge)
