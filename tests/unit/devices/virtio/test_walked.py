"""Queues that the emulator's compiled code serves, through the same drivers and against what the device does itself."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest

from pyhyve.accel.emulator import EmulatorVm
from pyhyve.accel.emulator_queues import EngineQueue
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


def test_driver_is_asked_to_tell_of_more_buffers_than_were_looked_at(card: WiredCard) -> None:
    """A driver compares where it is asked to tell with what it added last, which was looked at already."""
    card.post(3, 600)
    queue = card.driver.queues[0]
    queue.needs_kick()
    card.arrive(frame(payload=random.randbytes(3000)))
    assert card.lengths() == []
    parts = [card.driver.buffer(600) for _ in range(3)]
    for part in parts:
        queue.add([part])
    assert queue.needs_kick()
    card.transport.notify(0)
    card.machine.run()
    assert len(card.lengths()) == 6


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
