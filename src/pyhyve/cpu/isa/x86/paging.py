"""Page walks: 2-level, PAE and 4-level (SDM Vol. 3A, chapter 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.cpu.engine.state import NO_ADDRESS
from pyhyve.cpu.engine.tlb import Access
from pyhyve.cpu.isa.x86.faults import gp, pf, ss
from pyhyve.cpu.isa.x86.physical import dirty, host_address
from pyhyve.cpu.isa.x86.spec import LOW32, STACK_ACCESS, Cr0, Cr4, Efer, PageFault, Pte
from pyhyve.cpu.isa.x86.state import STATE
from pyhyve.cpu.lang import U32, U64, Pointer, current, inline, kernel, u64

if TYPE_CHECKING:
    from pyhyve.cpu.lang import Value

ADDRESS_BITS = 0x000F_FFFF_FFFF_F000
"""Address field of a 64-bit entry."""
TLB_USER = 0
TLB_SUPERVISOR = 1
_RETRY = NO_ADDRESS - 1
_TABLE_FLAGS = Pte.RW | Pte.US


@kernel(Pointer(STATE), U64, U64, U64, result=U64, name="x86.translate")
def translate(st: Any, address: Any, access: Any, index: Any) -> Any:
    """Guest physical address of a linear one; NO_ADDRESS with an exception pending when the access is refused."""
    st.walk_lasting = 0
    if (st.cr0 & Cr0.PG) == 0:
        return address & LOW32
    gpa: U64 = _RETRY
    while gpa == _RETRY:
        if (st.efer & Efer.LMA) != 0:
            gpa = walk_4_level(st, address, access, index)
        elif (st.cr4 & Cr4.PAE) != 0:
            gpa = walk_pae(st, address & LOW32, access, index)
        else:
            gpa = walk_2_level(st, address & LOW32, access, index)
    return gpa


@kernel(Pointer(STATE), U64, name="x86.check_canonical")
def check_canonical(st: Any, address: Any) -> Any:
    """#GP(0) for an address whose bits 48-63 are not copies of bit 47 (SDM Vol. 1, 3.3.7.1)."""
    if (st.efer & Efer.LMA) != 0 and address.sar(47) + 1 > 1:
        st.bad_address = address
        gp(st)


@inline
def _read64(hva: Value) -> Any:
    """The entry at a host address; where no memory is it reads as all ones, like a bus with nothing on it."""
    entry: U64 = NO_ADDRESS
    if hva != 0:
        entry = hva.cast(U64)[0]
    return entry.get()


@kernel(Pointer(STATE), U64, U64, U64, result=U64, name="x86.mark_entry", attributes="nounwind noinline")
def mark_entry(st: Any, hva: Any, entry: Any, flags: Any) -> Any:
    """Set `flags` in the low half of an entry that still reads `entry`; 0 when another processor changed it."""
    if hva == 0:
        return 1
    old = entry.trunc(32)
    done = current().compare_exchange(hva.cast(U32), old, old | flags.trunc(32)).zext(64)
    if st.dirty != 0:
        dirty.mark_host(st, hva)
    return done


@kernel(Pointer(STATE), U64, U64, U64, U64, result=U64, name="x86.page_fault", attributes="nounwind noinline cold")
def page_fault(st: Any, address: Any, access: Any, index: Any, cause: Any) -> Any:
    """Raise #PF; `cause` is the P and RSVD bits of its error code."""
    error = cause
    kind = access & 3
    if kind == Access.WRITE:
        error = error | PageFault.WRITE
    if index == TLB_USER:
        error = error | PageFault.USER
    if kind == Access.FETCH:
        nx = (st.cr4 & Cr4.PAE) != 0 and (st.efer & Efer.NXE) != 0
        if (st.cr4 & Cr4.SMEP) != 0 or nx:
            error = error | PageFault.FETCH
    pf(st, address, error)
    return NO_ADDRESS


@kernel(Pointer(STATE), U64, U64, U64, result=U64, name="x86.page_denied")
def denied(st: Any, rights: Any, access: Any, index: Any) -> Any:
    """Whether a page with `rights` (the RW and US of all levels, XD when any has it) refuses an access."""
    kind = access & 3
    is_user_page = (rights & Pte.US) != 0
    if kind == Access.FETCH:
        if (rights & Pte.XD) != 0:
            return 1
        if index == TLB_USER:
            return (rights & Pte.US) == 0
        return is_user_page and (st.cr4 & Cr4.SMEP) != 0
    if index == TLB_USER:
        if not is_user_page:
            return 1
        return kind == Access.WRITE and (rights & Pte.RW) == 0
    if is_user_page and index == TLB_SUPERVISOR and (st.cr4 & Cr4.SMAP) != 0:
        return 1
    return kind == Access.WRITE and (rights & Pte.RW) == 0 and (st.cr0 & Cr0.WP) != 0


