"""The cascaded pair of i8259A interrupt controllers, with the edge/level control registers (Intel 231468, PIIX3)."""

from __future__ import annotations

from pyhyve.state.errors import StateError
from pyhyve.state.record import U8, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ClassVar

CASCADE_IRQ = 2
SPURIOUS_IRQ = 7
ELCR_WRITABLE = (0xF8, 0xDE)
"""IRQ 0, 1, 2, 8 and 13 are always edge-triggered."""

# ICW1 and OCW bits
_ICW1 = 0x10
_ICW1_NEEDS_ICW4 = 0x01
_ICW1_SINGLE = 0x02
_ICW4_AUTO_EOI = 0x02
_ICW4_FULLY_NESTED = 0x10
_OCW3 = 0x08
_LAST_INIT_STEP = 4


@record
class ChipState:
    """One i8259A."""

    lines: U8
    irr: U8
    isr: U8
    imr: U8
    elcr: U8
    vector_base: U8
    lowest: U8
    init_step: U8
    needs_icw4: bool
    single: bool
    auto_eoi: bool
    rotate_auto_eoi: bool
    special_mask: bool
    fully_nested: bool
    poll: bool
    read_isr: bool


@record
class I8259State:
    """Both controllers."""

    master: ChipState
    slave: ChipState


class _Chip:
    """One i8259A. It does not know whether it is master or slave; the pair does."""

    __slots__ = (
        "auto_eoi", "elcr", "fully_nested", "imr", "init_step", "irr", "isr", "lines", "lowest", "needs_icw4", "poll",
        "read_isr", "rotate_auto_eoi", "single", "special_mask", "vector_base",
    )  # fmt: skip

    def __init__(self) -> None:
        self.power_on()

    def power_on(self) -> None:
        """The state is undefined until ICW1; with everything masked nothing can go wrong before."""
        self.elcr = 0
        self.lines = 0
        self.vector_base = 0
        self.start_init(0)
        self.init_step = 0
        self.imr = 0xFF

    def save(self) -> ChipState:
        """The registers as they are."""
        return ChipState(**{name: getattr(self, name) for name in self.__slots__})

    def load(self, state: ChipState) -> None:
        """Take over registers; raises StateError for a step or priority that the chip does not have."""
        if state.init_step > _LAST_INIT_STEP or state.lowest > 7:
            msg = "state of i8259: is out of range"
            raise StateError(msg)
        for name in self.__slots__:
            setattr(self, name, getattr(state, name))

    def start_init(self, icw1: int) -> None:
        """ICW1: forget everything but the line levels; edges must come anew."""
        self.irr = self.lines & self.elcr
        self.isr = 0
        self.imr = 0
        self.lowest = 7
        self.auto_eoi = self.rotate_auto_eoi = self.special_mask = self.fully_nested = False
        self.poll = self.read_isr = False
        self.needs_icw4 = bool(icw1 & _ICW1_NEEDS_ICW4)
        self.single = bool(icw1 & _ICW1_SINGLE)
        self.init_step = 2

    def set_line(self, bit: int, *, level: bool) -> None:
        """Drive an input; edge-triggered inputs latch on the rising edge."""
        if level:
            if self.elcr & bit or not self.lines & bit:
                self.irr |= bit
            self.lines |= bit
        else:
            if self.elcr & bit:
                self.irr &= ~bit
            self.lines &= ~bit

    def highest(self, bits: int) -> int:
        """The input with the highest priority among `bits` (not zero), counting from below the lowest one."""
        first = self.lowest + 1 & 7
        rotated = (bits >> first | bits << (8 - first)) & 0xFF
        return (rotated & -rotated).bit_length() - 1 + first & 7

    def rank(self, irq: int) -> int:
        """Priority of an input, 0 the highest."""
        return irq - self.lowest - 1 & 7

    def request(self, *, cascade: bool) -> int:
        """The input to be served now, or -1. `cascade` marks the master, whose slave may nest."""
        wanted = self.irr & ~self.imr
        if not wanted:
            return -1
        irq = self.highest(wanted)
        in_service = self.isr
        if self.special_mask:
            in_service &= ~self.imr
        if cascade and self.fully_nested:
            in_service &= ~(1 << CASCADE_IRQ)
        if in_service and self.rank(self.highest(in_service)) <= self.rank(irq):
            return -1
        return irq

    def accept(self, irq: int) -> None:
        """The processor acknowledged `irq`."""
        bit = 1 << irq
        if self.auto_eoi:
            if self.rotate_auto_eoi:
                self.lowest = irq
        else:
            self.isr |= bit
        if not self.elcr & bit:
            self.irr &= ~bit

    def command(self, value: int) -> None:
        """Write to the even port: ICW1, OCW2 or OCW3."""
        if value & _ICW1:
            self.start_init(value)
        elif value & _OCW3:
            if value & 0x04:
                self.poll = True
            if value & 0x02:
                self.read_isr = bool(value & 0x01)
            if value & 0x40:
                self.special_mask = bool(value & 0x20)
        else:
            self._end_of_interrupt(value >> 5, value & 7)

    def _end_of_interrupt(self, operation: int, irq: int) -> None:
        """OCW2: R, SL and EOI are the bits of `operation`."""
        match operation:
            case 0 | 4:
                self.rotate_auto_eoi = operation == 4
            case 1 | 5:
                isr = self.isr & ~self.imr if self.special_mask else self.isr
                if isr:
                    served = self.highest(isr)
                    self.isr &= ~(1 << served)
                    if operation == 5:
                        self.lowest = served
            case 3 | 7:
                self.isr &= ~(1 << irq)
                if operation == 7:
                    self.lowest = irq
            case 6:
                self.lowest = irq
            case _:
                pass

    def data(self, value: int) -> None:
        """Write to the odd port: ICW2 to ICW4 while initialising, the mask otherwise."""
        if self.init_step == 2:
            self.vector_base = value & 0xF8
            self.init_step = 4 if self.single else 3
            if self.single and not self.needs_icw4:
                self.init_step = 0
        elif self.init_step == 3:
            self.init_step = 4 if self.needs_icw4 else 0
        elif self.init_step == 4:
            self.auto_eoi = bool(value & _ICW4_AUTO_EOI)
            self.fully_nested = bool(value & _ICW4_FULLY_NESTED)
            self.init_step = 0
        else:
            self.imr = value


