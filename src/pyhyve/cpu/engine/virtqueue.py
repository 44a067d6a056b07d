"""Split virtqueues walked by compiled code: data goes between guest memory and a descriptor without Python.

Each kernel serves one queue of one device until it is empty, with the device's lock held and Python's released. It does
what every driver does all day. Whatever else a queue may hold, mistakes included, ends it with `Status.UNUSUAL` before
anything of that buffer was used, and the device's own code goes on from there: what is right and wrong is decided
there, once.

Guest memory is read once, through volatile accesses, and only what was read is checked and used. Layouts and rules:
VIRTIO 1.2, 2.7 (rings), 5.1.6 (network), 5.2.6 (block). System calls are those of Linux on x86-64, as all that is
compiled here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.cpu.engine.queue_access import load16, load32, load64, parts_at, store16
from pyhyve.cpu.engine.queue_layout import MAX_PARTS, NET_HEADER_BYTES, QUEUE, Status
from pyhyve.cpu.engine.state import NO_ADDRESS, PAGE_BYTES, PAGE_MASK, PAGE_SHIFT
from pyhyve.cpu.engine.system import fence, system_call
from pyhyve.cpu.engine.virtqueue_arrival import make_arrival
from pyhyve.cpu.engine.virtqueue_gate import close_gate, give_gate, take_gate
from pyhyve.cpu.engine.virtqueue_quiet import make_quiet
from pyhyve.cpu.engine.virtqueue_receive import RingKernels, make_receive
from pyhyve.cpu.lang import U8, U64, Pointer, Struct, current, kernel, u64

if TYPE_CHECKING:
    from pyhyve.cpu.engine.dirty import DirtyMarks
    from pyhyve.cpu.engine.regions import Regions
    from pyhyve.cpu.engine.sharing import Owners
    from pyhyve.cpu.lang import Kernel

_BUDGET = 64
"""Buffers, or packets, until others get their turn."""
_BUDGET_BYTES = 4 << 20
_ROUNDS = 8
_MIN_RECEIVE_BYTES = 64
"""Receive buffers shorter than this are unusual: header and addresses of a packet are in the first one."""
_SECTOR_SHIFT = 9
_MAX_WRITE_BYTES = 1 << 20
_SYS_READV, _SYS_WRITEV, _SYS_PWRITEV, _SYS_PREADV2 = 19, 20, 296, 327
_RWF_NOWAIT = 8
_NEXT, _WRITE, _INDIRECT = 1, 2, 4
_NO_INTERRUPT = 1
_NO_NOTIFY = 1


class QueueKernels:
    """`send`, `receive` and `disk` for one state layout; each takes the state of any vCPU and a `QUEUE`'s address."""

    def __init__(
        self, state: Struct, regions: Regions, owners: Owners, post: Kernel, interrupt: Kernel, dirty: DirtyMarks
    ) -> None:
        """`post` sends a message to a vCPU's mailbox, `interrupt` a vector to its local APIC."""
        pointer, queue = Pointer(state), Pointer(QUEUE)

        @kernel(pointer, U64, U64, U64, result=U64, name="queue.host", attributes="nounwind noinline")
        def host(st: Any, gpa: Any, length: Any, writes: Any) -> Any:
            """Host address of a range inside one region, 0 when there is none (or it may not be written)."""
            i: U64 = 0
            while i < st.region_count:
                region = st.regions[i]
                offset = gpa - region.gpa
                if offset < region.length:
                    if length > region.length - offset or (writes != 0 and region.readonly != 0):
                        return 0
                    return region.hva + offset
                i += 1
            return 0

        @kernel(pointer, U64, name="queue.tell_owners", attributes="nounwind noinline cold")
        def tell_owners(st: Any, gpa: Any) -> None:
            """Have the vCPUs that hold code of a page drop it."""
            whom = owners.owned(st, regions.page_index(st, gpa))
            i: U64 = 0
            while i < st.peer_count:
                if (whom >> i) & 1 != 0:
                    post(st.peers.cast(U64)[i].cast(state), gpa & PAGE_MASK)
                i += 1

        @kernel(pointer, U64, U64, name="queue.note", attributes="nounwind noinline")
        def note(st: Any, gpa: Any, length: Any) -> None:
            """Guest memory inside one region was written."""
            page = regions.page_index(st, gpa)
            if page == NO_ADDRESS:
                return
            count = ((gpa & (PAGE_BYTES - 1)) + length + PAGE_BYTES - 1) >> PAGE_SHIFT
            n: U64 = 0
            while n < count:
                if owners.owned(st, page + n) != 0:
                    tell_owners(st, gpa + (n << PAGE_SHIFT))
                if st.dirty != 0:
                    dirty.mark(st, page + n)
                n += 1

        @kernel(pointer, queue, name="queue.note_used")
        def note_used(st: Any, q: Any) -> None:
            """What asks for kicks, or for none, was written too: it is in the used ring's page, or in the next one."""
            if st.dirty != 0:
                note(st, q.used_gpa, 6 + (q.size << 3))

        @kernel(pointer, queue, U64, result=U64, name="queue.walk", attributes="nounwind noinline")
        def walk(st: Any, q: Any, head: Any) -> Any:
            """Put the parts of chain `head` into `parts`; 0 when it is unusual."""
            base = q.table.get()
            index = head.get()
            entries = q.size.get()
            q.readable = 0
            q.writable = 0
            q.readable_bytes = 0
            q.writable_bytes = 0
            at = base + (index << 4)
            flags = load16(at + 12)
            if (flags & _INDIRECT) != 0:
                gpa = load64(at)
                length = load32(at + 8)
                if q.indirect == 0 or flags != _INDIRECT or (length & 15) != 0 or length > MAX_PARTS * 16:
                    return 0
                base = host(st, gpa, length, u64(0))
                if base == 0 or length == 0:
                    return 0
                entries = length >> 4
                index = u64(0)
            count: U64 = 0
            more: U64 = 1
            while more != 0:
                if count >= MAX_PARTS or count >= entries or index >= entries:
                    return 0
                at = base + (index << 4)
                gpa = load64(at)
                length = load32(at + 8)
                flags = load16(at + 12)
                index = load16(at + 14)
                if length == 0 or (flags & ~u64(_NEXT | _WRITE)) != 0:
                    return 0
                writes = flags & _WRITE
                hva = host(st, gpa, length, writes)
                if hva == 0:
                    return 0
                if writes != 0:
                    q.writable = q.writable + 1
                    q.writable_bytes = q.writable_bytes + length
                else:
                    if q.writable != 0:
                        return 0
                    q.readable = q.readable + 1
                    q.readable_bytes = q.readable_bytes + length
                q.parts[count].base = hva
                q.parts[count].length = length
                q.gpas[count] = gpa
                count += 1
                more = flags & _NEXT
            return 1

        @kernel(queue, result=U64, name="queue.next_head")
        def next_head(q: Any) -> Any:
            """Head of the next available chain; `size` when there is none, all ones when that is unusual."""
            waiting = (load16(q.avail + 2) - q.next_avail) & 0xFFFF
            if waiting == 0:
                return q.size
            if waiting > q.size or q.in_flight >= q.size:
                return NO_ADDRESS
            head = load16(q.avail + 4 + ((q.next_avail & (q.size - 1)) << 1))
            if head >= q.size:
                return NO_ADDRESS
            return head

        @kernel(queue, U64, U64, name="queue.put")
        def put(q: Any, head: Any, written_bytes: Any) -> None:
            """Put a chain into the used ring (2.7.8)."""
            at = q.used + 4 + ((q.next_used & (q.size - 1)) << 3)
            current().store(at.cast(U64), head | (written_bytes << 32), volatile=True)
            q.next_used = (q.next_used + 1) & 0xFFFF

        @kernel(pointer, queue, name="queue.publish", attributes="nounwind noinline")
        def publish(st: Any, q: Any) -> None:
            """Advance the used index; see whether the driver wants an interrupt for it (2.7.7)."""
            count = (q.next_used - q.published) & 0xFFFF
            if count == 0:
                return
            store16(q.used + 2, q.next_used)
            note(st, q.used_gpa, 4 + (q.size << 3))
            fence()
            wants: U64 = 0
            if q.event_index != 0:
                event = load16(q.avail + 4 + (q.size << 1))
                if (q.next_used - event - 1) & 0xFFFF < count:
                    wants = u64(1)
            elif (load16(q.avail.get()) & _NO_INTERRUPT) == 0:
                wants = u64(1)
            if wants != 0 and q.wants == 0:
                q.wants = 1
                q.wants_at = q.published
            q.published = q.next_used

        @kernel(queue, U64, result=U64, name="queue.ask")
        def ask(q: Any, ahead: Any) -> Any:
            """Ask for a kick at the buffer after `ahead` ones that were looked at; whether one is there already."""
            after = (q.next_avail + ahead) & 0xFFFF
            if q.event_index != 0:
                store16(q.used + 4 + (q.size << 3), after)
            else:
                store16(q.used.get(), u64(0))
            fence()
            return load16(q.avail + 2) != after

        @kernel(queue, name="queue.begin_again")
        def begin_again(q: Any) -> None:
            if q.event_index == 0:
                store16(q.used.get(), u64(_NO_NOTIFY))

        @kernel(queue, name="queue.begin")
        def begin(q: Any) -> None:
            """No kicks are needed from now on."""
            q.wants = 0
            q.served = 0
            if q.event_index == 0:
                store16(q.used.get(), u64(_NO_NOTIFY))

        # -- send queue ------------------------------------------------------------------------------------------------

        @kernel(pointer, queue, result=U64, name="queue.send_some")
        def send_some(st: Any, q: Any) -> Any:
            """Send until the queue is empty."""
            bytes_left: U64 = _BUDGET_BYTES
            while bytes_left != 0:
                head = next_head(q)
                if head == q.size:
                    return Status.DONE
                if head == NO_ADDRESS or walk(st, q, head) == 0:
                    return Status.UNUSUAL
                length = q.readable_bytes
                if q.writable != 0 or length <= NET_HEADER_BYTES or length > q.wanted_bytes:
                    return Status.UNUSUAL
                # What the network refuses is lost, as on a wire.
                system_call(_SYS_WRITEV, q.fd, parts_at(q, u64(0)), q.readable)
                put(q, head, u64(0))
                q.next_avail = (q.next_avail + 1) & 0xFFFF
                q.served = q.served + 1
                if q.served >= 4 * _BUDGET or bytes_left < length:
                    return Status.BUDGET
                bytes_left = bytes_left - length
            return Status.BUDGET

        @kernel(pointer, result=U64, name="queue.all_idle", attributes="nounwind noinline")
        def all_idle(st: Any) -> Any:
            """Whether every vCPU sleeps."""
            i: U64 = 0
            while i < st.peer_count:
                if current().load(st.peers.cast(U64)[i].cast(state).ref("idle"), volatile=True) == 0:
                    return 0
                i += 1
            return 1

        @kernel(pointer, queue, result=U64, name="queue.linger", attributes="nounwind noinline")
        def linger(st: Any, q: Any) -> Any:
            """Wait a moment for another buffer, unless nobody is awake to add one; 0 when none came."""
            b = current()
            start = b.intrinsic("llvm.readcyclecounter", U64)
            limit = q.linger_us * q.ticks_per_us
            while b.intrinsic("llvm.readcyclecounter", U64) - start < limit:
                if load16(q.avail + 2) != q.next_avail:
                    return 1
                if all_idle(st) != 0:
                    return 0
                b.asm("pause", "~{memory}", "void", [])
            return 0

        def serve(name: str, some: Kernel) -> Kernel:
            @kernel(pointer, U64, name=name, exported=True)
            def run(st: Any, at: Any) -> None:
                q = at.cast(QUEUE)
                begin(q)
                q.read_count = 0
                q.read_bytes = 0
                q.write_count = 0
                q.write_bytes = 0
                q.write_end = 0
                status = u64(Status.BUDGET)
                rounds: U64 = 0
                more: U64 = 1
                while more != 0 and rounds < _ROUNDS:
                    status = some(st, q)
                    while status == Status.DONE and q.linger_us != 0 and linger(st, q) != 0:
                        status = some(st, q)
                    publish(st, q)
                    more = u64(0)
                    if status == Status.DONE and ask(q, u64(0)) != 0:
                        begin_again(q)
                        status = u64(Status.BUDGET)
                        more = u64(1)
                    rounds += 1
                note_used(st, q)
                q.status = status

            return run

        self.send = serve("queue.send", send_some)

        quiet = make_quiet(state, interrupt)
        self.look_for_quiet = quiet.look

        @kernel(pointer, U64, result=U64, name="queue.take_kick", attributes="nounwind noinline")
        def take_kick(st: Any, gpa: Any) -> Any:
            """A vCPU wrote to `gpa`: when that kicks an open send queue, serve it at once.

            0 when the device must hear of the kick; then nothing was lost, it looks at the queue itself.
            """
            i: U64 = 0
            while i < st.kick_count:
                if st.kick_address[i] == gpa:
                    q = st.kick_queue[i].cast(QUEUE)
                    if q.receives != 0:
                        return 0
                    if take_gate(q) == 0:
                        return 0
                    quiet.before(q)
                    status = u64(Status.BUDGET)
                    rounds: U64 = 0
                    while status == Status.BUDGET and rounds < _ROUNDS:
                        begin_again(q)
                        q.served = 0
                        status = send_some(st, q)
                        publish(st, q)
                        if status == Status.DONE and ask(q, u64(0)) != 0:
                            status = u64(Status.BUDGET)
                        rounds += 1
                    note_used(st, q)
                    quiet.after(st, q)
                    late = (q.next_used - q.wants_at) & 0xFFFF > q.size >> 2
                    done = (status == Status.DONE) & ((q.wants == 0) | ((q.patient != 0) & (late ^ 1)))
                    give_gate(q)
                    return done.zext(64)
                i += 1
            return 0

        @kernel(pointer, U64, name="queue.close", exported=True)
        def close(_st: Any, at: Any) -> None:
            """Close a queue; returns when no vCPU holds it."""
            close_gate(at.cast(QUEUE))

        self.take_kick = take_kick
        self.close = close

        # -- disk ------------------------------------------------------------------------------------------------------

        @kernel(pointer, queue, U64, U64, result=U64, name="queue.disk_read", attributes="nounwind noinline")
        def disk_read(st: Any, q: Any, head: Any, sector: Any) -> Any:
            """A read from the page cache; 0 when it is unusual."""
            length = q.writable_bytes - 1
            if q.reads == 0 or q.readable_bytes != 16 or length == 0 or (length & 511) != 0:
                return 0
            sectors = length >> _SECTOR_SHIFT
            if sectors > q.capacity_sectors or sector > q.capacity_sectors - sectors:
                return 0
            offset = q.start_bytes + (sector << _SECTOR_SHIFT)
            count = q.writable - 1
            done = system_call(_SYS_PREADV2, q.fd, parts_at(q, u64(1)), count, offset, u64(0), u64(_RWF_NOWAIT))
            if done != length:
                return 0
            last = count + 1
            current().store(q.parts[last].base.cast(U8), 0, volatile=True)
            fence()
            i: U64 = 1
            while i <= last:
                note(st, q.gpas[i], q.parts[i].length)
                i += 1
            q.read_count = q.read_count + 1
            q.read_bytes = q.read_bytes + length
            put(q, head, length + 1)
            return 1

        @kernel(pointer, queue, U64, U64, result=U64, name="queue.disk_write", attributes="nounwind noinline")
        def disk_write(st: Any, q: Any, head: Any, sector: Any) -> Any:
            """A write to the page cache; 0 when it is unusual. The first sector is: the image may guard it."""
            length = q.readable_bytes - 16
            if q.writes == 0 or q.writable_bytes != 1 or length == 0 or (length & 511) != 0 or sector == 0:
                return 0
            sectors = length >> _SECTOR_SHIFT
            if sectors > q.capacity_sectors or sector > q.capacity_sectors - sectors or length > _MAX_WRITE_BYTES:
                return 0
            start = sector << _SECTOR_SHIFT
            last = q.readable.get()
            done = system_call(_SYS_PWRITEV, q.fd, parts_at(q, u64(1)), last - 1, q.start_bytes + start, u64(0))
            if done != length:
                return 0
            current().store(q.parts[last].base.cast(U8), 0, volatile=True)
            fence()
            note(st, q.gpas[last], u64(1))
            q.write_count = q.write_count + 1
            q.write_bytes = q.write_bytes + length
            end = start + length
            q.write_end = current().select(end > q.write_end, end, q.write_end)
            put(q, head, u64(1))
            return 1

        @kernel(pointer, queue, result=U64, name="queue.disk_some")
        def disk_some(st: Any, q: Any) -> Any:
            """Read and write until the queue is empty."""
            bytes_left: U64 = _BUDGET_BYTES
            while bytes_left != 0:
                head = next_head(q)
                if head == q.size:
                    return Status.DONE
                if head == NO_ADDRESS or walk(st, q, head) == 0 or q.readable == 0 or q.writable == 0:
                    return Status.UNUSUAL
                # A header of its own, and a status byte of its own.
                if q.parts[0].length != 16 or q.parts[q.readable + q.writable - 1].length != 1:
                    return Status.UNUSUAL
                header = q.parts[0].base
                kind = load32(header)
                sector = load64(header + 8)
                done: U64 = 0
                if kind == 0:
                    done = disk_read(st, q, head, sector)
                elif kind == 1:
                    done = disk_write(st, q, head, sector)
                if done == 0:
                    return Status.UNUSUAL
                q.next_avail = (q.next_avail + 1) & 0xFFFF
                q.served = q.served + 1
                length = q.readable_bytes + q.writable_bytes
                if q.served >= 4 * _BUDGET or bytes_left < length:
                    return Status.BUDGET
                bytes_left = bytes_left - length
            return Status.BUDGET

        self.disk = serve("queue.disk", disk_some)
        receiving = make_receive(state, RingKernels(host, note, note_used, put, publish, ask, begin_again))
        self.receive = receiving.receive
        arrival = make_arrival(state, receiving.batch, interrupt)
        self.arrive, self.arrived = arrival.arrive, arrival.arrived
