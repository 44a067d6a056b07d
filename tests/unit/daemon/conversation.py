"""A client of a daemon without sockets: calls go in as bytes, answers come out."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from pyhyve.daemon.access import Identity
from pyhyve.daemon.connection import Connection
from pyhyve.rpc.client import ClientProtocol, Failed, Pushed, Replied
from pyhyve.rpc.procedures import procedure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyhyve.daemon.daemon import Daemon


async def settle() -> None:
    """Let everything that is ready, and all that comes of it, have its turn; no time has to pass for it."""
    for _ in range(200):
        await asyncio.sleep(0)


class FakeLink:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.client = ClientProtocol()
        self.events: list[Any] = []
        self.paused = False
        self.closed = False
        self.held = b""
        self.hold = False
        self.sent_fds: list[int] = []

    @property
    def unsent_size(self) -> int:
        return len(self.held)

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        if self.hold:
            self.held += data
            return
        for fd in fds:
            self.sent_fds.append(fd)
            os.close(fd)
        self.events.extend(self.client.receive(data + b"\0" * len(fds), list(fds)))

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def close(self) -> None:
        self.closed = True

    async def emptied(self) -> None:
        return

    def lend_input(self) -> None:
        return

    def return_input(self, *, lost: bool) -> None: ...

    def lend_output(self) -> None:
        return

    def return_output(self, rest: memoryview, *, lost: bool) -> None: ...

    async def drained(self) -> None:
        return


class Conversation:
    """A client with a connection of its own."""

    def __init__(self, daemon: Daemon, *, read_only: bool = False, identity: Identity | None = None) -> None:
        self.link = FakeLink()
        self.connection = Connection(daemon, self.link, identity or Identity("unix", uid=0), read_only=read_only)

    def send(self, name: str, *values: object, fds: Sequence[int] = ()) -> int:
        serial = self.link.client.call(procedure(name), *values, fds=fds)
        for data, sent in self.link.client.data_to_send():
            self.connection.receive(data + b"\0" * len(sent), sent)
        return serial

    def answer(self, serial: int) -> Any:
        for event in self.link.events:
            if isinstance(event, Replied | Failed) and event.serial == serial:
                return event
        return None

    def call(self, name: str, *values: object) -> Any:
        """Return the answer's record; the error's message where it failed."""
        event = self.answer(self.send(name, *values))
        assert event is not None, f"{name} was not answered at once"
        return event.error if isinstance(event, Failed) else event.result

    def pushed(self) -> list[Pushed]:
        return [event for event in self.link.events if isinstance(event, Pushed)]
