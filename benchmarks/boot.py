"""Kernel to init, the whole command: start, boot, the first process says so and powers off, exit."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING

from benchmarks.harness import Case, Plan, Sample, require_program
from pyhyve.cli.guest import reporter, warn
from pyhyve.guest.builder import Guest, GuestSpec, build_guest
from pyhyve.support.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

MARKER = "pyhyve-boot-done"
MEMORY_MIB = 512
TIMEOUT_S = 600
TAIL_CHARACTERS = 300
SUMMARY = "Debian cloud kernel to init"


def timed(command: Sequence[str], environment: dict[str, str] | None = None) -> Sample:
    """Run `command` to its end. Raises UserError when it fails or the guest did not reach its init."""
    start = time.perf_counter()
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=os.environ | (environment or {}),
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        msg = f"{command[0]}: the guest did not finish within {TIMEOUT_S} s"
        raise UserError(msg) from error
    seconds = time.perf_counter() - start
    output = done.stdout.decode("utf-8", "replace")
    if done.returncode or MARKER not in output:
        said = (output + done.stderr.decode("utf-8", "replace"))[-TAIL_CHARACTERS:]
        msg = f"{command[0]}: exit status {done.returncode}, no marker from the guest; it printed: {said!r}"
        raise UserError(msg)
    lines = [line.strip() for line in output.splitlines() if MARKER in line]
    return Sample(seconds, f"{lines[-1][-len(MARKER) :]}, exit status {done.returncode}")


def our_command(guest: Guest, append: str) -> list[str]:
    """The emulator of pyhyve."""
    return [
        *(sys.executable, "-m", "pyhyve", "run", "--accel", "jit", "--memory", f"{MEMORY_MIB}M", "--no-reboot"),
        *("--kernel", str(guest.kernel), "--initrd", str(guest.initrd), "--append", append),
    ]


def peer_command(qemu: str, guest: Guest, append: str) -> list[str]:
    """The emulator of QEMU with the same machine."""
    return [
        *(qemu, "-accel", "tcg", "-machine", "pc", "-m", f"{MEMORY_MIB}M", "-nographic", "-no-reboot"),
        *("-kernel", str(guest.kernel), "-initrd", str(guest.initrd), "-append", append),
    ]


def plan() -> Plan:
    """Warm caches first (the headline), then the first-ever start, then a kernel that prints everything."""
    qemu = require_program("qemu-system-x86_64", "qemu-system-x86")
    guest = build_guest(GuestSpec(), reporter(), warn)
    quiet = "console=ttyS0 quiet rdinit=/boot-done"
    verbose = "console=ttyS0 rdinit=/boot-done"

    def cold() -> Sample:
        with tempfile.TemporaryDirectory(prefix="pyhyve-cold-") as directory:
            return timed(our_command(guest, quiet), {"XDG_CACHE_HOME": directory, "PYHYVE_SYSTEM_CACHE": ""})

    def peer() -> Sample:
        return timed(peer_command(qemu, guest, quiet))

    first_line = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=True).stdout.split("\n")[0]
    return Plan(
        work=f"Linux {guest.release} to init and off again, whole command, {MEMORY_MIB} MiB, one CPU",
        unit="s",
        peer_name="qemu-system-x86_64 (TCG)",
        cases=[
            Case("warm caches", lambda: timed(our_command(guest, quiet)), peer),
            Case("cold: first ever", cold, peer, warm_up=0, share=0.34),
            Case(
                "warm caches, verbose kernel",
                lambda: timed(our_command(guest, verbose)),
                lambda: timed(peer_command(qemu, guest, verbose)),
                share=0.5,
            ),
        ],
        versions={"QEMU": first_line.removeprefix("QEMU emulator version ").split(" ")[0]},
    )
