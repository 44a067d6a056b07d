"""x86 as the engine sees it: its kernels, its dispatcher, its stencils."""

from __future__ import annotations

from typing import Any

from pyhyve.cpu.engine.dispatch import Dispatcher, IsaKernels
from pyhyve.cpu.engine.state import Request
from pyhyve.cpu.isa.x86 import apic, debug, events, faults, flags, sleep, wakeup
from pyhyve.cpu.isa.x86.memory import blocks, mailbox, mmu, owners, queues
from pyhyve.cpu.isa.x86.mode import MODE_FLAT, MODE_SINGLE, mode_changed
from pyhyve.cpu.isa.x86.physical import regions
from pyhyve.cpu.isa.x86.spec import Dr6, Eflags, GuestExit
from pyhyve.cpu.isa.x86.stack_fault import refine_address_fault
from pyhyve.cpu.isa.x86.state import STATE, Seg
from pyhyve.cpu.isa.x86.translate import translate_block
from pyhyve.cpu.lang import U32, U64, Pointer, current, kernel, u32, u64

P = Pointer(STATE)
_TRACE, _SHADOW, _WATCH, _RESUME = 1, 2, 4, 8


@kernel(P, result=U64, name="x86.linear_pc")
def linear_pc(st: Any) -> Any:
    """Linear address of the next instruction; #GP(0) beyond CS's limit or, in 64-bit mode, when not canonical."""
    pc = st.pc
    if ((st.mode >> 2) & 3) == 2:
        if (pc << 16).sar(16) != pc:
            faults.gp(st, 0)
        return pc
    if pc > st.seg_limit[Seg.CS]:
        faults.gp(st, 0)
    return (pc + st.seg_base[Seg.CS]) & 0xFFFFFFFF


@kernel(P, result=U64, name="x86.fetch_index")
def fetch_index(st: Any) -> Any:
    """Fetches ignore EFLAGS.AC."""
    if st.cpl == 3:
        return 0
    return 1


@kernel(P, result=U64, name="x86.block_mode")
def block_mode(st: Any) -> Any:
    """The mode, and the limit of CS where it is not that of flat segments: what reaches beyond it faults."""
    if ((st.mode >> 2) & 3) == 2 or (st.mode & MODE_FLAT) != 0:
        return st.mode
    return st.mode | (st.seg_limit[Seg.CS] << 32)


@kernel(P, result=U64, name="x86.before_single")
def before_single(st: Any) -> Any:
    """What must follow the instruction about to run alone."""
    token: U64 = 0
    if (st.eflags & flags.TF) != 0:
        token = u64(_TRACE)
    if st.interrupt_shadow != 0:
        token = token | _SHADOW
    if st.watch_on != 0:
        st.watch_hits = 0
        token = token | _WATCH
        if (st.eflags & Eflags.RF) != 0:
            token = token | _RESUME
        hits = debug.matching_code(st, linear_pc(st))
        # What is left of an instruction that waited for a device, or of a repeated one, is not a new one.
        if hits != 0 and st.access_done == 0 and st.repeat_midst == 0 and st.stop == 0:
            faults.db_fault(st, hits)
    return token


@kernel(P, U64, name="x86.after_single")
def after_single(st: Any, token: Any) -> None:
    """End an interrupt shadow; raise the single-step trap of an instruction that began with TF set."""
    if (token & _SHADOW) != 0:
        st.interrupt_shadow = 0
    bits: U64 = 0
    if (token & _TRACE) != 0:
        bits = u64(Dr6.BS)
    if (token & _WATCH) != 0:
        bits = bits | st.watch_hits
        if (token & _RESUME) != 0 and st.repeat_midst == 0:
            # RF covers one instruction; one that IRET has just set is for the next.
            st.eflags = st.eflags & ~u32(Eflags.RF)
    if bits != 0:
        faults.db(st, bits)


@kernel(P, result=U64, name="x86.wants_single")
def wants_single(st: Any) -> Any:
    """1 under TF, an interrupt shadow, or breakpoints."""
    return ((st.eflags & flags.TF) != 0) | (st.interrupt_shadow != 0) | (st.watch_on != 0)


@kernel(P, result=U64, name="x86.service_requests", attributes="nounwind noinline")
def service_requests(st: Any) -> Any:
    """`events.service`; what cannot be delivered now is set aside, so that blocks need not stop for it."""
    if st.quiet_at != 0:
        queues.look_for_quiet(st)
    if events.service(st) != 0:
        return 1
    if (st.request & Request.INTERRUPT) != 0 and st.event_inject == 0 and sleep.waiting_interrupt(st) == 0:
        # The bit only announced a vector that has been delivered.
        sleep.drop_interrupt_request(st)
    if st.stop == 0:
        waiting = current().load(st.ref("request"), volatile=True) & (Request.INTERRUPT | Request.NMI)
        if waiting != 0:
            st.deferred = st.deferred | waiting
            current().atomic("and", st.ref("request"), ~waiting)
    return 0


