"""Which pages of guest memory are written, while somebody wants to know.

`dirty` is then the host address of a table with a byte for each RAM page (numbered through all regions), which is set
to 1; otherwise it is 0 and nothing is done. A vCPU marks a page when it looks it up for writing; it may write to it
from then on through its TLB, until `SoftMmu`'s `forget_writes` makes it look again. Who writes to memory in another way
marks the page afterwards, so that whoever takes a mark away and then reads the page misses nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.cpu.engine.state import NO_ADDRESS
from pyhyve.cpu.lang import U8, U64, Pointer, Struct, current, kernel

if TYPE_CHECKING:
    from pyhyve.cpu.engine.regions import Regions


class DirtyMarks:
    """The kernels that mark pages."""

    def __init__(self, state: Struct, regions: Regions) -> None:
        pointer = Pointer(state)

        @kernel(pointer, U64, name="dirty.mark", attributes="nounwind noinline")
        def mark(st: Any, page: Any) -> None:
            """Mark RAM page number `page`; nothing happens for NO_ADDRESS."""
            table = current().load(st.ref("dirty"), volatile=True)
            if table != 0 and page != NO_ADDRESS:
                current().store((table + page).cast(U8), 1, volatile=True)

        @kernel(pointer, U64, name="dirty.mark_host", attributes="nounwind noinline cold")
        def mark_host(st: Any, hva: Any) -> None:
            """Mark the page at host address `hva`."""
            mark(st, regions.page_index(st, regions.guest_address(st, hva)))

        self.mark = mark
        self.mark_host = mark_host
