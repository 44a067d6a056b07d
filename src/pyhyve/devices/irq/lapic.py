"""One local APIC (SDM Vol. 3A, chapter 11): xAPIC registers in memory, x2APIC and TSC deadline through MSRs.

Its owner (`ApicInterruptChip`) serialises calls with the machine lock and drives the processor's pins.
"""

from __future__ import annotations

from pyhyve.devices.irq import spec
from pyhyve.devices.irq.message import ApicMessage
from pyhyve.devices.irq.spec import ApicBase, ApicRegister, DeliveryMode, TimerMode
from pyhyve.devices.irq.vectors import PlainVectors
from pyhyve.state.errors import StateError
from pyhyve.state.record import I64, U8, U16, U32, U64, U256, record
from pyhyve.support.hints import Protocol, runtime_checkable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from pyhyve.accel.api import ApicVectors
    from pyhyve.devices.contracts import Clock, TimerSource

_LVT_WRITABLE = {
    ApicRegister.LVT_TIMER: 0x7_00FF,
    ApicRegister.LVT_THERMAL: 0x1_07FF,
    ApicRegister.LVT_PERFORMANCE: 0x1_07FF,
    ApicRegister.LVT_LINT0: 0x1_A7FF,
    ApicRegister.LVT_LINT1: 0x1_A7FF,
    ApicRegister.LVT_ERROR: 0x1_00FF,
}
_NS = 1_000_000_000
_FAR_NS = 1 << 60
"""A deadline in a far future: later than this is never."""
_MIN_PERIOD_NS = 20_000
"""A shorter period would keep the machine busy with nothing but timer interrupts."""


@runtime_checkable
class TscSource(Protocol):
    """The guest's time-stamp counter."""

    @property
    def tsc_hz(self) -> int:
        """Counts a second."""

    def read_tsc(self, index: int) -> int:
        """What RDTSC would give vCPU `index` now."""


class LocalApicOwner(Protocol):
    """What a local APIC asks of the chip around it."""

    def end_of_interrupt(self, vector: int) -> None:
        """A level-triggered interrupt was finished."""

    def timer_fired(self, sender: LocalApic) -> None:
        """The timer requested an interrupt: the processor pins may have to change."""

    def send_ipi(self, sender: LocalApic, message: ApicMessage, shorthand: int) -> None:
        """Deliver an inter-processor interrupt; `shorthand` as in the ICR."""


@record
class ApicRegisterState:
    """A register that only holds what was written, by its offset in the page."""

    offset: U16
    value: U32


@record
class LocalApicState:
    """One local APIC."""

    base: U64
    registers: tuple[ApicRegisterState, ...]
    tpr: U8
    irr: U256
    isr: U256
    tmr: U256
    esr: U32
    esr_latched: U32
    timer_initial: U32
    timer_divide: U8
    timer_start_ns: I64
    timer_armed: bool
    deadline_tsc: U64


