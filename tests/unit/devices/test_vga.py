"""The VGA: its registers, Bochs' extension, its ROM, and the pictures of what it shows."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyhyve.devices.bus import AddressMap
from pyhyve.devices.display import screen
from pyhyve.devices.display.picture import Picture
from pyhyve.devices.display.vga import FRAME_BUFFER, FRAME_BUFFER_BYTES, StdVga, VgaRegisters, VgaState
from pyhyve.devices.display.vga_spec import VGA_PORT, WINDOW, WINDOW_BYTES, Crtc, Dispi, Port
from pyhyve.devices.pci.bus import PciBus
from pyhyve.memory.guest import GuestMemory
from pyhyve.state.record import from_json, to_json

if TYPE_CHECKING:
    from collections.abc import Iterator

TEXT = WINDOW + 0x1_8000
RED, BLUE, GREY = b"\xaa\x00\x00", b"\x00\x00\xaa", b"\xaa\xaa\xaa"


class Card:
    """Registers with the memory that goes with them."""

    def __init__(self) -> None:
        self.memory = GuestMemory(shared=False)
        self.memory.add(WINDOW, WINDOW_BYTES, name="vga")
        self.memory.add(FRAME_BUFFER, FRAME_BUFFER_BYTES, name="vga")
        self.registers = VgaRegisters()

    def outb(self, port: int, value: int) -> None:
        self.registers.write(port - VGA_PORT, 1, value)

    def inb(self, port: int) -> int:
        return self.registers.read(port - VGA_PORT, 1)

    def text_mode(self) -> None:
        """80 columns, 25 rows, as a BIOS sets mode 3."""
        self.outb(Port.MISCELLANEOUS, 0x67)
        for index, value in ((1, 0x00), (3, 0x00), (4, 0x02)):
            self.registers.write(Port.SEQUENCER_INDEX - VGA_PORT, 2, value << 8 | index)
        for index, value in ((5, 0x10), (6, 0x0E)):
            self.registers.write(Port.GRAPHICS_INDEX - VGA_PORT, 2, value << 8 | index)
        for index, value in (
            (Crtc.DISPLAY_END, 79), (Crtc.OVERFLOW, 0x1F), (Crtc.MAXIMUM_SCAN_LINE, 0x4F), (Crtc.CURSOR_START, 0x20),
            (Crtc.CURSOR_END, 0x0E), (Crtc.VERTICAL_END, 0x8F), (Crtc.OFFSET, 0x28),
        ):  # fmt: skip
            self.registers.write(Port.CRTC_INDEX - VGA_PORT, 2, value << 8 | index)
        self.inb(Port.STATUS)
        for index in range(16):
            self.outb(Port.ATTRIBUTE, index)
            self.outb(Port.ATTRIBUTE, index)
        for index, value in ((0x10, 0x0C), (0x14, 0x00)):
            self.outb(Port.ATTRIBUTE, index)
            self.outb(Port.ATTRIBUTE, value)
        self.outb(Port.PALETTE_WRITE_INDEX, 0)
        for index in range(16):
            for bit in (4, 2, 1):
                self.outb(Port.PALETTE_DATA, 0x2A if index & bit else 0)
        glyph = bytes([0xFF] * 8 + [0x81] * 8).ljust(32, b"\0")
        self.memory.write(WINDOW + 32 * ord("X"), glyph)
        self.memory.write(WINDOW + 32 * 0xC4, bytes([0x01] * 16).ljust(32, b"\0"))

    def put(self, column: int, row: int, text: bytes, attribute: int) -> None:
        cells = b"".join(bytes((character, attribute)) for character in text)
        self.memory.write(TEXT + 2 * (80 * row + column), cells)

    def mode(self, width: int, height: int, depth: int) -> None:
        for index, value in ((Dispi.ENABLE, 0), (Dispi.WIDTH, width), (Dispi.HEIGHT, height), (Dispi.DEPTH, depth)):
            self.registers.write_dispi(index, value)
        self.registers.write_dispi(Dispi.ENABLE, 0x41)

    def picture(self) -> Picture:
        return screen.picture(self.registers, self.memory)


@pytest.fixture
def card() -> Iterator[Card]:
    made = Card()
    yield made
    made.memory.close()


def pixel(shown: Picture, x: int, y: int) -> bytes:
    at = 3 * (y * shown.width + x)
    return shown.rgb[at : at + 3]


# -- registers ---------------------------------------------------------------------------------------------------------


def test_indexed_registers_keep_what_is_written(card: Card) -> None:
    for index_port, count in ((Port.SEQUENCER_INDEX, 5), (Port.GRAPHICS_INDEX, 9), (Port.CRTC_INDEX, 25)):
        card.outb(Port.MISCELLANEOUS, 1)
        for index in range(count):
            card.outb(index_port, index)
            card.outb(index_port + 1, index + 0x20)
        for index in range(count):
            card.outb(index_port, index)
            assert card.inb(index_port + 1) == index + 0x20
        card.outb(index_port, 0x1F)
        assert card.inb(index_port + 1) in {0, 0x20, 0x27}


def test_first_crtc_registers_can_be_protected(card: Card) -> None:
    card.outb(Port.MISCELLANEOUS, 1)
    card.registers.write(Port.CRTC_INDEX - VGA_PORT, 2, 0x80 << 8 | Crtc.SYNC_END)
    card.registers.write(Port.CRTC_INDEX - VGA_PORT, 2, 0x55 << 8 | Crtc.DISPLAY_END)
    card.registers.write(Port.CRTC_INDEX - VGA_PORT, 2, 0xFF << 8 | Crtc.OVERFLOW)
    assert (card.registers.crtc[Crtc.DISPLAY_END], card.registers.crtc[Crtc.OVERFLOW]) == (0, 0x10)


def test_attribute_port_takes_index_and_data_in_turn(card: Card) -> None:
    card.outb(Port.MISCELLANEOUS, 1)
    card.inb(Port.STATUS)
    card.outb(Port.ATTRIBUTE, 3)
    card.outb(Port.ATTRIBUTE, 0x15)
    card.outb(Port.ATTRIBUTE, 4)
    card.inb(Port.STATUS)
    card.outb(Port.ATTRIBUTE, 0x23)
    assert card.inb(Port.ATTRIBUTE) == 0x23
    assert card.inb(Port.ATTRIBUTE_READ) == 0x15


def test_palette_advances_by_itself(card: Card) -> None:
    card.outb(Port.PALETTE_WRITE_INDEX, 7)
    for value in (1, 2, 3, 4):
        card.outb(Port.PALETTE_DATA, value)
    card.outb(Port.PALETTE_READ_INDEX, 7)
    assert [card.inb(Port.PALETTE_DATA) for _ in range(4)] == [1, 2, 3, 4]
    assert card.inb(Port.PALETTE_READ_INDEX) == 3
    assert card.inb(Port.PALETTE_WRITE_INDEX) == 8


def test_crtc_is_where_the_display_is(card: Card) -> None:
    card.outb(0x3B4, Crtc.OFFSET)
    card.outb(0x3B5, 0x28)
    assert card.registers.crtc[Crtc.OFFSET] == 0x28
    assert card.inb(Port.CRTC_DATA) == 0xFF
    card.outb(Port.MISCELLANEOUS, 1)
    assert card.inb(0x3B5) == 0xFF
    assert card.inb(Port.CRTC_DATA) == 0x28


def test_retrace_comes_and_goes(card: Card) -> None:
    card.outb(Port.MISCELLANEOUS, 1)
    assert {card.inb(Port.STATUS) & 8 for _ in range(2)} == {0, 8}


def test_vbe_tells_its_limits_and_refuses_others(card: Card) -> None:
    registers = card.registers
    assert registers.read_dispi(Dispi.ID) == 0xB0C5
    registers.write_dispi(Dispi.ENABLE, 2)
    assert [registers.read_dispi(index) for index in (1, 2, 3)] == [2560, 1600, 32]
    registers.write_dispi(Dispi.ENABLE, 0)
    registers.write_dispi(Dispi.WIDTH, 5000)
    registers.write_dispi(Dispi.DEPTH, 7)
    assert [registers.read_dispi(index) for index in (1, 2, 3)] == [0, 0, 0]
    card.mode(800, 600, 32)
    assert registers.read_dispi(Dispi.VIRTUAL_WIDTH) == 800
    assert registers.read_dispi(Dispi.VIRTUAL_HEIGHT) == FRAME_BUFFER_BYTES // 3200
    ports = registers.dispi_ports
    ports.write(0, 2, Dispi.HEIGHT)
    assert (ports.read(0, 2), ports.read(1, 2), ports.read(1, 1)) == (Dispi.HEIGHT, 600, 0xFF)


def test_state_goes_round(card: Card) -> None:
    card.text_mode()
    card.put(3, 2, b"X", 0x17)
    card.outb(Port.ATTRIBUTE, 0x20)
    other = Card()
    other.memory.write(WINDOW, card.memory.read(WINDOW, WINDOW_BYTES))
    other.registers.load(from_json(VgaState, to_json(card.registers.save()), "vga"))
    assert other.picture() == card.picture()
    assert other.registers.save() == card.registers.save()
    card.mode(640, 480, 16)
    other.registers.load(card.registers.save())
    assert other.picture() == card.picture()
    assert other.picture().width == 640
    other.memory.close()


# -- pictures ----------------------------------------------------------------------------------------------------------


def test_text_is_read_and_drawn(card: Card) -> None:
    card.text_mode()
    card.put(2, 1, b"XX\xc4", 0x14)
    text = screen.read_text(card.registers, card.memory)
    assert text is not None
    assert (text.columns, text.rows) == (80, 25)
    assert text.lines()[:3] == ["", "  XX─", ""]
    shown = card.picture()
    assert (shown.width, shown.height) == (720, 400)
    assert pixel(shown, 18, 16) == RED
    assert pixel(shown, 19, 30) == BLUE
    assert pixel(shown, 26, 16) == BLUE  # the ninth column, between letters
    assert pixel(shown, 4 * 9 + 8, 20) == RED  # which lines have
    assert pixel(shown, 0, 0) == b"\0\0\0"


def test_start_and_cursor_follow_the_crtc(card: Card) -> None:
    card.text_mode()
    card.put(0, 2, b"X", 0x07)
    for index, value in ((Crtc.START_LOW, 160), (Crtc.CURSOR_START, 0x0D), (Crtc.CURSOR_LOW, 165)):
        card.registers.write(Port.CRTC_INDEX - VGA_PORT, 2, value << 8 | index)
    text = screen.read_text(card.registers, card.memory)
    assert text is not None
    assert text.lines()[0] == "X"
    assert text.cursor == (5, 0)
    card.put(5, 2, b" ", 0x07)
    assert pixel(card.picture(), 5 * 9, 13) == GREY


def test_screen_can_be_off(card: Card) -> None:
    card.text_mode()
    card.put(0, 0, b"XXXX", 0x77)
    card.registers.write(Port.SEQUENCER_INDEX - VGA_PORT, 2, 0x20 << 8 | 1)
    assert not any(card.picture().rgb)


def test_256_colours_at_320_by_200(card: Card) -> None:
    card.text_mode()
    card.registers.write(Port.GRAPHICS_INDEX - VGA_PORT, 2, 0x40 << 8 | 5)
    card.registers.write(Port.GRAPHICS_INDEX - VGA_PORT, 2, 0x05 << 8 | 6)
    card.memory.write(WINDOW + 320 * 3 + 5, b"\x04")
    assert screen.read_text(card.registers, card.memory) is None
    shown = card.picture()
    assert (shown.width, shown.height) == (320, 200)
    assert pixel(shown, 5, 3) == RED


@pytest.mark.parametrize(
    ("depth", "data", "wanted"),
    [
        (32, b"\x01\x02\x03\xff", b"\x03\x02\x01"),
        (24, b"\x01\x02\x03", b"\x03\x02\x01"),
        (16, struct.pack("<H", 31 << 11 | 63 << 5), b"\xff\xff\x00"),
        (15, struct.pack("<H", 31 << 10 | 31), b"\xff\x00\xff"),
        (8, b"\x01", BLUE),
    ],
)
def test_frame_buffer_in_every_depth(depth: int, data: bytes, wanted: bytes, card: Card) -> None:
    card.text_mode()
    card.mode(640, 480, depth)
    stride = 640 * len(data)
    card.memory.write(FRAME_BUFFER + 7 * stride + 9 * len(data), data)
    shown = card.picture()
    assert (shown.width, shown.height) == (640, 480)
    assert pixel(shown, 9, 7) == wanted
    card.registers.write_dispi(Dispi.Y_OFFSET, 5)
    assert pixel(card.picture(), 9, 2) == wanted


def test_picture_as_ppm_and_png() -> None:
    shown = Picture(2, 1, b"\x01\x02\x03\x04\x05\x06")
    assert shown.ppm() == b"P6\n2 1\n255\n\x01\x02\x03\x04\x05\x06"
    stream = io.BytesIO(shown.png())
    assert stream.read(8) == b"\x89PNG\r\n\x1a\n"
    chunks = {}
    while head := stream.read(8):
        length, kind = struct.unpack(">I4s", head)
        chunks[kind] = stream.read(length)
        assert struct.unpack(">I", stream.read(4))[0] == zlib.crc32(kind + chunks[kind])
    assert zlib.decompress(chunks[b"IDAT"]) == b"\0" + shown.rgb
    assert chunks[b"IHDR"][:8] == struct.pack(">II", 2, 1)


@given(
    st.lists(
        st.tuples(st.integers(VGA_PORT, VGA_PORT + 0x2F), st.integers(0, 255), st.booleans()), min_size=1, max_size=80
    ),
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 0xFFFF)), max_size=12),
)
def test_anything_can_be_written_and_shown(
    accesses: list[tuple[int, int, bool]], extension: list[tuple[int, int]]
) -> None:
    card = Card()
    for port, value, is_read in accesses:
        if is_read:
            assert 0 <= card.inb(port) <= 0xFF
        else:
            card.outb(port, value)
    for index, value in extension:
        card.registers.write_dispi(index, value)
    shown = card.picture()
    assert len(shown.rgb) == 3 * shown.width * shown.height
    other = VgaRegisters()
    other.load(from_json(VgaState, to_json(card.registers.save()), "vga"))
    card.memory.close()


# -- the function ------------------------------------------------------------------------------------------------------


def test_rom_and_frame_buffer_are_where_firmware_puts_them() -> None:
    memory = GuestMemory(shared=False)
    memory.add(FRAME_BUFFER, FRAME_BUFFER_BYTES, name="vga")
    space = AddressMap("memory", 1 << 40)
    bus = PciBus(AddressMap("port", 1 << 16), space, send_msi=lambda *_: None, set_pirq=lambda *_, **__: None)
    vga = StdVga(memory, b"\x55\xaa" + bytes(3000))
    bus.attach(vga, 2)
    vga.config_write(0x30, 4, 0xFFFF_FFFE)
    assert vga.config_read(0x30, 4) == 0xFFFF_F000
    vga.config_write(0x30, 4, 0xFEB0_0001)
    assert space.read(0xFEB0_0000, 2) == 0xFFFF
    vga.config_write(0x04, 2, 0x02)
    assert space.read(0xFEB0_0000, 2) == 0xAA55
    assert space.read(0xFEB0_0FFE, 4) == 0xFFFF_FFFF
    vga.config_write(0x30, 4, 0xFEB0_0000)
    assert space.read(0xFEB0_0000, 2) == 0xFFFF
    vga.config_write(0x10, 4, 0xE000_0000)
    space.write(0xE000_0010, 4, 0x1234_5678)
    assert memory.read(FRAME_BUFFER + 16, 4) == bytes.fromhex("78563412")
    vga.config_write(0x18, 4, 0xFEB1_0000)
    space.write(0xFEB1_0500 + 2 * Dispi.WIDTH, 2, 1024)
    assert space.read(0xFEB1_0500 + 2 * Dispi.WIDTH, 2) == 1024
    space.write(0xFEB1_0402, 1, 0x67)
    assert vga.registers.miscellaneous == 0x67
    state = [(name, to_json(part.save())) for name, part in vga.saveables()]
    assert [name for name, _ in state] == ["", ".vga"]
    vga.reset()
    assert space.read(0xE000_0010, 4) == 0xFFFF_FFFF
    memory.close()
