"""Virtio devices that are saved in the middle of their work and go on in another process's place."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from pyhyve.accel.emulator import EmulatorVm
from pyhyve.backends.net import Offload
from pyhyve.devices.virtio.net import NetOptions, VirtioNet
from pyhyve.devices.virtio.pci import VirtioPci
from pyhyve.devices.virtio.rng import VirtioRng
from pyhyve.devices.virtio.spec import NetFeature
from pyhyve.state.errors import StateError
from pyhyve.state.record import from_json, to_json
from pyhyve.testing.virtio_driver_transport import MiniMachine
from tests.unit.devices.virtio.test_net import HEADER, MAC, PACKED, Card, MemoryNet, frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.devices.pci.device import PciDevice
    from pyhyve.testing.virtio_driver import Segment

SMALL = 256
"""Bytes of a receive buffer: many of them make up the room for a longest frame."""


def states_of(function: PciDevice) -> dict[str, Any]:
    """What a machine would write of a function, in JSON."""
    return {name: json.loads(json.dumps(to_json(part.save()))) for name, part in function.saveables()}


def load_into(function: PciDevice, states: dict[str, Any]) -> None:
    assert [name for name, _ in function.saveables()] == list(states)
    for name, part in function.saveables():
        part.load(from_json(part.state_type, states[name], name or "function"))


class Copy:
    """The same card after a restore: another device over the same guest memory."""

    def __init__(
        self,
        card: Card,
        states: dict[str, Any],
        backend: MemoryNet | None = None,
        prepare: Callable[[VirtioNet], None] = lambda _device: None,
    ) -> None:
        self.machine = MiniMachine()
        self.machine.memory = card.machine.memory
        self.backend = backend or MemoryNet()
        self.device = VirtioNet(self.machine.memory, self.machine.loop, self.backend, NetOptions(bytes(6)))
        prepare(self.device)
        self.device.start(self.machine.loop)
        self.function = VirtioPci(self.device)
        self.machine.bus.attach(self.function)
        load_into(self.function, states)

    def resume(self) -> None:
        self.device.resume()
        self.machine.run()

    def arrive(self, *frames: bytes) -> None:
        self.backend.waiting.extend(frames)
        self.backend.readable(0)
        self.machine.run()


def function_of(card: Card) -> PciDevice:
    (function,) = card.machine.bus
    return function


def received(card: Card, parts: list[Segment]) -> bytes | None:
    """The frame in the next used buffer."""
    used = card.driver.queues[0].poll()
    if used is None:
        return None
    part = parts.pop(0)
    return card.driver.read(part)[len(HEADER) : used.written_bytes]


@PACKED
def test_receive_buffers_taken_ahead_are_used_after_a_restore(packed: bool) -> None:
    card = Card(packed=packed)
    parts = card.post(100, SMALL)
    card.arrive(frame(payload=b"before"))
    assert card.device.queues[0].ring is not None
    assert card.device.queues[0].ring.in_flight > 0
    card.device.suspend()
    assert card.device.queues[0].ring.in_flight == 0
    copy = Copy(card, states_of(function_of(card)))
    copy.resume()
    copy.arrive(*(frame(payload=b"after%d" % number) for number in range(90)))
    assert received(card, parts) == frame(payload=b"before")
    for number in range(90):
        assert received(card, parts) == frame(payload=b"after%d" % number)
    assert received(card, parts) is None


def test_packed_rings_go_on_where_unasked_they_are_not_offered() -> None:
    card = Card(packed=True)
    parts = card.post(10, SMALL)
    card.device.suspend()
    states = states_of(function_of(card))

    def prepare(device: VirtioNet) -> None:
        device.use_walker(EmulatorVm(card.machine.memory))
        assert not device.offers_packed

    copy = Copy(card, states, prepare=prepare)
    copy.resume()
    copy.arrive(frame(payload=b"here"))
    assert received(card, parts) == frame(payload=b"here")
    with pytest.raises(StateError, match=r"features that this host does not offer \(bits 34"):
        Copy(card, states, prepare=lambda device: device.choose_rings(packed=False))


@PACKED
def test_packet_that_the_backend_did_not_take_is_sent_after_a_restore(packed: bool) -> None:
    card = Card(packed=packed)
    card.backend.stalled = True
    for number in range(3):
        card.driver.submit(1, [card.driver.buffer(HEADER + frame(payload=b"%d" % number))])
    card.machine.run()
    card.device.suspend()
    copy = Copy(card, states_of(function_of(card)))
    copy.resume()
    assert [data for _, data in copy.backend.sent] == [HEADER + frame(payload=b"%d" % number) for number in range(3)]


@PACKED
def test_suspended_card_leaves_guest_memory_alone_and_goes_on(packed: bool) -> None:
    card = Card(packed=packed)
    parts = card.post(100, SMALL)
    card.driver.submit(1, [card.driver.buffer(HEADER + frame())])
    card.device.suspend()
    before = card.machine.memory.read(0, 1 << 20)
    card.arrive(frame(payload=b"early"))
    card.device.kick(1)
    card.machine.run()
    assert card.machine.memory.read(0, 1 << 20) == before
    assert card.backend.reading[0] is False
    card.device.resume()
    card.machine.run()
    assert received(card, parts) == frame(payload=b"early")
    assert len(card.backend.sent) == 1


def test_reading_goes_on_after_a_short_pause_with_packets_waiting() -> None:
    card = Card()
    card.post(100, SMALL)
    for _ in range(50):
        card.device.suspend()
        card.device.resume()
        # The worker finds the descriptor readable before it gets to the calls that wait.
        card.backend.readable(0)
        card.machine.run()
        assert card.backend.reading[0] is True


def test_filter_offloads_and_address_are_restored() -> None:
    card = Card(MemoryNet(offloads=Offload.CSUM | Offload.TSO4))
    assert card.control(0, 0, b"\0") == 0  # not promiscuous any more
    assert card.control(1, 1, bytes.fromhex("525400000042")) == 0
    assert card.control(5, 0, int(NetFeature.GUEST_CSUM).to_bytes(8, "little")) == 0
    card.device.suspend()
    copy = Copy(card, states_of(function_of(card)), MemoryNet(offloads=Offload.CSUM | Offload.TSO4))
    copy.resume()
    assert copy.device.filter.mac == bytes.fromhex("525400000042")
    assert copy.device.filter.active
    assert copy.backend.set == Offload.CSUM
    assert copy.device.config_space() == card.device.config_space()


def test_interrupt_on_its_way_is_made_good() -> None:
    card = Card()
    card.device.suspend()
    copy = Copy(card, states_of(function_of(card)))
    before = len(copy.machine.messages)
    copy.resume()
    assert len(copy.machine.messages) > before


def test_features_that_the_new_backend_lacks_are_refused() -> None:
    card = Card(MemoryNet(offloads=Offload.CSUM))
    card.device.suspend()
    with pytest.raises(StateError, match=r"the guest uses features that this host does not offer \(bits 0, 1, 2\)"):
        Copy(card, states_of(function_of(card)))


def test_another_device_in_the_slot_is_refused() -> None:
    card = Card()
    card.device.suspend()
    states = states_of(function_of(card))
    machine = MiniMachine()
    machine.memory = card.machine.memory
    function = VirtioPci(VirtioRng(machine.memory, machine.loop))
    machine.bus.attach(function)
    with pytest.raises(StateError, match=r"the state in its slot is of another device \(1af4:1041"):
        function.load(from_json(function.state_type, states[""], "function"))


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("queues", 0, "ring", "descriptor_gpa"), 1 << 40, "queue 0: no guest memory"),
        (("queues", 0, "ring", "descriptor_gpa"), 8, "queue 0: split queue is misaligned"),
        (("queues", 0, "ring", "size"), 100, "queue 0: split queue of 100 entries"),
        (("queues", 0, "ring", "size"), 1 << 15, "queue 0: a ring of 32768 entries"),
        (("queues", 0, "ring", "position", "used"), 1 << 20, "an index of more than 16 bits"),
        (("device_type",), 2, "the state is of a device of type 2 with 3 queues"),
    ],
)
def test_queues_that_make_no_sense_are_refused(path: tuple[str | int, ...], value: int, reason: str) -> None:
    card = Card()
    card.device.suspend()
    states = states_of(function_of(card))
    place = states[".virtio"]
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(StateError, match=reason):
        Copy(card, states)


def test_bars_and_interrupt_vectors_are_where_the_guest_put_them() -> None:
    card = Card()
    card.device.suspend()
    function = function_of(card)
    copy = Copy(card, states_of(function))
    assert {index: bar.address for index, bar in copy.function.bars.items()} == {
        index: bar.address for index, bar in function.bars.items()
    }
    assert copy.function.config == function.config
    assert copy.device.queues[0].vector == card.device.queues[0].vector
    assert card.device.filter.mac == MAC


def test_reset_while_suspended_forgets_the_driver() -> None:
    card = Card()
    card.post(10, SMALL)
    card.device.suspend()
    function_of(card).reset()
    card.device.resume()
    card.machine.run()
    assert not card.device.is_running
    assert card.device.status == 0
