"""Debug registers (SDM Vol. 3B, 17.2)."""

from __future__ import annotations

from typing import Any

from pyhyve.cpu.engine.state import WATCH_READ, WATCH_WRITE, WATCHPOINTS
from pyhyve.cpu.isa.x86.control import refuse_user
from pyhyve.cpu.isa.x86.descriptors import in_64_bit_code
from pyhyve.cpu.isa.x86.faults import COLD, db_fault, gp, ud
from pyhyve.cpu.isa.x86.memory import mmu
from pyhyve.cpu.isa.x86.spec import DR7_FIXED, DR7_GD, LOW32, Cr4, Dr6, Eflags
from pyhyve.cpu.isa.x86.state import STATE
from pyhyve.cpu.lang import U64, Pointer, kernel, u64

_ON_EXECUTE, _ON_WRITE, _ON_PORT, _ON_ACCESS = 0, 1, 2, 3
"""R/W fields of DR7."""
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
    arm_breakpoints(st)


@kernel(Pointer(STATE), name="x86.arm_breakpoints", attributes=COLD, exported=True)
def arm_breakpoints(st: Any) -> None:
    """Make the engine watch what DR0-DR3 and DR7 ask for (17.2.4): called after any change of them."""
    was_on = st.watch_on
    st.watch_on = 0
    for i in range(WATCHPOINTS):
        control = st.dr[7] >> (16 + 4 * i)
        condition = control & 3
        length = ((control >> 2) & 3) + 1
        if length == 3:
            length = u64(8)
        st.watch_kind[i] = 0
        if ((st.dr[7] >> (2 * i)) & 3) != 0:
            st.watch_on = 1
            if condition == _ON_WRITE:
                st.watch_kind[i] = WATCH_WRITE
            elif condition == _ON_ACCESS:
                st.watch_kind[i] = WATCH_WRITE | WATCH_READ
        st.watch_length[i] = length
        st.watch_address[i] = st.dr[i] & ~(length - 1)
    if (was_on | st.watch_on) != 0:
        mmu.tlb.flush_all(st)


@kernel(Pointer(STATE), U64, result=U64, name="x86.matching_code", attributes=COLD)
def matching_code(st: Any, linear: Any) -> Any:
    """DR6 bits of the instruction breakpoints at `linear`; none while RF is set."""
    hits: U64 = 0
    if (st.eflags & Eflags.RF) == 0:
        for i in range(WATCHPOINTS):
            enabled = ((st.dr[7] >> (2 * i)) & 3) != 0
            if enabled and ((st.dr[7] >> (16 + 4 * i)) & 3) == _ON_EXECUTE and st.dr[i] == linear:
                hits = hits | (1 << i)
    return hits


@kernel(Pointer(STATE), U64, U64, name="x86.watch_port", attributes=COLD)
def watch_port(st: Any, port: Any, size: Any) -> None:
    """Record the I/O breakpoints (CR4.DE) that a port access meets."""
    if (st.cr4 & Cr4.DE) == 0:
        return
    for i in range(WATCHPOINTS):
        enabled = ((st.dr[7] >> (2 * i)) & 3) != 0
        start = st.watch_address[i]
        if enabled and ((st.dr[7] >> (16 + 4 * i)) & 3) == _ON_PORT:
            if port < start + st.watch_length[i] and start < port + size:
                st.watch_hits = st.watch_hits | (1 << i)
