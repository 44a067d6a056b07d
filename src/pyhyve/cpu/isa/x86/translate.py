"""Translation of a block: decoded instructions become uops, with their addresses, checks and ends. Compiled."""

from __future__ import annotations

from typing import Any

from pyhyve.cpu.engine.state import MAX_UOPS, NO_ADDRESS, PAGE_BYTES, PAGE_MASK
from pyhyve.cpu.engine.tlb import Access
from pyhyve.cpu.isa.x86.addressing import ACCESS_ALIGNED, ACCESS_WRITE
from pyhyve.cpu.isa.x86.decode import decode, operands, variant_base, variant_strides, variants
from pyhyve.cpu.isa.x86.decode_tables import (
    ATTR_ALIGNED,
    ATTR_CONDITIONAL,
    ATTR_ENDS,
    ATTR_FLAG_NEUTRAL,
    ATTR_FPU_SHIFT,
    ATTR_LATE,
    ATTR_MEMORY_MASK,
    ATTR_MEMORY_SHIFT,
    ATTR_MODRM,
    ATTR_NO_ACCESS,
    ATTR_RELATIVE,
    ATTR_SIZE_SHIFT,
    ATTR_STORES,
    ATTR_WAITS,
    ATTR_WRITES_FLAGS,
    BYTE_REGISTER,
    Size,
    Where,
)
from pyhyve.cpu.isa.x86.descriptors import is_canonical
from pyhyve.cpu.isa.x86.fused import copies, jump_numbers, jump_rows, moves
from pyhyve.cpu.isa.x86.memory import TLB_SUPERVISOR, TLB_USER, mmu
from pyhyve.cpu.isa.x86.mode import MODE_FLAT, MODE_SS_BIG
from pyhyve.cpu.isa.x86.rows import tables
from pyhyve.cpu.isa.x86.specials import BIT_OFFSET_FIRST, EA_FIRST, EA_PLAIN, NUMBERS
from pyhyve.cpu.isa.x86.state import STATE, Gpr, Seg
from pyhyve.cpu.lang import U8, U32, U64, Pointer, kernel, table, u64

MAX_INSTRUCTIONS = 64
_ROOM = 12
"""Uops that one instruction and a block's end may take."""

_CALL, _LOOPNE, _LOOP = 0xE8, 0xE0, 0xE2
_JCC_SHORT, _JCC_NEAR = 0x70, 0x80
_POP_MEMORY = 0x8F
"""The only opcode of its number, in any map, with a memory operand."""

CLASS_WRITES = 1
CLASS_NEUTRAL = 2
CLASS_BARRIER = 4
CLASS_PARTIAL = 8
_NO_FLAGS_SHIFT = 8
_CLASSES = (1 << _NO_FLAGS_SHIFT) - 1

P = Pointer(STATE)


@kernel(P, U64, U64, U64, U64, name="x86.uop")
def emit(st: Any, index: Any, stencil: Any, pc: Any, npc: Any) -> None:
    """Start uop `index`."""
    uop = st.uops[index]
    uop.stencil = stencil.trunc(32)
    uop.attributes = CLASS_NEUTRAL
    uop.pc = pc
    uop.npc = npc
    uop.v0 = 0
    uop.v1 = 0
    uop.v2 = 0
    uop.v3 = 0
    uop.taken = 0


@kernel(P, U64, U64, U64, name="x86.terminator")
def terminator(st: Any, index: Any, target: Any, single: Any) -> None:
    """Uop `index` goes on at `target`: a link within the page, else a look-up; a return when `single`."""
    stencil: U64 = NUMBERS["goto"]
    if single != 0:
        stencil = u64(NUMBERS["leave"])
    elif ((target ^ st.pc) & PAGE_MASK) == 0:
        stencil = u64(NUMBERS["link"])
    emit(st, index, stencil, target, target)
    st.uops[index].v0 = target


def _row_number(name: str) -> int:
    return next(number for number, row in enumerate(tables().rows) if row is not None and row.name == name)


sti_row = table("x86_sti_row", U32, lambda: [_row_number("sti")])
"""Number of STI's row."""


@kernel(P, U64, U64, U64, U64, name="x86.end_before")
def end_before(st: Any, index: Any, target: Any, single: Any, row: Any) -> None:
    """Uop `index` ends the block, whose last instruction is of `row`, before `target`."""
    if row == sti_row()[0].zext(64) and single == 0:
        emit(st, index, u64(NUMBERS["leave_shadowed"]), target, target)
        st.uops[index].v0 = target
    else:
        terminator(st, index, target, single)


