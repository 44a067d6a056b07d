"""The machine's screen and keyboard on a terminal (`-display curses`): text modes, with colours."""

from __future__ import annotations

import contextlib
import os
import select
import termios
import threading
import tty
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyhyve.devices.display import screen
from pyhyve.devices.display.vga import VgaRegisters
from pyhyve.devices.display.vga_spec import Dispi
from pyhyve.devices.input.keys import NUMBERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyhyve.devices.display.screen import TextScreen
    from pyhyve.machine.machine import Machine

_REFRESH_S = 0.1
_TYPING_S = 0.01
_LONE_ESCAPE_S = 0.05
"""An escape character that nothing follows for so long is the key."""
_ESCAPE, _LEAVE = 0x1B, 0x01
_SHIFT, _CTRL, _ALT = "shift", "ctrl", "alt"
_CHARACTERS = {
    " ": "spc", "\t": "tab", "\r": "ret", "\n": "ret", "\x7f": "backspace", "\x08": "backspace", "-": "minus",
    "=": "equal", "[": "bracket_left", "]": "bracket_right", ";": "semicolon", "'": "apostrophe",
    "`": "grave_accent", "\\": "backslash", ",": "comma", ".": "dot", "/": "slash",
    **{letter: letter for letter in "abcdefghijklmnopqrstuvwxyz0123456789"},
}  # fmt: skip
_SHIFTED = dict(zip('!@#$%^&*()_+{}:"~|<>?', "1234567890-=[];'`\\,./", strict=True))
_SEQUENCES = {
    b"[A": "up", b"[B": "down", b"[C": "right", b"[D": "left", b"[H": "home", b"[F": "end", b"OA": "up", b"OB": "down",
    b"OC": "right", b"OD": "left", b"OH": "home", b"OF": "end", b"[1~": "home", b"[4~": "end", b"[2~": "insert",
    b"[3~": "delete", b"[5~": "pgup", b"[6~": "pgdn", b"OP": "f1", b"OQ": "f2", b"OR": "f3", b"OS": "f4",
    b"[11~": "f1", b"[12~": "f2", b"[13~": "f3", b"[14~": "f4", b"[[A": "f1", b"[[B": "f2", b"[[C": "f3",
    b"[[D": "f4", b"[[E": "f5", b"[15~": "f5", b"[17~": "f6", b"[18~": "f7", b"[19~": "f8", b"[20~": "f9",
    b"[21~": "f10", b"[23~": "f11", b"[24~": "f12",
}  # fmt: skip
"""What terminals send for keys, after an escape (xterm's control sequences; the Linux console's)."""
_LONGEST = max(map(len, _SEQUENCES))
_ANSI = (0, 4, 2, 6, 1, 5, 3, 7)
"""VGA's colours in ANSI's order (ECMA-48, 8.3.117)."""
_ENTER, _EXIT = b"\x1b[?1049h\x1b[2J", b"\x1b[0m\x1b[?25h\x1b[?1049l"


@dataclass(slots=True)
class Typist:
    """From a terminal's bytes to keys: each chord is pressed as a whole. Ctrl-A x leaves, Ctrl-A a is Ctrl-A."""

    leave: Callable[[], object]
    _rest: bytes = b""
    _is_command: bool = field(default=False)

    @property
    def waits(self) -> bool:
        """Whether an escape may become more than a key."""
        return bool(self._rest)

    def feed(self, data: bytes, *, is_all: bool = False) -> list[tuple[str, ...]]:
        """Chords of `data`; with `is_all` nothing follows soon, so that an escape is a key."""
        self._rest += data
        chords = []
        while self._rest:
            if self._rest[0] == _ESCAPE and not self._is_command:
                found = self._sequence(is_all=is_all)
                if found is None:
                    break
                chords.append(found)
                continue
            byte, self._rest = self._rest[0], self._rest[1:]
            chord = self._byte(byte)
            if chord:
                chords.append(chord)
        return chords

    def _sequence(self, *, is_all: bool) -> tuple[str, ...] | None:
        """The chord of an escape sequence; None while it may go on."""
        rest = self._rest[1:]
        for length in range(1, min(len(rest), _LONGEST) + 1):
            key = _SEQUENCES.get(rest[:length])
            if key:
                self._rest = rest[length:]
                return (key,)
        if any(sequence.startswith(rest) for sequence in _SEQUENCES) and not is_all:
            return None
        self._rest = rest
        if rest and rest[:1] not in b"[O\x1b":
            self._rest = rest[1:]
            return (_ALT, *self._byte(rest[0]))
        return ("esc",)

    def _byte(self, byte: int) -> tuple[str, ...]:
        if self._is_command:
            self._is_command = False
            if byte in b"xX":
                self.leave()
                return ()
            return (_CTRL, "a") if byte in b"aA\x01" else ()
        if byte == _LEAVE:
            self._is_command = True
            return ()
        character = chr(byte)
        if character in _CHARACTERS:
            return (_CHARACTERS[character],)
        if character in _SHIFTED:
            return (_SHIFT, _CHARACTERS[_SHIFTED[character]])
        if character.isascii() and character.isupper():
            return (_SHIFT, character.lower())
        if 0 < byte < 27:
            return (_CTRL, chr(byte + 0x60))
        return ()


