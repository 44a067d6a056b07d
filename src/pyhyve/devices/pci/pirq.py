"""PIRQ routing registers: which ISA interrupt each PCI interrupt line drives (82371SB, 2.6.3; 316972, 10.1.6)."""

from __future__ import annotations

from pyhyve.devices.pci.device import PciDevice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyhyve.devices.contracts import LineSetter

PIRQ_DISABLED = 0x80


class PirqRouting:
    """The lines of one bridge; an interrupt that several lines share is high while any of them is."""

    def __init__(self, bridge: PciDevice, registers: tuple[int, ...], set_irq: LineSetter) -> None:
        """`registers` are offsets in the bridge's configuration space, in order, one for each line."""
        self._bridge = bridge
        self._registers = registers
        self._set_irq = set_irq
        self._lines = [False] * len(registers)
        self._driven: set[int] = set()

    def irq_of(self, line: int) -> int | None:
        """The ISA interrupt of `line`, or None while it is disconnected."""
        route = self._bridge.config[self._registers[line]]
        return None if route & PIRQ_DISABLED else route & 0xF

    def drive(self, line: int, *, level: bool) -> None:
        """`line` has another level."""
        self._lines[line] = level
        self.update()

    def covers(self, offset: int, size: int) -> bool:
        """Whether `size` bytes of configuration space at `offset` touch the registers."""
        return offset <= self._registers[-1] and offset + size > self._registers[0]

    def update(self) -> None:
        """Drive what the registers say now."""
        wanted = {irq for line, high in enumerate(self._lines) if high and (irq := self.irq_of(line)) is not None}
        for irq in self._driven - wanted:
            self._set_irq(irq, level=False)
        for irq in wanted - self._driven:
            self._set_irq(irq, level=True)
        self._driven = wanted

    def lower(self) -> None:
        """Power on: all lines are low."""
        self._lines = [False] * len(self._registers)
        self.update()

    def forget(self) -> None:
        """A state was loaded: devices raise their lines when they are."""
        self._lines = [False] * len(self._registers)
        self._driven = set()


class RoutingBridge(PciDevice):
    """A bridge whose configuration space routes its PIRQ lines."""

    _routing: PirqRouting

    def config_write(self, offset: int, size: int, value: int) -> None:
        """Write configuration space; routing follows at once."""
        super().config_write(offset, size, value)
        if self._routing.covers(offset, size):
            self._routing.update()

    def reset(self) -> None:
        """Return to the power-on routing with all lines low."""
        super().reset()
        self._routing.lower()

    def load(self, state: Any) -> None:  # noqa: ANN401 - as in `PciDevice`
        """Take over the routing; the devices raise their lines when they are loaded."""
        super().load(state)
        self._routing.forget()
