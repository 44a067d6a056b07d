"""Machines that go through streams: out of one process's machine into another's, or not at all."""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from pyhyve.machine.builder import build
from pyhyve.machine.config import MIB, AccelChoice, MachineConfig
from pyhyve.machine.lifecycle import MachineState
from pyhyve.machine.migration import Migration, MigrationStatus
from pyhyve.machine.migration_uri import MigrationUri, parse_uri
from pyhyve.machine.outcome import OutcomeKind
from pyhyve.state.errors import StateError

from .conftest import PATIENCE
from .in_process import RunningMachine, Screen
from .test_state import COUNTER, LETTERS
from .tiny import kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pyhyve.backends.chardev import Receiver
    from pyhyve.machine.machine import Machine


class Migrating:
    """A machine and its migrations, with every status they went through."""

    def __init__(self, running: RunningMachine) -> None:
        self.running = running
        self.statuses: list[MigrationStatus] = []
        self.changed = threading.Condition()
        self.migration = Migration(running.machine, self._note)

    def _note(self, status: MigrationStatus) -> None:
        with self.changed:
            self.statuses.append(status)
            self.changed.notify_all()

    def wait(self, *statuses: MigrationStatus, timeout_s: float = 60 * PATIENCE) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.statuses[-1:] and self.statuses[-1] in statuses, timeout_s), (
                f"{self.statuses} {self.migration.error}"
            )


@pytest.fixture
def config(tmp_path: Path) -> MachineConfig:
    path = tmp_path / "kernel"
    path.write_bytes(kernel(COUNTER))
    return MachineConfig(memory_bytes=16 * MIB, accel=AccelChoice.JIT, kernel=path)


@pytest.fixture
def source(config: MachineConfig) -> Iterator[Migrating]:
    running = RunningMachine.boot(config)
    running.expect(r"[A-P]{5}", 120)
    yield Migrating(running)
    running.stop()


@pytest.fixture
def waiting(config: MachineConfig) -> Iterator[Migrating]:
    running = wait_for_state(config)
    yield Migrating(running)
    running.stop()


def wait_for_state(config: MachineConfig) -> RunningMachine:
    screen = Screen()
    machine: Machine = build(config, console=screen)
    machine.awaits_state = True
    return RunningMachine(machine, screen)


def no_descriptor(_name: str) -> None:
    return None


def uri(text: str) -> MigrationUri:
    return parse_uri(text, no_descriptor)


def pipe_uris(_directory: Path) -> tuple[MigrationUri, MigrationUri]:
    reading, writing = os.pipe()
    return MigrationUri("fd", "out", writing), MigrationUri("fd", "in", reading)


