# ruff: noqa: T201 - printing is what a command does
"""Long runs on KVM: boots in a row, pauses under load, machines killed at any moment.

Runs on any host with KVM and built guests; `python -m tests.nested --endurance` runs it in the nested machine.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pyhyve.guest.builder import find_guest
from pyhyve.guest.console import GuestConsole

if TYPE_CHECKING:
    from collections.abc import Iterator

GUESTS = ("debian", "debian-6.12")
DISK_BYTES = 2 << 20
HOST_ADDRESS, GUEST_ADDRESS = "10.219.34.1", "10.219.34.2"
TAP = "pke0"
PATIENCE = float(os.environ.get("PYHYVE_GUEST_PATIENCE", "1"))
LONGEST_LIFE_S = 12.0
"""Machines are killed up to this long after their start: some are still loading, some run a shell."""


def command(name: str, cpus: int, disk: Path, *options: str) -> list[str]:
    """`pyhyve run` with a disk and a network card."""
    guest = find_guest(name)
    append = f"console=ttyS0 quiet pyhyve.net={GUEST_ADDRESS}/24"
    return [
        *(sys.executable, "-m", "pyhyve", "run", "--accel", "kvm", "--memory", "256M", "--cpus", str(cpus)),
        *("--kernel", str(guest.kernel), "--initrd", str(guest.initrd), "--append", append, "--no-reboot"),
        *("--disk", f"{disk},format=raw", "--net", f"tap={TAP}", *options),
    ]


def address_when_there() -> None:
    """Give the tap its address; it comes with the machine and goes with it."""
    while subprocess.run(["ip", "link", "set", TAP, "up"], capture_output=True, check=False).returncode:
        time.sleep(0.05)
    subprocess.run(["ip", "address", "add", f"{HOST_ADDRESS}/24", "dev", TAP], capture_output=True, check=True)


def boots(count: int, directory: Path) -> None:
    """Boot `count` times in a row; raises at the first failure."""
    disk = directory / "disk.img"
    for number in range(count):
        name, cpus = GUESTS[number % 2], 1 + number // 2 % 2
        contents = random.Random(number).randbytes(DISK_BYTES)
        disk.write_bytes(contents)
        started = time.monotonic()
        with GuestConsole(command(name, cpus, disk), patience=PATIENCE) as console:
            address_when_there()
            console.wait_ready(240)
            expect(console.run("grep -c ^processor /proc/cpuinfo").strip() == str(cpus), console)
            expect(subprocess_digest(disk) in console.run("sha256sum /dev/vda"), console)
            # A host that does not get a processor for seconds answers late, or not at all: ask again.
            ping = f"n=0; until ping -c 1 -W 5 {HOST_ADDRESS} || [ $n = 60 ]; do n=$((n+1)); sleep 1; done"
            expect("1 packets received" in console.run(ping), console)
            console.send_line("poweroff")
            expect(console.wait_end() == 0, console)
        print(f"boot {number + 1} of {count}: {name}, {cpus} CPUs, {time.monotonic() - started:.1f} s", flush=True)


def subprocess_digest(path: Path) -> str:
    """SHA-256 of a file, as the host's tool says it."""
    return subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout.split()[0]


def expect(condition: bool, console: GuestConsole) -> None:
    """Raise RuntimeError with what the guest printed."""
    if not condition:
        raise RuntimeError(console.transcript[-2000:])


def pauses(count: int) -> None:
    """Pause and resume `count` times while two CPUs work."""
    test = "tests/guest/kvm/test_boot.py::test_pause_and_resume_under_load"
    options = ["-q", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib", "--timeout", "36000"]
    started = time.monotonic()
    environment = os.environ | {"PYHYVE_PAUSES": str(count)}
    subprocess.run([sys.executable, "-m", "pytest", *options, test], check=True, env=environment)
    print(f"{count} pauses under load: {time.monotonic() - started:.0f} s", flush=True)


def traces(directory: Path) -> dict[str, object]:
    """What a machine could leave behind."""
    own = os.getpid()
    found: dict[str, object] = {
        "interfaces": sorted(path.name for path in Path("/sys/class/net").iterdir()),
        "temporary files": sorted(path.name for path in Path(tempfile.gettempdir()).iterdir()),
        "shared memory": sorted(path.name for path in Path("/dev/shm").iterdir()),
        "files": sorted(path.name for path in directory.iterdir() if path.suffix != ".sock"),
        "processes": sorted(_processes() - {own}),
    }
    for module in ("kvm_amd", "kvm_intel"):
        users = Path("/sys/module", module, "refcnt")
        if users.exists():
            found[f"users of {module}"] = users.read_text().strip()
    return found


def _processes() -> set[int]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"pyhyve\0run" in path.read_bytes():
                found.add(int(path.parent.name))
        except OSError:
            continue
    return found


def kills(count: int, directory: Path, seed: int) -> None:
    """Kill `count` machines at random moments; raises when one leaves something behind, or hinders the next."""
    chance = random.Random(seed)
    disk, socket = directory / "disk.img", directory / "qmp.sock"
    disk.write_bytes(bytes(DISK_BYTES))
    before = traces(directory)
    for number in range(count):
        life_s = chance.uniform(0, LONGEST_LIFE_S)
        line = command(GUESTS[number % 2], 1 + number // 2 % 2, disk, "--qmp", f"unix:{socket}")
        process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert process.stdout is not None
        time.sleep(life_s)
        if process.poll() is not None:
            raise RuntimeError(process.stdout.read().decode(errors="replace"))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for _ in _seconds(60):
            if traces(directory) == before:
                break
        else:
            msg = f"left behind: {traces(directory)}, before: {before}"
            raise RuntimeError(msg)
        print(f"kill {number + 1} of {count}: after {life_s:.2f} s", flush=True)
    boots(1, directory)


def _seconds(limit_s: float) -> Iterator[float]:
    end = time.monotonic() + limit_s * PATIENCE
    while time.monotonic() < end:
        yield end - time.monotonic()
        time.sleep(0.1)


def main() -> int:
    """Run what is asked for, 100 boots, 1,000 pauses and 50 kills by default."""
    parser = argparse.ArgumentParser(prog="python -m tests.nested.endurance")
    parser.add_argument("--boots", type=int, default=100)
    parser.add_argument("--pauses", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        if options.kills:
            kills(options.kills, directory, options.seed)
        if options.pauses:
            pauses(options.pauses)
        boots(options.boots, directory)
    print(f"endured {options.boots} boots, {options.pauses} pauses, {options.kills} kills", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
