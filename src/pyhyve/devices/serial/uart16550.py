"""The 16550A UART. Bytes leave at once, so the transmitter is always empty; received ones wait for room.

Hot path: a guest's console writes one register per character.
"""

from __future__ import annotations

from collections import deque

from pyhyve.devices.serial import spec
from pyhyve.devices.serial.spec import Ier, Iir, Lsr, Mcr, Msr
from pyhyve.state.record import U8, U16, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ClassVar

    from pyhyve.devices.contracts import Clock, IrqLine, TimerSource

FLUSH_DELAY_NS = 2_000_000
"""How long output may wait for more, unless a line ends."""
_FLUSH_SIZE = 1024
_BACKLOG_LIMIT = 4096
_ALWAYS_EMPTY = int(Lsr.THR_EMPTY | Lsr.TRANSMITTER_EMPTY)
_IER_RECEIVED = int(Ier.RECEIVED)
_IER_TRANSMITTER = int(Ier.TRANSMITTER_EMPTY)
_LOOPBACK = int(Mcr.LOOPBACK)
_NEWLINE = 0x0A


@record
class UartState:
    """Registers, the receive FIFO, and input that waits for room in it."""

    ier: U8
    lcr: U8
    mcr: U8
    msr: U8
    scratch: U8
    divisor: U16
    fifo_enabled: bool
    trigger: U8
    errors: U8
    thr_pending: bool
    fifo: bytes
    backlog: bytes
    level: bool


