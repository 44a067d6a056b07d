"""The machine's clock, its timers, and the host timer that wakes the I/O thread for them."""

from __future__ import annotations

import ctypes
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_NS = 1_000_000_000
_NEVER = 1 << 63
_TFD_NONBLOCK = os.O_NONBLOCK
_TFD_CLOEXEC = os.O_CLOEXEC
_TFD_TIMER_ABSTIME = 1


class MonotonicClock:
    """Guest time: nanoseconds since the clock was made, or since the last `restart`."""

    def __init__(self) -> None:
        """Start at zero now."""
        self.start_ns = time.monotonic_ns()

    def set_now(self, now_ns: int) -> None:
        """Let `now_ns` be the present time; the owner of the timers must hear of it (`TimerQueue.reprogram`)."""
        self.start_ns = time.monotonic_ns() - now_ns

    def now_ns(self) -> int:
        """Nanoseconds since the start."""
        return time.monotonic_ns() - self.start_ns

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


class _Itimerspec(ctypes.Structure):
    """`struct itimerspec` of timerfd_settime(2)."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


class TimerFd:
    """A timerfd on CLOCK_MONOTONIC: epoll's own timeout has only millisecond steps."""

    def __init__(self) -> None:
        """Create it; raises OSError."""
        libc = ctypes.CDLL(None, use_errno=True)
        self._settime = libc.timerfd_settime
        self._settime.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.POINTER(_Itimerspec), ctypes.c_void_p)
        self._spec = _Itimerspec()
        self._pointer = ctypes.pointer(self._spec)
        self.fd: int = libc.timerfd_create(time.CLOCK_MONOTONIC, _TFD_NONBLOCK | _TFD_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")

    def set(self, monotonic_ns: int | None) -> None:
        """Become readable at `monotonic_ns` of `time.monotonic_ns`, or never."""
        if self.fd < 0:
            return
        spec = self._spec
        spec.value_s, spec.value_ns = (0, 0) if monotonic_ns is None else divmod(max(monotonic_ns, 1), _NS)
        self._settime(self.fd, _TFD_TIMER_ABSTIME, self._pointer, None)

    def clear(self) -> None:
        """Acknowledge an expiry."""
        try:
            os.read(self.fd, 8)
        except BlockingIOError:
            return

    def close(self) -> None:
        """Close the descriptor; idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
