"""The instruction decoder (SDM Vol. 2A, chapter 2), compiled: bytes to the `d_*` fields of the state.

All knowledge of opcodes is in the tables that `decode_tables` makes of the rows.
"""

from __future__ import annotations

from typing import Any

from pyhyve.cpu.isa.x86.decode_tables import (
    ATTR_DEFAULT64,
    ATTR_FORCE64,
    ATTR_IMMEDIATE_SHIFT,
    ATTR_LOCK,
    Immediate,
)
from pyhyve.cpu.isa.x86.rows import tables
from pyhyve.cpu.isa.x86.state import STATE, Seg
from pyhyve.cpu.lang import BYTES, U8, U16, U32, U64, Pointer, kernel, table, u64

MAX_LENGTH = 15
NO_SEGMENT = 8

selector_base = table("x86_selector_base", U32, lambda: tables().selector_base)
selector_strides = table("x86_selector_strides", U64, lambda: tables().selector_strides)
has_modrm_table = table("x86_has_modrm", U8, lambda: tables().has_modrm)
leaves = table("x86_leaves", U16, lambda: tables().leaves)
attributes = table("x86_attributes", U64, lambda: tables().attributes)
operands = table("x86_operands", U32, lambda: tables().operands)
variant_base = table("x86_variant_base", U32, lambda: tables().variant_base)
variant_strides = table("x86_variant_strides", U64, lambda: tables().variant_strides)
variants = table("x86_variants", U32, lambda: tables().variants)


@kernel(BYTES, U64, U64, result=U64, name="x86.take")
def take(code: Any, at: Any, size: Any) -> Any:
    """`size` (0, 1, 2, 4, 8) bytes at `at`, zero-extended."""
    if size == 1:
        return code[at].zext(64)
    if size == 2:
        return code.offset(at).cast(U16)[0].zext(64)
    if size == 4:
        return code.offset(at).cast(U32)[0].zext(64)
    if size == 8:
        return code.offset(at).cast(U64)[0]
    return 0


