"""Repeated string instructions under single steps, breakpoints and interrupts (SDM Vol. 3B, 17.3.1)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import pytest

from tests.unit.cpu.engine.conftest import CODE

if TYPE_CHECKING:
    from tests.unit.cpu.engine.conftest import Guest

HANDLER: Final = 0x18000
LOG: Final = 0x50000
SOURCE, TARGET = 0x40000, 0x41000
RF, TF, IF = 1 << 16, 1 << 8, 1 << 9
_ARITHMETIC: Final = 0x8D5


def trace(guest: Guest, code: str, vector: int = 1, **registers: int) -> list[tuple[int, int, int]]:
    """Run code whose traps are logged: for each RIP (from the code's start), RFLAGS and RCX."""
    guest.gate(vector, HANDLER)
    # pop [r15]; add r15, 8; ... : log RIP, RFLAGS, RCX through r15, leaving the frame alone
    log = "50 488b442408 498907 488b442418 49894708 49894f10 4983c718 58 48cf"
    guest.code(log, at=HANDLER)
    guest.memory.write(LOG, bytes(4096))
    guest.code(code + "f4")
    state = {"rsi": SOURCE, "rdi": TARGET, "r15": LOG, "rflags": 2 | TF}
    end = guest.run_to_halt(**(state | registers))["r15"]
    words = struct.unpack(f"<{(end - LOG) // 8}Q", guest.memory.read(LOG, end - LOG))
    return [(words[i] - CODE, words[i + 1], words[i + 2]) for i in range(0, len(words), 3)]


@pytest.mark.parametrize("code", ["f3ac", "f3aa", "f3a4", "f348a5"], ids=["lods", "stos", "movs", "movsq"])
def test_single_step_traps_after_each_element(guest: Guest, code: str) -> None:
    length = len(code) // 2
    events = trace(guest, code, rcx=3)
    assert events[:3] == [(0, 2 | TF | RF, 2), (0, 2 | TF | RF, 1), (length, 2 | TF, 0)]


def test_no_element_is_one_step(guest: Guest) -> None:
    assert trace(guest, "f3ac 90", rcx=0)[:2] == [(2, 2 | TF, 0), (3, 2 | TF, 0)]


def test_comparisons_set_flags_only_with_the_last_element(guest: Guest) -> None:
    guest.memory.write(SOURCE, b"aab")
    guest.memory.write(TARGET, b"aaa")
    events = trace(guest, "f3a6", rcx=9, rflags=2 | TF | 0x8C1)
    seen = [(rip, flags & _ARITHMETIC, rcx) for rip, flags, rcx in events[:3]]
    assert seen == [(0, 0x8C1, 8), (0, 0x8C1, 7), (2, 0, 6)]


def test_data_breakpoint_traps_between_elements(guest: Guest) -> None:
    # two bytes at TARGET + 2, written
    breakpoint_ = {"dr0": TARGET + 2, "dr7": 0x401 | 0x5 << 16}
    events = trace(guest, "f3aa 90", rcx=5, rflags=2, **breakpoint_)
    assert events == [(0, 2 | RF, 2), (0, 2 | RF, 1)]
    events = trace(guest, "f3aa 90", rcx=4, rflags=2, rip=CODE, **breakpoint_)
    assert events == [(0, 2 | RF, 1), (2, 2, 0)]


def test_instruction_breakpoint_is_met_once(guest: Guest) -> None:
    # at the instruction itself, while data breakpoints stop it between elements
    both = {"dr0": TARGET, "dr1": CODE, "dr7": 0x405 | 0xD << 16}
    # The handler of the first, a fault, returns with RF clear: set it there.
    guest.gate(1, HANDLER)
    guest.code("41ff0424 814c2410" + struct.pack("<I", RF).hex() + "48cf", at=HANDLER)
    guest.code("f3aa 90 f4")
    guest.memory.write(LOG, bytes(8))
    guest.run_to_halt(rsi=SOURCE, rdi=TARGET, rcx=4, r12=LOG, rflags=2, **both)
    assert guest.memory.read(LOG, 1)[0] == 1 + 4


def test_interrupt_between_elements_saves_rf(guest: Guest) -> None:
    # rep outsb: each element is a device's; the interrupt is asked for while the first one waits
    guest.gate(0x51, HANDLER)
    guest.code("f4", at=HANDLER)
    guest.code("f36e f4")
    guest.run(rsi=SOURCE, rcx=3, rdx=0x80, rflags=2 | IF)
    guest.vcpu.inject(0x51)
    guest.resume()
    after = guest.vcpu.read_registers()
    rip, _, flags = struct.unpack("<3Q", guest.memory.read(after["rsp"], 24))
    assert (after["rip"], after["rcx"], rip, flags) == (HANDLER + 1, 2, CODE, 2 | IF | RF)
