"""EFLAGS in a lazy form: every arithmetic instruction stores its result and one word, from which any flag follows.

`fl_result` is the result sign-extended to 64 bits; `fl_aux` holds CF (bit 31), CF xor OF (bit 30), AF (bit 3) and two
corrections that only explicit writes of EFLAGS use (see `state`). One uniform form means that a reader need not know
which instruction came before.
"""

from __future__ import annotations

from typing import Any

from pyhyve.cpu.isa.x86.state import STATE
from pyhyve.cpu.lang import U32, U64, Pointer, Value, kernel, u32, u64

CF = 1 << 0
PF = 1 << 2
AF = 1 << 4
ZF = 1 << 6
SF = 1 << 7
TF = 1 << 8
IF = 1 << 9
DF = 1 << 10
OF = 1 << 11
IOPL = 3 << 12
NT = 1 << 14
RF = 1 << 16
VM = 1 << 17
AC = 1 << 18
VIF = 1 << 19
VIP = 1 << 20
ID = 1 << 21
ARITHMETIC = CF | PF | AF | ZF | SF | OF
FIXED = 2

AUX_CF = 31
AUX_PO = 30
AUX_AF = 3


def carry_word(carries: Value) -> Value:
    """`fl_aux` of the carries out of each bit of an addition or subtraction."""
    bits = carries.bits
    if bits == 64:
        return (((carries >> 32) & 0xC0000000) | (carries & 8)).trunc(32)
    if bits == 32:
        return carries & 0xC0000008
    wide = carries.zext(32)
    return ((wide << (32 - bits)) & 0xC0000000) | (wide & 8)


def add_carries(a: Value, b: Value, result: Value) -> Value:
    """Carry out of each bit of a + b (+ carry) = result: where a and b differ ~result, elsewhere b."""
    return b ^ ((a ^ b) & ~(b ^ result))


def subtract_borrows(a: Value, b: Value, result: Value) -> Value:
    """Borrow out of each bit of a - b (- borrow) = result: where a and b differ b, elsewhere the result."""
    return result ^ ((a ^ b) & (b ^ result))


def explicit_aux(carry: Value, overflow: Value, adjust: Value | int = 0) -> Value:
    """`fl_aux` from single flags (BOOL values)."""
    c = carry.zext(32)
    word = (c << AUX_CF) | ((c ^ overflow.zext(32)) << AUX_PO)
    return word if isinstance(adjust, int) else word | (adjust.zext(32) << AUX_AF)


def carry(aux: Value) -> Value:
    """CF as a BOOL."""
    return (aux >> AUX_CF).trunc(1)


def overflow(aux: Value) -> Value:
    """OF as a BOOL."""
    return ((aux >> AUX_CF) ^ (aux >> AUX_PO)).trunc(1)


def sign(result: Value, aux: Value) -> Value:
    """SF as a BOOL."""
    return (result >> 63).trunc(1) ^ aux.trunc(1)


def parity(result: Value, aux: Value) -> Value:
    """PF as a BOOL."""
    byte = (result.trunc(32) ^ (aux >> 8)) & 0xFF
    return (result.builder.intrinsic("llvm.ctpop.i32", U32, byte) & 1) == 0


def condition(code: int, result: Value, aux: Value) -> Value:
    """Condition `code` (0-15, as in Jcc) as a BOOL."""
    kind = code >> 1
    if kind == 0:
        test = overflow(aux)
    elif kind == 1:
        test = carry(aux)
    elif kind == 2:
        test = result == 0
    elif kind == 3:
        test = carry(aux) | (result == 0)
    elif kind == 4:
        test = sign(result, aux)
    elif kind == 5:
        test = parity(result, aux)
    elif kind == 6:
        test = sign(result, aux) ^ overflow(aux)
    else:
        test = (sign(result, aux) ^ overflow(aux)) | (result == 0)
    return test ^ 1 if code & 1 else test


@kernel(Pointer(STATE), result=U64, name="x86.read_eflags")
def read_eflags(st: Any) -> Any:
    """All of EFLAGS."""
    result, aux = st.fl_result, st.fl_aux
    word = st.eflags | carry(aux).zext(32)
    word = word | (parity(result, aux).zext(32) << 2)
    word = word | (((aux >> AUX_AF) & 1) << 4)
    word = word | ((result == 0).zext(32) << 6)
    word = word | (sign(result, aux).zext(32) << 7)
    word = word | (overflow(aux).zext(32) << 11)
    return word.zext(64)


@kernel(Pointer(STATE), U64, U64, name="x86.write_eflags")
def write_eflags(st: Any, value: Any, mask: Any) -> None:
    """Replace the bits of EFLAGS that are set in `mask`. The caller handles a changed mode (AC, TF, VM)."""
    old = read_eflags(st)
    word = ((old & ~mask) | (value & mask)).trunc(32)
    st.eflags = (word & ~u32(ARITHMETIC)) | FIXED
    zero = word.bit(6)
    st.fl_result = u64(1) - zero.zext(64)
    aux = explicit_aux(word.bit(0), word.bit(11), word.bit(4)) | word.bit(7).zext(32)
    odd = zero ^ word.bit(2)
    st.fl_aux = aux | ((odd ^ 0).zext(32) << 8)
