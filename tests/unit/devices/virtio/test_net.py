"""The network device through its queues (VIRTIO 1.2, 5.1)."""

from __future__ import annotations

import struct
from collections import deque
from typing import TYPE_CHECKING

import pytest

from pyhyve.backends.net import Offload
from pyhyve.devices.virtio.net import NetOptions, VirtioNet
from pyhyve.devices.virtio.net_control import ReceiveFilter
from pyhyve.devices.virtio.spec import (
    NET_ERR,
    NET_OK,
    Feature,
    NetCtrlClass,
    NetCtrlMac,
    NetCtrlRx,
    NetCtrlVlan,
    NetFeature,
    Status,
)
from pyhyve.testing.virtio_driver import DriverError, Segment, VirtioDriver
from pyhyve.testing.virtio_driver_transport import MiniMachine, MmioDriverTransport, PciDriverTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyhyve.accel.api import QueueWalker
    from pyhyve.backends.ioloop import IoLoop
    from pyhyve.memory.guest import GuestMemory

MAC = bytes.fromhex("525400123456")
OTHER = bytes.fromhex("525400aaaaaa")
BROADCAST = b"\xff" * 6
HEADER = bytes(12)
FULL = Offload.CSUM | Offload.TSO4 | Offload.TSO6 | Offload.ECN


def frame(destination: bytes = MAC, payload: bytes = b"payload", source: bytes = OTHER) -> bytes:
    return destination + source + b"\x08\x00" + payload


class MemoryNet:
    """A network of two lists."""

    def __init__(self, queues: int = 1, offloads: Offload = Offload.NONE) -> None:
        self.queues = queues
        self.offloads = offloads
        self.sent: list[tuple[int, bytes]] = []
        self.waiting: deque[bytes] = deque()
        self.header_bytes = 12
        self.set: Offload | None = None
        self.active = 1
        self.reading: dict[int, bool] = {}
        self.stalled = False
        self.readable: Callable[[int], None] = lambda _queue: None
        self.writable: Callable[[int], None] = lambda _queue: None

    def start(self, loop: IoLoop, on_readable: Callable[[int], None], on_writable: Callable[[int], None]) -> None:
        self.readable, self.writable = on_readable, on_writable

    def set_header_bytes(self, count: int) -> None:
        self.header_bytes = count

    def set_offloads(self, offloads: Offload) -> None:
        self.set = offloads

    def set_active_queues(self, count: int) -> None:
        self.active = count

    def set_reading(self, queue: int, *, enabled: bool) -> None:
        self.reading[queue] = enabled

    def send(self, queue: int, views: Sequence[memoryview], length: int) -> bool:
        if self.stalled:
            return False
        data = b"".join(views)
        assert len(data) == length
        self.sent.append((queue, data))
        return True

    def receive(self, queue: int, views: Sequence[memoryview]) -> int:
        if not self.waiting:
            return 0
        data = memoryview(bytes(self.header_bytes) + self.waiting.popleft())
        total = 0
        for view in views:
            part = data[: len(view)]
            view[: len(part)] = part
            data = data[len(part) :]
            total += len(part)
        return total

    def close(self) -> None:
        pass


