"""The i8042 keyboard controller, with or without a keyboard, and port 0x92 (IBM PC/AT Technical Reference, 1-39 ff.).

Without one it is enough for a driver's probe to end cleanly, and for the reset and A20 pulses of old software. There is
no mouse.
"""

from __future__ import annotations

from pyhyve.devices.input.state import KeyboardState
from pyhyve.state.errors import StateError
from pyhyve.state.record import U8, Size, record
from pyhyve.support.hints import Annotated

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ClassVar

    from pyhyve.devices.contracts import IrqLine
    from pyhyve.devices.input.keyboard import Keyboard

_OUTPUT_FULL = 0x01
_SYSTEM_FLAG = 0x04
_COMMAND = 0x08
_UNLOCKED = 0x10
_AUX_FULL = 0x20
_TIMEOUT = 0x40
_DEFAULT_COMMAND_BYTE = 0x74
"""Both ports disabled, translation on, no interrupts."""
_RESEND = 0xFE
_QUEUE_LIMIT = 16
_INTERRUPT, _KEYBOARD_OFF, _TRANSLATE = 0x01, 0x10, 0x40
"""Bits of the command byte."""
_FROM_KEYBOARD = 0x02
"""In the queue alone: the byte came from the keyboard, and raises its interrupt."""
_BREAK = 0xF0


@record
class I8042State:
    """The controller's registers; `queue` holds byte and status flags in turn."""

    command_byte: U8
    output_port: U8
    memory: Annotated[bytes, Size(32)]
    queue: bytes
    pending_command: U8
    last_was_command: bool
    keyboard: KeyboardState | None = None
    saw_break: bool = False


