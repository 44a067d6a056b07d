"""The jump cache: from guest code addresses to host code, for jumps whose target is not known when they are compiled.

Each address has two places. Compiled code looks at the first itself, the kernels here at both. An entry counts only
while its tag is `lookup_tag`, so that whole address spaces are forgotten by changing a number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.cpu.engine.state import JUMP_PAGES, NO_ADDRESS, PAGE_SHIFT, jump_slot, retag
from pyhyve.cpu.lang import U64, Pointer, Struct, current, kernel, u64

if TYPE_CHECKING:
    from pyhyve.cpu.lang import Value


def jump_entry(st: Value, pc: Value, way: int = 0) -> Value:
    """One of the two places of `pc`."""
    return st.jump_cache[jump_slot(pc) ^ way]


class Jumps:
    """The kernels over the jump cache."""

    def __init__(self, state: Struct) -> None:
        pointer = Pointer(state)

        @kernel(pointer, U64, result=U64, name="jumps.find", attributes="nounwind noinline")
        def find(st: Any, pc: Any) -> Any:
            """Host code for guest address `pc`, 0 when it is not here. It gets the first place."""
            first = jump_entry(st, pc)
            if first.pc == pc and first.tag == st.lookup_tag:
                return first.code
            second = jump_entry(st, pc, 1)
            if second.pc == pc and second.tag == st.lookup_tag:
                _swap(first, second)
                return first.code
            return 0

        @kernel(pointer, U64, U64, name="jumps.keep")
        def keep(st: Any, pc: Any, code: Any) -> None:
            """Put `pc` into the first of its places."""
            st.jump_pages[(pc >> PAGE_SHIFT) & (JUMP_PAGES - 1)] = 1
            first = jump_entry(st, pc)
            _swap(first, jump_entry(st, pc, 1))
            first.pc = pc
            first.tag = st.lookup_tag
            first.code = code

        @kernel(pointer, U64, U64, name="jumps.drop")
        def drop(st: Any, pc: Any, code: Any) -> None:
            """Forget that `pc` leads to `code`, whatever the tag."""
            for way in range(2):
                entry = jump_entry(st, pc, way)
                if entry.code == code:
                    entry.pc = NO_ADDRESS

        @kernel(pointer, name="jumps.forget")
        def forget(st: Any) -> None:
            """Forget every address."""
            current().fill_bytes(st.jump_pages, 0, u64(JUMP_PAGES))
            st.jump_local = 0
            st.generation = st.generation + 1
            retag(st)

        @kernel(pointer, U64, name="jumps.forget_page")
        def forget_page(st: Any, address: Any) -> None:
            """Forget the addresses on a page, and everything else with them when there are any."""
            if st.jump_pages[(address >> PAGE_SHIFT) & (JUMP_PAGES - 1)] != 0:
                forget(st)

        self.find = find
        self.keep = keep
        self.drop = drop
        self.forget = forget
        self.forget_page = forget_page


def _swap(a: Value, b: Value) -> None:
    for name in ("pc", "tag", "code"):
        first, second = getattr(a, name).get(), getattr(b, name).get()
        setattr(a, name, second)
        setattr(b, name, first)


__all__ = ["Jumps", "jump_entry"]
