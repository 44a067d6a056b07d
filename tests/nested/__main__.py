"""`python -m tests.nested`: run the KVM tests on real (nested SVM) KVM inside an emulated machine.

python -m tests.nested                                the short suite, as `make test` runs it
python -m tests.nested --all                          every guest test, and 20,000 random programs
python -m tests.nested --endurance                    100 boots, 1,000 pauses, machines killed at any moment
python -m tests.nested -- tests/unit/kvm -k probe     pytest with these arguments
python -m tests.nested --shell 'pyhyve run …'         any command; extra files with --file NAME=PATH
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from pathlib import Path

from pyhyve.support.errors import UserError
from tests.nested.machine import NestedError, cached_snapshot, missing, run
from tests.nested.qemu_files import qemu_files
from tests.nested.suite import KERNELS, SETUP, guest_files, pytest_command, run_suite

ENDURANCE = "python3 -m tests.nested.endurance"
TIMEOUT_S = 3600
UNAVAILABLE = 77


def say(line: str) -> None:
    """One line of progress."""
    print(line, flush=True)  # noqa: T201 - printing is what a command does


def in_background(niceness: int) -> int:
    """For `tests.nested.conftest`: the short suite, or its kept result; the last line is JSON."""
    try:
        outcome = run_suite(short=True, echo=say, timeout_s=TIMEOUT_S, niceness=niceness)
    except UserError as error:
        say(str(error))
        return UNAVAILABLE
    say(json.dumps({"summary": outcome.summary}))
    return 0 if outcome.passed else 1


def main() -> int:
    """Run what the command line asks for; the exit status is the command's."""
    parser = argparse.ArgumentParser(prog="python -m tests.nested")
    parser.add_argument("--all", action="store_true", help="the whole suite")
    parser.add_argument("--endurance", nargs="?", const="", metavar="OPTIONS", help="the long runs; ditto")
    parser.add_argument("--seed", default="", help="names the random programs")
    parser.add_argument("--shell", metavar="COMMAND", help="run a shell command instead of pytest")
    parser.add_argument("--file", action="append", default=[], metavar="NAME=PATH", help="a file to take along")
    parser.add_argument("--guest", action="append", choices=KERNELS, help="guests to take along (default: all)")
    parser.add_argument("--qemu", action="store_true", help="take the host's QEMU along, as a peer")
    parser.add_argument("--timeout", type=float, default=4 * 3600, metavar="S")
    parser.add_argument("--icount", action="store_true", help="count instructions as time (for benchmarks)")
    parser.add_argument("--background", type=int, metavar="NICENESS", help=argparse.SUPPRESS)
    parser.add_argument("--prepare", action="store_true", help="build the image and the snapshot, run nothing")
    parser.add_argument("tests", nargs="*", help="pytest arguments")
    options = parser.parse_args()
    reason = missing()
    if reason is not None:
        sys.stderr.write(f"nested machine: {reason}\n")
        return 1
    stack = contextlib.ExitStack()
    try:
        if options.prepare:
            cached_snapshot(say)
            return 0
        if options.background is not None:
            return in_background(options.background)
        if options.shell is None and options.endurance is None and not options.tests:
            outcome = run_suite(
                short=not options.all, echo=say, timeout_s=options.timeout, fresh=True, seed=options.seed
            )
            say(outcome.summary)
            return 0 if outcome.passed else 1
        extra = guest_files(options.guest or KERNELS, say)
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        extra |= qemu_files(Path(directory)) if options.qemu else {}
        extra |= {name: Path(path) for name, _, path in (item.partition("=") for item in options.file)}
        command = options.shell or f"exec {pytest_command(options.tests)}"
        if options.endurance is not None:
            command = f"exec {ENDURANCE} {options.endurance}"
        return run(SETUP + command + "\n", extra=extra, timeout_s=options.timeout, echo=say, icount=options.icount)
    except (NestedError, UserError) as error:
        sys.stderr.write(f"nested machine: {error}\n")
        return 1
    finally:
        stack.close()


if __name__ == "__main__":
    sys.exit(main())
