"""ACPI fixed hardware (ACPI 6.5, 4.8): PM1a event and control blocks, PM timer, one GPE block, the SMI command port.

Register layout as in the PIIX4: the event block at 0, control at 4, the timer at 8.
"""

from __future__ import annotations

from pyhyve.state.record import U16, U64, Size, record
from pyhyve.support.hints import Annotated

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ClassVar

    from pyhyve.devices.contracts import Clock, IrqLine, TimerSource

PM_SIZE = 0x40
PM1_CONTROL = 4
PM_TIMER = 8
SMI_ENABLE, SMI_SET_UP = 0x30, 1 << 5
"""SMI_EN of the ICH9 (316972, 13.8.3.11), and its bit for the command port."""
GPE_SIZE = 4
TIMER_FREQUENCY_HZ = 3_579_545
ACPI_ENABLE = 0xF1
ACPI_DISABLE = 0xF0
SLEEP_TYPE_S5 = 5
"""SLP_TYP value the tables name for soft-off."""

_NS = 1_000_000_000
_TIMER_STATUS = 1 << 0
_POWER_BUTTON = 1 << 8
_EVENT_BITS = _TIMER_STATUS | 1 << 5 | _POWER_BUTTON | 1 << 10 | 1 << 15
_ENABLE_BITS = _TIMER_STATUS | 1 << 5 | _POWER_BUTTON | 1 << 10
_SCI_ENABLE = 1 << 0
_SLEEP_ENABLE = 1 << 13
_TIMER_HALF = 1 << 23


@record
class AcpiPmState:
    """PM1a registers; the timer is the machine's clock."""

    status: U16
    enable: U16
    control: U16
    carries_seen: U64


