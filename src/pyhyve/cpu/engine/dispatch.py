"""The dispatcher: runs blocks, and between them does what compiled code cannot: look-ups, translation, events.

`run` is the one entry from Python. It comes back only when the machine is needed (`exit_*` says for what).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyhyve.cpu.engine.sharing import Sharing
from pyhyve.cpu.engine.state import (
    BLOCK,
    HASH_ENTRIES,
    MAX_BLOCKS,
    NO_ADDRESS,
    PAGE_BYTES,
    PAGE_MASK,
    PAGE_SHIFT,
    TLB_ENTRIES,
    Request,
    Stop,
    retag,
)
from pyhyve.cpu.engine.stitch import make_stitch
from pyhyve.cpu.engine.tlb import Access
from pyhyve.cpu.lang import U32, U64, Pointer, Struct, current, kernel, u32, u64

if TYPE_CHECKING:
    from pyhyve.cpu.engine.blocks import Blocks
    from pyhyve.cpu.engine.regions import Regions
    from pyhyve.cpu.engine.sharing import Mailbox, Owners
    from pyhyve.cpu.engine.softmmu import SoftMmu
    from pyhyve.cpu.lang import Kernel

_BLOCK_ROOM = 1 << 17
"""Bytes of code cache that one block may need."""
EXIT_INTERNAL_ERROR = 9
EXIT_KICKED = 3


@dataclass(frozen=True, slots=True)
class IsaKernels:
    """What an instruction set gives the dispatcher; each takes the state first.

    `linear_pc` -> linear address of the next instruction; `fetch_index` -> translation index of fetches;
    `block_mode` -> what code translated now depends on beside its bytes: `mode`, and more above its 32 bits;
    `translate_block(single)` -> uop count; `deliver`: take the pending event, or leave it pending with
    `event_waits` and an exit; `service` -> 1 to leave guest mode;
    `resume`: make requests that were set aside effective again, if they can be;
    `before_single` -> a token for `after_single(token)`, around each block of a single instruction;
    `wants_single` -> 1 when the next instruction must be alone in its block.
    """

    linear_pc: Kernel
    fetch_index: Kernel
    block_mode: Kernel
    translate_block: Kernel
    deliver: Kernel
    service: Kernel
    resume: Kernel
    before_single: Kernel
    after_single: Kernel
    wants_single: Kernel
    single_bit: int


class Dispatcher:
    """The kernels that run one instruction set's guests."""

    def __init__(
        self,
        state: Struct,
        mmu: SoftMmu,
        blocks: Blocks,
        regions: Regions,
        owners: Owners,
        mailbox: Mailbox,
        isa: IsaKernels,
    ) -> None:
        pointer = Pointer(state)
        stitch = make_stitch(state)
        sharing = Sharing(state, regions, owners, mailbox, blocks, mmu.tlb.protect_code_page)
        self.drain_messages = sharing.drain

        @kernel(pointer, U64, name="dispatch.enter", attributes="nounwind noinline noredzone")
        def enter(st: Any, code: Any) -> None:
            """Run compiled code at `code` until it returns.

            Its stencils keep no frame and expect a 16-byte aligned stack pointer after the call; every register but
            the stack's is theirs.
            """
            current().asm(
                "pushq %rbp; pushq %rbx; movq %rsp, %rbp; andq $$-16, %rsp; subq $$8, %rsp; movq %rbp, (%rsp); "
                "callq *%rdx; movq (%rsp), %rsp; popq %rbx; popq %rbp",
                "{r12},{r13},{r14},{rdx},~{rax},~{rcx},~{rsi},~{rdi},~{r8},~{r9},~{r10},~{r11},~{r15},~{rdx},~{r12},~{r13},~{r14},"
                "~{xmm0},~{xmm1},~{xmm2},~{xmm3},~{xmm4},~{xmm5},~{xmm6},~{xmm7},~{xmm8},~{xmm9},~{xmm10},~{xmm11},"
                "~{xmm12},~{xmm13},~{xmm14},~{xmm15},~{memory},~{flags},~{fpsr},~{dirflag}",
                "void",
                [("ptr", st.get().ir), ("ptr", st.tlb.get().ir), ("i64", "0"), ("i64", code.get().ir)],
            )

        @kernel(pointer, name="dispatch.forget_code")
        def forget_code(st: Any) -> None:
            """Drop all translated code."""
            current().fill_bytes(st.hash_table, 0, u64(HASH_ENTRIES * 4))
            i: U64 = 0
            while i < st.region_count:
                region = st.regions[i]
                first = region.first_page
                pages = region.length >> PAGE_SHIFT
                n: U64 = 0
                while n < pages:
                    if st.page_code[first + n] != 0:
                        owners.release(st, first + n)
                    n += 1
                current().fill_bytes(st.page_blocks.offset(first * 4), 0, pages * 4)
                current().fill_bytes(st.page_code.offset(first * 8), 0, pages * 8)
                i += 1
            st.block_count = 1
            st.cache_next = st.cache_start
            st.generation = st.generation + 1
            retag(st)
            st.link_stub = 0

        @kernel(pointer, U64, result=U64, name="dispatch.fetch_host")
        def fetch_host(st: Any, linear: Any) -> Any:
            """Host address of the code byte at `linear`; 0 when no memory is there; may fault."""
            index = isa.fetch_index(st)
            slot = ((linear >> PAGE_SHIFT) & (TLB_ENTRIES - 1)) + index * TLB_ENTRIES
            entry = st.tlb_base[slot]
            if entry.fetch == linear & PAGE_MASK:
                return linear + entry.addend
            return mmu.fill(st, linear, Access.FETCH, index)

        @kernel(pointer, U64, U64, result=Pointer(BLOCK), name="dispatch.make_block")
        def make_block(st: Any, hva: Any, mode: Any) -> Any:
            """Translate the block at `pc`; null when that faults."""
            if st.cache_next + _BLOCK_ROOM > st.cache_end or st.block_count + 1 >= MAX_BLOCKS:
                forget_code(st)
            sharing.claim(st, st.block_gpa, hva & PAGE_MASK)
            st.code_page_hva = hva & PAGE_MASK
            if st.pc == st.step_from:
                # Debugging: from the first translation of this address on, one instruction a run.
                st.step = 1
            count = isa.translate_block(st, mode & isa.single_bit)
            if st.stop != 0:
                return st.block_table[u64(0)].offset(0)
            code = stitch(st, count)
            if st.block_gpa2 != NO_ADDRESS:
                second = st.block_gpa2
                st.block_gpa2 = regions.guest_address(st, second) & PAGE_MASK
                sharing.claim(st, st.block_gpa2, second & PAGE_MASK)
            block = blocks.add(st, mode)
            block.code = code
            block.leave = st.block_leave
            if (mode & isa.single_bit) != 0:
                # No head, and nothing ever jumps to it.
                block.leave = 0
            st.count_translated = st.count_translated + 1
            return block

        @kernel(pointer, result=U64, name="dispatch.look_up")
        def look_up(st: Any) -> Any:
            """Host code for `pc`; 0 when something is pending instead."""
            pc = st.pc
            if st.single == 0:
                known = mmu.jumps.find(st, pc)
                if known != 0:
                    return known
            linear = isa.linear_pc(st)
            if st.stop != 0:
                return 0
            hva = fetch_host(st, linear)
            if st.stop != 0:
                return 0
            if hva == 0:
                st.exit_kind = EXIT_INTERNAL_ERROR
                st.stop = Stop.EXIT
                return 0
            gpa = regions.guest_address(st, hva)
            st.block_gpa = gpa
            mode = isa.block_mode(st)
            if st.single != 0:
                mode = mode | isa.single_bit
            block = blocks.find(st, gpa, mode)
            if block.address() != 0 and block.gpa2 != NO_ADDRESS:
                second = fetch_host(st, (linear + PAGE_BYTES) & PAGE_MASK)
                if st.stop != 0:
                    return 0
                if second == 0 or regions.guest_address(st, second) & PAGE_MASK != block.gpa2:
                    block.mode = NO_ADDRESS
                    block = make_block(st, hva, mode)
            elif block.address() == 0:
                block = make_block(st, hva, mode)
            if st.stop != 0:
                return 0
            if st.single == 0 and block.gpa2 == NO_ADDRESS:
                slot = ((linear >> PAGE_SHIFT) & (TLB_ENTRIES - 1)) + isa.fetch_index(st) * TLB_ENTRIES
                if st.tag_local == 0 and st.tlb_marks[slot] != 0:
                    # Found by a tag that outlasts the page: the next local flush must change that tag.
                    st.jump_local = 1
                mmu.jumps.keep(st, pc, block.code)
            return block.code

        @kernel(pointer, U64, name="dispatch.link")
        def link(st: Any, code: Any) -> None:
            """Make the jump that the last block ended with go straight to `code`."""
            stub = st.link_stub
            blocks.write_jump(stub, code)
            site = st.link_site
            if site != 0:
                site.cast(U32)[0] = (code - (site + 4)).trunc(32)

        @kernel(pointer, name="dispatch.settle", attributes="nounwind noinline cold")
        def settle(st: Any) -> None:
            """Handle what other threads say of written pages, and tell other vCPUs what this one wrote."""
            current().atomic("and", st.ref("request"), ~u32(Request.INVALIDATE))
            sharing.drain(st)
            request = current().load(st.ref("request"), volatile=True)
            if (request & Request.FORGET) != 0:
                current().atomic("and", st.ref("request"), ~u32(Request.FORGET))
                forget_code(st)

        @kernel(pointer, name="dispatch.run", exported=True)
        def run(st: Any) -> None:
            """Run guest code until the machine is needed."""
            while True:
                if st.stop != 0:
                    reason = st.stop
                    st.stop = 0
                    st.link_stub = 0
                    if reason == Stop.EXIT:
                        if (current().load(st.ref("request"), volatile=True) & Request.INVALIDATE) != 0:
                            settle(st)
                        return
                    if reason == Stop.SINGLE:
                        st.single = 1
                    else:
                        st.access_done = 0
                        st.single = 0
                        isa.deliver(st)
                        continue
                if st.event_waits != 0:
                    # Its delivery met a device; the accesses made so far are on record.
                    st.event_waits = 0
                    isa.deliver(st)
                    continue
                if st.deferred != 0:
                    isa.resume(st)
                request = current().load(st.ref("request"), volatile=True)
                if request != 0:
                    st.link_stub = 0
                    if (request & (Request.INVALIDATE | Request.FORGET)) != 0:
                        settle(st)
                    # Nothing may come between the two halves of an instruction that waits for a device.
                    if st.access_done == 0:
                        if isa.service(st) != 0:
                            continue
                        if st.stop != 0:
                            continue
                token = u64(0)
                if isa.wants_single(st) != 0 or st.step != 0:
                    st.single = 1
                if st.single != 0:
                    token = isa.before_single(st)
                    if st.stop != 0:
                        continue
                    st.access_next = 0
                code = look_up(st)
                if code == 0:
                    continue
                if st.link_stub != 0:
                    if st.single == 0:
                        link(st, code)
                    st.link_stub = 0
                st.count_entered = st.count_entered + 1
                alone = st.single
                if alone != 0:
                    # An indirect jump must not find its target and go on.
                    st.lookup_tag = NO_ADDRESS
                enter(st, code)
                if alone != 0:
                    retag(st)
                left = st.left_block
                if left != 0:
                    # A block was left at its head. If it is a dropped one, to which others still jump, send them on.
                    st.left_block = 0
                    if blocks.is_dropped(left):
                        st.link_stub = left
                        st.link_site = 0
                if st.single != 0 and st.stop == 0:
                    st.single = 0
                    st.access_done = 0
                    isa.after_single(st, token)
                    if st.step == 1 and st.stop == 0:
                        st.exit_kind = EXIT_KICKED
                        st.stop = Stop.EXIT

        self.run = run
        self.forget_code = forget_code
