"""Virtual memory for x86 kernels: loads and stores by privilege, built on the soft MMU and `paging`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.cpu.engine.blocks import Blocks
from pyhyve.cpu.engine.jumps import Jumps
from pyhyve.cpu.engine.sharing import Mailbox, Owners
from pyhyve.cpu.engine.softmmu import AlignmentChecks, SoftMmu
from pyhyve.cpu.engine.virtqueue import QueueKernels
from pyhyve.cpu.isa.x86 import apic, faults, paging, wakeup
from pyhyve.cpu.isa.x86.physical import dirty, regions
from pyhyve.cpu.isa.x86.state import STATE
from pyhyve.cpu.lang import U64, Pointer, inline, kernel, u64

if TYPE_CHECKING:
    from pyhyve.cpu.lang import Value

TLB_USER = 0
TLB_SUPERVISOR = 1
"""CPL 0-2 with SMAP enforced (also implicit system accesses)."""
TLB_SUPERVISOR_AC = 2
"""CPL 0-2 with EFLAGS.AC set: user pages may be touched under SMAP."""
TLB_USER_ALIGNED = 3
"""CPL 3 with CR0.AM and EFLAGS.AC: user accesses whose alignment is checked. Its table stays empty."""
TLB_INDEXES = 3
"""Tables that are filled."""

owners = Owners(STATE, regions)
mailbox = Mailbox(STATE)
queues = QueueKernels(STATE, regions, owners, mailbox.post, wakeup.interrupt, dirty)


@kernel(Pointer(STATE), U64, U64, U64, result=U64, name="x86.take_store", attributes="nounwind noinline")
def take_store(st: Any, gpa: Any, size: Any, value: Any) -> Any:
    """A write to a device: 1 when what it means was done here."""
    if apic.take_store(st, gpa, size, value) != 0:
        return 1
    return queues.take_kick(st, gpa)


jumps = Jumps(STATE)
blocks = Blocks(STATE, regions, owners, jumps)
mmu = SoftMmu(
    STATE,
    regions,
    paging.translate,
    paging.check_canonical,
    blocks.invalidate,
    owners,
    TLB_INDEXES,
    AlignmentChecks(TLB_USER_ALIGNED, TLB_USER, faults.ac),
    jumps,
    take_store,
    dirty,
)


def current_index(st: Value) -> Value:
    """Translation index of explicit data accesses now (bits 8-9 of `mode`)."""
    return (st.mode >> 8) & 3


@inline
def load(st: Any, address: Any, size: int) -> Any:
    """Read `size` bytes at linear `address` with the current privilege, zero-extended to 64 bits; may fault."""
    return mmu.load_at(st, address, u64(size), current_index(st))


@inline
def store(st: Any, address: Any, size: int, value: Any) -> None:
    """Write the low `size` bytes of `value` (64 bits) with the current privilege; may fault."""
    mmu.store_at(st, address, u64(size), value, current_index(st))


@inline
def load_system(st: Any, address: Any, size: int) -> Any:
    """Read a system structure (GDT, LDT, IDT, TSS): always with supervisor privilege; may fault."""
    return mmu.load_at(st, address, u64(size), u64(TLB_SUPERVISOR))


@inline
def store_system(st: Any, address: Any, size: int, value: Any) -> None:
    """Write a system structure with supervisor privilege; may fault."""
    mmu.store_at(st, address, u64(size), value, u64(TLB_SUPERVISOR))
