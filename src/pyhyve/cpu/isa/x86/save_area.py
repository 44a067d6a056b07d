"""Reaching the memory of FXSAVE, XSAVE and their counterparts: alignment, limits, wrapping, and the order of faults.

An area is given by the offset of its start in the segment `ea_segment`, in 64-bit mode by its linear address. Its parts
are `distance` bytes further, where addresses of `address_bits` wrap around.
"""

from __future__ import annotations

from typing import Any

from pyhyve.cpu.engine.state import PAGE_BYTES
from pyhyve.cpu.engine.tlb import Access
from pyhyve.cpu.isa.x86 import faults
from pyhyve.cpu.isa.x86.addressing import operand_linear
from pyhyve.cpu.isa.x86.memory import TLB_USER_ALIGNED, current_index, load, mmu, store
from pyhyve.cpu.isa.x86.paging import check_canonical
from pyhyve.cpu.isa.x86.state import STATE
from pyhyve.cpu.lang import U64, Pointer, inline, kernel, u64

POINTER = Pointer(STATE)


@kernel(POINTER, U64, U64, result=U64, name="save_area.start", attributes="nounwind noinline")
def start(st: Any, offset: Any, alignment: Any) -> Any:
    """Linear address of an area, or stopped with a fault.

    The limit is checked for the first doubleword, then the alignment: #GP(0), or #AC where alignment is checked and not
    even that of a doubleword is met, which the manual leaves to processors (SDM Vol. 2A, FXSAVE).
    """
    address = operand_linear(st, offset, 4, 0)
    if st.stop != 0:
        return 0
    check_canonical(st, address)
    if st.stop != 0:
        return 0
    if (address & (alignment - 1)) != 0:
        if ((st.mode >> 8) & 3) == TLB_USER_ALIGNED and (address & 3) != 0:
            faults.ac(st)
        else:
            faults.gp(st)
        return 0
    return address


@kernel(POINTER, U64, U64, U64, U64, U64, result=U64, name="save_area.part", attributes="nounwind noinline")
def part(st: Any, offset: Any, distance: Any, size: Any, address_bits: Any, write: Any) -> Any:
    """Linear address of the `size` bytes at `distance`; may fault.

    In 64-bit mode `offset` is linear, and a segment with a base is taken not to wrap.
    """
    end = offset + distance
    if address_bits == 16:
        end = end & 0xFFFF
    elif address_bits == 32 and (offset >> 32) == 0:
        end = end & 0xFFFFFFFF
    return operand_linear(st, end, size, write)


@kernel(POINTER, U64, U64, U64, name="save_area.try_write", attributes="nounwind noinline")
def try_write(st: Any, offset: Any, distance: Any, address_bits: Any) -> None:
    """Fault if the byte at `distance` could not be written."""
    address = part(st, offset, distance, u64(1), address_bits, 1)
    if st.stop == 0:
        mmu.probe_write(st, address, 1, current_index(st))


@kernel(POINTER, U64, U64, U64, name="save_area.try_read", attributes="nounwind noinline")
def try_read(st: Any, offset: Any, distance: Any, address_bits: Any) -> None:
    """Fault if the byte at `distance` could not be read."""
    address = part(st, offset, distance, u64(1), address_bits, 0)
    if st.stop == 0:
        mmu.load_at(st, address, 1, current_index(st))


@inline
def _is_whole(st: Any, offset: Any, address: Any, size: Any, address_bits: Any) -> Any:
    """Whether `size` bytes at linear `address` are in one page, without a wrap."""
    last = part(st, offset, size - 1, u64(1), address_bits, 0)
    return (st.stop == 0) & (last - address == size - 1) & ((address & (PAGE_BYTES - 1)) + size <= PAGE_BYTES)


@kernel(POINTER, U64, U64, U64, U64, result=U64, name="save_area.plain_target", attributes="nounwind noinline")
def plain_target(st: Any, offset: Any, address: Any, size: Any, address_bits: Any) -> Any:
    """Host address of an area of `size` bytes that may be written directly, else 0; may fault."""
    if not _is_whole(st, offset, address, size, address_bits):
        return 0
    return mmu.probe_write(st, address, size, current_index(st))


@kernel(POINTER, U64, U64, U64, U64, result=U64, name="save_area.plain_source", attributes="nounwind noinline")
def plain_source(st: Any, offset: Any, address: Any, size: Any, address_bits: Any) -> Any:
    """Host address of an area of `size` bytes that may be read directly, else 0; may fault."""
    if not _is_whole(st, offset, address, size, address_bits):
        return 0
    return mmu.fill(st, address, Access.READ, current_index(st))


@kernel(POINTER, U64, U64, U64, U64, U64, name="save_area.load_words", attributes="nounwind noinline")
def load_words(st: Any, offset: Any, first: Any, count: Any, address_bits: Any, buffer: Any) -> None:
    """Copy `count` words of 8 bytes, from number `first` on, to their places in `buffer`; may fault."""
    i = first
    while i < first + count:
        address = part(st, offset, i * 8, u64(8), address_bits, 0)
        if st.stop != 0:
            return
        word = load(st, address, 8)
        if st.stop != 0:
            return
        buffer.cast(U64)[i] = word
        i += 1


@kernel(POINTER, U64, U64, U64, U64, U64, name="save_area.store_words", attributes="nounwind noinline")
def store_words(st: Any, offset: Any, first: Any, count: Any, address_bits: Any, buffer: Any) -> None:
    """Copy `count` words of 8 bytes, from number `first` on, from their places in `buffer`; may fault."""
    i = first
    while i < first + count:
        address = part(st, offset, i * 8, u64(8), address_bits, 1)
        if st.stop != 0:
            return
        store(st, address, 8, buffer.cast(U64)[i])
        if st.stop != 0:
            return
        i += 1
