"""Registers of the 16550A UART (National Semiconductor PC16550D)."""

from __future__ import annotations

from pyhyve.support.enums import IntEnum, IntFlag

FIFO_SIZE = 16
PORT_COUNT = 8


class Register(IntEnum):
    """Offsets; 0 and 1 are the divisor latch while DLAB is set."""

    DATA = 0
    IER = 1
    IIR_FCR = 2
    LCR = 3
    MCR = 4
    LSR = 5
    MSR = 6
    SCRATCH = 7


class Ier(IntFlag):
    """Interrupt enable."""

    RECEIVED = 1 << 0
    TRANSMITTER_EMPTY = 1 << 1
    LINE_STATUS = 1 << 2
    MODEM_STATUS = 1 << 3


class Iir(IntEnum):
    """Interrupt identification, highest priority first."""

    LINE_STATUS = 0x06
    RECEIVED = 0x04
    TIMEOUT = 0x0C
    TRANSMITTER_EMPTY = 0x02
    MODEM_STATUS = 0x00
    NONE = 0x01


IIR_FIFO_ENABLED = 0xC0
FCR_ENABLE = 1 << 0
FCR_CLEAR_RECEIVE = 1 << 1
FCR_CLEAR_TRANSMIT = 1 << 2
FCR_TRIGGERS = (1, 4, 8, 14)
LCR_DLAB = 1 << 7


class Mcr(IntFlag):
    """Modem control."""

    DTR = 1 << 0
    RTS = 1 << 1
    OUT1 = 1 << 2
    OUT2 = 1 << 3
    """On a PC, OUT2 connects the interrupt output to the bus."""
    LOOPBACK = 1 << 4


class Lsr(IntFlag):
    """Line status."""

    DATA_READY = 1 << 0
    OVERRUN = 1 << 1
    BREAK = 1 << 4
    THR_EMPTY = 1 << 5
    TRANSMITTER_EMPTY = 1 << 6


LSR_ERRORS = 0x1E


class Msr(IntFlag):
    """Modem status."""

    DELTA_CTS = 1 << 0
    DELTA_DSR = 1 << 1
    RING_TRAILING = 1 << 2
    DELTA_DCD = 1 << 3
    CTS = 1 << 4
    DSR = 1 << 5
    RI = 1 << 6
    DCD = 1 << 7


MSR_CONNECTED = Msr.CTS | Msr.DSR | Msr.DCD
