"""A clock that stands still until told, timers on it, and lines that remember."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

NEVER = 1 << 63


class FakeTimer:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback = callback
        self.deadline_ns = NEVER

    def arm(self, deadline_ns: int) -> None:
        self.deadline_ns = deadline_ns

    def cancel(self) -> None:
        self.deadline_ns = NEVER


class FakeTime:
    """Clock and timer source at once."""

    def __init__(self, wall_ns: int = 1_700_000_000_000_000_000) -> None:
        self.ns = 0
        self.wall_start_ns = wall_ns
        self.timers: list[FakeTimer] = []

    def now_ns(self) -> int:
        return self.ns

    def wall_ns(self) -> int:
        return self.wall_start_ns + self.ns

    def create_timer(self, callback: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer(callback)
        self.timers.append(timer)
        return timer

    def advance(self, ns: int) -> None:
        """Let time pass, firing timers in order."""
        end = self.ns + ns
        while True:
            timer = min(self.timers, key=lambda timer: timer.deadline_ns, default=None)
            if timer is None or timer.deadline_ns > end:
                break
            self.ns = max(self.ns, timer.deadline_ns)
            timer.deadline_ns = NEVER
            timer.callback()
        self.ns = end


class FakeLine:
    """An interrupt input."""

    def __init__(self) -> None:
        self.level = False
        self.edges = 0

    def set(self, *, level: bool) -> None:
        self.edges += level and not self.level
        self.level = level
