"""Registers of the VGA (IBM PS/2 Hardware Interface Technical Reference, Video Subsystem) and of Bochs' VBE."""

from __future__ import annotations

from enum import IntEnum, IntFlag

VGA_PORT, VGA_PORTS = 0x3B0, 0x30
"""All ports of the VGA, the monochrome ones included."""
DISPI_PORT, DISPI_PORTS = 0x1CE, 3
WINDOW, WINDOW_BYTES = 0xA_0000, 0x2_0000
SEQUENCER_COUNT, GRAPHICS_COUNT, CRTC_COUNT, ATTRIBUTE_COUNT = 5, 9, 25, 21
PALETTE_BYTES = 768
DISPI_ID = 0xB0C5


class Port(IntEnum):
    """Ports; those of the CRT controller are at 0x3Bx in monochrome modes."""

    ATTRIBUTE = 0x3C0
    ATTRIBUTE_READ = 0x3C1
    MISCELLANEOUS = 0x3C2
    SEQUENCER_INDEX = 0x3C4
    SEQUENCER_DATA = 0x3C5
    PALETTE_MASK = 0x3C6
    PALETTE_READ_INDEX = 0x3C7
    PALETTE_WRITE_INDEX = 0x3C8
    PALETTE_DATA = 0x3C9
    FEATURE_READ = 0x3CA
    MISCELLANEOUS_READ = 0x3CC
    GRAPHICS_INDEX = 0x3CE
    GRAPHICS_DATA = 0x3CF
    CRTC_INDEX = 0x3D4
    CRTC_DATA = 0x3D5
    STATUS = 0x3DA


class Crtc(IntEnum):
    """Registers of the CRT controller."""

    DISPLAY_END = 0x01
    OVERFLOW = 0x07
    MAXIMUM_SCAN_LINE = 0x09
    CURSOR_START = 0x0A
    CURSOR_END = 0x0B
    START_HIGH = 0x0C
    START_LOW = 0x0D
    CURSOR_HIGH = 0x0E
    CURSOR_LOW = 0x0F
    SYNC_END = 0x11
    VERTICAL_END = 0x12
    OFFSET = 0x13


class Dispi(IntEnum):
    """Registers of Bochs' extension."""

    ID = 0
    WIDTH = 1
    HEIGHT = 2
    DEPTH = 3
    ENABLE = 4
    BANK = 5
    VIRTUAL_WIDTH = 6
    VIRTUAL_HEIGHT = 7
    X_OFFSET = 8
    Y_OFFSET = 9
    MEMORY_64K = 10


class DispiEnable(IntFlag):
    """Bits of `Dispi.ENABLE`."""

    ON = 0x01
    CAPABILITIES = 0x02
    PALETTE_8_BIT = 0x20
    KEEP_MEMORY = 0x80


DEPTHS = (8, 15, 16, 24, 32)
MAX_WIDTH, MAX_HEIGHT, MAX_DEPTH = 2560, 1600, 32
