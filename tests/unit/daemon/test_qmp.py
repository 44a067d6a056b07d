"""The client of QMP against a monitor that a test plays."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from pyhyve.daemon.qmp import QmpClient, QmpClosed, QmpError, QmpTimeout

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 1}, "package": "p"}, "capabilities": []}}


class Monitor:
    """A monitor; ``answers`` has what it says to each command."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[str, Any] = {"qmp_capabilities": {}}
        self.heard: list[dict[str, Any]] = []
        self.news = asyncio.Event()
        self.greeting: bytes | None = json.dumps(GREETING).encode() + b"\r\n"
        self.writer: asyncio.StreamWriter | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        if self.greeting is not None:
            writer.write(self.greeting)
        while line := await reader.readline():
            request = json.loads(line)
            self.heard.append(request)
            self.news.set()
            answer = self.answers.get(request["execute"])
            if answer is None:
                continue
            if isinstance(answer, QmpError):
                reply: dict[str, Any] = {"error": {"class": answer.kind, "desc": answer.description}}
            else:
                reply = {"return": answer}
            writer.write(json.dumps({**reply, "id": request["id"]}).encode() + b"\n")

    async def has_heard(self, count: int) -> None:
        """Wait for so many commands."""
        while len(self.heard) < count:
            self.news.clear()
            await self.news.wait()

    def say(self, data: bytes) -> None:
        assert self.writer is not None
        self.writer.write(data)


def converse(tmp_path: Path, work: Callable[[Monitor, QmpClient, list[Any]], Awaitable[None]]) -> None:
    async def whole() -> None:
        monitor = Monitor(tmp_path / "m.sock")
        seen: list[Any] = []
        client = QmpClient(lambda name, data, when: seen.append((name, data, when)), lambda: seen.append("closed"))
        server = await asyncio.start_unix_server(monitor.serve, str(monitor.path))
        async with server:
            try:
                await asyncio.wait_for(work(monitor, client, seen), 20)
            finally:
                client.close()
                if monitor.writer is not None:
                    monitor.writer.close()
                    with contextlib.suppress(OSError):
                        await monitor.writer.wait_closed()

    asyncio.run(whole())


def test_commands_are_answered_and_refused(tmp_path: Path) -> None:
    async def work(monitor: Monitor, client: QmpClient, seen: list[Any]) -> None:
        monitor.answers.update(
            {"query-status": {"status": "running"}, "bad": QmpError("GenericError", "no such thing")}
        )
        await client.connect(str(monitor.path))
        assert (client.version, client.package) == ((7, 2, 1), "p")
        assert await client.execute("query-status") == {"status": "running"}
        with pytest.raises(QmpError, match="no such thing"):
            await client.execute("bad", {"a": 1})
        assert monitor.heard[-1]["arguments"] == {"a": 1}

    converse(tmp_path, work)


def test_answers_belong_to_their_commands(tmp_path: Path) -> None:
    async def work(monitor: Monitor, client: QmpClient, seen: list[Any]) -> None:
        await client.connect(str(monitor.path))
        first = asyncio.create_task(client.execute("slow"))
        second = asyncio.create_task(client.execute("quick"))
        await monitor.has_heard(3)
        numbers = {request["execute"]: request["id"] for request in monitor.heard}
        for name in ("quick", "slow"):
            monitor.say(json.dumps({"return": name, "id": numbers[name]}).encode() + b"\n")
        assert (await first, await second) == ("slow", "quick")

    converse(tmp_path, work)


def test_events_are_handed_on_even_in_pieces(tmp_path: Path) -> None:
    async def work(monitor: Monitor, client: QmpClient, seen: list[Any]) -> None:
        await client.connect(str(monitor.path))
        event = {"event": "STOP", "timestamp": {"seconds": 5, "microseconds": 500000}}
        data = json.dumps(event).encode() + b'\n{"event": "RESUME", "data": {"x": 1}, "timestamp": {}}\n'
        for start in range(0, len(data), 7):
            monitor.say(data[start : start + 7])
            await asyncio.sleep(0)
        monitor.answers["query-status"] = {}
        await client.execute("query-status")  # whose answer comes behind the events
        assert seen == [("STOP", {}, 5.5), ("RESUME", {"x": 1}, 0.0)]

    converse(tmp_path, work)


