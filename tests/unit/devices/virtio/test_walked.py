"""Queues that the emulator's compiled code serves, through the same drivers and against what the device does itself."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from pyhyve.accel.api import ExitKind
from pyhyve.accel.emulator import EmulatorVm
from pyhyve.accel.emulator_queues import EngineQueue
from pyhyve.accel.routes import MessageRoute
from pyhyve.cpu.engine.queue_layout import Gate
from pyhyve.devices.virtio.block import BlockOptions
from pyhyve.devices.virtio.spec import BlockRequestType, BlockStatus, Feature, NetCtrlClass, NetCtrlRx

from .test_block import PATTERN, SECTORS, Disk, raw_backend
from .test_net import BROADCAST, HEADER, MAC, OTHER, Card, MemoryNet, frame

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pyhyve.memory.guest import GuestMemory

IN, OUT, FLUSH = BlockRequestType.IN, BlockRequestType.OUT, BlockRequestType.FLUSH


def make_walker(memory: GuestMemory) -> EmulatorVm:
    vm = EmulatorVm(memory)
    vm.create_vcpu(0)
    return vm


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """What compiled code did: kind, status, and how much it served."""
    seen: list[tuple[str, int, int]] = []
    run = EngineQueue.run

    def watched(self: EngineQueue, kind: str, *position: int) -> tuple[int, ...]:
        result: tuple[int, ...] = run(self, kind, *position)  # type: ignore[call-arg]  # four numbers
        seen.append((kind, result[4], result[5]))
        return result

    monkeypatch.setattr(EngineQueue, "run", watched)
    return seen


def served(runs: list[tuple[str, int, int]], kind: str) -> int:
    return sum(count for found, _, count in runs if found == kind)


# -- disk ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(SECTORS * 512))
    return path


@pytest.fixture(params=["plain", "indirect", "event-index"])
def disk(path: Path, request: pytest.FixtureRequest) -> Iterator[Disk]:
    without = {"plain": Feature.INDIRECT_DESC | Feature.EVENT_IDX, "indirect": Feature.EVENT_IDX, "event-index": 0}
    probe = Disk(raw_backend(path), make_walker=make_walker)
    features = probe.transport.read_features() & ~int(without[request.param])
    probe.close()
    disk = Disk(raw_backend(path), BlockOptions(serial="S", queues=2), features=features, make_walker=make_walker)
    yield disk
    disk.close()


def test_disk_reads_what_was_written_without_its_own_code(disk: Disk, path: Path, runs: list[Any]) -> None:
    assert disk.request(OUT, 7, PATTERN)[0] == BlockStatus.OK
    assert disk.request(IN, 7, 512) == (BlockStatus.OK, PATTERN)
    assert disk.request(IN, 6, 1536, queue=1)[1] == bytes(512) + PATTERN + bytes(512)
    assert path.read_bytes()[7 * 512 : 8 * 512] == PATTERN
    assert served(runs, "disk") == 3
    statistics = disk.device.statistics
    assert (statistics.rd_operations, statistics.rd_bytes) == (2, 2048)
    assert (statistics.wr_operations, statistics.wr_bytes, statistics.wr_highest_offset) == (1, 512, 8 * 512)


def test_disk_leaves_the_rest_to_its_own_code(disk: Disk, runs: list[Any]) -> None:
    assert disk.request(FLUSH, 0)[0] == BlockStatus.OK
    assert disk.request(OUT, 0, PATTERN)[0] == BlockStatus.OK
    assert disk.request(IN, SECTORS, 512)[0] == BlockStatus.IOERR
    assert disk.request(IN, SECTORS - 1, 1024)[0] == BlockStatus.IOERR
    assert disk.request(OUT, (1 << 64) - 1, PATTERN)[0] == BlockStatus.IOERR
    assert disk.request(IN, 1, 100)[0] == BlockStatus.IOERR
    assert disk.request(99, 1, 512)[0] == BlockStatus.UNSUPP
    assert served(runs, "disk") == 0
    assert disk.request(IN, 0, 512) == (BlockStatus.OK, PATTERN)
    assert served(runs, "disk") == 1


def test_disk_serves_parts_all_over_memory_and_wraps_its_ring(disk: Disk, path: Path, runs: list[Any]) -> None:
    rng = random.Random(5)
    contents = bytearray(path.read_bytes())
    parts = [disk.driver.buffer(4096) for _ in range(8)]
    rng.shuffle(parts)
    header, status = disk.driver.buffer(bytes(16)), disk.driver.buffer(1)
    memory = disk.machine.memory
    for turn in range(600):
        chosen = parts[: rng.randrange(1, 8)]
        sector = rng.randrange(1, SECTORS - 8 * len(chosen))
        size = 4096 * len(chosen)
        writes = turn & 1
        memory.write(header.gpa, struct.pack("<IIQ", OUT if writes else IN, 0, sector))
        memory.write(status.gpa, b"\xee")
        segments = [type(part)(part.gpa, 4096, not writes) for part in chosen]
        data = rng.randbytes(size)
        for index, part in enumerate(chosen):
            memory.write(part.gpa, data[index * 4096 : index * 4096 + 4096])
        disk.driver.submit(0, [header, *segments, status])
        used = disk.wait()
        assert used.written_bytes == 1 + (0 if writes else size)
        assert memory.read(status.gpa, 1) == b"\0"
        if writes:
            contents[sector * 512 : sector * 512 + size] = data
        else:
            found = b"".join(memory.read(part.gpa, 4096) for part in chosen)
            assert found == contents[sector * 512 : sector * 512 + size]
    assert path.read_bytes() == contents
    assert served(runs, "disk") == 600


def test_disk_write_to_code_is_seen(path: Path) -> None:
    """A page that holds translated code is read into: the vCPU runs what was read."""
    walkers = []

    def make(memory: GuestMemory) -> EmulatorVm:
        walkers.append(make_walker(memory))
        return walkers[0]

    code = [b"\xb8" + struct.pack("<H", number) + b"\xf4" for number in (1, 2)]  # MOV AX, number; HLT
    path.write_bytes(bytes(512) + code[1].ljust(512, b"\xf4") + bytes((SECTORS - 2) * 512))
    disk = Disk(raw_backend(path), make_walker=make)
    page = disk.driver.buffer(512)
    disk.machine.memory.write(page.gpa, code[0])
    (vcpu,) = walkers[0].vcpus

    def result() -> int:
        vcpu.write_registers({"cs.base": page.gpa & ~0xF, "rip": page.gpa & 0xF})
        vcpu.run()
        return vcpu.read_registers()["rax"] & 0xFFFF

    assert [result(), result()] == [1, 1]
    header, status = disk.driver.buffer(struct.pack("<IIQ", IN, 0, 1)), disk.driver.buffer(1)
    disk.driver.submit(0, [header, type(page)(page.gpa, 512, True), status])
    disk.wait()
    assert result() == 2
    disk.close()


# -- network ------------------------------------------------------------------------------------------------------


class WiredNet(MemoryNet):
    """A network of sockets; `far` is the other end."""

    def __init__(self) -> None:
        super().__init__()
        self._near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._near, self.far):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            end.setblocking(False)

    def packet_fd(self, queue: int) -> int:
        assert queue == 0
        return self._near.fileno()

    def send(self, queue: int, views: Sequence[memoryview], length: int) -> bool:
        os.writev(self.packet_fd(queue), views)
        return True

    def receive(self, queue: int, views: Sequence[memoryview]) -> int:
        try:
            return os.readv(self.packet_fd(queue), views)
        except BlockingIOError:
            return 0

    def taken(self) -> list[bytes]:
        packets = []
        with contextlib.suppress(BlockingIOError):
            while True:
                packets.append(self.far.recv(1 << 17))
        return packets

    def close(self) -> None:
        self._near.close()
        self.far.close()


class WiredCard(Card):
    backend: WiredNet

    def __init__(self, *, without: int = 0) -> None:
        super().__init__(WiredNet(), without=without, make_walker=make_walker)

    def arrive(self, *frames: bytes) -> None:
        for data in frames:
            self.backend.far.send(HEADER + data)
        self.backend.readable(0)
        self.machine.run()

    def lengths(self) -> list[int]:
        return [used.written_bytes for used in iter(self.driver.queues[0].poll, None)]


@pytest.fixture(params=["plain", "event-index"])
def card(request: pytest.FixtureRequest) -> Iterator[WiredCard]:
    card = WiredCard(without=int(Feature.EVENT_IDX) if request.param == "plain" else 0)
    yield card
    card.device.close()
    card.machine.close()


def test_packets_go_out_in_order(card: WiredCard, runs: list[Any]) -> None:
    sent = []
    for n in range(600):
        sent.append(HEADER + frame(payload=b"%d" % n))
        card.driver.queues[1].add([card.driver.buffer(HEADER), card.driver.buffer(sent[-1][12:])])
        if n % 50 == 49:
            card.transport.notify(1)
            card.machine.run()
            assert len(list(iter(card.driver.queues[1].poll, None))) == 50
            assert card.backend.taken() == sent
            sent.clear()
    assert served(runs, "send") == 600


def test_packets_fill_as_many_buffers_as_they_need(card: WiredCard, runs: list[Any]) -> None:
    for _ in range(10):  # past the end of the ring and of what is prepared ahead
        parts = card.post(80, 1024)
        big = frame(payload=random.randbytes(10240))
        card.arrive(big, frame(), big)
        total = len(big) + 12
        pieces = [1024] * (total // 1024) + [total % 1024]
        assert card.lengths() == [*pieces, len(frame()) + 12, *pieces]
        data = b"".join(card.driver.read(part) for part in parts)
        assert data[:total] == bytes(10) + struct.pack("<H", len(pieces)) + big
        start = len(pieces) * 1024
        assert data[start : start + 12 + len(frame())] == bytes(10) + b"\1\0" + frame()
        start += 1024
        assert data[start : start + total] == bytes(10) + struct.pack("<H", len(pieces)) + big
        card.driver.start(card.driver.features)
        card.machine.run()
    assert served(runs, "receive") == 30


def test_packet_waits_for_enough_buffers(card: WiredCard, runs: list[Any]) -> None:
    card.post(2, 600)
    long, short = frame(payload=random.randbytes(1300)), frame(payload=b"short")
    card.arrive(long, short)
    assert card.lengths() == []
    parts = card.post(2, 600)
    assert card.lengths() == [600, 600, len(long) + 12 - 1200, len(short) + 12]
    assert card.driver.read(parts[0])[: len(long) + 12 - 1200] == long[1188:]
    card.arrive(long)
    card.post(1, 600)
    assert card.lengths() == []
    assert not card.backend.reading[0]
    card.post(2, 600)
    assert card.lengths() == [600, 600, len(long) + 12 - 1200]
    card.post(1, 600)
    assert card.backend.reading[0]
    assert served(runs, "receive") == 3


def test_packet_that_waits_for_buffers_survives_a_pause(card: WiredCard) -> None:
    card.post(1, 600)
    long = frame(payload=random.randbytes(1000))
    card.arrive(long)
    card.device.suspend()
    card.device.resume()
    card.machine.run()
    card.post(1, 600)
    assert card.lengths() == [600, len(long) + 12 - 600]


def test_packet_longer_than_the_ring_is_dropped(card: WiredCard) -> None:
    card.driver.start(card.driver.features, queue_size=4)
    card.machine.run()
    card.post(4, 600)
    card.arrive(frame(payload=bytes(4000)), frame(payload=b"short"))
    assert card.lengths() == [len(frame(payload=b"short")) + 12]


def test_tiny_buffers_are_filled_by_the_devices_own_code(card: WiredCard, runs: list[Any]) -> None:
    card.post(8, 20)
    card.arrive(frame())
    assert card.lengths() == [20, len(frame()) + 12 - 20]
    assert served(runs, "receive") == 0


def test_frames_for_others_are_dropped(card: WiredCard, runs: list[Any]) -> None:
    card.post(8, 600)
    assert card.control(NetCtrlClass.RX, NetCtrlRx.PROMISC, b"\0") == 0
    for_all = frame(BROADCAST, b"all")
    card.arrive(frame(OTHER), frame(MAC, b"one"), frame(OTHER), for_all, frame(OTHER))
    assert card.lengths() == [12 + len(frame(MAC, b"one")), 12 + len(for_all)]
    assert served(runs, "receive") == 2
    for _ in range(100):
        card.arrive(frame(OTHER))
    assert card.lengths() == []


def test_pulled_cable_carries_nothing(card: WiredCard) -> None:
    card.post(4, 600)
    card.device.set_link(up=False)
    card.arrive(frame())
    card.driver.queues[1].add([card.driver.buffer(HEADER + frame())])
    card.transport.notify(1)
    card.machine.run()
    assert card.lengths() == []
    assert card.backend.taken() == []
    card.device.set_link(up=True)
    card.arrive(frame())
    assert card.lengths() == [12 + len(frame())]


# -- kicks that a vCPU serves by itself ---------------------------------------------------------------------------


class KickingCard(WiredCard):
    """A card whose send queue is kicked by guest code: MOV [4], AX; HLT."""

    KICKS = 0xD000_0000

    def __init__(self, *, without: int = 0) -> None:
        self.vm: EmulatorVm

        def make(memory: GuestMemory) -> EmulatorVm:
            self.vm = make_walker(memory)
            self.device.kick_address = lambda index: self.KICKS + 4 * index
            return self.vm

        Card.__init__(self, WiredNet(), without=without, make_walker=make)
        self.code = self.driver.buffer(b"\xa3\x04\x00\xf4")
        self.parts = [self.driver.buffer(HEADER + frame(payload=bytes(8))) for _ in range(64)]
        self.added = 0

    def add(self) -> bytes:
        """Put the next packet into the send queue."""
        part = self.parts[self.added % len(self.parts)]
        packet = HEADER + frame(payload=struct.pack("<Q", self.added))
        self.machine.memory.write(part.gpa, packet)
        self.driver.queues[1].add([part])
        self.added += 1
        return packet

    def poll(self) -> None:
        """Take back what was sent, and ask for no interrupts."""
        while self.driver.queues[1].poll() is not None:
            pass
        self.driver.queues[1].set_interrupts(enabled=False)

    def kick(self) -> bool:
        """Run the guest code; whether the device heard of the kick."""
        vcpu = self.vm.vcpus[0]
        at = self.code.gpa
        vcpu.write_registers({"cs.base": at & ~0xF, "rip": at & 0xF, "ds.base": self.KICKS})
        if vcpu.run().kind == ExitKind.HALT:
            return False
        self.device.kick(1)
        assert vcpu.run().kind == ExitKind.HALT
        return True


@pytest.fixture(params=["plain", "event-index"])
def kicking(request: pytest.FixtureRequest) -> Iterator[KickingCard]:
    card = KickingCard(without=int(Feature.EVENT_IDX) if request.param == "plain" else 0)
    card.driver.queues[1].set_interrupts(enabled=False)
    yield card
    card.device.close()
    card.machine.close()
    card.vm.close()


def test_kick_is_served_without_the_device(kicking: KickingCard) -> None:
    sent = []
    for _ in range(200):
        sent.append(kicking.add())
        assert not kicking.kick()
        kicking.poll()
    assert kicking.backend.taken() == sent
    assert kicking.device.queues[1].ring is not None
    assert kicking.device.queues[1].ring.in_flight == 0


def test_device_hears_of_a_kick_when_an_interrupt_is_due(kicking: KickingCard) -> None:
    kicking.driver.queues[1].set_interrupts(enabled=True)
    kicking.add()
    assert kicking.kick()
    kicking.machine.run()
    assert 1 in kicking.device._quiet
    heard = 0
    for _ in range(kicking.driver.queues[1].size // 4 + 1):
        assert kicking.device._timer_runs
        kicking.add()
        heard += kicking.kick()
    kicking.machine.run()
    assert heard <= 1, "the timer tells the driver, or its filling ring"
    for _ in range(2):
        deadline = time.monotonic() + 60
        while kicking.device._timer_runs and not kicking.machine.loop.next_call_is_due:
            assert time.monotonic() < deadline
            time.sleep(0.0001)
        kicking.machine.run_events()
    assert kicking.machine.messages.count(2) == 1
    assert not kicking.device._quiet


def test_stopped_device_serves_no_kick(kicking: KickingCard) -> None:
    kicking.add()
    kicking.kick()
    kicking.machine.run()
    kicking.device.suspend()
    kicking.backend.taken()
    sent = kicking.add()
    assert kicking.kick()
    assert kicking.backend.taken() == []
    kicking.device.resume()
    kicking.machine.run()
    assert kicking.backend.taken() == [sent]
    kicking.device.set_link(up=False)
    kicking.add()
    assert kicking.kick()
    assert kicking.backend.taken() == []
    kicking.transport.write_status(0)
    kicking.add()
    assert kicking.kick()
    assert kicking.backend.taken() == []


def test_device_is_handed_the_queue_that_it_waits_for(kicking: KickingCard) -> None:
    """A vCPU that sends again and again must not keep it."""
    kicking.add()
    kicking.kick()
    kicking.machine.run()
    kicking.backend.taken()
    walked = kicking.device.queues[1].walked
    assert walked is not None
    near = kicking.backend.packet_fd(0)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(near, b"full")
    os.set_blocking(near, True)
    kicking.add()
    vcpu = threading.Thread(target=kicking.kick, daemon=True)
    vcpu.start()

    def wait_gate(state: Gate) -> None:
        deadline = time.monotonic() + 60
        while walked.get("gate") != state:
            assert time.monotonic() < deadline, f"not {state!r}"
            time.sleep(0.0005)

    wait_gate(Gate.HELD)  # in the system call
    seen: list[int] = []

    def use() -> None:
        with kicking.device.lock:
            seen.append(walked.get("gate"))

    device = threading.Thread(target=use, daemon=True)
    device.start()
    wait_gate(Gate.WANTED)
    assert seen == []
    kicking.backend.taken()
    device.join(60)
    vcpu.join(60)
    assert not device.is_alive()
    assert not vcpu.is_alive()
    assert seen == [Gate.CLOSED]
    wait_gate(Gate.OPEN)
    os.set_blocking(near, False)


VECTOR = 0x51


class Telling:
    """A card whose vCPU tells the driver of sent packets by itself; it stands still between kicks."""

    def __init__(self, card: KickingCard) -> None:
        self.card = card
        (vcpu,) = card.vm.vcpus
        self.vectors = vcpu.apic_vectors
        self.vectors.enabled = True
        self.route = MessageRoute(self.vectors, VECTOR, vcpu.look_for_interrupts)
        card.device.queue_route = lambda index: self.route if index == 1 else None
        card.add()
        card.kick()
        card.machine.run()
        walked = card.device.queues[1].walked
        assert walked is not None
        self.walked = walked
        self.take_back()
        card.driver.queues[1].set_interrupts(enabled=True)

    def take_back(self) -> None:
        while self.card.driver.queues[1].poll() is not None:
            pass

    def send(self, count: int = 1) -> bool:
        """Send packets with one kick; whether the device heard of it."""
        for _ in range(count):
            self.card.add()
        return self.card.kick()

    @property
    def told(self) -> bool:
        """Whether the vCPU has an interrupt, which is taken away."""
        irr, self.vectors.irr = self.vectors.irr, 0
        assert irr in {0, 1 << VECTOR}
        return irr != 0


@pytest.fixture
def telling(kicking: KickingCard) -> Telling:
    telling = Telling(kicking)
    assert telling.send(), "it starts the timer that looks after vCPUs"
    kicking.machine.run()
    telling.take_back()
    assert not telling.told
    return telling


def test_vcpu_tells_of_sent_packets_when_it_sends_more_later(telling: Telling) -> None:
    assert not telling.send()
    assert telling.walked.get("quiet_at")
    time.sleep(0.002)
    assert not telling.told, "nobody has looked"
    assert not telling.send()
    assert telling.told
    assert telling.card.machine.messages == []


def test_vcpu_tells_of_many_sent_packets_at_once(telling: Telling) -> None:
    assert not telling.send(telling.card.driver.queues[1].size // 4 + 1)
    assert telling.told
    assert not telling.walked.get("quiet_at")


def test_vcpu_tells_nothing_that_is_not_wanted(telling: Telling) -> None:
    assert not telling.send()
    assert telling.walked.get("quiet_at")
    telling.take_back()
    queue = telling.card.driver.queues[1]
    queue.set_interrupts(enabled=queue.event_index)  # with the event index: one for what comes next
    time.sleep(0.002)
    assert not telling.send()
    assert not telling.told


def test_device_tells_what_it_finds_untold(telling: Telling) -> None:
    card = telling.card
    assert not telling.send()
    with card.device.lock:
        pass
    assert 1 in card.device._quiet
    assert not telling.walked.get("quiet_at")
    deadline = time.monotonic() + 60
    while 2 not in card.machine.messages:
        assert time.monotonic() < deadline
        card.machine.run_events()
    assert not telling.told


def test_device_looks_after_a_vcpu_that_does_not_go_on(telling: Telling) -> None:
    card = telling.card
    card.machine.messages.clear()
    assert not telling.send()
    deadline = time.monotonic() + 60
    while 2 not in card.machine.messages:
        assert time.monotonic() < deadline
        card.machine.run_events()
    while card.device._timer_runs:
        assert time.monotonic() < deadline
        card.machine.run_events()
    telling.take_back()
    assert telling.send(), "and it must be started again"


def test_device_tells_once_the_way_is_unknown(telling: Telling) -> None:
    assert not telling.send()
    telling.card.device.queue_route = lambda _index: None
    telling.route.end()
    assert telling.walked.get("target") == 0
    assert 1 in telling.card.device._quiet
    telling.take_back()
    telling.send(100)
    telling.card.machine.run()
    assert not telling.told
    assert 2 in telling.card.machine.messages


def test_kicks_beside_the_device_lose_nothing(kicking: KickingCard) -> None:
    """The device takes the queue back again and again, on another thread."""
    kicking.machine.loop.start()
    ended = threading.Event()
    turns = 0

    def disturb() -> None:
        nonlocal turns
        while not ended.is_set():
            turns += 1
            if turns % 3 == 0:
                kicking.device.suspend()
                kicking.device.resume()
            elif turns % 3 == 1:
                kicking.device.announce()
            else:
                kicking.device.notify(1)

    thread = threading.Thread(target=disturb, daemon=True)
    thread.start()
    found: list[bytes] = []
    sent = []
    try:
        for _ in range(1500):
            sent.append(kicking.add())
            kicking.kick()
            deadline = time.monotonic() + 60
            while (used := kicking.driver.queues[1].poll()) is None:
                assert time.monotonic() < deadline, f"packet {len(sent)} was not sent"
            assert used.written_bytes == 0
            found += kicking.backend.taken()
    finally:
        ended.set()
        thread.join()
    assert turns
    assert found == sent


# -- packed rings -------------------------------------------------------------------------------------------------


def test_packed_rings_are_offered_beside_walked_ones_only_when_chosen(path: Path, runs: list[Any]) -> None:
    for chosen in (None, False, True):
        disk = Disk(raw_backend(path), packed=True, chosen_packed=chosen, make_walker=make_walker)
        assert disk.device.offers_packed == bool(chosen)
        assert disk.device.has_feature(Feature.RING_PACKED) == bool(chosen)
        assert disk.request(OUT, 3, PATTERN)[0] == BlockStatus.OK
        assert disk.request(IN, 3, 512) == (BlockStatus.OK, PATTERN)
        assert served(runs, "disk") == (0 if chosen else 2)
        runs.clear()
        disk.close()


def test_driver_without_packed_rings_is_walked_although_they_are_offered(path: Path, runs: list[Any]) -> None:
    disk = Disk(raw_backend(path), packed=False, chosen_packed=True, make_walker=make_walker)
    assert disk.device.offers_packed
    assert disk.request(OUT, 3, PATTERN)[0] == BlockStatus.OK
    assert served(runs, "disk") == 1
    disk.close()
