"""What XSAVE and XRSTOR touch, and in which order: as Intel's processors do, where the manual leaves it open."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import pytest

from pyhyve.accel.api import ExitKind
from pyhyve.cpu.isa.x86.state import STATE
from tests.unit.cpu.engine.conftest import CODE, STACK

if TYPE_CHECKING:
    from tests.unit.cpu.engine.conftest import Guest

PAGE: Final = 0x42000
"""The page before it is not there."""
AREA: Final = PAGE + 64 - 512
"""An area whose header alone is on the page."""
HANDLER: Final = 0x11000
GP, PF = 13, 14
XSAVE, XRSTOR = "0fae27", "0fae2f"
"""Of [rdi], or [edi]."""
OSXSAVE: Final = 0x620 | 1 << 18


def run(guest: Guest, code: str, *, header: tuple[int, int], area: int = AREA, **registers: int) -> tuple[int, int]:
    """Run one instruction on an area; the vector and the faulting address's distance from it, or (0, 0)."""
    for vector in (GP, PF):
        guest.gate(vector, HANDLER + 16 * vector)
        guest.code(f"6a{vector:02x} f4", at=HANDLER + 16 * vector)
    guest.map(PAGE - 0x1000, 0, 0)
    guest.memory.write(PAGE + 64, struct.pack("<2Q", *header).ljust(64, b"\0"))
    guest.vcpu.engine.set("xcr0", 3)
    guest.code(code + "f4")
    state = {"cr4": OSXSAVE, "rip": CODE, "rsp": STACK, "rdi": area, "rdx": 0, "cr2": 0}
    guest.vcpu.write_registers(state | {name.replace("_", "."): value for name, value in registers.items()})
    assert guest.resume().kind == ExitKind.HALT
    after = guest.vcpu.read_registers()
    if after["rip"] < HANDLER:
        return 0, 0
    vector = struct.unpack("<Q", guest.memory.read(after["rsp"], 8))[0]
    return vector, after["cr2"] - area if vector == PF else 0


@pytest.mark.parametrize("code", [XSAVE, XRSTOR])
def test_only_what_is_asked_for_is_touched(guest: Guest, code: str) -> None:
    assert run(guest, code, header=(0, 0), rax=0) == (0, 0)
    assert run(guest, code, header=(0, 0), rax=1) == (PF, 0)
    assert run(guest, code, header=(0, 0), rax=2) == (PF, 24)
    assert run(guest, code, header=(0, 0), rax=3) == (PF, 0)


def test_saving_nothing_keeps_the_header(guest: Guest) -> None:
    assert run(guest, XSAVE, header=(2, 0), rax=0) == (0, 0)
    assert guest.memory.read(PAGE + 64, 8) == b"\2" + bytes(7)


def test_legacy_region_is_tried_before_the_header_is_judged(guest: Guest) -> None:
    assert run(guest, XRSTOR, header=(1 << 40, 0), rax=0) == (GP, 0)
    assert run(guest, XRSTOR, header=(1 << 40, 0), rax=1) == (PF, 0)
    assert run(guest, XRSTOR, header=(3, 1), rax=2) == (PF, 24)
    assert run(guest, XRSTOR, header=(3, 1), rax=0) == (GP, 0)


def test_saving_across_pages_writes_nothing_between_the_parts(guest: Guest) -> None:
    filler = bytes(range(256)) * 3
    guest.memory.write(PAGE + 0x1000 - 256, filler)
    area = PAGE + 0x1000 - 256
    for features, saved in ((1, (*range(24), *range(32, 160))), (2, (*range(24, 32), *range(160, 416)))):
        guest.memory.write(area, filler)
        assert run(guest, XSAVE, header=(0, 0), area=area, rax=features) == (0, 0)
        after = guest.memory.read(area, 576)
        kept = set(range(512)) - set(saved)
        assert all(after[i] == filler[i] for i in kept)
        assert after[512] == filler[512] | features


def test_sixteen_bit_addresses_wrap_at_each_part(guest: Guest) -> None:
    # addr16 xrstor [di]: the area begins 448 bytes before the end of the 64 KiB, its header is at 64
    sixteen = {"cs_attributes": 0x809B, "ds_base": PAGE, "ds_limit": 0xFFFF}
    guest.map(PAGE + 0xF000, 0, 0)
    state = {"area": 0x10000 + 64 - 512, **sixteen}
    assert run(guest, "0fae2d", header=(3, 0), rax=0, **state) == (0, 0)
    assert run(guest, "0fae2d", header=(3, 0), rax=2, **state) == (PF, PAGE + 24)


def test_registers_that_the_code_cannot_name_are_kept(guest: Guest) -> None:
    guest.map(PAGE - 0x1000, PAGE - 0x1000)
    xmm = STATE.offset("xmm")
    guest.vcpu.engine.view[xmm : xmm + 256] = b"\x5a" * 256
    guest.memory.write(AREA + 0x1000 + 24, struct.pack("<I", 0x1F80))
    guest.memory.write(AREA + 0x1000 + 512, bytes(64))
    # compatibility mode: SSE in its initial state
    state = {"cs_attributes": 0xC09B, "area": AREA + 0x1000, "rax": 2}
    assert run(guest, XRSTOR, header=(0, 0), **state) == (0, 0)
    assert bytes(guest.vcpu.engine.view[xmm : xmm + 256]) == bytes(128) + b"\x5a" * 128
