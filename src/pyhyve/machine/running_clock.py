"""A clock that counts the time for which a machine ran (`-rtc clock=vm`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.machine.notices import NoticeKind
from pyhyve.state.record import U64, record

if TYPE_CHECKING:
    from typing import ClassVar

    from pyhyve.machine.clock import MonotonicClock
    from pyhyve.machine.notices import Notice


@record
class RunningClockState:
    """Time for which the machine had run."""

    ran_ns: U64


class RunningClock:
    """`wall_ns` stands still with the machine, and goes on after a restore from where it was."""

    state_type: ClassVar = RunningClockState
    state_version: ClassVar = 1

    def __init__(self, clock: MonotonicClock, *, runs: bool) -> None:
        """Zero now; standing still unless it `runs`."""
        self._clock = clock
        self._started_ns = clock.now_ns()
        self._stopped_ns = None if runs else self._started_ns

    def now_ns(self) -> int:
        """As the machine's clock."""
        return self._clock.now_ns()

    def wall_ns(self) -> int:
        """Nanoseconds for which the machine ran."""
        return (self.now_ns() if self._stopped_ns is None else self._stopped_ns) - self._started_ns

    def stop(self) -> None:
        """Stand still."""
        if self._stopped_ns is None:
            self._stopped_ns = self.now_ns()

    def go(self) -> None:
        """Go on."""
        if self._stopped_ns is not None:
            self._started_ns += self.now_ns() - self._stopped_ns
            self._stopped_ns = None

    def observe(self, notice: Notice) -> None:
        """The machine stops, or goes on."""
        if notice.kind is NoticeKind.STOP:
            self.stop()
        elif notice.kind is NoticeKind.RESUME:
            self.go()

    def save(self) -> RunningClockState:
        """How long the machine had run."""
        return RunningClockState(ran_ns=self.wall_ns())

    def load(self, state: RunningClockState) -> None:
        """Go on, or stand still, from there."""
        now_ns = self.now_ns()
        self._started_ns = now_ns - state.ran_ns
        if self._stopped_ns is not None:
            self._stopped_ns = now_ns
