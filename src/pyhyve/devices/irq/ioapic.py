"""The 82093AA I/O APIC: 24 inputs, each with a redirection entry."""

from __future__ import annotations

from pyhyve.devices.irq import spec
from pyhyve.devices.irq.message import message_from_entry
from pyhyve.state.errors import StateError
from pyhyve.state.record import U8, U32, U64, record
from pyhyve.support.hints import Protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from pyhyve.devices.irq.message import ApicMessage


class MessageSink(Protocol):
    """Where interrupt messages go: the local APICs."""

    def deliver(self, message: ApicMessage) -> bool:
        """Hand `message` to its destinations; False when there is none."""


@record
class IoApicState:
    """Redirection table, line levels and registers."""

    entries: tuple[U64, ...]
    lines: U32
    id: U8
    select: U8


class IoApic:
    """Inputs are driven with `set_pin`; registers are reached through `read` and `write` (memory-mapped)."""

    state_type: ClassVar = IoApicState
    state_version: ClassVar = 1

    def __init__(self, sink: MessageSink) -> None:
        """Make it in its power-on state, delivering to `sink`."""
        self._sink = sink
        self._entries = [spec.ENTRY_MASKED] * spec.IOAPIC_PINS
        self._lines = 0
        self._id = 0
        self._select = 0

    def reset(self) -> None:
        """Return to the power-on state; the lines keep their level."""
        self._entries[:] = [spec.ENTRY_MASKED] * spec.IOAPIC_PINS
        self._id = 0
        self._select = 0

    def save(self) -> IoApicState:
        """Table, lines and registers."""
        return IoApicState(entries=tuple(self._entries), lines=self._lines, id=self._id, select=self._select)

    def load(self, state: IoApicState) -> None:
        """Take over table, lines and registers; nothing is delivered anew."""
        if len(state.entries) != spec.IOAPIC_PINS:
            msg = f"state of I/O APIC: has {len(state.entries)} inputs"
            raise StateError(msg)
        self._entries[:] = state.entries
        self._lines = state.lines & ((1 << spec.IOAPIC_PINS) - 1)
        self._id, self._select = state.id & 0xF, state.select

    def clear_lines(self) -> None:
        """All inputs low, as after a machine reset."""
        self._lines = 0

    def set_pin(self, pin: int, *, level: bool) -> None:
        """Drive input `pin`: `level` is the logical state; polarity is taken as wired correctly."""
        bit = 1 << pin
        before = self._lines & bit
        if not level:
            self._lines &= ~bit
            return
        self._lines |= bit
        entry = self._entries[pin]
        if entry & spec.ENTRY_MASKED:
            return
        if entry & spec.ENTRY_LEVEL:
            self._serve_level(pin)
        elif not before:
            self._sink.deliver(message_from_entry(entry))

    def end_of_interrupt(self, vector: int) -> None:
        """A local APIC finished a level-triggered `vector`."""
        wanted = spec.ENTRY_LEVEL | spec.ENTRY_REMOTE_IRR
        for pin, entry in enumerate(self._entries):
            if entry & 0xFF == vector and entry & wanted == wanted:
                self._entries[pin] = entry & ~spec.ENTRY_REMOTE_IRR
                self._serve_level(pin)

    def read(self, offset: int, size: int) -> int:
        """Read the select register or the window (32-bit accesses)."""
        if offset == spec.IOAPIC_SELECT:
            return self._select
        if offset == spec.IOAPIC_WINDOW and size >= 4:
            return self._read_register(self._select)
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Write the select register, the window, or the EOI register."""
        if offset == spec.IOAPIC_SELECT:
            self._select = value & 0xFF
        elif offset == spec.IOAPIC_WINDOW and size >= 4:
            self._write_register(self._select, value)
        elif offset == spec.IOAPIC_EOI:
            self.end_of_interrupt(value & 0xFF)

    def _read_register(self, index: int) -> int:
        if index in {spec.IOAPIC_REG_ID, spec.IOAPIC_REG_ARBITRATION}:
            return self._id << 24
        if index == spec.IOAPIC_REG_VERSION:
            return spec.IOAPIC_VERSION | (spec.IOAPIC_PINS - 1) << 16
        pin, high = divmod(index - spec.IOAPIC_REG_TABLE, 2)
        if not 0 <= pin < spec.IOAPIC_PINS:
            return 0
        return self._entries[pin] >> (32 * high) & 0xFFFF_FFFF

    def _write_register(self, index: int, value: int) -> None:
        if index == spec.IOAPIC_REG_ID:
            self._id = value >> 24 & 0xF
            return
        pin, high = divmod(index - spec.IOAPIC_REG_TABLE, 2)
        if not 0 <= pin < spec.IOAPIC_PINS:
            return
        old = self._entries[pin]
        half = 0xFFFF_FFFF << (32 * high)
        mask = spec.ENTRY_WRITABLE & half
        entry = old & ~mask | value << (32 * high) & mask
        if not entry & spec.ENTRY_LEVEL:
            entry &= ~spec.ENTRY_REMOTE_IRR
        self._entries[pin] = entry
        self._serve_level(pin)

    def _serve_level(self, pin: int) -> None:
        entry = self._entries[pin]
        blocked = spec.ENTRY_MASKED | spec.ENTRY_REMOTE_IRR
        wanted = entry & spec.ENTRY_LEVEL and not entry & blocked and self._lines >> pin & 1
        if wanted and self._sink.deliver(message_from_entry(entry)):
            self._entries[pin] |= spec.ENTRY_REMOTE_IRR
