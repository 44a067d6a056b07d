"""Numbers of the x86 architecture, as in the Intel Software Developer's Manual (SDM), volumes 3A and 4."""

from __future__ import annotations

from enum import IntEnum, IntFlag


class Vector(IntEnum):
    """Exception vectors (SDM Vol. 3A, table 6-1)."""

    DE = 0
    DB = 1
    NMI = 2
    BP = 3
    OF = 4
    BR = 5
    UD = 6
    NM = 7
    DF = 8
    TS = 10
    NP = 11
    SS = 12
    GP = 13
    PF = 14
    MF = 16
    AC = 17
    MC = 18
    XM = 19


class EventKind(IntEnum):
    """What is being delivered: decides the privilege check, the saved RF and instruction pointer, and EXT."""

    FAULT = 0
    """Exception that restarts the instruction: RF is set in the saved image."""
    TRAP = 1
    """Exception reported after its instruction (`pc` already points at the next)."""
    INTERRUPT = 2
    NMI = 3
    SOFTWARE = 4
    """INT n."""
    SOFTWARE_EXCEPTION = 5
    """INT3 and INTO."""
    PRIVILEGED = 6
    """INT1: no privilege check."""


class PageFault(IntFlag):
    """Error code of #PF (SDM Vol. 3A, figure 4-12)."""

    PRESENT = 1
    WRITE = 2
    USER = 4
    RESERVED = 8
    FETCH = 16


class SelectorError(IntFlag):
    """Low bits of a selector error code (SDM Vol. 3A, 6.13)."""

    EXT = 1
    IDT = 2
    TI = 4


class Cr0(IntFlag):
    """CR0 (SDM Vol. 3A, 2.5)."""

    PE = 1 << 0
    MP = 1 << 1
    EM = 1 << 2
    TS = 1 << 3
    ET = 1 << 4
    NE = 1 << 5
    WP = 1 << 16
    AM = 1 << 18
    NW = 1 << 29
    CD = 1 << 30
    PG = 1 << 31


CR0_WRITABLE = Cr0.PE | Cr0.MP | Cr0.EM | Cr0.TS | Cr0.NE | Cr0.WP | Cr0.AM | Cr0.NW | Cr0.CD | Cr0.PG


class Cr4(IntFlag):
    """CR4 (SDM Vol. 3A, 2.5)."""

    VME = 1 << 0
    PVI = 1 << 1
    TSD = 1 << 2
    DE = 1 << 3
    PSE = 1 << 4
    PAE = 1 << 5
    MCE = 1 << 6
    PGE = 1 << 7
    PCE = 1 << 8
    OSFXSR = 1 << 9
    OSXMMEXCPT = 1 << 10
    UMIP = 1 << 11
    OSXSAVE = 1 << 18
    SMEP = 1 << 20
    SMAP = 1 << 21


CR4_WRITABLE = (
    Cr4.TSD
    | Cr4.DE
    | Cr4.PSE
    | Cr4.PAE
    | Cr4.MCE
    | Cr4.PGE
    | Cr4.PCE
    | Cr4.OSFXSR
    | Cr4.OSXMMEXCPT
    | Cr4.UMIP
    | Cr4.OSXSAVE
    | Cr4.SMEP
    | Cr4.SMAP
)
"""The bits this model has; the others are reserved."""


class Efer(IntFlag):
    """IA32_EFER (SDM Vol. 3A, 2.2.1)."""

    SCE = 1 << 0
    LME = 1 << 8
    LMA = 1 << 10
    NXE = 1 << 11


class Eflags(IntFlag):
    """EFLAGS (SDM Vol. 1, 3.4.3)."""

    CF = 1 << 0
    FIXED = 1 << 1
    PF = 1 << 2
    AF = 1 << 4
    ZF = 1 << 6
    SF = 1 << 7
    TF = 1 << 8
    IF = 1 << 9
    DF = 1 << 10
    OF = 1 << 11
    IOPL = 3 << 12
    NT = 1 << 14
    RF = 1 << 16
    VM = 1 << 17
    AC = 1 << 18
    VIF = 1 << 19
    VIP = 1 << 20
    ID = 1 << 21


