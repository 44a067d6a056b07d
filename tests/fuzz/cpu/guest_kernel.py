"""A tiny kernel that runs cases inside a virtual machine: loads the state, drops to user mode, records what comes back.

It needs nothing from the machine but memory, so it runs on any virtual CPU that can start at the reset vector: our
engine, QEMU, KVM. The host writes a case to `CASE_GPA`, lets the machine go on, and finds the first ``RESULT_LINES``
bytes of the result record at `RESULT_GPA`. The kernel writes the code itself, as self-modifying code.

The address space of a user program is that of `layout`; the kernel lives where Linux has its own, so that wild accesses
fault alike. The landing pad leads to INT 80h.
"""

from __future__ import annotations

import functools
import struct
from dataclasses import dataclass
from enum import Enum
from typing import Final

from . import layout as at
from .machine_code import GPRS

RAM_SIZE: Final = 2 << 20
USER_GPA: Final = 1 << 20
"""The user pages, as `MemoryImage` lays them out."""
CASE_GPA: Final = 0x2_0000
"""A case record, followed by how its code is put in place:"""
CASE_CODE_PLACE: Final = 0x400
"""u64: kernel address of the first byte (`code_place`)."""
CASE_CODE_SIZE: Final = 0x408
"""u32: number of bytes, landing pad included."""
CASE_CODE_IMAGE: Final = 0x410
"""The bytes; the kernel replaces them by INT3 after the case."""
RESULT_GPA: Final = 0x2_1000
MAILBOX_GPA: Final = 0x2_8000
"""u32: 1 tells a kernel built with `Doorbell.MEMORY` to go on, which sets it to 2 when it has finished the case."""
DOORBELL_PORT: Final = 0xE9
ROM_GPA: Final = 0xFFFF_0000
ROM_SIZE: Final = 0x1_0000

_KERNEL: Final = 0xFFFF_FFFF_C000_0000
"""Physical address 0 in the kernel's half, within reach of a sign-extended 32-bit address."""
_REAL_GDTR, _GDTR, _IDTR, _GDT, _BOOT = 0x500, 0x510, 0x520, 0x600, 0x800
_PML4, _BOOT_PML4, _TABLES = 0x1000, 0x2000, 0x3000
_STACK_TOP: Final = 0x2_3000
_IDT, _TSS, _ENTRY, _HANDLER, _STUBS = 0x2_4000, 0x2_5000, 0x2_6000, 0x2_6100, 0x2_7000
_STUB_SIZE: Final = 16
_SYSCALL_VECTOR: Final = 0x80
_WITH_ERROR_CODE: Final = frozenset({8, 10, 11, 12, 13, 14, 17, 21})
_CODE32, _CODE64, _DATA = 0x08, 0x10, 0x18
_TSS_SELECTOR, _LDT_SELECTOR = 0x40, 0x50
_LDT: Final = 0x2_9000
_FRAME_GPA: Final = 0x2_A000
_FRAME: Final = 0xFFFF_FF00_0000_0000 | at.SAVE
"""Where IRET takes its frame from: going to a 16-bit stack it leaves bits 16-31 of ESP, as it does natively."""

# SDM volume 4, table 2-2 and volume 3A, sections 2.5 and 4.5.
_MSR_EFER, _MSR_FS_BASE, _MSR_GS_BASE = 0xC000_0080, 0xC000_0100, 0xC000_0101
_EFER: Final = 1 << 0 | 1 << 8 | 1 << 11  # SCE, LME, NXE
_CR4: Final = 1 << 5 | 1 << 9 | 1 << 10 | 1 << 18  # PAE, OSFXSR, OSXMMEXCPT, OSXSAVE
_CR0: Final = 1 << 0 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 18 | 1 << 31  # PE MP ET NE WP AM PG
_PRESENT, _WRITABLE, _USER, _LARGE, _NX = 1, 2, 4, 0x80, 1 << 63


class Doorbell(Enum):
    """How kernel and host take turns."""

    PORT = "port"
    """OUT to `DOORBELL_PORT`: the machine's run loop returns."""
    MEMORY = "memory"
    """A word in memory, watched by both."""


@dataclass(frozen=True, slots=True)
class KernelImage:
    """What memory holds at reset: ``RAM_SIZE`` bytes at 0 and ``ROM_SIZE`` bytes at `ROM_GPA`."""

    ram: bytes
    rom: bytes


def code_place(offset: int) -> int:
    """The kernel's address of the byte at ``offset`` from `USER_GPA`."""
    return _KERNEL + USER_GPA + offset