@kernel(P, U64, U64, result=U64, name="x86.register_offset")
def register_offset(st: Any, number: Any, byte: Any) -> Any:
    """State offset of a general register; AH-BH for 4-7 as bytes without REX."""
    if byte != 0 and st.d_rex == 0 and number >= 4 and number < 8:
        return (number - 4) * 8 + 1
    return number * 8


@kernel(P, U64, U64, U64, result=U64, name="x86.address_uops")
def address_uops(st: Any, index: Any, pc: Any, npc: Any) -> Any:
    """Uops that leave the linear address of the ModRM operand in the carried register; returns the next index."""
    modrm = st.d_modrm
    kind = modrm >> 6
    low = modrm & 7
    size = st.d_address
    has_base: U64 = 0
    has_index: U64 = 0
    base: U64 = 0
    indexed: U64 = 0
    scale: U64 = 0
    segment: U64 = Seg.DS
    displacement = st.d_disp
    if size == 0:
        # 16-bit forms (table 2-1): BX+SI BX+DI BP+SI BP+DI SI DI BP BX
        if kind == 0 and low == 6:
            displacement = displacement & 0xFFFF
        else:
            has_base = u64(1)
            if low == 0 or low == 1 or low == 7:
                base = u64(Gpr.RBX)
            elif low == 2 or low == 3 or low == 6:
                base = u64(Gpr.RBP)
                segment = u64(Seg.SS)
            elif low == 4:
                base = u64(Gpr.RSI)
            else:
                base = u64(Gpr.RDI)
            if low < 4:
                has_index = u64(1)
                indexed = u64(Gpr.RSI) + (low & 1)
    else:
        has_base = u64(1)
        base = low
        if st.d_has_sib != 0:
            base = st.d_sib & 7
            indexed = ((st.d_sib >> 3) & 7) | ((st.d_rex & 2) << 2)
            scale = st.d_sib >> 6
            if indexed != 4:
                has_index = u64(1)
        if kind == 0 and base == 5:
            has_base = u64(0)
            if st.d_has_sib == 0 and ((st.mode >> 2) & 3) == 2:
                displacement = displacement + npc
        elif base == Gpr.RSP or base == Gpr.RBP:
            # RSP and RBP, not R12 and R13.
            if (st.d_rex & 1) == 0:
                segment = u64(Seg.SS)
                if base == Gpr.RSP and st.d_opcode == _POP_MEMORY:
                    # POP [rSP + ...] sees rSP already incremented.
                    displacement = displacement + (u64(2) << st.d_size)
        base = base | ((st.d_rex & 1) << 3)
        if size == 1 and has_base == 0 and has_index == 0:
            displacement = displacement & 0xFFFFFFFF
    if has_index == 0:
        scale = u64(0)
    stencil = u64(EA_FIRST) + size * 16 + scale * 4 + has_base * 2 + has_index
    if displacement == 0 and (has_base | has_index) != 0:
        stencil += EA_PLAIN - EA_FIRST
    emit(st, index, stencil, pc, npc)
    uop = st.uops[index]
    uop.v0 = base * 8
    uop.v1 = indexed * 8
    uop.v2 = displacement
    index += 1
    opcode = st.d_opcode
    if opcode == 0xA3 or opcode == 0xAB or opcode == 0xB3 or opcode == 0xBB:
        # BT, BTS, BTR, BTC with a register: the only ones of these numbers, in any map, with a memory operand.
        emit(st, index, u64(BIT_OFFSET_FIRST) + size * 3 + st.d_size, pc, npc)
        st.uops[index].v0 = register_offset(st, ((modrm >> 3) & 7) | ((st.d_rex & 4) << 1), u64(0))
        index += 1
    return segment_uops(st, index, pc, npc, segment)


