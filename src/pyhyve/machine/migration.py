"""Saving a machine into a stream and starting one from it, as QEMU's migration does: in the background, with a status.

The guest stands still while its state is written. Streams are named as in QEMU: `fd:`, `exec:`, `file:`, `unix:` and
`tcp:`; what they carry is our own format (docs/state-format.md), not QEMU's.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyhyve.machine.block.errors import ChangeError
from pyhyve.machine.block.handover import let_disks_go, take_disks
from pyhyve.machine.lifecycle import MachineState
from pyhyve.machine.migration_uri import MigrationUri, open_incoming, open_outgoing
from pyhyve.machine.saving import load, prepare_to_load, read_saved, save
from pyhyve.state.errors import StateCancelledError, StateError
from pyhyve.support.enums import StrEnum

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.machine.machine import Machine
    from pyhyve.state.streams import StateSink, StateSource

_LOG = logging.getLogger(__name__)
_SETTLE_TIMEOUT_S = 30.0
_POLL_S = 0.002


class MigrationStatus(StrEnum):
    """The part of QEMU's `MigrationStatus` that occurs here."""

    NONE = "none"
    SETUP = "setup"
    ACTIVE = "active"
    DEVICE = "device"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"

    @property
    def is_under_way(self) -> bool:
        """Whether something is going on."""
        return self in {self.SETUP, self.ACTIVE, self.DEVICE, self.CANCELLING}


@dataclass(slots=True)
class Progress:
    """Figures of the migration at hand, or of the last one."""

    setup_ms: int = 0
    total_ms: int = 0
    downtime_ms: int = 0
    transferred_bytes: int = 0
    total_bytes: int = 0
    normal_bytes: int = 0


