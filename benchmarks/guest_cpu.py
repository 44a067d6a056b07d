"""Programs inside a guest: integer and floating-point work, system calls, faults, processes.

One boot measures every case; the guest runs `benchmarks/guest/cpu.c`, which says when each begins and ends. The figure
is the CPU time that the machine's process uses in between, which a busy host disturbs less than time on a clock.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.disk import padded
from benchmarks.harness import Case, Plan, Sample, require_program
from pyhyve.cli.guest import reporter, warn
from pyhyve.guest.builder import Guest, GuestSpec, build_guest
from pyhyve.support.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

SUMMARY = "programs inside a guest"
SOURCE = Path(__file__).parent / "guest" / "cpu.c"
MEMORY_MIB = 256
TIMEOUT_S = 900
CASES = {
    "sha256": "SHA-256",
    "sieve": "sieve of Eratosthenes",
    "sort": "qsort of integers",
    "compress": "LZ77",
    "gzip": "busybox gzip and gunzip",
    "matrix": "matrix product (double)",
    "bodies": "n bodies (double)",
    "syscalls": "getppid",
    "faults": "anonymous page faults",
    "forks": "fork and wait",
    "execs": "fork, exec and wait",
    "pipes": "pipe round trips",
    "shell": "busybox shell loop",
}
APPEND = "console=ttyS0 quiet panic=-1 pyhyve.run=sh,/dev/vda"


def script(cases: Sequence[str]) -> bytes:
    """What the guest's shell runs."""
    run = f"chmod +x /tmp/b; /tmp/b {' '.join(cases)}"
    return f"dd if=/dev/vdb of=/tmp/b bs=64k 2>/dev/null; {run}; echo bench-done; poweroff -f\nexit\n".encode()


def cpu_time_s(pid: int) -> float:
    """CPU time that all threads of a process have used (proc(5), schedstat)."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            total += int((task / "schedstat").read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total / 1e9


class Machine:
    """Figures of one side: a boot gives one of each case, handed out as the cases ask for them."""

    def __init__(self, command: list[str], cases: Sequence[str]) -> None:
        self._command = command
        self._cases = cases
        self._figures: dict[str, list[Sample]] = defaultdict(list)

    def sample(self, case: str) -> Sample:
        """The next figure of `case`, booting when there is none left."""
        if not self._figures[case]:
            self._boot()
        return self._figures[case].pop(0)

    def _boot(self) -> None:
        machine = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        guard = threading.Timer(TIMEOUT_S, machine.kill)
        guard.start()
        said: list[str] = []
        started = 0.0
        found = {}
        assert machine.stdout is not None  # noqa: S101 - for the type checker: PIPE was asked for
        try:
            for line in machine.stdout:
                words = line.decode("utf-8", "replace").split()
                said.append(" ".join(words))
                if len(words) == 2 and words[0] == "begin":
                    started = cpu_time_s(machine.pid)
                elif len(words) == 3 and words[0] == "end":
                    found[words[1]] = Sample(cpu_time_s(machine.pid) - started, words[2])
            status = machine.wait()
        finally:
            guard.cancel()
            machine.kill()
            machine.wait()
        if "bench-done" not in said or set(self._cases) - found.keys():
            msg = f"{self._command[0]}: exit status {status}, the guest printed: {said[-5:]!r}"
            raise UserError(msg)
        for case, sample in found.items():
            self._figures[case].append(sample)


def our_command(guest: Guest, directory: Path) -> list[str]:
    """The emulator of pyhyve."""
    disks = [f"--disk={directory / name},format=raw" for name in ("script", "program")]
    return [
        *(sys.executable, "-m", "pyhyve", "run", "--accel", "jit", "--memory", f"{MEMORY_MIB}M", "--no-reboot"),
        *("--kernel", str(guest.kernel), "--initrd", str(guest.initrd), "--append", APPEND, *disks),
    ]


def peer_command(qemu: str, guest: Guest, directory: Path) -> list[str]:
    """The emulator of QEMU with the same devices."""
    disks = []
    for name in ("script", "program"):
        disks += ["-drive", f"file={directory / name},format=raw,if=none,id={name}"]
        disks += ["-device", f"virtio-blk-pci,drive={name},disable-legacy=on"]
    return [
        *(qemu, "-accel", "tcg", "-machine", "pc", "-m", f"{MEMORY_MIB}M", "-nographic", "-no-reboot"),
        *("-kernel", str(guest.kernel), "-initrd", str(guest.initrd), "-append", APPEND, *disks),
    ]


def plan() -> Plan:
    """Compile the guest's program, lay out the disks."""
    qemu = require_program("qemu-system-x86_64", "qemu-system-x86")
    compiler = require_program("gcc", "gcc libc6-dev")
    guest = build_guest(GuestSpec(), reporter(), warn)
    root = tempfile.TemporaryDirectory(prefix="pyhyve-guest-cpu-")
    directory = Path(root.name)
    program = directory / "compiled"
    subprocess.run([compiler, "-O2", "-static", "-o", str(program), str(SOURCE), "-lm"], check=True)
    padded(directory / "script", script(tuple(CASES)))
    padded(directory / "program", program.read_bytes())
    ours = Machine(our_command(guest, directory), tuple(CASES))
    peer = Machine(peer_command(qemu, guest, directory), tuple(CASES))

    def case(name: str) -> Case:
        # `root` lives as long as the cases that use it.
        return Case(CASES[name], lambda: ours.sample(name), lambda: (root, peer.sample(name))[1], warm_up=0)

    first_line = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=True).stdout.split("\n")[0]
    return Plan(
        work=f"CPU time of programs in a guest of {MEMORY_MIB} MiB, one CPU, Linux {guest.release}",
        unit="s",
        peer_name="qemu-system-x86_64 (TCG)",
        cases=[case(name) for name in CASES],
        versions={"QEMU": first_line.removeprefix("QEMU emulator version ").split(" ")[0]},
    )