@kernel(P, U64, U64, U64, U64, result=U64, name="x86.segment_uops")
def segment_uops(st: Any, index: Any, pc: Any, npc: Any, default: Any) -> Any:
    """The uop, if any, that turns an offset in the carried register into a linear address; returns the next index."""
    segment = default
    if st.d_segment < 8:
        segment = st.d_segment
    if ((st.mode >> 2) & 3) == 2:
        if segment < Seg.FS:
            return index
        emit(st, index, u64(NUMBERS["segment_base"]), pc, npc)
        st.uops[index].v0 = u64(STATE.offset("seg_base")) + segment * 8
        return index + 1
    stores = st.d_attributes & ATTR_STORES
    if (st.d_attributes & ATTR_LATE) != 0:
        emit(st, index, u64(NUMBERS["segment_note"]), pc, npc)
        st.uops[index].v0 = segment
        return index + 1
    if (st.mode & MODE_FLAT) != 0 and segment < Seg.FS and (segment != Seg.CS or stores == 0):
        return index
    emit(st, index, u64(NUMBERS["segment_check"]), pc, npc)
    uop = st.uops[index]
    uop.v0 = segment
    declared = (st.d_attributes >> ATTR_MEMORY_SHIFT) & ATTR_MEMORY_MASK
    rule = (st.d_attributes >> ATTR_SIZE_SHIFT) & 7
    size = u64(2) << st.d_size
    if declared != 0:
        size = declared
    elif rule == Size.B:
        size = u64(1)
    elif (rule == Size.Z and size == 8) or (rule == Size.Y and size == 2):
        size = u64(4)
    uop.v1 = size
    uop.attributes = CLASS_BARRIER
    if stores != 0:
        uop.v2 = ACCESS_WRITE
    if (st.d_attributes & ATTR_ALIGNED) != 0:
        uop.v2 = uop.v2 | ACCESS_ALIGNED
    return index + 1


@kernel(P, U64, U64, result=U64, name="x86.operand_value")
def operand_value(st: Any, code: Any, npc: Any) -> Any:
    """What is patched for one operand."""
    where = code & 31
    byte = code & BYTE_REGISTER
    modrm = st.d_modrm
    reg = ((modrm >> 3) & 7) | ((st.d_rex & 4) << 1)
    rm = (modrm & 7) | ((st.d_rex & 1) << 3)
    if where == Where.RM:
        return register_offset(st, rm, byte)
    if where == Where.REG:
        return register_offset(st, reg, byte)
    if where == Where.OPCODE:
        return register_offset(st, (st.d_opcode & 7) | ((st.d_rex & 1) << 3), byte)
    if where == Where.IMMEDIATE:
        return st.d_immediate
    if where == Where.SECOND_IMMEDIATE:
        return st.d_second
    if where == Where.SEGMENT:
        return (modrm >> 3) & 7
    if where == Where.CONTROL:
        return reg
    if where == Where.XMM_REG:
        return u64(STATE.offset("xmm")) + reg * 16
    if where == Where.XMM_RM:
        return u64(STATE.offset("xmm")) + rm * 16
    if where == Where.MMX_REG:
        return u64(STATE.offset("fpr")) + (reg & 7) * 16
    if where == Where.MMX_RM:
        return u64(STATE.offset("fpr")) + (rm & 7) * 16
    if where == Where.STACK_REG:
        return modrm & 7
    if where == Where.RELATIVE:
        return relative_target(st, npc)
    return 0


@kernel(P, U64, result=U64, name="x86.relative_target")
def relative_target(st: Any, npc: Any) -> Any:
    """Target of a direct near transfer."""
    target = npc + st.d_immediate
    if ((st.mode >> 2) & 3) == 2:
        return target
    if st.d_size == 0:
        return target & 0xFFFF
    return target & 0xFFFFFFFF


@kernel(P, U64, U64, result=U64, name="x86.stencil_of")
def stencil_of(st: Any, row: Any, no_flags: Any) -> Any:
    """Stencil number of the decoded instruction's form."""
    strides = variant_strides()[row]
    rule = (st.d_attributes >> ATTR_SIZE_SHIFT) & 7
    size: U64 = 0
    if rule == Size.V:
        size = st.d_size
    elif rule == Size.Z:
        if st.d_size != 0:
            size = u64(1)
    elif rule == Size.Y:
        if st.d_size == 2:
            size = u64(1)
    memory: U64 = 0
    if st.d_modrm < 0xC0:
        memory = u64(1)
    code_size = (st.mode >> 2) & 3
    stack: U64 = 0
    if code_size != 2:
        if (st.mode & MODE_SS_BIG) == 0:
            stack = u64(3)
        elif (st.mode & MODE_FLAT) != 0:
            stack = u64(1)
        else:
            stack = u64(2)
    index = variant_base()[row].zext(64)
    index += size * (strides & 0xFF)
    index += memory * ((strides >> 8) & 0xFF)
    index += st.d_lock * ((strides >> 16) & 0xFF)
    index += st.d_address * ((strides >> 24) & 0xFF)
    index += stack * ((strides >> 32) & 0xFF)
    index += st.d_repeat * ((strides >> 40) & 0xFF)
    index += code_size * ((strides >> 48) & 0xFF)
    index += no_flags * ((strides >> 56) & 0xFF)
    return variants()[index].zext(64)


