"""What a VGA shows: a picture, and in text modes the text."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from pyhyve.devices.display.picture import Picture
from pyhyve.devices.display.vga import FRAME_BUFFER, FRAME_BUFFER_BYTES
from pyhyve.devices.display.vga_spec import WINDOW, WINDOW_BYTES, Crtc, Dispi, DispiEnable
from pyhyve.support.records import dataclass

if TYPE_CHECKING:
    from pyhyve.devices.display.vga import VgaRegisters
    from pyhyve.memory.guest import GuestMemory

_GLYPH_BYTES = 32
_LINE_GRAPHICS = range(0xC0, 0xE0)
_MAX_ROWS, _MAX_COLUMNS = 128, 256
_BLANK = (640, 480)
CHARACTERS = (
    " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼"
    + bytes(range(32, 127)).decode()
    + "⌂"
    + bytes(range(128, 255)).decode("cp437")
    + " "
)
"""The glyphs of code page 437, which the VGA's own font has."""


@dataclass(frozen=True, slots=True)
class TextScreen:
    """A text mode's screen: for each cell the character and its attribute, row by row."""

    columns: int
    rows: int
    cells: bytes
    cursor: tuple[int, int] | None
    """Column and row, if it is shown."""

    def lines(self) -> list[str]:
        """The text of each row, without spaces at its end."""
        stride = 2 * self.columns
        rows = [self.cells[at : at + stride : 2] for at in range(0, stride * self.rows, stride)]
        return ["".join(CHARACTERS[character] for character in row).rstrip() for row in rows]


def is_text(registers: VgaRegisters) -> bool:
    """Whether a text mode is shown."""
    return not registers.has_frame_buffer and not registers.graphics[6] & 1 and bool(registers.crtc[Crtc.DISPLAY_END])


