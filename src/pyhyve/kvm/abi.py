"""Numbers of the KVM ABI: ioctls, capabilities, exit reasons and flags.

Source: Linux `include/uapi/linux/kvm.h`, `arch/x86/include/uapi/asm/kvm.h`, `Documentation/virt/kvm/api.rst`. A test
compares every number with the headers of the system.
"""

from __future__ import annotations

from pyhyve.kvm import structures as s
from pyhyve.support.enums import IntEnum, IntFlag

API_VERSION = 12
"""The only one ever released; anything else must be refused (api.rst, 4.1)."""

_KVMIO = 0xAE
_WRITE, _READ = 1, 2


def _io(number: int) -> int:
    return _KVMIO << 8 | number


def _iow(number: int, size_bytes: int) -> int:
    return _WRITE << 30 | size_bytes << 16 | _io(number)


def _ior(number: int, size_bytes: int) -> int:
    return _READ << 30 | size_bytes << 16 | _io(number)


def _iowr(number: int, size_bytes: int) -> int:
    return (_READ | _WRITE) << 30 | size_bytes << 16 | _io(number)


class Ioctl(IntEnum):
    """Requests, named as in the header without the `KVM_` prefix."""

    GET_API_VERSION = _io(0x00)
    CREATE_VM = _io(0x01)
    GET_MSR_INDEX_LIST = _iowr(0x02, s.MSR_LIST.size_bytes)
    CHECK_EXTENSION = _io(0x03)
    GET_VCPU_MMAP_SIZE = _io(0x04)
    GET_SUPPORTED_CPUID = _iowr(0x05, s.CPUID2.size_bytes)
    GET_EMULATED_CPUID = _iowr(0x09, s.CPUID2.size_bytes)
    GET_MSR_FEATURE_INDEX_LIST = _iowr(0x0A, s.MSR_LIST.size_bytes)

    CREATE_VCPU = _io(0x41)
    GET_DIRTY_LOG = _iow(0x42, s.DIRTY_LOG.size_bytes)
    SET_USER_MEMORY_REGION = _iow(0x46, s.USERSPACE_MEMORY_REGION.size_bytes)
    SET_TSS_ADDR = _io(0x47)
    SET_IDENTITY_MAP_ADDR = _iow(0x48, 8)
    CREATE_IRQCHIP = _io(0x60)
    IRQ_LINE = _iow(0x61, s.IRQ_LEVEL.size_bytes)
    GET_IRQCHIP = _iowr(0x62, s.IRQCHIP.size_bytes)
    SET_IRQCHIP = _ior(0x63, s.IRQCHIP.size_bytes)
    REGISTER_COALESCED_MMIO = _iow(0x67, s.COALESCED_MMIO_ZONE.size_bytes)
    UNREGISTER_COALESCED_MMIO = _iow(0x68, s.COALESCED_MMIO_ZONE.size_bytes)
    SET_GSI_ROUTING = _iow(0x6A, s.IRQ_ROUTING.size_bytes)
    IRQFD = _iow(0x76, s.IRQFD.size_bytes)
    CREATE_PIT2 = _iow(0x77, s.PIT_CONFIG.size_bytes)
    IOEVENTFD = _iow(0x79, s.IOEVENTFD.size_bytes)
    SET_CLOCK = _iow(0x7B, s.CLOCK_DATA.size_bytes)
    GET_CLOCK = _ior(0x7C, s.CLOCK_DATA.size_bytes)
    GET_PIT2 = _ior(0x9F, s.PIT_STATE2.size_bytes)
    SET_PIT2 = _iow(0xA0, s.PIT_STATE2.size_bytes)
    ENABLE_CAP = _iow(0xA3, s.ENABLE_CAP.size_bytes)
    SIGNAL_MSI = _iow(0xA5, s.MSI.size_bytes)
    CLEAR_DIRTY_LOG = _iowr(0xC0, s.CLEAR_DIRTY_LOG.size_bytes)
    X86_SET_MSR_FILTER = _iow(0xC6, s.MSR_FILTER_SIZE_BYTES)
    RESET_DIRTY_RINGS = _io(0xC7)
    GET_STATS_FD = _io(0xCE)
    CREATE_DEVICE = _iowr(0xE0, s.CREATE_DEVICE.size_bytes)
    SET_DEVICE_ATTR = _iow(0xE1, s.DEVICE_ATTR.size_bytes)
    GET_DEVICE_ATTR = _iow(0xE2, s.DEVICE_ATTR.size_bytes)
    HAS_DEVICE_ATTR = _iow(0xE3, s.DEVICE_ATTR.size_bytes)

    RUN = _io(0x80)
    GET_REGS = _ior(0x81, s.REGS.size_bytes)
    SET_REGS = _iow(0x82, s.REGS.size_bytes)
    GET_SREGS = _ior(0x83, s.SREGS.size_bytes)
    SET_SREGS = _iow(0x84, s.SREGS.size_bytes)
    TRANSLATE = _iowr(0x85, s.TRANSLATION.size_bytes)
    INTERRUPT = _iow(0x86, s.INTERRUPT.size_bytes)
    GET_MSRS = _iowr(0x88, s.MSRS.size_bytes)
    SET_MSRS = _iow(0x89, s.MSRS.size_bytes)
    SET_SIGNAL_MASK = _iow(0x8B, s.SIGNAL_MASK.size_bytes)
    GET_FPU = _ior(0x8C, s.FPU.size_bytes)
    SET_FPU = _iow(0x8D, s.FPU.size_bytes)
    GET_LAPIC = _ior(0x8E, s.LAPIC_STATE.size_bytes)
    SET_LAPIC = _iow(0x8F, s.LAPIC_STATE.size_bytes)
    SET_CPUID2 = _iow(0x90, s.CPUID2.size_bytes)
    GET_CPUID2 = _iowr(0x91, s.CPUID2.size_bytes)
    GET_MP_STATE = _ior(0x98, s.MP_STATE.size_bytes)
    SET_MP_STATE = _iow(0x99, s.MP_STATE.size_bytes)
    NMI = _io(0x9A)
    SET_GUEST_DEBUG = _iow(0x9B, s.GUEST_DEBUG.size_bytes)
    GET_VCPU_EVENTS = _ior(0x9F, s.VCPU_EVENTS.size_bytes)
    SET_VCPU_EVENTS = _iow(0xA0, s.VCPU_EVENTS.size_bytes)
    GET_DEBUGREGS = _ior(0xA1, s.DEBUGREGS.size_bytes)
    SET_DEBUGREGS = _iow(0xA2, s.DEBUGREGS.size_bytes)
    SET_TSC_KHZ = _io(0xA2)
    GET_TSC_KHZ = _io(0xA3)
    GET_XSAVE = _ior(0xA4, s.XSAVE.size_bytes)
    SET_XSAVE = _iow(0xA5, s.XSAVE.size_bytes)
    GET_XCRS = _ior(0xA6, s.XCRS.size_bytes)
    SET_XCRS = _iow(0xA7, s.XCRS.size_bytes)
    KVMCLOCK_CTRL = _io(0xAD)
    GET_XSAVE2 = _ior(0xCF, s.XSAVE.size_bytes)


