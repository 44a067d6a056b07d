"""String instructions (SDM Vol. 2: MOVS, STOS, LODS, SCAS, CMPS, INS, OUTS), with and without REP.

One kernel per operation and element size. A repeated one works on until its count is used up, a fault, a pending
request, or an element that reached a device; it then returns 0, and the instruction runs again from where its
registers stand. Runs of plain memory go at the host's own speed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.cpu.engine.state import PAGE_BYTES, PAGE_MASK, PAGE_SHIFT, TLB_ENTRIES
from pyhyve.cpu.isa.x86 import flags, ports
from pyhyve.cpu.isa.x86.addressing import check_segment
from pyhyve.cpu.isa.x86.memory import mmu
from pyhyve.cpu.isa.x86.mode import MODE_FLAT
from pyhyve.cpu.isa.x86.state import STATE, Gpr, Seg
from pyhyve.cpu.lang import U64, Pointer, Value, current, inline, kernel, u64

if TYPE_CHECKING:
    from pyhyve.cpu.lang import Kernel

P = Pointer(STATE)
REPEAT_NONE, REPEAT_EQUAL, REPEAT_NOT_EQUAL = 0, 1, 2


@kernel(P, U64, result=U64, name="x86.address_mask")
def address_mask(_st: Any, address_bits: Any) -> Any:
    """All ones of an address size."""
    if address_bits == 16:
        return 0xFFFF
    if address_bits == 32:
        return 0xFFFFFFFF
    return (1 << 64) - 1


@kernel(P, U64, U64, U64, name="x86.set_index")
def set_index(st: Any, number: Any, address_bits: Any, value: Any) -> None:
    """Write a count or index register by address size."""
    if address_bits == 16:
        st.gpr[number] = (st.gpr[number] & ~u64(0xFFFF)) | (value & 0xFFFF)
    elif address_bits == 32:
        st.gpr[number] = value & 0xFFFFFFFF
    else:
        st.gpr[number] = value


@kernel(P, U64, U64, U64, U64, result=U64, name="x86.string_linear")
def string_linear(st: Any, offset: Any, segment: Any, size: Any, write: Any) -> Any:
    """Linear address of an index register's offset; may fault."""
    if ((st.mode >> 2) & 3) == 2:
        if segment >= Seg.FS:
            return offset + st.seg_base[segment]
        return offset
    if (st.mode & MODE_FLAT) != 0 and segment < Seg.FS and (segment != Seg.CS or write == 0):
        return offset
    return check_segment(st, offset, segment, size, write)


def _begin_repeat(st: Value, address_bits: Value, registers: tuple[Gpr, ...]) -> None:
    """Under a 32-bit address size, REP zero-extends registers even when no element is done, as processors do."""
    for narrow in current().branch(address_bits == 32):
        if narrow:
            for number in registers:
                st.gpr[number] = st.gpr[number] & 0xFFFFFFFF


@inline
def _source_segment(segment: Value) -> Value:
    chosen = u64(Seg.DS)
    if segment < 8:
        chosen = segment
    return chosen.get()


@inline
def _run_length(st: Value, offset: Value, linear: Value, size: int) -> Value:
    """Elements from `linear` to the end of its page, upwards; 0 outside flat modes."""
    room = (PAGE_BYTES - (linear & (PAGE_BYTES - 1))) // size
    if ((st.mode >> 2) & 3) != 2 and ((st.mode & MODE_FLAT) == 0 or offset + PAGE_BYTES > 0xFFFFFFFF):
        room = u64(0)
    return room.get()


@inline
def _entry(st: Value, linear: Value) -> Value:
    return st.tlb[(linear >> PAGE_SHIFT) & (TLB_ENTRIES - 1)]


@inline
def _step(st: Value, size: int) -> Value:
    step = u64(size)
    if (st.eflags & flags.DF) != 0:
        step = u64((1 << 64) - size)
    return step.get()


@inline
def _minimum(a: Value, b: Value) -> Value:
    return current().select(a < b, a, b)


