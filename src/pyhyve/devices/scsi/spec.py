"""Numbers of SCSI: commands of SPC-4 and MMC-6, status codes of SAM-5, sense data of SPC-4."""

from __future__ import annotations

from pyhyve.support.enums import IntEnum


class Command(IntEnum):
    """Operation codes."""

    TEST_UNIT_READY = 0x00
    REQUEST_SENSE = 0x03
    INQUIRY = 0x12
    MODE_SENSE_6 = 0x1A
    START_STOP_UNIT = 0x1B
    PREVENT_ALLOW_MEDIUM_REMOVAL = 0x1E
    READ_CAPACITY_10 = 0x25
    READ_10 = 0x28
    SEEK_10 = 0x2B
    SYNCHRONIZE_CACHE_10 = 0x35
    READ_TOC = 0x43
    GET_CONFIGURATION = 0x46
    GET_EVENT_STATUS = 0x4A
    READ_DISC_INFORMATION = 0x51
    MODE_SENSE_10 = 0x5A
    REPORT_LUNS = 0xA0
    READ_12 = 0xA8
    SET_CD_SPEED = 0xBB


class Status(IntEnum):
    """Status codes."""

    GOOD = 0x00
    CHECK_CONDITION = 0x02


class SenseKey(IntEnum):
    """Sense keys."""

    NO_SENSE = 0x0
    NOT_READY = 0x2
    MEDIUM_ERROR = 0x3
    ILLEGAL_REQUEST = 0x5
    UNIT_ATTENTION = 0x6


class SenseCode(IntEnum):
    """Additional sense code and qualifier, as one number."""

    NONE = 0x0000
    UNRECOVERED_READ_ERROR = 0x1100
    INVALID_COMMAND = 0x2000
    LBA_OUT_OF_RANGE = 0x2100
    INVALID_FIELD = 0x2400
    MEDIUM_MAY_HAVE_CHANGED = 0x2800
    MEDIUM_NOT_PRESENT_TRAY_CLOSED = 0x3A01
    MEDIUM_NOT_PRESENT_TRAY_OPEN = 0x3A02
    MEDIUM_REMOVAL_PREVENTED = 0x5302
