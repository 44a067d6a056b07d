"""The interrupt controllers of a PC as one chip, for engines that bring none of their own.

Global system interrupts 0 to 15 reach both the i8259 pair and the I/O APIC, 16 to 23 the I/O APIC only; no input
is remapped. Every public method takes the machine lock, which is re-entrant.
"""

from __future__ import annotations

from pyhyve.accel.routes import MessageRoute
from pyhyve.devices.chipset.i8259 import I8259Pair, I8259State
from pyhyve.devices.irq import spec
from pyhyve.devices.irq.ioapic import IoApic, IoApicState
from pyhyve.devices.irq.lapic import LocalApic, LocalApicState
from pyhyve.devices.irq.message import message_from_msi
from pyhyve.devices.irq.spec import ApicRegister, DeliveryMode
from pyhyve.state.errors import StateError
from pyhyve.state.record import record
from pyhyve.support.hints import Protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from typing import ClassVar

    from pyhyve.accel.api import ApicVectors
    from pyhyve.devices.contracts import Clock, TimerSource
    from pyhyve.devices.irq.lapic import TscSource
    from pyhyve.devices.irq.message import ApicMessage

_ISA_IRQS = 16
_FIRST_VECTOR = 16
_MAX_ROUTES = 256
_ROUTING = frozenset({int(ApicRegister.ID), int(ApicRegister.LDR), int(ApicRegister.DFR), int(ApicRegister.SVR)})
"""Registers that say which messages a local APIC takes."""


class CpuPins(Protocol):
    """The interrupt pins of one vCPU."""

    def set_interrupt(self, *, pending: bool) -> None:
        """Drive INTR."""

    def raise_nmi(self) -> None:
        """Pulse NMI."""

    def init(self) -> None:
        """INIT message: stop, and wait for a start-up message."""

    def startup(self, vector: int) -> None:
        """Start-up message: begin at `vector` << 12 in real mode, when waiting for it."""


@record
class InterruptChipState:
    """All interrupt controllers."""

    pic: I8259State
    ioapic: IoApicState
    lapics: tuple[LocalApicState, ...]