def _make_movs(size: int) -> Kernel:
    letter = {1: "b", 2: "w", 4: "l", 8: "q"}[size]

    @kernel(P, U64, U64, U64, result=U64, name=f"x86.movs{size}", attributes="nounwind noinline")
    def movs(st: Any, address_bits: Any, repeat: Any, segment: Any) -> Any:
        mask = address_mask(st, address_bits)
        source_segment = _source_segment(segment)
        step = _step(st, size)
        count: U64 = 1
        if repeat != 0:
            count = st.gpr[Gpr.RCX] & mask
            _begin_repeat(st, address_bits, (Gpr.RCX, Gpr.RSI, Gpr.RDI))
        while count != 0:
            source = st.gpr[Gpr.RSI] & mask
            target = st.gpr[Gpr.RDI] & mask
            from_ = string_linear(st, source, source_segment, u64(size), u64(0))
            if st.stop != 0:
                return 0
            to = string_linear(st, target, u64(Seg.ES), u64(size), u64(1))
            if st.stop != 0:
                # The source's page comes before the destination's segment.
                st.stop = 0
                mmu.probe_read(st, from_, u64(size), (st.mode >> 8) & 3)
                if st.stop == 0:
                    string_linear(st, target, u64(Seg.ES), u64(size), u64(1))
                return 0
            done: U64 = 1
            reads = _entry(st, from_)
            writes = _entry(st, to)
            plain = (reads.read == from_ & PAGE_MASK) & (writes.write == to & PAGE_MASK)
            if step == size and plain and address_bits != 16:
                run = _minimum(_minimum(_run_length(st, source, from_, size), _run_length(st, target, to, size)), count)
                if run != 0:
                    done = run
                    b = current()
                    b.asm(
                        f"rep movs{letter}", "={rdi},={rsi},={rcx},{rdi},{rsi},{rcx},~{memory}",
                        "{ i64, i64, i64 }",
                        [("i64", (to + writes.addend).ir), ("i64", (from_ + reads.addend).ir), ("i64", run.get().ir)],
                    )
                else:
                    copy_one(st, from_, to)
            else:
                copy_one(st, from_, to)
            if st.stop != 0:
                return 0
            set_index(st, u64(Gpr.RSI), address_bits, source + step * done)
            set_index(st, u64(Gpr.RDI), address_bits, target + step * done)
            count = count - done
            if repeat != 0:
                set_index(st, u64(Gpr.RCX), address_bits, count)
            if count != 0 and (st.access_done != 0 or current().load(st.ref("request"), volatile=True) != 0):
                return 0
        return 1

    @kernel(P, U64, U64, name=f"x86.copy_one{size}", attributes="nounwind noinline")
    def copy_one(st: Any, from_: Any, to: Any) -> None:
        value = mmu.load_at(st, from_, u64(size), (st.mode >> 8) & 3)
        if st.stop != 0:
            return
        mmu.store_at(st, to, u64(size), value, (st.mode >> 8) & 3)

    return movs


def _make_stos(size: int) -> Kernel:
    letter = {1: "b", 2: "w", 4: "l", 8: "q"}[size]

    @kernel(P, U64, U64, U64, result=U64, name=f"x86.stos{size}", attributes="nounwind noinline")
    def stos(st: Any, address_bits: Any, repeat: Any, _segment: Any) -> Any:
        mask = address_mask(st, address_bits)
        step = _step(st, size)
        count: U64 = 1
        if repeat != 0:
            count = st.gpr[Gpr.RCX] & mask
            _begin_repeat(st, address_bits, (Gpr.RCX, Gpr.RDI))
        while count != 0:
            target = st.gpr[Gpr.RDI] & mask
            to = string_linear(st, target, u64(Seg.ES), u64(size), u64(1))
            if st.stop != 0:
                return 0
            done: U64 = 1
            writes = _entry(st, to)
            if step == size and writes.write == to & PAGE_MASK and address_bits != 16:
                run = _minimum(_run_length(st, target, to, size), count)
                if run != 0:
                    done = run
                    current().asm(
                        f"rep stos{letter}", "={rdi},={rcx},{rdi},{rcx},{rax},~{memory}", "{ i64, i64 }",
                        [("i64", (to + writes.addend).ir), ("i64", run.get().ir), ("i64", st.gpr[Gpr.RAX].ir)],
                    )
                else:
                    mmu.store_at(st, to, u64(size), st.gpr[Gpr.RAX], (st.mode >> 8) & 3)
            else:
                mmu.store_at(st, to, u64(size), st.gpr[Gpr.RAX], (st.mode >> 8) & 3)
            if st.stop != 0:
                return 0
            set_index(st, u64(Gpr.RDI), address_bits, target + step * done)
            count = count - done
            if repeat != 0:
                set_index(st, u64(Gpr.RCX), address_bits, count)
            if count != 0 and (st.access_done != 0 or current().load(st.ref("request"), volatile=True) != 0):
                return 0
        return 1

    return stos


