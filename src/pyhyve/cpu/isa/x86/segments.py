"""Loading segment and descriptor-table registers, and the instructions that examine selectors.

SDM Vol. 2A/B: MOV to Sreg, LLDT, LTR, SLDT, STR, LAR, LSL, VERR, VERW, ARPL, LGDT, LIDT, SGDT, SIDT.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.cpu.isa.x86 import descriptors as desc
from pyhyve.cpu.isa.x86.control import refuse_umip, refuse_user
from pyhyve.cpu.isa.x86.descriptors import (
    NULL_ATTR,
    dpl,
    in_64_bit_code,
    in_long_mode,
    is_canonical,
    is_code,
    is_data,
    is_null,
    is_writable_data,
    load_cache,
    read_descriptor,
    read_descriptor_high,
    selector_error,
    set_accessed,
    set_null,
    set_real,
    set_segment,
    set_v86,
)
from pyhyve.cpu.isa.x86.faults import COLD, gp, np, ss, ud
from pyhyve.cpu.isa.x86.memory import load, load_system, store, store_system
from pyhyve.cpu.isa.x86.mode import mode_changed
from pyhyve.cpu.isa.x86.spec import LOW32, Attr, Cr0, Eflags, SelectorError, System, Vector
from pyhyve.cpu.isa.x86.state import STATE, Seg
from pyhyve.cpu.lang import U64, Pointer, inline, kernel, u64

if TYPE_CHECKING:
    from pyhyve.cpu.lang import Value

VALID = 1 << 32
"""ZF in the results of `lar`, `lsl` and `arpl`."""

_LAR_TYPES = sum(1 << t for t in (1, 2, 3, 4, 5, 9, 11, 12))
_LAR_TYPES_LONG = sum(1 << t for t in (2, 9, 11, 12))
_LSL_TYPES = sum(1 << t for t in (1, 2, 3, 9, 11))
_LSL_TYPES_LONG = sum(1 << t for t in (2, 9, 11))


@kernel(Pointer(STATE), U64, U64, name="x86.load_segment", attributes="nounwind noinline")
def load_segment(st: Any, seg: Any, selector_: Any) -> None:
    """Load ES, SS, DS, FS or GS; the interrupt shadow of SS is the caller's."""
    selector = selector_ & 0xFFFF
    if (st.cr0 & Cr0.PE) == 0:
        set_real(st, seg, selector)
        mode_changed(st)
        return
    if (st.eflags & Eflags.VM) != 0:
        set_v86(st, seg, selector)
        mode_changed(st)
        return
    if seg == Seg.SS:
        load_stack_segment(st, selector)
        return
    if is_null(selector):
        set_null(st, seg, selector)
        mode_changed(st)
        return
    descriptor = read_descriptor(st, selector, Vector.GP, 0)
    if st.stop != 0:
        return
    attr = desc.attributes(descriptor)
    error = selector_error(selector)
    code = is_code(attr)
    conforming = code and (attr & Attr.CONFORMING) != 0
    if not is_data(attr) and not (code and (attr & Attr.READABLE) != 0):
        gp(st, error)
        return
    if not conforming and (dpl(attr) < (selector & 3) or dpl(attr) < st.cpl):
        gp(st, error)
        return
    if (attr & Attr.P) == 0:
        np(st, error)
        return
    set_accessed(st, selector, descriptor)
    if st.stop != 0:
        return
    load_cache(st, seg, selector, descriptor)
    mode_changed(st)


@kernel(Pointer(STATE), U64, name="x86.load_stack_segment")
def load_stack_segment(st: Any, selector: Any) -> None:
    """SS in protected mode."""
    if is_null(selector):
        if not in_64_bit_code(st) or st.cpl == 3 or (selector & 3) != st.cpl:
            gp(st, 0)
            return
        set_segment(st, Seg.SS, selector, 0, 0, NULL_ATTR | (st.cpl << 5))
        mode_changed(st)
        return
    descriptor = read_descriptor(st, selector, Vector.GP, 0)
    if st.stop != 0:
        return
    attr = desc.attributes(descriptor)
    error = selector_error(selector)
    if (selector & 3) != st.cpl or dpl(attr) != st.cpl or not is_writable_data(attr):
        gp(st, error)
        return
    if (attr & Attr.P) == 0:
        ss(st, error)
        return
    set_accessed(st, selector, descriptor)
    if st.stop != 0:
        return
    load_cache(st, Seg.SS, selector, descriptor)
    mode_changed(st)


@kernel(Pointer(STATE), result=U64, name="x86.refuse_real", attributes=COLD)
def refuse_real(st: Any) -> Any:
    """Raise #UD and return 1 in real-address and virtual-8086 mode."""
    if (st.cr0 & Cr0.PE) == 0 or (st.eflags & Eflags.VM) != 0:
        ud(st)
        return 1
    return 0


