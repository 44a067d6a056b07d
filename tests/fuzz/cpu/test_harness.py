"""The harness itself: the native runner's findings, reproducibility, and that a wrong engine is found out."""

from __future__ import annotations

import platform
import shutil
import struct
from random import Random
from typing import TYPE_CHECKING

import pytest

if platform.machine() != "x86_64":
    pytest.skip("the oracle is the host's own CPU, which must be x86-64", allow_module_level=True)

from tests.fuzz.cpu import layout as at
from tests.fuzz.cpu import report
from tests.fuzz.cpu.batch import Batch, Result, Step
from tests.fuzz.cpu.command import main
from tests.fuzz.cpu.engines import NativeEngine
from tests.fuzz.cpu.generator import Generator
from tests.fuzz.cpu.native import NativeRunner
from tests.fuzz.cpu.opcodes import table
from tests.fuzz.cpu.qemu_engine import tcg
from tests.fuzz.cpu.session import Session, Tally

if TYPE_CHECKING:
    from collections.abc import Iterator

RAX, RCX, RBX, RSP = 0, 1, 3, 4


def case_record(code: str, gprs: dict[int, int] | None = None, *, flags: int = 0x202, offset: int = 0x100) -> bytes:
    """A case with a quiet state."""
    record = bytearray(at.CASE_SIZE)
    values = [0] * 16
    values[RSP] = at.STACK + 0x1000
    for number, value in (gprs or {}).items():
        values[number] = value
    data = bytes.fromhex(code)
    struct.pack_into(
        "<18QIIQ", record, 0, *values, at.CODE + offset, flags, len(data), at.SW_ALL, at.FLAGS_COMPARED
    )  # fmt: skip
    struct.pack_into("<Q4H", record, at.CASE_EIP, at.CODE + offset, at.SELECTOR_CS, at.SELECTOR_SS, 0, 0)
    record[at.CASE_CODE : at.CASE_CODE + len(data)] = data
    struct.pack_into("<HHB19xI", record, at.CASE_FX, 0x37F, 0, 0, 0x1F80)
    return bytes(record)


