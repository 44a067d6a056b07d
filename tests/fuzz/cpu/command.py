# ruff: noqa: T201 - printing is what a command does
"""``python -m tests.fuzz.cpu``: compare the engine with the host's CPU on random cases."""

from __future__ import annotations

import argparse
import importlib
import secrets
import sys
import time
from collections import defaultdict
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pyhyve.support.errors import UserError

from . import report
from .layout import BATCH
from .native import host_is_intel
from .session import Mismatch, Session, Tally

if TYPE_CHECKING:
    from .engines import Engine

_ENGINES: Final = {
    "pyhyve": "tests.fuzz.cpu.pyhyve_engine:jit",
    "kvm": "tests.fuzz.cpu.pyhyve_engine:kvm",
    "unicorn": "tests.fuzz.cpu.unicorn_engine:UnicornEngine",
    "qemu": "tests.fuzz.cpu.qemu_engine:tcg",
    "native": "tests.fuzz.cpu.engines:NativeEngine",
}
_CHUNK: Final = 8
"""Batches a worker does at a time."""


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.cpu", description=__doc__)
    parser.add_argument("--cases", type=int, default=1_000_000, metavar="N", help="how many (default: %(default)s)")
    parser.add_argument("--seed", default="", help="names the cases (default: a fresh one, printed)")
    parser.add_argument("--only", default="", metavar="REGEX", help="only what matches of --list")
    parser.add_argument("--bits", type=int, choices=(16, 32, 64), default=64, help="width of the code (default: 64)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default: %(default)s)")
    parser.add_argument("--engine", choices=sorted(_ENGINES), default="pyhyve", help="what is tested (%(default)s)")
    parser.add_argument("--examples", type=int, default=1, metavar="N", help="shown per mnemonic (default: 1)")
    parser.add_argument("--stop-after", type=int, default=2000, metavar="N", help="stop at so many mismatches")
    parser.add_argument("--no-minimise", action="store_true", help="show mismatches as they were found")
    parser.add_argument("--no-alignment-checks", action="store_true", help="leave RFLAGS.AC clear")
    parser.add_argument("--replay", metavar="CASE", help="run one case: the text, or a file that holds it")
    parser.add_argument("--save", type=Path, metavar="DIR", help="write each mismatch shown to a file for --replay")
    parser.add_argument("--list", action="store_true", help="print the labels of all instructions")
    return parser.parse_args(argv)


def _engine(name: str) -> Engine:
    module, _, factory = _ENGINES[name].partition(":")
    engine: Engine = getattr(importlib.import_module(module), factory)()
    return engine


def _session(arguments: argparse.Namespace) -> Session:
    return Session(
        _engine(arguments.engine),
        arguments.seed,
        arguments.only,
        bits=arguments.bits,
        alignment_checks=not arguments.no_alignment_checks,
        lenient=arguments.engine == "unicorn" or not host_is_intel(),
    )


def _work(session: Session, numbers: list[int], last_count: int, most: int) -> Tally:
    """Run some batches, the last one with ``last_count`` cases, until there are more mismatches than ``most``."""
    tally = Tally()
    for number in numbers:
        count = last_count if number == numbers[-1] else BATCH
        tally.add(session.run(session.generate(number, count)))
        if len(tally.mismatches) > most:
            break
    return tally


class _Worker:
    """A process of the pool: its session lives as long as it does."""

    session: Session | None = None

    @classmethod
    def start(cls, arguments: argparse.Namespace) -> None:
        cls.session = _session(arguments)

    @classmethod
    def work(cls, numbers: list[int], last_count: int, most: int) -> Tally:
        if cls.session is None:
            message = "start was not called"
            raise RuntimeError(message)
        return _work(cls.session, numbers, last_count, most)