def _assemble(lines: list[str]) -> bytes:
    """Position-independent assembly (Intel syntax) to bytes."""
    import llvmlite.binding as llvm  # whoever has an image already needs no compiler

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()
    triple = "x86_64-unknown-linux-gnu"
    source = "\n".join(f'module asm "{line}"' for line in (".intel_syntax noprefix", ".text", *lines, ".att_syntax"))
    module = llvm.parse_assembly(f'target triple = "{triple}"\n{source}')
    machine = llvm.Target.from_triple(triple).create_target_machine()
    file = llvm.ObjectFileRef.from_data(machine.emit_object(module))
    for section in file.sections():
        if section.is_text():
            return bytes(section.data())
    message = "LLVM emitted no code"
    raise RuntimeError(message)


def _signed(gpa: int) -> str:
    """The kernel's address of a physical one, as a sign-extended 32-bit displacement."""
    return f"[{_KERNEL + gpa - (1 << 64)}]"


def _boot_lines() -> list[str]:
    """From the reset state's real mode to the kernel, at physical `_BOOT`."""
    return [
        ".code16",
        f"lgdtd [{_REAL_GDTR}]",
        "mov eax, 1",
        "mov cr0, eax",
        f".byte 0xea; .word {_BOOT + 0x40}, {_CODE32}",
        ".org 0x40, 0x90",
        ".code32",
        f"mov eax, {_CR4}",
        "mov cr4, eax",
        "xor ecx, ecx",
        "xor edx, edx",
        "mov eax, 3",
        "xsetbv",  # x87 and SSE
        f"mov eax, {_BOOT_PML4}",
        "mov cr3, eax",
        f"mov ecx, {_MSR_EFER}",
        f"mov eax, {_EFER}",
        "xor edx, edx",
        "wrmsr",
        f"mov eax, {_CR0}",
        "mov cr0, eax",
        f".byte 0xea; .long {_BOOT + 0x80}; .word {_CODE64}",
        ".org 0x80, 0x90",
        ".code64",
        f"movabs rax, {_KERNEL + _ENTRY}",
        "jmp rax",
    ]


def _wrmsr(number: int, value: int) -> list[str]:
    return [f"mov ecx, {number}", f"mov eax, {value & 0xFFFF_FFFF}", f"mov edx, {value >> 32}", "wrmsr"]


