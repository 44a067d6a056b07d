"""The part of a local APIC that every interrupt passes through, in compiled code (SDM Vol. 3A, 11.8).

Requested and in-service vectors live in the vCPU's state. The processor takes the highest one that outranks its
priority between two blocks, and ends an edge-triggered one, without leaving guest mode. Everything else of the chip,
and the end of level-triggered interrupts, which the I/O APIC must hear of, is the machine's.

The machine adds requests from any thread (`post`), then sets `Request.INTERRUPT`; all else changes on the vCPU's own
thread, or while it stands still.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.cpu.engine.state import Request
from pyhyve.cpu.isa.x86.state import STATE
from pyhyve.cpu.lang import BOOL, U64, Pointer, constant, current, kernel, u32, u64

if TYPE_CHECKING:
    from pyhyve.cpu.lang import Value

P = Pointer(STATE)
EOI_ADDRESS = 0xFEE0_00B0
"""The register that ends an interrupt, in memory."""
_EOI_BYTES = 4
_WORDS = 4


def _bit(vector: Value) -> Value:
    return u64(1) << (vector & 63)


@kernel(P, name="apic.look_again")
def look_again(st: Any) -> None:
    """Have the dispatcher see whether an interrupt can be taken."""
    current().atomic("or", st.ref("request"), u32(Request.INTERRUPT))


@kernel(P, U64, result=U64, name="apic.highest")
def highest(_st: Any, bits: Any) -> Any:
    """The highest of 256 bits at host address `bits`; 0 when none is set (vectors start at 16)."""
    for index in reversed(range(_WORDS)):
        word = current().load(bits.cast(U64).offset(8 * index), volatile=True)
        if word != 0:
            return 64 * index + 63 - current().intrinsic("llvm.ctlz.i64", U64, word, constant(BOOL, 0))
    return 0


@kernel(P, result=U64, name="apic.pending", attributes="nounwind noinline")
def pending(st: Any) -> Any:
    """The vector that the processor would take now, whatever IF says; 0 when there is none."""
    if st.apic_on == 0:
        return 0
    vector = highest(st, st.ref("apic_irr").address())
    served = highest(st, st.ref("apic_isr").address())
    # The processor's priority is the higher of the task's and that in service; only classes count.
    if vector >> 4 > served >> 4 and vector >> 4 > st.apic_tpr >> 4:
        return vector
    return 0


@kernel(P, result=U64, name="apic.take", attributes="nounwind noinline")
def take(st: Any) -> Any:
    """Move the vector that is due into service; 0 when there is none."""
    vector = pending(st)
    if vector != 0:
        word = (vector >> 6) << 3
        current().atomic("and", st.ref("apic_irr").offset(word), ~_bit(vector))
        current().atomic("or", st.ref("apic_isr").offset(word), _bit(vector))
    return vector


@kernel(P, U64, name="apic.set_priority", attributes="nounwind noinline")
def set_priority(st: Any, priority: Any) -> None:
    """Set the task priority, of which CR8 is the upper half (SDM Vol. 3A, 11.8.6); what it held back may be due."""
    st.apic_tpr = priority
    if pending(st) != 0:
        look_again(st)


@kernel(P, U64, U64, name="apic.post", exported=True)
def post(st: Any, vector: Any, is_level: Any) -> None:
    """Request a vector."""
    word = (vector >> 6) << 3
    if is_level != 0:
        current().atomic("or", st.ref("apic_tmr").offset(word), _bit(vector))
    else:
        current().atomic("and", st.ref("apic_tmr").offset(word), ~_bit(vector))
    current().atomic("or", st.ref("apic_irr").offset(word), _bit(vector))


@kernel(P, result=U64, name="apic.end", attributes="nounwind noinline")
def end(st: Any) -> Any:
    """End the interrupt in service; 0 when the machine must do it."""
    vector = highest(st, st.ref("apic_isr").address())
    word = (vector >> 6) << 3
    if st.apic_on == 0 or (current().load(st.ref("apic_tmr").offset(word), volatile=True) & _bit(vector)) != 0:
        return 0
    if vector != 0:
        current().atomic("and", st.ref("apic_isr").offset(word), ~_bit(vector))
        if highest(st, st.ref("apic_irr").address()) != 0:
            look_again(st)
    return 1


@kernel(P, U64, U64, U64, result=U64, name="apic.take_store", attributes="nounwind noinline")
def take_store(st: Any, gpa: Any, size: Any, _value: Any) -> Any:
    """A write to a device: 1 when it was an end of interrupt that is done."""
    if gpa == EOI_ADDRESS and size == _EOI_BYTES:
        return end(st)
    return 0
