"""Layout of an x86 vCPU's state, and the numbers of its registers.

Byte offsets of the general registers are `8 * number` from the start of the structure, so that an 8-bit register is
its offset (AH, CH, DH, BH: one more than RAX, RCX, RDX, RBX).
"""

from __future__ import annotations

from enum import IntEnum

from pyhyve.cpu.engine.state import MIDST, add_engine_fields
from pyhyve.cpu.lang import U8, U16, U32, U64, Array, Pointer, Struct


class Gpr(IntEnum):
    """General registers by their ModRM number."""

    RAX = 0
    RCX = 1
    RDX = 2
    RBX = 3
    RSP = 4
    RBP = 5
    RSI = 6
    RDI = 7
    R8 = 8
    R9 = 9
    R10 = 10
    R11 = 11
    R12 = 12
    R13 = 13
    R14 = 14
    R15 = 15


class Seg(IntEnum):
    """Segment registers by their number in MOV Sreg, then the two system ones."""

    ES = 0
    CS = 1
    SS = 2
    DS = 3
    FS = 4
    GS = 5
    LDTR = 6
    TR = 7


TLB_TABLES = 4
"""Translation indexes (`memory.TLB_*`)."""

STATE = Struct("X86State")
STATE.add("gpr", Array(U64, 16))
STATE.add("fl_result", U64)
"""Lazy flags: ZF is `fl_result == 0`, SF its bit 63, PF the parity of its low byte, each corrected by `fl_aux`."""
STATE.add("fl_aux", U32)
"""Lazy flags: bit 31 CF, bit 30 CF xor OF, bit 3 AF, bit 0 inverts SF, bits 8-15 are xored into the parity byte."""
STATE.add("eflags", U32)
"""The other bits of EFLAGS (TF IF DF IOPL NT RF VM AC VIF VIP ID); bit 1 set, the six arithmetic ones clear."""
_before = set(STATE.fields)
add_engine_fields(STATE)
_ENGINE = set(STATE.fields) - _before
STATE.add("xmm", Array(U64, 32), align_bytes=16)
"""XMM0-15, 16 bytes each (two elements a register)."""
STATE.add("fpr", Array(U64, 16), align_bytes=16)
"""x87 *physical* registers R0-R7, 16 bytes each: 10 bytes of value, then zeros. ST(i) is R((top + i) & 7).
MMi is the low 8 bytes of Ri."""
STATE.add("fp_control", U16).add("fp_status", U16)
"""Control word; status word without TOP (bits 11-13 zero)."""
STATE.add("fp_top", U32)
STATE.add("fp_valid", U32)
"""Bit i set: physical register i is not empty (the abridged tag word of FXSAVE)."""
STATE.add("mxcsr", U32)
STATE.add("fp_opcode", U32).add("fp_pad", U32)
STATE.add("fp_ip", U64).add("fp_dp", U64).add("fp_cs", U32).add("fp_ds", U32)
for _name in ("seg_base", "seg_limit", "seg_attr", "seg_sel"):
    STATE.add(_name, Array(U64, 8))
