"""The part of a vCPU's state that the engine owns, whatever the instruction set.

One structure in shared host memory holds everything compiled code touches. The instruction set puts its hottest
registers first, then calls `add_engine_fields`.
"""

from __future__ import annotations

from enum import IntEnum

from pyhyve.cpu.lang import U8, U16, U32, U64, Array, Pointer, Struct, Value, inline

TLB_ENTRIES = 1024
TLB_ENTRY_SHIFT = 5
TLB_VICTIMS = 8
"""Entries a translation index keeps of those that others displaced."""
TLB_BYTES = TLB_ENTRIES << TLB_ENTRY_SHIFT
_JUMP_CACHE_SHIFT = 14
JUMP_CACHE_ENTRIES = 1 << _JUMP_CACHE_SHIFT
JUMP_PAGES = 4096
"""Marks of pages, by number modulo this, that the jump cache may hold addresses of."""
PAGE_SHIFT = 12
PAGE_BYTES = 1 << PAGE_SHIFT
PAGE_MASK = (1 << 64) - PAGE_BYTES
MAX_REGIONS = 32
MAX_ACCESSES = 128
"""Device accesses that one instruction, or the delivery of one event, may make."""


INVALIDATE_RING = 256
"""Messages that a vCPU's ring holds; a power of two."""
KICK_QUEUES = 32
"""Queues whose kicks compiled code can serve (`virtqueue`)."""
LISTEN_QUEUES = 16
"""Receive queues whose packets a vCPU that sleeps takes by itself (`virtqueue_arrival`)."""
WRITTEN_PAGES = 8
"""Pages written in one block that a vCPU remembers for the others."""
WATCHPOINTS = 4
WATCH_WRITE, WATCH_READ = 1, 2
"""Bits of `watch_kind`. While `watch_on` is set, pages with a watched byte stay out of the TLB, so that every access to
them takes the slow path, which records a match in `watch_hits` (bit i for watchpoint i)."""


class Stop(IntEnum):
    """Why compiled code returned to the dispatcher (`stop`)."""

    NONE = 0
    EVENT = 1
    """A guest exception is pending in the state."""
    EXIT = 2
    """Leave guest mode: `exit_*` says why."""
    SINGLE = 3
    """Run the instruction at `pc` again, alone in its block (it writes the code it stands in)."""


class Request(IntEnum):
    """Bits of `request`: what other threads, or the guest itself, ask of a vCPU at its next block."""

    KICK = 1
    INTERRUPT = 2
    NMI = 4
    INVALIDATE = 8
    """Host-side writes hit pages that hold translated code: see `invalidate_*`."""
    FORGET = 16
    """So many of them that all translated code must go."""


TLB_ENTRY = Struct("TlbEntry").add("read", U64).add("write", U64).add("addend", U64).add("fetch", U64)
"""Tags are page addresses (all ones when invalid); `addend` turns a guest virtual into a host address."""

JUMP_ENTRY = Struct("JumpEntry").add("pc", U64).add("tag", U64).add("code", U64).add("pad", U64)

REGION = Struct("Region").add("gpa", U64).add("length", U64).add("hva", U64).add("readonly", U64).add("first_page", U64)
"""Guest memory: `first_page` numbers its pages among all regions' pages, for the per-page tables."""

BLOCK = (
    Struct("Block")
    .add("pc", U64)
    .add("mode", U64)
    .add("gpa", U64)
    .add("gpa2", U64)
    .add("code", U64)
    .add("leave", U64)
    .add("length", U32)
    .add("hash_next", U32)
    .add("page_next", U32)
    .add("page2_next", U32)
)
"""A translated block: its guest addresses (`gpa2` is the second page's, or all ones), its host code, the address of
its exit stub, and the links of the lists it is in (indexes into the block array; 0 ends a list)."""

UOP = (
    Struct("Uop")
    .add("stencil", U32)
    .add("attributes", U32)
    .add("pc", U64)
    .add("npc", U64)
    .add("v0", U64)
    .add("v1", U64)
    .add("v2", U64)
    .add("v3", U64)
    .add("taken", U64)
)
"""One stencil instance: its operands, the guest addresses of its instruction and the next, and the index of the uop
that the symbol TAKEN stands for."""

MAX_UOPS = 320
HASH_ENTRIES = 1 << 16
MAX_BLOCKS = 1 << 19