class Uart16550:
    """One serial port. `transmit` gets output in pieces; `ready` is called when input has room again."""

    state_type: ClassVar = UartState
    state_version: ClassVar = 1

    def __init__(
        self,
        irq: IrqLine,
        clock: Clock,
        timers: TimerSource,
        transmit: Callable[[bytes], None],
        ready: Callable[[], None] | None = None,
    ) -> None:
        """`transmit` and `ready` run with the machine lock held."""
        self._irq = irq
        self._clock = clock
        self._transmit = transmit
        self._ready = ready
        self._flush_timer = timers.create_timer(self.flush)
        self._output = bytearray()
        self._fifo: deque[int] = deque()
        self._backlog = bytearray()
        self._level = False
        self.reset()

    def reset(self) -> None:
        """Return to the power-on state; output already written is passed on."""
        self.flush()
        self._fifo.clear()
        self._ier = self._lcr = self._mcr = self._scratch = 0
        self._divisor = 12
        self._fifo_enabled = False
        self._trigger = 1
        self._errors = 0
        self._thr_pending = False
        self._msr = int(spec.MSR_CONNECTED)
        self._update()

    def save(self) -> UartState:
        """The registers; output that still waits is passed on."""
        self.flush()
        return UartState(
            ier=self._ier,
            lcr=self._lcr,
            mcr=self._mcr,
            msr=self._msr & 0xFF,
            scratch=self._scratch,
            divisor=self._divisor,
            fifo_enabled=self._fifo_enabled,
            trigger=self._trigger,
            errors=int(self._errors),
            thr_pending=self._thr_pending,
            fifo=bytes(self._fifo),
            backlog=bytes(self._backlog),
            level=self._level,
        )

    def load(self, state: UartState) -> None:
        """Take over the registers and input; the level of the line is the interrupt controller's too.

        Input that no guest has read yet, such as what arrives while a machine waits for its state, comes after.
        """
        unread = (b"" if self._mcr & _LOOPBACK else bytes(self._fifo)) + self._backlog
        self._output.clear()
        self._flush_timer.cancel()
        self._ier, self._lcr, self._mcr, self._msr = state.ier, state.lcr, state.mcr, state.msr
        self._scratch, self._divisor = state.scratch, state.divisor
        self._fifo_enabled, self._trigger = state.fifo_enabled, max(state.trigger, 1)
        self._errors, self._thr_pending = state.errors, state.thr_pending
        self._fifo = deque(state.fifo[: spec.FIFO_SIZE])
        self._backlog = bytearray((state.backlog + unread)[:_BACKLOG_LIMIT])
        self._level = state.level
        self._fill()

    def flush(self) -> None:
        """Pass on what was written."""
        self._flush_timer.cancel()
        if self._output:
            data = bytes(self._output)
            self._output.clear()
            self._transmit(data)

    # -- input --------------------------------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """How many bytes `receive` takes now without losing any."""
        return _BACKLOG_LIMIT - len(self._backlog)

    def receive(self, data: bytes) -> None:
        """Bytes arrived on the line; what exceeds `room` is lost."""
        self._backlog += data[: self.room]
        self._fill()

    def receive_break(self) -> None:
        """A break condition arrived on the line; where the FIFO is full, only the status tells."""
        self._errors |= Lsr.BREAK
        if self._fifo_room > 0:
            self._fifo.append(0)
        self._update()

    @property
    def _fifo_room(self) -> int:
        return (spec.FIFO_SIZE if self._fifo_enabled else 1) - len(self._fifo)

    def _fill(self) -> None:
        backlog, room = self._backlog, self._fifo_room
        if backlog and room > 0:
            self._fifo.extend(backlog[:room])
            del backlog[:room]
            if not backlog and self._ready is not None:
                self._ready()
        self._update()

    # -- registers ----------------------------------------------------------------------------------------------------

    def read(self, offset: int, _size: int) -> int:
        """Read a register."""
        if offset == 5:
            errors, self._errors = self._errors, 0
            if errors:
                self._update()
                return _ALWAYS_EMPTY | errors | (1 if self._fifo else 0)
            return _ALWAYS_EMPTY | 1 if self._fifo else _ALWAYS_EMPTY
        if offset == 0:
            return self._divisor & 0xFF if self._lcr & spec.LCR_DLAB else self._read_data()
        if offset == 2:
            return self._read_iir()
        if offset == 1:
            return self._divisor >> 8 if self._lcr & spec.LCR_DLAB else self._ier
        if offset == 6:
            return self._read_msr()
        return (self._lcr, self._mcr, 0, 0, self._scratch)[offset - 3]

    def write(self, offset: int, _size: int, value: int) -> None:
        """Write a register."""
        if offset == 0:
            if self._lcr & spec.LCR_DLAB:
                self._divisor = self._divisor & 0xFF00 | value
            else:
                self._write_data(value)
        elif offset == 1:
            self._write_ier(value)
        elif offset == 2:
            self._write_fcr(value)
        elif offset == 3:
            self._lcr = value
        elif offset == 4:
            self._write_mcr(value)
        elif offset == 7:
            self._scratch = value

    def _read_data(self) -> int:
        if not self._fifo:
            return 0
        value = self._fifo.popleft()
        if self._backlog and not self._fifo:
            self._fill()
        self._update()
        return value

    def _write_data(self, value: int) -> None:
        if self._mcr & _LOOPBACK:
            if len(self._fifo) < (spec.FIFO_SIZE if self._fifo_enabled else 1):
                self._fifo.append(value)
            else:
                self._errors |= Lsr.OVERRUN
        else:
            output = self._output
            output.append(value)
            if value == _NEWLINE or len(output) >= _FLUSH_SIZE:
                self.flush()
            elif len(output) == 1:
                self._flush_timer.arm(self._clock.now_ns() + FLUSH_DELAY_NS)
        if self._ier & _IER_TRANSMITTER:
            # The write takes the request back, and the empty register raises it again: an edge the i8259 must see.
            self._thr_pending = False
            self._update()
            self._thr_pending = True
            self._update()
        else:
            self._thr_pending = True
            if self._mcr & _LOOPBACK:
                self._update()

    def _read_iir(self) -> int:
        cause = self._cause()
        if cause == Iir.TRANSMITTER_EMPTY:
            self._thr_pending = False
            self._update()
        return cause | (spec.IIR_FIFO_ENABLED if self._fifo_enabled else 0)

    def _write_ier(self, value: int) -> None:
        if self._lcr & spec.LCR_DLAB:
            self._divisor = self._divisor & 0xFF | value << 8
            return
        if value & ~self._ier & _IER_TRANSMITTER:
            self._thr_pending = True
        self._ier = value & 0x0F
        self._update()

    def _write_fcr(self, value: int) -> None:
        enabled = bool(value & spec.FCR_ENABLE)
        if value & spec.FCR_CLEAR_RECEIVE or enabled != self._fifo_enabled:
            self._fifo.clear()
        self._fifo_enabled = enabled
        self._trigger = spec.FCR_TRIGGERS[value >> 6] if enabled else 1
        self._fill()

    def _write_mcr(self, value: int) -> None:
        before = self._modem_lines()
        self._mcr = value & 0x1F
        after = self._modem_lines()
        deltas = (before ^ after) >> 4
        if before & ~after & Msr.RI:
            deltas |= Msr.RING_TRAILING
        elif deltas & Msr.RING_TRAILING:
            deltas &= ~Msr.RING_TRAILING
        self._msr = self._msr & 0x0F | deltas & 0x0F
        self._update()

    def _modem_lines(self) -> int:
        """MSR's upper half: the other side's lines, or our own in loopback."""
        mcr = self._mcr
        if not mcr & _LOOPBACK:
            return int(spec.MSR_CONNECTED)
        return (mcr & Mcr.RTS) << 3 | (mcr & Mcr.DTR) << 5 | (mcr & Mcr.OUT1) << 4 | (mcr & Mcr.OUT2) << 4

    def _read_msr(self) -> int:
        value = self._msr & 0x0F | self._modem_lines()
        self._msr = 0
        self._update()
        return value

    # -- interrupt ----------------------------------------------------------------------------------------------------

    def _cause(self) -> int:
        ier = self._ier
        if ier & Ier.LINE_STATUS and self._errors:
            return Iir.LINE_STATUS
        if ier & _IER_RECEIVED and self._fifo:
            return Iir.RECEIVED if len(self._fifo) >= self._trigger else Iir.TIMEOUT
        if ier & _IER_TRANSMITTER and self._thr_pending:
            return Iir.TRANSMITTER_EMPTY
        if ier & Ier.MODEM_STATUS and self._msr & 0x0F:
            return Iir.MODEM_STATUS
        return Iir.NONE

    def _update(self) -> None:
        ier = self._ier
        level = (
            ier != 0
            and (
                (ier & _IER_RECEIVED and bool(self._fifo))
                or (ier & _IER_TRANSMITTER and self._thr_pending)
                or self._cause() != Iir.NONE
            )
            and not self._mcr & _LOOPBACK
        )
        if level != self._level:
            self._level = bool(level)
            self._irq.set(level=self._level)