"""Descriptor caches. `seg_limit` in bytes (already scaled); `seg_attr` in the VMX access-rights layout
(SDM Vol. 3C, 25.4.1): type 0-3, S 4, DPL 5-6, P 7, AVL 12, L 13, D/B 14, G 15, unusable 16."""
STATE.add("gdt_base", U64).add("gdt_limit", U64).add("idt_base", U64).add("idt_limit", U64)
STATE.add("cpl", U64)
STATE.add("cr0", U64).add("cr2", U64).add("cr3", U64).add("cr4", U64)
STATE.add("efer", U64).add("xcr0", U64)
STATE.add("dr", Array(U64, 8))
STATE.add("star", U64).add("lstar", U64).add("cstar", U64).add("sfmask", U64)
STATE.add("kernel_gs_base", U64)
STATE.add("sysenter_cs", U64).add("sysenter_esp", U64).add("sysenter_eip", U64)
STATE.add("apic_base", U64).add("pat", U64).add("misc_enable", U64).add("tsc_aux", U64)
STATE.add("mtrr_def_type", U64).add("mtrr_fixed", Array(U64, 11)).add("mtrr_variable", Array(U64, 16))
STATE.add("spec_ctrl", U64).add("debugctl", U64).add("mcg_status", U64).add("bios_sign_id", U64)
STATE.add("tsc_offset", U64).add("tsc_deadline", U64).add("tsc_hz", U64)
STATE.add("pdpte", Array(U64, 4))
STATE.add("physical_bits", U64)
STATE.add("event_pending", U32).add("event_vector", U32).add("event_error", U64)
STATE.add("event_has_error", U32).add("event_kind", U32).add("event_length", U64)
"""A pending exception or interrupt: `event_kind` of `events.Kind`; `event_length` bytes of a software interrupt's
instruction, which `pc` still points at."""
STATE.add("bad_address", U64)
"""The non-canonical address behind a pending #GP, else 0."""
STATE.add("event_inject", U64)
"""External interrupt given by the machine: 256 + vector, or 0."""
STATE.add("repeat_midst", U64)
"""1 between two elements of the repeated string instruction at `pc`: events then save RF set."""
STATE.add("interrupt_shadow", U32).add("nmi_blocked", U32)
STATE.add("interrupt_line", U32).add("interrupt_pad", U32)
STATE.add("apic_irr", Array(U64, 4)).add("apic_isr", Array(U64, 4)).add("apic_tmr", Array(U64, 4))
STATE.add("apic_tpr", U64).add("apic_on", U64)
"""Of the local APIC: vectors requested, in service, and level-triggered; task priority, bits 7:4 of which are CR8;
whether it is enabled and lives here at all (`apic`)."""
STATE.add("halted", U32).add("last_error", U32)
STATE.add("cpuid", Pointer(U32)).add("cpuid_count", U64)
"""Rows of leaf, subleaf (all ones: any), eax, ebx, ecx, edx."""
STATE.add("msr_address", U64).add("msr_failed", U64)
STATE.add("code_page_hva", U64)
STATE.add("fetch_bytes", Array(U8, 32)).add("zeros", Array(U64, 4))
for _name in (
    "d_length",
    "d_row",
    "d_attributes",
    "d_modrm",
    "d_sib",
    "d_disp",
    "d_immediate",
    "d_second",
    "d_rex",
    "d_segment",
    "d_size",
    "d_address",
    "d_prefix",
    "d_lock",
    "d_repeat",
    "d_opcode",
    "d_has_sib",
):
    STATE.add(_name, U64)
"""The instruction being decoded; sizes as indexes 0-2 for 16, 32, 64 bits."""
STATE.add("fpu_blocked", U32).add("fpu_pad", U32)
"""Bits 1 x87, 2 MMX, 3 SSE: instructions of that unit raise #NM or #UD now."""
STATE.add("ea_segment", U64)
"""Segment of the present instruction's memory operand, where `Row.late` says so (outside 64-bit mode)."""
STATE.add("table_base", U64).add("table_limit", U64)
for _name in ("large", "large_global"):
    STATE.add(f"{_name}_base", U64).add(f"{_name}_mask", U64)
"""Linear addresses that large pages (not global ones, global ones) may cover (`address & large_mask == large_base`; all
ones: none): the TLB holds such pages in 4 KiB pieces, so that INVLPG of one must drop more than its own entry."""

_KEPT = frozenset({
    "tsc_offset", "tsc_hz", "cpuid", "cpuid_count", "physical_bits", "interrupt_line", "bios_sign_id",
    "apic_irr", "apic_isr", "apic_tmr", "apic_tpr", "apic_on",
})  # fmt: skip
"""What RESET leaves: what the machine has configured, its INTR line and local APIC, and the microcode's revision."""
RESET_CLEARS = (*MIDST, *(name for name in STATE.fields if name not in _ENGINE | _KEPT))
"""Fields that RESET zeroes; some have another value then (SDM Vol. 3A, table 10-1)."""