class _Progress:
    """One line on the terminal; in a log, a line now and then."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._start = self._last = time.monotonic()
        self._live = sys.stderr.isatty()

    def show(self, tally: Tally, *, last: bool = False) -> None:
        now = time.monotonic()
        if not last and now - self._last < (0.3 if self._live else 15):
            return
        self._last = now
        rate = tally.cases / max(now - self._start, 1e-3)
        text = f"{tally.cases:,} of {self._total:,} cases, {rate:,.0f}/s, {len(tally.mismatches)} mismatches"
        sys.stderr.write(f"\r\x1b[K{text}" + ("\n" if last else "") if self._live else f"{text}\n")
        sys.stderr.flush()


def _run(arguments: argparse.Namespace) -> Tally:
    tally = Tally()
    progress = _Progress(arguments.cases)
    batches = -(-arguments.cases // BATCH)
    chunks = [list(range(first, min(first + _CHUNK, batches))) for first in range(0, batches, _CHUNK)]
    rest = arguments.cases - (batches - 1) * BATCH

    def size(numbers: list[int]) -> int:
        return rest if numbers[-1] == batches - 1 else BATCH

    if arguments.jobs == 1:
        session = _session(arguments)
        for numbers in chunks:
            tally.add(_work(session, numbers, size(numbers), arguments.stop_after))
            progress.show(tally)
            if len(tally.mismatches) > arguments.stop_after:
                break
        session.close()
        progress.show(tally, last=True)
        return tally
    with ProcessPoolExecutor(arguments.jobs, get_context("spawn"), _Worker.start, (arguments,)) as pool:
        pending: set[Future[Tally]] = set()
        while chunks or pending:
            while chunks and len(pending) < 2 * arguments.jobs:
                numbers = chunks.pop(0)
                pending.add(pool.submit(_Worker.work, numbers, size(numbers), arguments.stop_after))
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                tally.add(future.result())
            progress.show(tally)
            if len(tally.mismatches) > arguments.stop_after:
                chunks.clear()
    progress.show(tally, last=True)
    return tally


def _print_mismatches(arguments: argparse.Namespace, mismatches: list[Mismatch]) -> None:
    groups: dict[str, list[Mismatch]] = defaultdict(list)
    for mismatch in mismatches:
        groups[mismatch.key].append(mismatch)
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    session = _session(arguments)
    for key, members in ordered:
        members.sort(key=lambda mismatch: len(mismatch.batch.case(0).code))
        for mismatch in members[: arguments.examples]:
            shown = mismatch if arguments.no_minimise else session.minimised(mismatch)
            print(f"\n{key}:\n{shown.describe()}")
            if arguments.save:
                arguments.save.mkdir(parents=True, exist_ok=True)
                path = arguments.save / f"{key.replace(' ', '-')}-{shown.batch.case(0).code.hex()}.case"
                path.write_text(report.to_text(shown.batch, 0))
                print(f"  saved: {path}")
            else:
                print(f"  --replay {report.to_text(shown.batch, 0)}")
    session.close()
    print("\nmismatches by mnemonic:")
    for key, members in ordered:
        fields = sorted({mismatch.fields() for mismatch in members}, key=len)
        print(f"{len(members):7}  {key:<24} {fields[0]}{' ...' if len(fields) > 1 else ''}")


def _replay(arguments: argparse.Namespace) -> int:
    path = Path(arguments.replay)
    long_text = len(arguments.replay) > 255
    text = arguments.replay if long_text or not path.exists() else path.read_text()
    batch = report.from_text(text.strip())
    session = _session(arguments)
    mismatch = session.again(batch)
    session.close()
    print("\n".join(f"  {line}" for line in report.disassemble(batch.case(0))))
    print("both agree" if mismatch is None else mismatch.describe())
    return int(mismatch is not None)


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: 0 all equal, 1 mismatches, 2 wrong usage."""
    arguments = _arguments(argv)
    try:
        if arguments.list:
            from .opcodes import table

            print("\n".join(entry.label for entry in table()))
            return 0
        if arguments.replay:
            return _replay(arguments)
        arguments.seed = arguments.seed or secrets.token_hex(4)
        print(f"seed {arguments.seed}, engine {arguments.engine}", file=sys.stderr)
        tally = _run(arguments)
    except (ValueError, UserError) as error:
        print(f"python -m tests.fuzz.cpu: {error}", file=sys.stderr)
        return 2
    if tally.mismatches:
        _print_mismatches(arguments, tally.mismatches)
    outcomes = ", ".join(f"{report.vector_name(vector)} {count}" for vector, count in tally.outcomes.most_common())
    print(f"{tally.cases:,} cases ({outcomes}); {tally.skipped} not comparable; {len(tally.mismatches)} mismatches")
    return int(bool(tally.mismatches))
