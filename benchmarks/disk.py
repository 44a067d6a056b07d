"""Disk throughput as a guest sees it: 4 KiB random at depth 1 and 32, 128 KiB sequential, on a raw image.

One boot measures every case; the guest runs `benchmarks/guest/disk.c` and reports.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import Case, Plan, Sample, require_program
from pyhyve.cli.guest import reporter, warn
from pyhyve.guest.builder import Guest, GuestSpec, build_guest
from pyhyve.support.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager

SUMMARY = "a guest's disk"
SOURCE = Path(__file__).parent / "guest" / "disk.c"
MEMORY_MIB = 256
DISK_BYTES = 64 << 20
TIMEOUT_S = 600
CASES = {
    "randread-32": "4 KiB random reads, depth 32 (IOPS)",
    "randread-1": "4 KiB random reads, depth 1 (IOPS)",
    "randwrite-1": "4 KiB random writes, depth 1 (IOPS)",
    "randwrite-32": "4 KiB random writes, depth 32 (IOPS)",
    "seqread": "128 KiB sequential reads (MB/s)",
    "seqwrite": "128 KiB sequential writes (MB/s)",
}
APPEND = "console=ttyS0 quiet panic=-1 pyhyve.run=sh,/dev/vda"
SCRIPT = b"dd if=/dev/vdb of=/tmp/b bs=64k 2>/dev/null; chmod +x /tmp/b; /tmp/b /dev/vdc; poweroff -f\nexit\n"


class Measured:
    """Figures of one side: a boot gives one of each case, handed out as the cases ask for them."""

    def __init__(
        self,
        command: Callable[[Path], list[str]],
        directory: Path,
        cases: Iterable[str],
        result: str,
        *,
        beside: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """`command(directory)` boots; the guest prints `case=figure` for each of `cases`, and `result=…`.

        `beside` is held meanwhile.
        """
        self._beside = beside
        self._command = command
        self._directory = directory
        self._cases = set(cases)
        self._result = result
        self._figures: dict[str, list[Sample]] = defaultdict(list)

    def sample(self, case: str) -> Sample:
        """The next figure of `case`, booting when there is none left."""
        if not self._figures[case]:
            self._boot()
        return self._figures[case].pop(0)

    def _boot(self) -> None:
        command = self._command(self._directory)
        try:
            with self._beside():
                done = subprocess.run(
                    command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, check=False
                )
        except subprocess.TimeoutExpired as error:
            msg = f"{command[0]}: the guest did not finish within {TIMEOUT_S} s"
            raise UserError(msg) from error
        output = done.stdout.decode("utf-8", "replace")
        figures = dict(re.findall(r"([\w-]+)=([\w.]+)", output))
        if "bench-done" not in output or not self._cases | {self._result} <= figures.keys():
            said = (output + done.stderr.decode("utf-8", "replace"))[-300:]
            msg = f"{command[0]}: exit status {done.returncode}, the guest printed: {said!r}"
            raise UserError(msg)
        for case in self._cases:
            self._figures[case].append(Sample(float(figures[case]), figures[self._result]))


def fresh_disk(directory: Path) -> None:
    """Write the disk's first contents."""
    block = bytes(range(256)) * 4096
    with (directory / "disk").open("wb") as file:
        for _ in range(DISK_BYTES // len(block)):
            file.write(block)


def our_command(guest: Guest, directory: Path) -> list[str]:
    """The emulator of pyhyve."""
    fresh_disk(directory)
    disks = [f"--disk={directory / name},format=raw" for name in ("script", "program", "disk")]
    return [
        *(sys.executable, "-m", "pyhyve", "run", "--accel", "jit", "--memory", f"{MEMORY_MIB}M", "--no-reboot"),
        *("--kernel", str(guest.kernel), "--initrd", str(guest.initrd), "--append", APPEND, *disks),
    ]


def peer_command(qemu: str, guest: Guest, directory: Path) -> list[str]:
    """The emulator of QEMU with the same devices."""
    fresh_disk(directory)
    disks = []
    for name in ("script", "program", "disk"):
        disks += ["-drive", f"file={directory / name},format=raw,if=none,id={name}"]
        disks += ["-device", f"virtio-blk-pci,drive={name},disable-legacy=on"]
    return [
        *(qemu, "-accel", "tcg", "-machine", "pc", "-m", f"{MEMORY_MIB}M", "-nographic", "-no-reboot"),
        *("-kernel", str(guest.kernel), "-initrd", str(guest.initrd), "-append", APPEND, *disks),
    ]


def padded(path: Path, data: bytes) -> None:
    """A disk that holds `data`, in whole sectors, newlines to the end of its mebibyte."""
    size = -(-len(data) // (1 << 20)) << 20
    path.write_bytes(data.ljust(size, b"\n"))


def plan() -> Plan:
    """Compile the guest's program, lay out the disks of both sides."""
    qemu = require_program("qemu-system-x86_64", "qemu-system-x86")
    compiler = require_program("gcc", "gcc libc6-dev")
    guest = build_guest(GuestSpec(), reporter(), warn)
    root = tempfile.TemporaryDirectory(prefix="pyhyve-disk-")
    program = Path(root.name) / "program"
    subprocess.run([compiler, "-O2", "-static", "-o", str(program), str(SOURCE)], check=True)
    sides = []
    for name in ("ours", "peer"):
        directory = Path(root.name) / name
        directory.mkdir()
        padded(directory / "script", SCRIPT)
        padded(directory / "program", program.read_bytes())
        sides.append(directory)
    ours = Measured(lambda directory: our_command(guest, directory), sides[0], CASES, "sum")
    peer = Measured(lambda directory: peer_command(qemu, guest, directory), sides[1], CASES, "sum")

    def case(name: str) -> Case:
        # `root` lives as long as the cases that use it.
        return Case(CASES[name], lambda: ours.sample(name), lambda: (root, peer.sample(name))[1], warm_up=0)

    first_line = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=True).stdout.split("\n")[0]
    return Plan(
        work=f"virtio-blk on a raw image, {MEMORY_MIB} MiB, one CPU, Linux {guest.release}",
        unit="IOPS",
        peer_name="qemu-system-x86_64 (TCG)",
        cases=[case(name) for name in CASES],
        lower_is_better=False,
        versions={"QEMU": first_line.removeprefix("QEMU emulator version ").split(" ")[0]},
    )