def small_pipe() -> tuple[int, int]:
    """A pipe that the state of no machine fits into."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    return reading, writing


def unix_uris(directory: Path) -> tuple[MigrationUri, MigrationUri]:
    return uri(f"unix:{directory}/socket"), uri(f"unix:{directory}/socket")


def tcp_uris(_directory: Path) -> tuple[MigrationUri, MigrationUri]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return uri(f"tcp:127.0.0.1:{port}"), uri(f"tcp:127.0.0.1:{port}")


@pytest.mark.parametrize("make", [pipe_uris, unix_uris, tcp_uris], ids=["fd", "unix", "tcp"])
def test_machine_moves_through_a_stream(
    make: Callable[[Path], tuple[MigrationUri, MigrationUri]], source: Migrating, waiting: Migrating, tmp_path: Path
) -> None:
    outgoing, incoming = make(tmp_path)
    waiting.migration.receive(incoming)
    source.migration.start(outgoing)
    source.wait(MigrationStatus.COMPLETED)
    waiting.wait(MigrationStatus.COMPLETED)
    assert source.statuses == [MigrationStatus.SETUP, MigrationStatus.ACTIVE, MigrationStatus.COMPLETED]
    assert waiting.statuses == [MigrationStatus.SETUP, MigrationStatus.ACTIVE, MigrationStatus.COMPLETED]
    assert source.running.machine.state is MachineState.PAUSED
    assert source.running.machine.condition == "postmigrate"
    last = source.running.screen.text
    printed = waiting.running.expect(r"[A-P]{20}")
    if last:
        assert LETTERS.index(printed[0]) == (LETTERS.index(last[-1]) + 1) % 16


@pytest.mark.parametrize("form", ["file:{}", "file:{},offset=0x1234", "exec:cat > {}"])
def test_machine_is_kept_in_a_file(form: str, source: Migrating, config: MachineConfig, tmp_path: Path) -> None:
    path = tmp_path / "state"
    source.migration.start(uri(form.format(path)))
    source.wait(MigrationStatus.COMPLETED)
    assert source.migration.progress.transferred_bytes > 0
    assert path.stat().st_size > 4096
    back = form.format(path) if form.startswith("file") else f"exec:cat {path}"
    for _ in range(2):
        running = wait_for_state(config)
        target = Migrating(running)
        target.migration.receive(uri(back))
        running.expect(r"[A-P]{20}")
        running.stop()


class SlowScreen(Screen):
    """A console that takes its time to start."""

    def start(self, loop: object, receiver: Receiver) -> None:
        time.sleep(0.3)
        super().start(loop, receiver)


def test_state_that_comes_while_a_machine_starts_waits_for_it(
    source: Migrating, config: MachineConfig, tmp_path: Path
) -> None:
    source.migration.start(uri(f"file:{tmp_path}/state"))
    source.wait(MigrationStatus.COMPLETED)
    time.sleep(0.1)  # so that there are clocks to bring to the present
    screen = SlowScreen()
    machine: Machine = build(config, console=screen)
    machine.awaits_state = True
    running = RunningMachine(machine, screen)
    waiting = Migrating(running)
    waiting.migration.receive(uri(f"file:{tmp_path}/state"))
    waiting.wait(MigrationStatus.COMPLETED)
    running.expect(r"[A-P]{20}")
    running.stop()
    assert running.error is None


def test_machine_goes_on_after_a_completed_migration_when_asked(source: Migrating, tmp_path: Path) -> None:
    source.migration.start(uri(f"file:{tmp_path}/state"))
    source.wait(MigrationStatus.COMPLETED)
    assert source.running.machine.resume().wait(60)
    source.running.expect(r"[A-P]{20}")
    assert source.running.machine.condition == ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("exec:exit 7", "Broken pipe|status 7"),
        ("exec:cat >/dev/null; exit 3", "the command ended with status 3"),
        ("file:/dev/full", "No space left on device"),
    ],
)
def test_guest_goes_on_after_a_failure(text: str, reason: str, source: Migrating) -> None:
    source.migration.start(uri(text))
    source.wait(MigrationStatus.FAILED)
    assert [word for word in reason.split("|") if word in source.migration.error]
    source.running.expect(r"[A-P]{20}")
    assert source.running.machine.condition == ""


@pytest.mark.parametrize("text", ["file:/nowhere/state", "unix:/nowhere/socket", "tcp:127.0.0.1:1", "tcp:1"])
def test_stream_that_cannot_be_opened_is_refused_at_once(text: str, source: Migrating) -> None:
    with pytest.raises(StateError):
        source.migration.start(uri(text))
    assert source.statuses == [MigrationStatus.FAILED]
    source.running.expect(r"[A-P]{20}")


def test_migration_into_a_sleeping_reader_is_cancelled(source: Migrating) -> None:
    reading, writing = small_pipe()
    source.migration.start(MigrationUri("fd", "out", writing))
    source.wait(MigrationStatus.ACTIVE)
    time.sleep(0.2)
    with pytest.raises(StateError, match="There's a migration process in progress"):
        source.migration.start(uri("exec:cat"))
    source.migration.cancel()
    source.wait(MigrationStatus.CANCELLED)
    source.running.expect(r"[A-P]{20}")
    os.close(reading)


def test_wish_to_go_on_waits_for_the_end_of_a_migration(source: Migrating) -> None:
    reading, writing = small_pipe()
    assert source.running.machine.pause().wait(60)
    source.migration.start(MigrationUri("fd", "out", writing))
    source.wait(MigrationStatus.ACTIVE)
    while source.running.machine._held is None:
        time.sleep(0.001)
    resumed = source.running.machine.resume()
    assert not resumed.wait(0.3)
    source.migration.cancel()
    assert resumed.wait(60)
    source.wait(MigrationStatus.CANCELLED)
    source.running.expect(r"[A-P]{20}")
    os.close(reading)


def test_machine_can_be_ended_while_its_reader_sleeps(source: Migrating) -> None:
    reading, writing = small_pipe()
    source.migration.start(MigrationUri("fd", "out", writing))
    source.wait(MigrationStatus.ACTIVE)
    source.running.stop()
    assert source.running.outcome is not None
    assert source.running.outcome.kind is OutcomeKind.STOPPED
    os.close(reading)


def test_bad_stream_ends_the_machine_that_waits_for_it(waiting: Migrating, tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_bytes(b"QEVM" + bytes(100))
    waiting.migration.receive(uri(f"file:{path}"))
    waiting.wait(MigrationStatus.FAILED)
    deadline = time.monotonic() + 60
    while waiting.running.outcome is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert waiting.running.outcome.message == (
        "load of migration failed: not a state of a machine (a foreign or empty file)"
    )


def test_machine_that_waits_is_stopped_at_once(waiting: Migrating, tmp_path: Path) -> None:
    waiting.migration.receive(uri(f"unix:{tmp_path}/socket"))
    waiting.running.stop()
    assert waiting.running.outcome is not None
    assert waiting.running.outcome.kind is OutcomeKind.STOPPED


def test_machine_that_waits_stays_paused_when_told(source: Migrating, waiting: Migrating, tmp_path: Path) -> None:
    source.migration.start(uri(f"file:{tmp_path}/state"))
    source.wait(MigrationStatus.COMPLETED)
    assert waiting.running.machine.pause().wait(60)
    waiting.migration.receive(uri(f"file:{tmp_path}/state"))
    waiting.wait(MigrationStatus.COMPLETED)
    time.sleep(0.2)
    assert waiting.running.screen.text == ""
    assert waiting.running.machine.resume().wait(60)
    waiting.running.expect(r"[A-P]{20}")


@pytest.mark.parametrize("text", ["", "fd", "fd:", "rdma:host:1", "fd:nobody", "fd:99999"])
def test_unknown_streams_are_refused(text: str) -> None:
    with pytest.raises(StateError):
        uri(text)


def test_bad_offset_is_refused(source: Migrating, tmp_path: Path) -> None:
    with pytest.raises(StateError, match="bad offset"):
        source.migration.start(uri(f"file:{tmp_path}/state,offset=-1"))
