"""Running batches on both sides, and making what differs small."""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Final

from . import layout as at
from . import report
from .batch import Batch, Case, Result, compare
from .generator import Generator
from .legacy_generator import LegacyGenerator
from .native import NativeRunner

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .engines import Engine

_ALIGNMENT_CHECK: Final = 17
_PAGE_FAULT: Final = 14
_TASK_END: Final = 0x7FFF_FFFF_F000
_PLAIN_FX: Final = struct.pack("<HHB19xI", 0x37F, 0, 0, 0x1F80)


@dataclass(slots=True)
class Mismatch:
    """A case whose results differ.

    Attributes:
        batch: it alone.
        native, engine: its results.
        key: the mnemonic it is filed under.
    """

    batch: Batch
    native: Result
    engine: Result
    key: str

    def describe(self) -> str:
        """The whole story, over several lines."""
        return report.describe(self.batch, 0, self.native, self.engine)

    def fields(self) -> str:
        """Names of the differing fields."""
        lines = report.differences(self.batch.case(0), self.batch.template, self.native, self.engine)
        names = [line.split(":")[0] for line in lines]
        return ", ".join(dict.fromkeys("memory" if name[0] == "[" else name for name in names))


@dataclass(slots=True)
class Tally:
    """What came out of some batches."""

    cases: int = 0
    skipped: int = 0
    outcomes: Counter[int] = field(default_factory=Counter)
    mismatches: list[Mismatch] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Take in what another process found."""
        self.cases += other.cases
        self.skipped += other.skipped
        self.outcomes += other.outcomes
        self.mismatches += other.mismatches


class Session:
    """An engine beside the oracle.

    Args:
        engine: what is tested.
        seed: names the cases; batch ``n`` of a seed is always the same.
        only: regular expression on the table's labels.
        alignment_checks: set RFLAGS.AC now and then.
        bits: width of the code, 16, 32 or 64.
        lenient: a case that faults on both sides counts as equal (for engines and hosts that fault differently).
    """

    def __init__(
        self, engine: Engine, seed: str, only: str = "", *,
        bits: int = 64, alignment_checks: bool = True, lenient: bool = False,
    ) -> None:  # fmt: skip
        self._bits = bits
        self._engine = engine
        self._native = NativeRunner(at.BATCH)
        self._seed = seed
        self._only = only
        self._alignment_checks = alignment_checks
        self._lenient = lenient

    def close(self) -> None:
        """End the child and the engine."""
        self._native.close()
        self._engine.close()

    def generate(self, number: int, count: int = at.BATCH) -> Batch:
        """Batch ``number`` of this seed."""
        random = Random(f"{self._seed}:{number}")
        if self._bits != 64:
            return LegacyGenerator(random, self._only, self._bits, alignment_checks=self._alignment_checks).batch(count)
        return Generator(random, self._only, alignment_checks=self._alignment_checks).batch(count)

    def run(self, batch: Batch) -> Tally:
        """Run a batch on both sides."""
        native = self._native.run_batch(batch)
        engine = self._engine.run_batch(batch)
        _forget_stack_tops(batch, native, engine)
        tally = Tally(cases=batch.count)
        for index in range(batch.count):
            tally.outcomes[struct.unpack_from("<q", native, index * at.RESULT_SIZE + at.RESULT_VECTOR)[0]] += 1
        found = compare(batch, native, engine)
        pairs = [(index, _record(native, index), _record(engine, index)) for index in found]
        for index, ours, theirs in pairs:
            case = batch.case(index)
            if self._incomparable(batch, index, ours):
                tally.skipped += 1
                continue
            if _excused(case, ours, theirs, lenient=self._lenient) or _excused_undefined(batch, index, ours, theirs):
                continue
            mismatch = Mismatch(_alone(batch, index), ours, theirs, report.mnemonic(case))
            tally.mismatches.append(self._shortened(mismatch))
        return tally

    def _incomparable(self, batch: Batch, index: int, native: Result) -> bool:
        """The case went where the two sides cannot agree.

        It hung; POPF brought about an alignment check; of 16-bit and 32-bit code also what Linux gave up on, and what
        used the rest of a 16-bit stack's pointer.
        """
        if native.vector == at.VECTOR_HUNG or (native.vector == at.VECTOR_DIED and batch.case(index).bits != 64):
            return True
        if native.vector == _ALIGNMENT_CHECK and not self._alignment_checks:
            return True
        return _used_stack_top(batch.case(index), native)

    def again(self, batch: Batch) -> Mismatch | None:
        """Run a batch of one case; None if both sides agree."""
        native = self._native.run_batch(batch)
        engine = self._engine.run_batch(batch)
        _forget_stack_tops(batch, native, engine)
        ours, theirs = _record(native, 0), _record(engine, 0)
        if not compare(batch, native, engine) or self._incomparable(batch, 0, ours):
            return None
        if _excused(batch.case(0), ours, theirs, lenient=self._lenient):
            return None
        return Mismatch(batch, ours, theirs, report.mnemonic(batch.case(0)))

    def _shortened(self, mismatch: Mismatch) -> Mismatch:
        """The same without trailing instructions that do not matter; the last one left names the mismatch."""
        steps = mismatch.batch.steps[0]
        if len(steps) <= 1:
            return mismatch
        for count, step in enumerate(steps[:-1]):
            shorter = bytearray(mismatch.batch.cases)
            struct.pack_into(
                "<IIQ", shorter, at.CASE_CODE_LEN, step.end,
                at.SW_ALL & ~step.sw_undefined, at.FLAGS_COMPARED & ~step.flags_undefined,
            )  # fmt: skip
            found = self.again(Batch(mismatch.batch.template, shorter, [steps[: count + 1]]))
            if found:
                found.key = found.key.split(" ")[-1]
                return found
        mismatch.key = mismatch.key.split(" ")[-1] + " (in a sequence)"
        return mismatch

    def minimised(self, mismatch: Mismatch) -> Mismatch:
        """The same with every part of the initial state at rest that is not needed to see the difference."""
        best = mismatch
        for change in _changes():
            candidate = change(best.batch)
            if candidate is None:
                continue
            found = self.again(candidate)
            if found and (found.native.vector, found.engine.vector) == (best.native.vector, best.engine.vector):
                found.key = best.key
                best = found
        return best


def _record(results: memoryview | bytearray, index: int) -> Result:
    return Result(bytes(results[index * at.RESULT_SIZE : (index + 1) * at.RESULT_SIZE]))


def _forget_stack_tops(batch: Batch, *results: memoryview | bytearray) -> None:
    """Clear the upper half of RSP where the stack is 16 bits wide: IRET leaves there what the caller had."""
    for index in range(batch.count):
        selector = struct.unpack_from("<H", batch.cases, index * at.CASE_SIZE + at.CASE_SELECTORS + 2)[0]
        if any(segment.selector == selector and not segment.wide for segment in at.LOCAL_SEGMENTS):
            for records in results:
                base = index * at.RESULT_SIZE + at.RESULT_GPR + 4 * 8
                records[base + 4 : base + 8] = bytes(4)


def _alone(batch: Batch, index: int) -> Batch:
    record = bytearray(batch.cases[index * at.CASE_SIZE : (index + 1) * at.CASE_SIZE])
    return Batch(batch.template, record, [batch.steps[index]])


_HOST_SEGMENT: Final = 15 * 8
"""Selector, without its privilege, of the GDT entry in which Linux keeps the CPU's number."""


