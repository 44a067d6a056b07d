"""`python -m tests.fuzz.virtio --cases N`: malformed rings, chains and registers against every virtio device.

Memory is bounded when a second run of as many cases in the same process leaves its peak nearly where it was.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import random
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from tests.fuzz.virtio.hostile import DEVICES, HostileDriver

_CASES_PER_MACHINE = 5000
_CASES_PER_WATCH = 64
_HANG_S = 60
"""Longest time that so many cases may take on a busy host."""
_GROWTH_LIMIT_KIB = 64 << 10


def run(cases: int, seed: int, kinds: list[str]) -> tuple[int, float]:
    """Run `cases` cases spread over `kinds`; how often a device asked for a reset, and the slowest case in seconds."""
    done = broken = 0
    slowest = 0.0
    turn = 0
    while done < cases:
        kind = kinds[turn % len(kinds)]
        case_seed = seed * 1_000_003 + turn
        driver = HostileDriver(kind, random.Random(case_seed))
        count = min(_CASES_PER_MACHINE, cases - done)
        for number in range(count):
            if number % _CASES_PER_WATCH == 0:
                faulthandler.dump_traceback_later(_HANG_S, exit=True)
            start = time.perf_counter()
            try:
                driver.run_case()
            except Exception:
                sys.stderr.write(f"{kind}: case {number} of machine seed {case_seed} failed\n")
                raise
            slowest = max(slowest, time.perf_counter() - start)
        driver.check_memory()
        broken += driver.broken
        driver.close()
        done += count
        turn += 1
    faulthandler.cancel_dump_traceback_later()
    return broken, slowest


@dataclass(frozen=True, slots=True)
class Share:
    """What one process did: cases, requests for a reset, the slowest case in seconds, growth of its peak memory."""

    cases: int
    broken: int
    slowest_s: float
    growth_kib: int


def run_share(cases: int, seed: int, kinds: list[str]) -> Share:
    """Warm up with every device, then run `cases` cases."""
    logging.getLogger("pyhyve").setLevel(logging.CRITICAL)
    run(min(cases, len(kinds) * _CASES_PER_MACHINE), seed, kinds)
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    broken, slowest_s = run(cases, seed + 1, kinds)
    return Share(cases, broken, slowest_s, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.virtio", description=__doc__)
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=None, help="default: a fresh one, which is printed")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--device", choices=DEVICES, action="append")
    arguments = parser.parse_args()
    kinds = arguments.device or list(DEVICES)
    seed = random.SystemRandom().randrange(1 << 31) if arguments.seed is None else arguments.seed
    sys.stdout.write(f"seed {seed}\n")
    sys.stdout.flush()
    start = time.perf_counter()
    jobs = max(1, arguments.jobs)
    counts = [arguments.cases // jobs + (number < arguments.cases % jobs) for number in range(jobs)]
    with ProcessPoolExecutor(jobs) as pool:
        shares = list(pool.map(run_share, counts, [seed + 1000 * number for number in range(jobs)], [kinds] * jobs))
    growth_kib = max(share.growth_kib for share in shares)
    sys.stdout.write(
        f"{sum(share.cases for share in shares)} cases on {', '.join(kinds)} in {time.perf_counter() - start:.1f} s: "
        f"no exception; {sum(share.broken for share in shares)} times a device asked for a reset and came back; "
        f"slowest case {1000 * max(share.slowest_s for share in shares):.1f} ms; "
        f"memory grew by {growth_kib} KiB at most\n"
    )
    if growth_kib > _GROWTH_LIMIT_KIB:
        sys.stderr.write("memory is not bounded\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
