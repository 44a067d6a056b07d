"""Kernels of old integer instructions: decimal adjustment, BOUND, ENTER, PUSHA and POPA."""

from __future__ import annotations

from typing import Any

from pyhyve.cpu.isa.x86 import faults, flags
from pyhyve.cpu.isa.x86.memory import mmu
from pyhyve.cpu.isa.x86.stack import stack_linear
from pyhyve.cpu.isa.x86.state import STATE, Gpr
from pyhyve.cpu.lang import U64, Pointer, Value, inline, kernel, u64

P = Pointer(STATE)


@inline
def _set_al_flags(st: Value, al: Value, carry: Value, adjust: Value) -> None:
    st.fl_result = al.trunc(8).sext(64)
    st.fl_aux = flags.explicit_aux(carry.trunc(1), (carry * 0).trunc(1), adjust.trunc(1))


@kernel(P, U64, name="x86.decimal_adjust", attributes="nounwind noinline")
def decimal_adjust(st: Any, subtract: Any) -> None:
    """DAA (0) and DAS (1)."""
    al = st.gpr[Gpr.RAX] & 0xFF
    old = al
    carry_in = (st.fl_aux >> flags.AUX_CF).zext(64)
    adjust_in = ((st.fl_aux >> flags.AUX_AF) & 1).zext(64)
    carry: U64 = 0
    adjust: U64 = 0
    if (old & 0xF) > 9 or adjust_in != 0:
        if subtract != 0:
            if old < 6:
                carry = u64(1)
            al = (al - 6) & 0xFF
        else:
            if old > 0xF9:
                carry = u64(1)
            al = (al + 6) & 0xFF
        carry = carry | carry_in
        adjust = u64(1)
    if old > 0x99 or carry_in != 0:
        if subtract != 0:
            al = (al - 0x60) & 0xFF
        else:
            al = (al + 0x60) & 0xFF
        carry = u64(1)
    elif subtract == 0:
        carry = u64(0)
    st.gpr[Gpr.RAX] = (st.gpr[Gpr.RAX] & ~u64(0xFF)) | al
    _set_al_flags(st, al, carry, adjust)


@kernel(P, U64, name="x86.ascii_adjust", attributes="nounwind noinline")
def ascii_adjust(st: Any, subtract: Any) -> None:
    """AAA (0) and AAS (1)."""
    ax = st.gpr[Gpr.RAX] & 0xFFFF
    set_: U64 = 0
    if (ax & 0xF) > 9 or ((st.fl_aux >> flags.AUX_AF) & 1) != 0:
        if subtract != 0:
            ax = (ax - 0x106) & 0xFFFF
        else:
            ax = (ax + 0x106) & 0xFFFF
        set_ = u64(1)
    ax = ax & 0xFF0F
    st.gpr[Gpr.RAX] = (st.gpr[Gpr.RAX] & ~u64(0xFFFF)) | ax
    _set_al_flags(st, ax, set_, set_)


