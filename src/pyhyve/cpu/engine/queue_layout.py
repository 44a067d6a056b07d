"""What the kernels of `virtqueue` and their callers share of one queue."""

from __future__ import annotations

from enum import IntEnum

from pyhyve.cpu.lang.types import U8, U64, Array, Struct

MAX_PARTS = 1000
"""Most buffers that are prepared for one system call; below the kernel's UIO_MAXIOV of 1024."""
NET_HEADER_BYTES = 12
SCRATCH_BYTES = 1 << 17
"""Room for a longest packet, twice."""


class Status(IntEnum):
    """Why a kernel returned: the numbers of `accel.api.QueueStatus`, where they are explained."""

    DONE = 0
    BUDGET = 1
    UNUSUAL = 2
    NO_BUFFERS = 3
    FILTER = 4


class Gate(IntEnum):
    """Who may touch a queue. The device closes it before it does so itself; a vCPU that kicks holds it meanwhile."""

    CLOSED = 0
    OPEN = 1
    HELD = 2
    WANTED = 3
    """Held, and the device waits for it."""


_SLOTS = 2 * MAX_PARTS + 64

IOVEC = Struct("Iovec").add("base", U64).add("length", U64)

QUEUE = Struct("WalkedQueue")
"""One queue. The device fills in where its ring is and, before each call, how far it has come."""
for _name in (
    "table", "avail", "used", "used_gpa", "size", "event_index", "indirect",  # the ring: host addresses
    "next_avail", "next_used", "published", "in_flight",  # how far it has come
    "status", "served", "wants",  # results; `wants`: the driver wants an interrupt
    "fd",
    "gate", "patient", "wants_at",  # a `Gate`; whether the interrupt may wait; where it was first wanted
    "linger_us", "ticks_per_us",  # how long to wait for more before the driver hears of what was done
    "readable", "writable", "readable_bytes", "writable_bytes",  # the chain walked last, in `parts`
    "start_bytes", "capacity_sectors", "reads", "writes",  # disk: where its first byte is in `fd`; what is allowed
    "read_count", "read_bytes", "write_count", "write_bytes", "write_end",  # disk: what was done in this call
    "wanted_bytes", "own_address", "filtered", "length", "decision",  # receive queue
    "prepared", "first", "room", "held_bytes",
    "receives", "again", "undecided",  # receive queue: that it is one; see `virtqueue_arrival`
    "target", "vector",  # the queue's interrupts: host address of the vCPU's state, or 0 when the device sends them
    "quiet_at",  # send queue: when the driver must hear of what was sent, 0 for not at all; see `virtqueue_quiet`
):  # fmt: skip
    QUEUE.add(_name, U64)
QUEUE.add("parts", Array(IOVEC, _SLOTS))
QUEUE.add("gpas", Array(U64, _SLOTS)).add("heads", Array(U64, _SLOTS))
QUEUE.add("held", Array(U8, 2 * SCRATCH_BYTES)).add("scratch", Array(U8, SCRATCH_BYTES))
