"""Interrupts for sent packets, which may wait a little.

A driver takes sent buffers back when it sends more, and (Linux's) when packets arrive, so most of these interrupts
would come just before such a moment.

The vCPU that sent looks after it (`quiet_at` in its state is the next moment to look, in ticks of the time-stamp
counter): when it sends again, when it is about to sleep, and, asleep, a millisecond later. The device looks now and
then too, for a vCPU that does none of these. All this is for queues whose interrupts have a known way (`target`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pyhyve.cpu.engine.queue_access import load16
from pyhyve.cpu.engine.queue_layout import QUEUE
from pyhyve.cpu.engine.system import fence
from pyhyve.cpu.engine.virtqueue_gate import give_gate, take_gate
from pyhyve.cpu.lang import U64, Pointer, Struct, Value, current, kernel

if TYPE_CHECKING:
    from pyhyve.cpu.lang import Kernel

_QUIET_US = 500
_NO_INTERRUPT = 1


def now() -> Value:
    """The host's time-stamp counter."""
    ticks: Value = current().intrinsic("llvm.readcyclecounter", U64)
    return ticks


class QuietKernels(NamedTuple):
    """`before(queue)` and `after(state, queue)` something is sent from a queue that is held; `look(state)` at times."""

    before: Kernel
    after: Kernel
    look: Kernel


def make_quiet(state: Struct, interrupt: Kernel) -> QuietKernels:
    """The kernels for one state layout."""
    pointer, queue = Pointer(state), Pointer(QUEUE)

    @kernel(queue, name="queue.tell_sent", attributes="nounwind noinline")
    def tell(q: Any) -> None:
        """Send the interrupt."""
        interrupt(q.target.cast(state), q.vector)
        q.wants = 0
        q.quiet_at = 0

    @kernel(queue, result=U64, name="queue.still_wants", attributes="nounwind noinline")
    def still_wants(q: Any) -> Any:
        """Whether the driver has not taken back yet what it wanted an interrupt for (2.7.7)."""
        fence()
        if q.event_index != 0:
            event = load16(q.avail + 4 + (q.size << 1))
            return ((q.published - event - 1) & 0xFFFF < (q.published - q.wants_at) & 0xFFFF).zext(64)
        return (load16(q.avail.get()) & _NO_INTERRUPT) ^ _NO_INTERRUPT

    @kernel(queue, name="queue.before_sending", attributes="nounwind noinline")
    def before(q: Any) -> None:
        """See what has become of packets that were sent earlier."""
        if q.quiet_at != 0:
            if still_wants(q) == 0:
                q.wants = 0
                q.quiet_at = 0
            elif (now() - q.quiet_at).slt(0) == 0:
                tell(q)

    @kernel(pointer, queue, name="queue.after_sending", attributes="nounwind noinline")
    def after(st: Any, q: Any) -> None:
        """Have the driver told of packets that were sent: now, if they fill a quarter of its ring, or later."""
        if q.wants != 0 and q.target != 0:
            if (q.next_used - q.wants_at) & 0xFFFF > q.size >> 2:
                tell(q)
            else:
                if q.quiet_at == 0:
                    q.quiet_at = now() + q.ticks_per_us * _QUIET_US
                if st.quiet_at == 0 or (q.quiet_at - st.quiet_at).slt(0):
                    st.quiet_at = q.quiet_at

    @kernel(pointer, name="queue.look_for_quiet", attributes="nounwind noinline")
    def look(st: Any) -> None:
        """Tell drivers of packets that this vCPU sent a while ago."""
        b = current()
        moment = now()
        if st.quiet_at == 0 or (moment - st.quiet_at).slt(0):
            return
        following: U64 = 0
        i: U64 = 0
        while i < st.kick_count:
            q = st.kick_queue[i].cast(QUEUE)
            at = b.load(q.ref("quiet_at"), volatile=True)
            if at != 0 and take_gate(q):
                # Else the device has it, and the duty.
                before(q)
                at = q.quiet_at.get()
                give_gate(q)
                if at != 0 and (following == 0 or (at - following).slt(0)):
                    following = at
            i += 1
        st.quiet_at = following

    return QuietKernels(before, after, look)
