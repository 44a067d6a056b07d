"""Numbers of ATA/ATAPI-6 (T13/1410D) and of bus master IDE (SFF-8038i, "Programming Interface for Bus Master IDE")."""

from __future__ import annotations

from pyhyve.support.enums import IntEnum, IntFlag

SECTOR_BYTES = 512
QUEUE_DEPTH = 32
GEN1, QUEUES = 1 << 1, 1 << 8
"""Of word 76 of IDENTIFY data: what the drive can on Serial ATA (Serial ATA 3.0, 13.2.1)."""
QUEUE_LOG = 0x10
"""The log of queued commands' errors (13.7.2)."""
CD_BLOCK_BYTES = 2048


class Register(IntEnum):
    """Command block registers: offsets from 0x1F0 or 0x170 (9.1 ff.)."""

    DATA = 0
    FEATURES = 1
    COUNT = 2
    LBA_LOW = 3
    LBA_MID = 4
    LBA_HIGH = 5
    DEVICE = 6
    COMMAND = 7


ERROR, STATUS = Register.FEATURES, Register.COMMAND
"""What the write-only registers read as."""


class StatusBit(IntFlag):
    """The status register (7.15)."""

    ERR = 0x01
    DRQ = 0x08
    DSC = 0x10
    DF = 0x20
    DRDY = 0x40
    BSY = 0x80


class ErrorBit(IntFlag):
    """The error register (7.9)."""

    ABRT = 0x04
    IDNF = 0x10
    UNC = 0x40


class ControlBit(IntFlag):
    """The device control register (7.8)."""

    NIEN = 0x02
    SRST = 0x04
    HOB = 0x80


class DeviceBit(IntFlag):
    """The device register (7.7)."""

    HEAD = 0x0F
    DEV = 0x10
    LBA = 0x40


ALWAYS_ONE = 0xA0
"""Obsolete bits of the device register."""


class Reason(IntFlag):
    """The interrupt reason register of packet commands: whose turn it is (8.23)."""

    COMMAND = 1
    TO_HOST = 2


class Command(IntEnum):
    """Commands (8)."""

    NOP = 0x00
    DATA_SET_MANAGEMENT = 0x06
    DEVICE_RESET = 0x08
    READ_SECTORS = 0x20
    READ_SECTORS_NO_RETRY = 0x21
    READ_SECTORS_EXT = 0x24
    READ_DMA_EXT = 0x25
    READ_NATIVE_MAX_EXT = 0x27
    READ_MULTIPLE_EXT = 0x29
    READ_LOG_EXT = 0x2F
    WRITE_SECTORS = 0x30
    WRITE_SECTORS_NO_RETRY = 0x31
    WRITE_SECTORS_EXT = 0x34
    WRITE_DMA_EXT = 0x35
    WRITE_MULTIPLE_EXT = 0x39
    WRITE_DMA_FUA_EXT = 0x3D
    READ_VERIFY = 0x40
    READ_FPDMA_QUEUED = 0x60
    WRITE_FPDMA_QUEUED = 0x61
    READ_VERIFY_NO_RETRY = 0x41
    READ_VERIFY_EXT = 0x42
    EXECUTE_DIAGNOSTIC = 0x90
    INITIALIZE_PARAMETERS = 0x91
    PACKET = 0xA0
    IDENTIFY_PACKET_DEVICE = 0xA1
    READ_MULTIPLE = 0xC4
    WRITE_MULTIPLE = 0xC5
    SET_MULTIPLE = 0xC6
    READ_DMA = 0xC8
    READ_DMA_NO_RETRY = 0xC9
    WRITE_DMA = 0xCA
    WRITE_DMA_NO_RETRY = 0xCB
    STANDBY_IMMEDIATE = 0xE0
    IDLE_IMMEDIATE = 0xE1
    STANDBY = 0xE2
    IDLE = 0xE3
    CHECK_POWER_MODE = 0xE5
    SLEEP = 0xE6
    FLUSH_CACHE = 0xE7
    FLUSH_CACHE_EXT = 0xEA
    IDENTIFY_DEVICE = 0xEC
    SET_FEATURES = 0xEF
    READ_NATIVE_MAX = 0xF8


class Feature(IntEnum):
    """Subcommands of SET FEATURES (8.46)."""

    ENABLE_WRITE_CACHE = 0x02
    SET_TRANSFER_MODE = 0x03
    DISABLE_LOOK_AHEAD = 0x55
    DISABLE_REVERTING = 0x66
    DISABLE_WRITE_CACHE = 0x82
    ENABLE_LOOK_AHEAD = 0xAA
    ENABLE_REVERTING = 0xCC


class BusMasterRegister(IntEnum):
    """Registers of one channel (SFF-8038i, 2.0)."""

    COMMAND = 0
    STATUS = 2
    TABLE = 4


class BusMasterCommand(IntFlag):
    """The command register."""

    START = 0x01
    TO_MEMORY = 0x08


class BusMasterStatus(IntFlag):
    """The status register; error and interrupt are cleared by writing one."""

    ACTIVE = 0x01
    ERROR = 0x02
    INTERRUPT = 0x04
    DRIVE_0_DMA = 0x20
    DRIVE_1_DMA = 0x40


LAST_ENTRY = 0x8000_0000
"""Flag of the last physical region descriptor, in its second double word."""
MAX_ENTRIES = 8192
"""A table of descriptors does not cross 64 KiB."""