class ApicInterruptChip:
    """i8259 pair, I/O APIC and one local APIC per vCPU."""

    state_type: ClassVar = InterruptChipState
    state_version: ClassVar = 1

    def __init__(self, lock: threading.RLock, clock: Clock, timers: TimerSource, tsc: TscSource, cpus: int) -> None:
        """`lock` is the machine lock."""
        self._lock = lock
        self.pic = I8259Pair(self._pic_changed)
        self.ioapic = IoApic(self)
        self.lapics = [LocalApic(index, clock, timers, tsc, self) for index in range(cpus)]
        self._pins: list[CpuPins | None] = [None] * cpus
        self._levels = [False] * cpus
        self._lookers: list[Callable[[], None] | None] = [None] * cpus
        self._routes: dict[tuple[int, int], MessageRoute] = {}
        """Messages whose way is known: they go to one processor, which takes interrupts by itself, edge-triggered."""

    def connect(self, index: int, pins: CpuPins) -> None:
        """Wire local APIC `index` to its vCPU."""
        self._pins[index] = pins

    def keep_vectors(self, index: int, vectors: ApicVectors, look: Callable[[], None]) -> None:
        """The vCPU takes the local APIC's interrupts from `vectors` by itself; `look` has it do so, on any thread.

        The INTR pin is for the i8259s' interrupts then.
        """
        self.routes_changed()
        self.lapics[index].keep_in(vectors)
        self._lookers[index] = look

    def has_interrupt(self, index: int) -> bool:
        """Whether a processor that sleeps must wake up for an interrupt of its local APIC; any thread, without lock."""
        return self._lookers[index] is not None and self.lapics[index].has_pending

    def initialised(self, index: int) -> None:
        """The processor carried out an INIT message: what it did with interrupts on its way there is undone."""
        with self._lock:
            self.routes_changed()
            self.lapics[index].init()
            self._update(index)

    def reset(self) -> None:
        """Return to the power-on state, all inputs low."""
        with self._lock:
            self.pic.reset()
            self.routes_changed()
            self.ioapic.clear_lines()
            self.ioapic.reset()
            for lapic in self.lapics:
                lapic.reset()
            self._update_all()

    def save(self) -> InterruptChipState:
        """All controllers."""
        with self._lock:
            return InterruptChipState(
                pic=self.pic.save(), ioapic=self.ioapic.save(), lapics=tuple(lapic.save() for lapic in self.lapics)
            )

    def load(self, state: InterruptChipState) -> None:
        """Take over all controllers, then drive every processor's pin."""
        if len(state.lapics) != len(self.lapics):
            msg = f"state of interrupt controllers: is for {len(state.lapics)} processors, not {len(self.lapics)}"
            raise StateError(msg)
        with self._lock:
            self.routes_changed()
            self.ioapic.load(state.ioapic)
            for lapic, saved in zip(self.lapics, state.lapics, strict=True):
                lapic.load(saved)
            self.pic.load(state.pic)
            for index, pins in enumerate(self._pins):
                self._update(index)
                if pins is not None:
                    pins.set_interrupt(pending=self._levels[index])

    # -- inputs -------------------------------------------------------------------------------------------------------

    def set_gsi(self, gsi: int, *, level: bool) -> None:
        """Drive global system interrupt `gsi`."""
        with self._lock:
            if gsi < _ISA_IRQS:
                self.pic.set_irq(gsi, level=level)
            if gsi < spec.IOAPIC_PINS:
                self.ioapic.set_pin(gsi, level=level)

    def send_msi(self, address: int, data: int) -> None:
        """Deliver a message-signalled interrupt."""
        with self._lock:
            route = self._routes.get((address, data))
            if route is not None:
                if route.vectors.enabled:
                    route.vectors.post(route.vector, is_level=False)
                    route.look()
                return
            message = message_from_msi(address, data)
            if message is not None:
                self.deliver(message)
                found = self._find_route(message)
                if found is not None:
                    if len(self._routes) >= _MAX_ROUTES:
                        self.routes_changed()
                    self._routes.setdefault((address, data), found)

    def route(self, address: int, data: int) -> MessageRoute | None:
        """The way that a message takes, if it is a simple one; any thread, with or without the machine lock."""
        routes = self._routes
        route = routes.get((address, data))
        if route is None:
            message = message_from_msi(address, data)
            found = None if message is None else self._find_route(message)
            if found is None or len(routes) >= _MAX_ROUTES:
                return None
            route = routes.setdefault((address, data), found)
        # Whoever changes something takes the table away, and then ends what is in it.
        return route if self._routes is routes else None

    def _find_route(self, message: ApicMessage) -> MessageRoute | None:
        targets = [lapic for lapic in self.lapics if lapic.matches(message.destination, is_logical=message.is_logical)]
        is_plain = message.mode in {DeliveryMode.FIXED, DeliveryMode.LOWEST_PRIORITY} and not message.is_level
        if len(targets) == 1 and is_plain and message.vector >= _FIRST_VECTOR:
            look = self._lookers[targets[0].initial_id]
            if look is not None:
                return MessageRoute(targets[0].vectors, message.vector, look)
        return None

    def routes_changed(self) -> None:
        """A local APIC answers to another destination now, or forgot what it was sent."""
        routes, self._routes = self._routes, {}
        for route in list(routes.values()):
            route.end()

    # -- the processor's side -----------------------------------------------------------------------------------------

    def acknowledge(self, index: int) -> int | None:
        """INTA from vCPU `index`: the vector to deliver, or None when the request is gone."""
        with self._lock:
            lapic = self.lapics[index]
            vector = None
            if lapic.has_pending:
                vector = lapic.acknowledge()
            elif self.pic.intr and lapic.takes_extint:
                vector = self.pic.acknowledge()
            self._update(index)
            return vector

    def read_msr(self, index: int, msr: int) -> int | None:
        """RDMSR of an APIC register by vCPU `index`; None for #GP."""
        return self.lapics[index].read_msr(msr)

    def write_msr(self, index: int, msr: int, value: int) -> bool:
        """WRMSR of an APIC register by vCPU `index`; False for #GP."""
        with self._lock:
            done = self.lapics[index].write_msr(msr, value)
            if msr == spec.Msr.APIC_BASE or (msr - spec.Msr.X2APIC_FIRST) << 4 in _ROUTING:
                self.routes_changed()
            self._update(index)
            return done

    def page_of(self, index: int) -> LocalApicPage:
        """The local APIC's registers as vCPU `index` sees them in memory."""
        return LocalApicPage(self, index)

    def registers_written(self, index: int) -> None:
        """A register of local APIC `index` was written through its page."""
        self._update(index)

    # -- between the controllers --------------------------------------------------------------------------------------

    def deliver(self, message: ApicMessage) -> bool:
        """Hand a message to every local APIC it names; False when there is none."""
        targets = [lapic for lapic in self.lapics if lapic.matches(message.destination, is_logical=message.is_logical)]
        if message.mode == DeliveryMode.LOWEST_PRIORITY and targets:
            awake = [lapic for lapic in targets if lapic.enabled]
            targets = [min(awake or targets, key=lambda lapic: lapic.ppr)]
        for lapic in targets:
            self._deliver_to(lapic, message)
        return bool(targets)

    def end_of_interrupt(self, vector: int) -> None:
        """Broadcast the end of a level-triggered interrupt."""
        self.ioapic.end_of_interrupt(vector)

    def timer_fired(self, sender: LocalApic) -> None:
        """A local APIC timer requested an interrupt."""
        self._update(sender.initial_id)

    def send_ipi(self, sender: LocalApic, message: ApicMessage, shorthand: int) -> None:
        """Deliver an inter-processor interrupt."""
        match shorthand:
            case 0:
                self.deliver(message)
            case 1:
                self._deliver_to(sender, message)
            case _:
                for lapic in self.lapics:
                    if shorthand == 2 or lapic is not sender:
                        self._deliver_to(lapic, message)

    def _deliver_to(self, lapic: LocalApic, message: ApicMessage) -> None:
        pins = self._pins[lapic.initial_id]
        match message.mode:
            case DeliveryMode.FIXED | DeliveryMode.LOWEST_PRIORITY:
                lapic.accept(message.vector, is_level=message.is_level)
                self._update(lapic.initial_id)
            case DeliveryMode.NMI if pins is not None:
                pins.raise_nmi()
            case DeliveryMode.INIT if pins is not None and message.assert_level:
                self.routes_changed()
                lapic.init()
                self._update(lapic.initial_id)
                pins.init()
            case DeliveryMode.STARTUP if pins is not None:
                pins.startup(message.vector)
            case _:
                pass

    def _pic_changed(self, _intr: bool) -> None:  # noqa: FBT001 - callback
        self._update_all()

    def _update_all(self) -> None:
        for index in range(len(self.lapics)):
            self._update(index)

    def _update(self, index: int) -> None:
        lapic = self.lapics[index]
        level = self.pic.intr and lapic.takes_extint
        look = self._lookers[index]
        if look is None:
            level = level or lapic.has_pending
        elif lapic.has_pending:
            look()
        if level != self._levels[index]:
            self._levels[index] = level
            pins = self._pins[index]
            if pins is not None:
                pins.set_interrupt(pending=level)


class LocalApicPage:
    """One vCPU's window on its local APIC."""

    def __init__(self, chip: ApicInterruptChip, index: int) -> None:
        """Made by `ApicInterruptChip.page_of`."""
        self._chip = chip
        self._index = index
        self._lapic = chip.lapics[index]

    def read(self, offset: int, size: int) -> int:
        """Read a register."""
        return self._lapic.read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register."""
        self._lapic.write(offset, size, value)
        if offset in _ROUTING:
            self._chip.routes_changed()
        self._chip.registers_written(self._index)
