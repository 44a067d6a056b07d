"""Clients on real sockets that are slow, stuck or gone, and others that must not notice."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
import tracemalloc
from typing import TYPE_CHECKING

from pyhyve.daemon import connection as connection_module
from pyhyve.daemon import link as link_module
from pyhyve.daemon.dispatch import procedure
from pyhyve.daemon.events import DomainEvent, EventKind
from pyhyve.daemon.link import SocketLink
from pyhyve.rpc.client import Pushed, StreamData
from pyhyve.rpc.procedures import BY_NAME
from pyhyve.rpc.values import Domain
from tests.unit.daemon.socket_client import SocketClient

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path
    from typing import Any

    import pytest

    from pyhyve.daemon.daemon import Daemon
    from pyhyve.daemon.dispatch import Call
    from pyhyve.daemon.streams import Stream

    WithDaemon = Callable[[Callable[[Daemon], Awaitable[None]]], None]

DOMAIN = Domain("vm", bytes(16), 1)
VOLUME = ("pool", "volume", "/key")


async def listener(daemon: Daemon) -> SocketClient:
    client = SocketClient(daemon)
    await client.call("CONNECT_OPEN", "test:///default", 0)
    await client.call("CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY", int(DomainEvent.LIFECYCLE), None)
    return client


def publish(daemon: Daemon, client: SocketClient, number: int) -> None:
    daemon.events.publish(client.connection.driver, EventKind.DOMAIN, DomainEvent.LIFECYCLE, DOMAIN, 2, number)


def test_a_flood_of_events_ends_a_stuck_client_and_reaches_the_others(
    with_daemon: WithDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "BACKLOG_MAX", 1 << 18)
    monkeypatch.setattr(link_module, "LINGER_S", 0.01)

    async def work(daemon: Daemon) -> None:
        stuck, good = await listener(daemon), await listener(daemon)
        sent = 0
        tracemalloc.start()
        begin, most = tracemalloc.get_traced_memory()[0], 0
        while not stuck.connection.closed:
            for _ in range(100):
                publish(daemon, stuck, sent)
                sent += 1
            event = await good.read_until(lambda event: isinstance(event, Pushed))
            assert isinstance(event, Pushed)
            while not (isinstance(event, Pushed) and event.message.detail == sent - 1):
                event = await good.read_until(lambda event: isinstance(event, Pushed))
            most = max(most, tracemalloc.get_traced_memory()[0] - begin)
            assert sent < 100_000
        tracemalloc.stop()
        assert most < 1 << 20  # what is queued costs about as much as it is long
        await good.call("CONNECT_GET_LIB_VERSION")
        deadline = time.monotonic() + 60
        while daemon.connections != {good.connection}:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.001)
        # It reads what the kernel had taken, and then the end.
        stuck.socket.setblocking(True)
        stuck.socket.settimeout(60)
        # In a thread: the end comes from the loop, after the time a client has to take in the rest.
        while await asyncio.to_thread(stuck.socket.recv, 1 << 20):
            pass
        good.socket.close()
        stuck.socket.close()

    with_daemon(work)


def test_what_is_queued_arrives_in_order_whatever_its_size(with_daemon: WithDaemon) -> None:
    async def work(daemon: Daemon) -> None:
        near, far = socket.socketpair()
        far.settimeout(0)
        link = SocketLink(daemon.loop, daemon.readiness, near)
        rng = random.Random(3)
        pieces = [rng.randbytes(rng.choice((1, 30, 4095, 4096, 100_000, 400_000))) for _ in range(80)]
        ends = [os.pipe() for _ in range(3)]
        expected = b""
        for number, piece in enumerate(pieces):
            fds = list(ends[number // 25 - 1]) if number % 25 == 0 and number else []
            link.send(piece, fds)
            expected += piece + bytes(len(fds))
        got = bytearray()
        received: list[int] = []
        while len(got) < len(expected):
            await asyncio.sleep(0)
            try:
                data, fds, _, _ = socket.recv_fds(far, 1 << 20, 8)
            except BlockingIOError:
                continue
            got += data
            received += fds
        assert got == expected
        assert len(received) == 6
        assert link.unsent_size == 0
        await link.emptied()
        for fd in received:
            os.close(fd)
        link.close()
        far.close()

    with_daemon(work)


def test_clients_that_neither_read_nor_send_on_hold_up_no_stream(
    with_daemon: WithDaemon, handlers: dict[tuple[int, int], Any], tmp_path: Path
) -> None:
    content = random.Random(7).randbytes(4 << 20)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(content)
    target.write_bytes(b"")

    async def give(stream: Stream) -> None:
        offset = 0
        with source.open("rb") as file:
            while offset < len(content):
                offset = await stream.send_file(file.fileno(), offset, len(content))

    async def take(stream: Stream) -> None:
        offset = 0
        with target.open("r+b") as file:
            while piece := await stream.read():
                assert isinstance(piece, bytes)
                offset = await stream.store(piece, file.fileno(), offset, None)

    async def begun(daemon: Daemon, name: str) -> tuple[SocketClient, int]:
        client = SocketClient(daemon)
        await client.call("CONNECT_OPEN", "test:///default", 0)
        return client, await client.call(name, VOLUME, 0, 0, 0)

    async def work(daemon: Daemon) -> None:
        for name, body in (("STORAGE_VOL_DOWNLOAD", give), ("STORAGE_VOL_UPLOAD", take)):
            row = BY_NAME[name]
            del handlers[row.program, row.number]

            def handler(call: Call, _: Any, body: Any = body) -> None:
                call.stream(body)

            procedure(name)(handler)
        stuck = []
        for _ in range(20):
            stuck.append((await begun(daemon, "STORAGE_VOL_DOWNLOAD"))[0])
            client, serial = await begun(daemon, "STORAGE_VOL_UPLOAD")
            client.protocol.send_stream(serial, b"x" * 100)
            data = client.protocol.data_to_send()[0][0]
            client.socket.send(data + data[:50])
            stuck.append(client)
        client, serial = await begun(daemon, "STORAGE_VOL_DOWNLOAD")
        got = b""
        while True:
            event = await client.read_until(lambda event: isinstance(event, StreamData) and event.serial == serial)
            if not event.data:
                break
            got += event.data
        assert got == content
        for each in (client, *stuck):
            each.socket.close()
        while daemon.connections:  # noqa: ASYNC110 - it is other code's end that is waited for
            await asyncio.sleep(0.001)

    with_daemon(work)
