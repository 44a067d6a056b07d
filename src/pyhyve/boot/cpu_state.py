"""Register sets with which kernels expect to be entered, by the names of `accel.api.Vcpu.write_registers`.

Segment attributes use the VMX access-rights layout (SDM Vol. 3C, 24.4.1).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyhyve.memory.guest import GuestMemory

GDT_GPA = 0x8000
PAGE_TABLES_GPA = 0x9000
STACK_TOP_GPA = 0x8FF0
CODE_SELECTOR = 0x10
DATA_SELECTOR = 0x18

_CODE_32 = 0xC09B
_CODE_64 = 0xA09B
_DATA = 0xC093
_TSS_BUSY = 0x008B
_UNUSABLE = 0x1_0000
_LIMIT_4G = 0xFFFF_FFFF
_GDT = (0, 0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF)
_GDT_32 = (0, 0, 0x00CF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF)
_CR0_PE, _CR0_ET, _CR0_PG = 1 << 0, 1 << 4, 1 << 31
_CR4_PAE = 1 << 5
_EFER_LME, _EFER_LMA = 1 << 8, 1 << 10
_PRESENT_WRITABLE, _LARGE = 0x3, 0x80
_RFLAGS_FIXED = 0x2


def protected_mode(memory: GuestMemory, rip: int, **registers: int) -> dict[str, int]:
    """Flat 32-bit protected mode without paging, interrupts off (boot.rst "32-bit boot protocol", PVH)."""
    memory.write(GDT_GPA, b"".join(entry.to_bytes(8, "little") for entry in _GDT_32))
    return _flat(rip, _CODE_32) | {"cr0": _CR0_PE | _CR0_ET, "cr3": 0, "cr4": 0, "efer": 0} | registers


def long_mode(memory: GuestMemory, rip: int, **registers: int) -> dict[str, int]:
    """64-bit mode with the first 4 GiB mapped one to one, interrupts off (boot.rst, "64-bit boot protocol")."""
    memory.write(GDT_GPA, b"".join(entry.to_bytes(8, "little") for entry in _GDT))
    pml4, pdpt, first_pd = (PAGE_TABLES_GPA + 0x1000 * i for i in range(3))
    memory.write(pml4, (pdpt | _PRESENT_WRITABLE).to_bytes(8, "little"))
    memory.write(pdpt, b"".join((first_pd + 0x1000 * i | _PRESENT_WRITABLE).to_bytes(8, "little") for i in range(4)))
    pages = (i << 21 | _LARGE | _PRESENT_WRITABLE for i in range(4 * 512))
    memory.write(first_pd, b"".join(page.to_bytes(8, "little") for page in pages))
    return (
        _flat(rip, _CODE_64)
        | {"cr0": _CR0_PE | _CR0_ET | _CR0_PG, "cr3": pml4, "cr4": _CR4_PAE, "efer": _EFER_LME | _EFER_LMA}
        | registers
    )


def real_mode(segment: int, offset: int, **registers: int) -> dict[str, int]:
    """Real mode at `segment`:`offset` with all data segments the same, interrupts off."""
    state = {"rip": offset, "rflags": _RFLAGS_FIXED}
    for name in ("cs", "ds", "es", "fs", "gs", "ss"):
        state[f"{name}.selector"] = segment
        state[f"{name}.base"] = segment << 4
    return state | registers


def _flat(rip: int, code: int) -> dict[str, int]:
    state = {
        "rip": rip,
        "rsp": STACK_TOP_GPA,
        "rflags": _RFLAGS_FIXED,
        "gdtr.base": GDT_GPA,
        "gdtr.limit": 8 * len(_GDT) - 1,
        "idtr.base": 0,
        "idtr.limit": 0,
        "ldtr.selector": 0,
        "ldtr.base": 0,
        "ldtr.limit": 0,
        "ldtr.attributes": _UNUSABLE,
        "tr.selector": 0,
        "tr.base": 0,
        "tr.limit": 0x67,
        "tr.attributes": _TSS_BUSY,
    }
    for name in ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", *(f"r{n}" for n in range(8, 16))):
        state[name] = 0
    for name in ("cs", "ds", "es", "fs", "gs", "ss"):
        is_code = name == "cs"
        state[f"{name}.selector"] = CODE_SELECTOR if is_code else DATA_SELECTOR
        state[f"{name}.base"] = 0
        state[f"{name}.limit"] = _LIMIT_4G
        state[f"{name}.attributes"] = code if is_code else _DATA
    return state
