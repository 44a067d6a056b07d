# ruff: noqa: T201 - printing is what a command does
"""Random programs with the results that the emulator gives, to be run on KVM elsewhere: both must agree.

python -m tests.nested.programs record FILE [--seed S] [--cases N]     make the file; needs LLVM
python -m tests.nested.programs check FILE [--accel kvm]               run it; needs nothing but Python

The nested machine's processor is itself an emulated one. `record` leaves out the programs with which QEMU's emulator
disagrees with ours by itself (it says how many), and instructions it cannot judge.
"""

from __future__ import annotations

import argparse
import pickle
import struct
import sys
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from tests.fuzz.cpu import guest_kernel as kernel
from tests.fuzz.cpu import layout as at
from tests.fuzz.cpu.engines import MemoryImage
from tests.fuzz.cpu.machine_code import GPRS
from tests.fuzz.cpu.pyhyve_engine import VmMachine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fuzz.cpu.batch import Batch, Case, Result

_KNOWN_THERE = r"^(?!xsave|xrstor|xgetbv)"
"""Labels of the instructions that the nested machine can judge.

QEMU's emulator does not intercept XSETBV for SVM: KVM in it never learns what its guest wrote, and takes XCR0 back to 1
at the next entry.
"""
_FX_SW = at.RESULT_FX + 2
"""The x87 status word in a result record (SDM Vol. 1, 10.5.1)."""
_LOST = {at.VECTOR_HUNG, at.VECTOR_DIED}
_QUAD = 8


@dataclass(frozen=True, slots=True)
class Program:
    """One case: what the kernel in the guest is given, and what must come back."""

    template: int
    """Index of the initial contents of its memory."""
    page: bytes
    flags_mask: int
    sw_mask: int
    record: bytes
    """Expected result, masked."""
    lines: tuple[tuple[int, bytes], ...]
    """Offsets in the memory, and what is there afterwards."""
    text: str


@dataclass(slots=True)
class Collection:
    """A file's contents."""

    image: kernel.KernelImage
    templates: list[bytes] = field(default_factory=list)
    programs: list[Program] = field(default_factory=list)
    left_out: int = 0


def masked(record: bytes, flags_mask: int, sw_mask: int) -> bytes:
    """The parts of a result record that are compared."""
    found = bytearray(record[: at.RESULT_LINES])
    (flags,) = struct.unpack_from("<Q", found, at.RESULT_RFLAGS)
    struct.pack_into("<Q", found, at.RESULT_RFLAGS, flags & flags_mask)
    (status,) = struct.unpack_from("<H", found, _FX_SW)
    struct.pack_into("<H", found, _FX_SW, status & sw_mask)
    found[at.RESULT_DIRTY : at.RESULT_FX] = bytes(at.RESULT_FX - at.RESULT_DIRTY)
    return bytes(found)


def _case_page(case: Case) -> bytes:
    """What the guest's kernel reads (as `guest_engine` writes it)."""
    image = case.code_image
    page = bytearray(at.PAGE)
    page[: at.CASE_SIZE] = case.record
    place = kernel.code_place(MemoryImage.CODE_OFFSET + case.rip - at.CODE)
    struct.pack_into("<QI", page, kernel.CASE_CODE_PLACE, place, len(image))
    page[kernel.CASE_CODE_IMAGE : kernel.CASE_CODE_IMAGE + len(image)] = image
    return bytes(page)


def _offset(address: int) -> int:
    for start, size, offset, _ in MemoryImage.REGIONS:
        if start <= address < start + size:
            return offset + address - start
    raise ValueError(hex(address))


def _same(batch: Batch, index: int, ours: Result, theirs: Result) -> bool:
    case = batch.case(index)
    masks = case.flags_mask, case.sw_mask
    same_memory = ours.dirty == theirs.dirty and ours.lines() == theirs.lines()
    return same_memory and masked(ours.record, *masks) == masked(theirs.record, *masks)


