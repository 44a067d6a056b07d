"""Structures of the KVM ABI (Linux `include/uapi/linux/kvm.h`, `arch/x86/include/uapi/asm/kvm.h`).

Names are the kernel's; nested structures are written flat as `outer.inner`. A test compares every offset and size
with the headers of the system.
"""

from __future__ import annotations

from pyhyve.kvm.layout import StructLayout

SEGMENT_NAMES = ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")
"""In the order of `struct kvm_sregs`."""

_SEGMENT_FIELDS = "base:Q limit:I selector:H type:B present:B dpl:B db:B s:B l:B g:B avl:B unusable:B _:1x"


def _nested(prefix: str, fields: str) -> str:
    return " ".join(word if word.startswith("_:") else f"{prefix}.{word}" for word in fields.split())


# --- system and VM ----------------------------------------------------------------------------------------------------

USERSPACE_MEMORY_REGION = StructLayout(
    "kvm_userspace_memory_region", "slot:I flags:I guest_phys_addr:Q memory_size:Q userspace_addr:Q"
)
IRQ_LEVEL = StructLayout("kvm_irq_level", "irq:I level:I")
IRQCHIP = StructLayout("kvm_irqchip", "chip_id:I _:4x chip:512s")
IRQFD = StructLayout("kvm_irqfd", "fd:I gsi:I flags:I resamplefd:I _:16x")
IOEVENTFD = StructLayout("kvm_ioeventfd", "datamatch:Q addr:Q len:I fd:i flags:I _:36x")
PIT_CONFIG = StructLayout("kvm_pit_config", "flags:I _:60x")
PIT_STATE2 = StructLayout("kvm_pit_state2", "channels:72s flags:I _:36x")
CLOCK_DATA = StructLayout("kvm_clock_data", "clock:Q flags:I _:4x realtime:Q host_tsc:Q _:16x")
ENABLE_CAP = StructLayout("kvm_enable_cap", "cap:I flags:I args:4Q _:64x")
MSI = StructLayout("kvm_msi", "address_lo:I address_hi:I data:I flags:I devid:I _:12x")
IRQ_ROUTING = StructLayout("kvm_irq_routing", "nr:I flags:I")
IRQ_ROUTING_ENTRY = StructLayout(
    "kvm_irq_routing_entry", "gsi:I type:I flags:I _:4x u.msi.address_lo:I u.msi.address_hi:I u.msi.data:I _:20x"
)
"""The MSI arm of the union; for an irqchip pin `address_lo` is the chip and `address_hi` the pin."""
DIRTY_LOG = StructLayout("kvm_dirty_log", "slot:I _:4x dirty_bitmap:Q")
CLEAR_DIRTY_LOG = StructLayout("kvm_clear_dirty_log", "slot:I num_pages:I first_page:Q dirty_bitmap:Q")
DIRTY_GFN = StructLayout("kvm_dirty_gfn", "flags:I slot:I offset:Q")
COALESCED_MMIO_ZONE = StructLayout("kvm_coalesced_mmio_zone", "addr:Q size:I pio:I")
COALESCED_MMIO = StructLayout("kvm_coalesced_mmio", "phys_addr:Q len:I pio:I data:8s")
COALESCED_MMIO_RING = StructLayout("kvm_coalesced_mmio_ring", "first:I last:I")
CREATE_DEVICE = StructLayout("kvm_create_device", "type:I fd:I flags:I")
DEVICE_ATTR = StructLayout("kvm_device_attr", "flags:I group:I attr:Q addr:Q")
STATS_HEADER = StructLayout(
    "kvm_stats_header", "flags:I name_size:I num_desc:I id_offset:I desc_offset:I data_offset:I"
)
STATS_DESC = StructLayout("kvm_stats_desc", "flags:I exponent:h size:H offset:I bucket_size:I")
"""Its name follows."""
MSR_FILTER_RANGE = StructLayout("kvm_msr_filter_range", "flags:I nmsrs:I base:I _:4x bitmap:Q")
MSR_FILTER_SIZE_BYTES = 392
"""`sizeof(struct kvm_msr_filter)`: flags, padding and 16 ranges."""

# --- vCPU -------------------------------------------------------------------------------------------------------------

