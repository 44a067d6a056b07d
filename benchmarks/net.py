"""Network throughput and latency of a guest: to its host and to another guest, over taps on a bridge.

Everything is in a network namespace of its own, so it needs root or user namespaces, and touches nothing. One boot of
two machines measures every case; the first runs `benchmarks/guest/net.c` against `benchmarks.net_host` and the second.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.disk import Measured, padded
from benchmarks.harness import Case, Plan, require_program
from pyhyve.cli.guest import reporter, warn
from pyhyve.guest.builder import Guest, GuestSpec, build_guest
from pyhyve.support.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

SUMMARY = "a guest's network"
SOURCE = Path(__file__).parent / "guest" / "net.c"
ROOT = Path(__file__).parents[1]
MEMORY_MIB = 256
TOTAL_MIB = 192
TRIPS = 3000
HOST, FIRST, SECOND = "10.9.0.1", "10.9.0.2", "10.9.0.3"
PEER_PORT = 5000
CASES = {
    "receive": "TCP stream, host to guest (MB/s)",
    "send": "TCP stream, guest to host (MB/s)",
    "between": "TCP stream, guest to guest (MB/s)",
    "trip": "one-byte TCP round trips (per second)",
    "ping": "pings of the guest, one after another (per second)",
}
START = "dd if=/dev/vdb of=/bench bs=64k 2>/dev/null; chmod +x /bench"


class Namespace:
    """A network namespace with the host's side in it."""

    def __init__(self, taps: list[str]) -> None:
        """Raises UserError when there can be none."""
        unshare, nsenter = require_program("unshare", "util-linux"), require_program("nsenter", "util-linux")
        require_program("ip", "iproute2")
        is_root = os.geteuid() == 0
        words = [unshare, "--net"] if is_root else [unshare, "--user", "--map-root-user", "--net"]
        self._process = subprocess.Popen(
            [*words, sys.executable, "-m", "benchmarks.net_host", str(TOTAL_MIB), *taps],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        enter = ["--net"] if is_root else ["--user", "--preserve-credentials", "--net"]
        self.prefix = [nsenter, "--target", str(self._process.pid), *enter, "--"]
        port = "" if self._process.stdout is None else self._process.stdout.readline()
        if not port.strip():
            msg = "no network namespace with a bridge can be made here (run as root, or allow user namespaces)"
            raise UserError(msg)
        self.port = int(port)

    def close(self) -> None:
        """End the server; the namespace goes with it."""
        self._process.communicate("")


def append(address: str) -> str:
    """The kernel's command line of a machine with that address."""
    return f"console=ttyS0 quiet panic=-1 pyhyve.net={address}/24 pyhyve.run=sh,/dev/vda"


def our_command(guest: Guest, directory: Path, tap: str, address: str) -> list[str]:
    """The emulator of pyhyve."""
    disks = [f"--disk={directory / name},format=raw,readonly=on" for name in (f"script-{address}", "program")]
    return [
        *(sys.executable, "-m", "pyhyve", "run", "--accel", "jit", "--memory", f"{MEMORY_MIB}M", "--no-reboot"),
        *("--kernel", str(guest.kernel), "--initrd", str(guest.initrd), "--append", append(address), *disks),
        *("--net", f"tap={tap},mac={mac(address)}"),
    ]


def peer_command(qemu: str, guest: Guest, directory: Path, tap: str, address: str) -> list[str]:
    """The emulator of QEMU with the same devices."""
    disks = []
    for index, name in enumerate((f"script-{address}", "program")):
        disks += ["-drive", f"file={directory / name},format=raw,if=none,id=d{index},readonly=on"]
        disks += ["-device", f"virtio-blk-pci,drive=d{index},disable-legacy=on"]
    return [
        *(qemu, "-accel", "tcg", "-machine", "pc", "-m", f"{MEMORY_MIB}M", "-nographic", "-nodefaults"),
        *("-serial", "stdio", "-no-reboot", "-kernel", str(guest.kernel), "-initrd", str(guest.initrd)),
        *("-append", append(address), *disks, "-netdev", f"tap,id=net,ifname={tap},script=no,downscript=no"),
        *("-device", f"virtio-net-pci,netdev=net,disable-legacy=on,mac={mac(address)}"),
    ]


def mac(address: str) -> str:
    """A MAC address for an IP address."""
    return "52:54:00:" + ":".join(f"{int(part):02x}" for part in address.split(".")[1:])


@contextlib.contextmanager
def running(command: list[str]) -> Iterator[None]:
    """The second machine, as long as the first one measures."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def plan() -> Plan:
    """Compile the guests' program, lay out their disks, make the namespace."""
    qemu = require_program("qemu-system-x86_64", "qemu-system-x86")
    compiler = require_program("gcc", "gcc libc6-dev")
    guest = build_guest(GuestSpec(), reporter(), warn)
    stack = contextlib.ExitStack()
    root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pyhyve-net-")))
    host = Namespace(["ours0", "ours1", "peer0", "peer1"])
    stack.callback(host.close)
    program = root / "compiled"
    subprocess.run([compiler, "-O2", "-static", "-o", str(program), str(SOURCE)], check=True)
    measure = f"/bench {HOST} {host.port} {TOTAL_MIB} {TRIPS} {SECOND} {PEER_PORT}"
    padded(root / f"script-{FIRST}", f"{START}; {measure}; poweroff -f\nexit\n".encode())
    padded(root / f"script-{SECOND}", f"{START}; /bench serve {PEER_PORT} {TOTAL_MIB}\nexit\n".encode())
    padded(root / "program", program.read_bytes())

    def ours(tap: str, address: str) -> list[str]:
        return [*host.prefix, *our_command(guest, root, tap, address)]

    def peers(tap: str, address: str) -> list[str]:
        return [*host.prefix, *peer_command(qemu, guest, root, tap, address)]

    our_side = Measured(
        lambda _: ours("ours0", FIRST), root, CASES, "moved", beside=lambda: running(ours("ours1", SECOND))
    )
    peer_side = Measured(
        lambda _: peers("peer0", FIRST), root, CASES, "moved", beside=lambda: running(peers("peer1", SECOND))
    )

    def case(name: str) -> Case:
        # `stack` keeps the directory and the namespace as long as the cases that use them.
        return Case(CASES[name], lambda: our_side.sample(name), lambda: (stack, peer_side.sample(name))[1], warm_up=0)

    first_line = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=True).stdout.split("\n")[0]
    return Plan(
        work=f"virtio-net on taps of a bridge, {MEMORY_MIB} MiB, one CPU, Linux {guest.release}",
        unit="MB/s",
        peer_name="qemu-system-x86_64 (TCG)",
        cases=[case(name) for name in CASES],
        lower_is_better=False,
        versions={"QEMU": first_line.removeprefix("QEMU emulator version ").split(" ")[0]},
    )
