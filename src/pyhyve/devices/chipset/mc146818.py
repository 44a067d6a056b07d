"""The MC146818 real-time clock with 128 bytes of CMOS memory (Motorola MC146818A; ports 0x70 and 0x71)."""

from __future__ import annotations

from pyhyve.state.errors import StateError
from pyhyve.state.record import I64, I128, U8, Size, record
from pyhyve.support.enums import IntEnum
from pyhyve.support.hints import Annotated

TYPE_CHECKING = False
if TYPE_CHECKING:
    from datetime import datetime
    from typing import ClassVar

    from pyhyve.devices.contracts import Clock, IrqLine, TimerSource

_NS = 1_000_000_000
_UPDATE_NS = 244_000
"""The update-in-progress flag rises this long before the update."""
_ANY = 0xC0
"""An alarm register with both top bits set matches anything."""


class Register(IntEnum):
    """Offsets in CMOS memory."""

    SECONDS = 0
    SECONDS_ALARM = 1
    MINUTES = 2
    MINUTES_ALARM = 3
    HOURS = 4
    HOURS_ALARM = 5
    WEEKDAY = 6
    DAY = 7
    MONTH = 8
    YEAR = 9
    A = 0x0A
    B = 0x0B
    C = 0x0C
    D = 0x0D
    EQUIPMENT = 0x14
    BASE_MEMORY_LOW = 0x15
    EXTENDED_MEMORY_LOW = 0x17
    EXTENDED_MEMORY_LOW_COPY = 0x30
    CENTURY = 0x32
    MEMORY_ABOVE_16M_LOW = 0x34
    MEMORY_ABOVE_4G_LOW = 0x5B
    BOOT_ORDER_HIGH = 0x38
    BOOT_ORDER = 0x3D
    CPU_COUNT = 0x5F


_TIME = frozenset({
    Register.SECONDS, Register.MINUTES, Register.HOURS, Register.WEEKDAY, Register.DAY, Register.MONTH, Register.YEAR,
    Register.CENTURY,
})  # fmt: skip
_B_SET, _B_PIE, _B_AIE, _B_UIE, _B_BINARY, _B_24H = 0x80, 0x40, 0x20, 0x10, 0x04, 0x02
_C_IRQ, _C_PF, _C_AF, _C_UF = 0x80, 0x40, 0x20, 0x10
_BOOT_CODES = {"c": 2, "d": 3, "n": 4}


def _boot_order_bytes(boot_order: str) -> dict[int, int]:
    codes = [*[_BOOT_CODES[letter] for letter in boot_order][:3], 0, 0, 0]
    return {Register.BOOT_ORDER: codes[0] | codes[1] << 4, Register.BOOT_ORDER_HIGH: codes[2] << 4 | 1}


def cmos_memory_bytes(below_4g: int, above_4g: int, cpus: int, boot_order: str) -> dict[int, int]:
    """CMOS contents through which PC firmware learns memory size, CPU count and boot order."""
    extended_kib = min(max(below_4g - (1 << 20), 0) >> 10, 0xFFFF)
    above_16m = min(max(below_4g - (16 << 20), 0) >> 16, 0xFFFF)
    values = {
        Register.EQUIPMENT: 0x02,
        Register.BASE_MEMORY_LOW: 640 & 0xFF,
        Register.BASE_MEMORY_LOW + 1: 640 >> 8,
        Register.EXTENDED_MEMORY_LOW: extended_kib & 0xFF,
        Register.EXTENDED_MEMORY_LOW + 1: extended_kib >> 8,
        Register.EXTENDED_MEMORY_LOW_COPY: extended_kib & 0xFF,
        Register.EXTENDED_MEMORY_LOW_COPY + 1: extended_kib >> 8,
        Register.MEMORY_ABOVE_16M_LOW: above_16m & 0xFF,
        Register.MEMORY_ABOVE_16M_LOW + 1: above_16m >> 8,
        **_boot_order_bytes(boot_order),
        Register.CPU_COUNT: cpus - 1,
    }
    values.update({Register.MEMORY_ABOVE_4G_LOW + i: above_4g >> 16 >> (8 * i) & 0xFF for i in range(3)})
    return {int(key): value for key, value in values.items()}


