"""The memory balloon (VIRTIO 1.2, 5.5)."""

from __future__ import annotations

import os
import struct

from pyhyve.devices.virtio.balloon import BalloonOptions, VirtioBalloon
from pyhyve.devices.virtio.spec import BalloonFeature, Feature
from pyhyve.testing.virtio_driver import Segment, VirtioDriver
from pyhyve.testing.virtio_driver_transport import MiniMachine


class Balloon:
    def __init__(self, *, without: int = 0) -> None:
        self.machine = MiniMachine()
        self.reports: list[dict[str, int]] = []
        self.changes: list[int] = []
        options = BalloonOptions(on_statistics=self.reports.append, on_change=self.changes.append)
        self.device = VirtioBalloon(self.machine.memory, self.machine.loop, options)
        self.transport = self.machine.plug_pci(self.device)
        self.driver = VirtioDriver(self.transport, self.machine.allocator)
        self.driver.start(self.transport.read_features() & ~int(Feature.RING_PACKED) & ~without)

    def used_bytes(self) -> int:
        return os.fstat(self.machine.memory.regions[0].fd).st_blocks * 512

    def send(self, queue: int, parts: list[Segment]) -> None:
        self.driver.submit(queue, parts)
        self.machine.run()

    def touch(self, gpa: int, length: int) -> None:
        self.machine.memory.write(gpa, b"\xaa" * length)


def test_inflated_pages_return_to_the_host_and_read_zero() -> None:
    balloon = Balloon()
    balloon.touch(0x800000, 0x100000)
    before = balloon.used_bytes()
    frames = [*range(0x801, 0x840), *range(0x880, 0x8C0), 0x8FF]
    balloon.send(0, [balloon.driver.buffer(struct.pack(f"<{len(frames)}I", *frames))])
    assert balloon.driver.queues[0].poll() is not None
    assert before - balloon.used_bytes() == len(frames) * 4096
    assert balloon.machine.memory.read(0x801000, 16) == bytes(16)
    assert balloon.machine.memory.read(0x800FFF, 1) == b"\xaa"
    balloon.send(1, [balloon.driver.buffer(struct.pack("<I", 0x801))])
    assert balloon.driver.queues[1].poll() is not None


def test_pages_outside_memory_are_ignored() -> None:
    balloon = Balloon()
    balloon.send(0, [balloon.driver.buffer(struct.pack("<4I", 0xFFFFFFFF, 0x1000, 0xFFF, 0xFFFFFFFE)[:15])])
    assert balloon.driver.queues[0].poll() is not None


def test_target_and_actual_are_configuration() -> None:
    balloon = Balloon()
    balloon.machine.messages.clear()
    balloon.device.set_target(5 * 4096 + 7)
    assert balloon.machine.messages == [0]
    assert balloon.transport.read_config(0, 4) == 5
    balloon.transport.write_config(4, 4, 3)
    balloon.transport.write_config(4, 4, 3)
    assert balloon.device.actual_bytes == 3 * 4096
    assert balloon.changes == [3 * 4096]
    assert balloon.device.target_bytes == 5 * 4096
    balloon.transport.write_status(0)
    assert balloon.device.actual_bytes == 0


def test_statistics_are_fetched_on_request() -> None:
    balloon = Balloon()
    stats = balloon.driver.buffer(struct.pack("<HQHQHQ", 4, 1000, 5, 2000, 99, 1))
    balloon.send(2, [stats])
    assert balloon.reports == [{"memfree": 1000, "memtot": 2000}]
    assert balloon.driver.queues[2].poll() is None
    balloon.device.request_statistics()
    assert balloon.driver.queues[2].poll() is not None
    balloon.device.request_statistics()
    balloon.machine.memory.write(stats.gpa, struct.pack("<HQ", 4, 900))
    balloon.send(2, [stats])
    assert balloon.device.statistics["memfree"] == 900


def test_free_pages_are_reported() -> None:
    balloon = Balloon()
    balloon.touch(0x800000, 0x200000)
    before = balloon.used_bytes()
    balloon.send(3, [Segment(0x800000, 0x200000, is_write=True)])
    assert balloon.driver.queues[3].poll() is not None
    assert before - balloon.used_bytes() == 0x200000
    assert balloon.machine.memory.read(0x800000, 8) == bytes(8)


def test_queue_of_reporting_moves_up_without_statistics() -> None:
    balloon = Balloon(without=int(BalloonFeature.STATS_VQ))
    balloon.touch(0x800000, 0x100000)
    before = balloon.used_bytes()
    balloon.send(2, [Segment(0x800000, 0x100000, is_write=True)])
    assert before - balloon.used_bytes() == 0x100000
