"""Control registers, XCR0 and TLB invalidation (SDM Vol. 3A, 2.5 and 4.10; Vol. 2A/B, MOV CR, LMSW, INVLPG)."""

from __future__ import annotations

from typing import Any

from pyhyve.cpu.engine.state import NO_ADDRESS
from pyhyve.cpu.isa.x86 import apic
from pyhyve.cpu.isa.x86.descriptors import in_64_bit_code, is_canonical
from pyhyve.cpu.isa.x86.faults import COLD, gp, ud
from pyhyve.cpu.isa.x86.memory import mmu
from pyhyve.cpu.isa.x86.mode import mode_changed
from pyhyve.cpu.isa.x86.physical import host_address
from pyhyve.cpu.isa.x86.spec import CR0_WRITABLE, CR4_WRITABLE, LOW32, Attr, Cr0, Cr4, Efer
from pyhyve.cpu.isa.x86.state import STATE, Gpr, Seg
from pyhyve.cpu.lang import U64, Pointer, Value, inline, kernel, u64

_PAGING_CR0 = int(Cr0.PG | Cr0.WP | Cr0.PE)
_PAGING_CR4 = int(Cr4.PAE | Cr4.PSE | Cr4.PGE | Cr4.SMEP | Cr4.SMAP)
_PDPTE_RESERVED = 0x1E6


@kernel(Pointer(STATE), result=U64, name="x86.refuse_user", attributes=COLD)
def refuse_user(st: Any) -> Any:
    """Raise #GP(0) and return 1 unless CPL is 0."""
    if st.cpl != 0:
        gp(st, 0)
        return 1
    return 0


@kernel(Pointer(STATE), name="x86.flush_tlb")
def flush_tlb(st: Any) -> None:
    """Forget all translations."""
    mmu.tlb.flush_all(st)
    st.large_base = NO_ADDRESS
    st.large_mask = NO_ADDRESS
    st.large_global_base = NO_ADDRESS
    st.large_global_mask = NO_ADDRESS


@kernel(Pointer(STATE), name="x86.flush_local_tlb")
def flush_local_tlb(st: Any) -> None:
    """Forget all translations but those of global pages (SDM Vol. 3A, 4.10.2.4)."""
    mmu.tlb.flush_local(st)
    st.large_base = NO_ADDRESS
    st.large_mask = NO_ADDRESS


@inline
def uses_pae_pointers(cr0: Value, cr4: Value, efer: Value) -> Value:
    """Whether paging is on in PAE format outside long mode."""
    return ((cr0 & int(Cr0.PG)) != 0) & ((cr4 & int(Cr4.PAE)) != 0) & ((efer & int(Efer.LME)) == 0)


@kernel(Pointer(STATE), U64, result=U64, name="x86.load_pdptes", attributes=COLD)
def load_pdptes(st: Any, cr3: Any) -> Any:
    """Read the four PDPTEs of `cr3`; 0 when one is present with reserved bits set (nothing is loaded then)."""
    hva = host_address(st, cr3 & 0xFFFF_FFE0)
    if hva == 0:
        return 0
    reserved = (u64(NO_ADDRESS) << st.physical_bits) | _PDPTE_RESERVED
    table = hva.cast(U64)
    for i in range(4):
        if (table[i] & 1) != 0 and (table[i] & reserved) != 0:
            return 0
    for i in range(4):
        st.pdpte[i] = table[i]
    return 1


@kernel(Pointer(STATE), U64, name="x86.load_cr3", attributes=COLD)
def load_cr3(st: Any, value: Any) -> None:
    """Set CR3 in a task switch: #GP(0) for bad PDPTEs."""
    if uses_pae_pointers(st.cr0, st.cr4, st.efer) and load_pdptes(st, value) == 0:
        gp(st, 0)
        return
    st.cr3 = value
    flush_local_tlb(st)


@kernel(Pointer(STATE), U64, result=U64, name="x86.read_cr", attributes=COLD)
def read_cr(st: Any, number: Any) -> Any:
    """MOV from CR `number`."""
    value: U64 = 0
    if number == 0:
        value = st.cr0
    elif number == 2:
        value = st.cr2
    elif number == 3:
        value = st.cr3
    elif number == 4:
        value = st.cr4
    elif number != 8:
        ud(st)
        return 0
    if refuse_user(st) != 0:
        return 0
    if number == 8:
        value = st.apic_tpr >> 4
    return value


@kernel(Pointer(STATE), U64, U64, name="x86.write_cr", attributes=COLD)
def write_cr(st: Any, number: Any, value_: Any) -> None:
    """MOV to CR `number`; outside 64-bit mode only the low half of the register counts."""
    value = value_.get()
    if not in_64_bit_code(st):
        value = value & LOW32
    if number == 1 or (number > 4 and number != 8):
        ud(st)
        return
    if refuse_user(st) != 0:
        return
    if number == 0:
        write_cr0(st, value)
    elif number == 2:
        st.cr2 = value
    elif number == 3:
        write_cr3(st, value)
    elif number == 4:
        write_cr4(st, value)
    elif value > 15:
        gp(st, 0)
    else:
        apic.set_priority(st, value << 4)


