"""Guest physical memory as compiled code sees it: the state's table of regions."""

from __future__ import annotations

from typing import Any

from pyhyve.cpu.engine.state import NO_ADDRESS, PAGE_SHIFT
from pyhyve.cpu.lang import U64, Pointer, Struct, Value, inline, kernel


class Regions:
    """Kernels that search the region table of one state layout."""

    def __init__(self, state: Struct) -> None:
        pointer = Pointer(state)

        @kernel(pointer, U64, result=U64, name="regions.host_address")
        def host_address(st: Any, gpa: Any) -> Any:
            """Host address of a guest physical one, 0 when no memory is there."""
            i: U64 = 0
            while i < st.region_count:
                region = _region(st, i)
                offset = gpa - region.gpa
                if offset < region.length:
                    return region.hva + offset
                i += 1
            return 0

        @kernel(pointer, U64, result=U64, name="regions.page_index")
        def page_index(st: Any, gpa: Any) -> Any:
            """Number of the RAM page that holds `gpa`, NO_ADDRESS when none does or it is read-only."""
            i: U64 = 0
            while i < st.region_count:
                region = _region(st, i)
                offset = gpa - region.gpa
                if offset < region.length:
                    return region.first_page + (offset >> PAGE_SHIFT)
                i += 1
            return NO_ADDRESS

        @kernel(pointer, U64, result=U64, name="regions.is_readonly")
        def is_readonly(st: Any, gpa: Any) -> Any:
            i: U64 = 0
            while i < st.region_count:
                region = _region(st, i)
                if gpa - region.gpa < region.length:
                    return region.readonly
                i += 1
            return 0

        @kernel(pointer, U64, result=U64, name="regions.guest_address")
        def guest_address(st: Any, hva: Any) -> Any:
            """Guest physical address of a host one, NO_ADDRESS when it is not guest memory."""
            i: U64 = 0
            while i < st.region_count:
                region = _region(st, i)
                offset = hva - region.hva
                if offset < region.length:
                    return region.gpa + offset
                i += 1
            return NO_ADDRESS

        self.host_address = host_address
        self.page_index = page_index
        self.is_readonly = is_readonly
        self.guest_address = guest_address


@inline
def _region(st: Value, index: Value) -> Value:
    return st.regions[index]