def _kernel_lines(doorbell: Doorbell) -> list[str]:
    """From the kernel's first instruction to the first case and on from case to case."""
    case, result = functools.partial(_field, CASE_GPA), functools.partial(_field, RESULT_GPA)
    frame = functools.partial(_field, _STACK_TOP)
    lines = [
        f"mov eax, {_PML4}",
        "mov cr3, rax",
        f"lgdt {_signed(_GDTR)}",
        f"lidt {_signed(_IDTR)}",
        f"mov eax, {_DATA}",
        "mov ss, eax",
        "xor eax, eax",
        *(f"mov {segment}, eax" for segment in ("ds", "es", "fs", "gs")),
        f"mov eax, {_TSS_SELECTOR}",
        "ltr ax",
        f"mov eax, {_LDT_SELECTOR}",
        "lldt ax",
        *_wrmsr(_MSR_FS_BASE, at.FS_BASE),
        *_wrmsr(_MSR_GS_BASE, at.GS_BASE),
        f"mov rsp, {_KERNEL + _STACK_TOP - (1 << 64)}",
        "jmp wait",
        # Every exception comes here, with vector and error code on top of the interrupt frame.
        f".org {_HANDLER - _ENTRY}, 0x90",
        *(f"mov qword ptr {result(8 * n)}, {name}" for n, name in enumerate(GPRS) if name != "rsp"),
        f"fxsave64 {result(at.RESULT_FX)}",
    ]

    def move(source: int, target: int) -> None:
        lines.extend((f"mov rax, qword ptr {frame(source)}", f"mov qword ptr {result(target)}, rax"))

    move(-16, at.RESULT_GPR + 8 * GPRS.index("rsp"))
    move(-24, at.RESULT_RFLAGS)
    move(-40, at.RESULT_RIP)
    move(-48, at.RESULT_ERROR)
    move(-56, at.RESULT_VECTOR)
    lines += [
        "xor ebx, ebx",
        f"cmp eax, {_SYSCALL_VECTOR}",
        "jne 1f",
        f"mov eax, {at.STUB}",
        f"mov qword ptr {result(at.RESULT_RIP)}, rax",
        f"mov qword ptr {result(at.RESULT_VECTOR)}, {at.VECTOR_DONE}",
        "1: cmp eax, 14",
        "jne 2f",
        "mov rbx, cr2",
        f"2: mov qword ptr {result(at.RESULT_CR2)}, rbx",
        f"mov word ptr {result(at.RESULT_FX + at.FX_FOP)}, 0",
        f"mov qword ptr {result(at.RESULT_FX + at.FX_FOP + 2)}, 0",
        f"mov qword ptr {result(at.RESULT_FX + at.FX_FOP + 10)}, 0",
        f"mov dword ptr {result(at.RESULT_FX + at.FX_MXCSR_MASK)}, 0",
        *(f"mov qword ptr {result(at.RESULT_FX + n)}, 0" for n in range(at.FX_END, at.FX_SIZE, 8)),
        "cld",
        "mov al, 0xcc",
        f"mov rdi, qword ptr {case(CASE_CODE_PLACE)}",
        f"mov ecx, dword ptr {case(CASE_CODE_SIZE)}",
        "rep stosb",
        f"mov rsp, {_KERNEL + _STACK_TOP - (1 << 64)}",
    ]
    mailbox = _signed(MAILBOX_GPA)
    if doorbell is Doorbell.PORT:
        lines += ["wait:", f"out {DOORBELL_PORT}, al"]
    else:
        lines += [f"mov dword ptr {mailbox}, 2", "wait:", "pause", f"cmp dword ptr {mailbox}, 1", "jne wait"]
    others = [(n, name) for n, name in enumerate(GPRS) if name != "rsp"]
    return [
        *lines,
        f"mov rdi, qword ptr {case(CASE_CODE_PLACE)}",
        f"mov ecx, dword ptr {case(CASE_CODE_SIZE)}",
        f"mov rsi, {_KERNEL + CASE_GPA + CASE_CODE_IMAGE - (1 << 64)}",
        "rep movsb",
        f"movabs rsp, {_FRAME + 0x468}",
        f"movzx eax, word ptr {case(at.CASE_SELECTORS + 2)}",
        "push rax",
        f"push qword ptr {case(at.CASE_GPR + 8 * GPRS.index('rsp'))}",
        f"push qword ptr {case(at.CASE_RFLAGS)}",
        f"movzx eax, word ptr {case(at.CASE_SELECTORS)}",
        "push rax",
        f"push qword ptr {case(at.CASE_EIP)}",
        f"mov ds, word ptr {case(at.CASE_SELECTORS + 4)}",
        f"mov es, word ptr {case(at.CASE_SELECTORS + 6)}",
        f"fxrstor64 {case(at.CASE_FX)}",
        *(f"mov {name}, qword ptr {case(at.CASE_GPR + 8 * n)}" for n, name in others),
        "iretq",
    ]


def _field(base: int, offset: int) -> str:
    return _signed(base + offset)


def _stubs() -> dict[int, bytes]:
    """Exception entry points by vector, each ``_STUB_SIZE`` apart."""
    stubs = {}
    for index, vector in enumerate((*range(32), _SYSCALL_VECTOR)):
        code = b"" if vector in _WITH_ERROR_CODE else b"\x6a\x00"  # push 0
        code += b"\x68" + struct.pack("<i", vector)  # push vector
        end = _STUBS + index * _STUB_SIZE + len(code) + 5
        stubs[vector] = code + b"\xe9" + struct.pack("<i", _HANDLER - end)  # jmp
    return stubs


def _descriptor(base: int, kind: int, flags: int) -> bytes:
    """A segment descriptor with the widest limit."""
    return struct.pack("<HHBBBB", 0xFFFF, base & 0xFFFF, base >> 16 & 0xFF, kind, 0xF | flags << 4, base >> 24 & 0xFF)


def _system_descriptor(kind: int, base: int, limit: int) -> bytes:
    """A 16-byte descriptor: of a TSS or an LDT."""
    low, middle, high = base & 0xFFFF, base >> 16 & 0xFF, base >> 24 & 0xFF
    return struct.pack("<HHBBBBII", limit, low, middle, kind, 0, high, base >> 32, 0)


def _ldt() -> bytes:
    """What Linux makes of `layout.LOCAL_SEGMENTS`."""
    parts = []
    for segment in at.LOCAL_SEGMENTS:
        kind = 0xF1 | {"data": 0, "stack": 4, "code": 8}[segment.kind] | (0 if segment.restricted else 2)
        base, flags = segment.base, 4 if segment.wide else 0
        low, middle, high = base & 0xFFFF, base >> 16 & 0xFF, base >> 24
        parts.append(struct.pack("<HHBBBB", segment.limit, low, middle, kind, flags << 4, high))
    return b"".join(parts)


