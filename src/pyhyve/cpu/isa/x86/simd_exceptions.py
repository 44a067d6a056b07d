"""SIMD floating-point exceptions that the guest has not masked (SDM Vol. 1, 11.5).

The host's MXCSR holds the guest's controls with every exception masked (see `fpstate`). When the guest has unmasked
one, a cold path runs the instruction first with clean flags, and raises #XM if it sets a flag that is not masked.

The masked response is not all there is to know then: next to an unmasked overflow or underflow, PE tells whether the
result would be inexact with an unbounded exponent (11.5.2.4 to 11.5.2.6). The x87 unit, rounding to the same number of
bits with its wider exponent, finds out.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any, Final

from pyhyve.cpu.isa.x86 import faults
from pyhyve.cpu.isa.x86.fpstate import MXCSR_FLAGS, MXCSR_MASKS
from pyhyve.cpu.isa.x86.spec import Cr4
from pyhyve.cpu.isa.x86.state import STATE
from pyhyve.cpu.lang import U16, U64, Int, Pointer, Value, current, inline, kernel, u32, u64
from pyhyve.cpu.lang.builder import UNLIKELY

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.cpu.isa.x86.context import X86Context
    from pyhyve.cpu.lang import Kernel

VECTOR = "<16 x i8>"
P = Pointer(STATE)
OPERAND_BYTES: Final = 16
_EARLY: Final = 0x07
"""IE, DE, ZE: found before anything is computed."""
_OE, _UE, _PE = 1 << 3, 1 << 4, 1 << 5
_UM: Final = 1 << 11
_DAZ, _FTZ = 1 << 6, 1 << 15
_PACKED: Final = re.compile(r"(add|sub|mul|div|hadd|hsub|addsub)([ps])([sd])")


@kernel(P, U64, U64, name="simd.report", attributes=faults.COLD)
def report(st: Any, old: Any, raised: Any) -> None:
    """#XM (or #UD without CR4.OSXMMEXCPT); MXCSR has the flags `old` and `raised`."""
    st.fp_pad = (old | raised).trunc(32)
    load_mxcsr(st)
    if (st.cr4 & Cr4.OSXMMEXCPT) != 0:
        faults.xm(st)
    else:
        faults.ud(st)


@inline
def reported(st: Any, raised: Any) -> Any:
    """Which of the flags that one computation raised are reported.

    When one found before it (invalid, denormal, divide by zero) is unmasked, nothing is computed and the flags of the
    result are not set (SDM Vol. 1, 11.5.1).
    """
    kept = raised.get()
    if (kept & ~(st.mxcsr >> 7).zext(64) & _EARLY) != 0:
        kept = kept & _EARLY
    return kept.get()


@kernel(P, U64, U64, name="simd.raise_unmasked", attributes=faults.COLD)
def raise_unmasked(st: Any, old: Any, raised: Any) -> None:
    """`report` after a single computation."""
    report(st, old, reported(st, raised))


@inline
def unmasked(st: Any, flags: Any) -> Any:
    """Those of `flags` (64 bits) that the guest does not mask."""
    return flags & ~(st.mxcsr >> 7).zext(64) & MXCSR_FLAGS


def load_mxcsr(st: Value) -> None:
    """The host's MXCSR from `fp_pad`."""
    current().asm("ldmxcsr ($0)", "r,~{memory}", "void", [("ptr", st.ref("fp_pad").ir)])


def _store_mxcsr(st: Value) -> None:
    current().asm("stmxcsr ($0)", "r,~{memory}", "void", [("ptr", st.ref("fp_pad").ir)])


def _trial(st: Value, mxcsr: Value, run: Callable[[], object]) -> Value:
    """Flags that the instruction sets under `mxcsr`."""
    st.fp_pad = mxcsr
    load_mxcsr(st)
    run()
    _store_mxcsr(st)
    return st.fp_pad & MXCSR_FLAGS


