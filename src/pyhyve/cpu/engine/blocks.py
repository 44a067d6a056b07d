"""Translated blocks: finding them by guest address, and dropping them when the code they came from changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.cpu.engine.state import BLOCK, HASH_ENTRIES, NO_ADDRESS, PAGE_BYTES, PAGE_MASK, PAGE_SHIFT
from pyhyve.cpu.lang import U8, U32, U64, Pointer, Struct, Value, inline, kernel, u64

if TYPE_CHECKING:
    from pyhyve.cpu.engine.jumps import Jumps
    from pyhyve.cpu.engine.regions import Regions
    from pyhyve.cpu.engine.sharing import Owners

_JUMP = 0xE9
DEAD_MODE = NO_ADDRESS
"""`mode` of a dropped block: matches no lookup."""


class Blocks:
    """Kernels over the block array, its hash table and the per-page lists."""

    def __init__(self, state: Struct, regions: Regions, owners: Owners, jumps: Jumps) -> None:
        pointer = Pointer(state)
        page_index = regions.page_index
        release = owners.release

        @kernel(U64, U64, name="blocks.write_jump")
        def write_jump(at: Any, target: Any) -> None:
            """Make the host code at `at` a 5-byte `jmp target`."""
            at.cast(U8)[0] = _JUMP
            (at + 1).cast(U32)[0] = (target - (at + 5)).trunc(32)

        @kernel(pointer, U64, U64, result=Pointer(BLOCK), name="blocks.find")
        def find(st: Any, gpa: Any, mode: Any) -> Any:
            """The block of `gpa` at the current `pc` in `mode`, or null. Its second page is the caller's to check."""
            index = st.hash_table[_hash(gpa)]
            while index != 0:
                block = st.block_table[index]
                if block.gpa == gpa and block.mode == mode and block.pc == st.pc:
                    return block
                index = block.hash_next
            return _null(st)

        @kernel(pointer, U64, result=Pointer(BLOCK), name="blocks.add")
        def add(st: Any, mode: Any) -> Any:
            """Register a block at `block_gpa` of `block_length` bytes; its code address is the caller's to fill in."""
            number = st.block_count.trunc(32)
            st.block_count = st.block_count + 1
            block = st.block_table[number]
            block.pc = st.pc
            block.mode = mode
            block.gpa = st.block_gpa
            block.gpa2 = st.block_gpa2
            block.length = st.block_length.trunc(32)
            slot = _hash(st.block_gpa)
            block.hash_next = st.hash_table[slot]
            st.hash_table[slot] = number
            page = page_index(st, st.block_gpa)
            if page != NO_ADDRESS:
                block.page_next = st.page_blocks[page]
                st.page_blocks[page] = number
                st.page_code[page] = st.page_code[page] | _first_lines(block)
            if st.block_gpa2 != NO_ADDRESS:
                page2 = page_index(st, st.block_gpa2)
                if page2 != NO_ADDRESS:
                    block.page2_next = st.page_blocks[page2]
                    st.page_blocks[page2] = number
                    st.page_code[page2] = st.page_code[page2] | _second_lines(block)
            return block

        @kernel(pointer, U64, U64, name="blocks.invalidate", attributes="nounwind noinline cold")
        def invalidate(st: Any, gpa: Any, size: Any) -> None:
            """Drop every block that overlaps `[gpa, gpa + size)`, a range within one page."""
            page = page_index(st, gpa)
            frame = gpa & PAGE_MASK
            first = gpa & (PAGE_BYTES - 1)
            last = first + size
            kept: U32 = 0
            lines: U64 = 0
            number = st.page_blocks[page]
            while number != 0:
                block = st.block_table[number]
                here = (block.gpa & PAGE_MASK) == frame
                following = block.page_next
                if not here:
                    following = block.page2_next
                start = block.gpa & (PAGE_BYTES - 1)
                end = start + block.length.zext(64)
                if not here:
                    end = end - PAGE_BYTES
                    start = u64(0)
                if block.mode == DEAD_MODE or (start < last and first < end):
                    if block.mode != DEAD_MODE:
                        block.mode = DEAD_MODE
                        jumps.drop(st, block.pc, block.code)
                        if block.leave != 0:
                            write_jump(block.code, block.leave)
                else:
                    if here:
                        block.page_next = kept
                        lines = lines | _first_lines(block)
                    else:
                        block.page2_next = kept
                        lines = lines | _second_lines(block)
                    kept = number
                number = following
            st.page_blocks[page] = kept
            st.page_code[page] = lines
            if lines == 0:
                release(st, page)

        self.write_jump = write_jump
        self.is_dropped = _is_jump
        self.find = find
        self.add = add
        self.invalidate = invalidate


@inline
def _is_jump(code: Value) -> Value:
    return code.cast(U8)[0] == _JUMP


@inline
def _hash(gpa: Value) -> Value:
    return (gpa ^ (gpa >> PAGE_SHIFT) ^ (gpa >> 24)) & (HASH_ENTRIES - 1)


@inline
def _null(st: Value) -> Value:
    return st.builder.value(0, Pointer(BLOCK))


@inline
def _lines(first: Value, last: Value) -> Value:
    """Bit i for each 64-byte line i of a page from that of byte `first` to that of byte `last`."""
    return (u64(NO_ADDRESS) << (first >> 6)) & (u64(NO_ADDRESS) >> (63 - (last >> 6)))


@inline
def _first_lines(block: Value) -> Value:
    start = block.gpa & (PAGE_BYTES - 1)
    last = start + block.length.zext(64) - 1
    if last > PAGE_BYTES - 1:
        last = u64(PAGE_BYTES - 1)
    return _lines(start, last)


@inline
def _second_lines(block: Value) -> Value:
    last = (block.gpa & (PAGE_BYTES - 1)) + block.length.zext(64) - 1 - PAGE_BYTES
    return _lines(last * 0, last)


__all__ = ["DEAD_MODE", "Blocks"]
