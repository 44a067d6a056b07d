"""Makers of SSE semantics: the host executes the guest's own instruction on values from the guest's state.

A template is AT&T syntax. An immediate byte is the patched symbol V2 (`$$V2`: a literal dollar, then the symbol), so a
stencil serves all its values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.cpu.engine.state import PAGE_BYTES
from pyhyve.cpu.isa.x86 import faults
from pyhyve.cpu.isa.x86.flags import AUX_CF, AUX_PO
from pyhyve.cpu.isa.x86.memory import current_index, mmu, store
from pyhyve.cpu.isa.x86.paging import check_canonical
from pyhyve.cpu.isa.x86.simd_exceptions import VECTOR, guarded
from pyhyve.cpu.isa.x86.state import STATE, Gpr, Seg
from pyhyve.cpu.isa.x86.strings import address_mask, string_linear
from pyhyve.cpu.lang import U8, U64, Int, Pointer, Value, kernel, u64
from pyhyve.cpu.lang.builder import UNLIKELY

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.cpu.isa.x86.context import X86Context

    Semantics = Callable[[X86Context], None]

IMMEDIATE = "$$V2, "
_SUFFIX = {32: "d", 64: "q"}


@kernel(Pointer(STATE), U64, U64, U64, U64, U64, name="simd.masked_store", attributes="nounwind noinline")
def masked_store(st: Any, segment: Any, address_bits: Any, size: Any, data: Any, mask: Any) -> None:
    """Write those of `size` bytes whose mask byte has bit 7 set; `data` and `mask` are host addresses. May fault.

    As on processors, all of them must be writable, checked in halves of 8 bytes from the upper one down, and offsets
    wrap between the halves.
    """
    offset = st.gpr[Gpr.RDI] & address_mask(st, address_bits)
    half = size
    while half != 0:
        half -= 8
        linear = string_linear(st, (offset + half) & address_mask(st, address_bits), segment, u64(8), u64(1))
        if st.stop != 0:
            return
        if (linear & (PAGE_BYTES - 1)) + 8 > PAGE_BYTES:
            check_canonical(st, linear + 7)
            if st.stop != 0:
                return
        mmu.probe_write(st, linear, 8, current_index(st))
        if st.stop != 0:
            return
    i = u64(0)
    linear = u64(0)
    while i < size:
        if (i & 7) == 0:
            linear = string_linear(st, (offset + i) & address_mask(st, address_bits), segment, u64(8), u64(1))
        if (mask.cast(U8)[i] & 0x80) != 0:
            store(st, linear + (i & 7), 1, data.cast(U8)[i].zext(64))
            if st.stop != 0:
                return
        i += 1


def masked_move(c: X86Context, size: int) -> None:
    """MASKMOVDQU, MASKMOVQ: to DS:[rDI] (the segment may be overridden), bytes of operand 0 chosen by operand 1."""
    override = c.symbol("V3", "u31")
    segment = c.builder.select(override < len(Seg), override, c.constant(Seg.DS))
    bits = c.constant(c.variant.address_bits)
    c.call(masked_store, segment, bits, c.constant(size), c.slot(0, 8).address(), c.slot(1, 8).address())


# Operands.
def require_alignment(c: X86Context) -> None:
    """#GP(0) unless the effective address is a multiple of 16."""
    for bad in c.builder.branch((c.address & 15) != 0, UNLIKELY):
        if bad:
            c.save_pc()
            faults.gp(c.st)
            c.builder.ret()


def widen(c: X86Context, value: Value) -> str:
    """An integer of 16 to 64 bits in the low end of a vector of zeros."""
    now = value.zext(32) if value.bits < 32 else value.get()
    lanes = 128 // now.bits
    name, cast = "%" + c.builder.fresh("x"), "%" + c.builder.fresh("x")
    kind = f"<{lanes} x i{now.bits}>"
    c.builder.emit(f"{name} = insertelement {kind} zeroinitializer, i{now.bits} {now.ir}, i32 0")
    c.builder.emit(f"{cast} = bitcast {kind} {name} to {VECTOR}")
    return cast


