"""Numbers of the local APIC (SDM Vol. 3A, chapter 11) and of the 82093AA I/O APIC (290566)."""

from __future__ import annotations

from pyhyve.support.enums import IntEnum, IntFlag

LAPIC_BASE = 0xFEE0_0000
LAPIC_SIZE_BYTES = 0x1000
IOAPIC_BASE = 0xFEC0_0000
IOAPIC_SIZE_BYTES = 0x1000
IOAPIC_PINS = 24
IOAPIC_VERSION = 0x20
"""Version 0x20 has the EOI register at 0x40."""

MSI_ADDRESS_MASK = 0xFFF0_0000


class ApicRegister(IntEnum):
    """Register offsets in the local APIC's page (table 11-1)."""

    ID = 0x020
    VERSION = 0x030
    TPR = 0x080
    APR = 0x090
    PPR = 0x0A0
    EOI = 0x0B0
    LDR = 0x0D0
    DFR = 0x0E0
    SVR = 0x0F0
    ISR = 0x100
    TMR = 0x180
    IRR = 0x200
    ESR = 0x280
    ICR_LOW = 0x300
    ICR_HIGH = 0x310
    LVT_TIMER = 0x320
    LVT_THERMAL = 0x330
    LVT_PERFORMANCE = 0x340
    LVT_LINT0 = 0x350
    LVT_LINT1 = 0x360
    LVT_ERROR = 0x370
    TIMER_INITIAL = 0x380
    TIMER_CURRENT = 0x390
    TIMER_DIVIDE = 0x3E0
    SELF_IPI = 0x3F0
    """x2APIC mode only."""


APIC_VERSION = 0x0005_0014
"""Version 0x14, six local vector table entries."""


class DeliveryMode(IntEnum):
    """Delivery modes of the ICR, redirection entries, LVT and MSI data (11.6.1)."""

    FIXED = 0
    LOWEST_PRIORITY = 1
    SMI = 2
    NMI = 4
    INIT = 5
    STARTUP = 6
    EXTINT = 7


class TimerMode(IntEnum):
    """LVT timer mode, bits 18:17 (11.5.1)."""

    ONE_SHOT = 0
    PERIODIC = 1
    TSC_DEADLINE = 2


class Msr(IntEnum):
    """Model-specific registers that belong to the local APIC."""

    APIC_BASE = 0x1B
    TSC_DEADLINE = 0x6E0
    X2APIC_FIRST = 0x800
    X2APIC_LAST = 0x83F


class ApicBase(IntFlag):
    """Bits of IA32_APIC_BASE (11.4.4)."""

    BSP = 1 << 8
    X2APIC = 1 << 10
    ENABLE = 1 << 11


SVR_ENABLE = 1 << 8
LVT_MASKED = 1 << 16
LVT_LEVEL = 1 << 15
LVT_REMOTE_IRR = 1 << 14
ESR_SEND_ILLEGAL_VECTOR = 1 << 5
ESR_RECEIVE_ILLEGAL_VECTOR = 1 << 6
ESR_ILLEGAL_REGISTER = 1 << 7

# I/O APIC registers and redirection entry bits
IOAPIC_SELECT = 0x00
IOAPIC_WINDOW = 0x10
IOAPIC_EOI = 0x40
IOAPIC_REG_ID = 0x00
IOAPIC_REG_VERSION = 0x01
IOAPIC_REG_ARBITRATION = 0x02
IOAPIC_REG_TABLE = 0x10
ENTRY_LOGICAL = 1 << 11
ENTRY_PENDING = 1 << 12
ENTRY_ACTIVE_LOW = 1 << 13
ENTRY_REMOTE_IRR = 1 << 14
ENTRY_LEVEL = 1 << 15
ENTRY_MASKED = 1 << 16
ENTRY_WRITABLE = 0xFF00_0000_0001_AFFF
