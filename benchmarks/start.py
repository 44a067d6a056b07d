"""Process start to the first guest instruction, and the memory that the process takes beside the guest's."""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.harness import Case, Plan, Sample
from benchmarks.kvm_guest import SIGN, ours, qemu, qemu_version, require_kvm, tiny_kernel
from pyhyve.support.errors import UserError

SUMMARY = "command to the first guest instruction, on KVM"
TIMEOUT_S = 60


def first_sign(command: list[str]) -> tuple[float, float]:
    """Seconds to the guest's first output, and resident memory then in MiB. Raises UserError without output."""
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
            status = Path(f"/proc/{process.pid}/status").read_text()
        finally:
            process.kill()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return seconds, int(fields["VmRSS"].split()[0]) / 1024


def plan() -> Plan:
    """Time first, then resident memory, against microvm."""
    require_kvm()
    directory = tempfile.TemporaryDirectory(prefix="pyhyve-start-")
    kernel = tiny_kernel(Path(directory.name) / "kernel")

    def time_of(command: list[str]) -> Sample:
        return Sample(first_sign(command)[0], directory.name)

    def memory_of(command: list[str]) -> Sample:
        return Sample(first_sign(command)[1], directory.name)

    our_command, peer_command = ours(kernel, None, "quiet"), qemu("microvm", kernel, None, "quiet")
    return Plan(
        work="a kernel of ten instructions that prints one character, one CPU",
        unit="s (MiB for memory)",
        peer_name="qemu-system-x86_64 -M microvm (KVM)",
        cases=[
            Case("command to first guest instruction", lambda: time_of(our_command), lambda: time_of(peer_command)),
            Case("resident memory then", lambda: memory_of(our_command), lambda: memory_of(peer_command)),
        ],
        versions={"QEMU": qemu_version()},
    )
