"""Values of the staged language: Python objects that stand for run-time quantities and emit IR when used.

`+ - * & | ^ << ~` wrap; `>>` is logical, `//` and `%` unsigned, comparisons unsigned; the signed forms are methods.
A Python int meets a value by taking its type. Widths never change silently: `zext`, `sext`, `trunc` do that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.cpu.lang.types import BOOL, U64, Array, Int, Pointer, Struct, Type, scalar_ir

if TYPE_CHECKING:
    from pyhyve.cpu.lang.builder import Builder


class StagingError(Exception):
    """The staged program is not well typed; a mistake in pyhyve, never in a guest."""


class Value:
    """A run-time scalar: `ir` is the operand's spelling, `kind` its type."""

    __slots__ = ("builder", "ir", "kind")
    builder: Builder
    ir: str
    kind: Type

    def __init__(self, builder: Builder, ir: str, kind: Type) -> None:
        object.__setattr__(self, "builder", builder)
        object.__setattr__(self, "ir", ir)
        object.__setattr__(self, "kind", kind)

    def get(self) -> Value:
        """The value now; a variable loads."""
        return self

    @property
    def bits(self) -> int:
        """Width of an integer."""
        if not isinstance(self.kind, Int):
            msg = f"{self.kind} has no width"
            raise StagingError(msg)
        return self.kind.bits

    def __bool__(self) -> bool:
        msg = "a run-time value has no truth at build time (use `if` in a staged function, `&`, `|`)"
        raise StagingError(msg)

    __hash__ = None  # type: ignore[assignment]

    # arithmetic
    def _two(self, op: str, other: Any, *, swap: bool = False) -> Value:
        a = self.get()
        b = a.builder.value(other, a.kind)
        if swap:
            a, b = b, a
        return a.builder.binary(op, a, b)

    def __add__(self, other: Any) -> Value:
        return self._two("add", other)

    def __radd__(self, other: Any) -> Value:
        return self._two("add", other, swap=True)

    def __sub__(self, other: Any) -> Value:
        return self._two("sub", other)

    def __rsub__(self, other: Any) -> Value:
        return self._two("sub", other, swap=True)

    def __mul__(self, other: Any) -> Value:
        return self._two("mul", other)

    def __rmul__(self, other: Any) -> Value:
        return self._two("mul", other, swap=True)

    def __floordiv__(self, other: Any) -> Value:
        return self._two("udiv", other)

    def __mod__(self, other: Any) -> Value:
        return self._two("urem", other)

    def sdiv(self, other: Any) -> Value:
        """Signed quotient, towards zero."""
        return self._two("sdiv", other)

    def srem(self, other: Any) -> Value:
        """Signed remainder, with the dividend's sign."""
        return self._two("srem", other)

    def __and__(self, other: Any) -> Value:
        return self._two("and", other)

    def __rand__(self, other: Any) -> Value:
        return self._two("and", other, swap=True)

    def __or__(self, other: Any) -> Value:
        return self._two("or", other)

    def __ror__(self, other: Any) -> Value:
        return self._two("or", other, swap=True)

    def __xor__(self, other: Any) -> Value:
        return self._two("xor", other)

    def __rxor__(self, other: Any) -> Value:
        return self._two("xor", other, swap=True)

    def __lshift__(self, other: Any) -> Value:
        return self._two("shl", other)

    def __rlshift__(self, other: Any) -> Value:
        return self._two("shl", other, swap=True)

    def __rshift__(self, other: Any) -> Value:
        return self._two("lshr", other)

    def sar(self, other: Any) -> Value:
        """Arithmetic shift right."""
        return self._two("ashr", other)

    def __invert__(self) -> Value:
        a = self.get()
        return a ^ (a.kind.mask if isinstance(a.kind, Int) else 0)

    def __neg__(self) -> Value:
        return self._two("sub", 0, swap=True)

    # comparison
    def _compare(self, predicate: str, other: Any) -> Value:
        a = self.get()
        return a.builder.compare(predicate, a, a.builder.value(other, a.kind))

    def __eq__(self, other: object) -> Value:  # type: ignore[override]
        return self._compare("eq", other)

    def __ne__(self, other: object) -> Value:  # type: ignore[override]
        return self._compare("ne", other)

    def __lt__(self, other: Any) -> Value:
        return self._compare("ult", other)

    def __le__(self, other: Any) -> Value:
        return self._compare("ule", other)

    def __gt__(self, other: Any) -> Value:
        return self._compare("ugt", other)

    def __ge__(self, other: Any) -> Value:
        return self._compare("uge", other)

    def slt(self, other: Any) -> Value:
        """Signed less than."""
        return self._compare("slt", other)

    def sle(self, other: Any) -> Value:
        """Signed less than or equal."""
        return self._compare("sle", other)

    def sgt(self, other: Any) -> Value:
        """Signed greater than."""
        return self._compare("sgt", other)

    def sge(self, other: Any) -> Value:
        """Signed greater than or equal."""
        return self._compare("sge", other)

    # widths
    def zext(self, bits: int) -> Value:
        """Zero-extend (or leave) to `bits`."""
        return self._resize("zext", bits)

    def sext(self, bits: int) -> Value:
        """Sign-extend (or leave) to `bits`."""
        return self._resize("sext", bits)

    def trunc(self, bits: int) -> Value:
        """Keep the low `bits`."""
        a = self.get()
        if a.bits == bits:
            return a
        if a.bits < bits:
            msg = f"cannot truncate {a.bits} bits to {bits}"
            raise StagingError(msg)
        return a.builder.cast("trunc", a, Int(bits))

    def to(self, bits: int) -> Value:
        """Zero-extend or truncate to `bits`."""
        return self.trunc(bits) if self.get().bits > bits else self.zext(bits)

    def bit(self, index: Any) -> Value:
        """Bit `index` as a BOOL."""
        return (self >> index).trunc(1)

    def _resize(self, op: str, bits: int) -> Value:
        a = self.get()
        if a.bits == bits:
            return a
        if a.bits > bits:
            msg = f"cannot {op} {a.bits} bits to {bits}"
            raise StagingError(msg)
        return a.builder.cast(op, a, Int(bits))

    # memory
    def cast(self, target: Type) -> Value:
        """The same address, or a 64-bit integer, as a pointer to `target`."""
        a = self.get()
        if isinstance(a.kind, Pointer):
            return Value(a.builder, a.ir, Pointer(target))
        return a.builder.cast("inttoptr", a, Pointer(target))

    def address(self) -> Value:
        """A pointer as a 64-bit integer."""
        a = self.get()
        return a.builder.cast("ptrtoint", a, U64)

    def offset(self, bytes_: Any) -> Value:
        """A pointer moved by `bytes_`."""
        a = self.get()
        return a.builder.element(a, bytes_, 1, a.kind)

    def _target(self) -> Type:
        kind = self.get().kind
        if not isinstance(kind, Pointer):
            msg = f"{kind} is not a pointer"
            raise StagingError(msg)
        return kind.target

    def __getitem__(self, index: Any) -> Any:
        target = self._target()
        return self.builder.place(self.builder.element(self.get(), index, target.size_bytes, Pointer(target)))

    def __setitem__(self, index: Any, value: Any) -> None:
        target = self._target()
        pointer = self.builder.element(self.get(), index, target.size_bytes, Pointer(target))
        self.builder.store(pointer, value)

    def ref(self, name: str) -> Value:
        """Pointer to field `name` of the structure pointed to (to the first element of an array)."""
        target = self._target()
        if not isinstance(target, Struct):
            msg = f"{target} has no field {name}"
            raise StagingError(msg)
        if name not in target.fields:
            raise AttributeError(f"{target.name}.{name}")  # noqa: EM102 - mirrors Python's own message
        offset, kind = target.fields[name]
        element = kind.element if isinstance(kind, Array) else kind
        return self.builder.element(self.get(), offset, 1, Pointer(element))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        target = self._target()
        pointer = self.ref(name)
        if isinstance(target, Struct) and isinstance(target.fields[name][1], Array):
            return pointer
        return self.builder.place(pointer)

    def __setattr__(self, name: str, value: Any) -> None:
        self.builder.store(self.ref(name), value)


class Variable(Value):
    """A local of a staged function: a stack slot that LLVM promotes to a register."""

    __slots__ = ()

    def get(self) -> Value:
        """Load the current value."""
        return self.builder.load(Value(self.builder, self.ir, Pointer(self.kind)))

    def set(self, value: Any) -> None:
        """Assign."""
        self.builder.store(Value(self.builder, self.ir, Pointer(self.kind)), value)


def is_staged(value: object) -> bool:
    """Whether `value` is known only at run time."""
    return isinstance(value, Value)


def as_bool(value: Value) -> Value:
    """Truth of an integer or pointer as a BOOL."""
    now = value.get()
    if now.kind == BOOL:
        return now
    if isinstance(now.kind, Pointer):
        return now.address() != 0
    return now != 0


__all__ = ["StagingError", "Value", "Variable", "as_bool", "is_staged", "scalar_ir"]