def _gdt() -> bytes:
    tss = _KERNEL + _TSS
    entries = [
        bytes(8),
        _descriptor(0, 0x9B, 0xC),  # 32-bit code
        _descriptor(0, 0x9B, 0xA),  # kernel code
        _descriptor(0, 0x93, 0xC),  # kernel data
        _descriptor(0, 0xFB, 0xC),  # user code of 32 bits: 23h
        _descriptor(0, 0xF3, 0xC),  # user data: 2Bh
        _descriptor(0, 0xFB, 0xA),  # user code: 33h
        bytes(8),
        _system_descriptor(0x89, tss, 0x67),
        _system_descriptor(0x82, _KERNEL + _LDT, 8 * len(at.LOCAL_SEGMENTS) - 1),
    ]
    return b"".join(entries)


def _gate(target: int, privilege: int) -> bytes:
    """A 64-bit interrupt gate."""
    flags = 0x8E | privilege << 5
    return struct.pack("<HHBBHII", target & 0xFFFF, _CODE64, 0, flags, target >> 16 & 0xFFFF, target >> 32, 0)


class _PageTables:
    """Four-level tables built into RAM from `_TABLES` on."""

    def __init__(self, ram: bytearray) -> None:
        self._ram = ram
        self._next = _TABLES

    def map(self, root: int, address: int, gpa: int, flags: int, *, large: bool = False) -> None:
        table = root
        levels = (39, 30, 21) if large else (39, 30, 21, 12)
        for shift in levels[:-1]:
            slot = table + (address >> shift & 511) * 8
            entry: int = struct.unpack_from("<Q", self._ram, slot)[0]
            if not entry:
                entry = self._next | _PRESENT | _WRITABLE | _USER
                self._next += at.PAGE
                struct.pack_into("<Q", self._ram, slot, entry)
            table = entry & ~0xFFF
        slot = table + (address >> levels[-1] & 511) * 8
        struct.pack_into("<Q", self._ram, slot, gpa | flags | (_LARGE if large else 0))


def kernel_image(doorbell: Doorbell, regions: tuple[tuple[int, int, int, str], ...]) -> KernelImage:
    """Build memory's contents at reset.

    Args:
        doorbell: how kernel and host take turns.
        regions: the user pages: address, size, offset from `USER_GPA`, and rights among ``r``, ``w``, ``x``.
    """
    ram = bytearray(RAM_SIZE)

    def put(gpa: int, data: bytes) -> None:
        ram[gpa : gpa + len(data)] = data

    gdt = _gdt()
    put(_GDT, gdt)
    put(_REAL_GDTR, struct.pack("<HI", len(gdt) - 1, _GDT))
    put(_GDTR, struct.pack("<HQ", len(gdt) - 1, _KERNEL + _GDT))
    put(_IDTR, struct.pack("<HQ", at.PAGE - 1, _KERNEL + _IDT))
    put(_LDT, _ldt())
    put(_TSS + 4, struct.pack("<Q", _KERNEL + _STACK_TOP))
    put(_TSS + 0x66, struct.pack("<H", 0x68))  # no I/O permission map
    put(_BOOT, _assemble(_boot_lines()))
    put(_ENTRY, _assemble(_kernel_lines(doorbell)))
    for index, (vector, code) in enumerate(_stubs().items()):
        put(_STUBS + index * _STUB_SIZE, code)
        privilege = 3 if vector in (3, 4, _SYSCALL_VECTOR) else 0
        put(_IDT + 16 * vector, _gate(_KERNEL + _STUBS + index * _STUB_SIZE, privilege))
    tables = _PageTables(ram)
    for root in (_PML4, _BOOT_PML4):
        tables.map(root, _KERNEL, 0, _PRESENT | _WRITABLE, large=True)
    tables.map(_BOOT_PML4, 0, 0, _PRESENT | _WRITABLE, large=True)
    tables.map(_PML4, _FRAME, _FRAME_GPA, _PRESENT | _WRITABLE)
    for address, size, offset, rights in regions:
        flags = _PRESENT | _USER | (_WRITABLE if "w" in rights else 0) | (0 if "x" in rights else _NX)
        for page in range(0, size, at.PAGE):
            tables.map(_PML4, address + page, USER_GPA + offset + page, flags)
        if address == at.STUB:
            put(USER_GPA + offset, at.stub_page(b"\xcd\x80"))
    rom = bytearray(ROM_SIZE)
    rom[-16:-11] = b"\xea" + struct.pack("<HH", _BOOT, 0)  # jmp 0000:_BOOT
    return KernelImage(bytes(ram), bytes(rom))
