"""The contracts between a device, the buses it is reached through, and the lines it drives.

A device knows its registers, never its address: an offset into its region is all it sees. Each capability (ports,
MMIO, reset) is opt-in. A guest's mistake is not an exception: a read of nothing answers all ones, a write to
nothing is dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable


@runtime_checkable
class RegisterDevice(Protocol):
    """Registers in port or memory space."""

    def read(self, offset: int, size: int) -> int:
        """Value of the `size` (1, 2, 4 or 8) bytes at `offset`; unused bits zero, unknown registers as the chip."""

    def write(self, offset: int, size: int, value: int) -> None:
        """The guest wrote `value` (`size` bytes, already truncated) at `offset`."""


class IrqLine(Protocol):
    """One interrupt input of an interrupt controller."""

    def set(self, *, level: bool) -> None:
        """Drive the line; may be called from any thread."""


class LineSetter(Protocol):
    """Drives one of several numbered lines: interrupt inputs, PIRQs."""

    def __call__(self, line: int, /, *, level: bool) -> None:
        """Drive `line`; may be called from any thread."""


class Clock(Protocol):
    """Guest time and timers, injected so that tests can steer them."""

    def now_ns(self) -> int:
        """Monotonic nanoseconds since the machine started."""

    def wall_ns(self) -> int:
        """Nanoseconds since the Unix epoch."""


class Timer(Protocol):
    """A one-shot timer; its callback runs on the I/O thread with the machine lock held."""

    def arm(self, deadline_ns: int) -> None:
        """Fire once when `Clock.now_ns` reaches `deadline_ns`; replaces an earlier deadline."""

    def cancel(self) -> None:
        """Disarm; idempotent."""


class TimerSource(Protocol):
    """Makes timers."""

    def create_timer(self, callback: Callable[[], None]) -> Timer:
        """Return a disarmed timer that calls `callback` when it fires."""
