"""REP INS from a port behind which a device has a buffer: most of it in one go, while paging is off.

PC firmware and boot loaders read disks that way, 256 exits for each sector otherwise. The instruction itself stays with
the engine: what was moved here looks to it as if it had been interrupted after so many elements (SDM Vol. 2B, REP).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.cpu.isa.x86.state import Gpr, Seg

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.cpu.engine.vcpu import EngineVcpu
    from pyhyve.memory.guest import GuestMemory

_CR0_PG = 1 << 31
_EFLAGS_DF = 1 << 10
_ATTRIBUTE_D = 1 << 14
_OPERAND_SIZE, _ADDRESS_SIZE, _REP = 0x66, 0x67, {0xF2, 0xF3}
_PREFIXES = {_OPERAND_SIZE, _ADDRESS_SIZE, *_REP, 0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65}
_INS = {0x6C, 0x6D}
_MAX_INSTRUCTION_BYTES = 15
_LEAST_ELEMENTS = 4


def move_ahead(engine: EngineVcpu, memory: GuestMemory, size: int, take: Callable[[int, int], bytes]) -> None:
    """If the vCPU stands at a REP INS of `size` bytes, move what `take(most bytes, multiple of)` gives.

    At least one element stays for the engine. Nothing is done where the simple conditions below do not hold.
    """
    if engine.get("cr0") & _CR0_PG or engine.get("eflags") & _EFLAGS_DF:
        return
    address_bits = _address_bits(engine, memory)
    if not address_bits:
        return
    mask = (1 << address_bits) - 1
    counter, index = engine.get("gpr", Gpr.RCX), engine.get("gpr", Gpr.RDI)
    count, offset = counter & mask, index & mask
    limit = min(engine.get("seg_limit", Seg.ES), mask) + 1
    start = engine.get("seg_base", Seg.ES) + offset
    region = memory.find(start)
    if count < _LEAST_ELEMENTS or region is None or region.readonly:
        return
    room = min((count - 1) * size, limit - offset, region.gpa + region.size_bytes - start)
    data = take(room, size) if room > 0 else b""
    if not data:
        return
    memory.write(start, data)
    done = len(data) // size
    engine.set("gpr", counter & ~mask | count - done, Gpr.RCX)
    engine.set("gpr", index & ~mask | offset + len(data) & mask, Gpr.RDI)


def _address_bits(engine: EngineVcpu, memory: GuestMemory) -> int:
    """Address size of the REP INS at the program counter; 0 when something else is there."""
    at = engine.get("seg_base", Seg.CS) + engine.get("pc")
    region = memory.find(at)
    if region is None:
        return 0
    code = memory.read(at, min(_MAX_INSTRUCTION_BYTES, region.gpa + region.size_bytes - at))
    prefixes: set[int] = set()
    for byte in code:
        if byte not in _PREFIXES:
            is_wide = bool(engine.get("seg_attr", Seg.CS) & _ATTRIBUTE_D) != (_ADDRESS_SIZE in prefixes)
            return (32 if is_wide else 16) if byte in _INS and prefixes & _REP else 0
        prefixes.add(byte)
    return 0
