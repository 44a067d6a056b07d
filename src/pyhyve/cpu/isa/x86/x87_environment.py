"""The x87 environment in memory: FNSTENV, FLDENV, FNSAVE and FRSTOR.

Four layouts (SDM Vol. 1, figures 8-9 to 8-12): 16- or 32-bit, protected or real-address mode. Seven fields of 2 or 4
bytes: control, status, tags, instruction pointer, its selector with the opcode, data pointer, its selector. In
real-address and virtual-8086 mode the pointers are linear and split over two fields.
"""

from __future__ import annotations

from typing import Any

from pyhyve.cpu.engine.tlb import Access
from pyhyve.cpu.isa.x86 import fpstate
from pyhyve.cpu.isa.x86.addressing import operand_linear
from pyhyve.cpu.isa.x86.memory import current_index, load, mmu, store
from pyhyve.cpu.isa.x86.spec import Cr0, Eflags
from pyhyve.cpu.isa.x86.state import STATE
from pyhyve.cpu.isa.x86.x87 import STACK_REGISTERS, tags_of, valid_of
from pyhyve.cpu.lang import U8, U16, U32, U64, Pointer, current, inline, kernel, u32, u64

POINTER = Pointer(STATE)
FIELDS = 7
REGISTER_BYTES = 80
AREA_BYTES = 112
"""Room for 108 bytes in steps of 8."""
MASKS = 0x3F
EXPONENT = 0x7FFF


@kernel(POINTER, result=U64, name="x87.full_tags")
def full_tags(st: Any) -> Any:
    """The full tag word: 0 valid, 1 zero, 2 special (infinity, NaN, denormal, unsupported), 3 empty."""
    tags = tags_of(st.fp_valid).zext(64)
    i = u64(0)
    while i < STACK_REGISTERS:
        if ((st.fp_valid.zext(64) >> i) & 1) != 0:
            register = st.fpr.offset(i << 4)
            fraction = register[0]
            exponent = register[1] & EXPONENT
            if exponent == 0 and fraction == 0:
                tags = tags | (u64(1) << (i * 2))
            elif (exponent + 1) & EXPONENT <= 1 or fraction.bit(63) == 0:
                tags = tags | (u64(2) << (i * 2))
        i += 1
    return tags


@inline
def _real(st: Any) -> Any:
    """Whether the real-address layout applies, as a BOOL."""
    return ((st.cr0 & Cr0.PE) == 0) | ((st.eflags & Eflags.VM) != 0)


@kernel(POINTER, U64, U64, name="x87.put_environment")
def put_environment(st: Any, area: Any, size: Any) -> None:
    """Write seven fields of `size` (2 or 4) bytes at host address `area`."""
    ip, dp = st.fp_ip, st.fp_dp
    code = (st.fp_cs & 0xFFFF) | ((st.fp_opcode & 0x7FF) << 16)
    data = st.fp_ds | 0xFFFF0000
    if _real(st):
        if size == 4:
            code = (((ip >> 16) & 0xFFFF) << 12).trunc(32) | (st.fp_opcode & 0x7FF)
            data = (((dp >> 16) & 0xFFFF) << 12).trunc(32)
            ip = (ip & 0xFFFF) | 0xFFFF0000
            dp = (dp & 0xFFFF) | 0xFFFF0000
        else:
            code = (((ip >> 16) & 15) << 12).trunc(32) | (st.fp_opcode & 0x7FF)
            data = (((dp >> 16) & 15) << 12).trunc(32)
    high = u32(0xFFFF0000)
    words = (
        st.fp_control.zext(32) | high, fpstate.status(st).trunc(32) | high, full_tags(st).trunc(32) | high,
        ip.trunc(32), code, dp.trunc(32), data,
    )  # fmt: skip
    for i, word in enumerate(words):
        if size == 4:
            area.cast(U32)[i] = word
        else:
            area.cast(U16)[i] = word.trunc(16)


@kernel(POINTER, U64, U64, name="x87.get_environment")
def get_environment(st: Any, area: Any, size: Any) -> None:
    """Load seven fields."""
    fields = current().buffer(4 * FIELDS, U32)
    for i in range(FIELDS):
        if size == 4:
            fields[i] = area.cast(U32)[i]
        else:
            fields[i] = area.cast(U16)[i].zext(32)
    st.fp_control = (fields[0].trunc(16) & fpstate.FCW_VALID) | fpstate.FCW_FIXED
    fpstate.set_status(st, (fields[1] & 0xFFFF).zext(64))
    st.fp_valid = valid_of(fields[2] & 0xFFFF)
    ip, code, dp, data = fields[3], fields[4], fields[5], fields[6]
    if _real(st):
        st.fp_ip = ((ip & 0xFFFF) | (((code >> 12) & 0xFFFF) << 16)).zext(64)
        st.fp_dp = ((dp & 0xFFFF) | (((data >> 12) & 0xFFFF) << 16)).zext(64)
        st.fp_opcode = code & 0x7FF
    else:
        st.fp_ip = ip.zext(64)
        st.fp_dp = dp.zext(64)
        st.fp_cs = code & 0xFFFF
        st.fp_ds = data & 0xFFFF
        if size == 4:
            st.fp_opcode = (code >> 16) & 0x7FF


