"""The clock that stands still with its machine."""

from __future__ import annotations

from pyhyve.machine.clock import MonotonicClock
from pyhyve.machine.notices import Notice, NoticeKind
from pyhyve.machine.running_clock import RunningClock

HOUR_NS = 3600 * 1_000_000_000


def test_clock_stands_still_with_its_machine() -> None:
    machine = MonotonicClock()
    clock = RunningClock(machine, runs=True)
    machine.advance(HOUR_NS)
    assert HOUR_NS <= clock.wall_ns() < 2 * HOUR_NS
    clock.observe(Notice(NoticeKind.STOP))
    stopped_at_ns = clock.wall_ns()
    machine.advance(10 * HOUR_NS)
    assert clock.wall_ns() == stopped_at_ns
    clock.observe(Notice(NoticeKind.RESET))
    clock.observe(Notice(NoticeKind.RESUME))
    assert stopped_at_ns <= clock.wall_ns() < stopped_at_ns + HOUR_NS
    machine.advance(HOUR_NS)
    assert clock.wall_ns() >= stopped_at_ns + HOUR_NS
    assert clock.now_ns() >= 12 * HOUR_NS


def test_clock_goes_on_where_it_was_saved() -> None:
    saved = RunningClock(MonotonicClock(), runs=False).save()
    machine = MonotonicClock()
    for runs in (False, True):
        clock = RunningClock(machine, runs=runs)
        machine.advance(HOUR_NS)
        clock.load(saved)
        assert 0 <= clock.wall_ns() - saved.ran_ns < HOUR_NS
        machine.advance(HOUR_NS)
        assert (clock.wall_ns() - saved.ran_ns >= HOUR_NS) is runs