def low(c: X86Context, vector: str, bits: int = 64) -> Value:
    """The low `bits` of a vector as an integer."""
    lanes = 128 // bits
    cast, name = "%" + c.builder.fresh("x"), "%" + c.builder.fresh("x")
    c.builder.emit(f"{cast} = bitcast {VECTOR} {vector} to <{lanes} x i{bits}>")
    c.builder.emit(f"{name} = extractelement <{lanes} x i{bits}> {cast}, i32 0")
    return Value(c.builder, name, Int(bits))


def source(c: X86Context, operand: int, bits: int = 128, *, aligned: bool = True) -> str:
    """A vector operand; of memory only `bits` are read (and the rest is zero), of an MMX register 64."""
    form = c.form(operand)
    if form == "x":
        return c.load_vector(c.slot(operand, 8), 128)
    if form == "f":
        return widen(c, c.builder.load(c.slot(operand, 64)))
    if bits == 128:
        if aligned:
            require_alignment(c)
        return c.load_vector(c.read_pointer(c.address, 16).cast(Int(8)), 128)
    return widen(c, c.load(c.address, bits))


def apply(c: X86Context, template: str, *operands: str, tied: bool = True) -> str:
    """Run `template` on vectors: `$0` the result, which `tied` starts as the first of the operands."""
    constraints = ["=x", "0" if tied else "x", *("x" for _ in operands[1:])]
    return c.builder.asm(template, ",".join(constraints), VECTOR, [(VECTOR, o) for o in operands])


# Semantics by shape.
def binary(name: str, bits: int = 128, *, immediate: bool = False, floating: bool = False) -> Semantics:
    """V = V op W."""
    template = f"{name} {IMMEDIATE if immediate else ''}$2, $0"

    def semantics(c: X86Context) -> None:
        b = source(c, 1, bits)
        a = source(c, 0)

        def run() -> str:
            return apply(c, template, a, b)

        c.write_vector(0, guarded(c, run, name, a, b, immediate=immediate) if floating else run())

    return semantics


def unary(name: str, bits: int = 128, *, immediate: bool = False, floating: bool = False) -> Semantics:
    """V = op W."""
    template = f"{name} {IMMEDIATE if immediate else ''}$1, $0"

    def semantics(c: X86Context) -> None:
        a = source(c, 1, bits)

        def run() -> str:
            return apply(c, template, a, tied=False)

        c.write_vector(0, guarded(c, run, name, a) if floating else run())

    return semantics


def shift_immediate(name: str) -> Semantics:
    """U = U shifted by an immediate."""

    def semantics(c: X86Context) -> None:
        c.write_vector(0, apply(c, f"{name} $$V1, $0", source(c, 0)))

    return semantics


def to_general(name: str, bits: int = 128, *, immediate: bool = False, floating: bool = False) -> Semantics:
    """General register = op W, as wide as the operand size."""
    template = f"{name} {IMMEDIATE if immediate else ''}$1, $0"

    def semantics(c: X86Context) -> None:
        kind = Int(c.bits)
        a = source(c, 1, bits)

        def run() -> str:
            return c.builder.asm(template, "=r,x", kind.ir, [(VECTOR, a)])

        c.write(0, Value(c.builder, guarded(c, run) if floating else run(), kind))

    return semantics


def from_general(name: str) -> Semantics:
    """V = V op E; the mnemonic takes the size suffix of the operand."""

    def semantics(c: X86Context) -> None:
        b = c.read(1)
        a = source(c, 0)
        template = f"{name}{'q' if c.bits == 64 else 'l'} $2, $0"

        def run() -> str:
            return c.builder.asm(template, "=x,0,r", VECTOR, [(VECTOR, a), (b.kind.ir, b.ir)])  # type: ignore[union-attr]

        c.write_vector(0, guarded(c, run))

    return semantics


