"""Packets that a vCPU takes by itself while it sleeps in HLT, and all that stops it."""

from __future__ import annotations

import contextlib
import fcntl
import random
import struct
import termios
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pyhyve.accel.api import ExitKind
from pyhyve.accel.emulator import EmulatorVm
from pyhyve.accel.emulator_queues import EngineQueue
from pyhyve.accel.routes import MessageRoute
from pyhyve.devices.virtio.net import NetOptions, VirtioNet
from pyhyve.devices.virtio.spec import Feature, NetCtrlClass, NetCtrlRx
from pyhyve.machine.notify import notify_registrar
from pyhyve.testing.virtio_driver import Segment, VirtioDriver
from pyhyve.testing.virtio_driver_transport import MiniMachine

from .test_net import BROADCAST, HEADER, MAC, OTHER, frame
from .test_walked import WiredCard, WiredNet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CODE, HANDLER, COUNT = 0x1000, 0x2000, 0x500
VECTOR = 0x41
SENT_COUNT = 0x502
END = b"\x66\x31\xc0\x26\x66\xa3\xb0\x00\xcf"
"""XOR EAX, EAX; MOV ES:[B0h], EAX (end of interrupt); IRET."""
SEND_DATA = 2
RECEIVE_DATA = 1
"""Of the receive queue's message."""
PATIENCE_S = 60