@kernel(Pointer(STATE), U64, U64, result=U64, name="x86.system_descriptor", attributes=COLD)
def system_descriptor(st: Any, selector: Any, types: Any) -> Any:
    """Descriptor for LLDT and LTR: in the GDT, of one of `types` (a bit each), present."""
    error = selector_error(selector)
    if (selector & SelectorError.TI) != 0:
        gp(st, error)
        return 0
    descriptor = read_descriptor(st, selector, Vector.GP, 0)
    if st.stop != 0:
        return 0
    attr = desc.attributes(descriptor)
    if (attr & Attr.S) != 0 or ((types >> (attr & 0xF)) & 1) == 0:
        gp(st, error)
        return 0
    if (attr & Attr.P) == 0:
        np(st, error)
        return 0
    return descriptor


@kernel(Pointer(STATE), U64, U64, result=U64, name="x86.system_base", attributes=COLD)
def system_base(st: Any, selector: Any, descriptor: Any) -> Any:
    """Base of an LDT or TSS: 64 bits in long mode, where it must be canonical and its upper type zero."""
    low = desc.base(descriptor)
    if not in_long_mode(st):
        return low
    high = read_descriptor_high(st, selector, Vector.GP, 0)
    if st.stop != 0:
        return 0
    full = low | (high << 32)
    if ((high >> 40) & 0x1F) != 0 or not is_canonical(full):
        gp(st, selector_error(selector))
    return full


@kernel(Pointer(STATE), U64, name="x86.lldt", attributes=COLD)
def lldt(st: Any, selector_: Any) -> None:
    """LLDT."""
    selector = selector_ & 0xFFFF
    if refuse_real(st) != 0 or refuse_user(st) != 0:
        return
    if is_null(selector):
        set_null(st, Seg.LDTR, selector)
        return
    descriptor = system_descriptor(st, selector, 1 << System.LDT)
    if st.stop != 0:
        return
    address = system_base(st, selector, descriptor)
    if st.stop != 0:
        return
    set_segment(st, Seg.LDTR, selector, address, desc.limit(descriptor), desc.attributes(descriptor))


@kernel(Pointer(STATE), U64, name="x86.ltr", attributes=COLD)
def ltr(st: Any, selector_: Any) -> None:
    """LTR: the TSS becomes busy."""
    selector = selector_ & 0xFFFF
    if refuse_real(st) != 0 or refuse_user(st) != 0:
        return
    if is_null(selector):
        gp(st, 0)
        return
    types = u64(1 << System.TSS | 1 << System.TSS16)
    if in_long_mode(st):
        types = u64(1 << System.TSS)
    descriptor = system_descriptor(st, selector, types)
    if st.stop != 0:
        return
    address = system_base(st, selector, descriptor)
    if st.stop != 0:
        return
    store_system(st, desc.descriptor_offset(st, selector, 8) + 5, 1, ((descriptor >> 40) & 0xFF) | 2)
    if st.stop != 0:
        return
    set_segment(st, Seg.TR, selector, address, desc.limit(descriptor), desc.attributes(descriptor) | 2)


@kernel(Pointer(STATE), result=U64, name="x86.sldt", attributes=COLD)
def sldt(st: Any) -> Any:
    """SLDT: the selector."""
    if refuse_real(st) != 0 or refuse_umip(st) != 0:
        return 0
    return st.seg_sel[Seg.LDTR]


@kernel(Pointer(STATE), result=U64, name="x86.str", attributes=COLD)
def str_(st: Any) -> Any:
    """STR: the selector."""
    if refuse_real(st) != 0 or refuse_umip(st) != 0:
        return 0
    return st.seg_sel[Seg.TR]


@inline
def _types(st: Value, legacy: int, long_: int) -> Value:
    types = u64(legacy)
    if in_long_mode(st):
        types = u64(long_)
    return types.get()


@kernel(Pointer(STATE), U64, U64, result=U64, name="x86.visible_descriptor", attributes=COLD)
def visible_descriptor(st: Any, selector: Any, types: Any) -> Any:
    """Descriptor of a selector that LAR or LSL may see: code, data or one of the system `types`; 0 otherwise."""
    if is_null(selector):
        return 0
    address = desc.descriptor_offset(st, selector, 8)
    if address == 0:
        return 0
    descriptor = load_system(st, address, 8)
    if st.stop != 0:
        return 0
    attr = desc.attributes(descriptor)
    if (attr & Attr.S) == 0 and ((types >> (attr & 0xF)) & 1) == 0:
        return 0
    conforming = is_code(attr) and (attr & Attr.CONFORMING) != 0
    if not conforming and (dpl(attr) < st.cpl or dpl(attr) < (selector & 3)):
        return 0
    # A system descriptor that would be all zeros has no valid type, so 0 is free to mean "not visible".
    return descriptor


@kernel(Pointer(STATE), U64, result=U64, name="x86.lar", attributes=COLD)
def lar(st: Any, selector: Any) -> Any:
    """LAR: access rights with `VALID` (ZF = 1), or 0 (ZF = 0)."""
    if refuse_real(st) != 0:
        return 0
    descriptor = visible_descriptor(st, selector & 0xFFFF, _types(st, _LAR_TYPES, _LAR_TYPES_LONG))
    if st.stop != 0 or descriptor == 0:
        return 0
    return ((descriptor >> 32) & 0x00F0_FF00) | VALID