def insert(name: str, bits: int) -> Semantics:
    """V with one element replaced by `bits` of E (0: as wide as the operand size, which completes the name)."""

    def semantics(c: X86Context) -> None:
        width = bits or c.bits
        mnemonic = name if bits else name + _SUFFIX[c.bits]
        value = c.read(1, width)
        b = value.zext(32) if width < 32 else value
        operands = [(VECTOR, source(c, 0)), (f"i{b.bits}", b.ir)]
        c.write_vector(0, c.builder.asm(f"{mnemonic} $$V2, $2, $0", "=x,0,r", VECTOR, operands))

    return semantics


def extract(name: str, bits: int) -> Semantics:
    """E = one element of V, zero-extended in a register; `bits` wide in memory (0: the operand size)."""

    def semantics(c: X86Context) -> None:
        kind = Int(64 if (bits or c.bits) == 64 else 32)
        mnemonic = name if bits else name + _SUFFIX[c.bits]
        result = c.builder.asm(f"{mnemonic} $$V2, $1, $0", "=r,x", kind.ir, [(VECTOR, source(c, 1))])
        value = Value(c.builder, result, kind)
        c.write(0, value.trunc(bits or c.bits) if c.form(0) == "m" else value)

    return semantics


def implicit_mask(name: str) -> Semantics:
    """V blended with W where XMM0 says so."""

    def semantics(c: X86Context) -> None:
        b = source(c, 1)
        mask = c.load_vector(c.st.ref("xmm"), 128)
        operands = [(VECTOR, source(c, 0)), (VECTOR, b), (VECTOR, mask)]
        c.write_vector(0, c.builder.asm(f"{name} %xmm0, $2, $0", "=x,0,x,{xmm0}", VECTOR, operands))

    return semantics


def flag_outputs(
    c: X86Context,
    template: str,
    conditions: str,
    constraints: str,
    operands: list[tuple[str, str]],
    extra: str = "",
    extra_kind: str = "i32",
) -> tuple[list[Value], str]:
    """Run `template`; the EFLAGS conditions named by letters as BOOL values, and the operand of an `extra` output.

    SETcc stands in the template itself: LLVM may clobber flags between two flag outputs of inline assembly.
    """
    outputs = ["=&q"] * len(conditions)
    kinds = ["i8"] * len(outputs)
    template += "".join(f"\\0A set{letter} ${{{index}:b}}" for index, letter in enumerate(conditions))
    if extra:
        outputs.append(extra)
        kinds.append(extra_kind)
    aggregate = f"{{ {', '.join(kinds)} }}"
    result = c.builder.asm(template, ",".join([*outputs, constraints, "~{flags}"]), aggregate, operands)
    names = []
    for index in range(len(kinds)):
        names.append("%" + c.builder.fresh("p"))
        c.builder.emit(f"{names[-1]} = extractvalue {aggregate} {result}, {index}")
    flags = [Value(c.builder, name, U8).trunc(1) for name in names[: len(conditions)]]
    return flags, names[-1] if extra else ""


def set_flags(c: X86Context, **which: Value) -> None:
    """Set ZF, PF, CF, SF, OF from BOOL values (absent: clear), AF clear."""
    zero = c.constant(0, 1)
    zf, cf, of, sf, pf = (which.get(name, zero) for name in ("zf", "cf", "of", "sf", "pf"))
    # The stored result is 0 (ZF and even parity) or 1; auxiliary bits correct SF and PF.
    result = (zf ^ 1).zext(64)
    odd = (zf ^ pf).zext(32)
    aux = (cf.zext(32) << AUX_CF) | ((cf ^ of).zext(32) << AUX_PO) | (odd << 8) | sf.zext(32)
    c.set_flags(result, aux)


def compare(name: str, bits: int) -> Semantics:
    """Ordered or unordered comparison of scalars into ZF, PF and CF."""

    def semantics(c: X86Context) -> None:
        b = source(c, 1, bits)
        a = source(c, 0)
        operands = [(VECTOR, a), (VECTOR, b)]
        found: list[list[Value]] = []

        def run() -> str:
            found.append(flag_outputs(c, f"{name} $4, $3", "zpc", "x,x", operands)[0])
            return ""

        guarded(c, run)
        zf, pf, cf = found[-1]
        set_flags(c, zf=zf, pf=pf, cf=cf)

    return semantics