@kernel(P, U64, name="x86.aam", attributes="nounwind noinline")
def aam(st: Any, base: Any) -> None:
    """AAM: #DE for base 0."""
    if base == 0:
        faults.de(st)
        return
    al = st.gpr[Gpr.RAX] & 0xFF
    low = al % base
    st.gpr[Gpr.RAX] = (st.gpr[Gpr.RAX] & ~u64(0xFFFF)) | ((al // base) << 8) | low
    _set_al_flags(st, low, u64(0), u64(0))


@kernel(P, U64, name="x86.aad", attributes="nounwind noinline")
def aad(st: Any, base: Any) -> None:
    """AAD."""
    ax = st.gpr[Gpr.RAX]
    al = ((ax & 0xFF) + ((ax >> 8) & 0xFF) * base) & 0xFF
    st.gpr[Gpr.RAX] = (ax & ~u64(0xFFFF)) | al
    _set_al_flags(st, al, u64(0), u64(0))


@kernel(P, U64, U64, name="x86.check_lower_bound", attributes="nounwind noinline")
def check_lower_bound(st: Any, index: Any, low: Any) -> None:
    """#BR unless low <= index, signed."""
    if index.slt(low):
        faults.raise_exception(st, 5, 0, 0)


@kernel(P, U64, U64, name="x86.check_upper_bound", attributes="nounwind noinline")
def check_upper_bound(st: Any, index: Any, high: Any) -> None:
    """#BR unless index <= high, signed."""
    if index.sgt(high):
        faults.raise_exception(st, 5, 0, 0)


@inline
def _stack_pointer(st: Value) -> Value:
    pointer = st.gpr[Gpr.RSP]
    if ((st.mode >> 2) & 3) != 2:
        if (st.mode & 16) != 0:
            pointer = pointer & 0xFFFFFFFF
        else:
            pointer = pointer & 0xFFFF
    return pointer.get()


@kernel(P, U64, name="x86.set_stack_pointer")
def set_stack_pointer(st: Any, value: Any) -> None:
    """Write rSP by the stack's width."""
    if ((st.mode >> 2) & 3) == 2:
        st.gpr[Gpr.RSP] = value
    elif (st.mode & 16) != 0:
        st.gpr[Gpr.RSP] = value & 0xFFFFFFFF
    else:
        st.gpr[Gpr.RSP] = (st.gpr[Gpr.RSP] & ~u64(0xFFFF)) | (value & 0xFFFF)


@kernel(P, U64, U64, U64, name="x86.push_value", attributes="nounwind noinline")
def push_value(st: Any, offset: Any, size: Any, value: Any) -> None:
    """Store `value` at a stack offset."""
    linear = stack_linear(st, offset, size, u64(1))
    if st.stop == 0:
        mmu.store_at(st, linear, size, value, (st.mode >> 8) & 3)


@kernel(P, U64, U64, name="x86.push_without_moving", attributes="nounwind noinline cold")
def push_without_moving(st: Any, size: Any, value: Any) -> None:
    """Store below rSP, which stays."""
    push_value(st, _stack_pointer(st) - size, size, value)


@kernel(P, U64, U64, U64, name="x86.enter", attributes="nounwind noinline")
def enter(st: Any, size: Any, bytes_: Any, nesting: Any) -> None:
    """ENTER with an operand size of `size` bytes."""
    level = nesting & 31
    pointer = _stack_pointer(st) - size
    push_value(st, pointer, size, st.gpr[Gpr.RBP])
    if st.stop != 0:
        return
    frame = pointer
    if size == 4 and (st.mode & 16) == 0:
        # The frame pointer is all of ESP, of which a 16-bit stack moves the lower half.
        frame = (st.gpr[Gpr.RSP] & 0xFFFF0000) | (pointer & 0xFFFF)
    if level != 0:
        base = st.gpr[Gpr.RBP]
        i: U64 = 1
        while i < level:
            base = base - size
            linear = stack_linear(st, base, size, u64(0))
            if st.stop != 0:
                return
            value = mmu.load_at(st, linear, size, (st.mode >> 8) & 3)
            if st.stop != 0:
                return
            pointer = pointer - size
            push_value(st, pointer, size, value)
            if st.stop != 0:
                return
            i += 1
        pointer = pointer - size
        push_value(st, pointer, size, frame)
        if st.stop != 0:
            return
    pointer = pointer - bytes_
    linear = stack_linear(st, pointer, size, u64(1))
    if st.stop != 0:
        return
    mmu.probe_write(st, linear, size, (st.mode >> 8) & 3)
    if st.stop != 0:
        return
    if size == 8:
        st.gpr[Gpr.RBP] = frame
    elif size == 4:
        st.gpr[Gpr.RBP] = frame & 0xFFFFFFFF
    else:
        st.gpr[Gpr.RBP] = (st.gpr[Gpr.RBP] & ~u64(0xFFFF)) | (frame & 0xFFFF)
    set_stack_pointer(st, pointer)


@kernel(P, U64, name="x86.push_all", attributes="nounwind noinline")
def push_all(st: Any, size: Any) -> None:
    """PUSHA and PUSHAD."""
    pointer = _stack_pointer(st)
    i: U64 = 0
    while i < 8:
        pointer = pointer - size
        push_value(st, pointer, size, st.gpr[i])
        if st.stop != 0:
            return
        i += 1
    set_stack_pointer(st, pointer)


@kernel(P, U64, name="x86.pop_all", attributes="nounwind noinline")
def pop_all(st: Any, size: Any) -> None:
    """POPA and POPAD. After a fault, as on processors, what was read by then has changed; rSP has not."""
    pointer = _stack_pointer(st)
    i: U64 = 0
    while i < 8:
        linear = stack_linear(st, pointer, size, u64(0))
        if st.stop != 0:
            return
        value = mmu.load_at(st, linear, size, (st.mode >> 8) & 3)
        if st.stop != 0:
            return
        pointer = pointer + size
        number = 7 - i
        if number != Gpr.RSP:
            if size == 4:
                st.gpr[number] = value
            else:
                st.gpr[number] = (st.gpr[number] & ~u64(0xFFFF)) | value
        i += 1
    set_stack_pointer(st, pointer)
