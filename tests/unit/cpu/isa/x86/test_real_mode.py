"""Real-address mode as the manual has it (SDM Vol. 3B, chapter 21), run by the whole engine."""

from __future__ import annotations

import struct
import threading
from typing import TYPE_CHECKING

import pytest

from pyhyve.accel.api import ExitKind
from pyhyve.accel.emulator import EmulatorVm
from pyhyve.memory.guest import GuestMemory

if TYPE_CHECKING:
    from collections.abc import Iterator

CODE = 0x7C00
HANDLER = 0x30000
STACK = 0x20000
WATCHDOG_S = 60.0
IF = 1 << 9


class RealGuest:
    """Two megabytes of RAM; code at 0000:7C00, SS at 2000h, every vector leads to a handler at 3000:0000."""

    def __init__(self) -> None:
        self.memory = GuestMemory()
        self.memory.add(0, 2 << 20)
        self.vm = EmulatorVm(self.memory)
        self.vcpu = self.vm.create_vcpu(0)
        self.memory.write(0, struct.pack("<HH", 0, HANDLER >> 4) * 256)
        # The handler: pop bx (the saved IP); hlt
        self.memory.write(HANDLER, bytes.fromhex("5b f4"))

    def run(self, code: str, **registers: int) -> dict[str, int]:
        """Run code (hexadecimal) to HLT; returns all registers."""
        self.memory.write(CODE, bytes.fromhex(code))
        values = {"cr0": 0x10, "rflags": 2, "rip": CODE, "rsp": 0x1000, "idtr.base": 0, "idtr.limit": 0x3FF}
        for name in ("cs", "ds", "es", "ss", "fs", "gs"):
            base = STACK if name == "ss" else 0
            values |= {
                f"{name}.base": base, f"{name}.selector": base >> 4, f"{name}.limit": 0xFFFF,
                f"{name}.attributes": 0x9B if name == "cs" else 0x93,
            }  # fmt: skip
        self.vcpu.write_registers(values | registers)
        watchdog = threading.Timer(WATCHDOG_S, self.vcpu.kick)
        watchdog.start()
        try:
            reason = self.vcpu.run()
        finally:
            watchdog.cancel()
        assert reason.kind == ExitKind.HALT, reason.kind
        return dict(self.vcpu.read_registers())

    def word(self, address: int) -> int:
        """16 bits of memory."""
        return int.from_bytes(self.memory.read(address, 2), "little")


@pytest.fixture(scope="module")
def guest() -> Iterator[RealGuest]:
    made = RealGuest()
    yield made
    made.vm.close()
    made.memory.close()


def test_a_selector_is_a_base(guest: RealGuest) -> None:
    # mov ax, 1234h; mov ds, ax; mov bx, 10h; mov byte [bx], 5Ah; hlt
    registers = guest.run("b83412 8ed8 bb1000 c6075a f4")
    assert registers["ds.base"] == 0x12340
    assert guest.memory.read(0x12350, 1) == b"\x5a"


def test_far_call_and_return(guest: RealGuest) -> None:
    guest.memory.write(0x40000, bytes.fromhex("b80700 cb"))  # mov ax, 7; retf
    registers = guest.run("9a00000040 f4")
    assert (registers["rax"] & 0xFFFF, registers["rsp"], registers["rip"]) == (7, 0x1000, CODE + 6)
    assert (guest.word(STACK + 0xFFE), guest.word(STACK + 0xFFC)) == (0, CODE + 5)


def test_software_interrupt_and_return(guest: RealGuest) -> None:
    guest.memory.write(4 * 0x21, struct.pack("<HH", 0x10, HANDLER >> 4))
    guest.memory.write(HANDLER + 0x10, bytes.fromhex("9c 58 cf"))  # pushf; pop ax; iret
    registers = guest.run("cd21 f4", rflags=2 | IF)
    assert registers["rax"] & IF == 0
    assert registers["rflags"] & IF
    assert guest.word(STACK + 0xFFE) & IF


