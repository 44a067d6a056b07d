"""Brings a restored guest's clocks to the present.

While a machine is away its clocks stand still. A single leap would look like a processor that hung: kernels report
stalled tasks after 20 s, compare clock sources (the ACPI timer wraps after 4.7 s) and cannot follow a leap of some
minutes at all. So guest time leaps a little and often, until it has caught up; each time the guest must have served the
timers of the leap before.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from pyhyve.accel.api import TimeKeeper
from pyhyve.machine.lifecycle import MachineState

if TYPE_CHECKING:
    from pyhyve.machine.machine import Machine

MAX_NS = 86_400 * 1_000_000_000
"""A guest that was away for longer stays behind by the rest; its real-time clock is right in any case."""
STEP_NS = 2_000_000_000
_PAUSE_S = 0.1
"""Between leaps: enough for a guest on a busy host to do more than its timers."""


def leap(machine: Machine, duration_ns: int) -> None:
    """Put all of the machine's clocks forward; no vCPU may run."""
    parts = machine.parts
    if isinstance(parts.vm, TimeKeeper):
        with parts.lock:
            parts.vm.advance_time(duration_ns)
            parts.loop.clock.advance(duration_ns)
            parts.loop.timers.reprogram()


def _is_busy_with_timers(machine: Machine) -> bool:
    vm, timers = machine.parts.vm, machine.parts.loop.timers
    with machine.parts.lock:
        return timers.is_due or (isinstance(vm, TimeKeeper) and vm.has_interrupt_pending())


class CatchUp:
    """Leaps until `duration_ns` are made good, on a thread of its own."""

    def __init__(self, machine: Machine, duration_ns: int) -> None:
        self._machine = machine
        self._left_ns = duration_ns
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
        if not self._stop.is_set() and not _is_busy_with_timers(self._machine):
            step_ns = min(self._left_ns, STEP_NS)
            self._left_ns -= step_ns
            leap(self._machine, step_ns)