def _used_stack_top(case: Case, native: Result) -> bool:
    """Whether a far call to 64-bit code pushed through all of ESP, whose upper half IRET to a 16-bit stack leaves."""
    top = at.SAVE >> 16
    return case.bits != 64 and native.vector == _PAGE_FAULT and top in {native.cr2 >> 16, native.cr2 + 8 >> 16}


def _excused(case: Case, native: Result, engine: Result, *, lenient: bool) -> bool:
    """Differences that are not the engine's: what the manual leaves open, and what the host's operating system adds."""
    if lenient and native.vector >= 0 and engine.vector >= 0:
        return True
    if case.bits != 64 and engine.vector == 13 and engine.error == _HOST_SEGMENT:
        # Linux keeps a data segment of its own there, which programs may load.
        return True
    return _excused_bit_scan(case, native, engine) or _excused_page_fault(native, engine)


def _excused_undefined(batch: Batch, index: int, native: Result, engine: Result) -> bool:
    """A fault in the middle of a sequence: flags that an instruction left undefined may not have been set since."""
    if native.vector < 0 or (native.vector, native.rip) != (engine.vector, engine.rip):
        return False
    alone = _alone(batch, index)
    steps = batch.steps[index]
    offset = native.rip - alone.case(0).eip
    if 0 <= offset <= steps[-1].end:
        steps = tuple(step for step in steps if step.end <= offset)
    sw_mask, flags_mask = at.SW_ALL, at.FLAGS_COMPARED
    for step in steps:
        sw_mask &= ~step.sw_undefined
        flags_mask &= ~step.flags_undefined
    struct.pack_into("<IQ", alone.cases, at.CASE_SW_MASK, sw_mask, flags_mask)
    return not compare(alone, memoryview(bytearray(native.record)), memoryview(bytearray(engine.record)))


