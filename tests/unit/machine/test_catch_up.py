"""Leaps of a restored guest's clocks wait for the guest."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from pyhyve.machine import catch_up
from pyhyve.machine.catch_up import STEP_NS, CatchUp
from pyhyve.machine.lifecycle import MachineState


class Runner:
    def __init__(self) -> None:
        self.vcpu = SimpleNamespace(index=0)
        self.sleeps = False
        self.cpu_time_ns = 0


class Engine:
    def __init__(self) -> None:
        self.advanced_ns = 0
        self.interrupt = self.asleep = False

    def set_instant(self, monotonic_ns: int) -> None:
        raise NotImplementedError

    def advance_time(self, duration_ns: int) -> None:
        self.advanced_ns += duration_ns

    def sleeps(self, index: int) -> bool:
        assert index == 0
        return self.asleep

    def has_interrupt_pending(self) -> bool:
        return self.interrupt


class Host:
    """A machine that stands still whenever a leap wants it to, and the host's clock."""

    def __init__(self) -> None:
        self.engine, self.runner, self.now_s = Engine(), Runner(), 100.0
        timers = SimpleNamespace(is_due=False, reprogram=lambda: None)
        clock = SimpleNamespace(advance=lambda _duration_ns: None)
        self.timers = timers
        loop = SimpleNamespace(timers=timers, clock=clock)
        self.parts = SimpleNamespace(vm=self.engine, runners=[self.runner], loop=loop, lock=threading.RLock())
        self.state = MachineState.RUNNING

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host()
    monkeypatch.setattr(catch_up, "time", host)
    return host


def step(made: CatchUp) -> int:
    made._step()
    return made.left_ns // STEP_NS


def make(host: Host, leaps: int) -> CatchUp:
    machine: Any = host
    return CatchUp(machine, leaps * STEP_NS)


def test_guest_that_computes_gets_processor_time_between_leaps(host: Host) -> None:
    made = make(host, 3)
    assert step(made) == 3
    host.runner.cpu_time_ns = 30_000_000
    assert [step(made), step(made)] == [2, 2]
    host.runner.cpu_time_ns = 60_000_000
    assert step(made) == 1
    assert host.engine.advanced_ns == 2 * STEP_NS


def test_guest_that_sleeps_needs_none(host: Host) -> None:
    made = make(host, 3)
    host.runner.sleeps = True
    assert step(made) == 2
    host.runner.sleeps, host.engine.asleep = False, True
    assert step(made) == 1


def test_interrupts_and_timers_come_first(host: Host) -> None:
    made = make(host, 2)
    host.runner.sleeps = True
    host.engine.interrupt = True
    assert step(made) == 2
    host.engine.interrupt, host.timers.is_due = False, True
    assert step(made) == 2
    host.timers.is_due = False
    assert step(made) == 1


def test_guest_that_hangs_does_not_keep_time_back(host: Host) -> None:
    made = make(host, 2)
    assert step(made) == 2
    host.now_s += 31
    assert [step(made), step(made)] == [1, 1]
