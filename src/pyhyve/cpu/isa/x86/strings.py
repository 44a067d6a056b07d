"""String instructions (SDM Vol. 2: MOVS, STOS, LODS, SCAS, CMPS, INS, OUTS), with and without REP.

One kernel per operation and element size. A repeated one works on until its count is used up, a fault, a pending
request, or an element that reached a device; it then returns 0, and the instruction runs again from where its
registers stand. Runs of plain memory go at the host's own speed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyhyve.cpu.engine.state import PAGE_BYTES, PAGE_MASK, PAGE_SHIFT, TLB_ENTRIES
from pyhyve.cpu.isa.x86 import flags, ports
from pyhyve.cpu.isa.x86.addressing import check_segment
from pyhyve.cpu.isa.x86.memory import current_index, mmu
from pyhyve.cpu.isa.x86.mode import MODE_FLAT
from pyhyve.cpu.isa.x86.state import STATE, Gpr, Seg
from pyhyve.cpu.lang import U64, Pointer, Value, current, inline, kernel, u64

if TYPE_CHECKING:
    from collections.abc import Callable

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


def _repeated(
    name: str, size: int, registers: tuple[Gpr, ...], element: Callable[..., Value], *, compares: bool = False
) -> Kernel:
    """The kernel of a string instruction: (state, address bits, REP prefix, segment override or 8) -> 1 when complete.

    `element(st, operand, count)` does at least one element, advances the index registers and returns how many it did;
    it may fault. The kernel comes back early, to be called again, when something is asked of the vCPU, when an element
    reached a device, and after each element that a debug trap follows (SDM Vol. 3B, 17.3.1.4); the flags are then still
    those of before. Under a 32-bit address size REP zero-extends `registers` (and RCX) first.
    """

    @kernel(P, U64, U64, U64, result=U64, name=f"x86.{name}{size}", attributes="nounwind noinline")
    def run(st: Any, address_bits: Any, repeat: Any, segment: Any) -> Any:
        operand = _Operand(address_bits, address_mask(st, address_bits), _source_segment(segment))
        count: U64 = 1
        if repeat != 0:
            count = st.gpr[Gpr.RCX] & operand.mask
            _begin_repeat(st, address_bits, registers)
        # A fault leaves the flags as they were before the whole instruction.
        old_result = st.fl_result
        old_aux = st.fl_aux
        st.repeat_midst = 0
        most = current().select((st.eflags & flags.TF) != 0, u64(1), u64((1 << 64) - 1))
        while count != 0:
            done = element(st, operand, _minimum(count, most))
            if st.stop != 0:
                if compares:
                    st.fl_result = old_result
                    st.fl_aux = old_aux
                return 0
            count = count - done
            if repeat != 0:
                set_index(st, u64(Gpr.RCX), address_bits, count)
                if compares and (
                    (repeat == REPEAT_EQUAL and st.fl_result != 0) or (repeat == REPEAT_NOT_EQUAL and st.fl_result == 0)
                ):
                    return 1
            asked = current().load(st.ref("request"), volatile=True) != 0
            trapped = (most == 1) | ((st.watch_on != 0) & (st.watch_hits != 0))
            if count != 0 and ((st.access_done != 0) | asked | trapped):
                st.repeat_midst = 1
                if compares:
                    st.fl_result = old_result
                    st.fl_aux = old_aux
                return 0
        return 1

    return run


@dataclass(frozen=True, slots=True)
class _Operand:
    """What the prefixes of a string instruction say."""

    address_bits: Value
    mask: Value
    """All ones of the address size."""
    segment: Value
    """Of the source."""

    def source(self, st: Value) -> Value:
        """Offset in RSI."""
        return st.gpr[Gpr.RSI] & self.mask

    def target(self, st: Value) -> Value:
        """Offset in RDI."""
        return st.gpr[Gpr.RDI] & self.mask

    def advance(self, st: Value, number: Gpr, offset: Value, by: Value) -> None:
        """Set an index register to `offset + by`."""
        set_index(st, u64(number), self.address_bits, offset + by)


def _make_movs(size: int) -> Kernel:
    letter = {1: "b", 2: "w", 4: "l", 8: "q"}[size]

    @kernel(P, U64, U64, name=f"x86.copy_one{size}", attributes="nounwind noinline")
    def copy_one(st: Any, from_: Any, to: Any) -> None:
        value = mmu.load_at(st, from_, u64(size), current_index(st))
        if st.stop == 0:
            mmu.store_at(st, to, u64(size), value, current_index(st))

    @inline
    def element(st: Any, operand: _Operand, count: Any) -> Any:
        source, target, step = operand.source(st), operand.target(st), _step(st, size)
        done: U64 = 1
        from_ = string_linear(st, source, operand.segment, u64(size), u64(0))
        if st.stop == 0:
            to = string_linear(st, target, u64(Seg.ES), u64(size), u64(1))
            if st.stop != 0:
                # The source's page comes before the destination's segment.
                st.stop = 0
                mmu.probe_read(st, from_, u64(size), current_index(st))
                if st.stop == 0:
                    string_linear(st, target, u64(Seg.ES), u64(size), u64(1))
            else:
                reads, writes = _entry(st, from_), _entry(st, to)
                run: U64 = 0
                if (
                    step == size
                    and (reads.read == from_ & PAGE_MASK) & (writes.write == to & PAGE_MASK)
                    and operand.address_bits != 16
                ):
                    room = _minimum(_run_length(st, source, from_, size), _run_length(st, target, to, size))
                    run = _minimum(room, count)
                if run != 0:
                    done = run
                    current().asm(
                        f"rep movs{letter}", "={rdi},={rsi},={rcx},{rdi},{rsi},{rcx},~{memory}", "{ i64, i64, i64 }",
                        [("i64", (to + writes.addend).ir), ("i64", (from_ + reads.addend).ir), ("i64", run.get().ir)],
                    )  # fmt: skip
                else:
                    copy_one(st, from_, to)
                if st.stop == 0:
                    operand.advance(st, Gpr.RSI, source, step * done)
                    operand.advance(st, Gpr.RDI, target, step * done)
        return done

    return _repeated("movs", size, (Gpr.RCX, Gpr.RSI, Gpr.RDI), element)


def _make_stos(size: int) -> Kernel:
    letter = {1: "b", 2: "w", 4: "l", 8: "q"}[size]

    @inline
    def element(st: Any, operand: _Operand, count: Any) -> Any:
        target, step = operand.target(st), _step(st, size)
        done: U64 = 1
        to = string_linear(st, target, u64(Seg.ES), u64(size), u64(1))
        if st.stop == 0:
            writes = _entry(st, to)
            run: U64 = 0
            if step == size and writes.write == to & PAGE_MASK and operand.address_bits != 16:
                run = _minimum(_run_length(st, target, to, size), count)
            if run != 0:
                done = run
                current().asm(
                    f"rep stos{letter}", "={rdi},={rcx},{rdi},{rcx},{rax},~{memory}", "{ i64, i64 }",
                    [("i64", (to + writes.addend).ir), ("i64", run.get().ir), ("i64", st.gpr[Gpr.RAX].ir)],
                )  # fmt: skip
            else:
                mmu.store_at(st, to, u64(size), st.gpr[Gpr.RAX], current_index(st))
            if st.stop == 0:
                operand.advance(st, Gpr.RDI, target, step * done)
        return done

    return _repeated("stos", size, (Gpr.RCX, Gpr.RDI), element)


def _make_lods(size: int) -> Kernel:
    @inline
    def element(st: Any, operand: _Operand, _count: Any) -> Any:
        source = operand.source(st)
        from_ = string_linear(st, source, operand.segment, u64(size), u64(0))
        if st.stop == 0:
            value = mmu.load_at(st, from_, u64(size), current_index(st))
            if st.stop == 0:
                _set_accumulator(st, value, size)
                operand.advance(st, Gpr.RSI, source, _step(st, size))
        return u64(1)

    return _repeated("lods", size, (Gpr.RCX,), element)


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
    @inline
    def element(st: Any, operand: _Operand, _count: Any) -> Any:
        source, target, step = operand.source(st), operand.target(st), _step(st, size)
        first = st.gpr[Gpr.RAX]
        second: U64 = 0
        to = string_linear(st, target, u64(Seg.ES), u64(size), u64(0))
        if st.stop == 0:
            second = mmu.load_at(st, to, u64(size), current_index(st))
        if not scan and st.stop == 0:
            from_ = string_linear(st, source, operand.segment, u64(size), u64(0))
            if st.stop == 0:
                first = mmu.load_at(st, from_, u64(size), current_index(st))
        if st.stop == 0:
            _set_compare_flags(st, first, second, size)
            if not scan:
                operand.advance(st, Gpr.RSI, source, step)
            operand.advance(st, Gpr.RDI, target, step)
        return u64(1)

    return _repeated("scas" if scan else "cmps", size, (Gpr.RCX,), element, compares=True)


@inline
def _port(st: Value) -> Value:
    return st.gpr[Gpr.RDX] & 0xFFFF


def _make_ins(size: int) -> Kernel:
    @inline
    def element(st: Any, operand: _Operand, _count: Any) -> Any:
        target = operand.target(st)
        ports.check_port(st, _port(st), u64(size))
        if st.stop == 0:
            to = string_linear(st, target, u64(Seg.ES), u64(size), u64(1))
            if st.stop == 0:
                # The destination must be known good before the port is read: reading may have effects.
                mmu.probe_write(st, to, u64(size), current_index(st))
            if st.stop == 0:
                value = ports.port_in(st, _port(st), u64(size))
                if st.stop == 0:
                    mmu.store_at(st, to, u64(size), value, current_index(st))
            if st.stop == 0:
                operand.advance(st, Gpr.RDI, target, _step(st, size))
        return u64(1)

    return _repeated("ins", size, (Gpr.RCX,), element)


def _make_outs(size: int) -> Kernel:
    @inline
    def element(st: Any, operand: _Operand, _count: Any) -> Any:
        source = operand.source(st)
        ports.check_port(st, _port(st), u64(size))
        if st.stop == 0:
            from_ = string_linear(st, source, operand.segment, u64(size), u64(0))
            if st.stop == 0:
                value = mmu.load_at(st, from_, u64(size), current_index(st))
                if st.stop == 0:
                    ports.port_out(st, _port(st), u64(size), value)
            if st.stop == 0:
                operand.advance(st, Gpr.RSI, source, _step(st, size))
        return u64(1)

    return _repeated("outs", size, (Gpr.RCX,), element)


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
