"""Entropy, balloon, channels and virtual sockets of a real guest, through `pyhyve run`."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import re
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .conftest import BOOT_TIMEOUT_S
from .programs import compiled, install_programs, program_disk

if TYPE_CHECKING:
    from pyhyve.guest.builder import Guest
    from pyhyve.guest.console import GuestConsole

    from .conftest import StartMachine

HERE = Path(__file__).parent
APPEND = "console=ttyS0 quiet"
AGENT = "org.qemu.guest_agent.0"
TALK_TIMEOUT_S = 120
ASK_AGAIN_S = 2.0


def talk(peer: socket.socket, data: bytes) -> bytes:
    """Send `data` and the end of it; everything that comes back."""
    peer.settimeout(TALK_TIMEOUT_S)

    def send() -> None:
        peer.sendall(data)
        peer.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    received = bytearray()
    while part := peer.recv(1 << 16):
        received += part
    sender.join()
    return bytes(received)


def test_virtual_sockets_carry_streams_both_ways(debian_6_1: Guest, tmp_path: Path, start: StartMachine) -> None:
    disk = program_disk(tmp_path / "programs", compiled(tmp_path, HERE / "vsock.c"))
    path = tmp_path / "v"
    console = start(
        debian_6_1, APPEND, "--disk", f"{disk},format=raw,readonly=on", "--vsock", f"7=unix:{path}", "--memory", "256M"
    )
    console.wait_ready(BOOT_TIMEOUT_S)
    install_programs(console, "/dev/vda")

    data = random.Random(1).randbytes(3 << 20)
    console.run("(vsock listen 80 >/tmp/said &); until [ -s /tmp/said ]; do usleep 50000; done", TALK_TIMEOUT_S)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(TALK_TIMEOUT_S)
        client.connect(str(path))
        client.sendall(b"CONNECT 80\n")
        answer = b""
        while not answer.endswith(b"\n"):
            answer += client.recv(1)
        assert answer.startswith(b"OK ")
        assert talk(client, data) == data

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{path}_22")
        listener.listen()
        listener.settimeout(TALK_TIMEOUT_S)
        sums: list[bytes] = []

        def serve() -> None:
            server, _ = listener.accept()
            with server:
                server.settimeout(TALK_TIMEOUT_S)
                received = bytearray()
                while part := server.recv(1 << 16):
                    received += part
                sums.append(hashlib.sha256(received).hexdigest().encode())
                server.sendall(sums[0] + b"\n")

        thread = threading.Thread(target=serve)
        thread.start()
        console.run("head -c 2000000 /dev/urandom > /tmp/data")
        said = console.run("vsock connect 22 < /tmp/data; sha256sum < /tmp/data", TALK_TIMEOUT_S)
        thread.join(TALK_TIMEOUT_S)
    first, second = said.split()[:2]
    assert first.encode() == second.encode() == sums[0]
    assert "Connection reset" in console.run("vsock connect 23 </dev/null 2>&1")


def connect(path: Path) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(TALK_TIMEOUT_S)
    peer.connect(str(path))
    return peer


def ask(peer: socket.socket, question: str) -> None:
    """Ask until an agent answers, as agents' clients do: what waits in a port when it is closed, the guest drops.

    It is the last time that is answered: nothing is on its way when this returns.
    """
    deadline = time.monotonic() + TALK_TIMEOUT_S
    peer.settimeout(ASK_AGAIN_S)
    heard = b""
    for turn in itertools.count():
        peer.sendall(f"{question} {turn}\n".encode())
        with suppress(TimeoutError):
            while f"heard: {question} {turn}\n".encode() not in heard:
                assert time.monotonic() < deadline, heard
                part = peer.recv(1 << 12)
                assert part, "the channel ended"
                heard += part
            return
        assert time.monotonic() < deadline, heard


def test_channel_to_an_agent_and_entropy(debian_6_1: Guest, tmp_path: Path, start: StartMachine) -> None:
    path = tmp_path / "agent"
    console = start(
        debian_6_1, APPEND, "--rng", "--channel", f"{AGENT}=unix:{path}", "--channel", f"log=file:{tmp_path}/log",
        "--memory", "256M",
    )  # fmt: skip
    console.wait_ready(BOOT_TIMEOUT_S)
    assert console.run("cat /sys/class/misc/hw_random/rng_current").startswith("virtio_rng")
    assert console.run("head -c 4096 /dev/hwrng | wc -c") == "4096\n"

    console.run("echo to the file > /dev/virtio-ports/log")
    # The guest's driver does not wait for the host to take what is written.
    deadline = time.monotonic() + TALK_TIMEOUT_S
    while (tmp_path / "log").read_text() != "to the file\n":
        assert time.monotonic() < deadline
        time.sleep(0.05)

    port = f"/dev/virtio-ports/{AGENT}"
    # Reading ends when the host's end closes; a guest agent opens its port again.
    agent = f'while :; do while read -r line; do echo "heard: $line"; done <>{port} >&0; usleep 100000; done'
    console.run(f"({agent}) >/dev/null 2>&1 &")
    for turn in range(2):
        with connect(path) as peer:
            ask(peer, f"question {turn}")
    console.run("kill %1")
    console.run("head -c 4000000 /dev/urandom > /tmp/data")
    console.run(f"cat /tmp/data > {port} 2>/dev/null &")
    with connect(path) as peer:
        time.sleep(1)  # a slow reader: the guest has to wait, and nothing may be lost
        received = bytearray()
        while len(received) < 4_000_000:
            received += peer.recv(1 << 14)
    assert console.run("sha256sum < /tmp/data").split()[0] == hashlib.sha256(received).hexdigest()


def resident_bytes(console: GuestConsole) -> int:
    text = Path(f"/proc/{console.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", text)
    assert found is not None
    return int(found[1]) << 10


def test_guest_gives_back_memory_it_does_not_use(debian_6_1: Guest, start: StartMachine) -> None:
    console = start(debian_6_1, APPEND, "--balloon", "--memory", "512M")
    console.wait_ready(BOOT_TIMEOUT_S)
    console.run("mkdir /m; mount -t tmpfs none /m; dd if=/dev/zero of=/m/f bs=1M count=200", TALK_TIMEOUT_S)
    full = resident_bytes(console)
    console.run("umount /m")
    deadline = time.monotonic() + TALK_TIMEOUT_S
    while resident_bytes(console) > full - 150_000_000:
        assert time.monotonic() < deadline, f"{full} bytes were resident, {resident_bytes(console)} still are"
        time.sleep(0.5)
    assert console.run(f"echo {os.getpid()}") == f"{os.getpid()}\n"