def _make_lods(size: int) -> Kernel:
    @kernel(P, U64, U64, U64, result=U64, name=f"x86.lods{size}", attributes="nounwind noinline")
    def lods(st: Any, address_bits: Any, repeat: Any, segment: Any) -> Any:
        mask = address_mask(st, address_bits)
        source_segment = _source_segment(segment)
        count: U64 = 1
        if repeat != 0:
            count = st.gpr[Gpr.RCX] & mask
            _begin_repeat(st, address_bits, (Gpr.RCX,))
        while count != 0:
            source = st.gpr[Gpr.RSI] & mask
            from_ = string_linear(st, source, source_segment, u64(size), u64(0))
            if st.stop != 0:
                return 0
            value = mmu.load_at(st, from_, u64(size), (st.mode >> 8) & 3)
            if st.stop != 0:
                return 0
            _set_accumulator(st, value, size)
            set_index(st, u64(Gpr.RSI), address_bits, source + _step(st, size))
            count = count - 1
            if repeat != 0:
                set_index(st, u64(Gpr.RCX), address_bits, count)
            if count != 0 and (st.access_done != 0 or current().load(st.ref("request"), volatile=True) != 0):
                return 0
        return 1

    return lods


@inline
def _set_accumulator(st: Value, value: Value, size: int) -> None:
    if size == 8:
        st.gpr[Gpr.RAX] = value
    elif size == 4:
        st.gpr[Gpr.RAX] = value & 0xFFFFFFFF
    else:
        mask = (1 << (8 * size)) - 1
        st.gpr[Gpr.RAX] = (st.gpr[Gpr.RAX] & ~u64(mask)) | (value & mask)


def _set_compare_flags(st: Value, a: Value, b: Value, size: int) -> None:
    bits = 8 * size
    x, y = a.trunc(bits), b.trunc(bits)
    result = x - y
    st.fl_result = result.sext(64)
    st.fl_aux = flags.carry_word(flags.subtract_borrows(x, y, result))


def _make_compare(size: int, *, scan: bool) -> Kernel:
    name = "scas" if scan else "cmps"

    @kernel(P, U64, U64, U64, result=U64, name=f"x86.{name}{size}", attributes="nounwind noinline")
    def compare(st: Any, address_bits: Any, repeat: Any, segment: Any) -> Any:
        mask = address_mask(st, address_bits)
        source_segment = _source_segment(segment)
        step = _step(st, size)
        count: U64 = 1
        if repeat != 0:
            count = st.gpr[Gpr.RCX] & mask
            _begin_repeat(st, address_bits, (Gpr.RCX,))
        # A fault leaves the flags as they were before the whole instruction.
        old_result = st.fl_result
        old_aux = st.fl_aux
        while count != 0:
            target = st.gpr[Gpr.RDI] & mask
            source = st.gpr[Gpr.RSI] & mask
            first = st.gpr[Gpr.RAX]
            second: U64 = 0
            to = string_linear(st, target, u64(Seg.ES), u64(size), u64(0))
            if st.stop == 0:
                second = mmu.load_at(st, to, u64(size), (st.mode >> 8) & 3)
            if not scan and st.stop == 0:
                from_ = string_linear(st, source, source_segment, u64(size), u64(0))
                if st.stop == 0:
                    first = mmu.load_at(st, from_, u64(size), (st.mode >> 8) & 3)
            if st.stop != 0:
                st.fl_result = old_result
                st.fl_aux = old_aux
                return 0
            _set_compare_flags(st, first, second, size)
            if not scan:
                set_index(st, u64(Gpr.RSI), address_bits, source + step)
            set_index(st, u64(Gpr.RDI), address_bits, target + step)
            count = count - 1
            if repeat != 0:
                set_index(st, u64(Gpr.RCX), address_bits, count)
                if (repeat == REPEAT_EQUAL and st.fl_result != 0) or (repeat == REPEAT_NOT_EQUAL and st.fl_result == 0):
                    return 1
            if count != 0 and (st.access_done != 0 or current().load(st.ref("request"), volatile=True) != 0):
                return 0
        return 1

    return compare


