"""Clients that are slow, dead or mean, on real sockets, and one that must not notice."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from daemon_process import DaemonProcess, running_daemon

from pyhyve.client import connect
from pyhyve.rpc.frames import Frame
from pyhyve.rpc.procedures import BY_NAME
from pyhyve.rpc.spec import MessageType

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DaemonProcess]:
    with running_daemon(tmp_path / "root") as running:
        yield running


def call(name: str, *values: object, serial: int = 1) -> bytes:
    row = BY_NAME[name]
    return Frame(row.program, row.number, MessageType.CALL, serial, payload=row.args_codec.encode(*values)).encode()


def client(daemon: DaemonProcess) -> socket.socket:
    endpoint = socket.socket(socket.AF_UNIX)
    endpoint.connect(str(daemon.socket))  # without a time limit: with one, a full queue is an error at once
    endpoint.settimeout(60)
    return endpoint


def memory_kib(daemon: DaemonProcess) -> int:
    assert daemon.process is not None
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1])


def descriptors(daemon: DaemonProcess) -> int:
    assert daemon.process is not None
    return len(list(Path(f"/proc/{daemon.process.pid}/fd").iterdir()))


def is_served(daemon: DaemonProcess) -> bool:
    with connect(daemon.uri()) as connection:  # without a time limit, for the same reason
        return connection.type() == "TEST"


def test_a_flood_without_reading_costs_little_and_holds_up_nobody(daemon: DaemonProcess) -> None:
    before = memory_kib(daemon)
    flood = [client(daemon) for _ in range(8)]
    request = call("CONNECT_GET_CAPABILITIES") * 50
    for endpoint in flood:
        endpoint.sendall(call("CONNECT_OPEN", "test:///default", 0))
        endpoint.settimeout(0)
        sent = 0
        with contextlib.suppress(BlockingIOError):  # held back: the socket fills
            while sent < 1 << 30:
                sent += endpoint.send(request)
        assert sent < 64 << 20
    assert is_served(daemon)
    assert memory_kib(daemon) - before < 64 << 10
    for endpoint in flood:
        endpoint.close()
    assert is_served(daemon)


def test_dead_clients_hold_up_nobody_and_leave_nothing(daemon: DaemonProcess) -> None:
    assert is_served(daemon)
    before = descriptors(daemon)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 2048)), hard))
    rng = random.Random(5)
    dead = []
    for number in range(300):
        endpoint = client(daemon)
        frame = call("CONNECT_OPEN", "test:///default", 0)
        if number % 3:
            endpoint.sendall(frame[: rng.randrange(1, len(frame))])
        dead.append(endpoint)
    assert is_served(daemon)
    for endpoint in dead:
        endpoint.close()
    for _ in range(100):
        assert is_served(daemon)
        if descriptors(daemon) <= before:
            break
    assert descriptors(daemon) <= before


@pytest.mark.parametrize(
    "nonsense", [b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, b"\0\0\0\4", struct.pack(">I", 33 << 20), os.urandom(512)]
)
def test_nonsense_ends_its_connection_only(daemon: DaemonProcess, nonsense: bytes) -> None:
    endpoint = client(daemon)
    endpoint.sendall(nonsense)
    endpoint.shutdown(socket.SHUT_WR)
    while endpoint.recv(65536):
        pass
    endpoint.close()
    assert is_served(daemon)


def test_descriptors_sent_without_reason_are_closed(daemon: DaemonProcess) -> None:
    assert is_served(daemon)
    before = descriptors(daemon)
    with client(daemon) as endpoint:
        for _ in range(30):
            near, far = os.pipe()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # at some point it is too much
                socket.send_fds(endpoint, [call("AUTH_LIST")], [near, far])
                endpoint.recv(4096)
            os.close(near)
            os.close(far)
    for _ in range(100):
        assert is_served(daemon)
        if descriptors(daemon) <= before:
            break
    assert descriptors(daemon) <= before
