"""The source's side of a machine that moves while it runs: memory in rounds, and when it is time to stop the guest.

The first round is all of memory. Each further one is what the guest and its devices wrote during the one before, until
so little is left that it can be sent, at the pace seen so far, within the downtime that is allowed. A guest that writes
faster than that is slowed down when that is wanted, and goes on forever otherwise, or until somebody raises the limits,
pauses it, or cancels.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from pyhyve.accel.api import DirtyLogger
from pyhyve.machine.saving import describe, machine_section, save, version
from pyhyve.memory.contents import data_ranges
from pyhyve.memory.guest import PAGE_SIZE_BYTES
from pyhyve.memory.rounds import RoundWriter
from pyhyve.state.errors import StateCancelledError, StateError
from pyhyve.state.live import LiveFlag, build_live_start

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.machine.machine import Machine
    from pyhyve.memory.dirty import DirtyTable
    from pyhyve.state.streams import FdSink

_T = TypeVar("_T")
_MIB = 1 << 20
_SEEN_BYTES, _SEEN_S = _MIB, 0.05
"""A round that sends less, in less time, says nothing of the pace."""
_ASSUMED_BANDWIDTH = 1 << 30
"""Bytes a second, before any was seen."""
_SHORT_S = 0.02
"""A round is not begun sooner after the one before: each takes the guest's time."""
_SLICE_S = 0.05
_RUNS_S = 0.01
"""For how long a guest that is slowed down runs between two stops, unless these would be too long."""


@dataclass(slots=True)
class MigrationSettings:
    """What may be set before a migration and while it is under way; QEMU's names and defaults."""

    max_bandwidth: int = 128 * _MIB
    """Bytes a second."""
    downtime_limit_ms: int = 300
    auto_converge: bool = False
    return_path: bool = False
    """Whether a socket that somebody gave us goes both ways, also where it does not lead to another host."""
    throttle_initial: int = 20
    """By how many percent a guest is slowed down at first, in each further step, and at most."""
    throttle_increment: int = 10
    throttle_max: int = 99
    throttle_threshold: int = 50
    """It is slowed down when it writes more than so many percent of what is sent, twice."""


@dataclass(slots=True)
class Progress:
    """Figures of the migration at hand, or of the last one."""

    setup_ms: int = 0
    total_ms: int = 0
    downtime_ms: int = 0
    transferred_bytes: int = 0
    total_bytes: int = 0
    remaining_bytes: int = 0
    normal_bytes: int = 0
    zero_bytes: int = 0
    rounds: int = 0
    """Times that what was written was looked up."""
    dirty_pages_rate: int = 0
    """Pages a second, in the last round."""
    bandwidth: float = 0.0
    """Bytes a second."""
    pages_per_second: int = 0
    expected_downtime_ms: int = 0
    precopy_bytes: int = 0
    """Sent while the guest ran."""
    is_live: bool = False
    throttle_percent: int = 0


def can_move_live(machine: Machine) -> bool:
    """Whether the engine can tell what vCPUs write."""
    return machine.parts.inventory is not None and isinstance(machine.parts.vm, DirtyLogger)


def _writes_unseen(machine: Machine) -> bool:
    """Whether a device's back end writes guest memory past it, unless the device starts while that is logged."""
    inventory = machine.parts.inventory
    with machine.parts.lock:
        return inventory is not None and any(
            getattr(plugged.device, "writes_unseen", False) for plugged in inventory.hardware.devices
        )


class Throttle:
    """Slows a guest down: its vCPUs stand still for so many percent of the time."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self.percent = 0

    def set(self, percent: int) -> None:
        """Slow it down so much from now on."""
        self.percent = percent
        if self._thread is None and percent:
            self._thread = threading.Thread(target=self._run, name="pyhyve-throttle", daemon=True)
            self._thread.start()

    def end(self) -> None:
        """Let it run; returns when it does. Idempotent."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._ended.is_set():
            share = self.percent / 100
            still_s = min(_RUNS_S * share / (1 - share), _SLICE_S)
            self._machine.inspect(lambda: self._stand(still_s)).wait()  # noqa: B023 - it is over before the next turn
            self._ended.wait(still_s * (1 - share) / share)

    def _stand(self, duration_s: float) -> None:
        self._ended.wait(duration_s)