def read_text(registers: VgaRegisters, memory: GuestMemory) -> TextScreen | None:
    """The screen of a text mode; None in another."""
    if not is_text(registers):
        return None
    crtc = registers.crtc
    columns = min(crtc[Crtc.DISPLAY_END] + 1, _MAX_COLUMNS)
    rows = min(_lines(crtc) // _cell_height(crtc), _MAX_ROWS)
    start, stride = crtc[Crtc.START_HIGH] << 8 | crtc[Crtc.START_LOW], crtc[Crtc.OFFSET] * 2
    base, size = _text_window(registers)
    window = memory.read(WINDOW + base, size)
    doubled = window + window  # addresses wrap
    cells = b"".join(
        doubled[at : at + 2 * columns] for at in ((start + row * stride) * 2 % size for row in range(rows))
    )
    cursor = None
    if not crtc[Crtc.CURSOR_START] & 0x20 and stride:
        at = (crtc[Crtc.CURSOR_HIGH] << 8 | crtc[Crtc.CURSOR_LOW]) - start
        if 0 <= at < stride * rows and at % stride < columns:
            cursor = (at % stride, at // stride)
    return TextScreen(columns, rows, cells.ljust(2 * columns * rows, b"\0"), cursor)


def picture(registers: VgaRegisters, memory: GuestMemory) -> Picture:
    """What is shown; black where nothing is, or a mode that cannot be."""
    if registers.has_frame_buffer:
        return _frame_buffer(registers, memory)
    text = read_text(registers, memory)
    if text is not None and not registers.sequencer[1] & 0x20:
        return _draw_text(text, registers, memory)
    if registers.graphics[6] & 1 and registers.graphics[5] & 0x40:
        colours = _palette(registers)
        pixels = memory.read(WINDOW, 320 * 200)
        return Picture(320, 200, b"".join(colours[pixel] for pixel in pixels))
    width, height = _BLANK
    return Picture(width, height, bytes(3 * width * height))


def _lines(crtc: bytearray) -> int:
    overflow = crtc[Crtc.OVERFLOW]
    return (crtc[Crtc.VERTICAL_END] | (overflow & 0x02) << 7 | (overflow & 0x40) << 3) + 1


def _cell_height(crtc: bytearray) -> int:
    return (crtc[Crtc.MAXIMUM_SCAN_LINE] & 0x1F) + 1


def _text_window(registers: VgaRegisters) -> tuple[int, int]:
    """Where in the VGA's window text modes have their cells, and how much there is (graphics register 6)."""
    return ((0, WINDOW_BYTES), (0, 0x1_0000), (0x1_0000, 0x8000), (0x1_8000, 0x8000))[registers.graphics[6] >> 2 & 3]


def _palette(registers: VgaRegisters) -> list[bytes]:
    """The 256 colours as red, green, blue."""
    wide = registers.has_frame_buffer and registers.dispi[Dispi.ENABLE] & DispiEnable.PALETTE_8_BIT
    palette = registers.palette
    if not wide:
        palette = bytearray((value & 0x3F) << 2 | (value & 0x3F) >> 4 for value in palette)
    return [bytes(palette[3 * index : 3 * index + 3]) for index in range(256)]


def _text_colours(registers: VgaRegisters) -> list[bytes]:
    """The 16 colours of attributes, through the attribute controller."""
    attribute, colours = registers.attribute, _palette(registers)
    select = attribute[0x14]
    found = []
    for index in range(16):
        if attribute[0x10] & 0x80:
            number = attribute[index] & 0x0F | (select & 0x0F) << 4
        else:
            number = attribute[index] & 0x3F | (select & 0x0C) << 4
        found.append(colours[number & registers.palette_mask])
    return found


def _draw_text(text: TextScreen, registers: VgaRegisters, memory: GuestMemory) -> Picture:
    height = _cell_height(registers.crtc)
    width = 8 if registers.sequencer[1] & 1 else 9
    colours = _text_colours(registers)
    has_blink, has_line_graphics = registers.attribute[0x10] & 8, registers.attribute[0x10] & 4
    block = registers.sequencer[3]
    # Fonts are in plane 2: characters load them there through the window at 0xA0000.
    font_at = ((block & 3) << 1 | block >> 4 & 1) * 0x2000
    font = memory.read(WINDOW + font_at, 256 * _GLYPH_BYTES)
    strips: dict[tuple[int, int, bool], bytes] = {}

    def strip(bits: int, attribute: int, extended: bool) -> bytes:  # noqa: FBT001 - part of the key
        key = (bits, attribute, extended)
        if key not in strips:
            ink, paper = colours[attribute & 0xF], colours[attribute >> 4 & (7 if has_blink else 15)]
            dots = [bits >> 7 - dot & 1 for dot in range(8)]
            if width == 9:
                dots.append(dots[7] if extended else 0)
            strips[key] = b"".join(ink if dot else paper for dot in dots)
        return strips[key]

    first, last = registers.crtc[Crtc.CURSOR_START] & 0x1F, registers.crtc[Crtc.CURSOR_END] & 0x1F
    rows = []
    for row in range(text.rows):
        cells = text.cells[2 * row * text.columns : 2 * (row + 1) * text.columns]
        for line in range(height):
            parts = []
            for column in range(text.columns):
                character, attribute = cells[2 * column], cells[2 * column + 1]
                bits = font[character * _GLYPH_BYTES + line]
                if text.cursor == (column, row) and first <= line <= last:
                    bits = 0xFF
                extended = bool(has_line_graphics) and character in _LINE_GRAPHICS
                parts.append(strip(bits, attribute, extended))
            rows.append(b"".join(parts))
    return Picture(text.columns * width, text.rows * height, b"".join(rows))


def _frame_buffer(registers: VgaRegisters, memory: GuestMemory) -> Picture:
    dispi = registers.dispi
    width, height, depth = dispi[Dispi.WIDTH], dispi[Dispi.HEIGHT], dispi[Dispi.DEPTH]
    size = registers.pixel_bytes
    if not width or not height or not size:
        return Picture(*_BLANK, bytes(3 * _BLANK[0] * _BLANK[1]))
    stride = max(dispi[Dispi.VIRTUAL_WIDTH], width) * size
    start = dispi[Dispi.Y_OFFSET] * stride + dispi[Dispi.X_OFFSET] * size
    length = min(stride * (height - 1) + width * size, max(FRAME_BUFFER_BYTES - start, 0))
    data = memory.read(FRAME_BUFFER + start, length) if length else b""
    data = data.ljust(stride * height, b"\0")
    rows = [_convert(data[at : at + width * size], depth, registers) for at in range(0, stride * height, stride)]
    return Picture(width, height, b"".join(rows))


def _convert(row: bytes, depth: int, registers: VgaRegisters) -> bytes:
    """A row of pixels as red, green, blue."""
    if depth == 8:
        colours = _palette(registers)
        return b"".join(colours[pixel] for pixel in row)
    if depth >= 24:
        size = depth // 8
        found = bytearray(len(row) // size * 3)
        found[0::3], found[1::3], found[2::3] = row[2::size], row[1::size], row[0::size]
        return bytes(found)
    return b"".join(map(_short_colours(depth).__getitem__, memoryview(row).cast("H")))


@functools.cache
def _short_colours(depth: int) -> list[bytes]:
    """Each value of a pixel of 15 or 16 bits as red, green, blue."""
    green_bits = 6 if depth == 16 else 5
    reds = [value * 255 // 31 for value in range(32)]
    greens = [value * 255 // ((1 << green_bits) - 1) for value in range(1 << green_bits)]
    colours = [bytes((red, green, blue)) for red in reds for green in greens for blue in reds]
    return colours * (0x10000 // len(colours))
