"""When a network card interrupts, and on whose thread packets are taken."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from .test_net import HEADER, Card, frame

if TYPE_CHECKING:
    from pyhyve.testing.virtio_driver import DriverQueue

SEND_VECTOR = 2


class Sender:
    """A card and its send queue, with interrupts asked for."""

    def __init__(self, *, packed: bool = False) -> None:
        self.card = Card(packed=packed)
        self.part = self.card.driver.buffer(HEADER + frame())
        self.card.machine.messages.clear()

    @property
    def queue(self) -> DriverQueue:
        return self.card.driver.queues[1]

    def send(self, count: int = 1) -> None:
        for _ in range(count):
            self.queue.add([self.part])
        self.card.transport.notify(1)
        self.card.machine.run()

    def wait(self, looks: int) -> None:
        """Let the card look `looks` times for packets whose sender was not told."""
        for _ in range(looks):
            deadline = time.monotonic() + 60
            while not self.card.machine.loop.next_call_is_due:
                assert time.monotonic() < deadline
                time.sleep(0.0001)
            self.card.machine.run_events()

    @property
    def told(self) -> int:
        return self.card.machine.messages.count(SEND_VECTOR)


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_driver_that_waits_hears_of_sent_packets_a_little_later(*, packed: bool) -> None:
    sender = Sender(packed=packed)
    sender.send()
    assert len(sender.card.backend.sent) == 1
    assert sender.told == 0
    sender.wait(2)
    assert sender.told == 1
    assert sender.queue.poll() is not None
    sender.send()
    sender.wait(2)
    assert sender.told == 2


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_driver_that_looks_by_itself_is_not_disturbed(*, packed: bool) -> None:
    sender = Sender(packed=packed)
    for _ in range(10):
        sender.send()
        assert sender.queue.poll() is not None, "the buffer itself comes back at once"
    sender.wait(1)
    assert sender.told == 0
    assert not sender.card.device._quiet


def test_driver_is_told_at_once_when_its_ring_fills() -> None:
    sender = Sender()
    sender.send(sender.queue.size // 4)
    assert sender.told == 0
    sender.send()
    assert sender.told == 1


def test_driver_without_event_index_is_told_too() -> None:
    sender = Sender()
    sender.card.transport.write_status(0)
    sender.card.driver.start(1 << 32)
    sender.card.machine.run()
    sender.card.machine.messages.clear()
    sender.part = sender.card.driver.buffer(HEADER + frame())
    sender.send()
    sender.wait(2)
    assert sender.told == 1
    sender.queue.set_interrupts(enabled=False)
    sender.send()
    assert sender.told == 1


def test_pause_tells_of_what_was_held_back_and_reset_forgets_it() -> None:
    sender = Sender()
    sender.send()
    sender.card.device.suspend()
    assert sender.told == 1
    sender.card.device.resume()
    sender.send()
    sender.card.transport.write_status(0)
    sender.wait(1)
    assert sender.told == 1


def test_kick_takes_packets_that_wait_for_its_lock() -> None:
    sender = Sender()
    card = sender.card
    for _ in range(8):
        sender.send()
        sender.queue.poll()
    assert card.device.queues[1].at_once_left
    (part,) = card.post(1, 2048)
    card.post(40, 2048)
    card.machine.messages.clear()
    card.backend.waiting.append(frame(payload=b"answer"))
    card.device._arrived = 0  # as the I/O thread leaves it while another has the lock
    sender.queue.add([sender.part])
    card.transport.notify(1)
    assert card.driver.queues[0].poll() is not None
    assert card.driver.read(part)[12 : 12 + len(frame(payload=b"answer"))] == frame(payload=b"answer")
    assert 1 in card.machine.messages, "and the vCPU that kicked hears of it"
