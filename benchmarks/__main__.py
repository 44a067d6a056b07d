"""`python -m benchmarks NAME [--runs N] [--json]`, or `all`."""

from __future__ import annotations

import argparse
import importlib
import sys

from benchmarks import report
from benchmarks.harness import run_plan
from pyhyve.support.errors import ExitStatus, UserError

BENCHMARKS = ("boot", "disk", "net", "img")
"""Each is the module `benchmarks.NAME`, with dashes as underscores; it has `plan()` and `SUMMARY`."""
KVM_BENCHMARKS = ("boot-kvm", "start")
"""These need hardware KVM, if need be in the nested machine (docs/kvm.md); `all` leaves them out."""
DEFAULT_RUNS = 5


def progress(text: str) -> None:
    """One line on standard error."""
    print(f"… {text}", file=sys.stderr, flush=True)


def positive(text: str) -> int:
    """A count of at least one."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def main() -> int:
    """Run one benchmark, or all and write RESULTS.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", allow_abbrev=False)
    names = [*BENCHMARKS, *KVM_BENCHMARKS, "all"]
    parser.add_argument("name", choices=names, help="which; all writes benchmarks/RESULTS.md")
    parser.add_argument("--runs", type=positive, default=DEFAULT_RUNS, help="runs of each side (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="end with one JSON object on a line")
    arguments = parser.parse_args()
    chosen = BENCHMARKS if arguments.name == "all" else (arguments.name,)
    done = []
    try:
        for name in chosen:
            plan = importlib.import_module(f"benchmarks.{name.replace('-', '_')}").plan()
            results = run_plan(plan, arguments.runs, progress)
            done.append((name, plan, results))
            print(report.table(name, plan, results))
            if arguments.json:
                print(report.json_line(name, plan, results), flush=True)
    except UserError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return ExitStatus.FAILED
    except KeyboardInterrupt:
        return ExitStatus.FAILED
    if arguments.name == "all":
        report.RESULTS.write_text(report.markdown(done))
        print(f"wrote {report.RESULTS}")
    return ExitStatus.DONE


if __name__ == "__main__":
    sys.exit(main())
