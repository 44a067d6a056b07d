"""Our client, blocking and for asyncio, over every transport, with every way to authenticate."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

import pytest
from certificates import make_certificates
from daemon_process import running_daemon

from pyhyve.client import LibvirtError, aio, connect

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PASSWORD = "pencil and paper"


class Guarded(NamedTuple):
    """A daemon that asks who one is."""

    socket: Path
    tls: str
    stranger: str


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def client_pki(certificates: Path, directory: Path, name: str) -> Path:
    directory.mkdir()
    shutil.copy(certificates / "cacert.pem", directory / "cacert.pem")
    shutil.copy(certificates / f"{name}cert.pem", directory / "clientcert.pem")
    shutil.copy(certificates / f"{name}key.pem", directory / "clientkey.pem")
    return directory


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl (Debian package openssl)")
    directory = tmp_path_factory.mktemp("guarded")
    pki = directory / "pki"
    pki.mkdir()
    make_certificates(pki)
    root, port = directory / "root", free_port()
    (root / "etc").mkdir(parents=True)
    files = {"ca": "cacert.pem", "certificate": "servercert.pem", "key": "serverkey.pem"}
    tls = "\n".join(f'{key} = "{pki / name}"' for key, name in files.items())
    (root / "etc" / "daemon.toml").write_text(f'[tls]\n{tls}\nauth = "sasl"\n[unix]\nauth = "sasl"\n')
    subprocess.run(
        [sys.executable, "-m", "pyhyve", "daemon", "--root", root, "--set-password", "alice"],
        input=PASSWORD + "\n",
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    base = f"test+tls://localhost:{port}/default?pkipath="
    with running_daemon(root, "--listen", f"tls:localhost:{port}") as daemon:
        yield Guarded(
            daemon.socket,
            base + str(client_pki(pki, directory / "client", "client")),
            base + str(client_pki(pki, directory / "stranger", "stranger")),
        )


def hostname(uri: str, user: str, password: str) -> str:
    with connect(uri, user=user, password=password, timeout_s=60) as connection:
        return connection.hostname()


def hostname_async(uri: str, user: str, password: str) -> str:
    async def work() -> str:
        async with await aio.connect(uri, user=user, password=password, timeout_s=60) as connection:
            return await connection.hostname()

    return asyncio.run(work())


@pytest.mark.parametrize("ask", [hostname, hostname_async])
@pytest.mark.parametrize("transport", ["unix", "tls"])
def test_password_opens_the_connection(guarded: Guarded, transport: str, ask: object) -> None:
    uri = f"test+unix:///default?socket={guarded.socket}" if transport == "unix" else guarded.tls
    assert ask(uri, "alice", PASSWORD)  # type: ignore[operator] # one of the two functions
    for user, password in (("alice", "wrong"), ("nobody", PASSWORD)):
        with pytest.raises(LibvirtError, match="authentication failed"):
            ask(uri, user, password)  # type: ignore[operator] # ditto


@pytest.mark.parametrize("ask", [hostname, hostname_async])
def test_certificate_of_a_stranger_is_refused(guarded: Guarded, ask: object) -> None:
    with pytest.raises(LibvirtError, match=r"cannot connect to the daemon|the connection to the daemon is lost"):
        ask(guarded.stranger, "alice", PASSWORD)  # type: ignore[operator] # one of the two functions


def test_ssh_transport_talks_through_a_program(guarded: Guarded, tmp_path: Path) -> None:
    # Stands for ssh: runs the command it is given here, as ssh would there.
    stand_in = tmp_path / "ssh"
    stand_in.write_text('#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\nshift 2\nexec sh -c "$*"\n')
    stand_in.chmod(0o755)
    netcat = tmp_path / "nc"
    netcat.write_text(
        f"#!{sys.executable}\n"
        "import socket, sys, threading, os\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[2])\n"
        "def pump():\n"
        "    while data := os.read(0, 65536): s.sendall(data)\n"
        "    s.shutdown(socket.SHUT_WR)\n"
        "threading.Thread(target=pump, daemon=True).start()\n"
        "while data := s.recv(65536): os.write(1, data)\n"
    )
    netcat.chmod(0o755)
    uri = f"test+ssh://h/default?command={stand_in}&netcat={netcat}&socket={guarded.socket}"
    assert hostname(uri, "alice", PASSWORD)