class Migration:
    """The migrations of one machine, one at a time. Methods may be called from any thread."""

    def __init__(self, machine: Machine, changed: Callable[[MigrationStatus], None]) -> None:
        """`changed` is called with every status, on a thread of its own; it must not wait for the machine."""
        self._machine = machine
        self._changed = changed
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self.status = MigrationStatus.NONE
        self.error = ""
        self.is_incoming = False
        self.max_bandwidth = 0
        """Bytes per second that are written at most; 0 for as fast as possible."""
        self.progress = Progress()

    def _enter(self, status: MigrationStatus) -> None:
        self.status = status
        self._changed(status)

    def _begin(self, *, incoming: bool) -> None:
        with self._lock:
            if self.status.is_under_way:
                msg = "There's a migration process in progress"
                raise StateError(msg)
            self.status = MigrationStatus.SETUP
            self.is_incoming = incoming
        self.error = ""
        self._cancelled.clear()
        self.progress = Progress(total_bytes=self._memory_bytes())

    def _memory_bytes(self) -> int:
        return sum(region.size_bytes for region in self._machine.parts.vm.memory.regions)

    # -- out ----------------------------------------------------------------------------------------------------------

    def start(self, uri: MigrationUri) -> None:
        """Save the machine into `uri`. Returns at once; raises StateError when it cannot even begin."""
        self._begin(incoming=False)
        try:
            stream = open_outgoing(uri, self._cancelled.is_set, self.max_bandwidth)
        except (OSError, StateError) as error:
            self.error = _reason(error)
            self._enter(MigrationStatus.FAILED)
            raise StateError(self.error) from error

        def work() -> None:
            with stream:
                self._save(stream.sink)
                stream.finish()

        self._changed(MigrationStatus.SETUP)
        threading.Thread(target=lambda: self._out(work), name="pyhyve-migration", daemon=True).start()

    def cancel(self) -> None:
        """Take the wish to save back; nothing happens when none is under way."""
        with self._lock:
            if self.status.is_under_way and not self.is_incoming:
                self._cancelled.set()

    def _out(self, work: Callable[[], None]) -> None:
        machine = self._machine
        started = stopped = time.monotonic()
        was_running = machine.state is MachineState.RUNNING
        machine.hold()
        try:
            self._enter(MigrationStatus.ACTIVE)
            stopped = time.monotonic()
            machine.pause().wait(_SETTLE_TIMEOUT_S)
            work()
            if self._cancelled.is_set():
                raise StateCancelledError
            machine.condition = "postmigrate"
            status = MigrationStatus.COMPLETED
        except StateCancelledError:
            status = MigrationStatus.CANCELLED
        except (StateError, ChangeError, OSError, MemoryError) as error:
            self.error = _reason(error)
            status = MigrationStatus.FAILED
        except Exception as error:  # noqa: BLE001 - a defect of ours must not leave the guest held
            _LOG.exception("saving the machine failed")
            self.error = f"{type(error).__name__}: {error}"
            status = MigrationStatus.FAILED
        ended = time.monotonic()
        self.progress.total_ms = round((ended - started) * 1000)
        self.progress.downtime_ms = round((ended - stopped) * 1000)
        machine.release()
        if status is not MigrationStatus.COMPLETED:
            with contextlib.suppress(ChangeError):  # whoever resumes it is told
                take_disks(machine)
                if was_running:
                    machine.resume().wait(_SETTLE_TIMEOUT_S)
        self._enter(status)

    def _save(self, sink: StateSink) -> None:
        machine = self._machine
        machine.suspend_devices()
        let_disks_go(machine)
        result = save(machine, sink)
        self.progress.transferred_bytes = result.state_bytes
        self.progress.normal_bytes = result.memory_bytes

    # -- in -----------------------------------------------------------------------------------------------------------

    def receive(self, uri: MigrationUri) -> None:
        """Put the machine, which waits for it, into the state that `uri` gives, and let it run if it is to.

        Returns at once; raises StateError when it cannot even begin. A state that cannot be taken over ends the
        machine.
        """
        if not self._machine.awaits_state:
            msg = (
                "The incoming migration has already been started"
                if self.is_incoming
                else "'-incoming' was not specified on the command line"
            )
            raise StateError(msg)
        self._begin(incoming=True)
        try:
            stream = open_incoming(uri)
        except (OSError, StateError) as error:
            self.error = _reason(error)
            self._enter(MigrationStatus.FAILED)
            raise StateError(self.error) from error

        def work() -> None:
            with stream:
                self._load(stream.source())
                stream.finish()

        self._changed(MigrationStatus.SETUP)
        threading.Thread(target=lambda: self._in(work), name="pyhyve-migration", daemon=True).start()

    def _in(self, work: Callable[[], None]) -> None:
        machine = self._machine
        try:
            work()
        except Exception as error:  # noqa: BLE001 - whatever it is, the machine cannot run
            if not isinstance(error, StateError | OSError | MemoryError):
                _LOG.exception("restoring the machine failed")
            self.error = _reason(error)
            self._enter(MigrationStatus.FAILED)
            machine.fail(f"load of migration failed: {self.error}")
            return
        machine.awaits_state = False
        machine.prelaunch = False
        self._enter(MigrationStatus.COMPLETED)
        if machine.runs_when_loaded:
            machine.resume()

    def _load(self, source: StateSource) -> None:
        machine = self._machine
        machine.started.wait()  # what is not yet started counts as standing still
        while not (machine.state is MachineState.PAUSED and all(runner.is_parked for runner in machine.parts.runners)):
            if machine.state is MachineState.SHUTDOWN:
                raise StateCancelledError
            time.sleep(_POLL_S)
        self._enter(MigrationStatus.ACTIVE)
        started = time.monotonic()
        saved = read_saved(source)
        try:
            take_disks(machine)
        except ChangeError as error:
            raise StateError(str(error)) from error
        settling = load(machine, saved, source)
        if settling is not None:
            machine.settle(settling)
        self.progress.total_ms = round((time.monotonic() - started) * 1000)
        self.progress.transferred_bytes = saved.head.memory_offset + saved.head.memory_bytes


def prepare(machine: Machine) -> None:
    """Load and set up what restoring takes, before somebody waits for it."""
    prepare_to_load(machine)


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else str(error)) or str(error) or type(error).__name__
