"""Two instructions in one stencil: nothing of it may be seen."""

from __future__ import annotations

import itertools
import struct
from typing import TYPE_CHECKING, Final

import pytest

from pyhyve.cpu.isa.x86 import fused
from tests.unit.cpu.engine.conftest import CODE, STACK

if TYPE_CHECKING:
    from tests.unit.cpu.engine.conftest import Guest

HANDLER: Final = 0x18000
LOG: Final = 0x50000
VALUES: Final = (
    0,
    1,
    5,
    0x7F,
    0x80,
    0xFF,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
    1 << 63,
    (1 << 63) - 1,
    (1 << 64) - 1,
)
ARITHMETIC: Final = 0x8D5
_CF, _PF, _ZF, _SF, _OF = 1, 4, 0x40, 0x80, 0x800


def holds(code: int, flags: int) -> bool:
    """Condition `code` of EFLAGS (SDM Vol. 2, table B-10)."""
    less = bool(flags & _SF) != bool(flags & _OF)
    pairs = (
        flags & _OF, flags & _CF, flags & _ZF, flags & (_CF | _ZF), flags & _SF, flags & _PF, less,
        less or flags & _ZF,
    )  # fmt: skip
    return bool(pairs[code >> 1]) != bool(code & 1)


COMPARISONS: Final = {
    "cmp rax, rcx": "4839c8", "cmp eax, ecx": "39c8", "cmp al, cl": "38c8", "cmp [rsi], rcx": "48390e",
    "cmp rcx, [rsi]": "483b0e", "cmp [rsi], cl": "380e", "cmp rax, 5": "4883f805", "cmp eax, imm": "3d000000ff",
    "cmp byte [rsi], 7f": "803e7f", "test rax, rcx": "4885c8", "test eax, ecx": "85c8", "test al, 80": "a880",
    "test [rsi], ecx": "850e", "test byte [rsi], 1": "f60601", "sub rax, rcx": "4829c8", "sub eax, ecx": "29c8",
    "sub eax, 1": "83e801", "add eax, ecx": "01c8", "add rax, 7f": "4883c07f", "and eax, ecx": "21c8",
    "and eax, 7": "83e007", "dec eax": "ffc8", "inc ecx": "ffc1", "dec rcx": "48ffc9",
}  # fmt: skip


@pytest.mark.parametrize("comparison", COMPARISONS.values(), ids=COMPARISONS)
def test_comparison_and_jump_agree_with_the_flags(guest: Guest, comparison: str) -> None:
    setup = "4c89f0 4c89f9 4c8936" + comparison  # mov rax, r14; mov rcx, r15; mov [rsi], r14
    # The flags alone, in r9; then with each jump: in r11 what was ever different, in r10 a bit for each that was taken.
    code = setup + "90 9c 4159"
    for condition in range(16):
        code += setup + f"{0x70 | condition:02x}05 9c4158 eb08 9c4158 490fbaea{condition:02x} 4d31c8 4d09c3"
    guest.code(code + "f4")
    for left, right in itertools.product(VALUES, VALUES):
        state = {"rip": CODE, "rsp": STACK, "rsi": LOG, "r14": left, "r15": right, "r10": 0, "r11": 0, "rflags": 2}
        after = guest.run_to_halt(**state)
        expected = sum(1 << condition for condition in range(16) if holds(condition, after["r9"]))
        assert (after["r10"], after["r11"]) == (expected, 0), (hex(left), hex(right))


MOVES: Final = {"mov eax, ecx": "89c8", "mov rax, rcx": "4889c8", "mov rax, rcx (8B)": "488bc1", "mov eax, eax": "89c0"}
OPERATIONS: Final = (
    "c1e005", "48c1e805", "c1f81f", "48c1e000", "d1e0", "48d1f8", "c1c807", "48c1c00d", "01c8", "4801d0", "29d0",
    "4829c8", "01c0", "4829c0", "83e00f", "4825ffffff00", "0d00000080", "4831d0", "31c8", "f7d8", "48f7d0", "83c001",
    "d3e0", "01c1", "00c8", "6601c8",
)  # fmt: skip


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_operation_on_a_copy_is_as_after_the_move(guest: Guest, move: str) -> None:
    for operation in OPERATIONS:
        for left, right in itertools.product(VALUES, VALUES[::3]):
            results = []
            for between in ("", "90"):
                # once with all flags seen, once with none
                guest.code(move + between + operation + "9c 415f" + move + between + operation + "31f6 f4")
                state = {"rip": CODE, "rsp": STACK, "rax": right, "rcx": left, "rdx": right ^ left, "rflags": 0x8D7}
                after = guest.run_to_halt(**state)
                results.append([after[name] for name in ("rax", "rcx", "rdx", "r15", "rflags")])
            assert results[0] == results[1], (operation, hex(left), hex(right))


def test_single_steps_see_both_instructions(guest: Guest) -> None:
    guest.gate(1, HANDLER)
    guest.code("488b0424 498907 4983c708 48cf", at=HANDLER)  # mov rax, [rsp]; mov [r15], rax; add r15, 8; iretq
    guest.code("39c9 7400 89ca c1e203 90 f4")
    after = guest.run_to_halt(r15=LOG, rflags=0x102)
    count = (after["r15"] - LOG) // 8
    trapped = [address - CODE for address in struct.unpack(f"<{count}Q", guest.memory.read(LOG, 8 * count))]
    assert trapped == [2, 4, 6, 9, 10]


def test_fault_of_the_comparison_is_its_own(guest: Guest) -> None:
    guest.gate(14, HANDLER)
    guest.code("f4", at=HANDLER)
    guest.map(LOG, 0, 0)
    guest.code("90 390e 7400 f4")
    after = guest.run_to_halt(rsi=LOG, rflags=0x8D7)
    _, rip, _, flags = struct.unpack("<4Q", guest.memory.read(after["rsp"], 32))
    assert (rip, flags & ARITHMETIC) == (CODE + 1, 0x8D5)


def test_jump_behind_a_comparison_is_a_place_of_its_own(guest: Guest) -> None:
    # to the cmp, then straight to its jump, whose flags are others'
    guest.code("39c9 7502 eb02 ffc3 ffc2 83fa02 7404 39ca ebef f4")
    after = guest.run_to_halt(rcx=9, rdx=0, rbx=0)
    assert (after["rdx"], after["rbx"]) == (2, 1)


def test_every_pair_has_a_stencil() -> None:
    names = {key.name for key in fused.fused_stencils()}
    assert {"cmp", "test", "sub", "dec", "shl", "and", "xor"} <= names
