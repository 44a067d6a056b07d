"""Paired runs: ours and the peer in turn, A B A B, on the same work, with the same result."""

from __future__ import annotations

import shutil
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyhyve.support.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Sample:
    """One run: the figure, and what the work gave (compared between ours and the peer)."""

    figure: float
    result: str


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of work, done by both sides. `warm_up` runs are not counted; `share` scales the number of runs."""

    name: str
    ours: Callable[[], Sample]
    peer: Callable[[], Sample]
    warm_up: int = 1
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole benchmark; the first case is the headline."""

    work: str
    unit: str
    peer_name: str
    cases: list[Case]
    lower_is_better: bool = True
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CaseResult:
    """Medians of one case. `ratio` is above 1 when ours is better."""

    case: str
    ours: float
    peer: float
    ratio: float
    runs: int
    ours_all: tuple[float, ...]
    peer_all: tuple[float, ...]


class ResultsDifferError(UserError):
    """Ours and the peer did not do the same work."""


def require_program(program: str, package: str) -> str:
    """Path of a peer's program. Raises UserError that names the package when it is missing."""
    path = shutil.which(program)
    if path is None:
        msg = f"the peer {program} is not installed: apt-get install {package}"
        raise UserError(msg)
    return path


def run_case(case: Case, runs: int, *, lower_is_better: bool, progress: Callable[[str], None]) -> CaseResult:
    """Run both sides in turn. Raises ResultsDifferError when their results differ."""
    count = max(1, round(runs * case.share))
    for number in range(case.warm_up):
        progress(f"{case.name}: warm-up {number + 1} of {case.warm_up}")
        same(case, case.ours(), case.peer())
    ours: list[float] = []
    peer: list[float] = []
    for number in range(count):
        progress(f"{case.name}: run {number + 1} of {count}")
        # A B B A: what one leaves behind (memory that the host took back or not) would favour the next one each time.
        if number % 2:
            second, first = case.peer(), case.ours()
        else:
            first, second = case.ours(), case.peer()
        same(case, first, second)
        ours.append(first.figure)
        peer.append(second.figure)
    our_median, peer_median = statistics.median(ours), statistics.median(peer)
    ratio = peer_median / our_median if lower_is_better else our_median / peer_median
    return CaseResult(case.name, our_median, peer_median, ratio, count, tuple(ours), tuple(peer))


def same(case: Case, ours: Sample, peer: Sample) -> None:
    """Raise ResultsDifferError unless both gave the same."""
    if ours.result != peer.result:
        msg = f"{case.name}: results differ: ours gave {ours.result!r}, the peer {peer.result!r}"
        raise ResultsDifferError(msg)


def run_plan(plan: Plan, runs: int, progress: Callable[[str], None]) -> list[CaseResult]:
    """Run every case."""
    return [run_case(case, runs, lower_is_better=plan.lower_is_better, progress=progress) for case in plan.cases]
