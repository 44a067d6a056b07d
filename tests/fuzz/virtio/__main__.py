"""`python -m tests.fuzz.virtio --cases N`: malformed rings, chains and registers against every virtio device."""

from __future__ import annotations

import argparse
import faulthandler
import logging
import random
import resource
import sys
import time

from tests.fuzz.virtio.hostile import DEVICES, HostileDriver

_CASES_PER_MACHINE = 5000
_HANG_S = 60
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
        faulthandler.dump_traceback_later(_HANG_S, exit=True)
        count = min(_CASES_PER_MACHINE, cases - done)
        for number in range(count):
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


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.virtio", description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", choices=DEVICES, action="append")
    arguments = parser.parse_args()
    logging.getLogger("pyhyve").setLevel(logging.CRITICAL)
    kinds = arguments.device or list(DEVICES)
    run(min(arguments.cases, len(kinds) * _CASES_PER_MACHINE), arguments.seed, kinds)
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    broken, slowest = run(arguments.cases, arguments.seed + 1, kinds)
    elapsed_s = time.perf_counter() - start
    growth_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
    sys.stdout.write(
        f"{arguments.cases} cases in {elapsed_s:.1f} s: no exception; {broken} times a device asked for a reset and "
        f"came back; slowest case {1000 * slowest:.1f} ms; memory grew by {growth_kib} KiB\n"
    )
    if growth_kib > _GROWTH_LIMIT_KIB:
        sys.stderr.write("memory is not bounded\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