class Card:
    """A network device with a started driver."""

    def __init__(
        self,
        backend: MemoryNet | None = None,
        *,
        packed: bool = False,
        without: int = 0,
        mtu: int = 0,
        legacy: bool = False,
        make_walker: Callable[[GuestMemory], QueueWalker] | None = None,
    ) -> None:
        self.backend = backend or MemoryNet()
        self.machine = MiniMachine()
        self.device = VirtioNet(self.machine.memory, self.machine.loop, self.backend, NetOptions(MAC, mtu=mtu))
        if make_walker is not None:
            self.device.use_walker(make_walker(self.machine.memory))
        self.device.start(self.machine.loop)
        self.transport: PciDriverTransport | MmioDriverTransport = (
            self.machine.plug_mmio(self.device, legacy=True) if legacy else self.machine.plug_pci(self.device)
        )
        self.driver = VirtioDriver(self.transport, self.machine.allocator)
        features = self.transport.read_features() & ~without
        self.driver.start(features if packed else features & ~int(Feature.RING_PACKED))
        self.machine.run()
        self.posted: dict[int, Segment] = {}

    def post(self, count: int, size: int) -> list[Segment]:
        parts = [self.driver.buffer(size) for _ in range(count)]
        for part in parts:
            self.driver.queues[0].add([part])
        self.transport.notify(0)
        self.machine.run()
        return parts

    def arrive(self, *frames: bytes) -> None:
        self.backend.waiting.extend(frames)
        self.backend.readable(0)
        self.machine.run()

    def control(self, kind: int, command: int, data: bytes) -> int:
        index = len(self.driver.queues) - 1
        result = self.driver.buffer(1)
        parts = [self.driver.buffer(bytes([kind, command]))]
        if data:
            parts.append(self.driver.buffer(data))
        self.driver.submit(index, [*parts, result])
        self.machine.run()
        assert self.driver.queues[index].poll() is not None
        return self.driver.read(result)[0]


PACKED = pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])


@PACKED
def test_packets_go_out_in_order(packed: bool) -> None:
    card = Card(packed=packed)
    for n in range(200):
        card.driver.queues[1].add([card.driver.buffer(HEADER), card.driver.buffer(frame(payload=b"%d" % n))])
        if n % 50 == 49:
            card.transport.notify(1)
            card.machine.run()
            while card.driver.queues[1].poll() is not None:
                pass
    assert [data for _, data in card.backend.sent] == [HEADER + frame(payload=b"%d" % n) for n in range(200)]