@kernel(P, U64, U64, U64, result=U64, name="x86.instruction_uops")
def instruction_uops(st: Any, index: Any, pc: Any, npc: Any) -> Any:
    """Uops of the decoded instruction, without its end; returns the next index."""
    row = st.d_row
    word = st.d_attributes
    codes = operands()[row].zext(64)
    unit = (word >> ATTR_FPU_SHIFT) & 3
    if unit != 0:
        emit(st, index, u64(NUMBERS["fpu_check1"] - 1) + unit, pc, npc)
        st.uops[index].attributes = CLASS_BARRIER
        index += 1
    if (word & ATTR_WAITS) != 0:
        emit(st, index, u64(NUMBERS["fpu_wait"]), pc, npc)
        st.uops[index].attributes = CLASS_BARRIER
        index += 1
    memory: U64 = 0
    first = codes & 31
    if (word & (ATTR_MODRM | ATTR_NO_ACCESS)) == ATTR_MODRM and st.d_modrm < 0xC0:
        memory = u64(1)
        if first == Where.ADDRESS or ((codes >> 8) & 31) == Where.ADDRESS:
            # LEA: the offset itself.
            saved = st.d_segment
            saved_mode = st.mode
            st.d_segment = 8
            st.mode = (st.mode & ~u64(12)) | MODE_FLAT | 8
            index = lea_uop(st, index, pc, npc, saved_mode)
            st.mode = saved_mode
            st.d_segment = saved
            memory = u64(0)
        else:
            index = address_uops(st, index, pc, npc)
    if first == Where.ABSOLUTE or ((codes >> 8) & 31) == Where.ABSOLUTE:
        emit(st, index, u64(EA_FIRST + 32), pc, npc)
        st.uops[index].v2 = st.d_immediate
        index = segment_uops(st, index + 1, pc, npc, u64(Seg.DS))
        memory = u64(1)
    emit(st, index, stencil_of(st, row, u64(0)), pc, npc)
    uop = st.uops[index]
    uop.v0 = operand_value(st, codes & 0xFF, npc)
    uop.v1 = operand_value(st, (codes >> 8) & 0xFF, npc)
    uop.v2 = operand_value(st, (codes >> 16) & 0xFF, npc)
    uop.v3 = st.d_segment  # strings: the override, 8 for none
    if (codes >> 24) != 0:
        uop.v3 = operand_value(st, codes >> 24, npc)
    attributes: U64 = 0
    if (word & ATTR_WRITES_FLAGS) != 0:
        attributes = CLASS_WRITES | (stencil_of(st, row, u64(1)) << _NO_FLAGS_SHIFT)
        if (word & ATTR_FLAG_NEUTRAL) != 0:
            attributes = attributes ^ (CLASS_WRITES | CLASS_PARTIAL)
    elif (word & ATTR_FLAG_NEUTRAL) != 0:
        attributes = u64(CLASS_NEUTRAL)
    else:
        attributes = u64(CLASS_BARRIER)
    if memory != 0:
        attributes = attributes | CLASS_BARRIER
    uop.attributes = attributes.trunc(32)
    return index + 1


@kernel(P, U64, U64, U64, U64, result=U64, name="x86.lea_uop")
def lea_uop(st: Any, index: Any, pc: Any, npc: Any, mode: Any) -> Any:
    """Address uops as if all segments were flat; RIP-relative only in 64-bit mode."""
    if ((mode >> 2) & 3) != 2 and st.d_address != 0 and (st.d_modrm & 0xC7) == 5:
        # disp32 without a base is absolute outside 64-bit mode.
        emit(st, index, u64(EA_FIRST + 32), pc, npc)
        st.uops[index].v2 = st.d_disp & 0xFFFFFFFF
        return index + 1
    return address_uops(st, index, pc, npc)


