"""Numbers of the PCI Express Base Specification 3.0: the capability structure (7.8) of ports and endpoints."""

from __future__ import annotations

from pyhyve.support.enums import IntEnum, IntFlag

CAPABILITY_BYTES = 0x3C
VERSION = 2
SLOT_IMPLEMENTED = 1 << 8
"""Of the capabilities register."""

# Offsets in the structure
CAPABILITIES = 0x02
DEVICE_CAPABILITIES = 0x04
DEVICE_CONTROL = 0x08
LINK_CAPABILITIES = 0x0C
LINK_CONTROL = 0x10
LINK_STATUS = 0x12
SLOT_CAPABILITIES = 0x14
SLOT_CONTROL = 0x18
SLOT_STATUS = 0x1A
ROOT_CONTROL = 0x1C
LINK_CAPABILITIES_2 = 0x2C
LINK_CONTROL_2 = 0x30

ROLE_BASED_ERRORS = 1 << 15
"""Of the device capabilities register: every device of this version has it."""
DEVICE_CONTROL_WRITABLE = 0x7FFF & ~(1 << 9)
"""Extended tags, payload and request sizes, error reporting; no phantom functions, no reset."""
LINK_GEN1_X1 = 0x011
"""Link capabilities and status: 2.5 GT/s, one lane."""
LINK_ACTIVE_REPORTING = 1 << 20
LINK_ACTIVE = 1 << 13
LINK_PORT_SHIFT = 24
LINK_CONTROL_WRITABLE = 0x00FF & ~(1 << 4) & ~(1 << 5)
SPEEDS_GEN1 = 1 << 1
SLOT_NUMBER_SHIFT = 19


class PortType(IntEnum):
    """Device/port type, in bits 7:4 of the capabilities register (7.8.2)."""

    ENDPOINT = 0
    ROOT_PORT = 4
    PCI_BRIDGE = 7


class SlotCapability(IntFlag):
    """The slot capabilities register (7.8.9)."""

    ATTENTION_BUTTON = 1 << 0
    POWER_CONTROLLER = 1 << 1
    ATTENTION_INDICATOR = 1 << 3
    POWER_INDICATOR = 1 << 4
    SURPRISE = 1 << 5
    HOT_PLUG = 1 << 6


class SlotControl(IntFlag):
    """The slot control register (7.8.10); the lower five enable what `SlotStatus` has in the same places."""

    BUTTON = 1 << 0
    PRESENCE = 1 << 3
    COMMAND = 1 << 4
    INTERRUPT = 1 << 5
    POWER_OFF = 1 << 10


class SlotStatus(IntFlag):
    """The slot status register (7.8.11)."""

    BUTTON = 1 << 0
    PRESENCE = 1 << 3
    COMMAND = 1 << 4
    OCCUPIED = 1 << 6


EVENTS = SlotStatus.BUTTON | SlotStatus.PRESENCE | SlotStatus.COMMAND
"""What is cleared by writing ones, and raises interrupts."""
ATTENTION_SHIFT, POWER_SHIFT = 6, 8
"""Of the indicators' fields in the slot control register."""


class Indicator(IntEnum):
    """States of an indicator."""

    ON = 1
    BLINK = 2
    OFF = 3
