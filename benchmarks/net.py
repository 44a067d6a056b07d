"""Network throughput and latency between a guest and its host, through passt on both sides: no root is needed.

One boot measures every case; the guest runs `benchmarks/guest/net.c` against a server in this process.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.disk import Measured, padded
from benchmarks.harness import Case, Plan, require_program
from pyhyve.cli.guest import reporter, warn
from pyhyve.guest.builder import Guest, GuestSpec, build_guest

if TYPE_CHECKING:
    from collections.abc import Iterator

SUMMARY = "a guest's network"
SOURCE = Path(__file__).parent / "guest" / "net.c"
MEMORY_MIB = 256
TOTAL_MIB = 96
TRIPS = 2000
CASES = {
    "receive": "TCP stream, host to guest (MB/s)",
    "send": "TCP stream, guest to host (MB/s)",
    "trip": "one-byte TCP round trips (per second)",
}
APPEND = "console=ttyS0 quiet panic=-1 pyhyve.net=dhcp pyhyve.run=sh,/dev/vda"


class Server:
    """Echoes ('p'), sends ('r') or swallows ('s') on 127.0.0.1, as each connection's first byte says."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    @staticmethod
    def _serve(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection, contextlib.suppress(OSError):
            mode = connection.recv(1)
            if mode == b"p":
                while data := connection.recv(64):
                    connection.sendall(data)
            elif mode == b"r":
                block = b"\x5a" * (1 << 20)
                for _ in range(TOTAL_MIB):
                    connection.sendall(block)
            elif mode == b"s":
                into = bytearray(1 << 20)
                while connection.recv_into(into):
                    pass
                connection.sendall(b"k")


def our_command(guest: Guest, directory: Path) -> list[str]:
    """The emulator of pyhyve."""
    disks = [f"--disk={directory / name},format=raw" for name in ("script", "program")]
    return [
        *(sys.executable, "-m", "pyhyve", "run", "--accel", "jit", "--memory", f"{MEMORY_MIB}M", "--no-reboot"),
        *("--kernel", str(guest.kernel), "--initrd", str(guest.initrd), "--append", APPEND, *disks, "--net", "user"),
    ]


def peer_command(qemu: str, passt: str, guest: Guest, directory: Path) -> list[str]:
    """The emulator of QEMU with the same devices; a shell starts passt for it."""
    disks = []
    for name in ("script", "program"):
        disks += ["-drive", f"file={directory / name},format=raw,if=none,id={name}"]
        disks += ["-device", f"virtio-blk-pci,drive={name},disable-legacy=on"]
    path = directory / "passt"
    path.unlink(missing_ok=True)
    script = f'{passt} --quiet --one-off --socket {path} 2>/dev/null; exec "$@"'
    return [
        *("sh", "-c", script, "sh", qemu, "-accel", "tcg", "-machine", "pc", "-m", f"{MEMORY_MIB}M", "-nographic"),
        *("-no-reboot", "-kernel", str(guest.kernel), "-initrd", str(guest.initrd), "-append", APPEND, *disks),
        *("-netdev", f"stream,id=net,server=off,addr.type=unix,addr.path={path}"),
        *("-device", "virtio-net-pci,netdev=net,disable-legacy=on"),
    ]


@contextlib.contextmanager
def _temporary_directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pyhyve-net-") as name:
        # passt drops its privileges before it makes its socket there.
        directory = Path(name)
        directory.chmod(0o777)
        yield directory


def plan() -> Plan:
    """Compile the guest's program, lay out the disks of both sides, start the server."""
    qemu = require_program("qemu-system-x86_64", "qemu-system-x86")
    passt = require_program("passt", "passt")
    compiler = require_program("gcc", "gcc libc6-dev")
    guest = build_guest(GuestSpec(), reporter(), warn)
    server = Server()
    stack = contextlib.ExitStack()
    root = stack.enter_context(_temporary_directory())
    program = root / "program"
    subprocess.run([compiler, "-O2", "-static", "-o", str(program), str(SOURCE)], check=True)
    script = (
        f"dd if=/dev/vdb of=/tmp/b bs=64k 2>/dev/null; chmod +x /tmp/b; /tmp/b {server.port} {TOTAL_MIB} {TRIPS}; "
        "poweroff -f\nexit\n"
    )
    sides = []
    for name in ("ours", "peer"):
        directory = root / name
        directory.mkdir()
        directory.chmod(0o777)
        padded(directory / "script", script.encode())
        padded(directory / "program", program.read_bytes())
        sides.append(directory)
    ours = Measured(lambda directory: our_command(guest, directory), sides[0], CASES, "moved")
    peer = Measured(lambda directory: peer_command(qemu, passt, guest, directory), sides[1], CASES, "moved")

    def case(name: str) -> Case:
        # `stack` keeps the directory as long as the cases that use it.
        return Case(CASES[name], lambda: ours.sample(name), lambda: (stack, peer.sample(name))[1], warm_up=0)

    first_line = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=True).stdout.split("\n")[0]
    return Plan(
        work=f"virtio-net through passt, {MEMORY_MIB} MiB, one CPU, Linux {guest.release}",
        unit="MB/s",
        peer_name="qemu-system-x86_64 (TCG)",
        cases=[case(name) for name in CASES],
        lower_is_better=False,
        versions={
            "QEMU": first_line.removeprefix("QEMU emulator version ").split(" ")[0],
            "passt": shutil.which("passt") or "",
        },
    )