def batch_of(*records: bytes) -> Batch:
    return Batch(bytes(range(256)) * (at.TEMPLATE_SIZE // 256), bytearray(b"".join(records)), [()] * len(records))


def results_of(runner: NativeRunner, *records: bytes) -> list[Result]:
    data = bytes(runner.run_batch(batch_of(*records)))
    return [Result(data[n * at.RESULT_SIZE : (n + 1) * at.RESULT_SIZE]) for n in range(len(records))]


@pytest.fixture(scope="module")
def runner() -> Iterator[NativeRunner]:
    with NativeRunner(at.BATCH, hang_timeout_s=3.0) as native:
        yield native


def test_native_runner_reports_registers_and_flags(runner: NativeRunner) -> None:
    (result,) = results_of(runner, case_record("4801d8", {RAX: (1 << 64) - 1, RBX: 2}))  # add rax, rbx
    assert (result.vector, result.rip, result.gprs[RAX]) == (at.VECTOR_DONE, at.STUB, 1)
    assert result.rflags & at.ARITHMETIC == at.CF | at.AF


def test_native_runner_reports_changed_memory_and_restores_it(runner: NativeRunner) -> None:
    store = case_record("8903", {RAX: 0x11223344, RBX: at.DATA + 0x1FC})  # mov [rbx], eax
    load = case_record("8b03", {RBX: at.DATA + 0x1FC})  # mov eax, [rbx]
    first, second = results_of(runner, store, load)
    assert first.lines() == {at.DATA + 0x1C0: bytes(range(0xC0, 0xFC)) + bytes.fromhex("44332211")}
    assert (second.dirty, second.gprs[RAX]) == (0, 0xFFFEFDFC)


def test_native_runner_uses_the_segment_bases(runner: NativeRunner) -> None:
    address = {RBX: at.DATA}
    fs, gs = results_of(runner, case_record("648a03", address), case_record("658a03", address))  # mov al, fs:/gs:[rbx]
    assert (fs.gprs[RAX], gs.gprs[RAX]) == (at.FS_BASE & 0xFF, at.GS_BASE & 0xFF)


@pytest.mark.parametrize(
    ("code", "gprs", "expected"),
    [
        ("f7f1", {}, (0, 0, 0)),  # div ecx
        ("f1", {}, (1, 0, 0)),
        ("cc", {}, (3, 0, 0)),
        ("0f0b", {}, (6, 0, 0)),
        ("cd21", {}, (13, 0x21 * 8 + 2, 0)),
        ("8b03", {}, (14, 4, 0)),  # mov eax, [0]
        ("8903", {RBX: at.READ_ONLY - 2}, (14, 7, at.READ_ONLY)),
        ("8903", {RBX: at.READ_ONLY + at.PAGE - 2}, (14, 7, at.READ_ONLY + at.PAGE - 2)),
        ("8b03", {RBX: at.READ_ONLY + at.PAGE - 2}, (14, 4, at.READ_ONLY + at.PAGE)),
        ("ffe3", {RBX: at.DATA}, (14, 0x15, at.DATA)),  # jmp rbx
        ("50", {RSP: 1 << 63}, (12, 0, 0)),  # push rax
        ("8b03", {RBX: 1 << 63}, (13, 0, 0)),
        ("f4", {}, (13, 0, 0)),
    ],
)
def test_native_runner_reports_exceptions(
    runner: NativeRunner, code: str, gprs: dict[int, int], expected: tuple[int, int, int]
) -> None:
    (result,) = results_of(runner, case_record(code, gprs))
    assert (result.vector, result.error, result.cr2) == expected


def test_native_runner_reports_floating_point_exceptions(runner: NativeRunner) -> None:
    unmasked = bytearray(case_record("d9e8d9eedef99b"))  # fld1; fldz; fdivp; fwait
    struct.pack_into("<H", unmasked, at.CASE_FX, 0x37B)
    vector = bytearray(case_record("0f5ec0"))  # divps xmm0, xmm0
    struct.pack_into("<I", vector, at.CASE_FX + at.FX_MXCSR, 0x1F00)
    first, second = results_of(runner, bytes(unmasked), bytes(vector))
    assert (first.vector, second.vector) == (16, 19)


def test_native_runner_reports_alignment_checks(runner: NativeRunner) -> None:
    code = case_record("8b03", {RBX: at.DATA + 1}, flags=0x202 | at.AC)
    assert results_of(runner, code)[0].vector == 17


def test_native_runner_survives_code_at_the_end_of_the_code_pages(runner: NativeRunner) -> None:
    (result,) = results_of(runner, case_record("90", offset=at.CODE_SIZE - 1))
    end = at.CODE + at.CODE_SIZE
    assert (result.vector, result.error, result.cr2, result.rip) == (14, 0x14, end, end)


def test_native_runner_replaces_a_child_that_hangs_or_dies(runner: NativeRunner) -> None:
    hang = case_record("ebfe")
    leave = case_record("b83c0000000f05")  # exit(0)
    good = case_record("ffc0")
    results = results_of(runner, good, hang, good, leave, good)
    expected = [at.VECTOR_DONE, at.VECTOR_HUNG, at.VECTOR_DONE, at.VECTOR_DIED, at.VECTOR_DONE]
    assert [result.vector for result in results] == expected


def test_native_runner_refuses_too_many_cases() -> None:
    with NativeRunner(1) as small, pytest.raises(ValueError, match="2 cases, capacity 1"):
        small.run_batch(batch_of(case_record("90"), case_record("90")))


def test_generator_is_reproducible() -> None:
    first, second = (Generator(Random(5)).batch(300) for _ in range(2))
    assert (first.cases, first.template) == (second.cases, second.template)


def test_generator_refuses_a_pattern_that_matches_nothing() -> None:
    with pytest.raises(ValueError, match="no instruction matches"):
        Generator(Random(5), "^frobnicate$")


def test_nearly_every_entry_runs_to_its_end(runner: NativeRunner) -> None:
    labels = {entry.label for entry in table()}
    finished: set[str] = set()
    generator = Generator(Random(11))
    for _ in range(80):
        batch = generator.batch(at.BATCH)
        data = runner.run_batch(batch)
        for index, steps in enumerate(batch.steps):
            offset = index * at.RESULT_SIZE + at.RESULT_VECTOR
            if struct.unpack_from("<q", data, offset)[0] == at.VECTOR_DONE:
                finished.update(step.entry.label for step in steps)
    # What can only fault in user mode: #UD opcodes, traps, privileged and port instructions.
    faulting = ("(bad)", "int", "ud2", "hlt", "cli", "sti", "in", "out", "clts", "wbinvd", "wrmsr", "rdmsr", "sys")
    control_registers = "mov 0f.2"
    assert not {label for label in labels - finished if not label.startswith((*faulting, control_registers))}


def test_outcomes_depend_on_the_case_alone() -> None:
    session = Session(NativeEngine(), "determinism")
    tally = session.run(session.generate(0))
    session.close()
    assert (tally.cases, len(tally.mismatches)) == (at.BATCH, 0)


class WrongEngine(NativeEngine):
    """The host's CPU, but whose SUBs lose the borrow, in a register only the second instruction could reveal."""

    def run_batch(self, batch: Batch) -> memoryview:
        results = super().run_batch(batch)
        for index in range(batch.count):
            if b"\x29\xd8" in batch.case(index).code:  # sub eax, ebx
                results[index * at.RESULT_SIZE + at.RESULT_RFLAGS] ^= at.CF
        return results


def test_a_wrong_flag_is_found_shortened_and_replayed() -> None:
    session = Session(WrongEngine(), "wrong")
    batch = batch_of(case_record("ffc0"), case_record("ffc029d8ffc1", {RAX: 5, RBX: 1}))
    batch.steps[1] = tuple(Step(table()[0], end, 0, 0) for end in (2, 4, 6))
    found = session.run(batch)
    assert [mismatch.key for mismatch in found.mismatches] == ["sub"]
    smallest = session.minimised(found.mismatches[0])
    assert smallest.batch.case(0).code.hex() == "ffc029d8"
    assert not any(smallest.batch.template)
    assert smallest.batch.case(0).gprs[RBX] == 0
    assert "rflags (CF)" in smallest.describe()
    again = session.again(report.from_text(report.to_text(smallest.batch, 0)))
    session.close()
    assert again is not None
    assert again.fields() == "rflags (CF)"


@pytest.mark.parametrize("text", ["zz", "00", report.to_text(batch_of(case_record("90")), 0)[:-8]])
def test_replay_refuses_what_is_no_case(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a case|non-hexadecimal"):
        report.from_text(text)


def test_command_reports_agreement(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--engine", "native", "--cases", "700", "--seed", "1"]) == 0
    assert "700 cases" in capsys.readouterr().out


def test_command_refuses_a_pattern_that_matches_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--engine", "native", "--cases", "10", "--only", "frobnicate"]) == 2
    assert "no instruction matches" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="qemu-system-x86_64 is not installed")
def test_guest_kernel_agrees_with_the_host_where_qemu_is_exact() -> None:
    session = Session(tcg(), "qemu", "^(add|adc|sub|sbb|xor|push|pop|set.*|cmov.*|imul|movups|bswap|cdq) ")
    tally = Tally()
    for number in range(3):
        tally.add(session.run(session.generate(number)))
    session.close()
    # QEMU lets some illegal LOCK prefixes pass and faults elsewhere in a pushed or popped operand.
    wrong = [m for m in tally.mismatches if (m.native.vector, m.engine.vector) == (at.VECTOR_DONE, at.VECTOR_DONE)]
    assert tally.outcomes[at.VECTOR_DONE] > 1000
    assert [m.describe() for m in wrong] == []
