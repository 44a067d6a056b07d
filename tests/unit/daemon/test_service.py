from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from pyhyve.daemon.service import Service
from pyhyve.daemon.settings import Settings, TcpSettings
from pyhyve.rpc.client import ClientProtocol, Replied
from pyhyve.rpc.procedures import procedure
from pyhyve.support.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pyhyve.daemon.daemon import Daemon

    WithDaemon = Callable[[Callable[[Daemon], Awaitable[None]]], None]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def is_served(host: str, port: int) -> bool:
    reader, writer = await asyncio.open_connection(host, port)
    client = ClientProtocol()
    client.call(procedure("CONNECT_OPEN"), "test:///default", 0)
    serial = client.call(procedure("CONNECT_IS_SECURE"))
    for data, _ in client.data_to_send():
        writer.write(data)
    answers: list[object] = []
    while len(answers) < 2:
        answers += client.receive(await reader.read(65536))
    writer.close()
    last = answers[-1]
    return isinstance(last, Replied) and last.serial == serial and last.result.secure == 0


def test_tcp_clients_are_served_on_every_address_of_the_host(with_daemon: WithDaemon) -> None:
    async def work(daemon: Daemon) -> None:
        service = Service(daemon, Settings(tcp=TcpSettings(auth="none")))
        port = free_port()
        await service.listen_tcp(f":{port}")
        assert await is_served("127.0.0.1", port)
        with socket.socket(socket.AF_INET6) if socket.has_ipv6 else socket.socket() as probe:
            try:
                probe.bind(("::1", 0))
            except OSError:
                pass  # a host without IPv6
            else:
                assert await is_served("::1", port)
        with pytest.raises(UserError, match=r"cannot listen on tcp:127\.0\.0\.1:.*in use"):
            await service.listen_tcp(f"127.0.0.1:{port}")
        service.close()
        with pytest.raises(OSError, match=r"refused|Connect call failed"):
            await asyncio.open_connection("127.0.0.1", port)

    with_daemon(work)
