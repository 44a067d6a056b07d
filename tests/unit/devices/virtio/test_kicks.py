"""Kicks that a vCPU serves by itself, in compiled code, and how the driver hears of what was sent."""

from __future__ import annotations

import contextlib
import os
import struct
import threading
import time
from typing import TYPE_CHECKING

import pytest

from pyhyve.accel.api import ExitKind
from pyhyve.accel.routes import MessageRoute
from pyhyve.cpu.engine.queue_layout import Gate
from pyhyve.devices.virtio.spec import Feature

from .test_net import HEADER, Card, frame
from .test_walked import WiredCard, WiredNet, make_walker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyhyve.accel.emulator import EmulatorVm
    from pyhyve.memory.guest import GuestMemory


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
