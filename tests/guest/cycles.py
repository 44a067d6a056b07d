# ruff: noqa: T201 - a command prints
"""A guest saved and restored, or moved, again and again while it computes, downloads, and uses its disks.

    python -m tests.guest.cycles --cycles 200 [--live] [--accel jit|kvm] [--cpus N] [--seed N]

Needs root: it makes a network namespace of its own, with a bridge and a web server. After each restore: the checksums
are still right, all loops went on, the guest's clock is right, and its kernel has nothing to complain of. With `--live`
it runs while it is sent to another machine, whose memory must then be what the first one's was, to the byte.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pyhyve.guest.builder import GuestSpec, build_guest
from pyhyve.machine.builder import build
from pyhyve.machine.config import MIB, AccelChoice, DiskConfig, MachineConfig, NetConfig, NetKind
from pyhyve.machine.migration import Migration, MigrationStatus
from pyhyve.machine.migration_uri import MigrationUri

from .in_process import RunningMachine, Screen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_HOST, _GUEST, _PORT = "10.87.0.1", "10.87.0.2", 8087
_DATA_BYTES = 4 * MIB
_DISK_BYTES = 8 * MIB
_WRITTEN_BYTES = MIB
_CLOCK_TOLERANCE_S = 0.5
_COMPLAINTS = r"soft lockup|stall|BUG|WARNING|I/O error|skew is too large|hung"
_APPEND = "console=ttyS0 quiet tsc=reliable"
"""Linux's clocksource watchdog is off. It reads the ACPI timer, an exit, beside the counter: on a busy host that takes
so long that it gives the counter up. From then on guest time comes from the ACPI timer, which loses 4.7 s when the
host leaves the guest without a processor for that long. `test_state.py` checks that saved clocks agree, to 300 us."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.guest.cycles")
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--accel", default="jit", choices=["jit", "kvm"])
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--live", action="store_true")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.inside:
        words = ["--seed", str(arguments.seed), *sys.argv[1:]]
        return subprocess.run(
            ["unshare", "-n", sys.executable, "-m", "tests.guest.cycles", "--inside", *words], check=False
        ).returncode
    print(f"seed {arguments.seed}", flush=True)
    guest = build_guest(GuestSpec(), lambda *_: None, lambda _text: None)
    with tempfile.TemporaryDirectory(prefix="pyhyve-cycles-") as directory, network(Path(directory)) as digest:
        config = MachineConfig(
            memory_bytes=256 * MIB,
            cpus=arguments.cpus,
            accel=AccelChoice(arguments.accel),
            kernel=guest.kernel,
            initrd=guest.initrd,
            append=_APPEND,
            nets=(NetConfig(NetKind.BRIDGE, "br0", mac="52:54:00:87:00:02"),),
            disks=tuple(DiskConfig(Path(directory) / name, format="raw") for name in ("read", "written")),
        )
        (Path(directory) / "written").write_bytes(bytes(_WRITTEN_BYTES))
        contents = os.urandom(_DISK_BYTES)
        (Path(directory) / "read").write_bytes(contents)
        expected = {"loads": digest, "reads": hashlib.sha256(contents).hexdigest(), "writes": "same"}
        change = functools.partial(move if arguments.live else save_and_restore, config, Path(directory))
        run(config, change, arguments.cycles, random.Random(arguments.seed), expected)
    print(f"{arguments.cycles} cycles: no error, clock right")
    return 0