@kernel(Pointer(STATE), U64, name="x86.write_cr0", attributes=COLD)
def write_cr0(st: Any, value: Any) -> None:
    """CR0 with its consistency rules; setting and clearing PG enters and leaves long mode."""
    invalid_paging = (value & Cr0.PG) != 0 and (value & Cr0.PE) == 0
    invalid_cache = (value & Cr0.NW) != 0 and (value & Cr0.CD) == 0
    if value > LOW32 or invalid_paging or invalid_cache:
        gp(st, 0)
        return
    new = (value & CR0_WRITABLE) | Cr0.ET
    changed = new ^ st.cr0
    efer = st.efer
    if (changed & Cr0.PG) != 0:
        if (new & Cr0.PG) != 0:
            if (efer & Efer.LME) != 0:
                if (st.cr4 & Cr4.PAE) == 0 or (st.seg_attr[Seg.CS] & Attr.L) != 0:
                    gp(st, 0)
                    return
                efer = efer | Efer.LMA
        else:
            if in_64_bit_code(st):
                gp(st, 0)
                return
            efer = efer & ~int(Efer.LMA)
    reload = uses_pae_pointers(new, st.cr4, efer) and (changed & (Cr0.PG | Cr0.CD | Cr0.NW)) != 0
    if reload and load_pdptes(st, st.cr3) == 0:
        gp(st, 0)
        return
    st.cr0 = new
    st.efer = efer
    if (changed & _PAGING_CR0) != 0:
        flush_tlb(st)
    mode_changed(st)


@kernel(Pointer(STATE), U64, name="x86.write_cr3", attributes="nounwind noinline")
def write_cr3(st: Any, value: Any) -> None:
    """CR3 from MOV: reserved bits and PDPTEs are checked."""
    if (value & (u64(NO_ADDRESS) << st.physical_bits)) != 0:
        gp(st, 0)
        return
    load_cr3(st, value)


@kernel(Pointer(STATE), U64, name="x86.write_cr4", attributes=COLD)
def write_cr4(st: Any, value: Any) -> None:
    """CR4: only the bits that this model has."""
    in_long = (st.efer & Efer.LMA) != 0
    if (value & ~int(CR4_WRITABLE)) != 0 or (in_long and (value & Cr4.PAE) == 0):
        gp(st, 0)
        return
    changed = value ^ st.cr4
    reload = uses_pae_pointers(st.cr0, value, st.efer) and (changed & _PAGING_CR4) != 0
    if reload and load_pdptes(st, st.cr3) == 0:
        gp(st, 0)
        return
    st.cr4 = value
    if (changed & _PAGING_CR4) != 0:
        flush_tlb(st)
    mode_changed(st)


@kernel(Pointer(STATE), name="x86.clts", attributes=COLD)
def clts(st: Any) -> None:
    """CLTS."""
    if refuse_user(st) == 0:
        st.cr0 = st.cr0 & ~int(Cr0.TS)
        mode_changed(st)


@kernel(Pointer(STATE), U64, name="x86.lmsw", attributes=COLD)
def lmsw(st: Any, value: Any) -> None:
    """LMSW: PE can be set, not cleared."""
    if refuse_user(st) == 0:
        write_cr0(st, (st.cr0 & ~0xE) | (value & 0xF))


@kernel(Pointer(STATE), result=U64, name="x86.refuse_umip", attributes=COLD)
def refuse_umip(st: Any) -> Any:
    """Raise #GP(0) and return 1 when UMIP forbids SGDT, SIDT, SLDT, STR and SMSW here."""
    if (st.cr4 & Cr4.UMIP) != 0 and st.cpl != 0:
        gp(st, 0)
        return 1
    return 0


@kernel(Pointer(STATE), result=U64, name="x86.smsw", attributes=COLD)
def smsw(st: Any) -> Any:
    """SMSW: all of CR0; the caller stores as many bytes as it must."""
    if refuse_umip(st) != 0:
        return 0
    return st.cr0


@kernel(Pointer(STATE), U64, name="x86.invlpg", attributes="nounwind noinline")
def invlpg(st: Any, address: Any) -> None:
    """INVLPG of a linear address. The TLB holds large pages in pieces: where one may be, everything goes."""
    if refuse_user(st) != 0 or not is_canonical(address):
        return
    if st.large_global_base != NO_ADDRESS and (address & st.large_global_mask) == st.large_global_base:
        flush_tlb(st)
        return
    if st.large_base != NO_ADDRESS and (address & st.large_mask) == st.large_base:
        flush_local_tlb(st)
    mmu.tlb.flush_page(st, address)


@kernel(Pointer(STATE), name="x86.wbinvd", attributes=COLD)
def wbinvd(st: Any) -> None:
    """WBINVD: caches are coherent here, so only its privilege check remains."""
    refuse_user(st)


@kernel(Pointer(STATE), name="x86.invd", attributes=COLD)
def invd(st: Any) -> None:
    """INVD, as WBINVD."""
    refuse_user(st)


@kernel(Pointer(STATE), name="x86.xsetbv", attributes=COLD)
def xsetbv(st: Any) -> None:
    """XSETBV: x87 must stay on; SSE is the only other component."""
    if (st.cr4 & Cr4.OSXSAVE) == 0:
        ud(st)
        return
    value = (st.gpr[Gpr.RAX] & LOW32) | (st.gpr[Gpr.RDX] << 32)
    if st.cpl != 0 or st.gpr[Gpr.RCX].trunc(32) != 0 or (value & ~3) != 0 or (value & 1) == 0:
        gp(st, 0)
        return
    st.xcr0 = value


__all__ = [
    "clts",
    "flush_tlb",
    "invd",
    "invlpg",
    "lmsw",
    "load_cr3",
    "read_cr",
    "refuse_umip",
    "refuse_user",
    "smsw",
    "wbinvd",
    "write_cr",
    "xsetbv",
]
