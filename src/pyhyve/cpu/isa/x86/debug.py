"""Debug registers (SDM Vol. 3B, 17.2)."""

from __future__ import annotations

from typing import Any

from pyhyve.cpu.isa.x86.control import refuse_user
from pyhyve.cpu.isa.x86.descriptors import in_64_bit_code
from pyhyve.cpu.isa.x86.faults import COLD, db_fault, gp, ud
from pyhyve.cpu.isa.x86.spec import DR7_FIXED, DR7_GD, LOW32, Cr4, Dr6
from pyhyve.cpu.isa.x86.state import STATE
from pyhyve.cpu.lang import U64, Pointer, kernel

_DR6_WRITABLE = 0xE00F
_DR7_WRITABLE = 0xFFFF_23FF


@kernel(Pointer(STATE), U64, result=U64, name="x86.debug_register", attributes=COLD)
def debug_register(st: Any, number: Any) -> Any:
    """The register that `number` names now (DR4 and DR5 alias without CR4.DE), after all checks."""
    if number > 7 or ((number == 4 or number == 5) and (st.cr4 & Cr4.DE) != 0):
        ud(st)
        return 0
    if refuse_user(st) != 0:
        return 0
    if (st.dr[7] & DR7_GD) != 0:
        db_fault(st, Dr6.BD)
        return 0
    if number == 4 or number == 5:
        return number + 2
    return number


@kernel(Pointer(STATE), U64, result=U64, name="x86.read_dr", attributes=COLD)
def read_dr(st: Any, number: Any) -> Any:
    """MOV from DR `number`."""
    index = debug_register(st, number)
    if st.stop != 0:
        return 0
    value = st.dr[index]
    if index == 6:
        return value | Dr6.FIXED
    if index == 7:
        return value | DR7_FIXED
    return value


@kernel(Pointer(STATE), U64, U64, name="x86.write_dr", attributes=COLD)
def write_dr(st: Any, number: Any, value_: Any) -> None:
    """MOV to DR `number`; the upper half of DR6 and DR7 must be zero. 32 bits outside 64-bit mode."""
    value = value_.get()
    if not in_64_bit_code(st):
        value = value & LOW32
    index = debug_register(st, number)
    if st.stop != 0:
        return
    if index >= 6 and value > LOW32:
        gp(st, 0)
        return
    if index == 6:
        st.dr[6] = (value & _DR6_WRITABLE) | Dr6.FIXED
    elif index == 7:
        st.dr[7] = (value & _DR7_WRITABLE) | DR7_FIXED
    else:
        st.dr[index] = value