REGS = StructLayout(
    "kvm_regs",
    "rax:Q rbx:Q rcx:Q rdx:Q rsi:Q rdi:Q rsp:Q rbp:Q r8:Q r9:Q r10:Q r11:Q r12:Q r13:Q r14:Q r15:Q rip:Q rflags:Q",
)
SREGS = StructLayout(
    "kvm_sregs",
    " ".join(_nested(name, _SEGMENT_FIELDS) for name in SEGMENT_NAMES)
    + " gdt.base:Q gdt.limit:H _:6x idt.base:Q idt.limit:H _:6x"
    " cr0:Q cr2:Q cr3:Q cr4:Q cr8:Q efer:Q apic_base:Q interrupt_bitmap:4Q",
)
FPU = StructLayout(
    "kvm_fpu",
    "fpr:128s fcw:H fsw:H ftwx:B _:1x last_opcode:H last_ip:Q last_dp:Q xmm:256s mxcsr:I _:4x",
)
MSRS = StructLayout("kvm_msrs", "nmsrs:I _:4x")
MSR_ENTRY = StructLayout("kvm_msr_entry", "index:I _:4x data:Q")
MSR_LIST = StructLayout("kvm_msr_list", "nmsrs:I")
CPUID2 = StructLayout("kvm_cpuid2", "nent:I _:4x")
CPUID_ENTRY2 = StructLayout("kvm_cpuid_entry2", "function:I index:I flags:I eax:I ebx:I ecx:I edx:I _:12x")
LAPIC_STATE = StructLayout("kvm_lapic_state", "regs:1024s")
XSAVE = StructLayout("kvm_xsave", "region:4096s")
XCRS = StructLayout("kvm_xcrs", "nr_xcrs:I flags:I xcrs:256s _:128x")
XCR = StructLayout("kvm_xcr", "xcr:I _:4x value:Q")
DEBUGREGS = StructLayout("kvm_debugregs", "db:4Q dr6:Q dr7:Q flags:Q _:72x")
VCPU_EVENTS = StructLayout(
    "kvm_vcpu_events",
    "exception.injected:B exception.nr:B exception.has_error_code:B exception.pending:B exception.error_code:I"
    " interrupt.injected:B interrupt.nr:B interrupt.soft:B interrupt.shadow:B"
    " nmi.injected:B nmi.pending:B nmi.masked:B _:1x sipi_vector:I flags:I"
    " smi.smm:B smi.pending:B smi.smm_inside_nmi:B smi.latched_init:B triple_fault.pending:B _:26x"
    " exception_has_payload:B exception_payload:Q",
)
MP_STATE = StructLayout("kvm_mp_state", "mp_state:I")
INTERRUPT = StructLayout("kvm_interrupt", "irq:I")
TRANSLATION = StructLayout("kvm_translation", "linear_address:Q physical_address:Q valid:B writeable:B usermode:B _:5x")
GUEST_DEBUG = StructLayout("kvm_guest_debug", "control:I _:4x arch.debugreg:8Q")
SIGNAL_MASK = StructLayout("kvm_signal_mask", "len:I")

# --- the shared page of a vCPU ----------------------------------------------------------------------------------------

RUN = StructLayout(
    "kvm_run",
    "request_interrupt_window:B immediate_exit:B _:6x exit_reason:I ready_for_interrupt_injection:B if_flag:B flags:H"
    " cr8:Q apic_base:Q",
)
"""The head of `struct kvm_run`; the union of exits starts at `RUN.size_bytes`."""
RUN_IO = StructLayout("kvm_run", "_:32x io.direction:B io.size:B io.port:H io.count:I io.data_offset:Q")
RUN_MMIO = StructLayout("kvm_run", "_:32x mmio.phys_addr:Q mmio.data:8s mmio.len:I mmio.is_write:B")
RUN_MSR = StructLayout("kvm_run", "_:32x msr.error:B _:7x msr.reason:I msr.index:I msr.data:Q")
RUN_FAIL_ENTRY = StructLayout("kvm_run", "_:32x fail_entry.hardware_entry_failure_reason:Q fail_entry.cpu:I")
RUN_INTERNAL = StructLayout("kvm_run", "_:32x internal.suberror:I internal.ndata:I internal.data:16Q")
RUN_EMULATION_FAILURE = StructLayout(
    "kvm_run",
    "_:32x emulation_failure.suberror:I emulation_failure.ndata:I emulation_failure.flags:Q"
    " emulation_failure.insn_size:B emulation_failure.insn_bytes:15s",
)
RUN_SYSTEM_EVENT = StructLayout("kvm_run", "_:32x system_event.type:I system_event.ndata:I system_event.data:16Q")

WHOLE: tuple[StructLayout, ...] = (
    USERSPACE_MEMORY_REGION, IRQ_LEVEL, IRQCHIP, IRQFD, IOEVENTFD, PIT_CONFIG, PIT_STATE2, CLOCK_DATA, ENABLE_CAP, MSI,
    IRQ_ROUTING, IRQ_ROUTING_ENTRY, DIRTY_LOG, CLEAR_DIRTY_LOG, DIRTY_GFN, COALESCED_MMIO_ZONE, COALESCED_MMIO,
    COALESCED_MMIO_RING, CREATE_DEVICE, DEVICE_ATTR, MSR_FILTER_RANGE, REGS, SREGS, FPU, MSRS, MSR_ENTRY, MSR_LIST,
    CPUID2, CPUID_ENTRY2, LAPIC_STATE, XSAVE, XCRS, XCR, DEBUGREGS, VCPU_EVENTS, MP_STATE, INTERRUPT, TRANSLATION,
    GUEST_DEBUG, SIGNAL_MASK, STATS_HEADER, STATS_DESC,
)  # fmt: skip
"""Every layout that describes its whole C structure (up to a flexible array)."""
PARTIAL: tuple[StructLayout, ...] = (
    RUN, RUN_IO, RUN_MMIO, RUN_MSR, RUN_FAIL_ENTRY, RUN_INTERNAL, RUN_EMULATION_FAILURE, RUN_SYSTEM_EVENT,
)  # fmt: skip
"""Layouts of one arm of `struct kvm_run`."""