class AcpiPm:
    """PM1a, the timer and the SCI. `sci` drives the interrupt; `power_off` is called for S5."""

    state_type: ClassVar = AcpiPmState
    state_version: ClassVar = 1

    def __init__(self, clock: Clock, timers: TimerSource, sci: IrqLine, power_off: Callable[[], None]) -> None:
        """ACPI mode is on from the start: there is no SMM code that could switch it."""
        self._clock = clock
        self._sci = sci
        self._power_off = power_off
        self._carry = timers.create_timer(self._carried)
        self._status = self._enable = 0
        self._control = _SCI_ENABLE
        self._carries_seen = 0

    def reset(self) -> None:
        """Return to the power-on state."""
        self._status = self._enable = 0
        self._control = _SCI_ENABLE
        self._carry.cancel()
        self._carries_seen = self._ticks() // _TIMER_HALF
        self._sci.set(level=False)

    def save(self) -> AcpiPmState:
        """The registers."""
        return AcpiPmState(
            status=self._status, enable=self._enable, control=self._control, carries_seen=self._carries_seen
        )

    def load(self, state: AcpiPmState) -> None:
        """Take over the registers and drive the SCI as they say."""
        self._status = state.status & _EVENT_BITS
        self._enable = state.enable & _ENABLE_BITS
        self._control = state.control & (0x1C00 | _SCI_ENABLE)
        self._carries_seen = state.carries_seen
        self._update()

    def press_power_button(self) -> None:
        """Ask the guest's operating system to shut down."""
        self._status |= _POWER_BUTTON
        self._update()

    def set_acpi_mode(self, *, enabled: bool) -> None:
        """Connect events to the SCI, or leave them alone."""
        self._control = self._control & ~_SCI_ENABLE | enabled
        self._update()

    def read(self, offset: int, size: int) -> int:
        """Read PM1 status and enable, PM1 control, or the timer."""
        if offset == PM_TIMER and size == 4:
            return self._ticks() & 0xFF_FFFF
        if offset < PM1_CONTROL:
            self._latch_carry()
            value = self._status | self._enable << 16
        elif offset < PM_TIMER:
            value = self._control
            offset -= PM1_CONTROL
        elif offset < PM_TIMER + 4:
            value = self._ticks() & 0xFF_FFFF
            offset -= PM_TIMER
        else:
            # There is no system management mode: firmware of an ICH9 is told that it is set up already.
            return SMI_SET_UP if offset == SMI_ENABLE else 0
        return value >> (8 * offset) & ((1 << (8 * size)) - 1)

    def write(self, offset: int, size: int, value: int) -> None:
        """Clear status bits, set enable bits, or control sleeping."""
        if offset < PM1_CONTROL:
            self._latch_carry()
            value <<= 8 * offset
            written = ((1 << (8 * size)) - 1) << (8 * offset)
            self._status &= ~(value & _EVENT_BITS)
            mask = written >> 16
            self._enable = self._enable & ~mask | value >> 16 & mask & _ENABLE_BITS
            self._update()
        elif offset < PM_TIMER:
            shift = 8 * (offset - PM1_CONTROL)
            written = ((1 << (8 * size)) - 1) << shift
            control = self._control & ~written | value << shift & written
            self._control = control & 0x1C00 | self._control & _SCI_ENABLE
            if control & _SLEEP_ENABLE and control >> 10 & 7 == SLEEP_TYPE_S5:
                self._power_off()

    def _ticks(self) -> int:
        return self._clock.now_ns() * TIMER_FREQUENCY_HZ // _NS

    def _latch_carry(self) -> None:
        """TMR_STS is set whenever the timer's top bit changes."""
        carries = self._ticks() // _TIMER_HALF
        if carries != self._carries_seen:
            self._carries_seen = carries
            self._status |= _TIMER_STATUS

    def _carried(self) -> None:
        self._latch_carry()
        self._update()

    def _update(self) -> None:
        if self._enable & _TIMER_STATUS:
            next_tick = (self._ticks() // _TIMER_HALF + 1) * _TIMER_HALF
            self._carry.arm(-(-next_tick * _NS // TIMER_FREQUENCY_HZ))
        else:
            self._carry.cancel()
        self._sci.set(level=bool(self._status & self._enable and self._control & _SCI_ENABLE))


@record
class GpeState:
    """Status and enable bits of 16 events."""

    status: U16
    enable: U16


class GpeBlock:
    """General-purpose events: two status bytes, then two enable bytes (ACPI 6.5, 4.8.4.1). `sci` is shared."""

    state_type: ClassVar = GpeState
    state_version: ClassVar = 1

    def __init__(self, sci: IrqLine) -> None:
        """All events disabled."""
        self._sci = sci
        self._status = self._enable = 0

    def reset(self) -> None:
        """Return to the power-on state."""
        self._status = self._enable = 0
        self._sci.set(level=False)

    def save(self) -> GpeState:
        """Both registers."""
        return GpeState(status=self._status, enable=self._enable)

    def load(self, state: GpeState) -> None:
        """Take over both registers."""
        self._status, self._enable = state.status, state.enable
        self._update()

    def raise_event(self, number: int) -> None:
        """Event `number` happened."""
        self._status |= 1 << number
        self._update()

    def read(self, offset: int, _size: int) -> int:
        """Read a byte."""
        value = self._status if offset < 2 else self._enable
        return value >> 8 * (offset & 1) & 0xFF

    def write(self, offset: int, _size: int, value: int) -> None:
        """Clear status bits, or set a byte of enable bits."""
        shift = 8 * (offset & 1)
        if offset < 2:
            self._status &= ~(value << shift)
        else:
            self._enable = self._enable & ~(0xFF << shift) | value << shift
        self._update()

    def _update(self) -> None:
        self._sci.set(level=bool(self._status & self._enable))


class SharedLine:
    """Several sources of one level-triggered interrupt: the line is high while any of them is."""

    def __init__(self, line: IrqLine) -> None:
        self._line = line
        self._high: set[int] = set()
        self._sources = 0

    def source(self) -> IrqLine:
        """Another source."""
        self._sources += 1
        return _Source(self, self._sources)

    def drive(self, source: int, *, level: bool) -> None:
        """Source number `source` is high or low."""
        (self._high.add if level else self._high.discard)(source)
        self._line.set(level=bool(self._high))


class _Source:
    def __init__(self, shared: SharedLine, number: int) -> None:
        self._shared = shared
        self._number = number

    def set(self, *, level: bool) -> None:
        self._shared.drive(self._number, level=level)


@record
class SmiCommandState:
    """Ports 0xB2 and 0xB3."""

    registers: Annotated[bytes, Size(2)]


class SmiCommandPort:
    """Ports 0xB2 and 0xB3: the way into ACPI mode and out of it."""

    state_type: ClassVar = SmiCommandState
    state_version: ClassVar = 1

    def __init__(self, pm: AcpiPm) -> None:
        """Attach to the power management block."""
        self._pm = pm
        self._registers = bytearray(2)

    def save(self) -> SmiCommandState:
        """What was written last."""
        return SmiCommandState(registers=bytes(self._registers))

    def load(self, state: SmiCommandState) -> None:
        """Take over what was written last."""
        self._registers[:] = state.registers

    def read(self, offset: int, _size: int) -> int:
        """Read what was written last."""
        return self._registers[offset]

    def write(self, offset: int, _size: int, value: int) -> None:
        """Write a command (offset 0) or its status byte."""
        self._registers[offset] = value
        if offset == 0 and value in {ACPI_ENABLE, ACPI_DISABLE}:
            self._pm.set_acpi_mode(enabled=value == ACPI_ENABLE)
