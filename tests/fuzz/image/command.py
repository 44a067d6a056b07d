"""Runs many cases on several processes; a failure prints the seed that repeats it."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from .case import damage, use
from .seeds import all_seeds

if TYPE_CHECKING:
    from .seeds import Seed

DEFAULT_CASES = 1_000_000
CASE_TIMEOUT_S = 5  # of CPU time: other work on the host is no fault of a case
BATCH_TIMEOUT_S = 3600
MEMORY_LIMIT_BYTES = 200 << 20
BATCH = 2000
REPORT_BATCHES = 25


class TooSlowError(Exception):
    """A case took longer than it may."""


def _alarm(_number: int, _frame: object) -> NoReturn:
    raise TooSlowError


@dataclass(frozen=True, slots=True)
class Failure:
    """A case that did what it must not."""

    number: int
    image: str
    report: str


def run_case(seeds: list[Seed], number: int) -> tuple[str, Failure | None]:
    """Case `number`, which depends on nothing else."""
    chance = random.Random(number)
    seed = seeds[number % len(seeds)]
    signal.setitimer(signal.ITIMER_PROF, CASE_TIMEOUT_S)
    try:
        return use(damage(seed, chance), seed.format_name, chance), None
    except Exception:  # noqa: BLE001 - whatever it is, it is what we look for
        return "failed", Failure(number, seed.name, traceback.format_exc())
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def start_worker() -> None:
    """Prepare a worker process: time and memory limits."""
    signal.signal(signal.SIGPROF, _alarm)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - not a path of ours
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_LIMIT_BYTES, resource.RLIM_INFINITY))


_SEEDS: list[Seed] = []


def run_batch(span: tuple[int, int]) -> tuple[Counter[str], list[Failure]]:
    """Cases of one span, in a worker."""
    outcomes: Counter[str] = Counter()
    failures: list[Failure] = []
    for number in range(*span):
        outcome, failure = run_case(_SEEDS, number)
        outcomes[outcome] += 1
        if failure is not None:
            failures.append(failure)
    return outcomes, failures


def main(words: list[str] | None = None) -> int:
    """Run; exit status 1 when a case failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.image", allow_abbrev=False)
    parser.add_argument("--cases", type=int, default=DEFAULT_CASES, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="number of the first case (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="run one case without catching anything")
    arguments = parser.parse_args(words)
    if arguments.only is not None:
        seeds = all_seeds()
        seed, chance = seeds[arguments.only % len(seeds)], random.Random(arguments.only)
        sys.stdout.write(f"{seed.name}: {use(damage(seed, chance), seed.format_name, chance)}\n")
        return 0
    end = arguments.seed + arguments.cases
    spans = [(at, min(end, at + BATCH)) for at in range(arguments.seed, end, BATCH)]
    outcomes: Counter[str] = Counter()
    failures: list[Failure] = []
    begin = time.monotonic()
    _SEEDS.extend(all_seeds())  # before the workers are forked
    context = multiprocessing.get_context("fork")
    with context.Pool(arguments.jobs, start_worker) as pool:
        results = pool.imap_unordered(run_batch, spans)
        try:
            for done in range(1, len(spans) + 1):
                found, bad = results.next(BATCH_TIMEOUT_S)  # a worker that hangs ends the run
                outcomes += found
                failures += bad
                if done % REPORT_BATCHES == 0:
                    sys.stderr.write(f"{sum(outcomes.values())} of {arguments.cases}, {len(failures)} failed\n")
                if len(failures) > 20:
                    break
        except KeyboardInterrupt:
            sys.stderr.write("interrupted\n")
    seconds = time.monotonic() - begin
    total = sum(outcomes.values())
    kinds = ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))
    sys.stdout.write(f"{total} damaged images in {seconds:.0f} s: {kinds}\n")
    for failure in failures[:10]:
        sys.stderr.write(
            f"\ncase {failure.number} ({failure.image}); repeat with --only {failure.number}\n{failure.report}\n"
        )
    return 1 if failures else 0
