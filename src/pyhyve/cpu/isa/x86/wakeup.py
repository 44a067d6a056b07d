"""Waking a vCPU that sleeps in HLT (see `sleep`), and interrupts that do so without Python."""

from __future__ import annotations

from typing import Any

from pyhyve.cpu.engine.state import Request
from pyhyve.cpu.engine.system import system_call
from pyhyve.cpu.isa.x86 import apic
from pyhyve.cpu.isa.x86.state import STATE
from pyhyve.cpu.lang import U64, Pointer, current, kernel, u32, u64

P = Pointer(STATE)
ON_FUTEX, ON_DESCRIPTORS = 1, 2
"""How a vCPU sleeps (`asleep`)."""
_SYS_WRITE, _SYS_FUTEX = 1, 202
_WAKE_PRIVATE = 129


@kernel(U64, name="x86.signal", attributes="nounwind noinline")
def signal(fd: Any) -> None:
    """Add one to an event descriptor."""
    one = current().buffer(8, U64)
    current().store(one, 1, volatile=True)
    system_call(_SYS_WRITE, fd, one.address(), u64(8))


@kernel(P, name="x86.wake")
def wake(st: Any) -> None:
    """End a wait, after `request` was changed. Any thread."""
    if current().load(st.ref("asleep"), volatile=True) != 0:
        how = current().atomic("xchg", st.ref("asleep"), u32(0))
        if how == ON_FUTEX:
            system_call(_SYS_FUTEX, st.ref("asleep").address(), u64(_WAKE_PRIVATE), u64(1))
        elif how == ON_DESCRIPTORS:
            signal(st.wake_fd)


@kernel(P, U64, name="x86.interrupt_message", attributes="nounwind noinline")
def interrupt(st: Any, vector: Any) -> None:
    """An edge-triggered message arrived; a local APIC that is off drops it. Any thread."""
    b = current()
    if b.load(st.ref("apic_on"), volatile=True) != 0:
        apic.post(st, vector, u64(0))
        b.atomic("or", st.ref("request"), u32(Request.INTERRUPT))
        wake(st)