def add_engine_fields(state: Struct) -> Struct:
    """Append the engine's fields."""
    state.add("pc", U64)
    state.add("stop", U32).add("request", U32)
    state.add("deferred", U32).add("deferred_pad", U32)
    state.add("lookup_tag", U64)
    state.add("link_stub", U64).add("link_site", U64).add("left_block", U64)
    state.add("mode", U64).add("generation", U64).add("local_generation", U64)
    state.add("tag_local", U64).add("jump_local", U64)
    state.add("jump_cache", Pointer(JUMP_ENTRY)).add("jump_pages", Pointer(U8))
    state.add("tlb", Pointer(TLB_ENTRY)).add("tlb_base", Pointer(TLB_ENTRY))
    state.add("tlb_victims", Pointer(TLB_ENTRY)).add("tlb_victim_marks", Pointer(U8)).add("tlb_next_victim", U64)
    state.add("tlb_marks", Pointer(U8)).add("tlb_log", Pointer(U16)).add("tlb_log_count", U64)
    state.add("walk_lasting", U64)
    state.add("dirty", U64)
    state.add("single", U64)
    state.add("exit_kind", U32).add("exit_size", U32).add("exit_write", U32).add("exit_pad", U32)
    state.add("exit_address", U64).add("exit_value", U64)
    state.add("access_done", U64).add("access_next", U64).add("access_values", Array(U64, MAX_ACCESSES))
    state.add("regions", Array(REGION, MAX_REGIONS)).add("region_count", U64)
    state.add("block_count", U64).add("block_table", Pointer(BLOCK)).add("hash_table", Pointer(U32))
    state.add("page_blocks", Pointer(U32)).add("page_code", Pointer(U64))
    state.add("cache_start", U64).add("cache_next", U64).add("cache_end", U64)
    state.add("templates", Pointer(U32)).add("template_code", U64).add("template_relocations", U64)
    state.add("helpers", Pointer(U64))
    state.add("invalidate_head", U64).add("invalidate_tail", U64).add("invalidate_ring", Array(U64, INVALIDATE_RING))
    state.add("owner_bit", U64).add("owners", Pointer(U64)).add("peers", Pointer(U64)).add("peer_count", U64)
    state.add("written_count", U64).add("written_all", U64).add("written", Array(U64, WRITTEN_PAGES))
    state.add("uops", Array(UOP, MAX_UOPS)).add("hot_address", Array(U64, MAX_UOPS + 1))
    state.add("count_translated", U64).add("count_entered", U64).add("count_fill", U64).add("count_flush", U64)
    state.add("step", U64).add("step_from", U64)
    state.add("event_waits", U64)
    state.add("idle", U64).add("sleeps", U32).add("asleep", U32).add("rests", U64)
    state.add("poll_fd", U64).add("wake_fd", U64).add("listen_count", U64)
    state.add("listen_fd", Array(U64, LISTEN_QUEUES)).add("listen_queue", Array(U64, LISTEN_QUEUES))
    state.add("listen_help", Array(U64, LISTEN_QUEUES)).add("quiet_at", U64)
    state.add("kick_address", Array(U64, KICK_QUEUES)).add("kick_queue", Array(U64, KICK_QUEUES)).add("kick_count", U64)
    state.add("watch_on", U64).add("watch_hits", U64)
    state.add("watch_address", Array(U64, WATCHPOINTS)).add("watch_length", Array(U64, WATCHPOINTS))
    state.add("watch_kind", Array(U64, WATCHPOINTS))
    state.add("bounce", Array(U64, 8), align_bytes=16)
    state.add("bounce_size", U64).add("bounce_address", U64).add("bounce_index", U64)
    state.add("block_gpa", U64).add("block_gpa2", U64).add("block_length", U64).add("block_leave", U64)
    return state


MIDST = (
    "stop", "request", "deferred", "link_stub", "left_block", "single", "access_done", "access_next", "event_waits",
    "written_count", "written_all",
)  # fmt: skip
"""Fields that say what a vCPU is in the midst of: all zero, it is at `pc` and nothing is asked of it."""
NO_ADDRESS = (1 << 64) - 1


@inline
def jump_slot(pc: Value) -> Value:
    """Index of `pc` in the jump cache."""
    return (pc ^ (pc >> _JUMP_CACHE_SHIFT)) & (JUMP_CACHE_ENTRIES - 1)


@inline
def retag(st: Value) -> None:
    """Recompute `lookup_tag`, which entries of the jump cache must match: the mode, and how often the TLB was flushed.

    While `tag_local` is all ones (else 0), code is taken to be on pages that `mmu.flush_local` drops.
    """
    st.lookup_tag = st.mode | ((st.generation + (st.local_generation & st.tag_local)) << 32)


__all__ = [
    "BLOCK",
    "HASH_ENTRIES",
    "JUMP_CACHE_ENTRIES",
    "JUMP_ENTRY",
    "MAX_ACCESSES",
    "MAX_BLOCKS",
    "MAX_REGIONS",
    "MAX_UOPS",
    "MIDST",
    "NO_ADDRESS",
    "PAGE_BYTES",
    "PAGE_MASK",
    "PAGE_SHIFT",
    "REGION",
    "TLB_BYTES",
    "TLB_ENTRIES",
    "TLB_ENTRY",
    "TLB_ENTRY_SHIFT",
    "TLB_VICTIMS",
    "UOP",
    "Request",
    "Stop",
    "add_engine_fields",
]