class Cap(IntEnum):
    """Capabilities asked for with `KVM_CHECK_EXTENSION`, named without the `KVM_CAP_` prefix."""

    IRQCHIP = 0
    USER_MEMORY = 3
    SET_TSS_ADDR = 4
    NR_VCPUS = 9
    NR_MEMSLOTS = 10
    COALESCED_MMIO = 15
    USER_NMI = 22
    IRQ_ROUTING = 25
    IRQFD = 32
    PIT2 = 33
    IOEVENTFD = 36
    SET_IDENTITY_MAP_ADDR = 37
    ADJUST_CLOCK = 39
    VCPU_EVENTS = 41
    DEBUGREGS = 50
    XSAVE = 55
    XCRS = 56
    TSC_CONTROL = 60
    GET_TSC_KHZ = 61
    MAX_VCPUS = 66
    TSC_DEADLINE_TIMER = 72
    KVMCLOCK_CTRL = 76
    SIGNAL_MSI = 77
    READONLY_MEM = 81
    IRQFD_RESAMPLE = 82
    DEVICE_CTRL = 89
    SPLIT_IRQCHIP = 121
    MAX_VCPU_ID = 128
    X2APIC_API = 129
    IMMEDIATE_EXIT = 136
    X86_DISABLE_EXITS = 143
    COALESCED_PIO = 162
    MANUAL_DIRTY_LOG_PROTECT2 = 168
    X86_USER_SPACE_MSR = 188
    X86_MSR_FILTER = 189
    DIRTY_LOG_RING = 192
    XSAVE2 = 208
    VM_TSC_CONTROL = 214
    X86_TRIPLE_FAULT_EVENT = 218
    DIRTY_LOG_RING_ACQ_REL = 223


