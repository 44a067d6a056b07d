"""Brings a restored guest's clocks to the present.

While a machine is away its clocks stand still. A single leap would look like a processor that hung: kernels report
stalled tasks after 20 s, compare clock sources (the ACPI timer wraps after 4.7 s) and cannot follow a leap of some
minutes at all. So guest time leaps a little and often, until it has caught up; each time the guest must have served the
timers of the leap before, and have had processor time for what they brought about.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from pyhyve.accel.api import TimeKeeper
from pyhyve.machine.lifecycle import MachineState

if TYPE_CHECKING:
    from pyhyve.machine.machine import Machine

MAX_NS = 86_400 * 1_000_000_000
"""A guest that was away for longer stays behind by the rest; its real-time clock is right in any case."""
STEP_NS = 2_000_000_000
_PAUSE_S = 0.1
"""Between leaps."""
_ROOM_NS = 20_000_000
"""Processor time between leaps, for each vCPU that does not sleep: on a busy host a pause alone may bring it none."""
_PATIENCE_S = 30.0
"""For a vCPU that gets nowhere: a guest that hangs must not keep the clock from being right."""


def leap(machine: Machine, duration_ns: int) -> None:
    """Put all of the machine's clocks forward; no vCPU may run."""
    parts = machine.parts
    if isinstance(parts.vm, TimeKeeper):
        with parts.lock:
            parts.vm.advance_time(duration_ns)
            parts.loop.clock.advance(duration_ns)
            parts.loop.timers.reprogram()


class _Progress:
    """What the host let the vCPUs do since the last leap."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.note_leap()

    def note_leap(self) -> None:
        """From now on."""
        self._cpu_time_ns = [runner.cpu_time_ns for runner in self._machine.parts.runners]
        self._leapt_at_s = time.monotonic()

    def is_enough(self) -> bool:
        """Whether the guest can have taken notice of the last leap; no vCPU may run."""
        parts = self._machine.parts
        if time.monotonic() - self._leapt_at_s > _PATIENCE_S:
            return True
        return all(
            runner.sleeps
            or (isinstance(parts.vm, TimeKeeper) and parts.vm.sleeps(runner.vcpu.index))
            or runner.cpu_time_ns - before_ns >= _ROOM_NS
            for runner, before_ns in zip(parts.runners, self._cpu_time_ns, strict=True)
        )


def _is_busy_with_timers(machine: Machine) -> bool:
    vm, timers = machine.parts.vm, machine.parts.loop.timers
    with machine.parts.lock:
        return timers.is_due or (isinstance(vm, TimeKeeper) and vm.has_interrupt_pending())


class CatchUp:
    """Leaps until `duration_ns` are made good, on a thread of its own."""

    def __init__(self, machine: Machine, duration_ns: int) -> None:
        self._machine = machine
        self._left_ns = duration_ns
        self._progress = _Progress(machine)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pyhyve-clock", daemon=True)

    def start(self) -> None:
        """Begin; once."""
        if self._left_ns > 0:
            self._thread.start()

    @property
    def left_ns(self) -> int:
        """What is still missing."""
        return self._left_ns

    def stop(self) -> None:
        """Give up; does not wait: a leap may wait for the caller."""
        self._stop.set()

    def _run(self) -> None:
        machine = self._machine
        while self._left_ns > 0 and not self._stop.wait(_PAUSE_S):
            if machine.state is MachineState.RUNNING:
                machine.inspect(self._step).wait()

    def _step(self) -> None:
        if self._stop.is_set() or _is_busy_with_timers(self._machine):
            return
        if self._progress.is_enough():
            step_ns = min(self._left_ns, STEP_NS)
            self._left_ns -= step_ns
            leap(self._machine, step_ns)
            self._progress.note_leap()
