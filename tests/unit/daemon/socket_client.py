"""A client of a daemon on a real socket, driven by hand on the daemon's own event loop."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

from pyhyve.daemon.access import Identity
from pyhyve.daemon.connection import Connection
from pyhyve.daemon.link import SocketLink
from pyhyve.rpc.client import ClientProtocol, Failed, Replied
from pyhyve.rpc.procedures import procedure

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.daemon.daemon import Daemon


class SocketClient:
    """One client."""

    def __init__(self, daemon: Daemon) -> None:
        near, self.socket = socket.socketpair()
        self.socket.settimeout(0)
        self.protocol = ClientProtocol()
        link = SocketLink(daemon.loop, daemon.readiness, near)
        self.connection = Connection(daemon, link, Identity("unix", uid=0))
        link.start(self.connection)
        self.events: list[Any] = []

    async def flush(self) -> None:
        for data, _ in self.protocol.data_to_send():
            await asyncio.get_running_loop().sock_sendall(self.socket, data)

    async def read_until(self, done: Callable[[Any], bool]) -> Any:
        while True:
            for event in self.events:
                if done(event):
                    self.events.remove(event)
                    return event
            data = await asyncio.get_running_loop().sock_recv(self.socket, 1 << 18)
            assert data, "the daemon hung up"
            self.events.extend(self.protocol.receive(data))

    async def call(self, name: str, *values: object) -> Any:
        serial = self.protocol.call(procedure(name), *values)
        await self.flush()
        answer = await self.read_until(lambda event: isinstance(event, Replied | Failed) and event.serial == serial)
        assert isinstance(answer, Replied), answer
        return serial
