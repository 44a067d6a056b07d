"""Segment descriptors: reading them from the GDT and LDT, decoding, and the descriptor caches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.cpu.isa.x86.faults import raise_exception, ss
from pyhyve.cpu.isa.x86.memory import TLB_SUPERVISOR, TLB_USER, load_system, mmu, store_system
from pyhyve.cpu.isa.x86.spec import LOW32, Attr, Efer, SelectorError
from pyhyve.cpu.isa.x86.state import STATE, Seg
from pyhyve.cpu.lang import U64, Pointer, inline, kernel, u64

if TYPE_CHECKING:
    from pyhyve.cpu.lang import Value

NULL_ATTR = int(Attr.UNUSABLE)


def is_null(selector: Value) -> Value:
    """Selectors 0-3."""
    return (selector & 0xFFFC) == 0


def selector_error(selector: Value) -> Value:
    """Error code that names a selector, without EXT."""
    return selector & 0xFFFC


def attributes(descriptor: Value) -> Value:
    """Access rights of a raw descriptor in the layout of `seg_attr`."""
    return (descriptor >> 40) & 0xF0FF


def dpl(attr: Value) -> Value:
    """Descriptor privilege level."""
    return (attr >> 5) & 3


def base(descriptor: Value) -> Value:
    """Low 32 bits of the base."""
    return ((descriptor >> 16) & 0xFF_FFFF) | ((descriptor >> 32) & 0xFF00_0000)


@inline
def limit(descriptor: Value) -> Value:
    """Limit in bytes."""
    raw = (descriptor & 0xFFFF) | ((descriptor >> 32) & 0xF_0000)
    if descriptor.bit(55):
        raw = (raw << 12) | 0xFFF
    return raw.get()


def has(value: Value, bits: int) -> Value:
    """Whether all of `bits` are set."""
    return (value & int(bits)) == int(bits)


def lacks(value: Value, bits: int) -> Value:
    """Whether none of `bits` is set."""
    return (value & int(bits)) == 0


def is_code(attr: Value) -> Value:
    """A code segment."""
    return has(attr, Attr.S | Attr.CODE)


def is_data(attr: Value) -> Value:
    """A data segment."""
    return (attr & int(Attr.S | Attr.CODE)) == int(Attr.S)


def is_writable_data(attr: Value) -> Value:
    """A data segment that may be written."""
    return (attr & int(Attr.S | Attr.CODE | Attr.WRITABLE)) == int(Attr.S | Attr.WRITABLE)


def is_canonical(address: Value) -> Value:
    """Whether bits 47-63 of a linear address are equal."""
    return address.get().sar(47) + 1 <= 1


def in_long_mode(st: Value) -> Value:
    """IA32_EFER.LMA: 64-bit or compatibility mode."""
    return (st.efer & int(Efer.LMA)) != 0


def in_64_bit_code(st: Value) -> Value:
    """64-bit mode proper (CS.L under LMA)."""
    return ((st.efer & int(Efer.LMA)) != 0) & ((st.seg_attr[Seg.CS] & int(Attr.L)) != 0)


@kernel(Pointer(STATE), U64, U64, result=U64, name="x86.descriptor_offset")
def descriptor_offset(st: Any, selector: Any, size: Any) -> Any:
    """Linear address of a selector's descriptor; 0 when its `size` bytes are beyond the table."""
    table = st.gdt_base
    last = st.gdt_limit
    if (selector & SelectorError.TI) != 0:
        if (st.seg_attr[Seg.LDTR] & Attr.UNUSABLE) != 0:
            return 0
        table = st.seg_base[Seg.LDTR]
        last = st.seg_limit[Seg.LDTR]
    offset = selector & 0xFFF8
    if offset + size - 1 > last:
        return 0
    address = table + offset
    if not in_long_mode(st):
        address = address & LOW32
    return address


@kernel(Pointer(STATE), U64, U64, U64, result=U64, name="x86.read_descriptor")
def read_descriptor(st: Any, selector: Any, vector: Any, ext: Any) -> Any:
    """The 8 bytes of a selector's descriptor; exception `vector` (with `ext` in its code) beyond the table's limit."""
    address = descriptor_offset(st, selector, 8)
    if address == 0:
        raise_exception(st, vector, 1, selector_error(selector) | ext)
        return 0
    return load_system(st, address, 8)


@kernel(Pointer(STATE), U64, U64, U64, result=U64, name="x86.read_descriptor_high")
def read_descriptor_high(st: Any, selector: Any, vector: Any, ext: Any) -> Any:
    """The upper 8 bytes of a 16-byte system descriptor (long mode)."""
    address = descriptor_offset(st, selector, 16)
    if address == 0:
        raise_exception(st, vector, 1, selector_error(selector) | ext)
        return 0
    return load_system(st, address + 8, 8)


@kernel(Pointer(STATE), U64, U64, name="x86.set_accessed")
def set_accessed(st: Any, selector: Any, descriptor: Any) -> None:
    """Set the accessed bit of a code or data descriptor in its table; may fault."""
    if (descriptor & (1 << 40)) == 0:
        store_system(st, descriptor_offset(st, selector, 8) + 5, 1, ((descriptor >> 40) & 0xFF) | 1)


