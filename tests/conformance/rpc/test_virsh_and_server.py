"""Unmodified virsh talks to the daemon's half of the protocol."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import pytest

from pyhyve.rpc.errors import ErrorCode, ErrorDomain, ErrorMessage
from pyhyve.rpc.server import Called, ServerProtocol
from pyhyve.rpc.spec import Feature
from pyhyve.rpc.values import Domain, StatsRecord, TypedParam

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(shutil.which("virsh") is None, reason="no virsh (Debian package libvirt-clients)")

RUNNING = Domain("running", bytes(range(16)), 7)
STOPPED = Domain("stopped", bytes(range(16, 32)), -1)
NO_DOMAIN = ErrorMessage(ErrorCode.NO_DOMAIN, ErrorDomain.QEMU, "Domain not found: no domain with matching name 'x'")


def answer(called: Called) -> tuple[Any, ...] | ErrorMessage:
    """Answer the few calls the commands below make."""
    given = called.arguments
    match called.procedure.name:
        case "AUTH_LIST":
            return ([0],)
        case "CONNECT_SUPPORTS_FEATURE":
            return (int(given.feature in {Feature.PROGRAM_KEEPALIVE, Feature.REMOTE_EVENT_CALLBACK}),)
        case "CONNECT_LIST_ALL_DOMAINS":
            return ([RUNNING, STOPPED], 2)
        case "DOMAIN_GET_STATE":
            return (1, 1) if given.dom.id > 0 else (5, 0)
        case "DOMAIN_LOOKUP_BY_NAME":
            return (RUNNING,) if given.name == "running" else NO_DOMAIN
        case "CONNECT_GET_ALL_DOMAIN_STATS":
            params = [TypedParam("state.state", 1, 1), TypedParam("vcpu.0.time", 4, 2**63), TypedParam("n", 7, "é")]
            return ([StatsRecord(RUNNING, params)],)
        case "CONNECT_OPEN" | "CONNECT_CLOSE" | "CONNECT_REGISTER_CLOSE_CALLBACK" | "CONNECT_UNREGISTER_CLOSE_CALLBACK":
            return ()
        case name:
            return ErrorMessage(ErrorCode.NO_SUPPORT, ErrorDomain.REMOTE, f"this function is not supported: {name}")


def serve(listener: socket.socket) -> None:
    """Serve one client after the other until the listener closes."""
    while True:
        try:
            near, _ = listener.accept()
        except OSError:
            return
        protocol = ServerProtocol()
        with near, contextlib.suppress(ConnectionError):
            while data := near.recv(65536):
                for event in protocol.receive(data):
                    if isinstance(event, Called):
                        result = answer(event)
                        if isinstance(result, ErrorMessage):
                            protocol.fail(event, result)
                        else:
                            protocol.reply(event, *result)
                for out, _ in protocol.data_to_send():
                    near.sendall(out)


@pytest.fixture
def uri(tmp_path: Path) -> Iterator[str]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(4)
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        yield f"qemu:///system?socket={tmp_path}/s"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def virsh(uri: str, *command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"LC_ALL": "C.UTF-8"}
    return subprocess.run(
        ["virsh", "-c", uri, *command], capture_output=True, text=True, timeout=60, check=False, env=environment
    )


def test_virsh_lists_domains(uri: str) -> None:
    done = virsh(uri, "list", "--all")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split() for line in done.stdout.splitlines()[2:4]] == [
        ["7", "running", "running"],
        ["-", "stopped", "shut", "off"],
    ]


def test_virsh_shows_statistics(uri: str) -> None:
    done = virsh(uri, "domstats")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["Domain:", "'running'", "state.state=1", f"vcpu.0.time={2**63}", "n=é"]


def test_virsh_prints_our_errors_as_they_stand(uri: str) -> None:
    done = virsh(uri, "domstate", "x")
    assert (done.returncode, done.stdout.strip()) == (1, "")
    assert done.stderr.splitlines() == [
        "error: failed to get domain 'x'",
    ]
    done = virsh(uri, "hostname")
    assert done.returncode == 1
    assert "this function is not supported: CONNECT_GET_HOSTNAME" in done.stderr
