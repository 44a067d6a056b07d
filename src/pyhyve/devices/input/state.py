"""What is saved of a keyboard: apart from it, as its controller is there without one."""

from __future__ import annotations

from pyhyve.state.record import U8, record


@record
class KeyboardState:
    """What waits to be read, and the settings."""

    queue: bytes
    is_scanning: bool
    pending: U8
    """The command whose argument comes next; 0: none."""
    leds: U8
