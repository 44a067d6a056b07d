"""Who may touch a queue that is served without the device's lock: the word `gate`, a `Gate`."""

from __future__ import annotations

from typing import Any

from pyhyve.cpu.engine.queue_layout import QUEUE, Gate
from pyhyve.cpu.engine.system import system_call
from pyhyve.cpu.lang import BOOL, Pointer, Value, current, kernel, u64

_SYS_FUTEX = 202
_WAIT_PRIVATE, _WAKE_PRIVATE = 128, 129


@kernel(Pointer(QUEUE), result=BOOL, name="queue.take_gate")
def take_gate(q: Any) -> Any:
    """Hold an open queue; false when it is not open."""
    return current().compare_exchange(q.ref("gate"), Gate.OPEN, Gate.HELD)


@kernel(Pointer(QUEUE), name="queue.give_gate")
def give_gate(q: Any) -> None:
    """Leave a queue that was held: open, or closed if that is waited for."""
    b = current()
    if b.compare_exchange(q.ref("gate"), Gate.HELD, Gate.OPEN):
        return
    b.atomic("xchg", q.ref("gate"), u64(Gate.CLOSED))
    system_call(_SYS_FUTEX, q.ref("gate").address(), u64(_WAKE_PRIVATE), u64(1))


@kernel(Pointer(QUEUE), name="queue.close_gate", attributes="nounwind noinline")
def close_gate(q: Any) -> None:
    """Close a queue; returns when nobody holds it. One thread at a time: the one with the device's lock.

    It sleeps meanwhile, for who holds the queue may need this very processor to go on, and is handed the queue: who
    takes it again and again would else keep it for long.
    """
    b = current()
    gate = q.ref("gate")
    while b.load(gate, volatile=True) != Gate.CLOSED:
        if b.compare_exchange(gate, Gate.OPEN, Gate.CLOSED):
            return
        b.compare_exchange(gate, Gate.HELD, Gate.WANTED)
        system_call(_SYS_FUTEX, gate.address(), u64(_WAIT_PRIVATE), u64(Gate.WANTED), u64(0))


def gate_of(q: Value) -> Value:
    """The gate as it is now."""
    return current().load(q.ref("gate"), volatile=True)
