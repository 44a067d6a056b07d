"""The daemon under constant work, and killed at random moments: nothing may be lost, nothing may be left behind.

    python -m tests.endurance.daemon --cycles 2000 --clients 8
    python -m tests.endurance.daemon --kills 100

A cycle defines a domain, starts, suspends, resumes and destroys its machine, and undefines it. Machines have no disk
and little memory; the emulator is QEMU's, or any with ``--emulator``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from uuid import uuid4

from pyhyve.client import Connection, DomainState, LibvirtError, connect

START_TIMEOUT_S = 60.0
SETTLE_TIMEOUT_S = 60.0
DESCRIPTORS_MORE = 8
"""Descriptors the daemon may hold in the end beyond what it held at first: connections that are still being closed."""
_ACTIVE = 1


def definition(name: str, uuid: str, emulator: str) -> str:
    return (
        f"<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>16</memory><vcpu>1</vcpu>"
        f"<os><type arch='x86_64'>hvm</type></os><devices><emulator>{emulator}</emulator>"
        "<memballoon model='none'/></devices></domain>"
    )


class DaemonUnderTest:
    """A daemon that keeps everything below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.process: subprocess.Popen[bytes] | None = None
        self.uri = f"qemu:///system?socket={root}/run/virtpyhyved-sock"

    def start(self) -> None:
        """Start it and wait until it serves. Raises RuntimeError."""
        log = self.root / "log.txt"
        self.root.mkdir(exist_ok=True)
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pyhyve", "daemon", "--system", "--root", str(self.root)],
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while b"ready, listening" not in log.read_bytes():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(log.read_text(errors="replace"))
            time.sleep(0.02)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(60)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def descriptors(self) -> int:
        """How many it holds."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def machines(self) -> dict[int, str]:
        """Processes of machines: by id, their command lines."""
        found = {}
        marker = str(self.root).encode()
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                line = path.read_bytes()
                if marker in line and b"guest=" in line:
                    found[int(path.parent.name)] = line.replace(b"\0", b" ").decode(errors="replace")
        return found


def cycle(connection: Connection, name: str, emulator: str) -> None:
    """One machine's whole life. Raises LibvirtError, AssertionError."""
    domain = connection.define_domain(definition(name, str(uuid4()), emulator))
    domain.start()
    assert domain.state()[0] == DomainState.RUNNING
    domain.suspend()
    assert domain.state()[0] == DomainState.PAUSED
    domain.resume()
    domain.destroy()
    assert domain.state()[0] == DomainState.SHUTOFF
    domain.undefine()


