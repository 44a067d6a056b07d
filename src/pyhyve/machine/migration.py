"""Saving a machine into a stream and starting one from it, as QEMU's migration does: in the background, with a status.

A guest that runs goes on while its memory is sent, in rounds (`precopy`), and stands still only at the end, or from the
beginning where the stream is a file, which is to be mapped later. Streams are named as in QEMU: `fd:`, `exec:`,
`file:`, `unix:` and `tcp:`; what they carry is our own format (docs/state-format.md), not QEMU's.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from pyhyve.machine.block.errors import ChangeError
from pyhyve.machine.block.handover import let_disks_go, take_disks
from pyhyve.machine.lifecycle import MachineState
from pyhyve.machine.migration_uri import MigrationUri, open_incoming, open_outgoing
from pyhyve.machine.precopy import MigrationSettings, PreCopy, Progress, can_move_live
from pyhyve.machine.saving import load, prepare_to_load, read_saved, receive_rounds, save
from pyhyve.memory.dirty import DirtyTable
from pyhyve.state.errors import StateCancelledError, StateError
from pyhyve.state.live import LiveFlag
from pyhyve.support.enums import StrEnum

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.machine.machine import Machine
    from pyhyve.machine.migration_uri import Incoming, Outgoing

_LOG = logging.getLogger(__name__)
_SETTLE_TIMEOUT_S = 30.0
_POLL_S = 0.002
_DISKS_TIMEOUT_S = 15.0
_DISKS_POLL_S = 0.05
"""A destination that failed may take a moment to let the disks go."""


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


class Migration:
    """The migrations of one machine, one at a time. Methods may be called from any thread."""

    def __init__(
        self,
        machine: Machine,
        changed: Callable[[MigrationStatus], None],
        passed: Callable[[int], None] = lambda _: None,
    ) -> None:
        """`changed` is called with every status, `passed` with the number of each look-up of what the guest wrote.

        That is on a thread of its own; they must not wait for the machine.
        """
        self._machine = machine
        self._changed = changed
        self._passed = passed
        self._began_s = 0.0
        self._is_limited = False
        self._table: DirtyTable | None = None
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self.status = MigrationStatus.NONE
        self.error = ""
        self.is_incoming = False
        self.settings = MigrationSettings()
        """May be changed at any time."""
        self.stopped_bandwidth = 0
        """Bytes per second at most where the guest stands still meanwhile; 0 for as fast as possible."""
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
        self._began_s = time.monotonic()
        self._is_limited = True
        total = self._memory_bytes()
        self.progress = Progress(total_bytes=total, remaining_bytes=total)

    @property
    def total_ms(self) -> int:
        """How long it took, or has taken so far."""
        if self.status.is_under_way:
            return round((time.monotonic() - self._began_s) * 1000)
        return self.progress.total_ms

    def _limit(self) -> int:
        """Bytes per second at most, now."""
        if not self._is_limited:
            return 0
        return self.settings.max_bandwidth if self.progress.is_live else self.stopped_bandwidth

    def _memory_bytes(self) -> int:
        return sum(region.size_bytes for region in self._machine.parts.vm.memory.regions)

    # -- out ----------------------------------------------------------------------------------------------------------

    def start(self, uri: MigrationUri) -> None:
        """Save the machine into `uri`. Returns at once; raises StateError when it cannot even begin."""
        self._begin(incoming=False)
        try:
            stream = open_outgoing(uri, self._cancelled.is_set, self._limit, duplex=self.settings.return_path)
        except (OSError, StateError) as error:
            self.error = _reason(error)
            self._enter(MigrationStatus.FAILED)
            raise StateError(self.error) from error

        self._changed(MigrationStatus.SETUP)
        threading.Thread(target=lambda: self._out(stream), name="pyhyve-migration", daemon=True).start()

    def cancel(self) -> None:
        """Take the wish to save back; nothing happens when none is under way."""
        with self._lock:
            if self.status.is_under_way and not self.is_incoming:
                self._cancelled.set()

    def _out(self, stream: Outgoing) -> None:
        """Send the machine; if that fails, it goes on as before."""
        machine = self._machine
        stopped_s = 0.0
        was_running = False
        copy: PreCopy | None = None
        try:
            machine.is_moving = True
            self.progress.setup_ms = round((time.monotonic() - self._began_s) * 1000)
            self._enter(MigrationStatus.ACTIVE)
            with stream:
                if self._moves_live(stream):
                    self.progress.is_live = True
                    if self._table is None:
                        self._table = DirtyTable(machine.parts.vm.memory)
                    copy = PreCopy(
                        machine,
                        stream.sink,
                        self.settings,
                        self.progress,
                        self._table,
                        self._cancelled.is_set,
                        self._passed,
                    )
                    copy.send_rounds(LiveFlag.ANSWERS if stream.answers else LiveFlag(0))
                machine.hold()
                stopped_s = time.monotonic()
                was_running = machine.state is MachineState.RUNNING
                machine.pause().wait(_SETTLE_TIMEOUT_S)
                self._send_rest(stream, copy)
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
        if copy is not None:
            copy.end()
        machine.is_moving = False
        ended_s = time.monotonic()
        self.progress.total_ms = round((ended_s - self._began_s) * 1000)
        if stopped_s:
            self.progress.downtime_ms = round((ended_s - stopped_s) * 1000)
            self._settle(goes_on=status is not MigrationStatus.COMPLETED, was_running=was_running)
        self._enter(status)

    def _moves_live(self, stream: Outgoing) -> bool:
        machine = self._machine
        return machine.state is MachineState.RUNNING and not stream.sink.can_seek and can_move_live(machine)

    def _send_rest(self, stream: Outgoing, copy: PreCopy | None) -> None:
        """Send what is left, of a guest that stands still. Once this returns the machine is somebody else's."""
        machine = self._machine
        machine.suspend_devices()
        let_disks_go(machine)
        if copy is None:
            result = save(machine, stream.sink)
            self.progress.transferred_bytes = result.state_bytes
            self.progress.normal_bytes = result.memory_bytes
            self.progress.zero_bytes = self.progress.total_bytes - result.memory_bytes
            self.progress.rounds = 1
            self.progress.remaining_bytes = 0
        else:
            self._is_limited = False
            copy.finish()
            if stream.answers:
                stream.await_ready(self._cancelled.is_set)
                if self._cancelled.is_set():
                    raise StateCancelledError
                stream.say_go()
                stream.finish()
                return
        stream.finish()
        if self._cancelled.is_set():
            raise StateCancelledError

    def _settle(self, *, goes_on: bool, was_running: bool) -> None:
        """Let the wishes that waited come true; have a machine that stays go on, with its disks."""
        machine = self._machine
        machine.release()
        if goes_on:
            try:
                self._take_disks_back()
            except ChangeError as error:
                _LOG.error("the machine stays paused without its disks: %s", error)
                return
            if was_running:
                machine.resume().wait(_SETTLE_TIMEOUT_S)

    def _take_disks_back(self) -> None:
        """Have the disks again, which a destination that came to nothing may have for a moment more."""
        deadline_s = time.monotonic() + _DISKS_TIMEOUT_S
        while True:
            try:
                return take_disks(self._machine)
            except ChangeError:
                if time.monotonic() > deadline_s:
                    raise
            time.sleep(_DISKS_POLL_S)

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

        self._changed(MigrationStatus.SETUP)
        threading.Thread(target=lambda: self._in(stream), name="pyhyve-migration", daemon=True).start()

    def _in(self, stream: Incoming) -> None:
        machine = self._machine
        try:
            with stream:
                self._load(stream)
                stream.finish()
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

    def _load(self, stream: Incoming) -> None:
        source = stream.source()
        machine = self._machine
        machine.started.wait()  # what is not yet started counts as standing still
        while not (machine.state is MachineState.PAUSED and all(runner.is_parked for runner in machine.parts.runners)):
            if machine.state is MachineState.SHUTDOWN:
                raise StateCancelledError
            time.sleep(_POLL_S)
        self._enter(MigrationStatus.ACTIVE)
        started = time.monotonic()
        saved = read_saved(source)
        answers = bool(saved.head.flags & LiveFlag.ANSWERS)
        if saved.head.is_live:
            saved = receive_rounds(machine, saved, source)
        try:
            take_disks(machine)
        except ChangeError as error:
            raise StateError(str(error)) from error
        settling = load(machine, saved, source)
        if answers:
            stream.confirm(source)
        if settling is not None:
            machine.settle(settling)
        self.progress.total_ms = round((time.monotonic() - started) * 1000)
        self.progress.transferred_bytes = saved.head.memory_offset + saved.head.memory_bytes


def prepare(machine: Machine) -> None:
    """Load and set up what restoring takes, before somebody waits for it."""
    prepare_to_load(machine)


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else str(error)) or str(error) or type(error).__name__
