"""What to show of a guest that died: registers, and the code it was about to run."""

from __future__ import annotations

from pyhyve.memory.guest import GuestAddressError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyhyve.memory.guest import GuestMemory

_GENERAL = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", *(f"r{n}" for n in range(8, 16)))
_SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldtr")
_CODE_BYTES = 16
_CR0_PG, _CR4_PAE, _EFER_LMA = 1 << 31, 1 << 5, 1 << 10
_PRESENT, _LARGE = 1 << 0, 1 << 7
_ADDRESS_MASK = 0x000F_FFFF_FFFF_F000


def describe_vcpu(registers: Mapping[str, int], memory: GuestMemory) -> str:
    """Registers and the bytes at CS:RIP, several lines."""
    lines = [
        "  ".join(f"{name:>3}={registers.get(name, 0):016x}" for name in _GENERAL[i : i + 4])
        for i in range(0, len(_GENERAL), 4)
    ]
    lines.append(f"rip={registers.get('rip', 0):016x}  rflags={registers.get('rflags', 0):08x}")
    lines.append("  ".join(f"{name}={registers.get(name, 0):x}" for name in ("cr0", "cr2", "cr3", "cr4", "efer")))

    def pair(name: str, first: str, second: str) -> str:
        return f"{name}={registers.get(f'{name}.{first}', 0):x}:{registers.get(f'{name}.{second}', 0):x}"

    lines.append("  ".join(pair(name, "selector", "base") for name in _SEGMENTS))
    lines.append("  ".join(pair(name, "base", "limit") for name in ("gdtr", "idtr")))
    lines.append(f"code: {code_at_rip(registers, memory)}")
    return "\n".join(lines)


def code_at_rip(registers: Mapping[str, int], memory: GuestMemory) -> str:
    """The bytes at CS:RIP in hexadecimal, or why they cannot be read."""
    linear = registers.get("cs.base", 0) + registers.get("rip", 0)
    found = bytearray()
    for address in range(linear, linear + _CODE_BYTES):
        gpa = translate(address, registers, memory)
        try:
            found += memory.read(gpa, 1) if gpa is not None else b""
        except GuestAddressError:
            gpa = None
        if gpa is None:
            break
    return found.hex(" ") if found else f"(nothing is mapped at {linear:#x})"


def translate(linear: int, registers: Mapping[str, int], memory: GuestMemory) -> int | None:
    """Guest physical address of a linear address by the page tables (SDM Vol. 3A, chapter 4); None if not mapped."""
    if not registers.get("cr0", 0) & _CR0_PG:
        return linear & 0xFFFF_FFFF
    cr3 = registers.get("cr3", 0)
    if not registers.get("cr4", 0) & _CR4_PAE:
        return _walk(linear & 0xFFFF_FFFF, cr3 & 0xFFFF_F000, (22, 12), 10, memory)
    if registers.get("efer", 0) & _EFER_LMA:
        return _walk(linear, cr3 & _ADDRESS_MASK, (39, 30, 21, 12), 9, memory)
    return _walk(linear & 0xFFFF_FFFF, cr3 & 0xFFFF_FFE0, (30, 21, 12), 9, memory)


def _walk(linear: int, table: int, shifts: tuple[int, ...], bits: int, memory: GuestMemory) -> int | None:
    entry_bytes = 4 if bits == 10 else 8
    for shift in shifts:
        index = linear >> shift & (1 << bits) - 1
        try:
            entry = int.from_bytes(memory.read(table + index * entry_bytes, entry_bytes), "little")
        except GuestAddressError:
            return None
        if not entry & _PRESENT:
            return None
        table = entry & _ADDRESS_MASK
        if shift != shifts[-1] and entry & _LARGE and shift < 39:
            return table & ~((1 << shift) - 1) | linear & ((1 << shift) - 1)
    return table | linear & 0xFFF