@kernel(P, U64, name="x86.drop_dead_flags")
def drop_dead_flags(st: Any, count: Any) -> None:
    """Use the flagless form of each instruction whose flags are overwritten before anything can see them."""
    live: U64 = 1
    i: U64 = count
    while i != 0:
        i = i - 1
        uop = st.uops[i]
        attributes = uop.attributes
        if (attributes & CLASS_WRITES) != 0:
            if live == 0:
                uop.stencil = attributes >> _NO_FLAGS_SHIFT
            live = u64(0)
        if (attributes & CLASS_PARTIAL) != 0 and live == 0:
            uop.stencil = attributes >> _NO_FLAGS_SHIFT
        if (attributes & CLASS_BARRIER) != 0:
            live = u64(1)


@kernel(P, U64, result=U64, name="x86.beyond")
def beyond(st: Any, target: Any) -> Any:
    """1 when no instruction can be at `target`: beyond the code segment or, in 64-bit mode, not canonical."""
    if ((st.mode >> 2) & 3) == 2:
        return not is_canonical(target)
    return target > st.seg_limit[Seg.CS]


@kernel(P, U64, U64, result=U64, name="x86.reaches_beyond")
def reaches_beyond(st: Any, pc: Any, length: Any) -> Any:
    """1 when the instruction just decoded at `pc` reaches beyond the code segment, or surely jumps to `beyond`."""
    if ((st.mode >> 2) & 3) != 2 and pc + length - 1 > st.seg_limit[Seg.CS]:
        return 1
    word = st.d_attributes
    if st.d_row == 0 or (word & (ATTR_RELATIVE | ATTR_CONDITIONAL)) != ATTR_RELATIVE:
        return 0
    return beyond(st, relative_target(st, pc + length))


@kernel(P, U64, result=U64, name="x86.fuse_jump")
def fuse_jump(st: Any, count: Any) -> Any:
    """Put the conditional jump decoded last and the instruction before it together, where that has a form for it.

    Returns the new count of uops. The jump itself cannot fault: its target was checked.
    """
    opcode = st.d_opcode & 0xF0
    if opcode != _JCC_SHORT and opcode != _JCC_NEAR:
        return count
    before = st.uops[count - 2]
    row = jump_rows()[before.stencil.zext(64)].zext(64)
    number = jump_numbers()[row + (st.d_opcode & 0xF)]
    if number == 0:
        return count
    before.stencil = number.zext(32)
    return count - 1


@kernel(P, U64, result=U64, name="x86.fuse_copy")
def fuse_copy(st: Any, count: Any) -> Any:
    """Put the last uop and a move to its destination before it together, where that has a form for it.

    Returns the new count of uops. Neither can fault.
    """
    move, uop = st.uops[count - 2], st.uops[count - 1]
    width = moves()[move.stencil.zext(64)].zext(64)
    if width == 0 or move.v0 != uop.v0 or uop.v1 == uop.v0:
        return count
    number = copies()[uop.stencil.zext(64) * 2 + width - 1]
    if number == 0:
        return count
    attributes = uop.attributes.zext(64)
    without_flags = copies()[(attributes >> _NO_FLAGS_SHIFT) * 2 + width - 1].zext(64)
    move.attributes = ((attributes & _CLASSES) | (without_flags << _NO_FLAGS_SHIFT)).trunc(32)
    move.stencil = number.zext(32)
    move.v2 = move.v1
    move.v1 = uop.v1
    return count - 1


@kernel(P, U64, result=U64, name="x86.fetch_window")
def fetch_window(st: Any, linear: Any) -> Any:
    """Host address of the code page's byte for `linear`; fills `code_page_*`. May fault; 0 when it is no memory."""
    page = linear & PAGE_MASK
    index: U64 = TLB_SUPERVISOR
    if st.cpl == 3:
        index = u64(TLB_USER)
    hva = mmu.fill(st, page, Access.FETCH, index)
    if st.stop != 0:
        return 0
    return hva


