"""Packets that arrive while nobody has the device's lock: taken by whoever notices them first.

That is the vCPU which their interrupt is for, when it sleeps: then no other thread is woken, and the guest goes on at
once. Else it is the device's worker. The queue's gate keeps them apart, and both away while the device has the queue;
`again` is for who finds the other at work. The interrupt goes straight to the local APIC.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pyhyve.cpu.engine.queue_layout import QUEUE, Gate, Status
from pyhyve.cpu.engine.system import fence
from pyhyve.cpu.engine.virtqueue_gate import gate_of, give_gate, take_gate
from pyhyve.cpu.engine.virtqueue_receive import BUDGET
from pyhyve.cpu.lang import U64, Pointer, Struct, current, kernel, u64

if TYPE_CHECKING:
    from pyhyve.cpu.lang import Kernel


_TURNS = 16
"""The worker's, each of a batch with an interrupt; then other work gets its turn."""


class ArrivalKernels(NamedTuple):
    """`arrive(state, queue, most, turns)` for kernels, `arrived(state, address, result)` for the device's worker."""

    arrive: Kernel
    arrived: Kernel


def make_arrival(state: Struct, batch: Kernel, interrupt: Kernel) -> ArrivalKernels:
    """The kernels for one state layout."""
    pointer, queue = Pointer(state), Pointer(QUEUE)

    @kernel(pointer, queue, U64, U64, result=U64, name="queue.arrive", attributes="nounwind noinline")
    def arrive(st: Any, q: Any, most: Any, turns: Any) -> Any:
        """Take the packets that wait, in `turns` batches of `most`; 0 when the device must look after the queue."""
        b = current()
        b.store(q.ref("again"), 1, volatile=True)
        fence()
        turn: U64 = 0
        more: U64 = 1
        while more != 0:
            if take_gate(q):
                b.store(q.ref("again"), 0, volatile=True)
                fence()
                status = u64(Status.FILTER)
                if q.undecided == 0:
                    q.served = 0
                    status = batch(st, q, most)
                    if q.wants != 0 and q.target != 0:
                        interrupt(q.target.cast(state), q.vector)
                        q.wants = 0
                    if status == Status.FILTER:
                        q.undecided = 1
                turn += 1
                goes_on = (status == Status.BUDGET) & (turn < turns)
                left = ((status != Status.DONE) & (goes_on ^ 1)) | (q.wants != 0)
                give_gate(q)
                if left:
                    return 0
                more = b.load(q.ref("again"), volatile=True) | goes_on.zext(64)
            else:
                # Whoever serves it looks at `again` afterwards.
                gate = gate_of(q)
                if gate == Gate.HELD:
                    return 1
                if gate != Gate.OPEN:
                    return 0
        return 1

    @kernel(pointer, U64, U64, name="queue.arrived", exported=True)
    def arrived(st: Any, at: Any, result: Any) -> None:
        """`arrive` with its result in memory."""
        current().store(result.cast(U64), arrive(st, at.cast(QUEUE), u64(BUDGET), u64(_TURNS)))

    return ArrivalKernels(arrive, arrived)
