"""A small staged language: Python functions that describe run-time code, compiled through LLVM.

Everything of the CPU engine that must run fast is written in it: instruction semantics, the decoder, the soft MMU,
the dispatcher. May import from `support` only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from pyhyve.cpu.lang.module import PRESERVE_MOST, PRESERVE_NONE, Kernel, Module, kernel, table
from pyhyve.cpu.lang.staging import constant, current, inline
from pyhyve.cpu.lang.types import BOOL, BYTES, Array, Int, Pointer, Struct
from pyhyve.cpu.lang.values import StagingError, Value, Variable, is_staged

if TYPE_CHECKING:
    # `count: U64 = 0` in a kernel declares a run-time variable: for the type checker that is a variable of any type.
    U8: TypeAlias = Any
    U16: TypeAlias = Any
    U32: TypeAlias = Any
    U64: TypeAlias = Any
    U128: TypeAlias = Any
else:
    from pyhyve.cpu.lang.types import U8, U16, U32, U64, U128


def u64(number: int) -> Value:
    """A 64-bit constant as a run-time value."""
    return constant(U64, number)


def u32(number: int) -> Value:
    """A 32-bit constant as a run-time value."""
    return constant(U32, number)


__all__ = [
    "BOOL",
    "BYTES",
    "PRESERVE_MOST",
    "PRESERVE_NONE",
    "U8",
    "U16",
    "U32",
    "U64",
    "U128",
    "Array",
    "Int",
    "Kernel",
    "Module",
    "Pointer",
    "StagingError",
    "Struct",
    "Value",
    "Variable",
    "constant",
    "current",
    "inline",
    "is_staged",
    "kernel",
    "table",
    "u32",
    "u64",
]