class I8042:
    """The controller; `data` is its port 0x60, `control` its port 0x64."""

    state_type: ClassVar = I8042State
    state_version: ClassVar = 1

    def __init__(
        self, reset_requested: Callable[[], None], keyboard: Keyboard | None = None, line: IrqLine | None = None
    ) -> None:
        """`reset_requested` is called when the processor's reset line is pulsed; `line` is the keyboard's interrupt."""
        self._reset_requested = reset_requested
        self._keyboard = keyboard
        self._line = line
        if keyboard is not None:
            keyboard.on_data = self._fetch
        self.data = _Port(self, is_control=False)
        self.control = _Port(self, is_control=True)
        self.reset()

    def reset(self) -> None:
        """Return to the power-on state."""
        self._command_byte = _DEFAULT_COMMAND_BYTE
        self._output_port = 0x03
        self._memory = bytearray(32)
        self._queue: list[tuple[int, int]] = []
        self._pending_command = 0
        self._last_was_command = False
        self._saw_break = False
        if self._keyboard is not None:
            self._keyboard.reset()
        self._drive_line()

    def save(self) -> I8042State:
        """The registers and what waits to be read."""
        return I8042State(
            command_byte=self._command_byte,
            output_port=self._output_port,
            memory=bytes(self._memory),
            queue=bytes(part for entry in self._queue for part in entry),
            pending_command=self._pending_command,
            last_was_command=self._last_was_command,
            keyboard=None if self._keyboard is None else self._keyboard.save(),
            saw_break=self._saw_break,
        )

    def load(self, state: I8042State) -> None:
        """Take over registers and queue."""
        self._command_byte = state.command_byte
        self._output_port = state.output_port
        self._memory = bytearray(state.memory)
        pairs = zip(state.queue[::2], state.queue[1::2], strict=False)
        self._queue = list(pairs)[:_QUEUE_LIMIT]
        self._pending_command = state.pending_command
        self._last_was_command = state.last_was_command
        self._saw_break = state.saw_break
        if (state.keyboard is None) != (self._keyboard is None):
            msg = f"i8042: the state has {'no ' if state.keyboard is None else 'a '}keyboard"
            raise StateError(msg)
        if self._keyboard is not None and state.keyboard is not None:
            self._keyboard.load(state.keyboard)
        self._drive_line()

    def read_data(self) -> int:
        """Take the next byte out of the output buffer."""
        value = self._queue.pop(0)[0] if self._queue else 0
        if self._line is not None:
            self._line.set(level=False)
        self._fetch()
        return value

    def _fetch(self) -> None:
        """Take the keyboard's next byte, when there is room for it and its clock is on."""
        keyboard = self._keyboard
        while keyboard is not None and not self._queue and not self._command_byte & _KEYBOARD_OFF:
            value = keyboard.take()
            if value is None:
                break
            if self._command_byte & _TRANSLATE:
                if value == _BREAK:
                    self._saw_break = True
                    continue
                value = keyboard.to_set_1.get(value, value) | (0x80 if self._saw_break else 0)
                self._saw_break = False
            self._put(value, _FROM_KEYBOARD)
        self._drive_line()

    def _drive_line(self) -> None:
        """The keyboard's interrupt: while a byte of its waits, and is wanted."""
        if self._line is not None:
            waits = bool(self._queue) and bool(self._queue[0][1] & _FROM_KEYBOARD)
            self._line.set(level=waits and bool(self._command_byte & _INTERRUPT))

    def write(self, value: int, *, is_control: bool) -> None:
        """Write a command or its data."""
        self._last_was_command = is_control
        if is_control:
            self._command(value)
        else:
            command, self._pending_command = self._pending_command, 0
            self._data(command, value)
        self._fetch()

    def status(self) -> int:
        """The status register."""
        status = _UNLOCKED | self._command_byte & _SYSTEM_FLAG | (_COMMAND if self._last_was_command else 0)
        if self._queue:
            status |= _OUTPUT_FULL | self._queue[0][1] & ~_FROM_KEYBOARD
        return status

    def _put(self, value: int, flags: int = 0) -> None:
        if len(self._queue) < _QUEUE_LIMIT:
            self._queue.append((value, flags))

    def _command(self, value: int) -> None:
        if value >= 0xF0:
            if not value & 1:
                self._reset_requested()
        elif 0x20 <= value < 0x40:
            self._put(self._command_byte if value == 0x20 else self._memory[value & 0x1F])
        elif 0x60 <= value < 0x80 or value in {0xD1, 0xD2, 0xD3, 0xD4}:
            self._pending_command = value
        else:
            self._simple_command(value)

    def _simple_command(self, value: int) -> None:
        match value:
            case 0xA7:
                self._command_byte |= 0x20
            case 0xA8:
                self._command_byte &= ~0x20
            case 0xA9:
                self._put(0x04)
            case 0xAA:
                self._command_byte |= _SYSTEM_FLAG
                self._put(0x55)
            case 0xAB:
                self._put(0x00)
            case 0xAD:
                self._command_byte |= 0x10
            case 0xAE:
                self._command_byte &= ~0x10
            case 0xC0:
                self._put(0x80)
            case 0xD0:
                self._put(self._output_port)
            case 0xDD:
                self._output_port &= ~0x02
            case 0xDF:
                self._output_port |= 0x02
            case _:
                pass

    def _data(self, command: int, value: int) -> None:
        if command == 0x60:
            self._command_byte = value
        elif 0x60 < command < 0x80:
            self._memory[command & 0x1F] = value
        elif command == 0xD1:
            self._output_port = value
            if not value & 1:
                self._reset_requested()
        elif command == 0xD2:
            self._put(value)
        elif command == 0xD3:
            self._put(value, _AUX_FULL)
        elif command == 0 and self._keyboard is not None:
            self._command_byte &= ~_KEYBOARD_OFF
            self._keyboard.receive(value)
        else:
            self._put(_RESEND, _TIMEOUT | (_AUX_FULL if command == 0xD4 else 0))


class _Port:
    """One of the controller's two ports."""

    def __init__(self, controller: I8042, *, is_control: bool) -> None:
        self._controller = controller
        self._is_control = is_control

    def read(self, _offset: int, _size: int) -> int:
        """Read data or status."""
        return self._controller.status() if self._is_control else self._controller.read_data()

    def write(self, _offset: int, _size: int, value: int) -> None:
        """Write a command or data."""
        self._controller.write(value, is_control=self._is_control)


@record
class SystemControlAState:
    """Port 0x92."""

    value: U8


class SystemControlPortA:
    """Port 0x92: fast A20 (always open here) and fast reset."""

    state_type: ClassVar = SystemControlAState
    state_version: ClassVar = 1

    def __init__(self, reset_requested: Callable[[], None]) -> None:
        """`reset_requested` is called on a rising reset bit."""
        self._reset_requested = reset_requested
        self._value = 0x02

    def reset(self) -> None:
        """Return to the power-on state."""
        self._value = 0x02

    def save(self) -> SystemControlAState:
        """What was written."""
        return SystemControlAState(value=self._value)

    def load(self, state: SystemControlAState) -> None:
        """Take over what was written."""
        self._value = state.value & 0x03

    def read(self, _offset: int, _size: int) -> int:
        """Read the control bits."""
        return self._value

    def write(self, _offset: int, _size: int, value: int) -> None:
        """Set A20 (bit 1); a rising bit 0 resets the machine."""
        if value & ~self._value & 1:
            self._reset_requested()
        self._value = value & 0x03
