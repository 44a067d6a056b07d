"""Registers of the x86 engine by the names of `accel.api.Vcpu`, and their values after RESET."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.cpu.engine.state import Request
from pyhyve.cpu.isa.x86.state import RESET_CLEARS, Gpr, Seg

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyhyve.cpu.engine.vcpu import EngineVcpu

_SEGMENTS = {
    "es": Seg.ES,
    "cs": Seg.CS,
    "ss": Seg.SS,
    "ds": Seg.DS,
    "fs": Seg.FS,
    "gs": Seg.GS,
    "ldtr": Seg.LDTR,
    "tr": Seg.TR,
}
_PARTS = {"selector": "seg_sel", "base": "seg_base", "limit": "seg_limit", "attributes": "seg_attr"}
_PLAIN = {
    "rip": "pc",
    "cr0": "cr0",
    "cr2": "cr2",
    "cr3": "cr3",
    "cr4": "cr4",
    "efer": "efer",
    "gdtr.base": "gdt_base",
    "gdtr.limit": "gdt_limit",
    "idtr.base": "idt_base",
    "idtr.limit": "idt_limit",
}


def _places() -> dict[str, tuple[str, int]]:
    places = {g.name.lower(): ("gpr", int(g)) for g in Gpr}
    places |= {name: (field, 0) for name, field in _PLAIN.items()}
    places |= {f"dr{i}": ("dr", i) for i in (0, 1, 2, 3, 6, 7)}
    for name, number in _SEGMENTS.items():
        places |= {f"{name}.{part}": (field, int(number)) for part, field in _PARTS.items()}
    return places


PLACES = _places()


def read_registers(engine: EngineVcpu) -> dict[str, int]:
    """Every register."""
    values = {name: engine.get(*place) for name, place in PLACES.items()}
    values["cr8"] = engine.get("apic_tpr") >> 4
    engine.call("x86.store_eflags")
    values["rflags"] = engine.get("bounce")
    return values


def write_registers(engine: EngineVcpu, values: Mapping[str, int]) -> None:
    """Set registers; KeyError for a name that does not exist. CPL follows SS's privilege level, as in hardware."""
    for name, value in values.items():
        if name == "rflags":
            engine.call("x86.write_eflags", value, (1 << 64) - 1)
        elif name == "cr8":
            _set_priority(engine, value)
        elif name in PLACES:
            engine.set(PLACES[name][0], value, PLACES[name][1])
        else:
            msg = f"no register named {name}"
            raise KeyError(msg)
    if "rip" in values:
        engine.set("repeat_midst", 0)
    if engine.get("cr0") & 1:
        engine.set("cpl", engine.get("seg_attr", Seg.SS) >> 5 & 3)
    engine.call("mmu.flush_all")
    engine.call("x86.arm_breakpoints")
    engine.call("x86.mode_changed")


def _set_priority(engine: EngineVcpu, level: int) -> None:
    """Write CR8; the lower half of the task priority stays when CR8 does."""
    if engine.get("apic_tpr") >> 4 != level:
        engine.set("apic_tpr", level << 4)
        engine.call("x86.change_request", Request.INTERRUPT, 0)


def reset_registers(engine: EngineVcpu, index: int) -> None:
    """State after RESET (SDM Vol. 3A, table 10-1)."""
    for name in RESET_CLEARS:
        engine.clear(name)
    engine.set("fl_result", 1)
    engine.set("eflags", 2)
    engine.set("gpr", 0x106CA, Gpr.RDX)
    engine.set("cr0", 0x60000010)
    engine.set("pc", 0xFFF0)
    engine.set("gdt_limit", 0xFFFF)
    engine.set("idt_limit", 0xFFFF)
    for segment in Seg:
        engine.set("seg_limit", 0xFFFF, segment)
        engine.set("seg_attr", 0x93, segment)
    engine.set("seg_attr", 0x9B, Seg.CS)
    engine.set("seg_attr", 0x82, Seg.LDTR)
    engine.set("seg_attr", 0x8B, Seg.TR)
    engine.set("seg_sel", 0xF000, Seg.CS)
    engine.set("seg_base", 0xFFFF0000, Seg.CS)
    engine.set("dr", 0xFFFF0FF0, 6)
    engine.set("dr", 0x400, 7)
    engine.set("fp_control", 0x40)
    engine.set("mxcsr", 0x1F80)
    engine.set("xcr0", 1)
    engine.set("pat", 0x0007040600070406)
    engine.set("apic_base", 0xFEE00800 | (0x100 if index == 0 else 0))
    engine.set("misc_enable", 0x1801)
    for name in ("large_base", "large_mask", "large_global_base", "large_global_mask"):
        engine.set(name, (1 << 64) - 1)
    engine.set("physical_bits", 40)
    engine.call("x86.arm_breakpoints")
    engine.call("x86.mode_changed")
