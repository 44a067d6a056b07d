"""A PS/2 keyboard (IBM PS/2 Hardware Interface Technical Reference, Keyboard): keys in, bytes of set 2 out."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from pyhyve.devices.input.keys import TO_SET_1, scan_codes
from pyhyve.devices.input.state import KeyboardState

if TYPE_CHECKING:
    from collections.abc import Callable

_ACK, _RESEND, _ECHO, _SELF_TEST_PASSED = 0xFA, 0xFE, 0xEE, 0xAA
_IDENTITY = (0xAB, 0x83)
_MAX_KEYS = 16
"""Bytes of the buffer; more keys are lost, as in a real one."""
_MAX_BYTES = _MAX_KEYS + 8
"""With what is answered to commands; a driver that reads none of it loses what comes then."""
_LEDS, _SCAN_CODE_SET, _RATE = 0xED, 0xF0, 0xF3


class Keyboard:
    """The keyboard; the machine lock is held."""

    def __init__(self) -> None:
        self.to_set_1 = TO_SET_1
        """What a controller makes of the codes."""
        self.on_data: Callable[[], None] | None = None
        """Called when there is something to read."""
        self._queue: deque[int] = deque()
        self._is_scanning = True
        self._pending = 0
        self.leds = 0

    def reset(self) -> None:
        """Power on; the result of the self-test waits."""
        self._queue.clear()
        self._is_scanning = True
        self._pending = self.leds = 0

    @property
    def is_read(self) -> bool:
        """Whether everything was taken."""
        return not self._queue

    def press(self, number: int, *, is_pressed: bool) -> None:
        """A key goes down or up."""
        codes = scan_codes(number, is_pressed=is_pressed)
        if self._is_scanning and len(self._queue) + len(codes) <= _MAX_KEYS:
            self._send(*codes)

    def take(self) -> int | None:
        """The next byte for the controller."""
        return self._queue.popleft() if self._queue else None

    def receive(self, value: int) -> None:
        """A byte from the controller: a command, or its argument."""
        command, self._pending = self._pending, 0
        if command:
            self._argument(command, value)
            return
        match value:
            case 0xEE:
                self._send(_ECHO)
            case 0xED | 0xF0 | 0xF3:
                self._pending = value
                self._send(_ACK)
            case 0xF2:
                self._send(_ACK, *_IDENTITY)
            case 0xF4 | 0xF5 | 0xF6:
                self._is_scanning = value != 0xF5
                if value != 0xF4:
                    self._queue.clear()
                self._send(_ACK)
            case 0xFF:
                self.reset()
                self._send(_ACK, _SELF_TEST_PASSED)
            case 0xFE:
                self._send(_RESEND)
            case _ if 0xF7 <= value <= 0xFD:
                self._send(_ACK)
            case _:
                self._send(_RESEND)

    def _argument(self, command: int, value: int) -> None:
        if command == _LEDS:
            self.leds = value & 7
        if command == _SCAN_CODE_SET and value == 0:
            self._send(_ACK, 2)
        elif command == _SCAN_CODE_SET and value != 2:
            self._send(_RESEND)  # the only set there is, as on many keyboards
        else:
            self._send(_ACK)

    def _send(self, *values: int) -> None:
        if len(self._queue) + len(values) <= _MAX_BYTES:
            self._queue.extend(values)
        if self.on_data is not None:
            self.on_data()

    def save(self) -> KeyboardState:
        """Everything."""
        return KeyboardState(
            queue=bytes(self._queue), is_scanning=self._is_scanning, pending=self._pending, leds=self.leds
        )

    def load(self, state: KeyboardState) -> None:
        """Take over everything."""
        self._queue = deque(state.queue[:_MAX_BYTES])
        self._is_scanning = state.is_scanning
        self._pending = state.pending if state.pending in {_LEDS, _SCAN_CODE_SET, _RATE} else 0
        self.leds = state.leds & 7