def test_monitor_that_goes_away_ends_what_is_under_way(tmp_path: Path) -> None:
    async def work(monitor: Monitor, client: QmpClient, seen: list[Any]) -> None:
        await client.connect(str(monitor.path))
        task = asyncio.create_task(client.execute("slow"))
        await monitor.has_heard(2)
        assert monitor.writer is not None
        monitor.writer.close()
        with pytest.raises(QmpClosed):
            await task
        assert seen == ["closed"]
        assert not client.connected
        with pytest.raises(QmpClosed):
            await client.execute("query-status")

    converse(tmp_path, work)


def test_silent_machine_is_given_up(tmp_path: Path) -> None:
    async def work(monitor: Monitor, client: QmpClient, seen: list[Any]) -> None:
        await client.connect(str(monitor.path))
        with pytest.raises(QmpTimeout, match="no answer to slow"):
            await client.execute("slow", timeout_s=0.05)
        monitor.answers["query-status"] = 1
        assert await client.execute("query-status") == 1

    converse(tmp_path, work)


@pytest.mark.parametrize("greeting", [b'{"hello": 1}\n', b"garbage\n", b'{"QMP": 5}\n', b'{"QMP": {}}\n'])
def test_what_is_no_monitor_is_refused(tmp_path: Path, greeting: bytes) -> None:
    async def work(monitor: Monitor, client: QmpClient, seen: list[Any]) -> None:
        monitor.greeting = greeting
        with pytest.raises((QmpClosed, QmpTimeout)):
            await client.connect(str(monitor.path), timeout_s=0.3)
        assert not client.connected

    converse(tmp_path, work)


def test_descriptors_travel_beside_a_command(tmp_path: Path) -> None:
    async def work(monitor: Monitor, client: QmpClient, seen: list[Any]) -> None:
        path = tmp_path / "raw.sock"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(1)
        got: list[bytes] = []

        def play() -> None:
            endpoint, _ = listener.accept()
            with endpoint:
                endpoint.sendall(monitor.greeting or b"")
                for _ in range(2):
                    data, fds, _, _ = socket.recv_fds(endpoint, 4096, 1)
                    for descriptor in fds:
                        got.append(os.read(descriptor, 10))
                        os.close(descriptor)
                    endpoint.sendall(json.dumps({"return": {}, "id": json.loads(data)["id"]}).encode() + b"\n")

        playing = asyncio.get_running_loop().run_in_executor(None, play)
        await client.connect(str(path))
        file = tmp_path / "file"
        file.write_bytes(b"handed")
        with file.open("rb") as handed:
            await client.execute("getfd", {"fdname": "x"}, fds=(handed.fileno(),))
        await playing
        listener.close()
        assert got == [b"handed"]

    converse(tmp_path, work)


def test_what_was_said_before_the_end_is_taken(tmp_path: Path) -> None:
    async def work(monitor: Monitor, client: QmpClient, seen: list[Any]) -> None:
        await client.connect(str(monitor.path))
        monitor.say(b'{"event": "SHUTDOWN", "data": {"guest": false}, "timestamp": {}}\n')
        assert monitor.writer is not None
        monitor.writer.close()
        await client.read_to_end(10)
        assert seen == [("SHUTDOWN", {"guest": False}, 0), "closed"]

    converse(tmp_path, work)


def test_hanging_up_leaves_the_next_user_of_the_descriptor_alone(tmp_path: Path) -> None:
    async def work(monitor: Monitor, client: QmpClient, _seen: list[Any]) -> None:
        await client.connect(str(monitor.path))
        await asyncio.sleep(0)
        number = client._socket.fileno() if client._socket is not None else -1
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            client.close()
            reused = os.dup2(ours.fileno(), number)
            try:
                loop.add_reader(reused, ready.set)
                await asyncio.sleep(0.01)
                theirs.send(b"x")
                await asyncio.wait_for(ready.wait(), 60)
                loop.remove_reader(reused)
            finally:
                os.close(reused)

    converse(tmp_path, work)
