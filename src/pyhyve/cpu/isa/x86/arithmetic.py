"""Kernels of integer instructions too large for a stencil: division, rotation through carry, decimal adjustment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.cpu.isa.x86 import faults, flags
from pyhyve.cpu.isa.x86.state import STATE, Gpr
from pyhyve.cpu.lang import U64, Int, Pointer, kernel, u64

if TYPE_CHECKING:
    from pyhyve.cpu.lang import Kernel

P = Pointer(STATE)


def _make_divide(bits: int, *, signed: bool) -> Kernel:
    kind = Int(bits)
    wide = 2 * bits

    @kernel(P, kind, name=f"x86.{'i' if signed else ''}div{bits}", attributes="nounwind noinline")
    def divide(st: Any, divisor: Any) -> None:
        """rDX:rAX (or AX) by `divisor`; #DE when it is zero or the quotient does not fit."""
        if divisor == 0:
            faults.de(st)
            return
        accumulator = st.gpr[Gpr.RAX]
        if bits == 8:
            dividend = accumulator.trunc(16)
        else:
            dividend = (st.gpr[Gpr.RDX].trunc(bits).zext(wide) << bits) | accumulator.trunc(bits).zext(wide)
        if signed:
            by = divisor.sext(wide)
            lowest = (dividend * 0 + 1) << (wide - 1)
            if dividend == lowest and divisor == (1 << bits) - 1:
                faults.de(st)
                return
            quotient = dividend.sdiv(by)
            remainder = dividend.srem(by)
            if quotient.trunc(bits).sext(wide) != quotient:
                faults.de(st)
                return
        else:
            if (dividend >> bits).trunc(bits) >= divisor:
                faults.de(st)
                return
            by = divisor.zext(wide)
            quotient = dividend // by
            remainder = dividend % by
        if bits == 8:
            both = quotient.trunc(8).zext(64) | (remainder.trunc(8).zext(64) << 8)
            st.gpr[Gpr.RAX] = (accumulator & ~u64(0xFFFF)) | both
        elif bits == 16:
            st.gpr[Gpr.RAX] = (accumulator & ~u64(0xFFFF)) | quotient.trunc(16).zext(64)
            st.gpr[Gpr.RDX] = (st.gpr[Gpr.RDX] & ~u64(0xFFFF)) | remainder.trunc(16).zext(64)
        else:
            st.gpr[Gpr.RAX] = quotient.trunc(bits).zext(64)
            st.gpr[Gpr.RDX] = remainder.trunc(bits).zext(64)

    return divide


def _make_divide64(*, signed: bool) -> Kernel:
    """128 by 64 bits, through the host's instruction: LLVM would call a library for it."""
    plain = _make_unsigned_128()

    @kernel(P, U64, name=f"x86.{'i' if signed else ''}div64", attributes="nounwind noinline")
    def divide(st: Any, divisor: Any) -> None:
        low = st.gpr[Gpr.RAX]
        high = st.gpr[Gpr.RDX]
        by = divisor
        negative: U64 = 0
        flip: U64 = 0
        if signed:
            if (high >> 63) != 0:
                negative = u64(1)
                flip = u64(1)
                low = ~low + 1
                high = ~high
                if low == 0:
                    high = high + 1
            if (by >> 63) != 0:
                flip = flip ^ 1
                by = ~by + 1
        if high >= by:
            faults.de(st)
            return
        plain(st, low, high, by)
        quotient = st.bounce[0]
        remainder = st.bounce[1]
        if signed:
            limit: U64 = (1 << 63) - 1
            if quotient > limit + flip:
                faults.de(st)
                return
            if flip != 0:
                quotient = ~quotient + 1
            if negative != 0:
                remainder = ~remainder + 1
        st.gpr[Gpr.RAX] = quotient
        st.gpr[Gpr.RDX] = remainder

    return divide


_unsigned_128: list[Kernel] = []


def _make_unsigned_128() -> Kernel:
    if not _unsigned_128:

        @kernel(P, U64, U64, U64, name="x86.divide_128")
        def divide_128(st: Any, low: Any, high: Any, by: Any) -> None:
            """`bounce[0]`, `bounce[1]` := quotient and remainder of high:low by `by`, which is larger than high."""
            b = st.builder
            pair = b.asm(
                "divq $4",
                "={rax},={rdx},{rax},{rdx},r,~{flags}",
                "{ i64, i64 }",
                [("i64", low.get().ir), ("i64", high.get().ir), ("i64", by.get().ir)],
            )
            st.bounce[0] = b.let(f"extractvalue {{ i64, i64 }} {pair}, 0", U64)
            st.bounce[1] = b.let(f"extractvalue {{ i64, i64 }} {pair}, 1", U64)

        _unsigned_128.append(divide_128)
    return _unsigned_128[0]


divide: dict[tuple[int, bool], Kernel] = {
    **{(bits, signed): _make_divide(bits, signed=signed) for bits in (8, 16, 32) for signed in (False, True)},
    (64, False): _make_divide64(signed=False),
    (64, True): _make_divide64(signed=True),
}


def _make_rotate_carry(bits: int, name: str) -> Kernel:
    @kernel(P, U64, U64, result=U64, name=f"x86.{name}{bits}", attributes="nounwind noinline")
    def rotate(st: Any, value: Any, count: Any) -> Any:
        """The rotated value; the new `fl_aux` is left in `last_error`."""
        aux = st.fl_aux
        carry = (aux >> flags.AUX_CF).zext(64)
        amount = count & (63 if bits == 64 else 31)
        if bits < 32:
            amount = amount % (bits + 1)
        if amount == 0:
            # A masked count that the width divides away still is no rotation at all for CF; OF too.
            st.last_error = aux
            return value
        result = value
        i: U64 = 0
        while i < amount:
            if name == "rcl":
                out = (result >> (bits - 1)) & 1
                result = (result << 1) | carry
                carry = out
            else:
                out = result & 1
                result = (result >> 1) | (carry << (bits - 1))
                carry = out
            if bits < 64:
                result = result & ((1 << bits) - 1)
            i += 1
        top = (result >> (bits - 1)) & 1
        if name == "rcl":
            overflow = top ^ carry
        else:
            overflow = top ^ ((result >> (bits - 2)) & 1)
        new = flags.explicit_aux(carry.trunc(1), overflow.trunc(1))
        st.last_error = (aux & 0x3FFFFFFF) | new
        return result

    return rotate


rotate_carry: dict[tuple[int, str], Kernel] = {
    (bits, name): _make_rotate_carry(bits, name) for bits in (8, 16, 32, 64) for name in ("rcl", "rcr")
}

__all__ = ["divide", "rotate_carry"]
