"""Numbers of the Serial ATA Advanced Host Controller Interface 1.3.1, and of Serial ATA 3.0's frames (10.3)."""

from __future__ import annotations

from pyhyve.support.enums import IntEnum, IntFlag

VERSION = 0x0001_0301
PORTS_AT, PORT_BYTES = 0x100, 0x80
SLOTS = 32
ABAR_BYTES = 0x1000


class HbaRegister(IntEnum):
    """Generic host control (3.1)."""

    CAP = 0x00
    GHC = 0x04
    IS = 0x08
    PI = 0x0C
    VS = 0x10


class Capability(IntFlag):
    """The register CAP (3.1.1); bits 4:0 are the number of ports, less one."""

    SLOTS_32 = 31 << 8
    AHCI_ONLY = 1 << 18
    GEN1 = 1 << 20
    COMMAND_LIST_OVERRIDE = 1 << 24
    NCQ = 1 << 30
    ADDRESSES_64 = 1 << 31


class HostControl(IntFlag):
    """The register GHC (3.1.2)."""

    RESET = 1 << 0
    INTERRUPTS = 1 << 1
    AHCI = 1 << 31


class PortRegister(IntEnum):
    """Port registers (3.3)."""

    CLB = 0x00
    CLBU = 0x04
    FB = 0x08
    FBU = 0x0C
    IS = 0x10
    IE = 0x14
    CMD = 0x18
    TFD = 0x20
    SIG = 0x24
    SSTS = 0x28
    SCTL = 0x2C
    SERR = 0x30
    SACT = 0x34
    CI = 0x38


class PortInterrupt(IntFlag):
    """PxIS and PxIE (3.3.5)."""

    DEVICE_TO_HOST = 1 << 0
    PIO_SETUP = 1 << 1
    SET_BITS = 1 << 3
    OVERFLOW = 1 << 24
    INTERFACE_FATAL = 1 << 27
    HOST_BUS_FATAL = 1 << 29
    TASK_FILE_ERROR = 1 << 30


ENABLES = 0xFDC0_00FF
"""The bits there are in PxIE (3.3.6)."""


class PortCommand(IntFlag):
    """PxCMD (3.3.7)."""

    START = 1 << 0
    SPIN_UP = 1 << 1
    POWER_ON = 1 << 2
    OVERRIDE = 1 << 3
    FIS_RECEIVE = 1 << 4
    FIS_RUNNING = 1 << 14
    RUNNING = 1 << 15


COMMAND_WRITABLE = 0x0700_0000 | PortCommand.START | PortCommand.SPIN_UP | PortCommand.POWER_ON
COMMAND_WRITABLE |= PortCommand.FIS_RECEIVE
CURRENT_SLOT_SHIFT = 8

DETECT_MASK, DETECT_INIT, DETECT_OFF = 0xF, 1, 4
"""Of PxSCTL (3.3.11)."""
LINK_UP = 0x113
"""PxSSTS (3.3.10): device and communication, first generation, active."""
NO_DEVICE_SIGNATURE, NO_DEVICE_TASK = 0xFFFF_FFFF, 0x7F

# The command header (4.2.2), and the table (4.2.3)
HEADER_BYTES = 32
TRANSFERRED_AT = 4
HEADER_LENGTH_MASK = 0x1F
ATAPI_COMMAND_AT = 0x40
PRDT_AT, PRD_BYTES = 0x80, 16
PRD_LENGTH_MASK = 0x3F_FFFF


class Fis(IntEnum):
    """Types of frames."""

    HOST_TO_DEVICE = 0x27
    DEVICE_TO_HOST = 0x34
    PIO_SETUP = 0x5F
    SET_DEVICE_BITS = 0xA1


RECEIVED_AT = {Fis.PIO_SETUP: 0x20, Fis.DEVICE_TO_HOST: 0x40, Fis.SET_DEVICE_BITS: 0x58}
"""Where frames are put in the area at PxFB (4.2.1)."""
FIS_BYTES = 20
FIS_COMMAND = 0x80
"""Of the second byte: the command register was written, not device control."""
FIS_INTERRUPT, FIS_TO_HOST = 0x40, 0x20
