"""A processor's registers as QEMU's `info registers` prints them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_LEGACY_ROWS = (("EAX", "EBX", "ECX", "EDX"), ("ESI", "EDI", "EBP", "ESP"))
_LONG_ROWS = (
    ("RAX", "RBX", "RCX", "RDX"),
    ("RSI", "RDI", "RBP", "RSP"),
    ("R8", "R9", "R10", "R11"),
    ("R12", "R13", "R14", "R15"),
)
_FLAGS = ((11, "O"), (10, "D"), (7, "S"), (6, "Z"), (4, "A"), (2, "P"), (0, "C"))
"""Bits of EFLAGS and their letters: D for the direction flag, as printed between overflow and sign."""
_SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr")
_LMA = 1 << 10


def describe_registers(registers: Mapping[str, int]) -> str:
    """Lines with general, segment, table, control and debug registers (names of `Vcpu.read_registers`)."""
    is_long = bool(registers.get("efer", 0) & _LMA)
    digits = 16 if is_long else 8
    mask = (1 << 4 * digits) - 1

    def value(name: str) -> str:
        return f"{registers.get(name, 0) & mask:0{digits}x}"

    rows = _LONG_ROWS if is_long else _LEGACY_ROWS
    lines = [" ".join(f"{label:<3}={value(_register(label))}" for label in row) for row in rows]
    flags = registers.get("rflags", 0)
    letters = "".join(letter if flags >> bit & 1 else "-" for bit, letter in _FLAGS)
    privilege = registers.get("ss.attributes", 0) >> 5 & 3
    name = "RIP" if is_long else "EIP"
    lines.append(f"{name}={value('rip')} {name[0]}FL={flags & 0xFFFFFFFF:08x} [{letters}] CPL={privilege}")
    for segment in _SEGMENTS:
        label = {"ldtr": "LDT", "tr": "TR "}.get(segment, f"{segment.upper()} ")
        selector = registers.get(f"{segment}.selector", 0)
        limit = registers.get(f"{segment}.limit", 0)
        attributes = registers.get(f"{segment}.attributes", 0)
        lines.append(f"{label}={selector:04x} {value(f'{segment}.base')} {limit:08x} {attributes << 8:08x}")
    lines += [
        f"{table.upper()}=     {value(f'{table}r.base')} {registers.get(f'{table}r.limit', 0):08x}"
        for table in ("gdt", "idt")
    ]
    lines.append(
        f"CR0={registers.get('cr0', 0):08x} CR2={value('cr2')} CR3={value('cr3')} CR4={registers.get('cr4', 0):08x}"
    )
    lines.append(" ".join(f"DR{n}={registers.get(f'dr{n}', 0):016x}" for n in range(4)))
    lines.append(f"DR6={registers.get('dr6', 0):016x} DR7={registers.get('dr7', 0):016x}")
    lines.append(f"EFER={registers.get('efer', 0):016x}")
    return "\n".join(lines)


def _register(label: str) -> str:
    low = label.lower()
    return f"r{low[1:]}" if low[0] in "er" and low[1].isalpha() else low