def _time(since_epoch_us: int) -> datetime:
    """A moment. Raises OverflowError when there is no such time."""
    from datetime import UTC, datetime, timedelta  # noqa: PLC0415 - slow to load, and no start waits for the clock

    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=since_epoch_us)


@record
class Mc146818State:
    """CMOS memory, the index register, and the time as an offset from the host's."""

    memory: Annotated[bytes, Size(128)]
    index: U8
    offset_ns: I128
    """Guests can set any year up to 9999."""
    stopped_us: I64 | None
    """The time, in microseconds since 1970, while the guest holds the clock still."""


class Mc146818:
    """The clock; time is UTC unless `offset_ns` moves it. `irq` drives its interrupt line."""

    state_type: ClassVar = Mc146818State
    state_version: ClassVar = 1

    def __init__(
        self, clock: Clock, timers: TimerSource, irq: IrqLine, contents: dict[int, int], offset_ns: int = 0
    ) -> None:
        """`contents` are bytes of CMOS memory by register."""
        self._clock = clock
        self._irq = irq
        self._periodic = timers.create_timer(self._periodic_fired)
        self._second = timers.create_timer(self._second_fired)
        self._memory = bytearray(128)
        for register, value in contents.items():
            self._memory[register] = value
        self._offset_ns = offset_ns
        self._stopped: datetime | None = None
        self._index = 0
        self.reset()

    def set_boot_order(self, boot_order: str) -> None:
        """What firmware tries from its next start on."""
        for register, value in _boot_order_bytes(boot_order).items():
            self._memory[register] = value

    def reset(self) -> None:
        """Return to the power-on state; time and memory are on the battery."""
        self._memory[Register.A] = 0x26
        self._memory[Register.B] = _B_24H
        self._memory[Register.C] = 0
        self._memory[Register.D] = 0x80
        self._stopped = None
        self._index = 0
        self._periodic.cancel()
        self._second.cancel()
        self._irq.set(level=False)

    def save(self) -> Mc146818State:
        """Memory, and the time relative to the host's."""
        stopped = None if self._stopped is None else (self._stopped - _time(0)) // (_time(1) - _time(0))
        return Mc146818State(
            memory=bytes(self._memory), index=self._index, offset_ns=self._offset_ns, stopped_us=stopped
        )

    def load(self, state: Mc146818State) -> None:
        """Take over memory; a clock that showed the host's time shows it again."""
        try:
            stopped = None if state.stopped_us is None else _time(state.stopped_us)
            _ = _time((self._clock.wall_ns() + state.offset_ns) // 1000)
        except OverflowError as error:
            msg = "state of RTC: no such time"
            raise StateError(msg) from error
        self._memory[:] = state.memory
        self._index = state.index & 0x7F
        self._offset_ns = state.offset_ns
        self._stopped = stopped
        self._schedule_periodic()
        self._schedule_second()

    def now(self) -> datetime:
        """The time the clock shows."""
        if self._stopped is not None:
            return self._stopped
        return _time((self._clock.wall_ns() + self._offset_ns) // 1000)

    def read(self, offset: int, _size: int) -> int:
        """Read the selected register (the index port itself reads as all ones)."""
        if offset == 0:
            return 0xFF
        register = self._index
        if register in _TIME:
            return self._read_time(register)
        if register == Register.A:
            part_ns = (self._clock.wall_ns() + self._offset_ns) % _NS
            updating = self._stopped is None and part_ns >= _NS - _UPDATE_NS
            return self._memory[Register.A] & 0x7F | updating << 7
        value = self._memory[register]
        if register == Register.C:
            self._memory[Register.C] = 0
            self._irq.set(level=False)
        return value

    def write(self, offset: int, _size: int, value: int) -> None:
        """Select a register, or write the selected one."""
        if offset == 0:
            self._index = value & 0x7F
            return
        register = self._index
        if register in _TIME:
            self._write_time(register, value)
        elif register == Register.A:
            self._memory[register] = value & 0x7F
            self._schedule_periodic()
        elif register == Register.B:
            self._write_b(value)
        elif register not in {Register.C, Register.D}:
            self._memory[register] = value

    # -- time ---------------------------------------------------------------------------------------------------------

    def _encode(self, value: int) -> int:
        return value if self._memory[Register.B] & _B_BINARY else value // 10 << 4 | value % 10

    def _decode(self, value: int) -> int:
        return value if self._memory[Register.B] & _B_BINARY else (value >> 4) * 10 + (value & 0xF)

    def _read_time(self, register: int) -> int:
        now = self.now()
        if register == Register.HOURS:
            if self._memory[Register.B] & _B_24H:
                return self._encode(now.hour)
            return self._encode(now.hour % 12 or 12) | (0x80 if now.hour >= 12 else 0)
        fields = {
            Register.SECONDS: now.second,
            Register.MINUTES: now.minute,
            Register.WEEKDAY: now.isoweekday() % 7 + 1,
            Register.DAY: now.day,
            Register.MONTH: now.month,
            Register.YEAR: now.year % 100,
            Register.CENTURY: now.year // 100,
        }
        return self._encode(fields[Register(register)])

    def _write_time(self, register: int, value: int) -> None:
        now = self.now()
        number = self._decode(value)
        try:
            match register:
                case Register.SECONDS:
                    now = now.replace(second=number, microsecond=0)
                case Register.MINUTES:
                    now = now.replace(minute=number)
                case Register.HOURS:
                    if not self._memory[Register.B] & _B_24H:
                        number = self._decode(value & 0x7F) % 12 + (12 if value & 0x80 else 0)
                    now = now.replace(hour=number)
                case Register.DAY:
                    now = now.replace(day=number)
                case Register.MONTH:
                    now = now.replace(month=number)
                case Register.YEAR:
                    now = now.replace(year=now.year // 100 * 100 + number)
                case Register.CENTURY:
                    now = now.replace(year=number * 100 + now.year % 100)
                case _:
                    return
        except ValueError:
            return
        if self._stopped is not None:
            self._stopped = now
        else:
            self._set_time(now)

    def _set_time(self, now: datetime) -> None:
        since = now - _time(0)
        wall_ns = (since.days * 86400 + since.seconds) * _NS + since.microseconds * 1000
        self._offset_ns = wall_ns - self._clock.wall_ns()

    def _write_b(self, value: int) -> None:
        if value & _B_SET:
            if self._stopped is None:
                self._stopped = self.now()
            value &= ~_B_UIE
        elif self._stopped is not None:
            self._set_time(self._stopped)
            self._stopped = None
        self._memory[Register.B] = value
        self._schedule_periodic()
        self._schedule_second()
        self._raise(0)

    # -- interrupts ---------------------------------------------------------------------------------------------------

    def _raise(self, flag: int) -> None:
        flags = self._memory[Register.C] | flag
        if flags & self._memory[Register.B] & (_C_PF | _C_AF | _C_UF):
            flags |= _C_IRQ
            self._irq.set(level=True)
        self._memory[Register.C] = flags

    def _schedule_periodic(self) -> None:
        rate = self._memory[Register.A] & 0xF
        if not rate or not self._memory[Register.B] & _B_PIE:
            self._periodic.cancel()
            return
        period_ns = _NS * (1 << ((rate if rate > 2 else rate + 7) - 1)) // 32768
        self._periodic.arm(self._clock.now_ns() + period_ns)

    def _periodic_fired(self) -> None:
        self._raise(_C_PF)
        self._schedule_periodic()

    def _schedule_second(self) -> None:
        if not self._memory[Register.B] & (_B_AIE | _B_UIE) or self._stopped is not None:
            self._second.cancel()
            return
        part_ns = (self._clock.wall_ns() + self._offset_ns) % _NS
        self._second.arm(self._clock.now_ns() + _NS - part_ns)

    def _second_fired(self) -> None:
        flags = _C_UF
        if self._alarm_matches():
            flags |= _C_AF
        self._raise(flags)
        self._schedule_second()

    def _alarm_matches(self) -> bool:
        pairs = (
            (Register.SECONDS_ALARM, Register.SECONDS),
            (Register.MINUTES_ALARM, Register.MINUTES),
            (Register.HOURS_ALARM, Register.HOURS),
        )
        return all(
            self._memory[alarm] & _ANY == _ANY or self._memory[alarm] == self._read_time(register)
            for alarm, register in pairs
        )