def record(path: Path, seed: str, count: int) -> Collection:
    """Make `count` programs (less those left out) and write them to `path`."""
    from tests.fuzz.cpu import pyhyve_engine, qemu_engine
    from tests.fuzz.cpu.batch import Result
    from tests.fuzz.cpu.generator import Generator
    from tests.fuzz.cpu.report import mnemonic

    image = kernel.kernel_image(kernel.Doorbell.PORT, MemoryImage.REGIONS)
    found = Collection(image)
    ours, theirs = pyhyve_engine.jit(), qemu_engine.tcg()
    try:
        for number, size in enumerate(_batch_sizes(count)):
            batch = Generator(Random(f"{seed}:{number}"), _KNOWN_THERE, alignment_checks=False).batch(size)
            first, second = bytes(ours.run_batch(batch)), bytes(theirs.run_batch(batch))
            found.templates.append(batch.template)
            for index in range(batch.count):
                here, there = (Result(data[index * at.RESULT_SIZE :][: at.RESULT_SIZE]) for data in (first, second))
                if here.vector in _LOST or here.dirty > at.MAX_LINES or not _same(batch, index, here, there):
                    found.left_out += 1
                    continue
                case = batch.case(index)
                lines = tuple((_offset(address), bytes(line)) for address, line in here.lines().items())
                expected = masked(here.record, case.flags_mask, case.sw_mask)
                found.programs.append(
                    Program(number, _case_page(case), case.flags_mask, case.sw_mask, expected, lines, mnemonic(case))
                )
    finally:
        ours.close()
        theirs.close()
    path.write_bytes(pickle.dumps(found))
    return found


def _batch_sizes(count: int) -> Iterator[int]:
    while count > 0:
        yield min(count, at.BATCH)
        count -= at.BATCH


def check(collection: Collection, accel: str) -> Iterator[str]:
    """Run every program; gives a line for each that ends differently."""
    machine = VmMachine(accel)
    user = slice(kernel.USER_GPA, kernel.USER_GPA + MemoryImage.SIZE)
    code = MemoryImage.CODE_OFFSET
    untouched = b"\xcc" * at.CODE_SIZE
    try:
        machine.start(collection.image)
        machine.ram[user][code : code + at.CODE_SIZE] = untouched
        memory = machine.ram[kernel.USER_GPA : kernel.USER_GPA + at.TEMPLATE_SIZE]
        page = machine.ram[kernel.CASE_GPA : kernel.CASE_GPA + at.PAGE]
        result = machine.ram[kernel.RESULT_GPA : kernel.RESULT_GPA + at.RESULT_LINES]
        for number, program in enumerate(collection.programs):
            template = collection.templates[program.template]
            memory[:] = template
            page[:] = program.page
            outcome = machine.go_on()
            wanted = bytearray(template)
            for offset, line in program.lines:
                wanted[offset : offset + len(line)] = line
            found = masked(bytes(result), program.flags_mask, program.sw_mask)
            if outcome == at.VECTOR_DONE and found == program.record and memory == wanted:
                continue
            yield f"{number}: {program.text}: {_difference(outcome, program.record, found)}"
            if outcome != at.VECTOR_DONE:
                machine.start(collection.image)
                machine.ram[user][code : code + at.CODE_SIZE] = untouched
        memory.release()
        page.release()
        result.release()
    finally:
        machine.close()


def _difference(outcome: int, wanted: bytes, found: bytes) -> str:
    if outcome != at.VECTOR_DONE:
        return f"the machine was lost ({outcome})"
    parts = [
        f"{_name(start)} {found[start : start + _QUAD].hex()}, not {wanted[start : start + _QUAD].hex()}"
        for start in range(0, len(wanted), _QUAD)
        if found[start : start + _QUAD] != wanted[start : start + _QUAD]
    ]
    return "; ".join(parts) or "memory differs"


def _name(offset: int) -> str:
    """What is at `offset` of a result record."""
    if offset < at.RESULT_RIP:
        return GPRS[offset // _QUAD]
    names = {at.RESULT_RIP: "rip", at.RESULT_RFLAGS: "rflags", at.RESULT_VECTOR: "vector", at.RESULT_CR2: "cr2"}
    return names.get(offset, f"byte {offset - at.RESULT_FX:#x} of FXSAVE's image")


def main() -> int:
    """Record or check; 1 when a program ends differently."""
    parser = argparse.ArgumentParser(prog="python -m tests.nested.programs")
    parser.add_argument("verb", choices=("record", "check"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--seed", default="pyhyve")
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--accel", default="kvm")
    options = parser.parse_args()
    if options.verb == "record":
        made = record(options.file, options.seed, options.cases)
        print(f"{len(made.programs)} programs, {made.left_out} left out")
        return 0
    collection: Collection = pickle.loads(options.file.read_bytes())  # noqa: S301 - our own file, made by `record`
    wrong = 0
    for line in check(collection, options.accel):
        wrong += 1
        if wrong <= 20:
            print(line)
    print(f"{len(collection.programs)} random programs on {options.accel}: {wrong} end differently")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