@inline
def _reserved(st: Value) -> Value:
    """Bits that must be zero in every 64-bit entry: above the physical address, and XD without EFER.NXE."""
    mask = u64(0x000F_FFFF_FFFF_FFFF) & (u64(NO_ADDRESS) << st.physical_bits)
    if (st.efer & Efer.NXE) == 0:
        mask = mask | Pte.XD
    return mask


@inline
def _leaf_flags(access: Value) -> Any:
    flags: U64 = int(Pte.A)
    if (access & 3) == Access.WRITE:
        flags = u64(Pte.A | Pte.D)
    return flags.get()


@inline
def _note_global(st: Value, entry: Value) -> None:
    """Note whether the page of leaf `entry` outlasts changes of CR3."""
    if (st.cr4 & Cr4.PGE) != 0:
        st.walk_lasting = entry & Pte.G


@kernel(Pointer(STATE), U64, U64, name="x86.note_large_page")
def note_large_page(st: Any, address: Any, mask: Any) -> None:
    """Widen the range that INVLPG must treat as large pages so that it covers this one."""
    if st.walk_lasting != 0:
        st.large_global_base, st.large_global_mask = _widened(st.large_global_base, st.large_global_mask, address, mask)
    else:
        st.large_base, st.large_mask = _widened(st.large_base, st.large_mask, address, mask)


@inline
def _widened(base: Value, old_mask: Value, address: Value, mask: Value) -> tuple[Any, Any]:
    start, wide = base.get(), (old_mask & mask).get()
    if start == NO_ADDRESS:
        start = address & mask
        wide = mask
    while ((start ^ address) & wide) != 0:
        wide = wide << 1
    return (start & wide), wide.get()


@kernel(Pointer(STATE), U64, U64, U64, result=U64, name="x86.walk_4_level")
def walk_4_level(st: Any, address: Any, access: Any, index: Any) -> Any:
    """4-level walk of a 48-bit linear address (SDM Vol. 3A, 4.5)."""
    if address.sar(47) + 1 > 1:
        st.bad_address = address
        if (access & STACK_ACCESS) != 0:
            ss(st)
        else:
            gp(st)
        return NO_ADDRESS
    reserved = _reserved(st)
    base = st.cr3 & ADDRESS_BITS
    rights: U64 = int(_TABLE_FLAGS)
    for shift in (39, 30, 21):
        hva = host_address(st, base | ((address >> (shift - 3)) & 0xFF8))
        entry = _read64(hva)
        if (entry & Pte.P) == 0:
            return page_fault(st, address, access, index, 0)
        if (entry & reserved) != 0:
            return page_fault(st, address, access, index, PageFault.PRESENT | PageFault.RESERVED)
        rights = (rights & entry & _TABLE_FLAGS) | ((rights | entry) & Pte.XD)
        if (entry & Pte.PS) != 0:
            size = 1 << shift
            if shift == 39:
                return page_fault(st, address, access, index, PageFault.PRESENT | PageFault.RESERVED)
            if (entry & (size - 1) & ~0x1FFF) != 0:
                return page_fault(st, address, access, index, PageFault.PRESENT | PageFault.RESERVED)
            if denied(st, rights, access, index) != 0:
                return page_fault(st, address, access, index, PageFault.PRESENT)
            flags = _leaf_flags(access)
            if (entry & flags) != flags and mark_entry(st, hva, entry, flags) == 0:
                return _RETRY
            _note_global(st, entry)
            note_large_page(st, address, u64(-size))
            return (entry & ADDRESS_BITS & -size) | (address & (size - 1))
        if (entry & Pte.A) == 0 and mark_entry(st, hva, entry, Pte.A) == 0:
            return _RETRY
        base = entry & ADDRESS_BITS
    return finish_64(st, address, access, index, base, rights, reserved)


@kernel(Pointer(STATE), U64, U64, U64, U64, U64, U64, result=U64, name="x86.walk_last_64")
def finish_64(st: Any, address: Any, access: Any, index: Any, base: Any, rights: Any, reserved: Any) -> Any:
    """Last level of a walk with 64-bit entries: a 4 KiB page."""
    hva = host_address(st, base | ((address >> 9) & 0xFF8))
    entry = _read64(hva)
    if (entry & Pte.P) == 0:
        return page_fault(st, address, access, index, 0)
    if (entry & reserved) != 0:
        return page_fault(st, address, access, index, PageFault.PRESENT | PageFault.RESERVED)
    if denied(st, (rights & entry & _TABLE_FLAGS) | ((rights | entry) & Pte.XD), access, index) != 0:
        return page_fault(st, address, access, index, PageFault.PRESENT)
    flags = _leaf_flags(access)
    if (entry & flags) != flags and mark_entry(st, hva, entry, flags) == 0:
        return _RETRY
    _note_global(st, entry)
    return (entry & ADDRESS_BITS) | (address & 0xFFF)


