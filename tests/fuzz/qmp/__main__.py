"""`python -m tests.fuzz.qmp [--cases N] [--seed S]`: mutated requests; none may crash, hang or go unanswered."""

from __future__ import annotations

import argparse
import logging
import secrets
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.qmp.bench import FuzzError, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.qmp")
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=None)
    arguments = parser.parse_args()
    seed = secrets.randbits(32) if arguments.seed is None else arguments.seed
    logging.disable(logging.CRITICAL)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        try:
            asked = run(arguments.cases, seed, Path(directory))
        except FuzzError as error:
            sys.stdout.write(f"FAILED: {error}\n")
            return 1
    sys.stdout.write(f"{asked} requests, seed {seed}, {time.monotonic() - began:.0f} s: every one was answered\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