def work(daemon: DaemonUnderTest, cycles: int, clients: int, emulator: str) -> list[str]:
    """Run cycles from several clients at once; return what went wrong."""
    problems: list[str] = []
    left = iter(range(cycles))
    lock = threading.Lock()

    def client(number: int) -> None:
        with connect(daemon.uri) as connection:
            while True:
                with lock:
                    turn = next(left, None)
                if turn is None:
                    return
                try:
                    cycle(connection, f"m{number}-{turn}", emulator)
                except (LibvirtError, AssertionError) as error:
                    problems.append(f"cycle {turn}: {type(error).__name__}: {error}")

    first = daemon.descriptors()
    threads = [threading.Thread(target=client, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with connect(daemon.uri) as connection:
        problems += [f"domain {domain.name} is left" for domain in connection.list_all_domains()]
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    while (daemon.machines() or daemon.descriptors() > first + DESCRIPTORS_MORE) and time.monotonic() < deadline:
        time.sleep(0.1)
    problems += [f"process {pid} is left: {line}" for pid, line in daemon.machines().items()]
    if daemon.descriptors() > first + DESCRIPTORS_MORE:
        problems.append(f"the daemon holds {daemon.descriptors()} descriptors, {first} at first")
    problems += [f"{path} is left" for path in (daemon.root / "run/qemu").glob("*/*-m[0-9]*")]
    return problems


class Book:
    """What the daemon promised: definitions it said it has, machines it said run."""

    def __init__(self, emulator: str) -> None:
        self.emulator = emulator
        self.lock = threading.Lock()
        self.defined: set[str] = set()
        self.running: set[str] = set()
        self.unsure: set[str] = set()
        """Domains with a call under way when the daemon was killed: either answer is right."""

    def act(self, connection: Connection, name: str, chance: random.Random) -> None:
        """Do one thing to one domain, and write down what was promised."""
        with self.lock:
            known, runs = name in self.defined, name in self.running
            self.unsure.add(name)
        if not known:
            connection.define_domain(definition(name, str(uuid4()), self.emulator))
            self._note(name, defined=True, running=False)
        elif not runs and chance.random() < 0.3:
            connection.domain(name).undefine()
            self._note(name, defined=False, running=False)
        elif not runs:
            connection.domain(name).start()
            self._note(name, defined=True, running=True)
        else:
            connection.domain(name).destroy()
            self._note(name, defined=True, running=False)

    def _note(self, name: str, *, defined: bool, running: bool) -> None:
        with self.lock:
            self.unsure.discard(name)
            (self.defined.add if defined else self.defined.discard)(name)
            (self.running.add if running else self.running.discard)(name)

    def check(self, connection: Connection, daemon: DaemonUnderTest) -> list[str]:
        """Compare with what is there, take over what was unsure; return what went wrong."""
        there = {domain.name for domain in connection.list_all_domains()}
        active = {domain.name for domain in connection.list_all_domains(_ACTIVE)}
        problems = [f"{name}: its definition is lost" for name in self.defined - there - self.unsure]
        problems += [f"{name}: its definition came back" for name in there - self.defined - self.unsure]
        problems += [f"{name}: its machine is lost" for name in self.running - active - self.unsure]
        problems += [f"{name}: its machine came back" for name in active - self.running - self.unsure]
        lines = daemon.machines()
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        while (strays := _without_domain(lines, active)) and time.monotonic() < deadline:
            time.sleep(0.1)  # some are ended when the daemon starts
            lines = daemon.machines()
        problems += [f"process {pid} belongs to no domain that runs: {line}" for pid, line in strays.items()]
        problems += [f"{name}: more than one process" for name in active if _count(lines, name) > 1]
        self.defined, self.running, self.unsure = there, active, set()
        return problems


def _is_of(line: str, name: str) -> bool:
    return f"guest={name}," in line or f"guest={name} " in line


def _without_domain(lines: dict[int, str], names: set[str]) -> dict[int, str]:
    return {pid: line for pid, line in lines.items() if not any(_is_of(line, name) for name in names)}


def _count(lines: dict[int, str], name: str) -> int:
    return sum(_is_of(line, name) for line in lines.values())


def kill(daemon: DaemonUnderTest, kills: int, emulator: str, seed: int) -> list[str]:
    """Kill the daemon again and again while clients work; return what went wrong."""
    chance = random.Random(seed)
    book, problems = Book(emulator), []
    for turn in range(kills):
        stopping = threading.Event()

        def client(number: int, stopping: threading.Event = stopping, turn: int = turn) -> None:
            mine = random.Random(f"{seed} {turn} {number}")
            with contextlib.suppress(LibvirtError), connect(daemon.uri) as connection:
                while not stopping.is_set():
                    book.act(connection, f"m{number}-{mine.randrange(3)}", mine)

        threads = [threading.Thread(target=client, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(chance.uniform(0.0, 2.0))
        daemon.stop(signal.SIGKILL)
        stopping.set()
        for thread in threads:
            thread.join()
        daemon.start()
        with connect(daemon.uri) as connection:
            problems += [f"kill {turn}: {problem}" for problem in book.check(connection, daemon)]
    with connect(daemon.uri) as connection:
        for domain in connection.list_all_domains():
            with contextlib.suppress(LibvirtError):
                domain.destroy()
            domain.undefine()
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    while daemon.machines() and time.monotonic() < deadline:
        time.sleep(0.1)
    problems += [f"process {pid} is left: {line}" for pid, line in daemon.machines().items()]
    return problems


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--emulator", default="/usr/bin/qemu-system-x86_64")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31))
    options = parser.parse_args()
    print(f"seed {options.seed}")
    problems: list[str] = []
    with tempfile.TemporaryDirectory(prefix="endurance-") as directory:
        daemon = DaemonUnderTest(Path(directory, "root"))
        daemon.start()
        try:
            began = time.monotonic()
            if options.cycles:
                problems += work(daemon, options.cycles, options.clients, options.emulator)
                print(f"{options.cycles} cycles, {options.clients} clients, {time.monotonic() - began:.0f} s")
            began = time.monotonic()
            if options.kills:
                problems += kill(daemon, options.kills, options.emulator, options.seed)
                print(f"{options.kills} kills, {time.monotonic() - began:.0f} s")
        finally:
            daemon.stop()
    for problem in problems:
        print(problem)
    print(f"{len(problems)} problems")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
