"""The i8254 programmable interval timer and the PC's port 0x61 beside it (Intel 231164).

Counters are computed from the clock when looked at; only channel 0 has a timer, for its interrupt.
"""

from __future__ import annotations

from pyhyve.state.errors import StateError
from pyhyve.state.record import I64, U8, U16, U32, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from pyhyve.devices.contracts import Clock, IrqLine, TimerSource

FREQUENCY_HZ = 1_193_182
_NS = 1_000_000_000
_MIN_PERIOD_NS = 100_000
"""A faster periodic interrupt than this could starve the guest."""
_RW_LATCH, _RW_LOW, _RW_HIGH, _RW_BOTH = range(4)
_READ_BACK = 3
_LAST_MODE = 5
_SPEAKER_CHANNEL = 2
REFRESH_PERIOD_NS = 15_085
"""Port 0x61 bit 4 toggles at each memory refresh, every 18 counts."""


@record
class ChannelState:
    """One counter."""

    gate: bool
    mode: U8
    rw: U8
    bcd: bool
    reload: U32
    start_ns: I64
    running: bool
    null_count: bool
    latch: U16 | None
    latch_high: bool
    status: U8 | None
    read_high: bool
    write_high: bool
    write_low: U8


@record
class I8254State:
    """The three counters."""

    channels: tuple[ChannelState, ...]


class Channel:
    """One counter. Times are nanoseconds of the machine's clock."""

    __slots__ = (
        "bcd",
        "gate",
        "latch",
        "latch_high",
        "mode",
        "null_count",
        "read_high",
        "reload",
        "running",
        "rw",
        "start_ns",
        "status",
        "write_high",
        "write_low",
    )  # fmt: skip

    def __init__(self, *, gate: bool) -> None:
        self.gate = gate
        self.mode = 3
        self.rw = _RW_BOTH
        self.bcd = False
        self.reload = 0x10000
        self.start_ns = 0
        self.running = False
        self.null_count = True
        self.latch: int | None = None
        self.latch_high = False
        self.status: int | None = None
        self.read_high = self.write_high = False
        self.write_low = 0

    def save(self) -> ChannelState:
        """The counter as it is."""
        return ChannelState(**{name: getattr(self, name) for name in self.__slots__})

    def load_state(self, state: ChannelState) -> None:
        """Take over a counter; raises StateError for what the chip cannot be programmed to."""
        if state.mode > _LAST_MODE or state.rw > _RW_BOTH or not 1 <= state.reload <= 0x10000:
            msg = "state of i8254: is out of range"
            raise StateError(msg)
        for name in self.__slots__:
            setattr(self, name, getattr(state, name))

    @property
    def modulus(self) -> int:
        """How far the counter counts before it wraps."""
        return 10_000 if self.bcd else 0x10000

    def elapsed(self, now_ns: int) -> int:
        """Clock ticks since the count was loaded."""
        return (now_ns - self.start_ns) * FREQUENCY_HZ // _NS

    def count(self, now_ns: int) -> int:
        """The counting element as a number."""
        if not self.running:
            return self.reload % self.modulus
        ticks = self.elapsed(now_ns)
        if self.mode in {2, 3}:
            step = 2 * ticks if self.mode == 3 else ticks
            return (self.reload - step % self.reload) % self.modulus
        return (self.reload - ticks) % self.modulus

    def output(self, now_ns: int) -> bool:
        """Level of OUT."""
        if not self.running:
            return self.mode != 0
        ticks = self.elapsed(now_ns)
        match self.mode:
            case 0 | 1:
                return ticks >= self.reload
            case 2:
                return ticks % self.reload != self.reload - 1
            case 3:
                return ticks % self.reload < (self.reload + 1) // 2
            case _:
                return ticks != self.reload

    def load(self, value: int, now_ns: int) -> None:
        """A full count was written."""
        if self.bcd:
            value = _from_bcd(value)
        self.reload = value or self.modulus
        self.null_count = False
        if self.mode in {1, 5}:
            return
        self.start_ns = now_ns
        self.running = self.gate

    def set_gate(self, gate: bool, now_ns: int) -> None:  # noqa: FBT001 - it is a pin
        """Drive GATE: starts, restarts or stops counting as the mode says."""
        rising = gate and not self.gate
        self.gate = gate
        if self.mode in {1, 5}:
            if rising:
                self.start_ns, self.running = now_ns, True
        elif rising:
            self.start_ns, self.running = now_ns, not self.null_count
        elif not gate:
            self.running = False

    def write(self, value: int, now_ns: int) -> bool:
        """Write a byte of the count; True when the count is complete."""
        if self.rw == _RW_LOW:
            self.load(value, now_ns)
        elif self.rw == _RW_HIGH:
            self.load(value << 8, now_ns)
        elif not self.write_high:
            self.write_low, self.write_high = value, True
            if self.mode == 0:
                self.running = False
            return False
        else:
            self.write_high = False
            self.load(self.write_low | value << 8, now_ns)
        return True

    def read(self, now_ns: int) -> int:
        """Read the status, the latched count, or the count as it is, a byte at a time."""
        if self.status is not None:
            value, self.status = self.status, None
            return value
        count = self.latch if self.latch is not None else self._visible(now_ns)
        if self.rw == _RW_LOW:
            self.latch = None
            return count & 0xFF
        if self.rw == _RW_HIGH:
            self.latch = None
            return count >> 8
        self.read_high = not self.read_high
        if self.read_high:
            return count & 0xFF
        self.latch = None
        return count >> 8

    def latch_count(self, now_ns: int) -> None:
        """Counter latch command; ignored while an earlier one is unread."""
        if self.latch is None:
            self.latch = self._visible(now_ns)

    def latch_status(self, now_ns: int) -> None:
        """Read-back of the status byte."""
        if self.status is None:
            self.status = (
                self.output(now_ns) << 7 | self.null_count << 6 | self.rw << 4 | self.mode << 1 | int(self.bcd)
            )

    def program(self, rw: int, mode: int, *, bcd: bool) -> None:
        """Control word."""
        self.rw, self.mode, self.bcd = rw, mode, bcd
        self.null_count = True
        self.running = False
        self.reload = self.modulus
        self.latch = self.status = None
        self.read_high = self.write_high = False

    def _visible(self, now_ns: int) -> int:
        count = self.count(now_ns)
        return _to_bcd(count) if self.bcd else count & 0xFFFF


