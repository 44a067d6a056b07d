"""HLT without leaving compiled code: a vCPU sleeps until something is asked of it.

Whoever sets bits of `request` for a vCPU through `change_request` wakes it. It does not matter then whether Python's
lock is free: the guest goes on at once.

It sleeps on a futex in its state. Once there are receive queues whose packets it takes by itself, it sleeps on their
descriptors (`poll_fd`, an epoll; edge-triggered) and one that wakes it (`wake_fd`): see `engine.virtqueue_arrival`.
"""

from __future__ import annotations

from typing import Any

from pyhyve.cpu.engine.queue_layout import QUEUE
from pyhyve.cpu.engine.state import Request
from pyhyve.cpu.engine.system import fence, system_call
from pyhyve.cpu.isa.x86 import apic
from pyhyve.cpu.isa.x86.memory import queues
from pyhyve.cpu.isa.x86.spec import Eflags
from pyhyve.cpu.isa.x86.state import STATE
from pyhyve.cpu.isa.x86.wakeup import ON_DESCRIPTORS, ON_FUTEX, signal
from pyhyve.cpu.lang import U8, U32, U64, Pointer, current, kernel, u32, u64

P = Pointer(STATE)
_SYS_FUTEX, _SYS_EPOLL_WAIT = 202, 232
_WAIT_PRIVATE = 128
_FOREVER = (1 << 64) - 1
_PATIENCE_MS = 1
"""While packets were sent that the driver was not told of."""
_INTERRUPTED = (1 << 64) - 4
"""-EINTR."""
_EVENTS, _EVENT_BYTES, _EVENT_FD = 4, 12, 4
"""Most events taken at once; `struct epoll_event` is packed on x86-64, with the descriptor in its second word."""
_PACKETS = 16
"""Taken before the guest goes on; the worker is asked to take the rest meanwhile."""


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


@kernel(P, U64, name="x86.take_arrival", attributes="nounwind noinline")
def take_arrival(st: Any, fd: Any) -> None:
    """Something came in at a descriptor: when it belongs to a receive queue, serve that."""
    i: U64 = 0
    while i < st.listen_count:
        if st.listen_fd[i] == fd:
            if queues.arrive(st, st.listen_queue[i].cast(QUEUE), u64(_PACKETS), u64(1)) == 0:
                signal(st.listen_help[i])
            return
        i += 1


@kernel(P, name="x86.sleep_on_descriptors", attributes="nounwind noinline")
def sleep_on_descriptors(st: Any) -> None:
    """Wait until `wake`, or take the packets that come before."""
    b = current()
    events = b.buffer(_EVENTS * _EVENT_BYTES, U8)
    patience = b.select(st.quiet_at != 0, u64(_PATIENCE_MS), u64(_FOREVER))
    count = system_call(_SYS_EPOLL_WAIT, st.poll_fd, events.address(), u64(_EVENTS), patience)
    b.store(st.ref("asleep"), 0, volatile=True)
    if count.slt(0):
        if count != _INTERRUPTED:
            st.poll_fd = 0  # It would not wait: sleep on the futex again.
        return
    i: U64 = 0
    while i < count:
        take_arrival(st, b.load(events.offset(i * _EVENT_BYTES + _EVENT_FD).cast(U32), volatile=True).zext(64))
        i += 1


@kernel(P, name="x86.sleep", attributes="nounwind noinline")
def sleep(st: Any) -> None:
    """Wait in HLT until something is asked of the vCPU."""
    b = current()
    asleep = st.ref("asleep")
    awake: U64 = 0
    while awake == 0:
        queues.look_for_quiet(st)
        # Announced before looking: who asks for something from now on ends the wait.
        polls = b.load(st.ref("poll_fd"), volatile=True) != 0
        b.store(asleep, b.select(polls, u32(ON_DESCRIPTORS), u32(ON_FUTEX)), volatile=True)
        fence()
        awake = must_wake(st)
        if awake == 0:
            if polls:
                sleep_on_descriptors(st)
            else:
                limit = b.buffer(16, U64)
                limit[0] = 0
                limit[1] = _PATIENCE_MS * 1_000_000
                until = b.select(st.quiet_at != 0, limit.address(), u64(0))
                system_call(_SYS_FUTEX, asleep.address(), u64(_WAIT_PRIVATE), u64(ON_FUTEX), until)
    b.store(asleep, 0, volatile=True)
    st.idle = 0
