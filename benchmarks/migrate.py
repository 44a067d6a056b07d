"""A guest that moves to another process while it runs: for how long it stands still, and how long all of it takes."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import Case, Plan, Sample, require_program
from benchmarks.restore import MEMORY_MIB, READY, TIMEOUT_S, Monitor, Process, our_command, peer_command
from pyhyve.cli.guest import reporter, warn
from pyhyve.guest.builder import GuestSpec, build_guest
from pyhyve.support.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable


SUMMARY = "a 512 MiB guest that moves while it runs"
_LOAD = b"(while :; do head -c 8000000 /dev/urandom > /tmp/a; sha256sum /tmp/a > /tmp/b; done) &\n"
"""Some megabytes written again and again."""
_BANDWIDTH = 1 << 40
_POLL_S = 0.01


def _move(command: list[str], key: str) -> Sample:
    """Boot, load, move; the figure `key` of what the source says of it, in milliseconds."""
    directory = Path(tempfile.mkdtemp(prefix="pyhyve-migrate-"))
    uri = f"unix:{directory}/stream"
    processes: list[Process] = []

    def start(name: str, *words: str) -> Process:
        processes.append(Process([*command, "-qmp", f"unix:{directory}/{name},server=on,wait=off", *words]))
        return processes[-1]

    try:
        source = start("source")
        source.expect(READY)
        source.ask()
        target = start("target", "-incoming", uri)
        source.text = b""
        source.type(_LOAD)
        source.ask()
        monitors = [Monitor(directory / name) for name in ("source", "target")]
        time.sleep(1)
        monitors[0].execute("migrate-set-parameters", **{"max-bandwidth": _BANDWIDTH})
        monitors[0].execute("migrate", uri=uri)
        deadline = time.monotonic() + TIMEOUT_S
        while (info := monitors[0].execute("query-migrate")) and isinstance(info, dict):
            if info["status"] == "completed":
                break
            if info["status"] not in {"setup", "active", "device"} or time.monotonic() > deadline:
                msg = f"the migration is {info['status']}: {info.get('error-desc', '')}"
                raise UserError(msg)
            time.sleep(_POLL_S)
        answer = target.ask()
        for each in monitors:
            each.close()
        return Sample(float(info[key]), answer)  # type: ignore[index] # it is the dictionary that says completed
    finally:
        for process in processes:
            process.close()
        shutil.rmtree(directory, ignore_errors=True)


def plan() -> Plan:
    """Both figures, on the emulator of each."""
    qemu = require_program("qemu-system-x86_64", "qemu-system-x86")
    guest = build_guest(GuestSpec(), reporter(), warn)

    def case(name: str, key: str) -> Case:
        def side(command: list[str]) -> Callable[[], Sample]:
            return lambda: _move(command, key)

        return Case(name, side(our_command(guest)), side(peer_command(qemu, guest)), warm_up=0)

    return Plan(
        work=f"Linux {guest.release} with {MEMORY_MIB} MiB that writes all the time, between two processes of the host",
        unit="ms",
        peer_name="qemu-system-x86_64 (TCG)",
        cases=[case("the guest stands still", "downtime"), case("from the first byte to the last", "total-time")],
    )