class LocalApic:
    """Registers and timer of one local APIC. `has_pending` tells whether a vector waits to be delivered."""

    state_type: ClassVar = LocalApicState
    state_version: ClassVar = 1

    def __init__(self, apic_id: int, clock: Clock, timers: TimerSource, tsc: TscSource, owner: LocalApicOwner) -> None:
        self.initial_id = apic_id
        self._clock = clock
        self._tsc = tsc
        self._owner = owner
        self._timer = timers.create_timer(self._timer_fired)
        self._registers: dict[int, int] = {}
        self.vectors: ApicVectors = PlainVectors()
        self.base = 0
        self._timer_start_ns = 0
        self._deadline_tsc = 0
        self._expired = True
        """Whether a one-shot count has ended."""
        self.reset()

    def reset(self) -> None:
        """Return to the power-on state."""
        self.base = spec.LAPIC_BASE | ApicBase.ENABLE | (ApicBase.BSP if self.initial_id == 0 else 0)
        self.init()

    def init(self) -> None:
        """INIT: everything but the APIC base register and the ID."""
        self._timer.cancel()
        registers: dict[int, int] = dict.fromkeys(_LVT_WRITABLE, spec.LVT_MASKED)
        if self.base & ApicBase.BSP:
            registers[ApicRegister.LVT_LINT0] = DeliveryMode.EXTINT << 8
        self._registers = {
            ApicRegister.ID: self.initial_id << 24,
            ApicRegister.DFR: 0xFFFF_FFFF,
            ApicRegister.SVR: 0xFF,
        }
        self._registers.update(registers)
        vectors = self.vectors
        vectors.irr = vectors.isr = vectors.tmr = vectors.tpr = 0
        self._enablement_changed()
        self._esr = self._esr_latched = 0
        self._initial = 0
        self._divide = 0
        self._deadline_tsc = 0
        self._expired = True

    def save(self) -> LocalApicState:
        """Registers and timer."""
        return LocalApicState(
            base=int(self.base),
            registers=tuple(
                ApicRegisterState(offset=int(offset), value=int(value))
                for offset, value in sorted(self._registers.items())
            ),
            tpr=self.vectors.tpr,
            irr=self.vectors.irr,
            isr=self.vectors.isr,
            tmr=self.vectors.tmr,
            esr=int(self._esr),
            esr_latched=int(self._esr_latched),
            timer_initial=self._initial,
            timer_divide=self._divide,
            timer_start_ns=self._timer_start_ns,
            timer_armed=self._timer_runs,
            deadline_tsc=self._deadline_tsc,
        )

    def load(self, state: LocalApicState) -> None:
        """Take over registers and go on with the timer; raises StateError for registers that do not exist."""
        registers = {entry.offset: entry.value for entry in state.registers}
        if not self._registers.keys() <= registers.keys() or any(offset & ~0xFF0 for offset in registers):
            msg = "state of local APIC: registers are missing or do not exist"
            raise StateError(msg)
        self.base = state.base
        self._registers = registers
        vectors = self.vectors
        vectors.tpr, vectors.irr, vectors.isr, vectors.tmr = state.tpr, state.irr, state.isr, state.tmr
        self._enablement_changed()
        self._esr, self._esr_latched = state.esr, state.esr_latched
        self._initial, self._divide = state.timer_initial, state.timer_divide & 0xB
        self._timer_start_ns = state.timer_start_ns
        self._deadline_tsc = state.deadline_tsc
        self._resume_timer(armed=state.timer_armed)

    def keep_in(self, vectors: ApicVectors) -> None:
        """Keep the vectors there from now on; before the machine runs."""
        old, self.vectors = self.vectors, vectors
        vectors.irr, vectors.isr, vectors.tmr, vectors.tpr = old.irr, old.isr, old.tmr, old.tpr
        self._enablement_changed()

    # -- delivery -----------------------------------------------------------------------------------------------------

    @property
    def enabled(self) -> bool:
        """Enabled both in the base register and in SVR."""
        return self.vectors.enabled

    def _enablement_changed(self) -> None:
        registers = self._registers
        self.vectors.enabled = bool(self.base & ApicBase.ENABLE and registers[ApicRegister.SVR] & spec.SVR_ENABLE)

    @property
    def x2apic(self) -> bool:
        """Whether registers are reached through MSRs."""
        return bool(self.base & ApicBase.X2APIC)

    @property
    def takes_extint(self) -> bool:
        """Whether the i8259's INTR passes through: globally disabled, or LINT0 set to ExtINT."""
        if not self.base & ApicBase.ENABLE:
            return True
        return self._registers[ApicRegister.LVT_LINT0] & (spec.LVT_MASKED | 0x700) == DeliveryMode.EXTINT << 8

    @property
    def ppr(self) -> int:
        """Processor priority: the higher of task priority and the class in service."""
        isr, tpr = self.vectors.isr, self.vectors.tpr
        served = (isr.bit_length() - 1) & 0xF0 if isr else 0
        return tpr if tpr & 0xF0 >= served else served

    @property
    def has_pending(self) -> bool:
        """Whether some requested vector outranks the processor priority."""
        irr = self.vectors.irr
        return irr != 0 and (irr.bit_length() - 1) & 0xF0 > self.ppr & 0xF0 and self.enabled

    def acknowledge(self) -> int:
        """Move the highest requested vector into service and return it; the spurious one when there is none."""
        if not self.has_pending:
            return self._registers[ApicRegister.SVR] & 0xFF
        vectors = self.vectors
        vector = vectors.irr.bit_length() - 1
        vectors.irr &= ~(1 << vector)
        vectors.isr |= 1 << vector
        return vector

    def accept(self, vector: int, *, is_level: bool) -> None:
        """A fixed or lowest-priority message arrived."""
        if not self.enabled:
            return
        if vector < 16:
            self._error(spec.ESR_RECEIVE_ILLEGAL_VECTOR)
            return
        self.vectors.post(vector, is_level=is_level)

    def matches(self, destination: int, *, is_logical: bool) -> bool:
        """Whether a message to `destination` is for this APIC."""
        if not self.base & ApicBase.ENABLE:
            return False
        if self.x2apic:
            if destination == 0xFFFF_FFFF or (destination == 0xFF and not is_logical):
                return True
            if not is_logical:
                return destination == self.initial_id
            return destination >> 16 == self.initial_id >> 4 and bool(destination & 1 << (self.initial_id & 15))
        destination &= 0xFF
        if not is_logical:
            return destination in {0xFF, self._registers[ApicRegister.ID] >> 24}
        mine = self._registers.get(ApicRegister.LDR, 0) >> 24
        if self._registers[ApicRegister.DFR] >> 28 == 0xF:
            return bool(destination & mine)
        return destination == 0xFF or (destination >> 4 == mine >> 4 and bool(destination & mine & 0xF))

    def _error(self, bit: int) -> None:
        self._esr_latched |= bit
        lvt = self._registers[ApicRegister.LVT_ERROR]
        if not lvt & spec.LVT_MASKED and lvt & 0xFF >= 16:
            self.vectors.post(lvt & 0xFF, is_level=False)

    # -- registers in memory ------------------------------------------------------------------------------------------

    def read(self, offset: int, _size: int) -> int:
        """Read the register at `offset` of the page."""
        return self._read_register(offset & 0xFF0) if not offset & 0xC else 0

    def write(self, offset: int, _size: int, value: int) -> None:
        """Write the register at `offset` of the page."""
        if not offset & 0xF:
            self._write_register(offset, value)

    def _read_register(self, register: int) -> int:
        match register:
            case ApicRegister.TPR:
                return self.vectors.tpr
            case ApicRegister.TIMER_CURRENT:
                return self._timer_current()
            case ApicRegister.TIMER_INITIAL:
                return self._initial
            case ApicRegister.TIMER_DIVIDE:
                return self._divide
            case ApicRegister.VERSION:
                return spec.APIC_VERSION
            case ApicRegister.PPR | ApicRegister.APR:
                return self.ppr
            case ApicRegister.ESR:
                return self._esr
        if ApicRegister.ISR <= register < ApicRegister.ESR:
            vectors = self.vectors
            bits = (vectors.isr, vectors.tmr, vectors.irr)[(register - ApicRegister.ISR) >> 7]
            return bits >> (2 * (register & 0x70)) & 0xFFFF_FFFF
        return self._registers.get(register, 0)

    def _write_register(self, register: int, value: int) -> None:
        match register:
            case ApicRegister.EOI:
                self._end_of_interrupt()
            case ApicRegister.TPR:
                self.vectors.tpr = value & 0xFF
            case ApicRegister.TIMER_INITIAL:
                self._initial = value
                self._start_timer()
            case ApicRegister.ICR_LOW:
                self._registers[register] = value & 0xC_CFFF
                self._send(value, self._registers.get(ApicRegister.ICR_HIGH, 0) >> 24)
            case ApicRegister.ICR_HIGH | ApicRegister.LDR:
                self._registers[register] = value & 0xFF00_0000
            case ApicRegister.ID:
                self._registers[register] = value & 0xFF00_0000
            case ApicRegister.DFR:
                self._registers[register] = value | 0x0FFF_FFFF
            case ApicRegister.SVR:
                self._registers[register] = value & 0x1FF
                if not value & spec.SVR_ENABLE:
                    for lvt in _LVT_WRITABLE:
                        self._registers[lvt] |= spec.LVT_MASKED
                    self._timer.cancel()
                self._enablement_changed()
            case ApicRegister.ESR:
                self._esr, self._esr_latched = self._esr_latched, 0
            case ApicRegister.TIMER_DIVIDE:
                self._divide = value & 0xB
            case _ if register in _LVT_WRITABLE:
                self._write_lvt(register, value)
            case _:
                pass

    def _write_lvt(self, register: int, value: int) -> None:
        value &= _LVT_WRITABLE[ApicRegister(register)]
        if not self._registers[ApicRegister.SVR] & spec.SVR_ENABLE:
            value |= spec.LVT_MASKED
        old = self._registers[register]
        self._registers[register] = value
        if register == ApicRegister.LVT_TIMER and (old ^ value) >> 17 & 3:
            self._timer.cancel()
            self._initial = self._deadline_tsc = 0

    def _end_of_interrupt(self) -> None:
        vectors = self.vectors
        if not vectors.isr:
            return
        vector = vectors.isr.bit_length() - 1
        vectors.isr &= ~(1 << vector)
        if vectors.tmr >> vector & 1:
            self._owner.end_of_interrupt(vector)

    def _send(self, low: int, destination: int) -> None:
        mode = low >> 8 & 7
        if mode in {DeliveryMode.FIXED, DeliveryMode.LOWEST_PRIORITY} and low & 0xFF < 16:
            self._error(spec.ESR_SEND_ILLEGAL_VECTOR)
            return
        message = ApicMessage(
            vector=low & 0xFF,
            mode=mode,
            destination=destination,
            is_logical=bool(low & 1 << 11),
            is_level=bool(low & 1 << 15),
            assert_level=bool(low & 1 << 14),
        )
        self._owner.send_ipi(self, message, low >> 18 & 3)

    # -- registers through MSRs ---------------------------------------------------------------------------------------

    def read_msr(self, msr: int) -> int | None:
        """Value of an APIC register; None for #GP."""
        if msr == spec.Msr.APIC_BASE:
            return self.base
        if msr == spec.Msr.TSC_DEADLINE:
            return self._deadline_tsc
        if not spec.Msr.X2APIC_FIRST <= msr <= spec.Msr.X2APIC_LAST or not self.x2apic:
            return None
        register = (msr - spec.Msr.X2APIC_FIRST) << 4
        if register == ApicRegister.ID:
            return self.initial_id
        if register == ApicRegister.LDR:
            return (self.initial_id >> 4) << 16 | 1 << (self.initial_id & 15)
        if register == ApicRegister.ICR_LOW:
            return self._registers.get(ApicRegister.ICR_HIGH, 0) << 32 | self._registers.get(register, 0)
        if register in {ApicRegister.EOI, ApicRegister.DFR, ApicRegister.ICR_HIGH, ApicRegister.SELF_IPI}:
            return None
        return self._read_register(register)

    def write_msr(self, msr: int, value: int) -> bool:
        """Write an APIC register; False for #GP."""
        if msr == spec.Msr.APIC_BASE:
            return self._write_base(value)
        if msr == spec.Msr.TSC_DEADLINE:
            self._set_deadline(value)
            return True
        if not spec.Msr.X2APIC_FIRST <= msr <= spec.Msr.X2APIC_LAST or not self.x2apic:
            return False
        register = (msr - spec.Msr.X2APIC_FIRST) << 4
        if register == ApicRegister.ICR_LOW:
            self._registers[ApicRegister.ICR_HIGH] = value >> 32
            self._registers[register] = value & 0xC_CFFF
            self._send(value & 0xFFFF_FFFF, value >> 32)
            return True
        if value >> 32:
            return False
        if register == ApicRegister.SELF_IPI:
            self.accept(value & 0xFF, is_level=False)
            return True
        if register in {ApicRegister.EOI, ApicRegister.ESR}:
            if value:
                return False
        elif register in {
            ApicRegister.ID, ApicRegister.VERSION, ApicRegister.PPR, ApicRegister.LDR, ApicRegister.DFR,
            ApicRegister.ICR_HIGH, ApicRegister.TIMER_CURRENT,
        } or ApicRegister.ISR <= register < ApicRegister.ESR:  # fmt: skip
            return False
        self._write_register(register, value)
        return True

    def _write_base(self, value: int) -> bool:
        mode = ApicBase.ENABLE | ApicBase.X2APIC
        if value & ~(0xFF_FFFF_F000 | ApicBase.BSP | mode) or value & mode == ApicBase.X2APIC:
            return False
        if self.x2apic and value & mode == ApicBase.ENABLE:
            return False
        if not self.base & ApicBase.ENABLE and value & mode == mode:
            return False
        if self.base & ApicBase.ENABLE and not value & ApicBase.ENABLE:
            self.init()
        self.base = value
        self._enablement_changed()
        return True

    # -- timer --------------------------------------------------------------------------------------------------------

    @property
    def _timer_mode(self) -> int:
        return self._registers[ApicRegister.LVT_TIMER] >> 17 & 3

    @property
    def _tick_ns(self) -> int:
        """Nanoseconds a tick: the input clock divided by 1 to 128 (11.5.4)."""
        code = self._divide & 3 | (self._divide & 8) >> 1
        return 1 << (code + 1 & 7)

    def _timer_current(self) -> int:
        if not self._initial or self._timer_mode == TimerMode.TSC_DEADLINE:
            return 0
        elapsed = (self._clock.now_ns() - self._timer_start_ns) // self._tick_ns
        if elapsed < self._initial:
            return self._initial - elapsed
        return self._initial - elapsed % self._initial if self._timer_mode == TimerMode.PERIODIC else 0

    def _start_timer(self) -> None:
        if self._timer_mode == TimerMode.TSC_DEADLINE:
            return
        if not self._initial:
            self._timer.cancel()
            return
        self._timer_start_ns = self._clock.now_ns()
        self._expired = False
        self._timer.arm(self._timer_start_ns + self._initial * self._tick_ns)

    def _set_deadline(self, value: int) -> None:
        if self._timer_mode != TimerMode.TSC_DEADLINE:
            return
        self._deadline_tsc = value
        if value:
            self._arm_deadline()
        else:
            self._timer.cancel()

    def _arm_deadline(self) -> None:
        ahead = max(self._deadline_tsc - self._tsc.read_tsc(self.initial_id), 0)
        self._timer.arm(self._clock.now_ns() + min(ahead * _NS // self._tsc.tsc_hz, _FAR_NS))

    @property
    def _timer_runs(self) -> bool:
        """Whether the timer will fire: a one-shot count that ended stays ended."""
        if self._timer_mode == TimerMode.TSC_DEADLINE:
            return bool(self._deadline_tsc)
        if not self._initial or not self._registers[ApicRegister.SVR] & spec.SVR_ENABLE:
            return False
        return self._timer_mode == TimerMode.PERIODIC or not self._expired

    def _resume_timer(self, *, armed: bool) -> None:
        """Arm the timer again after its registers were loaded."""
        self._timer.cancel()
        self._expired = not armed
        if not armed:
            return
        if self._timer_mode == TimerMode.TSC_DEADLINE:
            self._arm_deadline()
            return
        period = max(self._initial * self._tick_ns, _MIN_PERIOD_NS)
        elapsed = self._clock.now_ns() - self._timer_start_ns
        if self._timer_mode == TimerMode.PERIODIC and elapsed > period:
            self._timer_start_ns += (elapsed // period - 1) * period
        self._timer.arm(self._timer_start_ns + self._initial * self._tick_ns)

    def _timer_fired(self) -> None:
        mode = self._timer_mode
        self._expired = True
        if mode == TimerMode.PERIODIC and self._initial:
            period = max(self._initial * self._tick_ns, _MIN_PERIOD_NS)
            now = self._clock.now_ns()
            self._timer_start_ns += period * max(1, (now - self._timer_start_ns) // period)
            self._timer.arm(self._timer_start_ns + period)
        elif mode == TimerMode.TSC_DEADLINE:
            self._deadline_tsc = 0
        lvt = self._registers[ApicRegister.LVT_TIMER]
        if not lvt & spec.LVT_MASKED:
            self.accept(lvt & 0xFF, is_level=False)
            self._owner.timer_fired(self)