@pytest.mark.parametrize(
    ("code", "registers", "at"),
    [
        ("31c9 f7f1 f4", {}, 2),  # xor cx, cx; div cx: #DE
        ("b80b00 62060005 f4", {}, 3),  # mov ax, 11; bound ax, [500h]: #BR
        ("a1ffff f4", {}, 0),  # mov ax, [FFFFh]: #GP, beyond the limit
        ("678b03 f4", {"rbx": 0x10000}, 0),  # mov ax, [ebx]: #GP
        ("0f0b f4", {}, 0),  # ud2
        ("ce f4", {"rflags": 2 | 1 << 11}, 1),  # into: a trap, to the next instruction
        ("0f00d8 f4", {}, 0),  # ltr ax: #UD here
    ],
    ids=["divide", "bound", "limit", "wide address", "undefined", "overflow", "protected mode only"],
)
def test_exceptions_go_through_the_vector_table(
    guest: RealGuest, code: str, registers: dict[str, int], at: int
) -> None:
    guest.memory.write(0x500, struct.pack("<hh", 1, 10))
    after = guest.run(code, **registers)
    assert after["rip"] == 2
    assert after["cs.selector"] == HANDLER >> 4
    assert after["rbx"] & 0xFFFF == CODE + at


def test_the_stack_wraps_at_64_kib(guest: RealGuest) -> None:
    registers = guest.run("50 f4", rax=0xBEEF, rsp=0xABCD0000)  # push ax
    assert registers["rsp"] == 0xABCDFFFE
    assert guest.word(STACK + 0xFFFE) == 0xBEEF


def test_string_indexes_wrap_at_64_kib(guest: RealGuest) -> None:
    guest.memory.write(0xFFFE, b"ab")
    guest.memory.write(0x50000, b"cd")
    registers = guest.run("f3a4 f4", rsi=0x1FFFE, rdi=0x600, rcx=0x30004, **{"ds.base": 0x50000, "ds.selector": 0x5000})
    assert registers["rsi"] == 0x10002
    assert registers["rcx"] == 0x30000
    assert guest.memory.read(0x602, 2) == b"cd"


def test_loop_counts_cx_through_all_values(guest: RealGuest) -> None:
    registers = guest.run("6640 e2fc f4", rax=0, rcx=0x50000)  # inc eax; loop
    assert (registers["rax"], registers["rcx"]) == (0x10000, 0x50000)


def test_pusha_and_popa(guest: RealGuest) -> None:
    values = {"rax": 1, "rcx": 2, "rdx": 3, "rbx": 4, "rbp": 6, "rsi": 7, "rdi": 8}
    registers = guest.run("60 61 f4", **values)
    stored = struct.unpack("<8H", guest.memory.read(STACK + 0x1000 - 16, 16))
    assert stored == (8, 7, 6, 0x1000, 4, 3, 2, 1)
    assert {name: registers[name] for name in values} == values
    assert registers["rsp"] == 0x1000


def test_enter_copies_outer_frame_pointers(guest: RealGuest) -> None:
    guest.memory.write(STACK + 0x2000 - 2, struct.pack("<H", 0x1111))
    registers = guest.run("c8040002 f4", rbp=0x2000)  # enter 4, 2
    assert struct.unpack("<3H", guest.memory.read(STACK + 0x1000 - 6, 6)) == (0xFFE, 0x1111, 0x2000)
    assert (registers["rbp"], registers["rsp"]) == (0xFFE, 0x1000 - 6 - 4)


def test_limits_of_protected_mode_stay_after_it(guest: RealGuest) -> None:
    guest.memory.write(0x800, struct.pack("<2Q", 0, 0x00CF92000000FFFF))
    guest.memory.write(0x600, struct.pack("<HI", 15, 0x800))
    # lgdt [600h]; mov eax, cr0; or al, 1; mov cr0, eax; mov bx, 8; mov ds, bx; and al, FEh; mov cr0, eax;
    # mov ebx, 150000h; mov byte [ebx], 77h; hlt
    guest.run("0f01160006 0f20c0 0c01 0f22c0 bb0800 8edb 24fe 0f22c0 66bb00001500 67c60377 f4")
    assert guest.memory.read(0x150000, 1) == b"\x77"


@pytest.mark.parametrize(
    ("code", "ax", "expected"),
    [
        ("27", 0x0F, 0x15), ("27", 0x9A, 0x00), ("2f", 0x0F, 0x09), ("37", 0x0F, 0x105), ("3f", 0x20F, 0x109),
        ("d40a", 0x63, 0x909), ("d50a", 0x909, 0x63),
    ],
    ids=["daa", "daa with carry", "das", "aaa", "aas", "aam", "aad"],
)  # fmt: skip
def test_decimal_adjustment(guest: RealGuest, code: str, ax: int, expected: int) -> None:
    assert guest.run(f"{code} f4", rax=ax)["rax"] == expected
