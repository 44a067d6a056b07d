"""Alignment checks: CR0.AM with EFLAGS.AC at CPL 3 (SDM Vol. 3A, 6.15, interrupt 17, and table 6-7)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import pytest

from pyhyve.accel.api import ExitKind
from tests.unit.cpu.engine.conftest import CODE, STACK, TABLES

if TYPE_CHECKING:
    from tests.unit.cpu.engine.conftest import Guest

AM: Final = 1 << 18
AC: Final = 1 << 18
DATA: Final = 0x40000
TSS: Final = 0x5000
HANDLER: Final = 0x11000
"""At HANDLER + 16 * vector stand handlers that push their vector and halt."""
FRAME: Final = 0x70000
VECTOR_AC, VECTOR_GP, VECTOR_PF = 17, 13, 14


def run_user(
    guest: Guest, code: str, *, flags: int = AC, cr0: int = AM, user: bool = True, **registers: int
) -> tuple[int, int | None]:
    """Run `code`, which ends in `int3`; the vector it ended with, and the error code when it has one."""
    for vector in (3, VECTOR_AC, VECTOR_GP, VECTOR_PF):
        guest.gate(vector, HANDLER + 16 * vector)
        guest.code(f"6a{vector:02x} f4", at=HANDLER + 16 * vector)
    guest.memory.write(0x3000 + 16 * 3 + 5, b"\xee")
    for table in (TABLES, TABLES + 0x1000, TABLES + 0x2000):
        guest.memory.write(table, struct.pack("<Q", table + 0x1007))
    for page in range(DATA, DATA + 0x4000, 0x1000):
        guest.map(page, page, 7)
    guest.map(DATA + 0x2000, 0, 0)
    guest.map(CODE, CODE, 7)
    guest.map(STACK - 0x1000, STACK - 0x1000, 7)
    guest.memory.write(TSS + 4, struct.pack("<Q", FRAME))
    guest.code(code + "cc")
    level = 3 if user else 0
    state = {
        "cr0": 0x80000033 | cr0, "rflags": 2 | flags, "tr.base": TSS, "tr.limit": 0x67, "tr.attributes": 0x8B,
        "cs.selector": 8 | level, "cs.attributes": 0xA09B | level << 5,
        "ss.selector": 16 | level, "ss.attributes": 0xC093 | level << 5,
        "rsi": DATA, "rsp": STACK - 0x100, "rip": CODE,
    }  # fmt: skip
    assert guest.run(**(state | registers)).kind == ExitKind.HALT
    frame = guest.vcpu.read_registers()["rsp"]
    vector, error = struct.unpack("<2Q", guest.memory.read(frame, 16))
    return vector, error if vector != 3 else None


@pytest.mark.parametrize(
    ("code", "bad", "good"),
    [
        ("668b06", 1, 2),  # mov ax, [rsi]
        ("8906", 2, 4),  # mov [rsi], eax
        ("488b06", 4, 8),  # mov rax, [rsi]
        ("48f706ffffff7f", 4, 8),  # test qword [rsi], imm32
        ("66c746010000", 2, 1),  # mov word [rsi+1], 0
        ("f0480106", 4, 8),  # lock add [rsi], rax
        ("480fc70e", 16, 16),  # cmpxchg16b [rsi]: its own #GP below
        ("0fc70e", 4, 8),  # cmpxchg8b [rsi]
        ("480fba2e00", 4, 8),  # bts qword [rsi], 0
        ("f30f1006", 2, 4),  # movss xmm0, [rsi]
        ("f20f1006", 4, 8),  # movsd xmm0, [rsi]
        ("0f1206", 4, 8),  # movlps xmm0, [rsi]
        ("0f6f06", 4, 8),  # movq mm0, [rsi]
        ("d906", 2, 4),  # fld dword [rsi]
        ("dd06", 4, 8),  # fld qword [rsi]
        ("db2e", 4, 8),  # fld tbyte [rsi]
        ("dbe3db3e", 4, 8),  # fninit; fstp tbyte [rsi]
        ("d92e", 1, 2),  # fldcw [rsi]
        ("d936", 2, 4),  # fnstenv [rsi]
        ("66d936", 1, 2),  # fnstenv [rsi], 16-bit format
        ("dd36", 2, 4),  # fnsave [rsi]
        ("0fae1e", 2, 4),  # stmxcsr [rsi]
        ("48a5", 4, 8),  # movsq (rdi below is aligned)
        ("48ab", 8, 8),  # stosq (rdi is aligned)
        ("ff36", 4, 8),  # push qword [rsi]
    ],
)
def test_operands_must_be_aligned_by_their_type(guest: Guest, code: str, bad: int, good: int) -> None:
    aligned = run_user(guest, code, rsi=DATA + good, rdi=DATA + 0x100)
    assert aligned == (3, None)
    if bad != good:
        assert run_user(guest, code, rsi=DATA + bad, rdi=DATA + 0x100) == (VECTOR_AC, 0)


@pytest.mark.parametrize("code", ["0f1006", "f30f7f06", "f20ff006", "660f3a630600"])
def test_unaligned_vectors_are_not_checked(guest: Guest, code: str) -> None:
    # movups, movdqu, lddqu, pcmpistri
    assert run_user(guest, code, rsi=DATA + 1) == (3, None)


@pytest.mark.parametrize("code", ["8a06", "a8ff", "0f1806", "0f1f06", "8d06"])
def test_bytes_hints_and_addresses_are_not_checked(guest: Guest, code: str) -> None:
    # mov al, [rsi]; test al, -1; prefetchnta; nop; lea
    assert run_user(guest, code, rsi=DATA + 1) == (3, None)


def test_aligned_vector_instructions_keep_their_own_fault(guest: Guest) -> None:
    assert run_user(guest, "0f2806", rsi=DATA + 8) == (VECTOR_GP, 0)
    assert run_user(guest, "480fc70e", rsi=DATA + 8) == (VECTOR_GP, 0)


def test_stack_accesses_are_checked(guest: Guest) -> None:
    assert run_user(guest, "50", rsp=STACK - 0xFC) == (VECTOR_AC, 0)
    assert run_user(guest, "58", rsp=STACK - 0xFC) == (VECTOR_AC, 0)
    assert run_user(guest, "c3", rsp=STACK - 0xFC) == (VECTOR_AC, 0)
    assert run_user(guest, "e800000000", rsp=STACK - 0xFC) == (VECTOR_AC, 0)


@pytest.mark.parametrize("missing", ["AM", "AC", "CPL"])
def test_nothing_is_checked_unless_all_three_ask_for_it(guest: Guest, missing: str) -> None:
    result = run_user(
        guest, "488b4601", flags=0 if missing == "AC" else AC, cr0=0 if missing == "AM" else AM, user=missing != "CPL"
    )
    assert result == (3, None)


def test_misalignment_comes_before_a_page_fault_and_after_a_non_canonical_address(guest: Guest) -> None:
    assert run_user(guest, "488b06", rsi=DATA + 0x2001) == (VECTOR_AC, 0)
    assert run_user(guest, "488b06", rsi=DATA + 0x2000) == (VECTOR_PF, 4)
    assert run_user(guest, "488b06", rsi=0x8000_0000_0001) == (VECTOR_GP, 0)


def test_popped_flag_takes_effect_at_once(guest: Guest) -> None:
    # push 0x40002 (32 bits); popfq; mov rax, [rsi+1]
    assert run_user(guest, "6802000400 9d 488b4601", flags=0) == (VECTOR_AC, 0)
    # and going again: pushfq; and dword [rsp], ~AC; popfq; mov rax, [rsi+1]
    assert run_user(guest, "9c 812424fffffbff 9d 488b4601") == (3, None)


def test_faulting_instruction_changes_nothing(guest: Guest) -> None:
    guest.memory.write(DATA, bytes(range(16)))
    assert run_user(guest, "48014601", rax=5) == (VECTOR_AC, 0)
    assert guest.memory.read(DATA, 16) == bytes(range(16))
    assert guest.vcpu.read_registers()["rax"] == 5
    frame = struct.unpack("<4Q", guest.memory.read(FRAME - 40, 32))
    assert frame[0] == CODE
    assert frame[2] & 0x50000 == 0x50000  # AC, and RF as for every fault
