"""Model-specific registers and the time-stamp counter (SDM Vol. 4; Vol. 3B, 17.17; Vol. 3A, 11.11 and 11.12)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.cpu.isa.x86.control import flush_tlb, refuse_user
from pyhyve.cpu.isa.x86.descriptors import is_canonical
from pyhyve.cpu.isa.x86.faults import COLD, gp
from pyhyve.cpu.isa.x86.memory import mmu
from pyhyve.cpu.isa.x86.mode import mode_changed
from pyhyve.cpu.isa.x86.spec import LOW32, Cr0, Cr4, Efer, GuestExit, Msr
from pyhyve.cpu.isa.x86.state import STATE, Gpr, Seg
from pyhyve.cpu.lang import U64, Pointer, current, inline, kernel, u64

if TYPE_CHECKING:
    from pyhyve.cpu.lang import Value

PLAIN = {
    Msr.SYSENTER_CS: "sysenter_cs",
    Msr.MISC_ENABLE: "misc_enable",
    Msr.DEBUGCTL: "debugctl",
    Msr.MCG_STATUS: "mcg_status",
    Msr.TSC_AUX: "tsc_aux",
    Msr.STAR: "star",
    Msr.SFMASK: "sfmask",
    Msr.PAT: "pat",
    Msr.MTRR_DEF_TYPE: "mtrr_def_type",
    Msr.EFER: "efer",
}
"""MSRs read from a field; the checks of writes are in `wrmsr`."""
ADDRESSES = {
    Msr.SYSENTER_ESP: "sysenter_esp",
    Msr.SYSENTER_EIP: "sysenter_eip",
    Msr.LSTAR: "lstar",
    Msr.CSTAR: "cstar",
    Msr.KERNEL_GS_BASE: "kernel_gs_base",
}
"""MSRs that hold a canonical linear address."""
FIXED = {
    Msr.PLATFORM_ID: 0,
    Msr.EBL_CR_POWERON: 0,
    Msr.BBL_CR_CTL3: 0,
    Msr.BIOS_SIGN_ID: 0x219 << 32,
    Msr.MTRRCAP: 0x508,
    Msr.MCG_CAP: 0,
}
"""MSRs that always read the same: 8 variable ranges, fixed ranges and WC in MTRRCAP; no machine-check banks."""
IGNORED = (Msr.BIOS_SIGN_ID, Msr.BIOS_UPDT_TRIG, Msr.PLATFORM_ID, Msr.EBL_CR_POWERON)
"""MSRs whose writes change nothing."""

_MTRR_LAST_VARIABLE = Msr.MTRR_PHYSBASE0 + 15
_FIXED_RANGES = [Msr.MTRR_FIX64K, Msr.MTRR_FIX16K, Msr.MTRR_FIX16K + 1, *(Msr.MTRR_FIX4K + i for i in range(8))]
_EFER_WRITABLE = int(Efer.SCE | Efer.LME | Efer.NXE)
_MEMORY_TYPES = 0b1111_0011
"""Bit n: memory type n exists (UC, WC, WT, WP, WB, UC-)."""
_MTRR_TYPES = 0b0111_0011


@inline
def _is_machines(number: Value) -> Value:
    """MSRs that live in the machine's local APIC."""
    apic = number == Msr.APIC_BASE or number == Msr.TSC_DEADLINE
    return apic or (number >= Msr.X2APIC_FIRST and number <= Msr.X2APIC_LAST)


@kernel(Pointer(STATE), result=U64, name="x86.read_tsc")
def read_tsc(st: Any) -> Any:
    """The guest's time-stamp counter: the host's, moved."""
    return current().intrinsic("llvm.readcyclecounter", U64) + st.tsc_offset


@kernel(Pointer(STATE), result=U64, name="x86.rdtsc")
def rdtsc(st: Any) -> Any:
    """RDTSC: the counter; the caller splits it into EDX:EAX."""
    if (st.cr4 & Cr4.TSD) != 0 and st.cpl != 0 and (st.cr0 & Cr0.PE) != 0:
        gp(st, 0)
        return 0
    return read_tsc(st)


@kernel(Pointer(STATE), name="x86.rdtscp")
def rdtscp(st: Any) -> None:
    """RDTSCP: sets EDX:EAX and ECX."""
    value = rdtsc(st)
    if st.stop != 0:
        return
    set_edx_eax(st, value)
    st.gpr[Gpr.RCX] = st.tsc_aux & LOW32


@inline
def set_edx_eax(st: Value, value: Value) -> None:
    """Split a value, clearing the upper halves."""
    st.gpr[Gpr.RAX] = value & LOW32
    st.gpr[Gpr.RDX] = value >> 32


@kernel(Pointer(STATE), name="x86.rdpmc", attributes=COLD)
def rdpmc(st: Any) -> None:
    """RDPMC: there are no counters."""
    gp(st, 0)


@kernel(Pointer(STATE), name="x86.rdmsr", attributes=COLD)
def rdmsr(st: Any) -> None:
    """RDMSR of ECX to EDX:EAX; an MSR of the machine is an exit."""
    if refuse_user(st) != 0:
        return
    value = read_msr(st, st.gpr[Gpr.RCX] & LOW32)
    if st.stop == 0:
        set_edx_eax(st, value)