class I8259Pair:
    """Both controllers. `output` is called with the level of INTR whenever it may have changed."""

    state_type: ClassVar = I8259State
    state_version: ClassVar = 1

    def __init__(self, output: Callable[[bool], None]) -> None:
        """Make the pair in its power-on state."""
        self._output = output
        self._master = _Chip()
        self._slave = _Chip()
        self._intr = False

    @property
    def intr(self) -> bool:
        """Level of the INTR output."""
        return self._intr

    def set_irq(self, irq: int, *, level: bool) -> None:
        """Drive input 0 to 15 (2 is the cascade and has no pin)."""
        if irq >= 8:
            self._slave.set_line(1 << (irq & 7), level=level)
        elif irq != CASCADE_IRQ:
            self._master.set_line(1 << irq, level=level)
        self._update()

    def acknowledge(self) -> int:
        """INTA: the vector to deliver; a spurious one when nothing is pending any more."""
        irq = self._master.request(cascade=True)
        if irq < 0:
            vector = self._master.vector_base + SPURIOUS_IRQ
        else:
            self._master.accept(irq)
            vector = self._master.vector_base + irq
            if irq == CASCADE_IRQ:
                second = self._slave.request(cascade=False)
                if second < 0:
                    second = SPURIOUS_IRQ
                else:
                    self._slave.accept(second)
                vector = self._slave.vector_base + second
        self._update()
        return vector

    def reset(self) -> None:
        """Return to the power-on state."""
        for chip in (self._master, self._slave):
            chip.power_on()
        self._update()

    def save(self) -> I8259State:
        """The registers and line levels."""
        return I8259State(master=self._master.save(), slave=self._slave.save())

    def load(self, state: I8259State) -> None:
        """Take over registers and line levels."""
        self._master.load(state.master)
        self._slave.load(state.slave)
        self._intr = self._master.request(cascade=True) >= 0
        self._output(self._intr)

    def ports(self, number: int) -> I8259Ports:
        """The two ports of the master (0) or the slave (1)."""
        return I8259Ports(self, (self._master, self._slave)[number], is_master=number == 0)

    def elcr_read(self, number: int) -> int:
        """Edge/level control register of the master (0) or the slave (1)."""
        return (self._master, self._slave)[number].elcr

    def elcr_write(self, number: int, value: int) -> None:
        """Set which inputs are level-triggered."""
        chip = (self._master, self._slave)[number]
        chip.elcr = value & ELCR_WRITABLE[number]
        chip.irr |= chip.lines & chip.elcr
        self._update()

    def _update(self) -> None:
        master = self._master
        if self._slave.request(cascade=False) >= 0:
            master.irr |= 1 << CASCADE_IRQ
        else:
            master.irr &= ~(1 << CASCADE_IRQ)
        intr = master.request(cascade=True) >= 0
        if intr != self._intr:
            self._intr = intr
            self._output(intr)

    def poll(self, chip: _Chip, *, is_master: bool) -> int:
        """Read after OCW3's poll command: acknowledges, and tells the input that was served."""
        chip.poll = False
        irq = chip.request(cascade=is_master)
        if irq < 0:
            return 0
        chip.accept(irq)
        self._update()
        return 0x80 | irq

    def written(self) -> None:
        """A register of either chip changed."""
        self._update()


class I8259Ports:
    """Ports 0x20 and 0x21, or 0xA0 and 0xA1."""

    def __init__(self, pair: I8259Pair, chip: _Chip, *, is_master: bool) -> None:
        """Made by `I8259Pair.ports`."""
        self._pair = pair
        self._chip = chip
        self._is_master = is_master

    def read(self, offset: int, _size: int) -> int:
        """Read IRR, ISR, the mask or the poll result."""
        chip = self._chip
        if chip.poll:
            return self._pair.poll(chip, is_master=self._is_master)
        if offset:
            return chip.imr
        return chip.isr if chip.read_isr else chip.irr

    def write(self, offset: int, _size: int, value: int) -> None:
        """Write a command or data."""
        if offset:
            self._chip.data(value)
        else:
            self._chip.command(value)
        self._pair.written()


class ElcrPorts:
    """Ports 0x4D0 and 0x4D1."""

    def __init__(self, pair: I8259Pair) -> None:
        """Attach to the pair."""
        self._pair = pair

    def read(self, offset: int, _size: int) -> int:
        """Which inputs are level-triggered."""
        return self._pair.elcr_read(offset)

    def write(self, offset: int, _size: int, value: int) -> None:
        """Set which inputs are level-triggered."""
        self._pair.elcr_write(offset, value)