def wait_until(what: Callable[[], object], message: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline, message
        time.sleep(0.0002)


class WatchedNet(WiredNet):
    """As a tap: what its end brings is the loop's, after those who watched it before."""

    watched: Callable[[bool], None]

    def set_reading(self, queue: int, *, enabled: bool) -> None:
        super().set_reading(queue, enabled=enabled)
        self.watched(enabled)


class SleepingCard(WiredCard):
    """A card beside a vCPU that sleeps in HLT. It counts the interrupts of the receive queue at address `COUNT`."""

    def __init__(self, *, without: int = 0, queue_size: int | None = None, known: bool = True) -> None:
        self.machine = MiniMachine()
        memory = self.machine.memory
        self.vm = EmulatorVm(memory)
        self.vcpu = self.vm.create_vcpu(0)
        self.vectors = self.vcpu.apic_vectors
        self.vectors.enabled = True
        self.backend: WatchedNet = WatchedNet()
        self.backend.watched = lambda _on: None
        self.device = VirtioNet(memory, self.machine.loop, self.backend, NetOptions(MAC))
        self.device.start(self.machine.loop)
        self.transport = self.machine.plug_pci(self.device, register_notify=notify_registrar(self.vm))
        self.driver = VirtioDriver(self.transport, self.machine.allocator)
        self.posted: dict[int, Segment] = {}
        if known:
            self.know_route()
        self.driver.start(self.transport.read_features() & ~without, queue_size=queue_size)
        self.machine.run()
        self._stop = False
        self._start_vcpu()

    def know_route(self) -> MessageRoute:
        route = MessageRoute(self.vectors, VECTOR, self.vcpu.look_for_interrupts)
        self.machine.routes[RECEIVE_DATA] = route
        return route

    def _start_vcpu(self) -> None:
        memory = self.machine.memory
        memory.write(CODE, b"\xfb\xf4\xeb\xfd")  # STI; L: HLT; JMP L
        memory.write(4 * VECTOR, HANDLER.to_bytes(4, "little"))
        memory.write(HANDLER, b"\xff\x06" + struct.pack("<H", COUNT) + END)  # INC WORD [COUNT]
        self.vcpu.write_registers(
            {"cs.base": 0, "cs.selector": 0, "rip": CODE, "ds.base": 0, "ss.base": 0, "rsp": 0x8000}
            | {"es.base": 0xFEE0_0000}
        )
        self.vcpu.sleep_by_itself()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop:
            assert self.vcpu.run().kind in {ExitKind.HALT, ExitKind.KICKED}
            if not self._stop:
                self.vcpu.rest()

    def wait_asleep(self) -> None:
        wait_until(lambda: self.vcpu.engine.get("asleep"), "the vCPU does not sleep")

    @property
    def interrupts(self) -> int:
        return int.from_bytes(self.machine.memory.read(COUNT, 2), "little")

    @property
    def listens(self) -> bool:
        return 0 in self.device._helped

    def send(self, *frames: bytes) -> None:
        """Put packets on the wire, and tell nobody."""
        for data in frames:
            self.backend.far.send(HEADER + data)

    def wait_lengths(self, count: int, *, events: bool = False) -> list[int]:
        """Lengths of the next `count` filled buffers; with `events`, the device's thread may have to help."""
        found: list[int] = []

        def poll() -> bool:
            if events:
                self.machine.run_events()
                self.machine.run()
            found.extend(self.lengths())
            return len(found) >= count

        wait_until(poll, f"{found} instead of {count} buffers")
        return found

    def run_vcpu_aside(self) -> None:
        """Let it sleep anew: what it was about to do is done."""
        self.vcpu.kick()
        time.sleep(0)
        self.wait_asleep()

    def far_waits(self) -> int:
        """Bytes of packets that nobody has taken."""
        return int.from_bytes(fcntl.ioctl(self.backend.packet_fd(0), termios.FIONREAD, bytes(4)), "little")

    def close_vcpu(self) -> None:
        """Have it stand still."""
        self._stop = True
        self.vcpu.kick()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def reopen_vcpu(self) -> None:
        """Let it sleep again."""
        self._stop = False
        self.vcpu.rest()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.close_vcpu()
        self.device.close()
        self.machine.close()
        self.vm.close()


@pytest.fixture(params=["plain", "event-index"])
def card(request: pytest.FixtureRequest) -> Iterator[SleepingCard]:
    card = SleepingCard(without=int(Feature.EVENT_IDX) if request.param == "plain" else 0)
    yield card
    card.close()


@pytest.fixture
def device_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the device itself had the engine do."""
    seen: list[str] = []
    run = EngineQueue.run

    def watched(self: EngineQueue, kind: str, *position: int) -> Any:
        seen.append(kind)
        return run(self, kind, *position)  # type: ignore[call-arg]  # four numbers

    monkeypatch.setattr(EngineQueue, "run", watched)
    return seen


def test_sleeping_vcpu_takes_packets_and_its_own_interrupt(card: SleepingCard, device_calls: list[str]) -> None:
    parts = card.post(64, 600)
    assert card.listens
    card.wait_asleep()
    device_calls.clear()
    for number in range(50):
        data = frame(payload=b"%d" % number)
        card.send(data)
        assert card.wait_lengths(1) == [12 + len(data)]
        assert card.driver.read(parts[number])[: 12 + len(data)] == bytes(10) + b"\1\0" + data
        wait_until(lambda number=number: card.interrupts == number + 1, "no interrupt")  # type: ignore[misc]
    assert device_calls == []
    assert card.machine.messages == []
    assert (card.vectors.irr, card.vectors.isr) == (0, 0)


def test_packets_fill_as_many_buffers_as_they_need(card: SleepingCard) -> None:
    parts = card.post(80, 1024)
    card.wait_asleep()
    big = frame(payload=random.randbytes(5000))
    card.send(big, frame(), big)
    total = len(big) + 12
    pieces = [1024] * (total // 1024) + [total % 1024]
    assert card.wait_lengths(2 * len(pieces) + 1) == [*pieces, len(frame()) + 12, *pieces]
    data = b"".join(card.driver.read(part) for part in parts)
    assert data[:total] == bytes(10) + struct.pack("<H", len(pieces)) + big


def test_device_takes_what_a_vcpu_that_is_awake_leaves(card: SleepingCard) -> None:
    """The worker has the same way; the interrupt then goes past the device too."""
    card.post(8, 600)
    card.wait_asleep()
    card.vcpu.listener.remove(card.backend.packet_fd(0))  # it hears nothing
    card.send(frame(), frame())
    card.backend.readable(0)
    assert card.lengths() == [12 + len(frame())] * 2
    wait_until(lambda: card.interrupts == 1, "no interrupt")
    assert card.machine.messages == []


def test_vcpu_asks_for_help_when_buffers_run_out(card: SleepingCard) -> None:
    card.post(2, 600)
    card.wait_asleep()
    long, short = frame(payload=random.randbytes(1000)), frame(payload=b"short")
    card.send(short, long, short)
    assert card.wait_lengths(1) == [12 + len(short)]
    wait_until(lambda: (card.machine.run_events(), not card.backend.reading[0])[1], "nobody asked for help")
    assert not card.listens
    card.post(2, 600)
    assert card.wait_lengths(3) == [600, len(long) + 12 - 600, 12 + len(short)]
    card.post(1, 600)
    assert card.listens


def test_filter_decides_about_packets_that_a_vcpu_took(card: SleepingCard) -> None:
    card.post(16, 600)
    assert card.control(NetCtrlClass.RX, NetCtrlRx.PROMISC, b"\0") == 0
    card.backend.readable(0)  # the filter reaches the engine with the next packets that the device takes
    assert card.listens
    card.wait_asleep()
    own, for_all = frame(MAC, b"one"), frame(BROADCAST, b"all!")
    card.send(own)
    assert card.wait_lengths(1) == [12 + len(own)]
    card.send(frame(OTHER, b"not ours"), own, for_all, frame(OTHER), own)
    assert card.wait_lengths(3, events=True) == [12 + len(own), 12 + len(for_all), 12 + len(own)]


def test_decision_survives_a_pause(card: SleepingCard) -> None:
    card.post(4, 600)
    assert card.control(NetCtrlClass.RX, NetCtrlRx.PROMISC, b"\0") == 0
    card.backend.readable(0)
    card.wait_asleep()
    for_all = frame(BROADCAST, b"all!")
    card.send(for_all)
    structure = card.device.queues[0].walked
    assert structure is not None
    wait_until(lambda: structure.get("undecided"), "it was not taken")
    card.device.suspend()
    assert card.lengths() == []
    card.device.resume()
    card.machine.run()
    assert card.lengths() == [12 + len(for_all)]


def test_nothing_is_touched_while_the_device_is_stopped(card: SleepingCard) -> None:
    parts = card.post(4, 600)
    card.wait_asleep()
    card.device.suspend()
    memory = card.machine.memory
    before = memory.read(0x10000, 1 << 20)
    card.send(frame(payload=b"kept"))
    card.run_vcpu_aside()
    assert memory.read(0x10000, 1 << 20) == before
    assert not card.listens
    card.device.resume()
    card.machine.run()
    assert card.wait_lengths(1) == [12 + len(frame(payload=b"kept"))]
    assert card.driver.read(parts[0])[12:].startswith(frame(payload=b"kept"))


@pytest.mark.parametrize("how", ["device", "queue", "function", "unplug"])
def test_nothing_is_touched_after_a_reset(how: str, card: SleepingCard) -> None:
    card.post(4, 600)
    card.wait_asleep()
    match how:
        case "device":
            card.transport.write_status(0)
        case "queue":
            card.transport.reset_queue(0)
        case "function":
            card.transport.function.reset()
        case _:
            card.machine.bus.detach(card.transport.function)
    memory = card.machine.memory
    before = memory.read(0x10000, 1 << 20)
    card.send(frame())
    card.backend.readable(0)
    card.run_vcpu_aside()
    card.machine.run_events()
    card.machine.run()
    assert memory.read(0x10000, 1 << 20) == before
    assert card.interrupts == 0
    assert not card.listens


def test_pulled_cable_carries_nothing(card: SleepingCard) -> None:
    card.post(4, 600)
    card.wait_asleep()
    card.device.set_link(up=False)
    card.send(frame())
    wait_until(lambda: (card.machine.run_events(), not card.far_waits())[1], "the packet was not dropped")
    assert card.lengths() == []
    card.device.set_link(up=True)
    card.send(frame())
    assert card.wait_lengths(1, events=True) == [12 + len(frame())]


def test_interrupts_follow_their_way(card: SleepingCard) -> None:
    """A way that is no longer known sends them through the bus again."""
    card.post(8, 600)
    card.wait_asleep()
    route = card.machine.routes.pop(RECEIVE_DATA)
    route.end()
    assert not card.listens
    card.send(frame())
    card.run_vcpu_aside()
    assert card.lengths() == []
    card.backend.readable(0)
    assert card.lengths() == [12 + len(frame())]
    assert (card.machine.messages, card.interrupts) == ([RECEIVE_DATA], 0)
    card.know_route()
    card.arrive(frame())
    assert card.listens
    assert len(card.lengths()) == 1
    card.send(frame())
    card.wait_lengths(1)
    wait_until(lambda: card.interrupts, "no interrupt")


def test_way_that_ended_meanwhile_is_not_taken() -> None:
    card = SleepingCard(known=False)
    card.know_route().end()
    card.post(4, 600)
    card.arrive(frame())
    assert not card.listens
    assert (card.machine.messages, card.interrupts) == ([RECEIVE_DATA], 0)
    card.close()


def test_masked_vector_stays_pending(card: SleepingCard) -> None:
    card.post(8, 600)
    card.wait_asleep()
    function = card.transport.function
    assert function.msix is not None
    entry = function.bars[1].address
    assert entry is not None
    card.machine.space.write(entry + 16 * 1 + 12, 4, 1)
    assert not card.listens
    card.send(frame())
    card.backend.readable(0)
    assert card.lengths() == [12 + len(frame())]
    assert function.msix.read(function.msix.pba_offset, 8) == 1 << 1
    assert (card.machine.messages, card.interrupts) == ([], 0)
    card.machine.space.write(entry + 16 * 1 + 12, 4, 0)
    assert card.machine.messages == [RECEIVE_DATA]


def test_interrupts_that_are_not_wanted_are_not_sent(card: SleepingCard) -> None:
    card.post(8, 600)
    card.wait_asleep()
    card.driver.queues[0].set_interrupts(enabled=False)
    card.send(frame())
    card.wait_lengths(1)
    card.run_vcpu_aside()
    assert card.interrupts == 0


def test_kick_of_the_receive_queue_reaches_the_device(card: SleepingCard) -> None:
    """It is open, but not a send queue."""
    card.post(1, 600)
    card.wait_asleep()
    kick = card.device.kick_address(0)
    assert kick is not None
    card.close_vcpu()
    card.machine.memory.write(CODE, b"\x26\xa3\x00\x00\xf4")  # MOV ES:[0], AX; HLT
    heard = []
    card.device.notify = heard.append  # type: ignore[method-assign]  # to see that it is called
    card.vcpu.write_registers({"rip": CODE, "es.base": kick})
    card.vcpu.engine.set("sleeps", 0)
    while card.vcpu.run().kind != ExitKind.HALT:
        pass
    assert heard == [0]
    assert card.lengths() == []


def test_vcpu_that_rests_wakes_up_for_what_came_before(card: SleepingCard) -> None:
    card.wait_asleep()
    card.close_vcpu()
    card.vectors.post(VECTOR, is_level=False)
    card.reopen_vcpu()
    wait_until(lambda: card.interrupts == 1, "it sleeps on")


def test_more_packets_than_a_vcpu_takes_at_once(card: SleepingCard) -> None:
    card.post(200, 600)
    card.wait_asleep()
    packets = [frame(payload=b"%d" % number) for number in range(200)]
    card.send(*packets)
    assert card.wait_lengths(200, events=True) == [12 + len(packet) for packet in packets]


def test_vcpu_that_sleeps_tells_of_sent_packets(card: SleepingCard) -> None:
    card.wait_asleep()
    kick = card.device.kick_address(1)
    assert kick is not None
    card.close_vcpu()
    memory = card.machine.memory
    sends, sent = 0x45, 0x51
    for vector in (sends, sent):
        memory.write(4 * vector, (0x100 * vector).to_bytes(4, "little"))
    # MOV FS:[0], AX; end of interrupt; IRET. And INC WORD [SENT_COUNT]; ditto.
    memory.write(0x100 * sends, b"\x64\xa3\x00\x00" + END)
    memory.write(0x100 * sent, b"\xff\x06" + struct.pack("<H", SENT_COUNT) + END)
    card.vcpu.write_registers({"fs.base": kick})
    card.machine.routes[SEND_DATA] = MessageRoute(card.vectors, sent, card.vcpu.look_for_interrupts)
    card.reopen_vcpu()
    part = card.driver.buffer(HEADER + frame())
    queue = card.driver.queues[1]

    def send() -> None:
        queue.add([part])
        card.vectors.post(sends, is_level=False)
        card.vcpu.look_for_interrupts()
        wait_until(queue.poll, "it was not sent")

    def told() -> int:
        return int.from_bytes(memory.read(SENT_COUNT, 2), "little")

    queue.set_interrupts(enabled=False)
    card.transport.notify(1)
    card.machine.run()
    send()
    queue.set_interrupts(enabled=True)
    card.device._timer_runs = True  # the device is out of it
    with card.device.lock:
        pass
    for count in (1, 2, 3):
        before = told()
        queue.add([part])
        card.vectors.post(sends, is_level=False)
        card.vcpu.look_for_interrupts()
        wait_until(lambda before=before: told() > before, f"no interrupt for packet {count}")  # type: ignore[misc]
        wait_until(queue.poll, "it was not sent")
    assert card.machine.messages == []


def test_packets_beside_the_device_come_once_and_in_order(card: SleepingCard) -> None:
    """The device takes the queue back again and again, on other threads, while a vCPU and the worker take packets."""
    parts = card.post(128, 100)
    at = {part.gpa: part for part in parts}
    loop = card.machine.loop
    card.backend.watched = lambda on: (
        loop.watch(card.backend.packet_fd(0), 1 | 1 << 28, lambda _events: card.backend.readable(0))
        if on
        else loop.unwatch(card.backend.packet_fd(0))
    )
    loop.start()
    card.device.notify(0)
    ended = threading.Event()
    turns = 0

    def disturb() -> None:
        nonlocal turns
        while not ended.is_set():
            turns += 1
            match turns % 4:
                case 0:
                    card.device.suspend()
                    card.device.resume()
                case 1:
                    card.device.announce()
                case 2:
                    card.device.notify(0)
                case _:
                    card.machine.routes.pop(RECEIVE_DATA).end()
                    card.know_route()
            time.sleep(0.0003)

    thread = threading.Thread(target=disturb, daemon=True)
    thread.start()
    order = list(parts)
    found: list[int] = []
    total = 3000
    sent = 0
    try:
        deadline = time.monotonic() + PATIENCE_S
        while len(found) < total:
            assert time.monotonic() < deadline, f"{len(found)} of {sent} packets arrived"
            if sent < total and sent - len(found) < 20:
                card.send(frame(payload=struct.pack("<I", sent)))
                sent += 1
            used = card.driver.queues[0].poll()
            if used is None:
                continue
            part = order.pop(0)
            found.append(int.from_bytes(card.driver.read(part)[12 + 14 : 12 + 18], "little"))
            card.driver.queues[0].add([part])
            order.append(part)
            if len(found) % 50 == 0:
                card.transport.notify(0)
    finally:
        ended.set()
        thread.join()
    assert len(at) == 128
    assert turns
    assert found == list(range(total))


def event_descriptors() -> int:
    """How many event descriptors and epolls this process has."""
    links = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            links.append(str(entry.readlink()))
    return sum("[event" in link for link in links)


def test_descriptors_are_closed_with_the_machine() -> None:
    before = event_descriptors()
    card = SleepingCard()
    card.post(1, 600)
    card.wait_asleep()
    assert event_descriptors() > before
    card.close()
    assert event_descriptors() == before
