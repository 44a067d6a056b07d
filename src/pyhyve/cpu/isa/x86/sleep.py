"""HLT without leaving compiled code: a vCPU sleeps on a futex in its state until something is asked of it.

Whoever sets bits of `request` for a vCPU through `change_request` wakes it. It does not matter then whether Python's
lock is free: the guest goes on at once.
"""

from __future__ import annotations

from typing import Any

from pyhyve.cpu.engine.state import Request
from pyhyve.cpu.engine.system import fence, system_call
from pyhyve.cpu.isa.x86 import apic
from pyhyve.cpu.isa.x86.spec import Eflags
from pyhyve.cpu.isa.x86.state import STATE
from pyhyve.cpu.lang import U64, Pointer, current, kernel, u32, u64

P = Pointer(STATE)
_SYS_FUTEX = 202
_WAIT_PRIVATE, _WAKE_PRIVATE = 128, 129


@kernel(P, result=U64, name="x86.waiting_interrupt", attributes="nounwind noinline")
def waiting_interrupt(st: Any) -> Any:
    """Not 0 when the local APIC or the INTR line, which other threads drive, has an interrupt for the processor."""
    return apic.pending(st) | current().load(st.ref("interrupt_line"), volatile=True).zext(64)


@kernel(P, name="x86.drop_interrupt_request")
def drop_interrupt_request(st: Any) -> None:
    """Nothing waits: clear the bit that said so, unless something has come meanwhile."""
    current().atomic("and", st.ref("request"), ~u32(Request.INTERRUPT))
    if waiting_interrupt(st) != 0:
        apic.look_again(st)


@kernel(P, result=U64, name="x86.must_wake", attributes="nounwind noinline")
def must_wake(st: Any) -> Any:
    """Whether what is asked of the vCPU ends its HLT: an interrupt only where it can be delivered."""
    request = current().load(st.ref("request"), volatile=True) | st.deferred
    if (request & Request.KICK) != 0 or ((request & Request.NMI) != 0 and st.nmi_blocked == 0):
        return 1
    if (request & Request.INTERRUPT) == 0 or (st.eflags & Eflags.IF) == 0:
        return 0
    if waiting_interrupt(st) != 0 or st.event_inject != 0:
        return 1
    drop_interrupt_request(st)
    return 0


@kernel(P, name="x86.sleep", attributes="nounwind noinline")
def sleep(st: Any) -> None:
    """Wait in HLT until something is asked of the vCPU."""
    b = current()
    asleep = st.ref("asleep")
    awake: U64 = 0
    while awake == 0:
        # Announced before looking: who asks for something from now on ends the wait.
        b.store(asleep, 1, volatile=True)
        fence()
        awake = must_wake(st)
        if awake == 0:
            system_call(_SYS_FUTEX, asleep.address(), u64(_WAIT_PRIVATE), u64(1), u64(0))
    b.store(asleep, 0, volatile=True)
    st.idle = 0


@kernel(P, name="x86.wake")
def wake(st: Any) -> None:
    """End a wait, after `request` was changed. Any thread."""
    if current().load(st.ref("asleep"), volatile=True) != 0:
        if current().atomic("xchg", st.ref("asleep"), u32(0)) != 0:
            system_call(_SYS_FUTEX, st.ref("asleep").address(), u64(_WAKE_PRIVATE), u64(1))
