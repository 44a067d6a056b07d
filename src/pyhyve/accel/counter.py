"""The host's time-stamp counter beside its monotonic clock.

A guest compares its clocks: after a pause or a restore they must agree to some 100 us (Linux's clocksource watchdog).
So what is saved of them, set, or put forward belongs to one instant, whenever the host gives us the time to do it.
"""

from __future__ import annotations

import time

from pyhyve.support.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_NS = 1_000_000_000
_ATTEMPTS = 8
_CALIBRATION_NS = 20_000_000


@dataclass(frozen=True, slots=True)
class CounterSample:
    """What the counter showed at a moment of the host's monotonic clock."""

    counter: int
    monotonic_ns: int


def sample(read: Callable[[], int], attempts: int = _ATTEMPTS) -> CounterSample:
    """The counter and the clock together: of some attempts, the one that took least time."""
    took_ns, counter, before_ns = min(
        (after_ns - before_ns, counter, before_ns)
        for before_ns, counter, after_ns in (
            (time.monotonic_ns(), read(), time.monotonic_ns()) for _ in range(attempts)
        )
    )
    return CounterSample(counter, before_ns + took_ns // 2)


class HostCounter:
    """A counter that runs evenly; its frequency becomes more exact the longer it is known."""

    def __init__(self, read: Callable[[], int]) -> None:
        """`read` gives the counter now."""
        self._read = read
        self._first = sample(read)

    def frequency_hz(self) -> int:
        """Ticks per second; waits for 20 ms when the counter has been known for less."""
        return max(1, round(self._frequency(self._sample())))

    def at(self, monotonic_ns: int) -> int:
        """What the counter showed, or will show, at a moment that is not long ago, or soon."""
        now = self._sample()
        return now.counter + round((monotonic_ns - now.monotonic_ns) * self._frequency(now) / _NS)

    def ticks(self, duration_ns: int) -> int:
        """How far the counter runs in `duration_ns`."""
        return round(duration_ns * self._frequency(self._sample()) / _NS)

    def _sample(self) -> CounterSample:
        missing_ns = self._first.monotonic_ns + _CALIBRATION_NS - time.monotonic_ns()
        if missing_ns > 0:
            time.sleep(missing_ns / _NS)
        return sample(self._read)

    def _frequency(self, now: CounterSample) -> float:
        elapsed_ns = now.monotonic_ns - self._first.monotonic_ns
        return (now.counter - self._first.counter) * _NS / elapsed_ns