def _raised(st: Value, controls: Value, run: Callable[[], object]) -> tuple[Value, Value]:
    """Flags of the masked response under `controls`, and those with an unmasked underflow.

    The latter is reported for exact results too; flushing to zero shows those.
    """
    first = _trial(st, controls, run)
    flushed = _trial(st, controls | _FTZ, run)
    return first, first | current().select((st.mxcsr & _UM) == 0, flushed & _UE, u32(0))


def guarded(c: X86Context, run: Callable[[], str], name: str = "", *operands: str, immediate: bool = False) -> str:
    """Result of `run`, which emits the host instruction `name`; before it, the trial that unmasked exceptions need.

    `operands` are its vectors; with `immediate` its immediate byte is V2. Without a name the instruction can neither
    overflow nor underflow.
    """
    st = c.st
    for any_unmasked in c.builder.branch((~st.mxcsr & MXCSR_MASKS) != 0, UNLIKELY):
        if any_unmasked:
            _store_mxcsr(st)
            old = st.fp_pad
            first, raised = _raised(st, old & ~u32(MXCSR_FLAGS), run)
            for bad in c.builder.branch((raised & ~(st.mxcsr >> 7)) != 0):
                if bad:
                    c.save_pc()
                    flags = exact_flags(name)
                    if flags is None:
                        raise_unmasked(st, old.zext(64), raised.zext(64))
                    else:
                        for index, operand in enumerate(operands):
                            c.store_vector(st.ref("bounce").offset(OPERAND_BYTES * index).cast(Int(8)), operand, 128)
                        report(st, old.zext(64), flags(st, c.symbol("V2") if immediate else u64(0)))
                    c.builder.ret()
            st.fp_pad = old | first
            load_mxcsr(st)
    return run()


# One element.
@functools.cache
def _element_flags(operation: str, bits: int) -> Kernel:
    """Flags of `operation` on the elements at two host addresses (`cvt`: of the first, to single precision)."""
    suffix = "s" if bits == 32 else "d"
    size, exponent, sign = ("s", 0x7F80_0000, 1 << 31) if bits == 32 else ("l", 0x7FF << 52, 1 << 63)
    if operation == "cvt":
        scalar = "cvtsd2ss ($0), %xmm0"
        extended = "fldl ($0)\\0A fld1\\0A fmulp"
    else:
        scalar = f"movs{suffix} ($0), %xmm0\\0A {operation}s{suffix} ($1), %xmm0"
        extended = f"fld{size} ($0)\\0A f{operation}{size} ($1)"
    precision = 0x200 if bits == 64 and operation != "cvt" else 0

    @kernel(P, U64, U64, result=U64, name=f"simd.flags_{operation}{bits}", attributes=faults.COLD)
    def flags(st: Any, x: Any, y: Any) -> Any:
        b = current()
        operands = [("i64", x.get().ir), ("i64", y.get().ir)]
        _, raised = _raised(
            st, (st.mxcsr & ~u32(MXCSR_FLAGS)) | MXCSR_MASKS,
            lambda: b.asm(scalar, "r,r,~{xmm0},~{memory}", "void", operands),
        )  # fmt: skip
        result = raised.zext(64)
        if (unmasked(st, result) & (_OE | _UE)) != 0:
            if (st.mxcsr & _DAZ) != 0:
                for place in (x, y):
                    element = place.cast(Int(bits))
                    if (element[0] & exponent) == 0:
                        element[0] = element[0] & sign
            st.fp_pad = u32(0x3F | precision) | ((st.mxcsr >> 13) & 3) << 10
            status = b.asm(
                f"fldcw ($3)\\0A {extended.replace('($1)', '($2)').replace('($0)', '($1)')}\\0A fnstsw %ax\\0A fninit",
                "={ax},r,r,r,~{memory},~{fpsr},~{st},~{st(1)}", "i16",
                [*operands, ("ptr", st.ref("fp_pad").ir)],
            )  # fmt: skip
            result = (result & ~u64(_PE)) | (Value(b, status, U16).zext(64) & _PE)
        return result

    return flags