@kernel(Pointer(STATE), U64, U64, U64, U64, U64, name="x86.set_segment")
def set_segment(st: Any, seg: Any, selector: Any, base_: Any, limit_: Any, attr: Any) -> None:
    """Fill a descriptor cache."""
    st.seg_sel[seg] = selector & 0xFFFF
    st.seg_base[seg] = base_
    st.seg_limit[seg] = limit_
    st.seg_attr[seg] = attr


@inline
def load_cache(st: Value, seg: Any, selector: Value, descriptor: Value) -> None:
    """Fill a descriptor cache from a raw code or data descriptor."""
    set_segment(st, seg, selector, base(descriptor), limit(descriptor), attributes(descriptor) | Attr.ACCESSED)


@inline
def set_null(st: Value, seg: Any, selector: Any) -> None:
    """Make a data segment register null. FS and GS keep no base: in long mode their MSRs give it back."""
    set_segment(st, seg, selector, 0, 0, NULL_ATTR)


@inline
def set_real(st: Value, seg: Any, selector: Value) -> None:
    """Load as in real mode: base from the selector, limit and rights kept."""
    st.seg_sel[seg] = selector & 0xFFFF
    st.seg_base[seg] = (selector & 0xFFFF) << 4


@inline
def set_v86(st: Value, seg: Any, selector: Value) -> None:
    """Load as in virtual-8086 mode (SDM Vol. 3B, 21.2)."""
    set_segment(st, seg, selector, (selector & 0xFFFF) << 4, 0xFFFF, 0xF3)


@inline
def privilege_index(cpl: Any) -> Value:
    """Translation index of an access made with privilege `cpl`, EFLAGS.AC aside."""
    index = u64(TLB_SUPERVISOR)
    if cpl == 3:
        index = u64(TLB_USER)
    return index.get()


@kernel(Pointer(STATE), U64, U64, U64, U64, U64, U64, result=U64, name="x86.stack_address")
def stack_address(st: Any, base_: Any, limit_: Any, attr: Any, offset: Any, size: Any, error: Any) -> Any:
    """Linear address of `size` bytes at a 16/32-bit stack offset; #SS with `error` beyond the limit."""
    last = (offset + size - 1) & LOW32
    wraps = last < offset
    if (attr & Attr.EXPAND_DOWN) != 0 and (attr & Attr.CODE) == 0:
        top = u64(0xFFFF)
        if (attr & Attr.DB) != 0:
            top = u64(LOW32)
        if wraps or offset <= limit_ or last > top:
            ss(st, error)
    elif last > limit_ or (wraps and limit_ != LOW32):
        ss(st, error)
    return (base_ + offset) & LOW32


@kernel(Pointer(STATE), U64, U64, U64, U64, U64, U64, U64, U64, name="x86.push_at")
def push_at(
    st: Any, base_: Any, limit_: Any, attr: Any, offset: Any, size: Any, value: Any, index: Any, error: Any
) -> None:
    """Store on a stack whose segment need not be loaded yet; #SS with `error`, or #PF."""
    address = stack_address(st, base_, limit_, attr, offset, size, error)
    if st.stop != 0:
        return
    mmu.store_at(st, address, size, value, index)


@kernel(Pointer(STATE), U64, U64, result=U64, name="x86.stack_load")
def stack_load(st: Any, offset: Any, size: Any) -> Any:
    """Read `size` bytes at an offset of the current stack segment, with the current privilege; may fault."""
    index = (st.mode >> 8) & 3
    if in_64_bit_code(st):
        if not is_canonical(offset):
            ss(st, 0)
            return 0
        return mmu.load_at(st, offset, size, index)
    address = stack_address(
        st,
        st.seg_base[Seg.SS],
        st.seg_limit[Seg.SS],
        st.seg_attr[Seg.SS],
        offset & stack_mask(st.seg_attr[Seg.SS]),
        size,
        0,
    )
    if st.stop != 0:
        return 0
    return mmu.load_at(st, address, size, index)


@inline
def stack_mask(ss_attr: Value) -> Value:
    """Stack pointer bits of a 16/32-bit stack segment."""
    mask = u64(0xFFFF)
    if (ss_attr & Attr.DB) != 0:
        mask = u64(LOW32)
    return mask.get()


@inline
def merge_sp(old: Value, new: Value, mask: Value) -> Value:
    """The stack pointer register after its low bits changed; a 32-bit one clears the upper half."""
    merged = new & mask
    if mask == 0xFFFF:
        merged = (old & ~u64(0xFFFF)) | (new & 0xFFFF)
    return merged.get()


@kernel(Pointer(STATE), U64, U64, U64, name="x86.stack_store")
def stack_store(st: Any, offset: Any, size: Any, value: Any) -> None:
    """Write `size` bytes at an offset of the current stack segment, with the current privilege; may fault."""
    index = (st.mode >> 8) & 3
    if in_64_bit_code(st):
        if not is_canonical(offset):
            ss(st, 0)
            return
        mmu.store_at(st, offset, size, value, index)
        return
    attr = st.seg_attr[Seg.SS]
    push_at(st, st.seg_base[Seg.SS], st.seg_limit[Seg.SS], attr, offset & stack_mask(attr), size, value, index, 0)


@inline
def current_stack_mask(st: Value) -> Value:
    """Stack pointer bits in the current mode."""
    mask = stack_mask(st.seg_attr[Seg.SS])
    if in_64_bit_code(st):
        mask = u64((1 << 64) - 1)
    return mask.get()
