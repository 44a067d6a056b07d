"""Runs single stencils next to the host's own instruction, from the same random state, and compares everything.

A stencil's symbols are replaced by numbers in its IR text, and NEXT by a function that returns. The TLB holds the one
page of memory, at its host address, so the fast paths are what runs.
"""

from __future__ import annotations

import ctypes
import mmap
import random
import re
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import llvmlite.binding as llvm

from pyhyve.cpu.engine.context import FUNCTIONS, PRELUDE
from pyhyve.cpu.isa.x86 import decode_tables
from pyhyve.cpu.isa.x86.context import X86Context
from pyhyve.cpu.isa.x86.flags import read_eflags, write_eflags
from pyhyve.cpu.isa.x86.fpstate import read_mxcsr, write_mxcsr
from pyhyve.cpu.isa.x86.state import STATE
from pyhyve.cpu.lang import Kernel, Module
from pyhyve.cpu.lang.staging import tracing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyhyve.cpu.isa.x86.table import Row
    from pyhyve.cpu.isa.x86.variant import Variant

PAGE: Final = 4096
FX_BYTES: Final = 512
FLAGS: Final = 0x8D5
PC: Final = 0x1234
_HELPERS: Final[tuple[Kernel, ...]] = (read_eflags, write_eflags, read_mxcsr, write_mxcsr)
_SINGLES = (
    0, 0x80000000, 0x3F800000, 0xBF800000, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 1, 0x807FFFFF, 0x7F7FFFFF,
    0x4F000000, 0xCF000000, 0x3F000000, 0x40490FDB,
)  # fmt: skip
_DOUBLES = (
    0, 1 << 63, 0x3FF0 << 48, 0xBFF0 << 48, 0x7FF0 << 48, 0xFFF0 << 48, 0x7FF8 << 48, 0x7FF0000000000001, 1,
    0x7FEFFFFFFFFFFFFF, 0x41E0000000000000, 0x3FE0 << 48, 0x400921FB54442D18, 0x47F0 << 48, 0x3690 << 48,
)  # fmt: skip
_STUB = """
.globl native{n}
native{n}: push %rbx
push %rbp
fxrstor64 (%rdi)
mov 512(%rdi), %rax
mov 520(%rdi), %rcx
mov 528(%rdi), %rdx
mov 536(%rdi), %rbx
mov 544(%rdi), %rsi
push 552(%rdi)
popfq
.byte {code}
pushfq
pop 552(%rdi)
mov %rax, 512(%rdi)
mov %rcx, 520(%rdi)
mov %rdx, 528(%rdi)
mov %rbx, 536(%rdi)
fxsave64 (%rdi)
fninit
pushq $0x1f80
ldmxcsr (%rsp)
pop %rax
cld
pop %rbp
pop %rbx
ret"""


@dataclass(slots=True)
class Case:
    """One instruction with its operands chosen."""

    row: Row
    variant: Variant
    values: list[int] = field(default_factory=list)
    """Register numbers and immediates, by operand."""

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.row.name} {self.variant.forms} {self.values} {self.code.hex(' ')}"

    @property
    def code(self) -> bytes:
        """The instruction's bytes; memory operands are at [rsi]."""
        tokens = self.row.opcode.split()
        prefix = b""
        if tokens[0] in {"NP", "66", "F2", "F3"}:
            token = tokens.pop(0)
            prefix = b"" if token == "NP" else bytes([int(token, 16)])
        escape = b""
        while len(tokens) > 1 and tokens[0] in {"0F", "38", "3A"} and len(escape) < 2 and not tokens[1].startswith("/"):
            escape += bytes([int(tokens.pop(0), 16)])
        opcode = int(tokens.pop(0), 16)
        reg = rm = fixed = None
        mod, immediate = 3, b""
        for token in tokens:
            if token[0] == "/":
                reg, rm = int(token[1:]), 0
            elif token not in {"m", "r"}:
                fixed = int(token.removesuffix("+i"), 16)
        for token, form, value in zip(self.row.operands, self.variant.forms, self.values, strict=True):
            if token == "ST":
                fixed = (fixed or 0) + value
            elif token[0] in "VPG":
                reg = value
            elif token[0] == "I":
                immediate += bytes([value])
            elif form == "m":
                mod, rm = 0, 6
            else:
                rm = value
        wide = self.variant.bits == 64 and self.row.size in {"v", "y"}
        rex = 8 * wide | 4 * (reg is not None and reg > 7) | (rm is not None and rm > 7)
        parts = mod << 6 | ((reg or 0) & 7) << 3 | (rm or 0) & 7
        modrm = b"" if fixed is None and rm is None else bytes([fixed or parts])
        small = b"\x66" if self.variant.bits == 16 and self.row.size in {"v", "z"} else b""
        return small + prefix + (bytes([0x40 | rex]) if rex else b"") + escape + bytes([opcode]) + modrm + immediate