class ExitReason(IntEnum):
    """`kvm_run.exit_reason` on x86, named without the `KVM_EXIT_` prefix."""

    UNKNOWN = 0
    EXCEPTION = 1
    IO = 2
    HYPERCALL = 3
    DEBUG = 4
    HLT = 5
    MMIO = 6
    IRQ_WINDOW_OPEN = 7
    SHUTDOWN = 8
    FAIL_ENTRY = 9
    INTR = 10
    SET_TPR = 11
    TPR_ACCESS = 12
    NMI = 16
    INTERNAL_ERROR = 17
    SYSTEM_EVENT = 24
    IOAPIC_EOI = 26
    X86_RDMSR = 29
    X86_WRMSR = 30
    DIRTY_RING_FULL = 31
    AP_RESET_HOLD = 32
    X86_BUS_LOCK = 33
    NOTIFY = 37


class InternalError(IntEnum):
    """`kvm_run.internal.suberror`, named without the `KVM_INTERNAL_ERROR_` prefix."""

    EMULATION = 1
    SIMUL_EX = 2
    DELIVERY_EV = 3
    UNEXPECTED_EXIT_REASON = 4


class SystemEvent(IntEnum):
    """`kvm_run.system_event.type`, named without the `KVM_SYSTEM_EVENT_` prefix."""

    SHUTDOWN = 1
    RESET = 2
    CRASH = 3
    WAKEUP = 4
    SUSPEND = 5
    SEV_TERM = 6


class MpState(IntEnum):
    """`kvm_mp_state.mp_state`, named without the `KVM_MP_STATE_` prefix."""

    RUNNABLE = 0
    UNINITIALIZED = 1
    INIT_RECEIVED = 2
    HALTED = 3
    SIPI_RECEIVED = 4


class MemFlag(IntFlag):
    """`kvm_userspace_memory_region.flags`, named without the `KVM_MEM_` prefix."""

    LOG_DIRTY_PAGES = 1
    READONLY = 2


class IoeventfdFlag(IntFlag):
    """`kvm_ioeventfd.flags`, named without the `KVM_IOEVENTFD_FLAG_` prefix."""

    DATAMATCH = 1
    PIO = 2
    DEASSIGN = 4


class IrqfdFlag(IntFlag):
    """`kvm_irqfd.flags`, named without the `KVM_IRQFD_FLAG_` prefix."""

    DEASSIGN = 1
    RESAMPLE = 2


class RoutingType(IntEnum):
    """`kvm_irq_routing_entry.type`, named without the `KVM_IRQ_ROUTING_` prefix."""

    IRQCHIP = 1
    MSI = 2


class IrqchipId(IntEnum):
    """`kvm_irqchip.chip_id`, named without the `KVM_IRQCHIP_` prefix."""

    PIC_MASTER = 0
    PIC_SLAVE = 1
    IOAPIC = 2


class MsrExitReason(IntFlag):
    """Which refused MSR accesses leave to user space, named without the `KVM_MSR_EXIT_REASON_` prefix."""

    INVAL = 1
    UNKNOWN = 2
    FILTER = 4


class GuestDebug(IntFlag):
    """`kvm_guest_debug.control`, named without the `KVM_GUESTDBG_` prefix."""

    ENABLE = 1
    SINGLESTEP = 2
    USE_SW_BP = 0x10000
    USE_HW_BP = 0x20000


IOAPIC_PINS = 24
CPUID_FLAG_SIGNIFICANT_INDEX = 1
PIT_SPEAKER_DUMMY = 1
"""`KVM_PIT_SPEAKER_DUMMY`: the kernel answers port 0x61 too."""
PIO_PAGE_OFFSET = 1
COALESCED_MMIO_PAGE_OFFSET = 2
DIRTY_LOG_PAGE_OFFSET = 64
"""Where the dirty ring is in the vCPU's mapping, in pages."""
DIRTY_LOG_INITIALLY_SET = 2
DIRTY_LOG_MANUAL_PROTECT_ENABLE = 1
DIRTY_GFN_DIRTY = 1
DIRTY_GFN_RESET = 2
CLOCK_TSC_STABLE = 2
CLOCK_REALTIME = 4
EMULATION_FLAG_INSTRUCTION_BYTES = 1

DEV_TYPE_VFIO = 4