@kernel(Pointer(STATE), U64, result=U64, name="x86.read_msr", attributes=COLD)
def read_msr(st: Any, number: Any) -> Any:
    """One MSR by number; #GP(0) when it does not exist."""
    for msr, name in (*PLAIN.items(), *ADDRESSES.items()):
        if number == msr:
            return getattr(st, name)
    for msr, value in FIXED.items():
        if number == msr:
            return u64(value)
    if number == Msr.TSC:
        return read_tsc(st)
    if number == Msr.FS_BASE:
        return st.seg_base[Seg.FS]
    if number == Msr.GS_BASE:
        return st.seg_base[Seg.GS]
    if number >= Msr.MTRR_PHYSBASE0 and number <= _MTRR_LAST_VARIABLE:
        return st.mtrr_variable[number - Msr.MTRR_PHYSBASE0]
    for index, fixed in enumerate(_FIXED_RANGES):
        if number == fixed:
            return st.mtrr_fixed[index]
    if _is_machines(number):
        value = mmu.device_load(st, number, 8, GuestExit.MSR_READ)
        if st.stop != 0:
            return 0
        if st.msr_failed != 0:
            st.msr_failed = 0
            gp(st, 0)
        return value
    gp(st, 0)
    return 0


@kernel(Pointer(STATE), name="x86.wrmsr", attributes=COLD)
def wrmsr(st: Any) -> None:
    """WRMSR of EDX:EAX to ECX; an MSR of the machine is an exit."""
    if refuse_user(st) != 0:
        return
    value = (st.gpr[Gpr.RAX] & LOW32) | (st.gpr[Gpr.RDX] << 32)
    write_msr(st, st.gpr[Gpr.RCX] & LOW32, value)


@inline
def _known_types(value: Value, types: int) -> Value:
    """Whether each byte of `value` is a memory type whose bit is set in `types`."""
    good = (value & ~0x0707_0707_0707_0707) == 0
    for shift in range(0, 64, 8):
        good = good & (((u64(types) >> ((value >> shift) & 7)) & 1) != 0)
    return good.get()


@kernel(Pointer(STATE), U64, U64, name="x86.write_msr", attributes=COLD)
def write_msr(st: Any, number: Any, value: Any) -> None:
    """One MSR by number; #GP(0) when it does not exist or refuses the value."""
    for msr, name in ADDRESSES.items():
        if number == msr:
            if is_canonical(value):
                setattr(st, name, value)
            else:
                gp(st, 0)
            return
    for msr in (Msr.SYSENTER_CS, Msr.MISC_ENABLE, Msr.MCG_STATUS, Msr.STAR):
        if number == msr:
            setattr(st, PLAIN[msr], value)
            return
    for msr in (Msr.TSC_AUX, Msr.SFMASK):
        if number == msr:
            if value > LOW32:
                gp(st, 0)
            else:
                setattr(st, PLAIN[msr], value)
            return
    for msr in IGNORED:
        if number == msr:
            return
    if number == Msr.EFER:
        write_efer(st, value)
    elif number == Msr.FS_BASE or number == Msr.GS_BASE:
        if not is_canonical(value):
            gp(st, 0)
        elif number == Msr.FS_BASE:
            st.seg_base[Seg.FS] = value
        else:
            st.seg_base[Seg.GS] = value
    elif number == Msr.TSC:
        st.tsc_offset = st.tsc_offset + value - read_tsc(st)
    elif number == Msr.DEBUGCTL:
        if (value & ~0x3) != 0:
            gp(st, 0)
        else:
            st.debugctl = value
    elif number == Msr.PAT:
        if _known_types(value, _MEMORY_TYPES):
            st.pat = value
        else:
            gp(st, 0)
    elif _is_machines(number):
        mmu.device_store(st, number, 8, value, GuestExit.MSR_WRITE)
        if st.stop == 0 and st.msr_failed != 0:
            st.msr_failed = 0
            gp(st, 0)
    else:
        write_mtrr(st, number, value)


@kernel(Pointer(STATE), U64, U64, name="x86.write_mtrr", attributes=COLD)
def write_mtrr(st: Any, number: Any, value: Any) -> None:
    """The memory-type range registers: kept, though memory here has one type."""
    beyond = u64((1 << 64) - 1) << st.physical_bits
    if number == Msr.MTRR_DEF_TYPE:
        if (value & ~0xCFF) != 0 or ((u64(_MTRR_TYPES) >> (value & 7)) & 1) == 0 or (value & 0xF8) != 0:
            gp(st, 0)
        else:
            st.mtrr_def_type = value
        return
    if number >= Msr.MTRR_PHYSBASE0 and number <= _MTRR_LAST_VARIABLE:
        reserved = beyond | 0x7FF
        if (number & 1) == 0:
            reserved = beyond | 0xF00
            if (value & 0xF8) != 0 or ((u64(_MTRR_TYPES) >> (value & 7)) & 1) == 0:
                gp(st, 0)
                return
        if (value & reserved) != 0:
            gp(st, 0)
            return
        st.mtrr_variable[number - Msr.MTRR_PHYSBASE0] = value
        return
    for index, msr in enumerate(_FIXED_RANGES):
        if number == msr:
            if _known_types(value, _MTRR_TYPES):
                st.mtrr_fixed[index] = value
            else:
                gp(st, 0)
            return
    gp(st, 0)


@kernel(Pointer(STATE), U64, name="x86.write_efer", attributes=COLD)
def write_efer(st: Any, value: Any) -> None:
    """IA32_EFER: LMA is the processor's, LME is fixed while paging is on."""
    changed = value ^ st.efer
    paging_on = (st.cr0 & Cr0.PG) != 0
    if (value & ~(_EFER_WRITABLE | int(Efer.LMA))) != 0 or (paging_on and (changed & Efer.LME) != 0):
        gp(st, 0)
        return
    st.efer = (value & _EFER_WRITABLE) | (st.efer & Efer.LMA)
    if (changed & Efer.NXE) != 0:
        flush_tlb(st)
    mode_changed(st)


__all__ = ["rdmsr", "rdpmc", "rdtsc", "rdtscp", "read_tsc", "wrmsr"]