@kernel(Pointer(STATE), U64, result=U64, name="x86.lsl", attributes=COLD)
def lsl(st: Any, selector: Any) -> Any:
    """LSL: the limit in bytes with `VALID` (ZF = 1), or 0 (ZF = 0)."""
    if refuse_real(st) != 0:
        return 0
    descriptor = visible_descriptor(st, selector & 0xFFFF, _types(st, _LSL_TYPES, _LSL_TYPES_LONG))
    if st.stop != 0 or descriptor == 0:
        return 0
    return desc.limit(descriptor) | VALID


@kernel(Pointer(STATE), U64, result=U64, name="x86.verr", attributes=COLD)
def verr(st: Any, selector: Any) -> Any:
    """VERR: ZF."""
    if refuse_real(st) != 0:
        return 0
    descriptor = visible_descriptor(st, selector & 0xFFFF, 0)
    if st.stop != 0 or descriptor == 0:
        return 0
    attr = desc.attributes(descriptor)
    return is_data(attr) or (attr & Attr.READABLE) != 0


@kernel(Pointer(STATE), U64, result=U64, name="x86.verw", attributes=COLD)
def verw(st: Any, selector: Any) -> Any:
    """VERW: ZF."""
    if refuse_real(st) != 0:
        return 0
    descriptor = visible_descriptor(st, selector & 0xFFFF, 0)
    if st.stop != 0 or descriptor == 0:
        return 0
    return is_writable_data(desc.attributes(descriptor))


@kernel(Pointer(STATE), U64, U64, result=U64, name="x86.arpl", attributes=COLD)
def arpl(st: Any, selector: Any, other: Any) -> Any:
    """ARPL: the adjusted selector, with `VALID` (ZF = 1) when its RPL was raised."""
    if refuse_real(st) != 0:
        return 0
    if (selector & 3) < (other & 3):
        return (selector & 0xFFFC) | (other & 3) | VALID
    return selector & 0xFFFF


@kernel(Pointer(STATE), U64, U64, name="x86.load_table_register", attributes=COLD)
def load_table_register(st: Any, address: Any, opsize: Any) -> None:
    """Read the operand of LGDT or LIDT into `table_base` and `table_limit`; checks and faults."""
    if refuse_user(st) != 0:
        return
    limit = load(st, address, 2)
    if st.stop != 0:
        return
    base: U64 = 0
    if in_64_bit_code(st):
        base = load(st, address + 2, 8)
        if st.stop != 0:
            return
        if not is_canonical(base):
            gp(st, 0)
            return
    else:
        base = load(st, (address + 2) & LOW32, 4)
        if st.stop != 0:
            return
        if opsize == 2:
            base = base & 0xFF_FFFF
    st.table_base = base
    st.table_limit = limit


@kernel(Pointer(STATE), U64, U64, name="x86.lgdt", attributes=COLD)
def lgdt(st: Any, address: Any, opsize: Any) -> None:
    """LGDT from a linear address."""
    load_table_register(st, address, opsize)
    if st.stop == 0:
        st.gdt_base = st.table_base
        st.gdt_limit = st.table_limit


@kernel(Pointer(STATE), U64, U64, name="x86.lidt", attributes=COLD)
def lidt(st: Any, address: Any, opsize: Any) -> None:
    """LIDT from a linear address."""
    load_table_register(st, address, opsize)
    if st.stop == 0:
        st.idt_base = st.table_base
        st.idt_limit = st.table_limit


@kernel(Pointer(STATE), U64, U64, U64, name="x86.store_table_register", attributes=COLD)
def store_table_register(st: Any, address: Any, base: Any, limit: Any) -> None:
    """Store a limit and a base (8 bytes of it in 64-bit mode, else 4)."""
    if refuse_umip(st) != 0:
        return
    store(st, address, 2, limit)
    if st.stop != 0:
        return
    if in_64_bit_code(st):
        store(st, address + 2, 8, base)
    else:
        store(st, (address + 2) & LOW32, 4, base)


@kernel(Pointer(STATE), U64, name="x86.sgdt", attributes=COLD)
def sgdt(st: Any, address: Any) -> None:
    """SGDT to a linear address."""
    store_table_register(st, address, st.gdt_base, st.gdt_limit)


@kernel(Pointer(STATE), U64, name="x86.sidt", attributes=COLD)
def sidt(st: Any, address: Any) -> None:
    """SIDT to a linear address."""
    store_table_register(st, address, st.idt_base, st.idt_limit)


__all__ = [
    "VALID",
    "arpl",
    "lar",
    "lgdt",
    "lidt",
    "lldt",
    "load_segment",
    "lsl",
    "ltr",
    "sgdt",
    "sidt",
    "sldt",
    "str_",
    "verr",
    "verw",
]