@kernel(Pointer(STATE), U64, U64, U64, result=U64, name="x86.walk_pae")
def walk_pae(st: Any, address: Any, access: Any, index: Any) -> Any:
    """PAE walk of a 32-bit linear address, from the PDPTEs that MOV to CR3 read (SDM Vol. 3A, 4.4)."""
    reserved = _reserved(st) | 0x7FF0_0000_0000_0000
    top = st.pdpte[address >> 30]
    if (top & Pte.P) == 0:
        return page_fault(st, address, access, index, 0)
    hva = host_address(st, (top & ADDRESS_BITS) | ((address >> 18) & 0xFF8))
    entry = _read64(hva)
    if (entry & Pte.P) == 0:
        return page_fault(st, address, access, index, 0)
    if (entry & reserved) != 0:
        return page_fault(st, address, access, index, PageFault.PRESENT | PageFault.RESERVED)
    rights = entry & (_TABLE_FLAGS | Pte.XD)
    if (entry & Pte.PS) != 0:
        if (entry & 0x1F_E000) != 0:
            return page_fault(st, address, access, index, PageFault.PRESENT | PageFault.RESERVED)
        if denied(st, rights, access, index) != 0:
            return page_fault(st, address, access, index, PageFault.PRESENT)
        flags = _leaf_flags(access)
        if (entry & flags) != flags and mark_entry(st, hva, entry, flags) == 0:
            return _RETRY
        _note_global(st, entry)
        note_large_page(st, address, u64(-0x20_0000))
        return (entry & ADDRESS_BITS & -0x20_0000) | (address & 0x1F_FFFF)
    if (entry & Pte.A) == 0 and mark_entry(st, hva, entry, Pte.A) == 0:
        return _RETRY
    return finish_64(st, address, access, index, entry & ADDRESS_BITS, rights, reserved)


@inline
def _read32(hva: Value) -> Any:
    entry: U64 = LOW32
    if hva != 0:
        entry = hva.cast(U32)[0].zext(64)
    return entry.get()


@kernel(Pointer(STATE), U64, U64, U64, result=U64, name="x86.walk_2_level")
def walk_2_level(st: Any, address: Any, access: Any, index: Any) -> Any:
    """32-bit walk, with 4 MiB pages under CR4.PSE (SDM Vol. 3A, 4.3; PSE-36)."""
    hva = host_address(st, (st.cr3 & 0xFFFF_F000) | ((address >> 20) & 0xFFC))
    entry = _read32(hva)
    if (entry & Pte.P) == 0:
        return page_fault(st, address, access, index, 0)
    flags = _leaf_flags(access)
    if (entry & Pte.PS) != 0 and (st.cr4 & Cr4.PSE) != 0:
        high = (entry >> 13) & 0x1FF
        if (high >> (st.physical_bits - 32)) != 0:
            return page_fault(st, address, access, index, PageFault.PRESENT | PageFault.RESERVED)
        if denied(st, entry & _TABLE_FLAGS, access, index) != 0:
            return page_fault(st, address, access, index, PageFault.PRESENT)
        if (entry & flags) != flags and mark_entry(st, hva, entry, flags) == 0:
            return _RETRY
        _note_global(st, entry)
        note_large_page(st, address, u64(-0x40_0000))
        return (high << 32) | (entry & 0xFFC0_0000) | (address & 0x3F_FFFF)
    if (entry & Pte.A) == 0 and mark_entry(st, hva, entry, Pte.A) == 0:
        return _RETRY
    hva = host_address(st, (entry & 0xFFFF_F000) | ((address >> 10) & 0xFFC))
    last = _read32(hva)
    if (last & Pte.P) == 0:
        return page_fault(st, address, access, index, 0)
    if denied(st, last & entry & _TABLE_FLAGS, access, index) != 0:
        return page_fault(st, address, access, index, PageFault.PRESENT)
    if (last & flags) != flags and mark_entry(st, hva, last, flags) == 0:
        return _RETRY
    _note_global(st, last)
    return (last & 0xFFFF_F000) | (address & 0xFFF)
