"""Transfers to non-canonical addresses: the branch itself faults (SDM Vol. 2, JMP, Jcc, CALL, RET).

The results were taken from a processor, for code at the end of the lower half of the address space.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import pytest

from pyhyve.accel.api import ExitKind
from tests.unit.cpu.engine.conftest import IDT, STACK, TABLES

if TYPE_CHECKING:
    from tests.unit.cpu.engine.conftest import Guest

END: Final = 1 << 47
"""The first address that is not canonical."""
HANDLER: Final = 0x18000
SS, GP, PF = 12, 13, 14
TSS, FAULT_STACK = 0x5000, 0x90000
_TOP_BYTES: Final = 2 << 20
_TOP: Final = 0x400000


def run(guest: Guest, code: str, before_end: int, **registers: int) -> tuple[int, int, int, dict[str, int]]:
    """Run `code`, which begins `before_end` bytes before the end and faults.

    Returns the vector, the distance of the saved RIP from the code's start, that of RSP, and all registers.
    """
    for level, target in enumerate((TABLES + 0x10003, TABLES + 0x11003, _TOP | 0x83)):
        table = (TABLES, TABLES + 0x10000, TABLES + 0x11000)[level]
        guest.memory.write(table + 8 * (255 if level == 0 else 511), struct.pack("<Q", target))
    for vector in (SS, GP):
        guest.gate(vector, HANDLER + 16 * vector)
        guest.memory.write(IDT + 16 * vector + 4, b"\x01")  # by stack 1 of the task state segment
        guest.code(f"6a{vector:02x} f4", at=HANDLER + 16 * vector)
    guest.memory.write(TSS + 36, struct.pack("<Q", FAULT_STACK))
    guest.memory.write(STACK - 16, bytes(32))
    guest.code(code, at=_TOP + _TOP_BYTES - before_end)
    start = END - before_end
    values = {"tr.base": TSS, "tr.limit": 0x67, "tr.attributes": 0x8B, "rip": start, "rsp": STACK}
    guest.vcpu.write_registers(values | registers)
    assert guest.resume().kind == ExitKind.HALT
    after = dict(guest.vcpu.read_registers())
    vector, error, rip, _, _, rsp = struct.unpack("<6Q", guest.memory.read(after["rsp"], 48))
    assert error == 0
    return vector, rip - start, rsp - STACK, after


@pytest.mark.parametrize("code", ["e900300000", "0f8400300000", "eb7e", "747e", "66e900300000"])
def test_relative_jump_faults_itself(guest: Guest, code: str) -> None:
    assert run(guest, code, 0x40, rflags=0x46)[:3] == (GP, 0, 0)


def test_jump_that_is_not_taken_does_not_fault(guest: Guest) -> None:
    # jnz far away; ud2 cannot be reached: jmp does it
    assert run(guest, "0f8500300000 e900300000", 0x40, rflags=0x46)[:3] == (GP, 6, 0)


def test_jump_within_the_half_is_free(guest: Guest) -> None:
    # jmp to the last two bytes, which jump out
    assert run(guest, "eb3c" + "90" * 60 + "eb10", 0x40)[:3] == (GP, 0x3E, 0)


def test_call_stores_its_return_address_and_keeps_the_stack_pointer(guest: Guest) -> None:
    for code in ("e800300000", "ffd0"):
        assert run(guest, code, 0x40, rax=END)[:3] == (GP, 0, 0)
        stored = struct.unpack("<Q", guest.memory.read(STACK - 8, 8))[0]
        assert stored == END - 0x40 + len(code) // 2


def test_indirect_jump_and_return_fault_themselves(guest: Guest) -> None:
    assert run(guest, "ffe0", 0x40, rax=END)[:3] == (GP, 0, 0)
    assert run(guest, "50 c3", 0x40, rax=END)[:3] == (GP, 1, -8)
    assert run(guest, "50 c20800", 0x40, rax=END)[:3] == (GP, 1, -8)
    # far return and IRET to the same segment
    assert run(guest, "6a08 50 48cb", 0x40, rax=END, rsp=STACK - 8)[0] == GP
    assert run(guest, "6a10 54 9c 6a08 50 48cf", 0x40, rax=END)[:3] == (GP, 7, -40)


def test_loop_that_leads_out_does_not_count(guest: Guest) -> None:
    vector, rip, _, after = run(guest, "e27e", 0x40, rcx=5)
    assert (vector, rip, after["rcx"]) == (GP, 0, 5)
    vector, rip, _, after = run(guest, "67e27e", 0x40, rcx=5)
    assert (vector, rip, after["rcx"]) == (GP, 0, 5)
    # the last turn does not jump
    vector, rip, _, after = run(guest, "e27e eb7e", 0x40, rcx=1)
    assert (vector, rip, after["rcx"]) == (GP, 2, 0)


def test_running_past_the_end_faults_at_the_next_instruction(guest: Guest) -> None:
    assert run(guest, "9090", 2)[:3] == (GP, 2, 0)


def test_instruction_across_the_end_faults_whatever_it_accesses(guest: Guest) -> None:
    assert run(guest, "e8", 1)[:3] == (GP, 0, 0)
    assert run(guest, "90 6a", 2)[:3] == (GP, 1, 0)


def test_masked_store_across_the_end_faults_before_its_first_page_does(guest: Guest) -> None:
    # maskmovq mm0, mm0 at the last byte, whose page is not there: #GP, as without a page fault
    guest.gate(GP, HANDLER)
    guest.gate(PF, HANDLER + 16)
    guest.code("f4", at=HANDLER)
    guest.code("90 f4", at=HANDLER + 16)
    guest.code("0ff7c0 f4")
    assert guest.run_to_halt(rdi=END - 1)["rip"] == HANDLER + 1
    assert guest.run_to_halt(rdi=END - 8)["rip"] == HANDLER + 18
