"""Process start to the first guest instruction: time, CPU time, and the memory that the process takes by then."""

from __future__ import annotations

import compileall
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pyhyve
from benchmarks.harness import Case, Plan, Sample
from benchmarks.kvm_guest import SIGN, ours, qemu, qemu_version, require_any_kvm, tiny_kernel
from pyhyve.support.errors import UserError

SUMMARY = "command to the first guest instruction, on KVM"
MAX_CPU_MS, MAX_RESIDENT_MIB = 60, 40
"""What we allow ourselves on a machine that does nothing else."""


@dataclass(frozen=True, slots=True)
class Start:
    """What it took until the guest gave its first sign."""

    seconds: float
    cpu_ms: float
    resident_mib: float


def first_sign(command: list[str]) -> Start:
    """Run `command` until the guest prints; then end it. Raises UserError without output."""
    started = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        if process.stdout is None or process.stderr is None:
            raise ValueError
        try:
            seen = process.stdout.read(1)
            seconds = time.perf_counter() - started
            if seen != SIGN:
                process.kill()
                said = process.stderr.read().decode("utf-8", "replace")[-300:]
                msg = f"{command[0]}: no sign of the guest; it printed: {said!r}"
                raise UserError(msg)
            spent_ns = sum(
                int(path.read_text().split()[0]) for path in Path(f"/proc/{process.pid}/task").glob("*/schedstat")
            )
            status = Path(f"/proc/{process.pid}/status").read_text()
        finally:
            process.kill()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return Start(seconds, spent_ns / 1e6, int(fields["VmRSS"].split()[0]) / 1024)


def plan() -> Plan:
    """CPU time first: it is what a busy host changes least."""
    is_hardware = require_any_kvm()
    compileall.compile_dir(Path(pyhyve.__file__).parent, quiet=1)  # as an installation does
    directory = tempfile.TemporaryDirectory(prefix="pyhyve-start-")
    kernel = tiny_kernel(Path(directory.name) / "kernel")
    our_command = ours(kernel, None, "quiet", any_kvm=not is_hardware)
    peer_command = qemu("microvm", kernel, None, "quiet")

    def case(name: str, figure: str) -> Case:
        return Case(
            name,
            lambda: Sample(getattr(first_sign(our_command), figure), directory.name),
            lambda: Sample(getattr(first_sign(peer_command), figure), directory.name),
        )

    return Plan(
        work="a kernel of ten instructions that prints one character, one CPU"
        + ("" if is_hardware else " (on a software flavour of KVM)"),
        unit="s (ms for CPU time, MiB for memory)",
        peer_name="qemu-system-x86_64 -M microvm (KVM)",
        cases=[
            case(f"CPU time to the first guest instruction (ours: {MAX_CPU_MS} ms at most)", "cpu_ms"),
            case("time to the first guest instruction", "seconds"),
            case(f"resident memory then (ours: {MAX_RESIDENT_MIB} MiB at most)", "resident_mib"),
        ],
        versions={"QEMU": qemu_version()},
    )
