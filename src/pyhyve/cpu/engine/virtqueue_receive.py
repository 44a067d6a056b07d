"""The receive queue's kernel: packets from a descriptor straight into the driver's buffers (see `virtqueue`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from pyhyve.cpu.engine.queue_access import load16, load32, load64, parts_at, store16
from pyhyve.cpu.engine.queue_layout import MAX_PARTS, NET_HEADER_BYTES, QUEUE, SCRATCH_BYTES, Status
from pyhyve.cpu.engine.system import fence, system_call
from pyhyve.cpu.lang import U64, Pointer, Struct, current, kernel, u64

if TYPE_CHECKING:
    from pyhyve.cpu.lang import Kernel

BUDGET = 64
"""Packets until others get their turn."""
_ROUNDS = 8
_MIN_BYTES = 64
"""Receive buffers shorter than this are unusual: header and addresses of a packet are in the first one."""
_WRITE = 2
_SYS_READV = 19


@dataclass(frozen=True, slots=True)
class RingKernels:
    """What any kind of queue is served with."""

    host: Kernel
    note: Kernel
    note_used: Kernel
    put: Kernel
    publish: Kernel
    ask: Kernel
    begin_again: Kernel


class ReceiveKernels(NamedTuple):
    """`batch(state, queue, most)` takes about `most` packets; `receive(state, address)` is the device's call."""

    batch: Kernel
    receive: Kernel