def _excused_bit_scan(case: Case, native: Result, engine: Result) -> bool:
    """BSF and BSR of zero: the manual leaves the destination undefined, and CPUs differ in its upper half."""
    differing = [(a, b) for a, b in zip(native.gprs, engine.gprs, strict=True) if a != b]
    if len(differing) != 1 or (differing[0][0] ^ differing[0][1]) & 0xFFFF_FFFF:
        return False
    if native.record[at.RESULT_RIP :] != engine.record[at.RESULT_RIP :]:
        return False
    return any(name in ("bsf", "bsr") for name in report.mnemonic(case).split(" "))


def _excused_page_fault(native: Result, engine: Result) -> bool:
    """The operating system's mark on a page fault outside the program's part of the address space.

    Linux sets P in the error code there, whatever the page is.
    """
    if native.vector != 14 or engine.vector != 14 or native.cr2 < _TASK_END or native.error ^ engine.error != 1:
        return False
    patched = bytearray(engine.record)
    patched[at.RESULT_ERROR] |= 1
    size = at.RESULT_FX
    return bytes(patched[at.RESULT_VECTOR : size]) == native.record[at.RESULT_VECTOR : size]


@dataclass(frozen=True, slots=True)
class _Change:
    """Put ``value`` into the case record (or the template, for a negative ``base``)."""

    base: int
    offset: int
    value: bytes

    def __call__(self, batch: Batch) -> Batch | None:
        place = slice(max(self.base, 0) + self.offset, max(self.base, 0) + self.offset + len(self.value))
        if self.base < 0:
            if batch.template[place] == self.value:
                return None
            template = bytearray(batch.template)
            template[place] = self.value
            return Batch(bytes(template), batch.cases, batch.steps)
        if batch.cases[place] == self.value:
            return None
        cases = bytearray(batch.cases)
        cases[place] = self.value
        return Batch(batch.template, cases, batch.steps)


def _changes() -> Iterator[_Change]:
    """Changes to try, the big ones first."""
    for size in (at.TEMPLATE_SIZE, at.PAGE, 512, at.LINE):
        for offset in range(0, at.TEMPLATE_SIZE, size):
            yield _Change(-1, offset, bytes(size))
    header = _PLAIN_FX.ljust(at.FX_ST, b"\0")
    yield _Change(at.CASE_FX, 0, header.ljust(at.FX_END, b"\0"))
    yield _Change(at.CASE_FX, 0, header)
    yield _Change(at.CASE_RFLAGS, 0, struct.pack("<Q", at.FLAGS_FIXED))
    for offset in range(at.FX_ST, at.FX_END, 16):
        yield _Change(at.CASE_FX, offset, bytes(16))
    for offset in range(0, 16 * 8, 8):
        yield _Change(at.CASE_GPR, offset, bytes(8))