def cases_of(rows: Sequence[Row], seed: int, *, skip: str = "") -> list[Case]:
    """A case for every form of every row whose name does not match `skip`."""
    rnd = random.Random(seed)
    cases = []
    for row in rows:
        if skip and re.fullmatch(skip, row.name):
            continue
        for key in decode_tables.build([row], 1).stencils:
            if key.variant.no_flags:
                continue
            ranges = {"r": 4, "x": 16, "f": 8, "m": 1, "i": 8 if "ST" in row.operands else 24}
            values = [rnd.randrange(ranges[form]) for form in key.variant.forms]
            if len(values) > 1 and key.variant.forms[0] == key.variant.forms[1] and rnd.random() < 0.15:
                values[1] = values[0]
            cases.append(Case(row, key.variant, values))
    return cases


def _render(case: Case, number: int, module: Module) -> str:
    context = X86Context(module, case.variant)
    with tracing(context.builder):
        case.row.semantics(context)
        text = context.render(f"stencil{number}")
    values = {"PC": PC, "PC_low": PC, "PC_high": 0, "NPC": PC + len(case.code), "V3": 8}
    for operand, (form, value) in enumerate(zip(case.variant.forms, case.values, strict=True)):
        base = {"x": STATE.offset("xmm"), "f": STATE.offset("fpr")}.get(form, 0)
        values[f"V{operand}"] = base + value * {"x": 16, "f": 16, "r": 8}.get(form, 1)
    text = re.sub(
        r"ptrtoint \(ptr @(V\d|PC_low|PC_high|PC|NPC)(?:_s32|_u31)? to i64\)", lambda m: str(values[m[1]]), text
    )
    text = re.sub(r"\$\$(V\d|PC|NPC)\b", lambda m: f"$${values[m[1]]}", text)
    code = ",".join(map(str, case.code))
    stub = "\n".join(f'module asm "{line}"' for line in _STUB.format(n=number, code=code).strip().splitlines())
    return f"""{text}
define void @emulated{number}(ptr %st, ptr %tlb, i64 %a0) {{
 call preserve_nonecc void @stencil{number}(ptr %st, ptr %tlb, i64 %a0)
 ret void
}}
{stub}
declare void @native{number}(ptr)
define void @reference{number}(ptr %block) {{
 call void @native{number}(ptr %block)
 ret void
}}"""


def _compile(cases: Sequence[Case]) -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()
    module = Module()
    exported = [item.exported for item in _HELPERS]
    try:
        for item in _HELPERS:
            item.exported = True
            module.need(item)
        parts = [_render(case, number, module) for number, case in enumerate(cases)]
        prelude = PRELUDE.replace('"override-stack-alignment", i32 8', '"override-stack-alignment", i32 16')
        for name in FUNCTIONS:
            head = f"preserve_nonecc void @{name}("
            prelude = prelude.replace(
                f"declare {head}ptr, ptr, i64)", f"define {head}ptr %a, ptr %b, i64 %c) noinline {{\n ret void\n}}"
            )
        parsed = llvm.parse_assembly("\n".join([prelude, module.render(), *parts]))
    finally:
        for item, old in zip(_HELPERS, exported, strict=True):
            item.exported = old
    engine = llvm.create_mcjit_compiler(parsed, llvm.Target.from_default_triple().create_target_machine(opt=1))
    engine.finalize_object()
    return engine


