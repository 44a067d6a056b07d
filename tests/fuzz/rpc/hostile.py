"""A daemon in this process, and clients that send it anything."""

from __future__ import annotations

import asyncio
import os
import resource
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pyhyve.daemon.connection import BACKLOG_MAX
from pyhyve.daemon.drivers.test.driver import TestDriver
from pyhyve.daemon.parts import build
from pyhyve.daemon.paths import Paths
from pyhyve.rpc.frames import Frame
from pyhyve.rpc.procedures import BY_NAME
from pyhyve.rpc.spec import MessageType, Status
from tests.fuzz.rpc.frames import hostile_frame
from tests.unit.daemon.conversation import Conversation

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence
    from pathlib import Path

    from pyhyve.daemon.daemon import Daemon

CLIENTS: Final = 8
_PROBE_EVERY: Final = 256
_LIFE: Final = 5000
"""Frames after which a client hangs up by itself."""
TASKS_MAX: Final = 4096
"""Coroutines at most while hostile clients are connected: each has a bounded number of calls and streams."""


@dataclass(slots=True)
class Sink:
    """The socket of a hostile client: counts, and keeps nothing."""

    received: int = 0
    closed: bool = False
    unsent_size: int = 0

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        self.received += len(data)
        for fd in fds:
            os.close(fd)

    def pause(self) -> None:
        """A hostile client sends on: only a real socket can hold it back."""

    def resume(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        self.closed = True

    async def emptied(self) -> None:
        await asyncio.sleep(0)

    def lend_input(self) -> None:
        return

    def return_input(self, *, lost: bool) -> None: ...

    def lend_output(self) -> None:
        return

    def return_output(self, rest: memoryview, *, lost: bool) -> None: ...

    async def drained(self) -> None:
        await asyncio.sleep(0)


@dataclass(slots=True)
class Outcome:
    """What became of a run."""

    frames: int = 0
    disconnected: int = 0
    answered_bytes: int = 0
    slowest_s: float = 0.0
    growth_kib: int = 0
    tasks: int = 0
    problems: list[str] = field(default_factory=list)


class HostileClient:
    """One client; a new one takes its place when the daemon hangs up."""

    def __init__(self, daemon: Daemon, rng: random.Random) -> None:
        from pyhyve.daemon.access import Identity
        from pyhyve.daemon.connection import Connection

        self.link = Sink()
        self.connection = Connection(daemon, self.link, Identity("unix", uid=0, user="root"))
        self.serial = 1
        self.frames = 0
        self._rng = rng
        if rng.random() < 0.9:
            row = BY_NAME["CONNECT_OPEN"]
            payload = row.args_codec.encode("test:///default", rng.choice((0, 0, 0, 1)))
            self.connection.receive(Frame(row.program, row.number, MessageType.CALL, 0, Status.OK, payload).encode())

    def send(self) -> None:
        """Send one frame, whole or in pieces."""
        data = hostile_frame(self._rng, self.serial)
        self.serial += 1
        self.frames += 1
        cut = self._rng.randrange(len(data) + 1) if self._rng.random() < 0.2 else 0
        for piece in (data[:cut], data[cut:]):
            if piece and not self.link.closed:
                self.connection.receive(piece)


async def run(root: Path, rng: random.Random, frames: int) -> Outcome:
    """Send so many frames; raises AssertionError where the daemon does not bear it."""
    daemon = build(Paths.below(root, "system"))
    daemon.drivers[:] = [driver for driver in daemon.drivers if isinstance(driver, TestDriver)]
    await daemon.start()
    outcome = Outcome()
    honest = Conversation(daemon)
    honest.call("CONNECT_OPEN", "test:///default", 0)
    clients = [HostileClient(daemon, rng) for _ in range(CLIENTS)]
    try:
        while outcome.frames < frames:
            number = rng.randrange(CLIENTS)
            client = clients[number]
            start = time.perf_counter()
            client.send()
            outcome.slowest_s = max(outcome.slowest_s, time.perf_counter() - start)
            outcome.frames += 1
            if client.link.closed or client.frames >= _LIFE:
                outcome.disconnected += client.link.closed
                outcome.answered_bytes += client.link.received
                client.connection.lost()
                clients[number] = HostileClient(daemon, rng)
            if outcome.frames % _PROBE_EVERY == 0:
                await asyncio.sleep(0)
                honest.link.events.clear()
                assert honest.call("CONNECT_GET_TYPE").type == "TEST", "an honest client is not answered"
                outcome.tasks = max(outcome.tasks, len(asyncio.all_tasks()))
                assert outcome.tasks <= TASKS_MAX, "coroutines pile up"
                assert len(daemon.connections) <= CLIENTS + 1, "connections pile up"
                assert client.link.unsent_size <= BACKLOG_MAX
        for client in clients:
            client.connection.lost()
        for _ in range(1000):
            if len(asyncio.all_tasks()) <= 1 + len(daemon._tasks):
                break
            await asyncio.sleep(0.005)
        left = [task.get_name() for task in asyncio.all_tasks() - daemon._tasks if task is not asyncio.current_task()]
        assert not left, f"coroutines are left behind: {left[:5]}"
        assert not daemon.events._registered, "registrations are left behind"
    finally:
        await daemon.stop()
    outcome.growth_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return outcome