ARITHMETIC = Eflags.CF | Eflags.PF | Eflags.AF | Eflags.ZF | Eflags.SF | Eflags.OF


class Pte(IntFlag):
    """Paging-structure entries (SDM Vol. 3A, tables 4-5 to 4-20)."""

    P = 1 << 0
    RW = 1 << 1
    US = 1 << 2
    A = 1 << 5
    D = 1 << 6
    PS = 1 << 7
    G = 1 << 8
    XD = 1 << 63


class Attr(IntFlag):
    """Access rights as kept in `seg_attr` (SDM Vol. 3C, 25.4.1)."""

    ACCESSED = 1 << 0
    WRITABLE = 1 << 1
    READABLE = 1 << 1
    EXPAND_DOWN = 1 << 2
    CONFORMING = 1 << 2
    CODE = 1 << 3
    S = 1 << 4
    DPL = 3 << 5
    P = 1 << 7
    L = 1 << 13
    DB = 1 << 14
    G = 1 << 15
    UNUSABLE = 1 << 16


class System(IntEnum):
    """Types of system descriptors (SDM Vol. 3A, table 3-2)."""

    TSS16 = 1
    LDT = 2
    TSS16_BUSY = 3
    CALL16 = 4
    TASK_GATE = 5
    INTERRUPT16 = 6
    TRAP16 = 7
    TSS = 9
    TSS_BUSY = 11
    CALL = 12
    INTERRUPT = 14
    TRAP = 15


class Dr6(IntFlag):
    """DR6 (SDM Vol. 3B, 17.2.3)."""

    B0 = 1 << 0
    BD = 1 << 13
    BS = 1 << 14
    BT = 1 << 15
    FIXED = 0xFFFF0FF0


DR7_FIXED = 1 << 10
DR7_GD = 1 << 13


class Msr(IntEnum):
    """Model-specific registers (SDM Vol. 4, table 2-2)."""

    TSC = 0x10
    PLATFORM_ID = 0x17
    APIC_BASE = 0x1B
    EBL_CR_POWERON = 0x2A
    FEATURE_CONTROL = 0x3A
    TSC_ADJUST = 0x3B
    BIOS_UPDT_TRIG = 0x79
    BIOS_SIGN_ID = 0x8B
    MTRRCAP = 0xFE
    BBL_CR_CTL3 = 0x11E
    SYSENTER_CS = 0x174
    SYSENTER_ESP = 0x175
    SYSENTER_EIP = 0x176
    MCG_CAP = 0x179
    MCG_STATUS = 0x17A
    PERF_STATUS = 0x198
    PERF_CTL = 0x199
    MISC_ENABLE = 0x1A0
    DEBUGCTL = 0x1D9
    MTRR_PHYSBASE0 = 0x200
    MTRR_FIX64K = 0x250
    MTRR_FIX16K = 0x258
    MTRR_FIX4K = 0x268
    PAT = 0x277
    MTRR_DEF_TYPE = 0x2FF
    TSC_DEADLINE = 0x6E0
    X2APIC_FIRST = 0x800
    X2APIC_LAST = 0x8FF
    EFER = 0xC0000080
    STAR = 0xC0000081
    LSTAR = 0xC0000082
    CSTAR = 0xC0000083
    SFMASK = 0xC0000084
    FS_BASE = 0xC0000100
    GS_BASE = 0xC0000101
    KERNEL_GS_BASE = 0xC0000102
    TSC_AUX = 0xC0000103


class GuestExit(IntEnum):
    """`exit_kind` of the exits made by x86 kernels: numbers of `accel.api.ExitKind`."""

    HALT = 2
    KICKED = 3
    INTERRUPT_WINDOW = 4
    SHUTDOWN = 5
    MSR_READ = 7
    MSR_WRITE = 8


LOW32 = 0xFFFF_FFFF
STACK_ACCESS = 1 << 16
"""Bit of a translation's `access`: the address was formed with SS, so that a non-canonical one is #SS, not #GP."""