@PACKED
def test_mergeable_packet_fills_as_many_buffers_as_it_needs(packed: bool) -> None:
    card = Card(packed=packed)
    parts = card.post(80, 1024)
    big = frame(payload=bytes(range(256)) * 40)
    card.arrive(big, frame())
    lengths = []
    while (used := card.driver.queues[0].poll()) is not None:
        lengths.append(used.written_bytes)
    total = len(big) + 12
    assert lengths == [1024] * (total // 1024) + [total % 1024, len(frame()) + 12]
    data = b"".join(card.driver.read(part) for part in parts)
    count = len(lengths) - 1
    assert data[:total] == bytes(10) + struct.pack("<H", count) + big
    start = count * 1024
    assert data[start : start + 12] == bytes(10) + b"\1\0"


def test_reading_stops_without_buffers_and_resumes() -> None:
    card = Card()
    assert card.backend.reading == {}
    card.arrive(frame())
    assert len(card.backend.waiting) == 1
    parts = card.post(2, 2048)
    assert card.driver.queues[0].poll() is not None
    assert card.driver.read(parts[0])[12 : 12 + len(frame())] == frame()
    assert card.backend.reading[0]
    card.arrive(frame(), frame())
    assert not card.backend.reading[0]
    assert len(card.backend.waiting) == 1
    card.post(1, 2048)
    assert not card.backend.waiting


@PACKED
def test_packet_waits_for_enough_buffers(packed: bool) -> None:
    card = Card(packed=packed)
    card.post(2, 600)
    long, short = frame(payload=bytes(1300)), frame(payload=b"short")
    card.arrive(long, short)
    assert card.driver.queues[0].poll() is None
    assert len(card.backend.waiting) == 1
    card.post(2, 600)
    lengths = [used.written_bytes for used in iter(card.driver.queues[0].poll, None)]
    assert lengths == [600, 600, len(long) + 12 - 1200, len(short) + 12]
    card.post(1, 600)
    assert card.backend.reading[0]


def test_packet_longer_than_the_ring_is_dropped() -> None:
    card = Card()
    card.driver.start(card.driver.features, queue_size=4)
    card.machine.run()
    card.post(4, 600)
    card.arrive(frame(payload=bytes(4000)), frame(payload=b"short"))
    used = card.driver.queues[0].poll()
    assert used is not None
    assert used.written_bytes == len(frame(payload=b"short")) + 12


def test_packet_that_cannot_fit_a_buffer_is_dropped() -> None:
    card = Card(without=int(NetFeature.MRG_RXBUF))
    card.post(4, 600)
    card.arrive(frame(payload=bytes(1300)), frame(payload=b"small"))
    used = card.driver.queues[0].poll()
    assert used is not None
    assert used.written_bytes == 12 + len(frame(payload=b"small"))


def test_many_packets_do_not_starve_others() -> None:
    card = Card()
    card.post(250, 1500)
    card.arrive(*[frame(payload=b"%d" % n) for n in range(150)])
    for _ in range(4):
        card.machine.run()
    assert not card.backend.waiting


def test_header_split_over_tiny_buffers() -> None:
    card = Card(without=int(Feature.INDIRECT_DESC))
    parts = [card.driver.buffer(size) for size in (3, 8, 5, 2048)]
    card.driver.queues[0].add(parts)
    card.transport.notify(0)
    card.machine.run()
    card.arrive(frame())
    used = card.driver.queues[0].poll()
    assert used is not None
    data = b"".join(card.driver.read(part) for part in parts)[: used.written_bytes]
    assert data == bytes(10) + b"\1\0" + frame()


def test_stalled_backend_holds_packets() -> None:
    card = Card()
    card.backend.stalled = True
    packet = [card.driver.buffer(HEADER), card.driver.buffer(frame())]
    for _ in range(3):
        card.driver.queues[1].add(packet)
    card.transport.notify(1)
    for _ in range(20):
        card.machine.run()
    assert card.driver.queues[1].poll() is None
    assert not card.machine.loop._calls
    card.backend.stalled = False
    card.backend.writable(0)
    card.machine.run()
    assert len(card.backend.sent) == 3


@pytest.mark.parametrize("size", [0, 12, 12 + 65536 + 100])
def test_packet_of_impossible_size_is_dropped(size: int) -> None:
    card = Card()
    card.driver.submit(1, [card.driver.buffer(bytes(size)) if size else card.driver.buffer(4)])
    card.machine.run()
    assert card.driver.queues[1].poll() is not None
    assert not card.backend.sent


def test_configuration_and_features() -> None:
    card = Card(MemoryNet(queues=2, offloads=FULL), mtu=9000)
    read = card.transport.read_config
    assert bytes(read(n, 1) for n in range(6)) == MAC
    assert (read(6, 2), read(8, 2), read(10, 2)) == (1, 2, 9000)
    assert card.driver.features & NetFeature.HOST_TSO4
    assert card.backend.set == FULL
    plain = Card()
    assert not plain.driver.features & (NetFeature.CSUM | NetFeature.GUEST_TSO6 | NetFeature.MQ | NetFeature.MTU)


def test_dependent_features_are_refused_alone() -> None:
    card = Card(MemoryNet(offloads=FULL))
    with pytest.raises(DriverError):
        card.driver.start(int(Feature.VERSION_1 | NetFeature.HOST_TSO4))
    with pytest.raises(DriverError):
        card.driver.start(int(Feature.VERSION_1 | NetFeature.CTRL_RX))


def test_guest_offloads_change_at_run_time() -> None:
    card = Card(MemoryNet(offloads=FULL))
    bits = int(NetFeature.GUEST_CSUM | NetFeature.GUEST_TSO4)
    assert card.control(NetCtrlClass.GUEST_OFFLOADS, 0, struct.pack("<Q", bits)) == NET_OK
    assert card.backend.set == Offload.CSUM | Offload.TSO4
    assert card.control(NetCtrlClass.GUEST_OFFLOADS, 0, struct.pack("<Q", 1 << 10)) == NET_ERR
    assert card.control(NetCtrlClass.GUEST_OFFLOADS, 0, b"\0") == NET_ERR


def test_multiqueue_pairs_are_set() -> None:
    card = Card(MemoryNet(queues=4))
    assert card.control(NetCtrlClass.MQ, 0, b"\4\0") == NET_OK
    assert card.backend.active == 4
    assert card.control(NetCtrlClass.MQ, 0, b"\5\0") == NET_ERR
    assert card.control(NetCtrlClass.MQ, 0, b"\0\0") == NET_ERR
    card.driver.submit(7, [card.driver.buffer(HEADER + frame())])
    card.machine.run()
    assert card.backend.sent == [(3, HEADER + frame())]
    card.transport.write_status(0)
    assert card.device.active_pairs == 1


def received(card: Card, *frames: bytes) -> list[bytes]:
    """Frames that reach the driver, one buffer each."""
    queue = card.driver.queues[0]
    while len(card.posted) < len(frames):
        part = card.driver.buffer(2048)
        card.posted[queue.add([part])] = part
    card.transport.notify(0)
    card.machine.run()
    card.arrive(*frames)
    result = []
    while (used := queue.poll()) is not None:
        result.append(card.driver.read(card.posted.pop(used.token))[12 : used.written_bytes])
    return result


def test_filter_follows_modes_and_tables() -> None:
    card = Card()
    stranger, group = frame(OTHER), frame(bytes.fromhex("01005e000001"))
    assert len(received(card, stranger, group)) == 2
    assert card.control(NetCtrlClass.RX, NetCtrlRx.PROMISC, b"\0") == NET_OK
    card.transport.write_status(0)
    card.driver.start(card.driver.features)
    card.posted.clear()
    card.machine.run()
    assert card.control(NetCtrlClass.RX, NetCtrlRx.PROMISC, b"\0") == NET_OK
    assert received(card, stranger, group, frame(), frame(BROADCAST)) == [frame(), frame(BROADCAST)]
    table = struct.pack("<I", 1) + OTHER + struct.pack("<I", 1) + group[:6]
    assert card.control(NetCtrlClass.MAC, NetCtrlMac.TABLE_SET, table) == NET_OK
    assert received(card, stranger, group) == [stranger, group]


def test_filter_modes() -> None:
    filter_ = ReceiveFilter(MAC)
    filter_.modes[NetCtrlRx.PROMISC] = False
    group = bytes.fromhex("01005e000001")
    assert filter_.accepts(frame(MAC)[:18])
    assert not filter_.accepts(frame(OTHER)[:18])
    assert not filter_.accepts(frame(group)[:18])
    filter_.modes[NetCtrlRx.ALLUNI] = True
    filter_.modes[NetCtrlRx.ALLMULTI] = True
    assert filter_.accepts(frame(OTHER)[:18])
    assert filter_.accepts(frame(group)[:18])
    for mode, destination in (
        (NetCtrlRx.NOUNI, MAC), (NetCtrlRx.NOMULTI, group), (NetCtrlRx.NOBCAST, BROADCAST),
    ):  # fmt: skip
        filter_.modes[mode] = True
        assert not filter_.accepts(frame(destination)[:18])
    assert not filter_.accepts(b"")


def test_vlans_are_filtered_once_the_driver_names_one() -> None:
    card = Card()
    tagged = [MAC + OTHER + b"\x81\0" + struct.pack(">H", vlan) + b"\x08\0data" for vlan in (5, 0x2006)]
    assert card.control(NetCtrlClass.VLAN, NetCtrlVlan.ADD, struct.pack("<H", 5)) == NET_OK
    assert received(card, *tagged) == tagged[:1]
    assert card.control(NetCtrlClass.VLAN, NetCtrlVlan.DEL, struct.pack("<H", 5)) == NET_OK
    assert card.control(NetCtrlClass.VLAN, NetCtrlVlan.ADD, struct.pack("<H", 4096)) == NET_ERR


def test_address_can_be_changed() -> None:
    card = Card()
    assert card.control(NetCtrlClass.MAC, NetCtrlMac.ADDR_SET, OTHER) == NET_OK
    assert bytes(card.transport.read_config(n, 1) for n in range(6)) == OTHER
    assert card.control(NetCtrlClass.MAC, NetCtrlMac.ADDR_SET, OTHER[:5]) == NET_ERR


@pytest.mark.parametrize(
    ("kind", "command", "data"),
    [
        (77, 0, b""),
        (NetCtrlClass.RX, 9, b"\1"),
        (NetCtrlClass.RX, 0, b""),
        (NetCtrlClass.MAC, NetCtrlMac.TABLE_SET, b"\xff\xff\xff\xff"),
        (NetCtrlClass.MAC, NetCtrlMac.TABLE_SET, struct.pack("<I", 1) + MAC),
        (NetCtrlClass.MAC, 9, MAC),
        (NetCtrlClass.ANNOUNCE, 1, b""),
        (NetCtrlClass.MQ, 0, b"\1\0"),
    ],
)
def test_bad_control_command_is_an_error(kind: int, command: int, data: bytes) -> None:
    card = Card()
    assert card.control(kind, command, data) == NET_ERR


def test_huge_address_table_accepts_everything() -> None:
    card = Card()
    card.control(NetCtrlClass.RX, NetCtrlRx.PROMISC, b"\0")
    assert card.control(NetCtrlClass.MAC, NetCtrlMac.TABLE_SET, struct.pack("<I", 1000) + bytes(6004)) == NET_OK
    assert len(received(card, frame(OTHER))) == 1


def test_link_and_announcement_are_seen_by_the_driver() -> None:
    card = Card()
    card.machine.messages.clear()
    card.device.set_link(up=False)
    assert card.transport.read_config(6, 2) == 0
    assert card.machine.messages == [0]
    card.driver.submit(1, [card.driver.buffer(HEADER + frame())])
    card.machine.run()
    assert not card.backend.sent
    card.device.set_link(up=True)
    card.device.announce()
    assert card.transport.read_config(6, 2) == 3
    assert card.control(NetCtrlClass.ANNOUNCE, 0, b"") == NET_OK
    assert card.transport.read_config(6, 2) == 1


def test_reset_takes_no_old_buffers_along() -> None:
    card = Card()
    card.post(5, 2048)
    for _ in range(100):
        card.transport.write_status(0)
        card.machine.run()
        card.driver.start(card.driver.features, queue_size=16)
        card.machine.run()
    assert received(card, frame()) == [frame()]
    assert not card.transport.read_status() & Status.NEEDS_RESET


def test_packet_that_comes_just_after_a_reset_leaves_the_card_reading() -> None:
    """The worker had the event of it before the driver's reset, and what is left for it to do comes later."""
    card = Card()
    card.post(2, 2048)
    assert card.backend.reading[0]
    card.transport.write_status(0)
    card.driver.start(card.driver.features)
    card.driver.queues[0].add([card.driver.buffer(2048)])
    card.backend.readable(0)
    card.machine.run()
    assert card.backend.reading[0]
    card.arrive(frame())
    assert card.driver.queues[0].poll() is not None


def test_device_that_failed_leaves_packets_until_it_is_reset() -> None:
    card = Card()
    card.post(2, 2048)
    card.arrive(frame())
    assert card.backend.reading[0]
    card.driver.submit(1, [card.driver.buffer(HEADER), Segment(1 << 40, 64, is_write=False)])
    card.machine.run()
    assert card.transport.read_status() & Status.NEEDS_RESET
    card.arrive(frame())
    assert not card.backend.reading[0], "the loop would be called for it for ever"
    assert len(card.backend.waiting) == 1
    card.transport.write_status(0)
    card.driver.start(card.driver.features)
    card.machine.run()
    card.post(2, 2048)
    assert card.backend.reading[0]
    assert not card.backend.waiting


def test_legacy_driver_has_a_short_header() -> None:
    card = Card(legacy=True, without=int(NetFeature.MRG_RXBUF))
    assert card.backend.header_bytes == 10
    card.driver.submit(1, [card.driver.buffer(bytes(10) + frame())])
    card.machine.run()
    assert card.backend.sent == [(0, bytes(10) + frame())]
    parts = card.post(1, 1530)
    card.arrive(frame())
    assert card.driver.read(parts[0])[: 10 + len(frame())] == bytes(10) + frame()
