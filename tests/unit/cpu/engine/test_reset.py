"""State after RESET (SDM Vol. 3A, table 10-1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.cpu.isa.x86.state import RESET_CLEARS, STATE
from pyhyve.cpu.lang import Array, Int

if TYPE_CHECKING:
    from tests.unit.cpu.engine.conftest import Guest


def test_reset_leaves_nothing_of_what_was(guest: Guest) -> None:
    engine = guest.vcpu.engine
    guest.vcpu.reset()
    fresh = _content(guest)
    for name in RESET_CLEARS:
        kind = STATE.fields[name][1]
        for index in range(kind.count if isinstance(kind, Array) else 1):
            engine.set(name, -1, index)
    guest.vcpu.reset()
    assert _content(guest) == fresh


def test_reset_vector(guest: Guest) -> None:
    guest.vcpu.reset()
    registers = guest.vcpu.read_registers()
    assert (registers["cs.selector"], registers["cs.base"], registers["rip"]) == (0xF000, 0xFFFF0000, 0xFFF0)
    assert (registers["cr0"], registers["rflags"], registers["rax"]) == (0x60000010, 2, 0)
    engine = guest.vcpu.engine
    assert (engine.get("mxcsr"), engine.get("fp_control"), engine.get("xcr0")) == (0x1F80, 0x40, 1)


def _content(guest: Guest) -> dict[str, bytes]:
    content = {}
    for name in RESET_CLEARS:
        offset, kind = STATE.fields[name]
        assert isinstance(kind, Int | Array)
        content[name] = bytes(guest.vcpu.engine.view[offset : offset + kind.size_bytes])
    return content
