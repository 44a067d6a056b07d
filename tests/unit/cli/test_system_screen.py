"""The screen on a terminal: keys from bytes, bytes from screens."""

from __future__ import annotations

import os
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from pyhyve.cli.system_screen import Painter, TerminalScreen, Typist
from pyhyve.devices.display.screen import TextScreen
from pyhyve.devices.display.vga import VgaRegisters
from pyhyve.devices.display.vga_spec import WINDOW, WINDOW_BYTES
from pyhyve.devices.input.keyboard import Keyboard
from pyhyve.devices.input.keys import NUMBERS
from pyhyve.memory.guest import GuestMemory


@pytest.mark.parametrize(
    ("data", "chords"),
    [
        (b"aZ5", [("a",), ("shift", "z"), ("5",)]),
        (b"~|{?", [("shift", "grave_accent"), ("shift", "backslash"), ("shift", "bracket_left"), ("shift", "slash")]),
        (b"\r\t\x7f \x03", [("ret",), ("tab",), ("backspace",), ("spc",), ("ctrl", "c")]),
        (b"\x1b[A\x1bOP\x1b[24~\x1b[3~", [("up",), ("f1",), ("f12",), ("delete",)]),
        (b"\x1bx\x1b\x1b", [("alt", "x"), ("esc",), ("esc",)]),
        (b"\x01a\x01?b\xff", [("ctrl", "a"), ("b",)]),
    ],
)
def test_bytes_become_chords(data: bytes, chords: list[tuple[str, ...]]) -> None:
    whole = Typist(lambda: None).feed(data, is_all=True)
    assert whole == chords
    split = Typist(lambda: None)
    found = [chord for byte in data for chord in split.feed(bytes((byte,)))]
    assert found + split.feed(b"", is_all=True) == chords
    assert all(name in NUMBERS for chord in chords for name in chord)


def test_every_printable_character_has_keys() -> None:
    for code in range(32, 127):
        (chord,) = Typist(lambda: None).feed(bytes((code,)))
        assert all(name in NUMBERS for name in chord), chr(code)


def test_way_out() -> None:
    left: list[int] = []
    assert Typist(lambda: left.append(1)).feed(b"\x01xy") == [("y",)]
    assert left == [1]


def text(*rows: bytes, attribute: int = 7, cursor: tuple[int, int] | None = None) -> TextScreen:
    columns = max(map(len, rows))
    cells = b"".join(bytes((character, attribute)) for row in rows for character in row.ljust(columns))
    return TextScreen(columns, len(rows), cells, cursor)


def test_only_rows_that_changed_are_painted() -> None:
    painter = Painter()
    first = painter.paint(text(b"one", b"two"), 80, 25)
    assert first == b"\x1b[1;1H\x1b[0;37;40mone\x1b[2;1H\x1b[0;37;40mtwo\x1b[?25l"
    assert painter.paint(text(b"one", b"tw\x01", cursor=(1, 1)), 80, 25) == (
        b"\x1b[2;1H\x1b[0;37;40mtw\xe2\x98\xba\x1b[2;2H\x1b[?25h"
    )
    assert b"\x1b[0;34;41;1m" in painter.paint(text(b"one", attribute=0x49), 80, 25)


def test_small_terminal_shows_the_corner() -> None:
    assert Painter().paint(text(b"abcdef", b"second", cursor=(0, 1)), 3, 1) == (b"\x1b[1;1H\x1b[0;37;40mabc\x1b[?25l")


def test_note_stands_for_other_modes_once() -> None:
    painter = Painter()
    assert painter.paint(None, 80, 25, "graphics").endswith(b"graphics")
    assert painter.paint(None, 80, 25, "graphics") == b""
    assert painter.paint(text(b"x"), 80, 25).startswith(b"\x1b[0m\x1b[2J")


def test_terminal_shows_and_types() -> None:
    memory = GuestMemory(shared=False)
    memory.add(WINDOW, WINDOW_BYTES, name="vga")
    registers, keyboard, lock = VgaRegisters(), Keyboard(), threading.RLock()
    registers.crtc[1], registers.crtc[0x12], registers.crtc[9], registers.crtc[0x13] = 79, 15, 15, 40
    registers.graphics[6] = 0x0E
    memory.write(WINDOW + 0x1_8000, b"h\x07i\x07")
    hardware = SimpleNamespace(vga=SimpleNamespace(registers=registers), keyboard=keyboard)
    parts: Any = SimpleNamespace(
        inventory=SimpleNamespace(hardware=hardware), vm=SimpleNamespace(memory=memory), lock=lock
    )
    machine: Any = SimpleNamespace(parts=parts)
    left = threading.Event()
    ours, theirs = os.openpty()
    try:
        with TerminalScreen(machine, left.set, theirs, theirs).shown():
            seen = b""
            while b"hi" not in seen:
                seen += os.read(ours, 4096)
            os.write(ours, b"a\x01x")
            assert left.wait(60)
            deadline = time.monotonic() + 60
            typed: list[int | None] = []
            while len(typed) < 3:
                assert time.monotonic() < deadline
                with lock:
                    byte = keyboard.take()
                if byte is not None:
                    typed.append(byte)
            assert typed == [0x1C, 0xF0, 0x1C]
        while b"\x1b[?1049l" not in seen:
            seen += os.read(ours, 4096)
    finally:
        os.close(ours)
        os.close(theirs)
        memory.close()
