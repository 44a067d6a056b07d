"""Several vCPUs over one memory: each hears when code it has translated is written by another.

A shared table says, for each RAM page, which vCPUs *own* translated code of it (a bit each). A page that anybody owns
has no fast write path anywhere. Messages go through a ring in each vCPU's state, and a request bit makes it look:

- a vCPU that becomes an owner tells the others to *protect* the page. One that had a fast path to it until then may
  have written meanwhile, so it answers as if it had.
- an instruction that writes to a page that others own runs alone in its block, and the others are told to drop their
  blocks of it right after: before anything that this vCPU writes, or any interrupt that it sends, after that.

A ring that is full asks its vCPU to forget all code instead; nobody ever waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.cpu.engine.state import (
    INVALIDATE_RING,
    NO_ADDRESS,
    PAGE_BYTES,
    PAGE_MASK,
    WRITTEN_PAGES,
    Request,
)
from pyhyve.cpu.lang import U64, Pointer, Struct, current, kernel, u64

if TYPE_CHECKING:
    from pyhyve.cpu.engine.blocks import Blocks
    from pyhyve.cpu.engine.regions import Regions

MESSAGE_PROTECT = 1
MESSAGE_VALID = 2
"""Low bits of a message; the others are the page's guest physical address."""


class Owners:
    """Which vCPUs hold code of a page; and the pages this vCPU wrote that others own."""

    def __init__(self, state: Struct, regions: Regions) -> None:
        pointer = Pointer(state)

        @kernel(pointer, U64, result=U64, name="sharing.owned")
        def owned(st: Any, page: Any) -> Any:
            """Owners of RAM page number `page`, this vCPU included."""
            return current().load(st.owners.cast(U64).offset(page * 8), volatile=True)

        @kernel(pointer, U64, name="sharing.release")
        def release(st: Any, page: Any) -> None:
            """This vCPU holds no code of the page any more."""
            current().atomic("and", st.owners.offset(page * 8), ~st.owner_bit)

        @kernel(pointer, U64, name="sharing.note_written", attributes="nounwind noinline cold")
        def note_written(st: Any, gpa: Any) -> None:
            """This vCPU writes to a page that others own: they are told when the block ends."""
            page = gpa & PAGE_MASK
            if st.written_count < WRITTEN_PAGES:
                if st.written_count == 0 or st.written[st.written_count - 1] != page:
                    st.written[st.written_count] = page
                    st.written_count = st.written_count + 1
            else:
                st.written_all = 1
            current().atomic("or", st.ref("request"), u64(Request.INVALIDATE).trunc(32))

        self.owned = owned
        self.release = release
        self.note_written = note_written


class Mailbox:
    """The ring that each vCPU gets its messages through."""

    def __init__(self, state: Struct) -> None:
        pointer = Pointer(state)

        @kernel(pointer, U64, name="sharing.post", exported=True)
        def post(target: Any, message: Any) -> None:
            """Put a message into the ring of the vCPU whose state is `target`. Any thread."""
            b = current()
            head = b.load(target.ref("invalidate_head"), volatile=True)
            taken: U64 = 0
            while taken == 0:
                if head - b.load(target.ref("invalidate_tail"), volatile=True) >= INVALIDATE_RING:
                    b.atomic("or", target.ref("request"), u64(Request.FORGET).trunc(32))
                    return
                if b.compare_exchange(target.ref("invalidate_head"), head, head + 1):
                    taken = u64(1)
                else:
                    head = b.load(target.ref("invalidate_head"), volatile=True)
            slot = target.invalidate_ring.offset((head & (INVALIDATE_RING - 1)) * 8)
            b.store(slot, message | MESSAGE_VALID, volatile=True)
            b.atomic("or", target.ref("request"), u64(Request.INVALIDATE).trunc(32))

        self.post = post


class Sharing:
    """Sending and handling messages."""

    def __init__(
        self, state: Struct, regions: Regions, owners: Owners, mailbox: Mailbox, blocks: Blocks, protect: Any
    ) -> None:
        pointer = Pointer(state)
        post = mailbox.post

        @kernel(pointer, U64, U64, name="sharing.tell", attributes="nounwind noinline")
        def tell(st: Any, message: Any, whom: Any) -> None:
            """Post to the other vCPUs whose bits are set in `whom`."""
            i: U64 = 0
            while i < st.peer_count:
                if ((whom & ~st.owner_bit) >> i) & 1 != 0:
                    post(st.peers.cast(U64)[i].cast(state), message)
                i += 1

        @kernel(pointer, U64, U64, name="sharing.claim")
        def claim(st: Any, gpa: Any, host_page: Any) -> None:
            """This vCPU is about to hold code of the page at `gpa`, which is at `host_page` in host memory."""
            page = regions.page_index(st, gpa)
            if page == NO_ADDRESS or (owners.owned(st, page) & st.owner_bit) != 0:
                return
            current().atomic("or", st.owners.offset(page * 8), st.owner_bit)
            protect(st, host_page)
            tell(st, (gpa & PAGE_MASK) | MESSAGE_PROTECT, u64(NO_ADDRESS))

        @kernel(pointer, name="sharing.flush_written", attributes="nounwind noinline cold")
        def flush_written(st: Any) -> None:
            """Tell the owners of the pages written since the last time."""
            if st.written_all != 0:
                # Too many to remember: everybody forgets everything.
                i: U64 = 0
                while i < st.peer_count:
                    if ((~st.owner_bit) >> i) & 1 != 0:
                        peer = st.peers.cast(U64)[i].cast(state)
                        current().atomic("or", peer.ref("request"), u64(Request.FORGET).trunc(32))
                    i += 1
            n: U64 = 0
            while n < st.written_count:
                gpa = st.written[n]
                tell(st, gpa, owners.owned(st, regions.page_index(st, gpa)))
                n += 1
            st.written_count = 0
            st.written_all = 0

        @kernel(pointer, name="sharing.drain", attributes="nounwind noinline cold")
        def drain(st: Any) -> None:
            """Handle the messages in this vCPU's ring, then send what is due."""
            b = current()
            while st.invalidate_tail != b.load(st.ref("invalidate_head"), volatile=True):
                slot = st.invalidate_ring.offset((st.invalidate_tail & (INVALIDATE_RING - 1)) * 8)
                message = b.load(slot, volatile=True)
                while message == 0:
                    # Its place is taken, but it is not written yet.
                    message = b.load(slot, volatile=True)
                b.store(slot, 0, volatile=True)
                st.invalidate_tail = st.invalidate_tail + 1
                gpa = message & PAGE_MASK
                if regions.page_index(st, gpa) != NO_ADDRESS:
                    if (message & MESSAGE_PROTECT) == 0:
                        blocks.invalidate(st, gpa, u64(PAGE_BYTES))
                    elif protect(st, regions.host_address(st, gpa)) != 0:
                        owners.note_written(st, gpa)
            if st.written_count != 0:
                flush_written(st)

        self.claim = claim
        self.drain = drain