@kernel(Pointer(STATE), BYTES, result=U64, name="x86.decode")
def decode(st: Any, code: Any) -> Any:
    """Decode the instruction at `code` (at least 32 readable bytes). Returns the row, 0 when undefined.

    `d_length` is right in either case, as far as the instruction could be followed.
    """
    code_size = (st.mode >> 2) & 3
    long = code_size == 2
    at: U64 = 0
    rex: U64 = 0
    operand_override: U64 = 0
    address_override: U64 = 0
    repeat: U64 = 0
    lock: U64 = 0
    segment: U64 = NO_SEGMENT
    opcode = code[at].zext(64)
    more: U64 = 1
    while more == 1:
        opcode = code[at].zext(64)
        seen: U64 = 1
        if opcode == 0x66:
            operand_override = u64(1)
        elif opcode == 0x67:
            address_override = u64(1)
        elif opcode == 0xF0:
            lock = u64(1)
        elif opcode == 0xF2:
            repeat = u64(2)
        elif opcode == 0xF3:
            repeat = u64(1)
        elif opcode == 0x64:
            segment = u64(Seg.FS)
        elif opcode == 0x65:
            segment = u64(Seg.GS)
        elif opcode == 0x2E or opcode == 0x36 or opcode == 0x3E or opcode == 0x26:
            if not long:
                segment = (opcode >> 3) & 3
        elif long and (opcode & 0xF0) == 0x40:
            rex = opcode
            seen = u64(2)
        else:
            seen = u64(0)
        if seen == 0 or at >= MAX_LENGTH:
            more = u64(0)
        else:
            # A REX prefix counts only directly before the opcode.
            if seen == 1:
                rex = u64(0)
            at += 1
    at += 1
    map_number: U64 = 0
    if opcode == 0x0F:
        opcode = code[at].zext(64)
        at += 1
        map_number = u64(1)
        if opcode == 0x38 or opcode == 0x3A:
            map_number = (opcode >> 1) - 26
            opcode = code[at].zext(64)
            at += 1
    prefix: U64 = 0
    if repeat == 1:
        prefix = u64(2)
    elif repeat == 2:
        prefix = u64(3)
    elif operand_override == 1:
        prefix = u64(1)
    slot = map_number * 256 + opcode
    with_modrm = has_modrm_table()[slot]
    modrm: U64 = 0xC0
    if with_modrm != 0:
        modrm = code[at].zext(64)
        at += 1
    strides = selector_strides()[slot]
    index = selector_base()[slot].zext(64)
    index += prefix * (strides & 0xFFF)
    register_form: U64 = 1
    if modrm >= 0xC0:
        register_form = u64(0)
    index += register_form * ((strides >> 12) & 0xFFF)
    index += ((modrm >> 3) & 7) * ((strides >> 24) & 0xFFF)
    index += (modrm & 7) * ((strides >> 36) & 0xFFF)
    in_long: U64 = 0
    if long:
        in_long = u64(1)
    index += in_long * ((strides >> 48) & 0xFFF)
    row = leaves()[index].zext(64)
    word = attributes()[row]
    # Sizes as indexes: 0 16-bit, 1 32-bit, 2 64-bit.
    size: U64 = 1
    if code_size == 0:
        size = operand_override
    else:
        size = 1 - operand_override
    address = code_size
    if long:
        if (word & ATTR_FORCE64) != 0:
            size = u64(2)
        elif (rex & 8) != 0:
            size = u64(2)
        elif (word & ATTR_DEFAULT64) != 0 and size == 1:
            size = u64(2)
        address = 2 - address_override
    else:
        address = address ^ address_override
    # Addressing bytes.
    sib: U64 = 0
    has_sib: U64 = 0
    displacement: U64 = 0
    if with_modrm != 0 and modrm < 0xC0:
        kind = modrm >> 6
        low = modrm & 7
        if address == 0:
            if kind == 2 or (kind == 0 and low == 6):
                displacement = take(code, at, 2).trunc(16).sext(64)
                at += 2
            elif kind == 1:
                displacement = take(code, at, 1).trunc(8).sext(64)
                at += 1
        else:
            base = low
            if low == 4:
                sib = code[at].zext(64)
                at += 1
                has_sib = u64(1)
                base = sib & 7
            if kind == 2 or (kind == 0 and base == 5):
                displacement = take(code, at, 4).trunc(32).sext(64)
                at += 4
            elif kind == 1:
                displacement = take(code, at, 1).trunc(8).sext(64)
                at += 1
    # Immediates.
    immediate_kind = (word >> ATTR_IMMEDIATE_SHIFT) & 15
    immediate: U64 = 0
    second: U64 = 0
    z_bytes = u64(4)
    if size == 0:
        z_bytes = u64(2)
    if immediate_kind == Immediate.BYTE or immediate_kind == Immediate.BYTE_SIGNED:
        # Sign-extended in every case: who wants 8 bits takes the low ones.
        immediate = take(code, at, 1).trunc(8).sext(64)
        at += 1
    elif immediate_kind == Immediate.WORD or immediate_kind == Immediate.WORD_BYTE:
        immediate = take(code, at, 2)
        at += 2
        if immediate_kind == Immediate.WORD_BYTE:
            second = take(code, at, 1)
            at += 1
    elif immediate_kind == Immediate.Z:
        immediate = take(code, at, z_bytes)
        if z_bytes == 4:
            immediate = immediate.trunc(32).sext(64)
        else:
            immediate = immediate.trunc(16).sext(64)
        at += z_bytes
    elif immediate_kind == Immediate.FULL:
        if size == 2:
            immediate = take(code, at, 8)
            at += 8
        elif size == 1:
            immediate = take(code, at, 4).trunc(32).sext(64)
            at += 4
        else:
            immediate = take(code, at, 2)
            at += 2
    elif immediate_kind == Immediate.FAR:
        immediate = take(code, at, z_bytes)
        second = take(code, at + z_bytes, 2)
        at += z_bytes + 2
    elif immediate_kind == Immediate.ABSOLUTE:
        moffs_bytes = u64(2) << address
        immediate = take(code, at, moffs_bytes)
        at += moffs_bytes
    if lock == 1 and ((word & ATTR_LOCK) == 0 or modrm >= 0xC0):
        row = u64(0)
    if at > MAX_LENGTH:
        row = u64(0)
    st.d_length = at
    st.d_attributes = word
    st.d_modrm = modrm
    st.d_sib = sib
    st.d_has_sib = has_sib
    st.d_disp = displacement
    st.d_immediate = immediate
    st.d_second = second
    st.d_rex = rex
    st.d_segment = segment
    st.d_size = size
    st.d_address = address
    st.d_lock = lock
    st.d_repeat = repeat
    st.d_opcode = opcode
    st.d_row = row
    return row


__all__ = ["decode"]
