"""`python -m tests.fuzz.rpc --cases N`: damaged frames, made-up calls and streams against a whole daemon.

Memory and descriptors are bounded when a run as long as the one before leaves them nearly where they were.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import logging
import random
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.fuzz.rpc.hostile import Outcome, run

_ROUND = 50_000
_HANG_S = 300
_GROWTH_LIMIT_KIB = 96 << 10
_SLOWEST_S = 2.0


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def run_share(cases: int, seed: int) -> Outcome:
    """Warm up, then run `cases` cases in rounds, each with a fresh daemon."""
    logging.disable(logging.CRITICAL)
    total = Outcome()
    with tempfile.TemporaryDirectory(prefix="fuzz-rpc-") as directory:
        rounds = [min(_ROUND, cases)] + [min(_ROUND, cases - done) for done in range(0, cases, _ROUND)]
        before_kib = fds = 0
        for number, count in enumerate(rounds):
            faulthandler.dump_traceback_later(_HANG_S, exit=True)
            try:
                outcome = asyncio.run(run(Path(directory, str(number)), random.Random(seed + number), count))
            except AssertionError:
                sys.stderr.write(f"round {number} of seed {seed} failed\n")
                raise
            if number == 0:
                before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                fds = _descriptors()
                continue
            total.frames += outcome.frames
            total.disconnected += outcome.disconnected
            total.answered_bytes += outcome.answered_bytes
            total.slowest_s = max(total.slowest_s, outcome.slowest_s)
            total.tasks = max(total.tasks, outcome.tasks)
        faulthandler.cancel_dump_traceback_later()
        total.growth_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
        if _descriptors() > fds:
            total.problems.append("descriptors are left open")
    if total.growth_kib > _GROWTH_LIMIT_KIB:
        total.problems.append("memory is not bounded")
    if total.slowest_s > _SLOWEST_S:
        total.problems.append(f"one frame held everybody up for {total.slowest_s:.1f} s")
    return total


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.rpc", description=__doc__)
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=None, help="default: a fresh one, which is printed")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 31) if arguments.seed is None else arguments.seed
    sys.stdout.write(f"seed {seed}\n")
    sys.stdout.flush()
    start = time.perf_counter()
    jobs = max(1, arguments.jobs)
    counts = [arguments.cases // jobs + (number < arguments.cases % jobs) for number in range(jobs)]
    with ProcessPoolExecutor(jobs) as pool:
        shares = list(pool.map(run_share, counts, [seed + 1_000_003 * number for number in range(jobs)]))
    sys.stdout.write(
        f"{sum(share.frames for share in shares)} frames in {time.perf_counter() - start:.1f} s: no exception; "
        f"{sum(share.disconnected for share in shares)} clients disconnected, "
        f"{sum(share.answered_bytes for share in shares) >> 20} MiB answered; "
        f"slowest frame {1000 * max(share.slowest_s for share in shares):.1f} ms; "
        f"at most {max(share.tasks for share in shares)} coroutines; "
        f"memory grew by {max(share.growth_kib for share in shares)} KiB at most\n"
    )
    problems = [problem for share in shares for problem in share.problems]
    for problem in problems:
        sys.stderr.write(f"{problem}\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
