"""A network card whose rings a vhost back end serves: here one that is written in Python, over the same memory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pyhyve.backends.net import NetError
from pyhyve.devices.virtio.chain import DmaSpace
from pyhyve.devices.virtio.net import NetOptions
from pyhyve.devices.virtio.pci import VirtioPci
from pyhyve.devices.virtio.queue import QueueLayout, RingFeatures, RingState
from pyhyve.devices.virtio.spec import Feature, NetFeature
from pyhyve.devices.virtio.split import SplitQueue
from pyhyve.devices.virtio.vhost_net import VhostNet
from pyhyve.memory.dirty import DirtyTable
from pyhyve.testing.virtio_driver import VirtioDriver
from pyhyve.testing.virtio_driver_transport import MiniMachine, PciDriverTransport
from tests.unit.devices.virtio.test_net import HEADER, MAC, MemoryNet, frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pyhyve.backends.vhost import Vring
    from pyhyve.memory.guest import GuestMemory, MemoryRegion

RX, TX = 0, 1


class PythonVhost:
    """Serves split rings as vhost-net would, when `pump` is called."""

    features = int(Feature.VERSION_1 | Feature.EVENT_IDX | Feature.INDIRECT_DESC | NetFeature.MRG_RXBUF)

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory
        self._rings: dict[int, tuple[SplitQueue, Vring]] = {}
        self._negotiated = 0
        self.regions: tuple[MemoryRegion, ...] = ()
        self.sent: list[bytes] = []
        self.starts: list[tuple[int, int]] = []
        self.refuses = False
        self.closed = False

    def prepare(self, features: int, regions: Sequence[MemoryRegion]) -> None:
        self._negotiated, self.regions = features, tuple(regions)

    def start(self, queue: int, ring: Vring) -> None:
        if self.refuses:
            msg = "vhost-net: no"
            raise NetError(msg)
        (region,) = self.regions
        places = (ring.descriptors_hva, ring.available_hva, ring.used_hva)
        layout = QueueLayout(ring.size, *(place - region.hva + region.gpa for place in places))
        features = RingFeatures(
            event_index=bool(self._negotiated & Feature.EVENT_IDX),
            indirect=bool(self._negotiated & Feature.INDIRECT_DESC),
        )
        served = SplitQueue(DmaSpace(self._memory), layout, features)
        served.load(RingState(available=ring.base, used=ring.base))
        served.enable_notify()
        self._rings[queue] = (served, ring)
        self.starts.append((queue, ring.base))

    def stop(self, queue: int) -> int:
        served, _ = self._rings.pop(queue)
        return served.save().available

    def close(self) -> None:
        self.closed = True

    def pump(self, *frames: bytes) -> None:
        """Send what was kicked; receive `frames`."""
        served, ring = self._rings[TX]
        try:
            os.eventfd_read(ring.kick_fd)
        except BlockingIOError:
            pass
        else:
            while (chain := served.pop()) is not None:
                self.sent.append(b"".join(chain.readable))
                served.push(chain, 0)
            if served.flush():
                os.eventfd_write(ring.call_fd, 1)
        served, ring = self._rings[RX]
        for data in frames:
            chain = served.pop()
            assert chain is not None
            packet = HEADER + data
            chain.writable[0][: len(packet)] = packet
            served.push(chain, len(packet))
        if frames and served.flush():
            os.eventfd_write(ring.call_fd, 1)


class Card:
    def __init__(self, *, refuses: bool = False) -> None:
        self.machine = MiniMachine()
        self.vhost = PythonVhost(self.machine.memory)
        self.vhost.refuses = refuses
        self.net = MemoryNet()
        self.device = VhostNet(self.machine.memory, self.machine.loop, self.net, NetOptions(MAC), self.vhost)
        self.device.start(self.machine.loop)
        self.transport = self.machine.plug_pci(self.device)
        self.start()

    def start(self) -> None:
        self.driver = VirtioDriver(self.transport, self.machine.allocator)
        self.features = self.transport.read_features()
        self.driver.start(self.features)
        self.machine.run()

    def send(self, data: bytes) -> None:
        self.driver.submit(TX, [self.driver.buffer(HEADER + data)])
        self.machine.run()

    def close(self) -> None:
        self.device.close()
        self.machine.close()


@pytest.fixture
def card() -> Iterator[Card]:
    card = Card()
    yield card
    card.close()


def test_only_what_the_back_end_can_do_is_offered(card: Card) -> None:
    assert not card.features & (Feature.RING_PACKED | Feature.RING_RESET)
    assert card.features & Feature.EVENT_IDX
    assert card.features & NetFeature.CTRL_VQ


def test_packets_go_through_the_back_end_both_ways(card: Card) -> None:
    card.send(frame(payload=b"one"))
    card.vhost.pump()
    assert card.vhost.sent == [HEADER + frame(payload=b"one")]
    assert card.net.sent == []
    card.machine.run_events()
    part = card.driver.buffer(2048)
    card.driver.submit(RX, [part])
    card.machine.run()
    before = list(card.machine.messages)
    card.vhost.pump(frame(payload=b"two"))
    card.machine.run_events()
    used = card.driver.queues[RX].poll()
    assert used is not None
    assert card.driver.read(part)[: used.written_bytes] == HEADER + frame(payload=b"two")
    assert len(card.machine.messages) == len(before) + 1


def test_stop_and_go_keeps_the_place_in_the_rings(card: Card) -> None:
    for number in range(3):
        card.send(frame(payload=b"%d" % number))
    card.vhost.pump()
    card.device.suspend()
    assert card.device.queues[TX].ring is not None
    assert card.device.queues[TX].ring.save() == RingState(available=3, used=3)
    card.device.resume()
    card.machine.run()
    assert card.vhost.starts == [(RX, 0), (TX, 0), (RX, 0), (TX, 3)]
    card.send(frame(payload=b"after"))
    card.vhost.pump()
    assert card.vhost.sent[-1] == HEADER + frame(payload=b"after")


def test_reset_takes_the_rings_back_and_a_new_driver_begins_at_zero(card: Card) -> None:
    card.send(frame())
    card.vhost.pump()
    card.device.reset()
    card.start()
    assert card.vhost.starts[-2:] == [(RX, 0), (TX, 0)]
    card.send(frame(payload=b"again"))
    card.vhost.pump()
    assert card.vhost.sent[-1] == HEADER + frame(payload=b"again")


def test_back_end_that_refuses_leaves_the_packets_to_the_device() -> None:
    card = Card(refuses=True)
    try:
        card.send(frame(payload=b"slow"))
        assert card.net.sent == [(0, HEADER + frame(payload=b"slow"))]
        card.driver.queues[TX].add([card.driver.buffer(HEADER + frame(payload=b"event"))])
        kick_fd = card.device.kick_fd(TX)
        assert kick_fd is not None
        os.eventfd_write(kick_fd, 1)  # as an engine does that watches the address by itself
        card.machine.run_events()
        card.machine.run()
        assert card.net.sent[-1] == (0, HEADER + frame(payload=b"event"))
    finally:
        card.close()


def test_while_writes_are_logged_the_device_moves_the_packets(card: Card) -> None:
    memory = card.machine.memory
    card.send(frame(payload=b"fast"))
    card.vhost.pump()
    card.device.suspend()
    memory.dirty = table = DirtyTable(memory)
    card.device.resume()
    card.machine.run()
    card.send(frame(payload=b"slow"))
    assert card.net.sent == [(0, HEADER + frame(payload=b"slow"))]
    card.driver.queues[TX].poll()
    part = card.driver.buffer(2048)
    card.driver.submit(RX, [part])
    card.machine.run()
    table.take()
    card.net.waiting.append(frame(payload=b"in"))
    card.net.readable(0)
    card.machine.run()
    assert card.driver.queues[RX].poll() is not None
    marked = {gpa + at for gpa, size in table.take() for at in range(0, size, 4096)}
    assert part.gpa & -4096 in marked
    card.device.suspend()
    memory.dirty = None
    card.device.resume()
    card.machine.run()
    assert card.vhost.starts == [(RX, 0), (TX, 0), (RX, 1), (TX, 2)]
    card.send(frame(payload=b"again"))
    card.vhost.pump()
    assert card.vhost.sent == [HEADER + frame(payload=b"fast"), HEADER + frame(payload=b"again")]


def test_kicks_are_event_descriptors_of_the_data_queues(card: Card) -> None:
    assert card.device.kick_fd(RX) != card.device.kick_fd(TX)
    assert card.device.kick_fd(2) is None


class Engine:
    """What KVM does for a card: descriptors that the kernel signals, and that become messages there."""

    def __init__(self) -> None:
        self.attached: dict[int, int] = {}
        self.called: list[int] = []
        self.routes: dict[int, tuple[int, int]] = {}

    def __call__(self, address: int, size: int, callback: Callable[[int], None], /) -> Callable[[], None]:
        self.called.append(address)
        return lambda: None

    def attach(self, address: int, size: int, event_fd: int) -> Callable[[], None]:
        self.attached[address] = event_fd
        return lambda: self.attached.pop(address, None)

    def route(self, event_fd: int, address: int, data: int) -> Callable[[], None] | None:
        assert event_fd not in self.routes
        self.routes[event_fd] = (address, data)
        return lambda: self.routes.pop(event_fd, None)


class EngineCard:
    """A card on such an engine, with a driver that uses MSI-X."""

    def __init__(self) -> None:
        self.machine = MiniMachine()
        self.vhost = PythonVhost(self.machine.memory)
        self.device = VhostNet(self.machine.memory, self.machine.loop, MemoryNet(), NetOptions(MAC), self.vhost)
        self.device.start(self.machine.loop)
        self.engine = Engine()
        self.function = VirtioPci(self.device, register_notify=self.engine)
        self.machine.bus.attach(self.function)
        self.transport = PciDriverTransport(self.machine, self.function, msix=True)
        self.driver = VirtioDriver(self.transport, self.machine.allocator)
        self.driver.start(self.transport.read_features())
        self.machine.run()

    def mask(self, vector: int, *, masked: bool) -> None:
        self.function.bars[1].device.write(16 * vector + 12, 4, int(masked))
        self.machine.run()

    def send(self, data: bytes) -> None:
        self.driver.submit(TX, [self.driver.buffer(HEADER + data)])
        self.machine.run()
        os.eventfd_write(self.engine.attached[min(self.engine.attached) + 4 * TX], 1)
        self.vhost.pump()


@pytest.fixture
def engine_card() -> Iterator[EngineCard]:
    card = EngineCard()
    yield card
    card.device.close()
    card.machine.close()


def test_engine_signals_the_descriptor_where_it_can(engine_card: EngineCard) -> None:
    kicks = [engine_card.device.kick_fd(RX), engine_card.device.kick_fd(TX)]
    assert sorted(engine_card.engine.attached.values()) == sorted(kicks)
    assert len(set(engine_card.engine.called)) == 1  # the control queue


def test_calls_become_messages_in_the_engine(engine_card: EngineCard) -> None:
    calls = [engine_card.device.call_fd(index) for index in (RX, TX)]
    assert sorted(engine_card.engine.routes) == sorted(calls)
    assert len({data for _, data in engine_card.engine.routes.values()}) == 2
    before = len(engine_card.machine.messages)
    engine_card.send(frame())
    engine_card.machine.run_events()
    assert len(engine_card.machine.messages) == before  # the engine has it: nobody here listens
    assert os.eventfd_read(calls[TX]) == 1


def test_masked_vector_is_kept_for_later(engine_card: EngineCard) -> None:
    call = engine_card.device.call_fd(TX)
    vector = engine_card.device.queues[TX].vector
    engine_card.mask(vector, masked=True)
    assert call not in engine_card.engine.routes
    before = len(engine_card.machine.messages)
    engine_card.send(frame())
    engine_card.machine.run_events()
    assert len(engine_card.machine.messages) == before
    engine_card.mask(vector, masked=False)
    assert len(engine_card.machine.messages) == before + 1  # it was pending
    assert call in engine_card.engine.routes


def test_reset_ends_the_routes(engine_card: EngineCard) -> None:
    engine_card.function.reset()
    engine_card.machine.run()
    assert engine_card.engine.routes == {}