@kernel(P, U64, result=U64, name="x86.translate_block")
def translate_block(st: Any, single: Any) -> Any:
    """Fill `uops` with the block at `pc`; `block_length` and `block_gpa2` too. Returns the count; may fault."""
    code_base: U64 = 0
    if ((st.mode >> 2) & 3) != 2:
        code_base = st.seg_base[Seg.CS]
    count: U64 = 0
    if single == 0:
        emit(st, count, u64(NUMBERS["head"]), st.pc, st.pc)
        st.uops[0].attributes = CLASS_BARRIER
        count += 1
    instructions: U64 = 0
    pc = st.pc
    linear = code_base + pc
    if ((st.mode >> 2) & 3) != 2:
        linear = linear & 0xFFFFFFFF
    first = linear
    window = st.code_page_hva + (linear & (PAGE_BYTES - 1))
    done: U64 = 0
    last_row: U64 = 0
    st.block_gpa2 = NO_ADDRESS
    while done == 0:
        in_page = PAGE_BYTES - (linear & (PAGE_BYTES - 1))
        code = window
        if in_page < 32:
            # Copy: what follows the page is not ours to read.
            mmu.copy_host(st, st.fetch_bytes.address(), window, in_page)
            mmu.copy_host(st, st.fetch_bytes.address() + in_page, st.zeros.address(), 32 - in_page)
            code = st.fetch_bytes.address()
        row = decode(st, code.cast(U8))
        length = st.d_length
        crosses: U64 = 0
        if length > in_page:
            if instructions != 0:
                # Let it start a block of its own.
                end_before(st, count, pc, single, last_row)
                count += 1
                break
            if ((st.mode >> 2) & 3) != 2 and pc + in_page > st.seg_limit[Seg.CS]:
                emit(st, count, u64(NUMBERS["too_long"]), pc, pc)
                count += 1
                linear = linear + in_page
                break
            next_page = linear + in_page
            if ((st.mode >> 2) & 3) != 2:
                next_page = next_page & 0xFFFFFFFF
            second = fetch_window(st, next_page)
            if st.stop != 0:
                # Whatever the instruction accesses, its own bytes are not on the stack.
                st.bad_address = 0
                return 0
            if second != 0:
                mmu.copy_host(st, st.fetch_bytes.address() + in_page, second, u64(16))
                st.block_gpa2 = second
            row = decode(st, code.cast(U8))
            length = st.d_length
            crosses = u64(1)
        npc = pc + length
        if ((st.mode >> 2) & 3) == 1:
            npc = npc & 0xFFFFFFFF
        elif ((st.mode >> 2) & 3) == 0:
            npc = npc & 0xFFFF
        instructions += 1
        if length > 15:
            emit(st, count, u64(NUMBERS["too_long"]), pc, npc)
            count += 1
            linear = linear + length
            break
        if reaches_beyond(st, pc, length) != 0:
            fits = ((st.mode >> 2) & 3) == 2 or pc + length - 1 <= st.seg_limit[Seg.CS]
            if row != 0 and fits and st.d_opcode == _CALL:
                emit(st, count, u64(NUMBERS["call_beyond"]), pc, npc)
                st.uops[count].v0 = u64(2) << st.d_size
            else:
                emit(st, count, u64(NUMBERS["too_long"]), pc, npc)
            count += 1
            linear = linear + length
            break
        if row == 0:
            emit(st, count, u64(NUMBERS["undefined"]), pc, npc)
            count += 1
            linear = linear + length
            break
        start = count.get()
        count = instruction_uops(st, count, pc, npc)
        if instructions > 1 and count == start + 1:
            count = fuse_copy(st, count)
        word = st.d_attributes
        linear = linear + length
        window = window + length
        if (word & ATTR_ENDS) != 0:
            if (word & ATTR_RELATIVE) != 0:
                target = relative_target(st, npc)
                if instructions > 1 and (word & ATTR_CONDITIONAL) != 0 and beyond(st, target) == 0:
                    count = fuse_jump(st, count)
                last = count - 1
                if (word & ATTR_CONDITIONAL) != 0:
                    terminator(st, count, npc, single)
                    count += 1
                    st.uops[last].taken = count
                if beyond(st, target) != 0:
                    if st.d_opcode >= _LOOPNE and st.d_opcode <= _LOOP:
                        emit(st, count, u64(NUMBERS["loop_beyond16"]) + st.d_address, pc, npc)
                    else:
                        emit(st, count, u64(NUMBERS["too_long"]), pc, npc)
                else:
                    terminator(st, count, target, single)
                count += 1
            done = u64(1)
        elif (
            single != 0
            or crosses != 0
            or instructions >= MAX_INSTRUCTIONS
            or count + _ROOM > MAX_UOPS
            or ((linear ^ first) & PAGE_MASK) != 0
        ):
            end_before(st, count, npc, single, row)
            count += 1
            done = u64(1)
        pc = npc
        last_row = row
    st.block_length = linear - first
    drop_dead_flags(st, count)
    return count


__all__ = ["fetch_window", "translate_block"]
