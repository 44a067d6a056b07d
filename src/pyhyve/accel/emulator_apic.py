"""The local APIC's vectors of one vCPU of the emulator (`cpu.isa.x86.apic`); see `accel.api.ApicVectors`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.cpu.isa.x86.state import STATE

if TYPE_CHECKING:
    from pyhyve.accel.emulator_sleep import SleepListener
    from pyhyve.cpu.engine.vcpu import EngineVcpu

_BYTES = 32
_IRR, _ISR, _TMR = (slice(at, at + _BYTES) for at in map(STATE.offset, ("apic_irr", "apic_isr", "apic_tmr")))
_TPR, _ON = STATE.offset("apic_tpr") >> 3, STATE.offset("apic_on") >> 3


class EngineApicVectors:
    """Requests, vectors in service and priority, in the vCPU's state, where compiled code takes and ends them."""

    def __init__(self, engine: EngineVcpu, listener: SleepListener) -> None:
        self.engine_address = engine.address
        """Where the vCPU's state is."""
        self.listener = listener
        """What the vCPU listens to while it sleeps."""
        self._view = engine.view
        self._words = engine.view.cast("Q")
        self._post = engine.bind_quick("apic.post")

    @property
    def irr(self) -> int:
        """Vectors that are requested, one a bit."""
        return int.from_bytes(self._view[_IRR], "little")

    @irr.setter
    def irr(self, value: int) -> None:
        self._view[_IRR] = value.to_bytes(_BYTES, "little")

    @property
    def isr(self) -> int:
        """Vectors in service."""
        return int.from_bytes(self._view[_ISR], "little")

    @isr.setter
    def isr(self, value: int) -> None:
        self._view[_ISR] = value.to_bytes(_BYTES, "little")

    @property
    def tmr(self) -> int:
        """Vectors that came level-triggered."""
        return int.from_bytes(self._view[_TMR], "little")

    @tmr.setter
    def tmr(self, value: int) -> None:
        self._view[_TMR] = value.to_bytes(_BYTES, "little")

    @property
    def tpr(self) -> int:
        """Task priority."""
        return self._words[_TPR]

    @tpr.setter
    def tpr(self, value: int) -> None:
        self._words[_TPR] = value

    @property
    def enabled(self) -> bool:
        """Whether the processor takes vectors."""
        return bool(self._words[_ON])

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self._words[_ON] = value

    def post(self, vector: int, *, is_level: bool) -> None:
        """Request a vector; any thread, while the vCPU runs."""
        self._post(vector, is_level)