class Memory:
    """Page-aligned memory with a known host address."""

    def __init__(self, size: int) -> None:
        self.bytes = mmap.mmap(-1, -(-size // PAGE) * PAGE)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.bytes))


@dataclass(slots=True)
class Start:
    """A state to start from."""

    xmm: list[bytes]
    registers: list[bytes]
    """Physical x87 registers, 10 bytes each."""
    top: int
    valid: int
    control: int
    status: int
    mxcsr: int
    gpr: list[int]
    flags: int
    memory: bytes


class StencilRunner:
    """Compiled cases and the memory they run on."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self.cases = list(cases)
        self._engine = _compile(cases)
        self._state = Memory(STATE.size_bytes)
        self._tlb = Memory(1024 * 32)
        self._tables = {name: Memory(16 * PAGE) for name in ("tlb_victims", "tlb_victim_marks", "tlb_marks", "tlb_log")}
        self._tables["tlb_victims"].bytes[:] = b"\xff" * 16 * PAGE
        self._memory = Memory(PAGE)
        self._block = Memory(PAGE)
        self._tlb.bytes[:] = b"\xff" * len(self._tlb.bytes)
        entry = (self._memory.address >> 12 & 1023) * 32
        self._tlb.bytes[entry : entry + 24] = struct.pack("<3Q", self._memory.address, self._memory.address, 0)

    def _function(self, name: str, arguments: int, *, result: bool = False) -> Any:
        kind = ctypes.CFUNCTYPE(ctypes.c_uint64 if result else None, *[ctypes.c_uint64] * arguments)
        return kind(self._engine.get_function_address(name))

    def put(self, name: str, value: int | bytes, index: int = 0) -> None:
        """Write a state field (an integer takes the field's size)."""
        offset = STATE.offset(name, index)
        kind: Any = STATE.fields[name][1]
        size = getattr(kind, "element", kind).size_bytes
        data = value if isinstance(value, bytes) else value.to_bytes(size, "little")
        self._state.bytes[offset : offset + len(data)] = data

    def get(self, name: str, index: int = 0) -> int:
        """Read a state field."""
        offset = STATE.offset(name, index)
        kind: Any = STATE.fields[name][1]
        size = getattr(kind, "element", kind).size_bytes
        return int.from_bytes(self._state.bytes[offset : offset + size], "little")

    def native(self, number: int, start: Start) -> tuple[bytes, bytes]:
        """FXSAVE image with general registers and flags behind it, and memory, after the host's instruction."""
        stack = b"".join(start.registers[(start.top + i) & 7] + bytes(6) for i in range(8))
        head = struct.pack(
            "<HHBBHQQII", start.control, start.status | start.top << 11, start.valid, 0, 0, 0, 0, start.mxcsr, 0xFFFF
        )
        image = (head + stack + b"".join(start.xmm)).ljust(FX_BYTES, b"\0")
        image += struct.pack("<6Q", *start.gpr, self._memory.address, start.flags)
        self._block.bytes[: len(image)] = image
        self._memory.bytes[: len(start.memory)] = start.memory
        self._function(f"reference{number}", 1)(self._block.address)
        return self._block.bytes[: len(image)], self._memory.bytes[: len(start.memory)]

    def emulate(self, number: int, start: Start, *, cr4: int = 0x40600) -> tuple[bytes, bytes]:
        """The same after the stencil; afterwards `get` reads the state."""
        state = self._state
        state.bytes[:] = bytes(len(state.bytes))
        self._memory.bytes[: len(start.memory)] = start.memory
        self.put("xmm", b"".join(start.xmm))
        self.put("fpr", b"".join(r + bytes(6) for r in start.registers))
        fields = {
            "fp_control": start.control, "fp_status": start.status, "fp_top": start.top, "fp_valid": start.valid,
            "cr0": 1, "cr4": cr4, "xcr0": 3, "mode": 0x28, "eflags": 2, "tlb": self._tlb.address,
            "tlb_base": self._tlb.address, **{name: table.address for name, table in self._tables.items()},
        }  # fmt: skip
        for name, value in fields.items():
            self.put(name, value)
        for index, value in enumerate(start.gpr):
            self.put("gpr", value, index)
        self._function(write_eflags.name, 3)(state.address, start.flags, FLAGS)
        set_mxcsr = self._function(write_mxcsr.name, 2)
        set_mxcsr(state.address, start.mxcsr)
        try:
            self._function(f"emulated{number}", 3)(state.address, self._tlb.address, self._memory.address)
            mxcsr = self._function(read_mxcsr.name, 1, result=True)(state.address)
        finally:
            set_mxcsr(state.address, 0x1F80)
        flags = self._function(read_eflags.name, 1, result=True)(state.address)
        top = self.get("fp_top")
        base = STATE.offset("fpr")
        registers = [state.bytes[base + 16 * i : base + 16 * i + 10] for i in range(8)]
        head = struct.pack(
            "<HHBBHQQII", self.get("fp_control"), self.get("fp_status") | top << 11, self.get("fp_valid"), 0, 0, 0, 0,
            mxcsr, 0xFFFF,
        )  # fmt: skip
        stack = b"".join(registers[(top + i) & 7] + bytes(6) for i in range(8))
        xmm = state.bytes[STATE.offset("xmm") : STATE.offset("xmm") + 256]
        image = (head + stack + xmm).ljust(FX_BYTES, b"\0")
        image += struct.pack("<6Q", *(self.get("gpr", i) for i in range(4)), self._memory.address, flags)
        return image, self._memory.bytes[: len(start.memory)]

    def difference(self, number: int, start: Start) -> str:
        """What differs between the two, or nothing."""
        native, native_memory = (bytearray(b) for b in self.native(number, start))
        ours, our_memory = (bytearray(b) for b in self.emulate(number, start))
        found = []
        if self.get("stop"):
            found.append(f"stopped with vector {self.get('event_vector')}")
        for image in (native, ours):
            image[5:24] = bytes(19)  # pointers and opcode of the last instruction
            image[28:32] = bytes(4)  # MXCSR_MASK
            image[416:FX_BYTES] = bytes(96)
            flags = struct.unpack_from("<Q", image, FX_BYTES + 40)[0] & FLAGS
            struct.pack_into("<Q", image, FX_BYTES + 40, flags)
        found += [
            f"{offset:#x}: {ours[offset : offset + 8].hex(' ')} instead of {native[offset : offset + 8].hex(' ')}"
            for offset in range(0, len(native), 8)
            if native[offset : offset + 8] != ours[offset : offset + 8]
        ]
        if native_memory != our_memory:
            found.append(f"memory {our_memory[:16].hex(' ')} instead of {native_memory[:16].hex(' ')}")
        return f"{self.cases[number].name}: {found} from {start}" if found else ""


def _lanes(rnd: random.Random, size: int) -> bytes:
    kind = rnd.randrange(5)
    if kind == 0:
        return rnd.randbytes(size)
    if kind == 1:
        return struct.pack(f"<{size // 4}I", *(rnd.choice(_SINGLES) for _ in range(size // 4)))
    if kind == 2:
        return struct.pack(f"<{size // 8}Q", *(rnd.choice(_DOUBLES) for _ in range(size // 8)))
    if kind == 3:
        return struct.pack(f"<{size // 8}d", *(rnd.uniform(-1e6, 1e6) for _ in range(size // 8)))
    return bytes(rnd.choice([0, 1, 0x7F, 0x80, 0xFF, 0x41, 3]) for _ in range(size))


def _extended(rnd: random.Random) -> bytes:
    sign = rnd.getrandbits(1) << 15
    if rnd.random() < 0.3:
        return struct.pack("<QH", *rnd.choice([
            (0, sign), (1 << 63, 0x7FFF | sign), (3 << 62, 0x7FFF | sign), (1 << 63 | 5, 0x7FFF | sign), (1, sign),
            (1 << 63, 1 | sign), ((1 << 64) - 1, 0x7FFE | sign), (1 << 62, 0x3FFF | sign),
        ]))  # fmt: skip
    return struct.pack("<QH", rnd.getrandbits(64) | 1 << 63, rnd.randrange(0x3FFF - 70, 0x3FFF + 70) | sign)


def random_start(rnd: random.Random, *, unmasked: bool = False) -> Start:
    """A state; `unmasked`: with x87 exceptions that the control word lets through (none pending)."""
    top = rnd.randrange(8)
    controls = (rnd.randrange(64) if unmasked else 0x3F) | rnd.choice([0, 2, 3, 3]) << 8 | rnd.randrange(4) << 10
    sticky = rnd.choice([0, 0x3F, rnd.randrange(64)])
    numbers = (rnd.getrandbits(64), rnd.getrandbits(32), rnd.randrange(40), -rnd.randrange(40) & (1 << 64) - 1)
    return Start(
        xmm=[_lanes(rnd, 16) for _ in range(16)],
        registers=[_extended(rnd) for _ in range(8)],
        top=top,
        valid=rnd.choice([0, 255, 255, 255, rnd.randrange(256), 1 << top | 1 << ((top + 1) & 7)]),
        control=0x40 | controls,
        status=rnd.choice([0, 0x4700]) | (0 if unmasked else rnd.randrange(0x80)),
        mxcsr=0x1F80 | rnd.choice([0, 0, 0x6000, 0x2000, 0x4000, 0x8000, 0x40]) | sticky,
        gpr=[rnd.choice(numbers) for _ in range(4)],
        flags=0x202 | rnd.randrange(0x1000) & FLAGS,
        memory=_lanes(rnd, 64) if rnd.random() < 0.7 else _extended(rnd) + _lanes(rnd, 64)[:54],
    )
