"""Port access: the I/O permission check (SDM Vol. 1, 19.5), then the machine."""

from __future__ import annotations

from typing import Any

from pyhyve.cpu.engine.softmmu import ExitCode
from pyhyve.cpu.isa.x86 import debug, faults
from pyhyve.cpu.isa.x86.memory import load_system, mmu
from pyhyve.cpu.isa.x86.state import STATE, Seg
from pyhyve.cpu.lang import U64, Pointer, kernel, u64

P = Pointer(STATE)
_MAP_OFFSET = 102
_TSS32_BUSY = 11


@kernel(P, U64, U64, name="x86.check_port", attributes="nounwind noinline")
def check_port(st: Any, port: Any, size: Any) -> None:
    """#GP(0) unless CPL <= IOPL or the TSS's I/O map allows every byte of the access."""
    if (st.cr0 & 1) == 0:
        return
    in_vm86 = (st.eflags & (1 << 17)) != 0
    if not in_vm86 and st.cpl <= ((st.eflags >> 12) & 3).zext(64):
        return
    attributes = st.seg_attr[Seg.TR]
    limit = st.seg_limit[Seg.TR]
    if (attributes & (1 << 16)) != 0 or (attributes & 15) != _TSS32_BUSY or limit < _MAP_OFFSET + 1:
        faults.gp(st, 0)
        return
    base = st.seg_base[Seg.TR]
    start = load_system(st, base + _MAP_OFFSET, 2)
    if st.stop != 0:
        return
    at = start + (port >> 3)
    if at + 1 > limit:
        faults.gp(st, 0)
        return
    word = load_system(st, base + at, 2)
    if st.stop != 0:
        return
    if ((word >> (port & 7)) & ((u64(1) << size) - 1)) != 0:
        faults.gp(st, 0)


@kernel(P, U64, U64, result=U64, name="x86.port_in", attributes="nounwind noinline")
def port_in(st: Any, port: Any, size: Any) -> Any:
    """IN; may fault or leave guest mode."""
    check_port(st, port, size)
    if st.stop != 0:
        return 0
    if st.watch_on != 0:
        debug.watch_port(st, port, size)
    return mmu.device_load(st, port, size, u64(ExitCode.IO))


@kernel(P, U64, U64, U64, name="x86.port_out", attributes="nounwind noinline")
def port_out(st: Any, port: Any, size: Any, value: Any) -> None:
    """OUT; may fault or leave guest mode."""
    check_port(st, port, size)
    if st.stop != 0:
        return
    if st.watch_on != 0:
        debug.watch_port(st, port, size)
    mmu.device_store(st, port, size, value, u64(ExitCode.IO))