@contextlib.contextmanager
def network(directory: Path) -> Iterator[str]:
    """A bridge and a web server on it; gives the SHA-256 of what it serves."""
    for command in (
        "link set lo up",
        # With an address of its own: else the bridge takes that of the tap of the day, and the guest sends to nobody.
        "link add br0 address 52:54:00:87:00:01 type bridge",
        f"addr add {_HOST}/24 dev br0",
        "link set br0 up",
    ):
        subprocess.run(["ip", *command.split()], check=True)
    served = directory / "www"
    served.mkdir()
    data = os.urandom(_DATA_BYTES)
    (served / "data").write_bytes(data)
    server = subprocess.Popen(
        [sys.executable, "-m", "http.server", "--bind", _HOST, "--directory", str(served), str(_PORT)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield hashlib.sha256(data).hexdigest()
    finally:
        server.kill()
        server.wait()


def save_and_restore(_config: MachineConfig, directory: Path, machine: RunningMachine) -> RunningMachine:
    """The machine out of its own state."""
    machine.save(directory / "state")
    machine.stop()
    return RunningMachine.restore(directory / "state")


def move(config: MachineConfig, directory: Path, machine: RunningMachine) -> RunningMachine:
    """Another machine, to which this one was sent while it ran; their memory is compared."""
    screen = Screen()
    target = build(config, console=screen, awaits_disks=True)
    target.awaits_state = True
    other = RunningMachine(target, screen)
    target.pause().wait()
    incoming, outgoing = Migration(target, lambda _: None), Migration(machine.machine, lambda _: None)
    uri = MigrationUri("unix", str(directory / "socket"))
    incoming.receive(uri)
    outgoing.start(uri)
    while outgoing.status.is_under_way or incoming.status.is_under_way:
        time.sleep(0.01)
    assert outgoing.status is incoming.status is MigrationStatus.COMPLETED, (outgoing.error, incoming.error)
    progress = outgoing.progress
    assert progress.is_live
    assert progress.rounds > 2
    print(
        f"{progress.rounds} rounds, {progress.transferred_bytes / MIB:.1f} MiB in {progress.total_ms} ms,",
        f"stood still for {progress.downtime_ms} ms",
        flush=True,
    )
    for ours, theirs in zip(machine.machine.parts.vm.memory.regions, target.parts.vm.memory.regions, strict=True):
        if ours.view != theirs.view:
            pages = [
                at for at in range(0, ours.size_bytes, 4096) if ours.view[at : at + 4096] != theirs.view[at : at + 4096]
            ]
            msg = f"{len(pages)} pages differ: {[hex(ours.gpa + at) for at in pages[:20]]}"
            raise AssertionError(msg)
    target.resume()
    machine.stop()
    return other


def run(
    config: MachineConfig,
    change: Callable[[RunningMachine], RunningMachine],
    cycles: int,
    source: random.Random,
    expected: dict[str, str],
) -> None:
    machine = RunningMachine.boot(config)
    machine.expect("pyhyve guest ready", 240)
    machine.shell(f"ip addr add {_GUEST}/24 dev eth0; ip link set eth0 up; seq 100000 > /tmp/numbers")
    machine.shell(f"cd /tmp; touch {' '.join(expected)}")
    expected = {"sums": machine.shell("sha256sum < /tmp/numbers").split()[0], **expected}
    machine.shell("(while :; do sha256sum < /tmp/numbers >> /tmp/sums; done) & :")
    machine.shell(f"(while :; do wget -q -O - http://{_HOST}:{_PORT}/data | sha256sum >> /tmp/loads; done) & :")
    drop = "echo 1 > /proc/sys/vm/drop_caches"
    machine.shell(f"(while :; do sha256sum < /dev/vda >> /tmp/reads; {drop}; done) & :")
    blob = f"head -c {_WRITTEN_BYTES} /dev/urandom > /tmp/blob; cat /tmp/blob > /dev/vdb; sync; {drop}"
    judge = "if cmp -s /tmp/blob /dev/vdb; then echo same -; else echo differs -; fi >> /tmp/writes"
    machine.shell(f"(while :; do {blob}; {judge}; done) & :")
    done: list[int] = [0] * len(expected)
    try:
        for cycle in range(cycles):
            time.sleep(source.uniform(0.0, 1.0))
            machine = change(machine)
            gc.collect()  # its code caches
            done = look(machine, cycle, done, expected)
            if cycle % 10 == 9:
                print(
                    f"{cycle + 1} cycles, {done[0]} checksums, {done[1]} downloads, {done[2:]} uses of disks",
                    flush=True,
                )
    finally:
        machine.stop()


def clock_is_right(machine: RunningMachine) -> bool:
    """Whether the guest's time, in whole seconds, is one of between the question and the answer."""
    asked = time.time()
    told = int(machine.shell("date +%s"))
    return asked - 1 - _CLOCK_TOLERANCE_S <= told <= time.time() + _CLOCK_TOLERANCE_S


def look(machine: RunningMachine, cycle: int, before: list[int], expected: dict[str, str]) -> list[int]:
    """Check the guest after a restore; the rounds that its loops have done."""
    deadline = time.monotonic() + 60
    while not clock_is_right(machine):
        if machine.machine.behind_ns:
            deadline = time.monotonic() + 60  # it catches up as fast as the host lets it
        off_s = int(machine.shell("date +%s")) - time.time()
        assert time.monotonic() < deadline, f"cycle {cycle}: the guest's clock is {off_s:.1f} s ahead"
    deadline = time.monotonic() + 120
    while True:
        counts = []
        for name, digest in expected.items():
            found = machine.shell(f"sort /tmp/{name} | uniq -c").split()
            assert found[2::3] in ([], ["-"]), f"cycle {cycle}: {name} differ: {found}"
            assert found[1::3] in ([], [digest]), f"cycle {cycle}: {name} are wrong: {found}"
            counts.append(int(found[0]) if found else 0)
        if all(now > then for now, then in zip(counts, before, strict=True)):
            break
        assert time.monotonic() < deadline, f"cycle {cycle}: the guest does not get on: {counts} after {before}"
    complaints = machine.shell(f"dmesg | grep -E '{_COMPLAINTS}'")
    assert not complaints, f"cycle {cycle}: {complaints}"
    return counts


if __name__ == "__main__":
    sys.exit(main())