@dataclass(slots=True)
class Painter:
    """From screens to what a terminal must be sent: the rows that changed."""

    _shown: list[bytes] = field(default_factory=list)
    _note: str = ""

    def paint(self, text: TextScreen | None, columns: int, rows: int, note: str = "") -> bytes:
        """Bytes for a terminal of this size; `note` stands instead of a screen that is not text."""
        if text is None:
            if note == self._note:
                return b""
            self._note, self._shown = note, []
            return b"\x1b[0m\x1b[2J\x1b[H" + note.encode()
        out = [b"\x1b[0m\x1b[2J"] if self._note else []
        self._note = ""
        stride = 2 * text.columns
        cells = [text.cells[at : at + stride] for at in range(0, stride * text.rows, stride)]
        if len(self._shown) != len(cells):
            self._shown = [b""] * len(cells)
        for number, row in enumerate(cells[:rows]):
            if row != self._shown[number]:
                out.append(b"\x1b[%d;1H" % (number + 1) + _row(row[: 2 * columns]))
        self._shown = cells
        if text.cursor is None or text.cursor[1] >= rows:
            out.append(b"\x1b[?25l")
        else:
            out.append(b"\x1b[%d;%dH\x1b[?25h" % (text.cursor[1] + 1, text.cursor[0] + 1))
        return b"".join(out)


def _row(cells: bytes) -> bytes:
    """A row, its colours set where they change."""
    parts, before = [], -1
    for at in range(0, len(cells), 2):
        attribute = cells[at + 1]
        if attribute != before:
            bold = b";1" if attribute & 8 else b""
            parts.append(b"\x1b[0;%d;%d" % (30 + _ANSI[attribute & 7], 40 + _ANSI[attribute >> 4 & 7]) + bold + b"m")
            before = attribute
        parts.append(screen.CHARACTERS[cells[at]].encode())
    return b"".join(parts)


class TerminalScreen:
    """Shows the machine's screen on a terminal and types what is typed there, on a thread of its own."""

    def __init__(self, machine: Machine, leave: Callable[[], object], input_fd: int = 0, output_fd: int = 1) -> None:
        """`leave` is called for Ctrl-A x."""
        inventory = machine.parts.inventory
        self._hardware = None if inventory is None else inventory.hardware
        self._memory = machine.parts.vm.memory
        self._lock = machine.parts.lock
        self._typist = Typist(leave)
        self._painter = Painter()
        self._input_fd, self._output_fd = input_fd, output_fd
        self._chords: list[tuple[str, ...]] = []
        self._stop_read, self._stop_write = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="pyhyve-screen", daemon=True)

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Use the terminal inside the block. The caller puts its settings back."""
        saved = termios.tcgetattr(self._input_fd)
        tty.setraw(self._input_fd)
        self._send(_ENTER)
        self._thread.start()
        try:
            yield
        finally:
            os.close(self._stop_write)
            self._thread.join()
            os.close(self._stop_read)
            self._send(_EXIT)
            termios.tcsetattr(self._input_fd, termios.TCSADRAIN, saved)

    def _send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(self._output_fd, data) :]

    def _run(self) -> None:
        inputs = [self._stop_read, self._input_fd]
        while True:
            self._send(self.refresh())
            wait_s = _LONE_ESCAPE_S if self._typist.waits else _REFRESH_S
            ready, _, _ = select.select(inputs, (), (), _TYPING_S if self._chords else wait_s)
            if self._stop_read in ready:
                return
            data = b""
            if self._input_fd in ready:
                with contextlib.suppress(OSError):
                    data = os.read(self._input_fd, 256)
                if not data:
                    inputs.remove(self._input_fd)  # the terminal is gone; the machine is not
            self._chords += self._typist.feed(data, is_all=not data)
            self._type()

    def _type(self) -> None:
        """Press the next chord, once the guest has read the last."""
        hardware = self._hardware
        if hardware is None or hardware.keyboard is None:
            self._chords.clear()
            return
        with self._lock:
            if self._chords and hardware.keyboard.is_read:
                numbers = [NUMBERS[name] for name in self._chords.pop(0)]
                for number in numbers:
                    hardware.keyboard.press(number, is_pressed=True)
                for number in reversed(numbers):
                    hardware.keyboard.press(number, is_pressed=False)

    def refresh(self) -> bytes:
        """What the terminal must be sent now."""
        size = os.get_terminal_size(self._output_fd)
        columns, rows = size.columns or 80, size.lines or 25  # a serial terminal does not say
        vga = None if self._hardware is None else self._hardware.vga
        if vga is None:
            return self._painter.paint(None, columns, rows, "The machine has no screen. Ctrl-A x quits.")
        registers = VgaRegisters()
        with self._lock:
            registers.load(vga.registers.save())
        text = screen.read_text(registers, self._memory)
        width, height = registers.dispi[Dispi.WIDTH], registers.dispi[Dispi.HEIGHT]
        note = f"{width} x {height} graphics mode: screendump shows it. Ctrl-A x quits."
        if not registers.has_frame_buffer:
            note = "Nothing is shown. Ctrl-A x quits."
        return self._painter.paint(text, columns, rows, note)