def _make_ins(size: int) -> Kernel:
    @kernel(P, U64, U64, U64, result=U64, name=f"x86.ins{size}", attributes="nounwind noinline")
    def ins(st: Any, address_bits: Any, repeat: Any, _segment: Any) -> Any:
        mask = address_mask(st, address_bits)
        count: U64 = 1
        if repeat != 0:
            count = st.gpr[Gpr.RCX] & mask
            _begin_repeat(st, address_bits, (Gpr.RCX,))
        if count == 0:
            return 1
        ports.check_port(st, st.gpr[Gpr.RDX] & 0xFFFF, u64(size))
        if st.stop != 0:
            return 0
        target = st.gpr[Gpr.RDI] & mask
        to = string_linear(st, target, u64(Seg.ES), u64(size), u64(1))
        if st.stop != 0:
            return 0
        # The destination must be known good before the port is read: reading may have effects.
        mmu.probe_write(st, to, u64(size), (st.mode >> 8) & 3)
        if st.stop != 0:
            return 0
        value = ports.port_in(st, st.gpr[Gpr.RDX] & 0xFFFF, u64(size))
        if st.stop != 0:
            return 0
        mmu.store_at(st, to, u64(size), value, (st.mode >> 8) & 3)
        if st.stop != 0:
            return 0
        set_index(st, u64(Gpr.RDI), address_bits, target + _step(st, size))
        if repeat != 0:
            set_index(st, u64(Gpr.RCX), address_bits, count - 1)
            if count != 1:
                return 0
        return 1

    return ins


def _make_outs(size: int) -> Kernel:
    @kernel(P, U64, U64, U64, result=U64, name=f"x86.outs{size}", attributes="nounwind noinline")
    def outs(st: Any, address_bits: Any, repeat: Any, segment: Any) -> Any:
        mask = address_mask(st, address_bits)
        count: U64 = 1
        if repeat != 0:
            count = st.gpr[Gpr.RCX] & mask
            _begin_repeat(st, address_bits, (Gpr.RCX,))
        if count == 0:
            return 1
        ports.check_port(st, st.gpr[Gpr.RDX] & 0xFFFF, u64(size))
        if st.stop != 0:
            return 0
        source = st.gpr[Gpr.RSI] & mask
        from_ = string_linear(st, source, _source_segment(segment), u64(size), u64(0))
        if st.stop != 0:
            return 0
        value = mmu.load_at(st, from_, u64(size), (st.mode >> 8) & 3)
        if st.stop != 0:
            return 0
        ports.port_out(st, st.gpr[Gpr.RDX] & 0xFFFF, u64(size), value)
        if st.stop != 0:
            return 0
        set_index(st, u64(Gpr.RSI), address_bits, source + _step(st, size))
        if repeat != 0:
            set_index(st, u64(Gpr.RCX), address_bits, count - 1)
            if count != 1:
                return 0
        return 1

    return outs


STRINGS: dict[tuple[str, int], Kernel] = {
    **{("movs", size): _make_movs(size) for size in (1, 2, 4, 8)},
    **{("stos", size): _make_stos(size) for size in (1, 2, 4, 8)},
    **{("lods", size): _make_lods(size) for size in (1, 2, 4, 8)},
    **{("scas", size): _make_compare(size, scan=True) for size in (1, 2, 4, 8)},
    **{("cmps", size): _make_compare(size, scan=False) for size in (1, 2, 4, 8)},
    **{("ins", size): _make_ins(size) for size in (1, 2, 4)},
    **{("outs", size): _make_outs(size) for size in (1, 2, 4)},
}

__all__ = ["STRINGS"]