def make_receive(state: Struct, ring: RingKernels) -> ReceiveKernels:
    """The kernels for one state layout."""
    pointer, queue = Pointer(state), Pointer(QUEUE)

    @kernel(pointer, queue, result=U64, name="queue.prepare", attributes="nounwind noinline")
    def prepare(st: Any, q: Any) -> Any:
        """Look at buffers ahead until a longest packet fits, or there are no more; 0 when one is unusual.

        They stay the ring's: nothing is taken before a packet is in them.
        """
        waiting = (load16(q.avail + 2) - q.next_avail) & 0xFFFF
        if waiting > q.size - q.in_flight:
            return 0
        if q.first >= MAX_PARTS:
            i: U64 = 0
            while i < q.prepared:
                q.parts[i].base = q.parts[q.first + i].base
                q.parts[i].length = q.parts[q.first + i].length
                q.gpas[i] = q.gpas[q.first + i]
                q.heads[i] = q.heads[q.first + i]
                i += 1
            q.first = 0
        while q.room < q.wanted_bytes and q.prepared < waiting and q.prepared < MAX_PARTS:
            position = (q.next_avail + q.prepared) & (q.size - 1)
            head = load16(q.avail + 4 + (position << 1))
            if head >= q.size:
                return 0
            at = q.table + (head << 4)
            gpa = load64(at)
            length = load32(at + 8)
            if load16(at + 12) != _WRITE or length < _MIN_BYTES:
                return 0
            hva = ring.host(st, gpa, length, u64(1))
            if hva == 0:
                return 0
            slot = q.first + q.prepared
            q.parts[slot].base = hva
            q.parts[slot].length = length
            q.gpas[slot] = gpa
            q.heads[slot] = head
            q.prepared = q.prepared + 1
            q.room = q.room + length
        return 1

    @kernel(pointer, queue, U64, name="queue.consume", attributes="nounwind noinline")
    def consume(st: Any, q: Any, length: Any) -> None:
        """Give the driver the packet of `length` bytes that lies in the buffers prepared first."""
        first = q.first.get()
        header = q.parts[first].base
        left = length.get()
        count: U64 = 0
        while left != 0:
            slot = first + count
            size = q.parts[slot].length
            q.room = q.room - size
            if size > left:
                size = left.get()
            ring.note(st, q.gpas[slot], size)
            ring.put(q, q.heads[slot], size)
            left -= size
            count += 1
        store16(header + 10, count)
        if st.dirty != 0:
            ring.note(st, q.gpas[first], u64(NET_HEADER_BYTES))
        q.first = first + count
        q.prepared = q.prepared - count
        q.next_avail = (q.next_avail + count) & 0xFFFF
        q.served = q.served + 1

    @kernel(U64, U64, U64, name="queue.copy")
    def copy(target: Any, source: Any, size: Any) -> None:
        current().asm(
            "rep movsb",
            "={rdi},={rsi},={rcx},{rdi},{rsi},{rcx},~{memory}",
            "{ i64, i64, i64 }",
            [("i64", target.get().ir), ("i64", source.get().ir), ("i64", size.get().ir)],
        )

    @kernel(pointer, queue, U64, name="queue.note_parts", attributes="nounwind noinline cold")
    def note_parts(st: Any, q: Any, length: Any) -> None:
        """A packet of `length` bytes was written to prepared buffers that the driver may not get now."""
        done: U64 = 0
        i: U64 = 0
        while i < q.prepared and done < length:
            ring.note(st, q.gpas[q.first + i], q.parts[q.first + i].length)
            done += q.parts[q.first + i].length
            i += 1

    @kernel(queue, U64, name="queue.hold", attributes="nounwind noinline cold")
    def hold(q: Any, length: Any) -> None:
        """Take a packet aside that went past the prepared buffers into the scratch room."""
        done: U64 = 0
        i: U64 = 0
        while i < q.prepared:
            size = q.parts[q.first + i].length
            copy(q.ref("held").address() + done, q.parts[q.first + i].base, size)
            done += size
            i += 1
        copy(q.ref("held").address() + done, q.ref("scratch").address(), length - done)
        q.held_bytes = length

    @kernel(queue, name="queue.release", attributes="nounwind noinline cold")
    def release(q: Any) -> None:
        """Put the packet that was taken aside into the prepared buffers, which have room for it."""
        done: U64 = 0
        i: U64 = 0
        while done < q.held_bytes:
            room, left = q.parts[q.first + i].length, q.held_bytes - done
            size = current().select(room > left, left, room)
            copy(q.parts[q.first + i].base, q.ref("held").address() + done, size)
            done += size
            i += 1

    @kernel(pointer, queue, U64, result=U64, name="queue.receive_some")
    def receive_some(st: Any, q: Any, most: Any) -> Any:
        """Receive until one side runs out."""
        while q.served < most:
            if q.room < q.wanted_bytes and prepare(st, q) == 0:
                return Status.UNUSUAL
            length: U64 = 0
            if q.held_bytes != 0:
                if q.room < q.held_bytes:
                    if q.prepared < q.size and q.prepared < MAX_PARTS:
                        return Status.NO_BUFFERS
                    # The whole ring cannot hold it.
                    q.held_bytes = 0
                    continue
                release(q)
                length = q.held_bytes
                q.held_bytes = 0
            else:
                if q.prepared == 0:
                    return Status.NO_BUFFERS
                parts = q.prepared.get()
                if q.room < q.wanted_bytes:
                    # A long packet might not fit: its end goes into the scratch room.
                    slot = q.first + parts
                    q.parts[slot].base = q.ref("scratch").address()
                    q.parts[slot].length = SCRATCH_BYTES
                    parts = parts + 1
                length = system_call(_SYS_READV, q.fd, parts_at(q, q.first), parts)
                if length.slt(1):
                    return Status.DONE
                if length < NET_HEADER_BYTES:
                    continue
                fence()
                if length > q.room:
                    note_parts(st, q, length)
                    hold(q, length)
                    continue
            if q.filtered != 0:
                target = load64(q.parts[q.first].base + NET_HEADER_BYTES) & ((1 << 48) - 1)
                if target != q.own_address:
                    note_parts(st, q, length)
                    q.length = length
                    return Status.FILTER
            consume(st, q, length)
        return Status.BUDGET

    @kernel(pointer, queue, U64, result=U64, name="queue.receive_batch", attributes="nounwind noinline")
    def batch(st: Any, q: Any, most: Any) -> Any:
        """Receive, publish, and ask for a kick where buffers ran out; a `Status`."""
        ring.begin_again(q)
        status = u64(Status.BUDGET)
        rounds: U64 = 0
        more: U64 = 1
        while more != 0 and rounds < _ROUNDS:
            status = receive_some(st, q, most)
            ring.publish(st, q)
            more = u64(0)
            # Only more buffers than were looked at help.
            if status == Status.NO_BUFFERS and ring.ask(q, q.prepared.get()) != 0:
                ring.begin_again(q)
                status = u64(Status.BUDGET)
                more = u64(1)
            rounds += 1
        ring.note_used(st, q)
        return status

    @kernel(pointer, U64, name="queue.receive", exported=True)
    def receive(st: Any, at: Any) -> None:
        q = at.cast(QUEUE)
        q.wants = 0
        q.served = 0
        if q.decision != 0:
            consume(st, q, q.length.get())
            q.decision = 0
        q.status = batch(st, q, u64(BUDGET))

    return ReceiveKernels(batch, receive)
