"""Many domains on one host: a thousand defined, a hundred running, the daemon killed, stopped and started beside them.

    python -m tests.endurance.scale
    python -m tests.endurance.scale --defined 1000 --running 100 --emulator /usr/bin/qemu-system-x86_64

Machines are of pyhyve's emulator unless told otherwise; each runs a kernel of two instructions that waits for ever.
Prints what was measured, and problems: definitions or machines lost, processes or files left.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4

from pyhyve.client import DomainState, LibvirtError, connect
from tests.endurance.daemon import SETTLE_TIMEOUT_S, DaemonUnderTest
from tests.guest import tiny

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pyhyve.client import Connection

_Item = TypeVar("_Item")
_ACTIVE, _RUNNING = 1, 1 << 4
CLIENTS = 4
START_TIMEOUT_S = 600.0
OURS = shutil.which("pyhyve-system-x86_64", path=str(Path(sys.executable).parent)) or ""


def definition(name: str, emulator: str, kernel: Path) -> str:
    """A small domain."""
    return (
        f"<domain type='qemu'><name>{name}</name><uuid>{uuid4()}</uuid><memory unit='MiB'>16</memory><vcpu>1</vcpu>"
        f"<os><type arch='x86_64' machine='pc'>hvm</type><kernel>{kernel}</kernel></os><features><acpi/></features>"
        f"<devices><emulator>{emulator}</emulator><serial type='null'/><memballoon model='none'/></devices></domain>"
    )


def timed(work: Callable[[], object], times: int = 1) -> float:
    """Median of the seconds that work takes."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def memory_kib(pid: int, field: str) -> int:
    """A process's part of the host's memory: ``Rss``, or ``Pss`` with what it shares counted in shares."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])


class Scale:
    """The daemon, its domains, and what was found."""

    def __init__(self, daemon: DaemonUnderTest, defined: int, running: int, emulator: str) -> None:
        self.daemon = daemon
        self.emulator = emulator
        self.names = [f"m{number}" for number in range(defined)]
        self.runners = self.names[:running]
        self.problems: list[str] = []
        self.figures: dict[str, str] = {}
        self.kernel = daemon.root / "kernel"

    def note(self, what: str, figure: float, unit: str) -> None:
        """Keep a figure."""
        self.figures[what] = f"{figure:.1f} {unit}"

    def cpu_time_s(self) -> float:
        """CPU time the daemon took."""
        fields = Path(f"/proc/{self.daemon.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def each(self, items: Iterable[_Item], work: Callable[[Connection, _Item], object]) -> None:
        """Do something with each item, from several clients at once."""
        left, lock = iter(items), threading.Lock()

        def client() -> None:
            with connect(self.daemon.uri) as connection:
                while True:
                    with lock:
                        item = next(left, None)
                    if item is None:
                        return
                    try:
                        work(connection, item)
                    except LibvirtError as error:
                        self.problems.append(f"{item}: {error}")

        threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def run(self) -> None:
        """Do everything."""
        self.kernel.write_bytes(tiny.kernel(tiny.HALT))
        self.bring_up()
        self.measure()
        before = self.daemon.machines()
        for number, what in ((signal.SIGKILL, "killed"), (signal.SIGTERM, "stopped")):
            self.daemon.stop(number)
            self.note(f"ready again after it was {what}", timed(self.daemon.start), "s")
            self.check_all(f"after the daemon was {what}")
            if self.daemon.machines().keys() != before.keys():
                self.problems.append(f"the daemon was {what}: other processes than before")
        self.start_by_itself()
        self.clear_up()

    def bring_up(self) -> None:
        """Define all, start some."""

        def define(connection: Connection, name: str) -> None:
            connection.define_domain(definition(name, self.emulator, self.kernel))

        self.note(f"defining {len(self.names)}", timed(lambda: self.each(self.names, define)), "s")
        self.note("of it the daemon's CPU time", self.cpu_time_s(), "s")
        before = self.cpu_time_s()
        start = timed(lambda: self.each(self.runners, lambda connection, name: connection.domain(name).start()))
        self.note(f"starting {len(self.runners)}", start, "s")
        self.note("of it the daemon's CPU time ", self.cpu_time_s() - before, "s")
        self.check_all("after starting")

    def measure(self) -> None:
        """Memory, and how long it takes to ask about all."""
        machines = list(self.daemon.machines())
        if machines:
            self.note(
                "a machine's memory (Pss)", statistics.mean(memory_kib(pid, "Pss") for pid in machines) / 1024, "MiB"
            )
            self.note(
                "a machine's memory (Rss)", statistics.mean(memory_kib(pid, "Rss") for pid in machines) / 1024, "MiB"
            )
        self.note("the daemon's memory (Rss)", memory_kib(self.daemon.pid, "Rss") / 1024, "MiB")
        self.note("descriptors of the daemon", self.daemon.descriptors(), "")
        with connect(self.daemon.uri) as connection:
            domain = connection.domain(self.runners[-1])
            self.note("list of all", timed(connection.list_all_domains, 11) * 1000, "ms")
            self.note("list of those that run", timed(lambda: connection.list_all_domains(_ACTIVE), 11) * 1000, "ms")
            self.note("info()", timed(domain.info, 101) * 1e6, "µs")
            self.note("statistics of all, first time", timed(connection.domain_stats) * 1000, "ms")
            self.note("statistics of all", timed(connection.domain_stats, 5) * 1000, "ms")

    def check_all(self, when: str) -> None:
        """Whether everything is there, and runs."""
        with connect(self.daemon.uri) as connection:
            there = {domain.name for domain in connection.list_all_domains()}
            self.problems += [f"{when}: {name} is not defined" for name in set(self.names) - there]
            active = {domain.name: domain for domain in connection.list_all_domains(_ACTIVE)}
            self.problems += [f"{when}: {name} does not run" for name in set(self.runners) - active.keys()]
            self.problems += [f"{when}: {name} runs" for name in active.keys() - set(self.runners)]
            for name, domain in active.items():
                if domain.state()[0] != DomainState.RUNNING:
                    self.problems.append(f"{when}: {name} is in state {domain.state()}")
        if len(self.daemon.machines()) != len(self.runners):
            self.problems.append(f"{when}: {len(self.daemon.machines())} processes for {len(self.runners)} machines")

    def start_by_itself(self) -> None:
        """End all, and have the daemon start them, as it does after the host started."""
        ending = timed(lambda: self.each(self.runners, lambda connection, name: connection.domain(name).destroy()))
        self.note(f"ending {len(self.runners)}", ending, "s")
        self.each(self.runners, lambda connection, name: connection.domain(name).set_autostart(enabled=True))
        self.daemon.stop()
        for marker in self.daemon.root.glob("run/**/autostarted-*"):
            marker.unlink()
        began = time.monotonic()
        self.daemon.start()
        self.note("ready with machines to start", time.monotonic() - began, "s")
        with connect(self.daemon.uri) as connection:
            while len(connection.list_all_domains(_RUNNING)) < len(self.runners):
                if time.monotonic() > began + START_TIMEOUT_S:
                    break
                time.sleep(0.05)
        self.note(f"{len(self.runners)} started by themselves", time.monotonic() - began, "s")
        self.check_all("after they started by themselves")

    def clear_up(self) -> None:
        """End and undefine all; nothing may be left."""
        self.each(self.runners, lambda connection, name: connection.domain(name).destroy())
        undefining = timed(lambda: self.each(self.names, lambda connection, name: connection.domain(name).undefine()))
        self.note(f"undefining {len(self.names)}", undefining, "s")
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        while self.daemon.machines() and time.monotonic() < deadline:
            time.sleep(0.1)
        self.problems += [f"process {pid} is left: {line}" for pid, line in self.daemon.machines().items()]
        root = self.daemon.root
        left = [*root.glob("run/qemu/*/*-m[0-9]*"), *root.glob("run/**/*.json"), *root.glob("state/**/m[0-9]*.xml")]
        self.problems += [f"{path} is left" for path in left]


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--defined", type=int, default=1000)
    parser.add_argument("--running", type=int, default=100)
    parser.add_argument("--emulator", default=OURS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scale-") as directory:
        daemon = DaemonUnderTest(Path(directory, "root"))
        daemon.start()
        scale = Scale(daemon, options.defined, options.running, options.emulator)
        try:
            scale.run()
        finally:
            daemon.stop()
    for what, figure in scale.figures.items():
        print(f"{what}: {figure}")
    for problem in scale.problems:
        print(problem)
    print(f"{len(scale.problems)} problems")
    return int(bool(scale.problems))


if __name__ == "__main__":
    sys.exit(main())
