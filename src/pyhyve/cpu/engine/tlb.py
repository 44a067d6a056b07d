"""The tables of the software TLB: finding, displacing and forgetting entries.

Each vCPU has one direct-mapped table per translation index, and beside it a few *victims*: entries that another has
displaced. Entries that do not outlast a change of address space are in a log.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any

from pyhyve.cpu.engine.state import (
    NO_ADDRESS,
    PAGE_MASK,
    PAGE_SHIFT,
    TLB_BYTES,
    TLB_ENTRIES,
    TLB_ENTRY,
    TLB_VICTIMS,
    retag,
)
from pyhyve.cpu.lang import U64, Pointer, Struct, Value, current, inline, kernel, u64

if TYPE_CHECKING:
    from pyhyve.cpu.engine.jumps import Jumps


class Access(IntEnum):
    """What a translation is for."""

    READ = 0
    WRITE = 1
    FETCH = 2


class Tlb:
    """The kernels that keep the tables of `indexes` translation indexes."""

    def __init__(self, state: Struct, indexes: int, jumps: Jumps) -> None:
        pointer = Pointer(state)

        @kernel(pointer, U64, name="mmu.flush_index")
        def flush_index(st: Any, index: Any) -> None:
            current().fill_bytes(st.tlb_base.offset(index * TLB_BYTES), 0xFF, u64(TLB_BYTES))

        @kernel(pointer, name="mmu.flush_victims")
        def flush_victims(st: Any) -> None:
            current().fill_bytes(st.tlb_victims, 0xFF, u64(indexes * TLB_VICTIMS * TLB_ENTRY.size_bytes))

        @kernel(pointer, name="mmu.flush_all")
        def flush_all(st: Any) -> None:
            """Forget every translation, and every address looked up in the jump cache."""
            i: U64 = 0
            while i < indexes:
                flush_index(st, i)
                i += 1
            flush_victims(st)
            i = 0
            while i < st.tlb_log_count:
                st.tlb_marks[st.tlb_log[i]] = 0
                i += 1
            st.tlb_log_count = 0
            jumps.forget(st)
            st.count_flush = st.count_flush + 1

        @kernel(pointer, name="mmu.flush_local")
        def flush_local(st: Any) -> None:
            """Forget the translations that do not outlast a change of address space: those filled without `lasting`.

            They are in a log, so that this costs no more than filling them did.
            """
            i: U64 = 0
            while i < st.tlb_log_count:
                slot = st.tlb_log[i].zext(64)
                entry = st.tlb_base[slot]
                entry.read = NO_ADDRESS
                entry.write = NO_ADDRESS
                entry.fetch = NO_ADDRESS
                st.tlb_marks[slot] = 0
                i += 1
            st.tlb_log_count = 0
            flush_victims(st)
            st.local_generation = st.local_generation + 1
            if st.jump_local != 0:
                st.jump_local = 0
                st.generation = st.generation + 1
            retag(st)
            st.count_flush = st.count_flush + 1

        @kernel(pointer, U64, name="mmu.flush_page")
        def flush_page(st: Any, address: Any) -> None:
            """Forget the translations of the page of `address`."""
            i: U64 = 0
            while i < indexes:
                entry = entry_at(st, address, i)
                entry.read = NO_ADDRESS
                entry.write = NO_ADDRESS
                entry.fetch = NO_ADDRESS
                i += 1
            i = 0
            page = address & PAGE_MASK
            while i < indexes * TLB_VICTIMS:
                victim = st.tlb_victims[i]
                if victim.read == page or victim.write == page or victim.fetch == page:
                    invalidate_entry(victim)
                i += 1
            jumps.forget_page(st, address)

        @kernel(pointer, U64, result=U64, name="mmu.protect_code_page")
        def protect_code_page(st: Any, hva_page: Any) -> Any:
            """Make writes to the page at host address `hva_page` take the slow path; counts the fast ones lost."""
            found: U64 = 0
            i: U64 = 0
            while i < indexes * TLB_ENTRIES:
                entry = st.tlb_base[i]
                if entry.write != NO_ADDRESS and (entry.write + entry.addend) == hva_page:
                    entry.write = NO_ADDRESS
                    found += 1
                i += 1
            i = 0
            while i < indexes * TLB_VICTIMS:
                victim = st.tlb_victims[i]
                if victim.write != NO_ADDRESS and (victim.write + victim.addend) == hva_page:
                    victim.write = NO_ADDRESS
                    found += 1
                i += 1
            return found

        @kernel(pointer, U64, name="mmu.mark_local")
        def mark_local(st: Any, slot: Any) -> None:
            """Log the entry `slot` for `flush_local`."""
            if st.tlb_marks[slot] == 0:
                st.tlb_marks[slot] = 1
                st.tlb_log[st.tlb_log_count] = slot.trunc(16)
                st.tlb_log_count = st.tlb_log_count + 1

        @kernel(pointer, name="mmu.forget_writes", exported=True)
        def forget_writes(st: Any) -> None:
            """Make the next write to every page look it up. The vCPU stands still."""
            i: U64 = 0
            while i < indexes * TLB_ENTRIES:
                st.tlb_base[i].write = NO_ADDRESS
                i += 1
            i = 0
            while i < indexes * TLB_VICTIMS:
                st.tlb_victims[i].write = NO_ADDRESS
                i += 1

        @kernel(pointer, U64, U64, U64, result=U64, name="mmu.recall")
        def recall(st: Any, address: Any, access: Any, index: Any) -> Any:
            """Bring back the entry for `access`, if another has displaced it lately; 1 when it was found."""
            page = address & PAGE_MASK
            entry = entry_at(st, address, index)
            i: U64 = 0
            while i < TLB_VICTIMS:
                victim = st.tlb_victims[index * TLB_VICTIMS + i]
                tag = victim.read
                if access == Access.WRITE:
                    tag = victim.write
                elif access == Access.FETCH:
                    tag = victim.fetch
                if tag == page:
                    _swap_entries(entry, victim)
                    slot = slot_of(address, index)
                    was_local = st.tlb_marks[slot]
                    if st.tlb_victim_marks[index * TLB_VICTIMS + i] != 0:
                        mark_local(st, slot)
                    st.tlb_victim_marks[index * TLB_VICTIMS + i] = was_local
                    return 1
                i += 1
            return 0

        @kernel(pointer, U64, U64, name="mmu.displace")
        def displace(st: Any, page: Any, index: Any) -> None:
            """Keep the entry that is about to be filled for `page`, if it holds another."""
            entry = entry_at(st, page, index)
            held = entry.read & entry.write & entry.fetch
            if held != NO_ADDRESS and held != page:
                number = st.tlb_next_victim & (TLB_VICTIMS - 1)
                st.tlb_next_victim = number + 1
                victim = st.tlb_victims[index * TLB_VICTIMS + number]
                victim.read = entry.read
                victim.write = entry.write
                victim.addend = entry.addend
                victim.fetch = entry.fetch
                st.tlb_victim_marks[index * TLB_VICTIMS + number] = st.tlb_marks[slot_of(page, index)]
                invalidate_entry(entry)

        self.flush_all = flush_all
        self.flush_local = flush_local
        self.flush_page = flush_page
        self.forget_writes = forget_writes
        self.protect_code_page = protect_code_page
        self.mark_local = mark_local
        self.recall = recall
        self.displace = displace


@inline
def slot_of(address: Value, index: Value) -> Value:
    """Return the number of the entry for `address`, counted over the tables of all indexes."""
    return ((address >> PAGE_SHIFT) & (TLB_ENTRIES - 1)) + index * TLB_ENTRIES


@inline
def entry_at(st: Value, address: Value, index: Value) -> Value:
    """Return the entry for `address`, which may hold another page."""
    return st.tlb_base[slot_of(address, index)]


@inline
def invalidate_entry(entry: Value) -> None:
    """Make an entry match no address."""
    entry.read = NO_ADDRESS
    entry.write = NO_ADDRESS
    entry.fetch = NO_ADDRESS


@inline
def _swap_entries(a: Value, b: Value) -> None:
    for name in ("read", "write", "addend", "fetch"):
        first, second = getattr(a, name).get(), getattr(b, name).get()
        setattr(a, name, second)
        setattr(b, name, first)
