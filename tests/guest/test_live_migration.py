"""Guests that run while they are sent: limits change on the way, and whatever goes wrong, they go on where they are."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pyhyve.machine.config import MIB, AccelChoice, MachineConfig, RngConfig
from pyhyve.machine.lifecycle import MachineState
from pyhyve.machine.migration import MigrationStatus
from pyhyve.machine.migration_uri import MigrationUri
from pyhyve.machine.monitor.commands import MachineCommands
from pyhyve.machine.monitor.errors import QmpError
from pyhyve.machine.snapshots import save_snapshot
from pyhyve.state.errors import StateError

from .conftest import ACCEL, PATIENCE, SYSTEM_ACCEL
from .monitor import Monitor
from .test_migration import Migrating, RunningMachine, small_pipe, wait_for_state
from .test_networks import free_port
from .tiny import kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pyhyve.guest.builder import Guest
    from pyhyve.machine.notices import NoticeKind

LETTERS = "ABCDEFGHIJKLMNOP"
WRITER = bytes.fromhex(
    "31db"  # ebx = 0
    "43 89d8 bf00004000 b900001000 f3ab"  # again: ebx += 1; fill 4 MiB from 4 MiB on with it
    "89d8 83e00f 83c041 baf8030000 ee ebe1"  # print its low bits as a letter; jmp again
)
FOREVER = 1 << 40
"""More bandwidth than there is."""


@pytest.fixture
def config(tmp_path: Path) -> MachineConfig:
    path = tmp_path / "kernel"
    path.write_bytes(kernel(WRITER))
    return MachineConfig(memory_bytes=16 * MIB, accel=AccelChoice(ACCEL), kernel=path)


@pytest.fixture
def source(config: MachineConfig) -> Iterator[Migrating]:
    running = RunningMachine.boot(config)
    running.expect(r"[A-P]{5}", 120)
    source = Migrating(running)
    source.migration.settings.downtime_limit_ms = 0  # not before it has written nothing for a whole round
    source.migration.settings.max_bandwidth = 16 * MIB
    yield source
    running.stop()


@pytest.fixture
def waiting(config: MachineConfig) -> Iterator[Migrating]:
    running = wait_for_state(config)
    yield Migrating(running)
    running.stop()


def until(condition: Callable[[], bool], source: Migrating, timeout_s: float = 60 * PATIENCE) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{source.statuses} {source.migration.error} {source.migration.progress}"
        time.sleep(0.002)


def under_way(source: Migrating, rounds: int) -> None:
    """Wait for so many rounds of a guest that writes faster than its memory is sent."""
    until(lambda: source.migration.progress.rounds >= rounds or not source.migration.status.is_under_way, source)
    assert source.migration.status is MigrationStatus.ACTIVE, source.migration.error
    assert source.running.machine.state is MachineState.RUNNING


class Stops:
    """Notices of a machine that stopped."""

    def __init__(self, machine: Any) -> None:
        self.seen: list[NoticeKind] = []
        machine.observers.append(lambda notice: self.seen.append(notice.kind))


def goes_on(running: RunningMachine) -> None:
    """The guest counts on, without a gap."""
    running.screen.text = ""
    printed = running.expect(r"[A-P]{40}")
    start = LETTERS.index(printed[0])
    assert printed == "".join(LETTERS[(start + i) % 16] for i in range(len(printed)))
    memory = running.machine.parts.vm.memory
    assert memory.dirty is None


def test_limits_may_be_raised_on_the_way(source: Migrating, waiting: Migrating, tmp_path: Path) -> None:
    uri = MigrationUri("unix", str(tmp_path / "socket"))
    waiting.migration.receive(uri)
    settings = source.migration.settings
    source.migration.start(uri)
    under_way(source, 4)
    progress = source.migration.progress
    assert progress.dirty_pages_rate > 0
    assert progress.transferred_bytes > 4 * MIB
    settings.max_bandwidth = FOREVER
    settings.downtime_limit_ms = 2_000_000
    source.wait(MigrationStatus.COMPLETED)
    waiting.wait(MigrationStatus.COMPLETED)
    assert source.running.machine.state is MachineState.PAUSED
    assert source.running.machine.condition == "postmigrate"
    last = source.running.screen.text
    printed = last + waiting.running.expect(r"[A-P]{40}")
    start = LETTERS.index(printed[0])
    assert printed == "".join(LETTERS[(start + i) % 16] for i in range(len(printed)))
    assert progress.downtime_ms > 0
    assert progress.remaining_bytes == 0
    assert progress.normal_bytes > 12 * MIB
    goes_on(waiting.running)


def test_guest_is_slowed_down_when_that_is_wanted(source: Migrating) -> None:
    reading, writing = os.pipe()
    settings = source.migration.settings
    settings.auto_converge = True
    settings.max_bandwidth = FOREVER
    drain = subprocess.Popen(["cat"], stdin=reading, stdout=subprocess.DEVNULL)
    os.close(reading)
    settings.throttle_threshold = 1
    settings.downtime_limit_ms = 0
    source.migration.start(MigrationUri("fd", "out", writing))
    until(lambda: source.migration.progress.throttle_percent >= 30, source)
    source.migration.cancel()
    source.wait(MigrationStatus.CANCELLED)
    assert source.migration.progress.throttle_percent == 0
    goes_on(source.running)
    assert drain.wait(60) == 0


def test_devices_stay_and_memory_is_not_replaced_on_the_way(source: Migrating) -> None:
    reading, writing = small_pipe()
    source.migration.start(MigrationUri("fd", "out", writing))
    source.wait(MigrationStatus.ACTIVE)
    commands = MachineCommands(source.running.machine)
    with pytest.raises(QmpError, match="device_add not allowed while migrating"):
        commands.execute("device_add", {"driver": "virtio-rng-pci", "id": "more"})
    with pytest.raises(QmpError, match="device_del not allowed while migrating"):
        commands.execute("device_del", {"id": "more"})
    with pytest.raises(StateError, match="There's a migration process in progress"):
        save_snapshot(source.running.machine, [], None, "tag")  # type: ignore[arg-type] # not looked at
    source.migration.cancel()
    source.wait(MigrationStatus.CANCELLED)
    commands.execute("device_add", {"driver": "virtio-rng-pci", "id": "more"})
    goes_on(source.running)
    os.close(reading)


def test_cancelled_migration_never_stopped_the_guest(source: Migrating) -> None:
    reading, writing = small_pipe()
    stops = Stops(source.running.machine)
    source.migration.start(MigrationUri("fd", "out", writing))
    source.wait(MigrationStatus.ACTIVE)
    goes_on_meanwhile = source.running.expect(r"[A-P]{40}")
    assert goes_on_meanwhile
    source.migration.cancel()
    source.wait(MigrationStatus.CANCELLED)
    assert stops.seen == []
    goes_on(source.running)
    os.close(reading)


def test_dead_destination_never_stopped_the_guest(source: Migrating, waiting: Migrating, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    drain = subprocess.Popen(["cat"], stdin=reading, stdout=subprocess.DEVNULL)
    os.close(reading)
    stops = Stops(source.running.machine)
    source.migration.start(MigrationUri("fd", "out", writing))
    under_way(source, 3)
    drain.kill()
    drain.wait()
    source.wait(MigrationStatus.FAILED)
    assert source.migration.error == "Broken pipe"
    assert stops.seen == []
    goes_on(source.running)
    uri = MigrationUri("unix", str(tmp_path / "socket"))
    waiting.migration.receive(uri)
    source.migration.settings.downtime_limit_ms = 10_000
    source.migration.start(uri)
    source.wait(MigrationStatus.COMPLETED)
    goes_on(waiting.running)


def test_destination_that_is_another_machine_leaves_the_guest_where_it_is(
    source: Migrating, config: MachineConfig, tmp_path: Path
) -> None:
    """It finds out when all is there: what it lacks comes last."""
    other = Migrating(wait_for_state(replace(config, extras=(RngConfig(),))))
    uri = MigrationUri("unix", str(tmp_path / "socket"))
    other.migration.receive(uri)
    source.migration.settings.downtime_limit_ms = 10_000
    source.migration.start(uri)
    other.wait(MigrationStatus.FAILED)
    source.wait(MigrationStatus.FAILED)
    assert source.migration.error in {
        *("the destination did not take the machine over", "Connection reset by peer", "Broken pipe"),
    }
    goes_on(source.running)
    other.running.stop()
    assert other.running.outcome is not None
    assert "the state does not fit this machine: it has no pci." in other.running.outcome.message


def test_destination_that_says_nothing_is_not_believed(source: Migrating) -> None:
    """All is sent, and the guest stands still: it goes on once somebody cancels, and the other end hears of that."""
    near, far = socket.socketpair()
    source.migration.settings.return_path = True
    source.migration.settings.downtime_limit_ms = 10_000
    source.migration.start(MigrationUri("fd", "out", near.detach()))
    received = bytearray()
    far.settimeout(60)
    # The last bytes are those of the state without memory, which fills its page up with zeros.
    while not (received.count(b"PYHYVEST") > 1 and len(received) >= source.migration.progress.transferred_bytes > 0):
        part = far.recv(1 << 20)
        assert part, source.migration.error
        received += part
    assert source.migration.status is MigrationStatus.ACTIVE
    assert source.running.machine.state is MachineState.PAUSED
    source.migration.cancel()
    source.wait(MigrationStatus.CANCELLED)
    while far.recv(1 << 20):
        pass
    far.close()
    goes_on(source.running)


def test_guest_that_is_paused_on_the_way_arrives(source: Migrating, waiting: Migrating, tmp_path: Path) -> None:
    uri = MigrationUri("unix", str(tmp_path / "socket"))
    waiting.migration.receive(uri)
    source.migration.start(uri)
    under_way(source, 3)
    assert source.running.machine.pause().wait(60)
    source.wait(MigrationStatus.COMPLETED)
    waiting.running.expect(r"[A-P]{40}")
    goes_on(waiting.running)


def test_reset_on_the_way_is_of_no_consequence(source: Migrating, waiting: Migrating, tmp_path: Path) -> None:
    uri = MigrationUri("unix", str(tmp_path / "socket"))
    waiting.migration.receive(uri)
    source.migration.start(uri)
    under_way(source, 2)
    assert source.running.machine.reset().wait(60)
    source.migration.settings.max_bandwidth = FOREVER
    source.migration.settings.downtime_limit_ms = 10_000
    source.wait(MigrationStatus.COMPLETED)
    waiting.wait(MigrationStatus.COMPLETED)
    ours, theirs = (each.running.machine.parts.vm.memory.regions for each in (source, waiting))
    assert waiting.running.machine.pause().wait(60)
    # All up to the 4 MiB that the guest writes: also the code and tables that the reset has written again.
    assert sum(region.size_bytes for region in ours if region.gpa < 4 * MIB) > 12 * MIB
    for our, their in zip(ours, theirs, strict=True):
        length = min(our.size_bytes, max(4 * MIB - our.gpa, 0)) if our.gpa < 4 * MIB else our.size_bytes
        assert our.view[:length] == their.view[:length]


def test_rate_of_a_guest_that_writes_is_measured_and_gives_way_to_a_migration(
    source: Migrating, waiting: Migrating, tmp_path: Path
) -> None:
    commands = MachineCommands(source.running.machine)
    assert commands.execute("query-dirty-rate", {})["status"] == "unstarted"

    def measured() -> bool:
        return bool(commands.execute("query-dirty-rate", {})["status"] == "measured")

    commands.execute("calc-dirty-rate", {"calc-time": 1})
    with pytest.raises(QmpError, match="already being measured"):
        commands.execute("calc-dirty-rate", {"calc-time": 1})
    until(measured, source)
    assert 1 <= commands.execute("query-dirty-rate", {})["dirty-rate"] <= 4
    goes_on(source.running)
    commands.execute("calc-dirty-rate", {"calc-time": 60})
    uri = MigrationUri("unix", str(tmp_path / "socket"))
    waiting.migration.receive(uri)
    source.migration.start(uri)
    under_way(source, 3)
    until(measured, source)
    source.migration.settings.downtime_limit_ms = 10_000
    source.wait(MigrationStatus.COMPLETED)
    goes_on(waiting.running)


def test_stream_that_was_kept_is_restored(source: Migrating, tmp_path: Path) -> None:
    state = tmp_path / "state"
    source.migration.settings.downtime_limit_ms = 10_000
    source.migration.start(MigrationUri("exec", f"cat > {state}"))
    source.wait(MigrationStatus.COMPLETED)
    restored = RunningMachine.restore(state)
    goes_on(restored)
    restored.stop()
    data = state.read_bytes()
    for damaged in (
        data[:-1],
        data[: len(data) // 2],
        data[:5000],
        data[: len(data) // 3] + b"!" + data[len(data) // 3 + 1 :],
    ):
        state.write_bytes(damaged)
        broken = RunningMachine.restore(state)
        until(lambda: broken.error is not None, source)  # noqa: B023 - it is waited for here
        assert str(broken.error).startswith(f"{state}: the state is ")


# -- processes ----------------------------------------------------------------------------------------------------


class Process:
    """A machine in a process of its own, with its monitor; what its guest prints is in a file."""

    def __init__(self, directory: Path, name: str, *words: str) -> None:
        self.output = directory / f"{name}.out"
        path = directory / f"{name}.qmp"
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "pyhyve.cli.system", "-accel", SYSTEM_ACCEL, "-m", "16", "-display", "none"),
                *("-kernel", str(directory / "kernel"), "-serial", f"file:{self.output}"),
                *("-qmp", f"unix:{path},server=on,wait=off", *words),
            ],
            stdin=subprocess.DEVNULL,
        )
        self.monitor = Monitor(path)

    def letters(self, count: int) -> None:
        """Wait for so many more letters."""
        deadline = time.monotonic() + 60
        start = self._size()
        while self._size() < start + count:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def _size(self) -> int:
        with contextlib.suppress(FileNotFoundError):
            return self.output.stat().st_size
        return 0

    def end(self) -> None:
        self.monitor.close()
        self.process.kill()
        self.process.wait()


def test_destination_killed_on_the_way_and_one_that_lives(config: MachineConfig, tmp_path: Path) -> None:
    assert config.kernel is not None
    uris = [f"tcp:127.0.0.1:{free_port()}" for _ in range(2)]
    machines = [Process(tmp_path, "source")]
    try:
        source = machines[0]
        source.letters(100)
        for number, uri in enumerate(uris):
            machines.append(Process(tmp_path, f"target{number}", "-incoming", uri))
        source.monitor.ask("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])
        source.monitor.ask("migrate-set-parameters", max_bandwidth=4 * MIB, downtime_limit=0)
        assert source.monitor.ask("query-migrate-parameters")["max-bandwidth"] == 4 * MIB
        source.monitor.ask("migrate", uri=uris[0])
        while source.monitor.event("MIGRATION_PASS")["pass"] < 3:
            pass
        info = source.monitor.ask("query-migrate")
        assert info["status"] == "active"
        assert info["ram"]["dirty-sync-count"] >= 3
        assert info["ram"]["total"] > info["ram"]["remaining"] >= 0
        assert info["ram"]["transferred"] > MIB
        assert info["expected-downtime"] > 0
        assert source.monitor.ask("query-status")["status"] == "running"
        assert machines[1].monitor.ask("query-status")["status"] == "inmigrate"
        machines[1].process.kill()
        while (status := source.monitor.event("MIGRATION")["status"]) in {"setup", "active"}:
            pass
        assert status == "failed"
        assert source.monitor.ask("query-status")["status"] == "running"
        assert not any(event["event"] == "STOP" for event in source.monitor.events)
        source.letters(100)
        source.monitor.ask("migrate-set-parameters", max_bandwidth=FOREVER, downtime_limit=10_000)
        source.monitor.ask("migrate", uri=uris[1])
        while (status := source.monitor.event("MIGRATION")["status"]) in {"setup", "active"}:
            pass
        assert status == "completed"
        assert source.monitor.ask("query-status")["status"] == "postmigrate"
        info = source.monitor.ask("query-migrate")
        assert info["ram"]["remaining"] == 0
        assert info["ram"]["downtime-bytes"] > 0
        machines[2].letters(100)
        assert machines[2].monitor.ask("query-status")["status"] == "running"
        printed = source.output.read_text() + machines[2].output.read_text()
        start = LETTERS.index(printed[0])
        assert printed == "".join(LETTERS[(start + i) % 16] for i in range(len(printed)))
    finally:
        for machine in machines:
            machine.end()


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root, and ip (iproute2)")
def test_linux_moves_while_it_computes_downloads_and_reads(debian_6_1: Guest) -> None:
    """Its memory arrives to the byte, under writes of processors, disk and network."""
    command = [sys.executable, "-m", "tests.guest.cycles", "--cycles", "3", "--cpus", "2", "--live", "--accel", ACCEL]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("3 cycles: no error, clock right\n")
