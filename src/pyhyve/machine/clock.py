"""The machine's clock and its timers."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_NS = 1_000_000_000
_NEVER = 1 << 63
_ATTEMPTS = 4


class MonotonicClock:
    """Guest time: nanoseconds since the clock was made, or since the last `restart`."""

    def __init__(self) -> None:
        """Start at zero now."""
        self.start_ns = time.monotonic_ns()

    def set_now(self, now_ns: int) -> None:
        """Let `now_ns` be the present time; the owner of the timers must hear of it (`TimerQueue.reprogram`)."""
        self.start_ns = time.monotonic_ns() - now_ns

    def advance(self, duration_ns: int) -> None:
        """Leap ahead; as for `set_now`."""
        self.start_ns -= duration_ns

    def now_ns(self) -> int:
        """Nanoseconds since the start."""
        return time.monotonic_ns() - self.start_ns

    def present(self) -> tuple[int, int]:
        """`now_ns` and `wall_ns` of one moment, however slow the host is: of some attempts, the one that took least."""
        attempts = ((time.monotonic_ns(), time.time_ns(), time.monotonic_ns()) for _ in range(_ATTEMPTS))
        took_ns, before_ns, wall_ns = min((after - before, before, wall) for before, wall, after in attempts)
        return before_ns + took_ns // 2 - self.start_ns, wall_ns

    def wall_ns(self) -> int:
        """Nanoseconds since the Unix epoch."""
        return time.time_ns()


class ClockTsc:
    """A time-stamp counter that runs with the machine's clock, for an engine that has none to show."""

    tsc_hz = _NS

    def __init__(self, clock: MonotonicClock) -> None:
        """Count nanoseconds from the clock's start."""
        self._clock = clock

    def read_tsc(self, index: int) -> int:
        """The counter, the same on every vCPU."""
        del index
        return self._clock.now_ns()


class QueuedTimer:
    """A timer of a `TimerQueue`."""

    __slots__ = ("_queue", "callback", "deadline_ns")

    def __init__(self, queue: TimerQueue, callback: Callable[[], None]) -> None:
        """Made by `TimerQueue.create_timer`."""
        self._queue = queue
        self.callback = callback
        self.deadline_ns = _NEVER

    def arm(self, deadline_ns: int) -> None:
        """Fire once at `deadline_ns`."""
        self.deadline_ns = deadline_ns
        self._queue.armed(deadline_ns)

    def cancel(self) -> None:
        """Disarm."""
        self.deadline_ns = _NEVER


class TimerQueue:
    """All timers of a machine; a machine has few, so they are simply looked through.

    `program(deadline_ns)` asks for a call of `run_due` at that time (None: for none). Everything runs with the
    machine lock held.
    """

    def __init__(self, now_ns: Callable[[], int], program: Callable[[int | None], None]) -> None:
        """Take the time from `now_ns`."""
        self._now_ns = now_ns
        self._program = program
        self._timers: list[QueuedTimer] = []
        self._programmed_ns = _NEVER

    def create_timer(self, callback: Callable[[], None]) -> QueuedTimer:
        """Return a disarmed timer."""
        timer = QueuedTimer(self, callback)
        self._timers.append(timer)
        return timer

    def armed(self, deadline_ns: int) -> None:
        """A timer was set: wake up for it unless something earlier already does."""
        if deadline_ns < self._programmed_ns:
            self._programmed_ns = deadline_ns
            self._program(deadline_ns)

    @property
    def is_due(self) -> bool:
        """Whether a timer waits to be fired."""
        now_ns = self._now_ns()
        return any(timer.deadline_ns <= now_ns for timer in self._timers)

    def reprogram(self) -> None:
        """The clock was set: wake up for the earliest timer by the new time."""
        earliest = min((timer.deadline_ns for timer in self._timers), default=_NEVER)
        self._programmed_ns = earliest
        self._program(None if earliest == _NEVER else earliest)

    def run_due(self) -> None:
        """Fire what is due, each timer at most once, and ask to be called again for the next."""
        now_ns = self._now_ns()
        self._programmed_ns = 0
        for timer in self._timers:
            if timer.deadline_ns <= now_ns:
                timer.deadline_ns = _NEVER
                timer.callback()
        self.reprogram()