@kernel(P, name="x86.resume_requests")
def resume_requests(st: Any) -> None:
    """Bring back what was set aside once it can be delivered."""
    if st.interrupt_shadow == 0 and (
        (st.eflags & flags.IF) != 0 or (st.nmi_blocked == 0 and (st.deferred & Request.NMI) != 0)
    ):
        waiting = st.deferred
        st.deferred = 0
        current().atomic("or", st.ref("request"), waiting)


@kernel(P, U64, U64, name="x86.change_request", exported=True)
def change_request(st: Any, set_bits: Any, clear_bits: Any) -> None:
    """For other threads: set and clear bits of `request`; a vCPU that sleeps by itself wakes up."""
    if clear_bits != 0:
        current().atomic("and", st.ref("request"), ~clear_bits.trunc(32))
        current().atomic("and", st.ref("deferred"), ~clear_bits.trunc(32))
    if set_bits != 0:
        current().atomic("or", st.ref("request"), set_bits.trunc(32))
        wakeup.wake(st)


@kernel(P, name="x86.deliver_pending", attributes="nounwind noinline")
def deliver_pending(st: Any) -> None:
    """`events.deliver`, once the exception is known in full."""
    if st.bad_address != 0:
        refine_address_fault(st)
    events.deliver(st)
    st.bad_address = 0


dispatcher = Dispatcher(
    STATE,
    mmu,
    blocks,
    regions,
    owners,
    mailbox,
    IsaKernels(
        linear_pc=linear_pc,
        fetch_index=fetch_index,
        block_mode=block_mode,
        translate_block=translate_block,
        deliver=deliver_pending,
        service=service_requests,
        resume=resume_requests,
        before_single=before_single,
        after_single=after_single,
        wants_single=wants_single,
        single_bit=MODE_SINGLE,
    ),
)


@kernel(P, name="x86.run", exported=True)
def run(st: Any) -> None:
    """Run guest code until the machine is needed, under the guest's MXCSR with every exception masked."""
    slot: U32 = 0
    b = current()
    st.idle = 0
    slot.set((st.mxcsr & 0xFFFF) | 0x1F80)
    b.asm("ldmxcsr $0", "*m,~{memory}", "void", [("ptr elementtype(i32)", slot.ir)])
    if st.rests != 0:
        st.rests = 0
        st.idle = 1
        st.exit_kind = GuestExit.HALT
    else:
        dispatcher.run(st)
    while st.exit_kind == GuestExit.HALT and st.sleeps != 0:
        sleep.sleep(st)
        if (b.load(st.ref("request"), volatile=True) & Request.KICK) != 0:
            # It leaves guest mode, as it was asked to.
            events.clear_request(st, u64(Request.KICK))
            break
        # So that an exit without a kind of its own is not taken for another HLT.
        st.exit_kind = GuestExit.KICKED
        dispatcher.run(st)
    b.asm("stmxcsr $0", "=*m,~{memory}", "void", [("ptr elementtype(i32)", slot.ir)])
    st.mxcsr = st.mxcsr | (slot.get() & 0x3F)
    slot.set(u64(0x1F80).trunc(32))
    b.asm("ldmxcsr $0", "*m,~{memory}", "void", [("ptr elementtype(i32)", slot.ir)])


@kernel(P, name="x86.sample_counter", exported=True)
def sample_counter(st: Any) -> None:
    """`bounce[0]` := the counter that RDTSC reads, without the guest's offset."""
    st.bounce[0] = current().intrinsic("llvm.readcyclecounter", U64)


@kernel(P, name="x86.store_eflags", exported=True)
def store_eflags(st: Any) -> None:
    """`bounce[0]` := EFLAGS."""
    st.bounce[0] = flags.read_eflags(st)


EXPORTS = (
    mailbox.post,
    sample_counter,
    debug.arm_breakpoints,
    store_eflags,
    run,
    change_request,
    mode_changed,
    mmu.tlb.flush_all,
    mmu.tlb.forget_writes,
    dispatcher.drain_messages,
    dispatcher.forget_code,
    flags.read_eflags,
    flags.write_eflags,
    apic.post,
    queues.send,
    queues.receive,
    queues.arrived,
    queues.disk,
    queues.close,
)
