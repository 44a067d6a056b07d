"""Which fault comes first where segments matter: compatibility mode, as the processor orders its checks.

The manual leaves much of this order open (SDM Vol. 3A, 6.9); this is what Intel's processors do, found by random cases.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import pytest

from pyhyve.accel.api import ExitKind
from tests.unit.cpu.engine.conftest import CODE, GDT, STACK

if TYPE_CHECKING:
    from tests.unit.cpu.engine.conftest import Guest

DATA: Final = 0x40000
HANDLER: Final = 0x11000
BP, BR, SS, GP, PF, MF = 3, 5, 12, 13, 14, 16
UNMAPPED: Final = 0x42000
READ_ONLY: Final = 0xC091


def run(guest: Guest, code: str, **registers: int) -> tuple[int, int]:
    """Run 32-bit code that ends in INT3, DS of 4 KiB and SS of 64 KiB at 0; the vector, and offset from the code."""
    for vector in (BP, BR, SS, GP, PF, MF):
        guest.gate(vector, HANDLER + 16 * vector)
        guest.code(f"6a{vector:02x} f4", at=HANDLER + 16 * vector)
    guest.map(UNMAPPED, 0, 0)
    guest.code(code + "cc")
    state = {
        "cs.attributes": 0xC09B, "ds.base": DATA, "ds.limit": 0xFFF, "ss.limit": 0xFFFFFFFF, "rsp": STACK, "rip": CODE,
    }  # fmt: skip
    guest.vcpu.write_registers(state | {name.replace("_", "."): value for name, value in registers.items()})
    assert guest.resume().kind == ExitKind.HALT
    rsp = guest.vcpu.read_registers()["rsp"]
    values = struct.unpack("<3Q", guest.memory.read(rsp, 24))
    with_error = values[0] in {SS, GP, PF}
    return values[0], values[2 if with_error else 1] - CODE


def test_pending_x87_exception_precedes_the_operand(guest: Guest) -> None:
    # fninit; fldcw [0] (0x37E: invalid unmasked); fld st(0) of an empty stack; then fld dword [0x2000]
    guest.memory.write(DATA, b"\x7e\x03")
    assert run(guest, "dbe3 d92d00000000 d9c0 d90500200000") == (MF, 10)
    # paddb mm0, [0x2000] too; but not fnstcw
    assert run(guest, "dbe3 d92d00000000 d9c0 0ffc0500200000") == (MF, 10)
    assert run(guest, "dbe3 d92d00000000 d9c0 d93d00200000") == (GP, 10)
    # the same without an operand: fadd, fnop, fwait
    assert run(guest, "dbe3 d92d00000000 d9c0 d8c1") == (MF, 10)
    assert run(guest, "dbe3 d92d00000000 d9c0 d9d0") == (MF, 10)
    assert run(guest, "dbe3 d92d00000000 d9c0 9b") == (MF, 10)


def test_suppressed_result_needs_no_segment(guest: Guest) -> None:
    guest.memory.write(DATA, b"\x7e\x03")
    # fist dword [0x2000] of an empty stack, invalid unmasked: recorded, nothing is stored
    assert run(guest, "dbe3 d92d00000000 db1500200000") == (BP, 15)
    assert run(guest, "dbe3 db1500200000") == (GP, 2)


def test_ten_bytes_are_stored_in_two_parts(guest: Guest) -> None:
    guest.memory.write(DATA + 0xFF8, b"." * 8)
    assert run(guest, "dbe3 d9e8 db3df80f0000") == (GP, 4)  # fninit; fld1; fstp tbyte [0xff8]
    assert guest.memory.read(DATA + 0xFF8, 8) == struct.pack("<Q", 1 << 63)


def test_ten_bytes_are_loaded_in_two_parts(guest: Guest) -> None:
    # fld and fbld tbyte [0x1000 - 8] on a page that is not there: its first part is within the limit
    pages = {"ds_base": UNMAPPED, "ds_limit": 0xFFF}
    assert run(guest, "dbe3 db2df80f0000", **pages) == (PF, 2)
    assert run(guest, "dbe3 df25f80f0000", **pages) == (PF, 2)
    assert run(guest, "dbe3 db2df90f0000", **pages) == (GP, 2)


def test_mmx_store_resets_the_stack_top_first(guest: Guest) -> None:
    # fninit; fld1; movq [0x2000], mm0
    assert run(guest, "dbe3 d9e8 0f7f0500200000") == (GP, 4)
    assert guest.vcpu.engine.get("fp_top") == 0
    assert guest.vcpu.engine.get("fp_valid") == 0x80


def test_environment_is_checked_at_its_first_field_and_last_byte(guest: Guest) -> None:
    pages = {"ds_base": UNMAPPED - 0x1000, "ds_limit": 0x1007}
    # fnstenv [0x1000]: its first field is within the limit, on a page that is not there
    assert run(guest, "dbe3 d93500100000", **pages) == (PF, 2)
    # fnstenv [0xff8]: the last byte is beyond the limit
    assert run(guest, "dbe3 d935f80f0000", **pages) == (GP, 2)


def test_misaligned_vector_precedes_the_limit(guest: Guest) -> None:
    limit = {"ss_limit": 0xFFF}
    assert run(guest, "0f28ad04200000", rbp=0, **limit) == (GP, 0)  # movaps xmm5, [ebp + 0x2004]
    assert run(guest, "0f28ad00200000", rbp=0, **limit) == (SS, 0)
    assert run(guest, "0f10ad04200000", rbp=0, **limit) == (SS, 0)  # movups


def test_save_area_is_checked_for_its_start_then_its_alignment_then_its_end(guest: Guest) -> None:
    limit = {"ss_limit": 0xFFF}
    assert run(guest, "0fae8504200000", rbp=0, **limit) == (SS, 0)  # fxsave [ebp + 0x2004]
    assert run(guest, "0fae85f40f0000", rbp=0, **limit) == (GP, 0)
    assert run(guest, "0fae85f00f0000", rbp=0, **limit) == (SS, 0)


def test_pop_reads_the_stack_before_it_looks_at_its_operand(guest: Guest) -> None:
    assert run(guest, "8f0500200000", rsp=UNMAPPED) == (PF, 0)
    assert run(guest, "8f0500200000") == (GP, 0)
    assert guest.vcpu.engine.get("stop") == 0


@pytest.mark.parametrize("opcode", ["c505", "ff1d", "ff2d"])
def test_far_pointer_is_read_offset_first(guest: Guest, opcode: str) -> None:
    # lds eax, call far, jmp far [0x1004]: the limit ends behind the offset
    pages = {"ds_base": UNMAPPED - 0x1000, "ds_limit": 0x1007}
    assert run(guest, opcode + "04100000", **pages) == (PF, 0)
    assert run(guest, opcode + "fc0f0000") == (GP, 0)


def test_bound_reads_the_upper_bound_only_when_the_lower_one_holds(guest: Guest) -> None:
    guest.memory.write(DATA + 0xFFC, struct.pack("<i", 5))
    assert run(guest, "6205fc0f0000", rax=4) == (BR, 0)
    assert run(guest, "6205fc0f0000", rax=5) == (GP, 0)


def test_arpl_needs_to_write_only_what_changes(guest: Guest) -> None:
    guest.memory.write(DATA, b"\x03\x00")
    assert run(guest, "631500000000", rdx=2, ds_attributes=READ_ONLY) == (BP, 7)
    guest.memory.write(DATA, b"\x01\x00")
    assert run(guest, "631500000000", rdx=2, ds_attributes=READ_ONLY) == (GP, 0)


def test_call_beyond_the_segment_leaves_its_frame_behind(guest: Guest) -> None:
    # The exception's own frame begins at the next lower multiple of 16.
    guest.memory.write(STACK + 8, b"....")
    limit = {"cs_limit": CODE + 0xFFF}
    assert run(guest, "e800200000", rsp=STACK + 12, **limit) == (GP, 0)
    assert guest.memory.read(STACK + 8, 4) == struct.pack("<I", CODE + 5)
    assert run(guest, "e800200000", rsp=UNMAPPED + 4, **limit) == (PF, 0)


def test_loop_beyond_the_segment_does_not_count(guest: Guest) -> None:
    # loop +0x70, the segment ends before that
    assert run(guest, "e270", rcx=5, cs_limit=CODE + 0x40) == (GP, 0)
    assert guest.vcpu.read_registers()["rcx"] == 5
    assert run(guest, "e270", rcx=1, cs_limit=CODE + 0x40) == (BP, 3)


def test_masked_store_wraps_between_its_halves(guest: Guest) -> None:
    # maskmovdqu [di], 16-bit addresses: the upper half of what starts at 0xfff8 is at 0
    wide = {"ds_limit": 0xFFFFF, "ds_base": 0x30000}
    guest.memory.write(0x40000, b"\0" * 16)
    guest.memory.write(0x50000, b"\xff" * 16)
    guest.memory.write(0x30000, b"." * 16)
    load = "0f10050000 0200"  # movups xmm0, [0x20000]
    assert run(guest, load + "66670ff7c0", rdi=0xFFF8, **wide) == (BP, 13)
    assert guest.memory.read(0x30000, 8) == b"\xff" * 8
    assert guest.memory.read(0x40000, 8) == b"\0" * 8


@pytest.mark.parametrize("to_64", [True, False], ids=["into 64-bit mode", "out of it"])
def test_far_call_addresses_the_stack_as_its_target_does(guest: Guest, to_64: bool) -> None:
    guest.memory.write(GDT + 24, struct.pack("<Q", 0x00CF9B000000FFFF))  # 32-bit code, selector 24
    guest.code("f4", at=HANDLER)
    base = 0x100
    guest.memory.write(STACK - 8, bytes(8))
    if to_64:
        guest.code("9a" + struct.pack("<IH", HANDLER, 8).hex())
        state = {"cs.attributes": 0xC09B, "ss.base": base, "ss.limit": 0xFFFFFFFF}
        pushed = STACK - 8
    else:
        guest.memory.write(DATA, struct.pack("<IH", HANDLER, 24))
        guest.code("ff1c25" + struct.pack("<I", DATA).hex())
        state = {"cs.attributes": 0xA09B, "ss.base": base, "ss.limit": 0xFFFFFFFF, "rsp": STACK | 7 << 32}
        pushed = STACK - 8 + base
    after = guest.run_to_halt(**({"rip": CODE, "rsp": STACK, "gdtr.limit": 31} | state))
    assert (after["rip"], after["rsp"]) == (HANDLER + 1, STACK - 8)
    assert struct.unpack("<2I", guest.memory.read(pushed, 8)) == (CODE + 7, 8)


def test_code_translated_under_another_limit_is_not_run(guest: Guest) -> None:
    # nop; jmp to the HLT behind; nop
    guest.gate(GP, HANDLER)
    guest.code("f4", at=HANDLER)
    guest.code("90 eb01 90 f4")
    segments = {"cs.attributes": 0xC09B, "cs.selector": 8, "cs.base": 0, "ss.base": 0x100, "ss.limit": 0xFFFFFFFF}
    for limit, end in ((0xFFFFFFFF, CODE + 5), (CODE + 3, HANDLER + 1), (CODE + 4, CODE + 5), (CODE + 2, HANDLER + 1)):
        after = guest.run_to_halt(**(segments | {"rip": CODE, "rsp": STACK, "cs.limit": limit}))
        assert after["rip"] == end, hex(limit)