@inline
def _field_bytes(size: Any) -> Any:
    """Bytes of a field in an area of `size` bytes: 14 and 94 are the 16-bit formats, 28 and 108 the 32-bit ones."""
    return 4 - (size & 2)


@kernel(POINTER, U64, U64, U64, name="x87.copy_out")
def copy_out(st: Any, address: Any, buffer: Any, size: Any) -> None:
    """Write `size` (even) bytes at host address `buffer` to the guest; may fault, at the first field or last byte."""
    linear = operand_linear(st, address, _field_bytes(size), 1)
    if st.stop != 0:
        return
    mmu.probe_write(st, linear, _field_bytes(size), current_index(st))
    if st.stop != 0:
        return
    last = operand_linear(st, address + size - 1, 1, 1)
    if st.stop != 0:
        return
    mmu.probe_write(st, last, 1, current_index(st))
    if st.stop != 0:
        return
    i = u64(0)
    while i < size:
        store(st, linear + i, 2, (buffer + i).cast(U16)[0].zext(64))
        if st.stop != 0:
            return
        i += 2


@kernel(POINTER, U64, U64, U64, name="x87.copy_in")
def copy_in(st: Any, address: Any, buffer: Any, size: Any) -> None:
    """Read `size` (even) guest bytes to host address `buffer`; may fault, at the first field or the last byte."""
    linear = operand_linear(st, address, _field_bytes(size), 0)
    if st.stop != 0:
        return
    mmu.load_at(st, linear, _field_bytes(size), current_index(st))
    if st.stop != 0:
        return
    last = operand_linear(st, address + size - 1, 1, 0)
    if st.stop != 0:
        return
    mmu.fill(st, last, Access.READ, current_index(st))
    if st.stop != 0:
        return
    i = u64(0)
    while i < size:
        word = load(st, linear + i, 2)
        if st.stop != 0:
            return
        (buffer + i).cast(U16)[0] = word.trunc(16)
        i += 2


@kernel(POINTER, U64, U64, name="x87.fnstenv", attributes="nounwind noinline")
def fnstenv(st: Any, address: Any, size: Any) -> None:
    """FNSTENV: afterwards every exception is masked."""
    area = current().buffer(AREA_BYTES, U8).address()
    put_environment(st, area, size)
    copy_out(st, address, area, size * FIELDS)
    if st.stop == 0:
        fpstate.set_control(st, st.fp_control.zext(64) | MASKS)


@kernel(POINTER, U64, U64, name="x87.fldenv", attributes="nounwind noinline")
def fldenv(st: Any, address: Any, size: Any) -> None:
    """FLDENV."""
    area = current().buffer(AREA_BYTES, U8).address()
    copy_in(st, address, area, size * FIELDS)
    if st.stop == 0:
        get_environment(st, area, size)


@inline
def _register(st: Any, index: int) -> Any:
    """ST(index)."""
    return st.fpr.offset(((st.fp_top.zext(64) + index) & (STACK_REGISTERS - 1)) << 4)


@kernel(POINTER, U64, U64, name="x87.fnsave", attributes="nounwind noinline")
def fnsave(st: Any, address: Any, size: Any) -> None:
    """FNSAVE: environment and registers in stack order, then FNINIT."""
    area = current().buffer(AREA_BYTES, U8).address()
    put_environment(st, area, size)
    for i in range(STACK_REGISTERS):
        source = _register(st, i)
        target = area + size * FIELDS + 10 * i
        target.cast(U64)[0] = source[0]
        (target + 8).cast(U16)[0] = source[1].trunc(16)
    copy_out(st, address, area, size * FIELDS + REGISTER_BYTES)
    if st.stop == 0:
        fpstate.fninit(st)


@kernel(POINTER, U64, U64, name="x87.frstor", attributes="nounwind noinline")
def frstor(st: Any, address: Any, size: Any) -> None:
    """FRSTOR."""
    area = current().buffer(AREA_BYTES, U8).address()
    copy_in(st, address, area, size * FIELDS + REGISTER_BYTES)
    if st.stop != 0:
        return
    get_environment(st, area, size)
    for i in range(STACK_REGISTERS):
        target = _register(st, i)
        source = area + size * FIELDS + 10 * i
        target[0] = source.cast(U64)[0]
        target[1] = (source + 8).cast(U16)[0].zext(64)


@kernel(POINTER, name="x87.fnclex")
def fnclex(st: Any) -> None:
    """FNCLEX."""
    st.fp_status = st.fp_status & 0x7F00