# Whole instructions: kernels of state and immediate, with the operands at `bounce`.
def exact_flags(name: str) -> Kernel | None:
    """Flags to report for `name`, once one of them is unmasked; None when the trial has told all."""
    found = _PACKED.fullmatch(name)
    if found:
        return _packed_flags(*found.groups())
    if name in {"cvtpd2ps", "cvtsd2ss"}:
        return _conversion_flags(name)
    if name in {"dpps", "dppd"}:
        return _dot_product_flags(32 if name == "dpps" else 64)
    return None


@functools.cache
def _packed_flags(operation: str, packing: str, precision: str) -> Kernel:
    bits = 32 if precision == "s" else 64
    size = bits // 8
    lanes = OPERAND_BYTES // size if packing == "p" else 1

    @kernel(P, U64, result=U64, name=f"simd.flags_{operation}{packing}{precision}", attributes=faults.COLD)
    def flags(st: Any, _immediate: Any) -> Any:
        base = st.ref("bounce").address()
        total = u64(0)
        for lane in range(lanes):
            if operation in {"hadd", "hsub"}:
                total |= _element_flags(operation[1:], bits)(st, base + 2 * size * lane, base + size * (2 * lane + 1))
            else:
                kind = ("add" if lane & 1 else "sub") if operation == "addsub" else operation
                total |= _element_flags(kind, bits)(st, base + size * lane, base + OPERAND_BYTES + size * lane)
        return reported(st, total)

    return flags


@functools.cache
def _conversion_flags(name: str) -> Kernel:
    # The packed conversion has one operand; the scalar one converts its second.
    offsets = (0, 8) if name == "cvtpd2ps" else (OPERAND_BYTES,)

    @kernel(P, U64, result=U64, name=f"simd.flags_{name}", attributes=faults.COLD)
    def flags(st: Any, _immediate: Any) -> Any:
        base = st.ref("bounce").address()
        total = u64(0)
        for offset in offsets:
            total |= _element_flags("cvt", 64)(st, base + offset, base + offset)
        return reported(st, total)

    return flags


@functools.cache
def _dot_product_flags(bits: int) -> Kernel:
    """Multiplication, then one or two rounds of additions: the first that raises an unmasked exception is the last."""
    kind, suffix, size = Int(bits), "s" if bits == 32 else "d", bits // 8
    lanes = OPERAND_BYTES // size
    rounds = (2, 1) if lanes == 4 else (1,)
    multiply, add = _element_flags("mul", bits), _element_flags("add", bits)

    @kernel(P, U64, result=U64, name=f"simd.flags_dpp{suffix}", attributes=faults.COLD)
    def flags(st: Any, immediate: Any) -> Any:
        first, second = st.ref("bounce").address(), st.ref("bounce").address() + OPERAND_BYTES
        seen = u64(0)
        for lane in range(lanes):
            if ((immediate >> (4 + lane)) & 1) == 0:
                first.cast(kind)[lane] = 0
                second.cast(kind)[lane] = 0
            seen |= multiply(st, first + size * lane, second + size * lane)
        total = reported(st, seen)
        if unmasked(st, seen) != 0:
            return total
        _masked(st, f"movups ($0), %xmm0\\0A movups ($1), %xmm1\\0A mulp{suffix} %xmm1, %xmm0\\0A movups %xmm0, ($0)")
        for pairs in rounds:
            seen = u64(0)
            for pair in range(pairs):
                seen |= add(st, first + 2 * size * pair, first + size * (2 * pair + 1))
            total = total | reported(st, seen)
            if unmasked(st, seen) != 0:
                return total
            _masked(st, f"movups ($0), %xmm0\\0A haddp{suffix} %xmm0, %xmm0\\0A movups %xmm0, ($0)")
        return total

    return flags


def _masked(st: Value, template: str) -> None:
    """Run `template` on the two operands at `bounce` under the guest's controls, exceptions masked."""
    st.fp_pad = st.mxcsr | MXCSR_MASKS
    load_mxcsr(st)
    base = st.ref("bounce").address()
    operands = [("i64", base.ir), ("i64", (base + OPERAND_BYTES).ir)]
    current().asm(template, "r,r,~{xmm0},~{xmm1},~{memory}", "void", operands)


__all__ = ["OPERAND_BYTES", "VECTOR", "guarded"]