class I8254:
    """Ports 0x40 to 0x43. `irq0` drives the interrupt of channel 0."""

    state_type: ClassVar = I8254State
    state_version: ClassVar = 1

    def __init__(self, clock: Clock, timers: TimerSource, irq0: IrqLine) -> None:
        """Counters are stopped until programmed."""
        self._clock = clock
        self._timer = timers.create_timer(self._fired)
        self._irq0 = irq0
        self.channels = [Channel(gate=True), Channel(gate=True), Channel(gate=False)]

    def reset(self) -> None:
        """Return to the power-on state."""
        self._timer.cancel()
        self.channels[:] = [Channel(gate=True), Channel(gate=True), Channel(gate=False)]
        self._irq0.set(level=False)

    def read(self, offset: int, _size: int) -> int:
        """Read a counter; the control port cannot be read."""
        if offset == 3:
            return 0xFF
        return self.channels[offset].read(self._clock.now_ns())

    def write(self, offset: int, _size: int, value: int) -> None:
        """Write a counter or the control word."""
        now_ns = self._clock.now_ns()
        if offset < 3:
            if self.channels[offset].write(value, now_ns) and offset == 0:
                self._schedule(now_ns)
            return
        select, rw = value >> 6, value >> 4 & 3
        if select == _READ_BACK:
            self._read_back(value, now_ns)
        elif rw == _RW_LATCH:
            self.channels[select].latch_count(now_ns)
        else:
            mode = value >> 1 & 7
            self.channels[select].program(rw, mode if mode < 6 else mode & 3, bcd=bool(value & 1))
            if select == 0:
                self._timer.cancel()
                self._irq0.set(level=mode != 0)

    def _read_back(self, value: int, now_ns: int) -> None:
        for index, channel in enumerate(self.channels):
            if value >> (index + 1) & 1:
                if not value & 0x20:
                    channel.latch_count(now_ns)
                if not value & 0x10:
                    channel.latch_status(now_ns)

    def _schedule(self, now_ns: int) -> None:
        """Arm the timer for the next rising edge of OUT of channel 0."""
        channel = self.channels[0]
        self._irq0.set(level=channel.mode != 0)
        if not channel.running:
            self._timer.cancel()
            return
        self._arm(now_ns)

    def _arm(self, now_ns: int) -> None:
        channel = self.channels[0]
        ticks = channel.reload
        if channel.mode in {2, 3}:
            ticks *= channel.elapsed(now_ns) // channel.reload + 1
        elif channel.mode in {4, 5}:
            ticks += 1
        deadline_ns = channel.start_ns - (-ticks * _NS // FREQUENCY_HZ)
        self._timer.arm(max(deadline_ns, now_ns + _MIN_PERIOD_NS) if channel.mode in {2, 3} else deadline_ns)

    def save(self) -> I8254State:
        """The counters."""
        return I8254State(channels=tuple(channel.save() for channel in self.channels))

    def load(self, state: I8254State) -> None:
        """Take over the counters; the level of the interrupt is the interrupt controller's."""
        if len(state.channels) != len(self.channels):
            msg = f"state of i8254: has {len(state.channels)} counters"
            raise StateError(msg)
        for channel, saved in zip(self.channels, state.channels, strict=True):
            channel.load_state(saved)
        channel, now_ns = self.channels[0], self._clock.now_ns()
        self._timer.cancel()
        if channel.running and (channel.mode in {2, 3} or channel.elapsed(now_ns) < channel.reload):
            self._arm(now_ns)

    def _fired(self) -> None:
        channel = self.channels[0]
        self._irq0.set(level=False)
        self._irq0.set(level=True)
        if channel.mode in {2, 3}:
            self._schedule(self._clock.now_ns())


@record
class SystemControlState:
    """Port 0x61."""

    control: U8


class SystemControlPort:
    """Port 0x61: gate and output of channel 2, the refresh toggle. There is no loudspeaker to hear."""

    state_type: ClassVar = SystemControlState
    state_version: ClassVar = 1

    def __init__(self, pit: I8254, clock: Clock) -> None:
        """Attach to the timer."""
        self._pit = pit
        self._clock = clock
        self._control = 0

    def reset(self) -> None:
        """Return to the power-on state."""
        self._control = 0

    def save(self) -> SystemControlState:
        """What was written."""
        return SystemControlState(control=self._control)

    def load(self, state: SystemControlState) -> None:
        """Take over what was written; the gate is the timer's."""
        self._control = state.control & 0x0F

    def read(self, _offset: int, _size: int) -> int:
        """Read the control bits, the refresh toggle and OUT of channel 2."""
        now_ns = self._clock.now_ns()
        toggle = now_ns // REFRESH_PERIOD_NS & 1
        return self._control | toggle << 4 | self._pit.channels[_SPEAKER_CHANNEL].output(now_ns) << 5

    def write(self, _offset: int, _size: int, value: int) -> None:
        """Set the gate of channel 2 (bit 0) and the speaker enable (bit 1)."""
        self._control = value & 0x0F
        self._pit.channels[_SPEAKER_CHANNEL].set_gate(bool(value & 1), self._clock.now_ns())


def _from_bcd(value: int) -> int:
    return sum((value >> (4 * i) & 0xF) * 10**i for i in range(4))


def _to_bcd(value: int) -> int:
    return sum((value // 10**i % 10) << (4 * i) for i in range(4))
