"""A counter beside the clock, when the host leaves little time to read them."""

from __future__ import annotations

import pytest

from pyhyve.accel import counter
from pyhyve.accel.counter import CounterSample, HostCounter, sample

TICKS_PER_NS = 3


class Host:
    """A clock that moves by `delays`, in turn, each time somebody looks at it or at the counter; then by 1 ns."""

    def __init__(self) -> None:
        self.ns = 1_000_000
        self.delays: list[int] = []

    def _pass(self) -> None:
        self.ns += self.delays.pop(0) if self.delays else 1

    def monotonic_ns(self) -> int:
        self._pass()
        return self.ns

    def read(self) -> int:
        self._pass()
        return self.ns * TICKS_PER_NS

    def sleep(self, seconds: float) -> None:
        self.ns += round(seconds * 1_000_000_000)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host()
    monkeypatch.setattr(counter, "time", host)
    return host


def test_sample_is_the_attempt_without_interruption(host: Host) -> None:
    host.delays = [1, 5_000_000, 1, 1, 1, 1, 1, 1, 7_000_000]
    undisturbed_ns = 1_000_000 + 1 + 5_000_000 + 1 + 1 + 1
    assert sample(host.read, 3) == CounterSample(undisturbed_ns * TICKS_PER_NS, undisturbed_ns)


def test_counter_is_known_for_another_moment(host: Host) -> None:
    known = HostCounter(host.read)
    host.ns += 3_000_000_000
    for moment in (host.ns - 50_000_000, host.ns + 1_000_000):
        assert abs(known.at(moment) - moment * TICKS_PER_NS) <= 2 * TICKS_PER_NS


def test_frequency_is_measured_over_time(host: Host) -> None:
    known = HostCounter(host.read)
    assert known.frequency_hz() == pytest.approx(3_000_000_000, rel=1e-6)
    assert host.ns >= 21_000_000
    host.ns += 10_000_000_000
    assert known.ticks(1_000_000_000) == pytest.approx(3_000_000_000, abs=2)
