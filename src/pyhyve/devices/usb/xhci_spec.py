"""Numbers of the eXtensible Host Controller Interface for USB 1.1 (chapter 5 for registers, 6.4 for rings)."""

from __future__ import annotations

from pyhyve.support.enums import IntEnum, IntFlag

CAPABILITY_BYTES = 0x40
VERSION = 0x0100
PROTOCOLS_AT, RUNTIME_AT, DOORBELLS_AT, SPACE_BYTES = 0x20, 0x1000, 0x2000, 0x4000
MAX_SLOTS = 64
PROTOCOL_NAME = int.from_bytes(b"USB ", "little")


class Operational(IntEnum):
    """Operational registers (5.4), from the end of the capability registers."""

    COMMAND = 0x00
    STATUS = 0x04
    PAGE_SIZE = 0x08
    NOTIFICATION = 0x14
    RING = 0x18
    CONTEXTS = 0x30
    CONFIGURE = 0x38
    PORTS = 0x400


PORT_BYTES = 0x10


class UsbCommand(IntFlag):
    """USBCMD (5.4.1)."""

    RUN = 1 << 0
    RESET = 1 << 1
    INTERRUPTS = 1 << 2
    HOST_ERRORS = 1 << 3
    SAVE = 1 << 8
    RESTORE = 1 << 9
    WRAP_EVENTS = 1 << 10


class UsbStatus(IntFlag):
    """USBSTS (5.4.2)."""

    HALTED = 1 << 0
    HOST_ERROR = 1 << 2
    EVENT = 1 << 3
    PORT_CHANGE = 1 << 4
    SAVE_ERROR = 1 << 10


STATUS_CLEARED = UsbStatus.HOST_ERROR | UsbStatus.EVENT | UsbStatus.PORT_CHANGE | UsbStatus.SAVE_ERROR
PORT_POWER = 1 << 9
PORT_DETECTING = 5 << 5
"""The link's state on an empty port: RxDetect (5.4.8)."""


class RingControl(IntFlag):
    """CRCR (5.4.5)."""

    CYCLE = 1 << 0
    STOP = 1 << 1
    ABORT = 1 << 2
    RUNNING = 1 << 3


class Runtime(IntEnum):
    """The first interrupter's registers (5.5.2), from the start of the runtime registers."""

    MANAGEMENT = 0x20
    MODERATION = 0x24
    TABLE_SIZE = 0x28
    TABLE = 0x30
    DEQUEUE = 0x38


PENDING, ENABLED = 1 << 0, 1 << 1
"""Of interrupter management."""
HANDLER_BUSY = 1 << 3
"""Of the dequeue pointer."""
MODERATION_DEFAULT = 4000
MIN_SEGMENT, MAX_SEGMENT = 16, 4096


class TrbType(IntEnum):
    """Types of transfer request blocks (6.4.6)."""

    LINK = 6
    ENABLE_SLOT = 9
    NO_OP_COMMAND = 23
    COMMAND_COMPLETION = 33


TRB_CYCLE, TRB_TOGGLE, TRB_TYPE_SHIFT = 1, 2, 10


class Completion(IntEnum):
    """Completion codes (6.4.5)."""

    SUCCESS = 1
    TRB_ERROR = 5
    NO_SLOTS = 9
    SLOT_NOT_ENABLED = 11
