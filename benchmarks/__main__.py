"""`python -m benchmarks NAME [--runs N] [--json]`, or `all`."""

from __future__ import annotations

import argparse
import importlib
import sys

from benchmarks import report
from benchmarks.harness import run_plan
from pyhyve.support.errors import ExitStatus, UserError

BENCHMARKS = ("boot", "guest-cpu", "disk", "net", "img", "rpc")
"""Each is the module `benchmarks.NAME`, with dashes as underscores; it has `plan()` and `SUMMARY`."""
ALONE = ("start", "restore", "migrate")
"""`all` leaves these out: `start` needs a KVM (docs/kvm.md), the others boot both sides first."""
ON_KVM = ("boot",)
"""With `--accel kvm` these are the module `benchmarks.NAME_kvm`; they need hardware KVM, as the nested machine has."""
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
    names = [*BENCHMARKS, *ALONE, "all"]
    parser.add_argument("name", choices=names, help="which; all writes benchmarks/RESULTS.md")
    parser.add_argument("--runs", type=positive, default=DEFAULT_RUNS, help="runs of each side (default: %(default)s)")
    parser.add_argument("--accel", choices=("jit", "kvm"), default="jit", help="what runs the guest of boot")
    parser.add_argument("--json", action="store_true", help="end with one JSON object on a line")
    arguments = parser.parse_args()
    if arguments.accel == "kvm" and arguments.name not in ON_KVM:
        parser.error(f"--accel kvm is for {', '.join(ON_KVM)}")
    suffix = "_kvm" if arguments.accel == "kvm" else ""
    chosen = BENCHMARKS if arguments.name == "all" else (arguments.name,)
    done = []
    try:
        for name in chosen:
            plan = importlib.import_module(f"benchmarks.{name.replace('-', '_')}{suffix}").plan()
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