class PreCopy:
    """One migration: `send_rounds` while the guest runs, `finish` when it stands still, and `end` in any case."""

    def __init__(
        self,
        machine: Machine,
        sink: FdSink,
        settings: MigrationSettings,
        progress: Progress,
        table: DirtyTable,
        is_cancelled: Callable[[], bool],
        passed: Callable[[int], None],
    ) -> None:
        """`passed` is called with the number of each look-up of what was written, for which `table` is used."""
        self._machine = machine
        self._sink = sink
        self._settings = settings
        self._progress = progress
        self._is_cancelled = is_cancelled
        self._passed = passed
        self._memory = machine.parts.vm.memory
        self._table = table
        self._writer = RoundWriter(self._memory, sink)
        self._throttle = Throttle(machine)
        self._logs = False
        self._strikes = 0

    @property
    def _logger(self) -> DirtyLogger:
        vm = self._machine.parts.vm
        assert isinstance(vm, DirtyLogger)  # noqa: S101 - `can_move_live` was asked
        return vm

    # -- while the guest runs -----------------------------------------------------------------------------------------

    def send_rounds(self, flags: LiveFlag) -> None:
        """Send memory until the rest can be sent within the downtime allowed. Raises StateError, OSError."""
        machine, progress = self._machine, self._progress
        with machine.parts.lock:
            description = describe(machine, version())
        section = machine_section(machine, description)
        self._sink.write(build_live_start(section, progress.total_bytes, flags))
        self._while_still(self._start_log, devices=_writes_unseen(machine))
        runs = [
            (region.gpa + start, end - start) for region in self._memory.regions for start, end in data_ranges(region)
        ]
        self._writer.sent.zero_bytes = progress.total_bytes - sum(size for _, size in runs)
        progress.expected_downtime_ms = self._settings.downtime_limit_ms
        progress.rounds = 1
        self._passed(1)
        while True:
            began = time.monotonic()
            sent_before = self._sink.written_bytes
            self._send(runs)
            spent_s = time.monotonic() - began
            if spent_s < _SHORT_S and progress.rounds > 1:
                time.sleep(_SHORT_S - spent_s)
            runs = self._while_still(self._sync)
            self._judge(runs, max(time.monotonic() - began, 1e-6), self._sink.written_bytes - sent_before, spent_s)
            if progress.remaining_bytes <= self._threshold_bytes():
                for gpa, size in runs:
                    self._table.mark(gpa, size)
                self._throttle.end()
                return

    def _start_log(self) -> None:
        self._logs = True
        self._table.take()
        self._memory.dirty = self._table
        self._logger.start_dirty_log(self._table)

    def _sync(self) -> list[tuple[int, int]]:
        self._logger.sync_dirty_log()
        return self._table.take()

    def _while_still(self, work: Callable[[], _T], *, devices: bool = False) -> _T:
        """What `work` returns while no vCPU, or device, runs. Raises StateError when the machine ended."""
        results: list[_T] = []
        done = self._machine.inspect(lambda: results.append(work()), devices=devices)
        done.wait()
        if not results:
            msg = "the machine ended"
            raise StateError(msg)
        return results[0]

    def _send(self, runs: list[tuple[int, int]]) -> None:
        progress = self._progress
        left = sum(size for _, size in runs)
        progress.remaining_bytes = left
        self._writer.begin(progress.rounds, left)

        def done(size_bytes: int) -> None:
            progress.remaining_bytes -= size_bytes
            self._count()
            if self._is_cancelled():
                raise StateCancelledError

        self._writer.write(runs, done, skip_zeros=progress.rounds == 1)
        self._count()

    def _count(self) -> None:
        progress, sent = self._progress, self._writer.sent
        progress.transferred_bytes = self._sink.written_bytes
        progress.normal_bytes, progress.zero_bytes = sent.normal_bytes, sent.zero_bytes

    def _judge(self, runs: list[tuple[int, int]], period_s: float, sent_bytes: int, spent_s: float) -> None:
        """Take stock of a round: what was written meanwhile, and at what pace it was sent."""
        progress, settings = self._progress, self._settings
        dirty = sum(size for _, size in runs)
        if sent_bytes >= _SEEN_BYTES or spent_s >= _SEEN_S:
            progress.bandwidth = sent_bytes / max(spent_s, 1e-6)
        progress.pages_per_second = round(sent_bytes / PAGE_SIZE_BYTES / period_s)
        progress.dirty_pages_rate = round(dirty / PAGE_SIZE_BYTES / period_s)
        progress.remaining_bytes = dirty
        progress.expected_downtime_ms = round(1000 * dirty / self._expected_bandwidth())
        progress.precopy_bytes = self._sink.written_bytes
        progress.rounds += 1
        self._passed(progress.rounds)
        if settings.auto_converge and dirty > self._threshold_bytes():
            if 100 * dirty > settings.throttle_threshold * sent_bytes:
                self._strikes += 1
            if self._strikes > 1:
                self._strikes = 0
                step = settings.throttle_increment if self._throttle.percent else settings.throttle_initial
                self._throttle.set(min(self._throttle.percent + step, settings.throttle_max))
                progress.throttle_percent = self._throttle.percent

    def _expected_bandwidth(self) -> float:
        """Bytes in a second: the pace seen, but no more than is allowed, which a short round may exceed."""
        bandwidth = self._progress.bandwidth or _ASSUMED_BANDWIDTH
        return max(min(bandwidth, self._settings.max_bandwidth or bandwidth), 1.0)

    def _threshold_bytes(self) -> int:
        return round(self._expected_bandwidth() * self._settings.downtime_limit_ms / 1000)

    # -- while it stands still ----------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Send the rest of memory and the state: vCPUs and devices stand still. Raises StateError, OSError."""
        progress = self._progress
        runs = self._sync()
        self._send(runs)
        progress.rounds += 1
        self._writer.end()
        save(self._machine, self._sink, with_memory=False)
        self._count()
        progress.remaining_bytes = 0

    def end(self) -> None:
        """Log no more what is written, whatever happened; idempotent."""
        self._throttle.end()
        self._progress.throttle_percent = 0
        if self._logs:
            self._logs = False
            with contextlib.suppress(StateError):  # a machine that ended writes nothing
                self._while_still(self._stop_log, devices=_writes_unseen(self._machine))

    def _stop_log(self) -> None:
        self._memory.dirty = None
        self._logger.stop_dirty_log()
