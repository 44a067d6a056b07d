"""What the nested machine tests, and the results kept between runs: what has not changed is not tested twice."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pyhyve.guest.builder import GuestSpec, build_guest
from pyhyve.support.cache import cache_directory
from tests.nested.image import fingerprint
from tests.nested.machine import REPOSITORY, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

KERNELS = {"debian": "linux-image-cloud-amd64", "debian-6.12": "linux-image-6.12-cloud-amd64"}
PATIENCE = 10
"""Time limits in the nested machine are this much longer: it is some twenty times slower, and its host may be busy."""
UNIT_TESTS = ("tests/unit/kvm", "tests/unit/accel", "tests/guest/kvm")
GUEST_TESTS = (
    "tests/guest/test_lifecycle.py",
    "tests/guest/test_linux.py",
    "tests/guest/test_disks.py",
    "tests/guest/test_run_ends.py",
    "tests/guest/test_live_migration.py::test_limits_may_be_raised_on_the_way",
    "tests/guest/test_live_migration.py::test_dead_destination_never_stopped_the_guest",
)
SHORT_GUEST_TESTS = (
    "tests/guest/test_lifecycle.py",
    "tests/guest/test_linux.py::test_debian_boots_answers_and_powers_off",
    "tests/guest/test_disks.py::test_file_system_survives_a_reboot",
    "tests/guest/test_live_migration.py::test_limits_may_be_raised_on_the_way",
)
PROGRAMS = "programs.bin"
SHORT_CASES, ALL_CASES = 400, 20_000
RESULTS_KEPT = 20
SETUP = f"""\
export PATH=/work/usr-bin:$PATH XDG_CACHE_HOME=/work/cache
export PYTHONPATH=/opt/site:src:. PYHYVE_KVM_REAL=1 PYHYVE_GUESTS_GIVEN=1
export PYHYVE_GUEST_ACCEL=kvm PYHYVE_GUEST_PATIENCE={PATIENCE}
pyhyve() {{ python3 -m pyhyve "$@"; }}
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run of the suite ended. `lines` is what it printed, `summary` one line."""

    passed: bool
    summary: str
    lines: tuple[str, ...] = ()
    was_kept: bool = False
    """Nothing ran: a run of the same files passed before."""


def guest_files(names: Iterable[str], echo: Callable[[str], None]) -> dict[str, Path]:
    """Guests as the cache has them, by their place in the nested machine. Raises UserError."""
    files: dict[str, Path] = {}
    for name in names:
        guest = build_guest(GuestSpec(name=name, kernel_package=KERNELS[name]), lambda *_: None, echo)
        files |= {f"cache/pyhyve/guests/{name}/{path.name}": path for path in guest.directory.iterdir()}
    return files


def pytest_command(arguments: Iterable[str]) -> str:
    """A shell command that runs tests."""
    # The emulator needs LLVM, which the nested machine does not have; it is tested where this runs.
    options = ["-p", "no:cacheprovider", "-o", "addopts=-ra --import-mode=importlib", "-k", "not emulator"]
    return shlex.join(["python3", "-m", "pytest", *options, "--timeout", str(300 * PATIENCE), *arguments])


def script(*, short: bool) -> str:
    """What the nested machine does; it ends with the number of parts that failed."""
    tests = pytest_command([*UNIT_TESTS, *(SHORT_GUEST_TESTS if short else GUEST_TESTS)])
    programs = f"python3 -m tests.nested.programs check {PROGRAMS}"
    return f"failed=0\n{tests} || failed=1\n{programs} || failed=$((failed + 2))\nexit $failed\n"


def run_suite(
    *,
    short: bool,
    echo: Callable[[str], None],
    timeout_s: float,
    fresh: bool = False,
    seed: str = "",
    niceness: int = 0,
) -> Outcome:
    """Run the suite, or give the result of the same suite on the same files; raises UserError and NestedError."""
    lines: list[str] = []

    def keep(line: str) -> None:
        lines.append(line)
        echo(line)

    guests = guest_files(KERNELS, echo)
    key = _key(script(short=short), guests)
    kept = cache_directory("nested-results") / f"{key}.json"
    if kept.is_file() and not fresh:
        return Outcome(passed=True, summary=json.loads(kept.read_text())["summary"], was_kept=True)
    with tempfile.TemporaryDirectory(prefix="pyhyve-programs-") as directory:
        programs = Path(directory, PROGRAMS)
        cases = str(SHORT_CASES if short else ALL_CASES)
        command = [sys.executable, "-m", "tests.nested.programs", "record", programs]
        subprocess.run(
            ["nice", "-n", str(niceness), *command, "--cases", cases, "--seed", seed or key],
            check=True,
            cwd=REPOSITORY,
            env=os.environ | {"PYTHONPATH": f"{REPOSITORY / 'src'}{os.pathsep}{REPOSITORY}"},
            stdout=subprocess.DEVNULL,
        )
        started = time.monotonic()
        extra = guests | {PROGRAMS: programs}
        text = SETUP + script(short=short)
        status = run(text, extra=extra, timeout_s=timeout_s, echo=keep, niceness=niceness)
    results = [
        line.strip("= ") for line in lines if " passed" in line or " failed" in line or "random programs" in line
    ]
    summary = f"{'; '.join(results)}; {time.monotonic() - started:.0f} s in the nested machine"
    if status == 0:
        kept.write_text(json.dumps({"summary": summary}))
        for old in sorted(kept.parent.iterdir(), key=lambda path: path.stat().st_mtime)[:-RESULTS_KEPT]:
            old.unlink(missing_ok=True)
    return Outcome(status == 0, summary, tuple(lines))


def _key(text: str, guests: dict[str, Path]) -> str:
    """Changes with anything that could change the result."""
    digest = hashlib.sha256(repr((fingerprint(), text, sorted(guests))).encode())
    for guest in sorted(guests.values()):
        digest.update(str(guest.resolve()).encode())
    for directory in ("src", "tests/unit/kvm", "tests/unit/accel", "tests/guest", "tests/nested", "tests/fuzz/cpu"):
        for path in sorted((REPOSITORY / directory).rglob("*")):
            if path.suffix in {".py", ".sh"}:
                digest.update(f"\n{path.relative_to(REPOSITORY)}\n".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:24]
