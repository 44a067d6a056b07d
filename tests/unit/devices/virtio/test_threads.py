"""Devices on their own threads: kicks, completions, resets and interrupts at the same time."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING

import pytest

from pyhyve.backends.stream import StreamNet
from pyhyve.devices.virtio.block import BlockOptions, VirtioBlock
from pyhyve.devices.virtio.net import NetOptions, VirtioNet
from pyhyve.devices.virtio.spec import BlockRequestType, Status
from pyhyve.testing.virtio_driver import VirtioDriver
from pyhyve.testing.virtio_driver_transport import MiniMachine

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class SlowDisk:
    """Every request takes a random little while on a thread of the pool."""

    size_bytes = 1 << 20
    readonly = False

    def __init__(self) -> None:
        self.data = bytearray(self.size_bytes)
        self.active = 0

    def try_read(self, views: Sequence[memoryview], offset: int, length: int) -> bool:
        if random.getrandbits(1):
            return False
        self.read(views, offset)
        return True

    def _wait(self) -> None:
        self.active += 1
        time.sleep(random.random() * 0.0005)
        self.active -= 1

    def read(self, views: Sequence[memoryview], offset: int) -> None:
        self._wait()
        for view in views:
            view[:] = self.data[offset : offset + len(view)]
            offset += len(view)

    def write(self, views: Sequence[memoryview], offset: int) -> None:
        self._wait()
        for view in views:
            self.data[offset : offset + len(view)] = view
            offset += len(view)

    def flush(self) -> None:
        self._wait()

    def discard(self, offset: int, length: int) -> None:
        self._wait()

    def write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        self._wait()

    def close(self) -> None:
        pass


@pytest.fixture
def machine() -> Iterator[MiniMachine]:
    machine = MiniMachine()
    machine.loop.start()
    yield machine
    machine.close()


def wait_used(driver: VirtioDriver, index: int) -> int:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        used = driver.queues[index].poll()
        if used is not None:
            return used.token
        time.sleep(0.0001)
    raise TimeoutError


def test_disk_is_reset_under_load_100_times(machine: MiniMachine, caplog: pytest.LogCaptureFixture) -> None:
    disk = SlowDisk()
    device = VirtioBlock(machine.memory, machine.loop, disk, BlockOptions(queues=2, queue_size=64))
    transport = machine.plug_pci(device)
    driver = VirtioDriver(transport, machine.allocator)
    requests = []
    for n in range(16):
        kind = (BlockRequestType.IN, BlockRequestType.OUT, BlockRequestType.FLUSH)[n % 3]
        header = driver.buffer(struct.pack("<IIQ", kind, 0, n))
        data = [driver.buffer(bytes(512))] if kind == BlockRequestType.OUT else [driver.buffer(512)]
        requests.append([header, *(data if kind != BlockRequestType.FLUSH else []), driver.buffer(1)])
    free = machine.allocator.position
    for turn in range(100):
        machine.allocator.rewind(free)
        driver.start()
        for index in range(2):
            for request in requests:
                driver.queues[index].add(request)
            transport.notify(index)
        if turn % 10 == 0:
            for index in range(2):
                for _ in requests:
                    wait_used(driver, index)
        else:
            time.sleep(random.random() * 0.002)
        transport.write_status(0)
        assert disk.active == 0
        before = machine.memory.read(0x10000, free - 0x10000)
        time.sleep(0.0005)
        assert machine.memory.read(0x10000, free - 0x10000) == before
    device.close()
    assert not caplog.records


def test_every_request_of_many_threads_completes(machine: MiniMachine) -> None:
    device = VirtioBlock(machine.memory, machine.loop, SlowDisk(), BlockOptions(queues=4, queue_size=64))
    transport = machine.plug_pci(device)
    driver = VirtioDriver(transport, machine.allocator)
    driver.start()
    parts = [
        [
            driver.buffer(struct.pack("<IIQ", BlockRequestType.IN, 0, index)),
            driver.buffer(512),
            driver.buffer(1),
        ]
        for index in range(4)
    ]
    lock = threading.Lock()
    failures: list[BaseException] = []

    def work(index: int) -> None:
        try:
            for _ in range(100):
                driver.queues[index].add(parts[index])
                if driver.queues[index].needs_kick():
                    with lock:
                        transport.notify(index)
                wait_used(driver, index)
        except BaseException as error:  # noqa: BLE001 - reported below
            failures.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    device.close()
    assert not failures


def test_card_is_reset_under_traffic_100_times(machine: MiniMachine, caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = socket.socketpair()
    device = VirtioNet(machine.memory, machine.loop, StreamNet(ours), NetOptions(bytes.fromhex("525400123456")))
    device.start(machine.loop)
    transport = machine.plug_pci(device)
    driver = VirtioDriver(transport, machine.allocator)
    stop = threading.Event()
    frame = b"\xff" * 6 + b"\x02" + bytes(800)
    data = len(frame).to_bytes(4, "big") + frame

    def flood() -> None:
        theirs.settimeout(0.05)
        rest = memoryview(data)
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):  # the card takes nothing for a while
                rest = rest[theirs.send(rest) :] or memoryview(data)

    def drain() -> None:
        copy = theirs.dup()
        copy.settimeout(0.05)
        while not stop.is_set():
            try:
                copy.recv(1 << 16)
            except TimeoutError:
                continue
        copy.close()

    threads = [threading.Thread(target=flood), threading.Thread(target=drain)]
    parts = [driver.buffer(2048) for _ in range(32)]
    packet = [driver.buffer(bytes(12) + frame)]
    free = machine.allocator.position
    driver.start()
    for thread in threads:
        thread.start()
    received = 0
    for _ in range(100):
        machine.allocator.rewind(free)
        driver.start(queue_size=64)
        for part in parts:
            driver.queues[0].add([part])
        for _ in range(8):
            driver.queues[1].add(packet)
        transport.notify(0)
        transport.notify(1)
        time.sleep(0.001)
        while driver.queues[0].poll() is not None:
            received += 1
        assert not transport.read_status() & Status.NEEDS_RESET
        transport.write_status(0)
    stop.set()
    for thread in threads:
        thread.join()
    device.close()
    theirs.close()
    assert received
    assert not caplog.records
