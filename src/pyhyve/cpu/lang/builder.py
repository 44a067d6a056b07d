"""Emits one LLVM function as text: instructions, blocks, locals, structured control flow.

Text, because building IR through llvmlite's object model costs sixty times as much per instruction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.cpu.lang.types import BOOL, U64, Int, Pointer, Struct, Type, scalar_ir
from pyhyve.cpu.lang.values import StagingError, Value, Variable, as_bool, is_staged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pyhyve.cpu.lang.module import Module

LIKELY = ", !prof !0"
UNLIKELY = ", !prof !1"
METADATA = '!0 = !{!"branch_weights", i32 100000, i32 1}\n!1 = !{!"branch_weights", i32 1, i32 100000}\n'


class Builder:
    """State of one function being emitted."""

    def __init__(self, module: Module, result: Type | None) -> None:
        self.module = module
        self.result = result
        self.lines: list[str] = []
        self.allocas: list[str] = []
        self.live = True
        self.depth = 0
        self._count = 0
        self._loops: list[tuple[str, str]] = []

    # naming and text
    def fresh(self, stem: str = "t") -> str:
        """A name not used before in this function, without its sigil."""
        self._count += 1
        return f"{stem}{self._count}"

    def emit(self, line: str) -> None:
        """Append an instruction unless the current point cannot be reached."""
        if self.live:
            self.lines.append(" " + line)

    def let(self, expression: str, kind: Type) -> Value:
        """Name the result of `expression`."""
        name = "%" + self.fresh()
        self.emit(f"{name} = {expression}")
        return Value(self, name, kind)

    def value(self, item: Any, kind: Type | None = None) -> Value:
        """`item` as a run-time value; a Python int takes `kind`. Raises StagingError on a type mismatch."""
        if isinstance(item, Value):
            now = item.get()
            if (
                kind is not None
                and now.kind != kind
                and not (isinstance(kind, Pointer) and isinstance(now.kind, Pointer))
            ):
                msg = f"expected {kind}, got {now.kind}"
                raise StagingError(msg)
            return now
        if isinstance(item, bool | int):
            if isinstance(kind, Pointer):
                return Value(self, "null" if item == 0 else f"inttoptr (i64 {int(item)} to ptr)", kind)
            if isinstance(kind, Int):
                number = int(item) & kind.mask
                return Value(
                    self, str(number if number <= kind.mask >> 1 or kind.bits == 1 else number - kind.mask - 1), kind
                )
        msg = f"cannot make a {kind} of {item!r}"
        raise StagingError(msg)

    # instructions
    def binary(self, op: str, a: Value, b: Value) -> Value:
        """Integer arithmetic on two values of one type."""
        return self.let(f"{op} {scalar_ir(a.kind)} {a.ir}, {b.ir}", a.kind)

    def compare(self, predicate: str, a: Value, b: Value) -> Value:
        """Compare two values of one type."""
        return self.let(f"icmp {predicate} {scalar_ir(a.kind)} {a.ir}, {b.ir}", BOOL)

    def cast(self, op: str, a: Value, kind: Type) -> Value:
        """Convert by an LLVM cast instruction."""
        return self.let(f"{op} {scalar_ir(a.kind)} {a.ir} to {scalar_ir(kind)}", kind)

    def select(self, condition: Any, a: Any, b: Any) -> Any:
        """`a` where `condition`, else `b`; both are evaluated."""
        if not is_staged(condition):
            return a if condition else b
        if not is_staged(a) and not is_staged(b):
            msg = "select of two constants needs a type: make one a value"
            raise StagingError(msg)
        kind = a.get().kind if is_staged(a) else b.get().kind
        x, y = self.value(a, kind), self.value(b, kind)
        test = as_bool(condition)
        return self.let(f"select i1 {test.ir}, {scalar_ir(kind)} {x.ir}, {scalar_ir(kind)} {y.ir}", kind)

    def element(self, pointer: Value, index: Any, size_bytes: int, kind: Type) -> Value:
        """Address of element `index`, each of `size_bytes`."""
        pointer = pointer.get()
        if not is_staged(index):
            if index == 0:
                return Value(self, pointer.ir, kind)
            return self.let(f"getelementptr i8, ptr {pointer.ir}, i64 {index * size_bytes}", kind)
        wide = index.zext(64)
        scaled = wide * size_bytes if size_bytes != 1 else wide.get()
        return self.let(f"getelementptr i8, ptr {pointer.ir}, i64 {scaled.ir}", kind)

    def load(self, pointer: Value, *, volatile: bool = False) -> Value:
        """Read through a pointer."""
        pointer = pointer.get()
        kind = pointer.kind.target if isinstance(pointer.kind, Pointer) else U64
        word = "load volatile" if volatile else "load"
        return self.let(f"{word} {scalar_ir(kind)}, ptr {pointer.ir}, align 1", kind)

    def store(self, pointer: Value, item: Any, *, volatile: bool = False) -> None:
        """Write through a pointer."""
        pointer = pointer.get()
        kind = pointer.kind.target if isinstance(pointer.kind, Pointer) else U64
        value = self.value(item, kind)
        word = "store volatile" if volatile else "store"
        self.emit(f"{word} {scalar_ir(kind)} {value.ir}, ptr {pointer.ir}, align 1")

    def compare_exchange(self, pointer: Value, expected: Any, new: Any) -> Value:
        """Atomically replace `expected` by `new` at a naturally aligned pointer; a BOOL: whether it was replaced."""
        pointer = pointer.get()
        kind = pointer.kind.target if isinstance(pointer.kind, Pointer) else U64
        a, b = self.value(expected, kind), self.value(new, kind)
        text, size = scalar_ir(kind), kind.size_bytes
        name = "%" + self.fresh()
        self.emit(f"{name} = cmpxchg ptr {pointer.ir}, {text} {a.ir}, {text} {b.ir} seq_cst seq_cst, align {size}")
        return self.let(f"extractvalue {{ {text}, i1 }} {name}, 1", BOOL)

    def atomic(self, op: str, pointer: Value, item: Any) -> Value:
        """`atomicrmw` at a naturally aligned pointer: `and`, `or`, `xor`, `add`, `xchg`…; the old value."""
        pointer = pointer.get()
        kind = pointer.kind.target if isinstance(pointer.kind, Pointer) else U64
        value = self.value(item, kind)
        text = scalar_ir(kind)
        return self.let(f"atomicrmw {op} ptr {pointer.ir}, {text} {value.ir} seq_cst, align {kind.size_bytes}", kind)

    def place(self, pointer: Value) -> Value:
        """What a pointer designates: a scalar is loaded, a structure stays a pointer."""
        kind = pointer.kind.target if isinstance(pointer.kind, Pointer) else U64
        return pointer if isinstance(kind, Struct) else self.load(pointer)

    def variable(self, kind: Type, initial: Any = None) -> Variable:
        """A new local of `kind`."""
        name = "%" + self.fresh("v")
        self.allocas.append(f" {name} = alloca {scalar_ir(kind)}, align 8")
        slot = Variable(self, name, kind)
        if initial is not None:
            slot.set(initial)
        return slot

    def buffer(self, size_bytes: int, target: Type) -> Value:
        """Uninitialised bytes on the host stack, for the whole function, 16-byte aligned."""
        name = "%" + self.fresh("buf")
        self.allocas.append(f" {name} = alloca [{size_bytes} x i8], align 16")
        return Value(self, name, Pointer(target))

    def intrinsic(self, name: str, result: Type | None, *arguments: Any) -> Any:
        """Call the LLVM intrinsic `name`."""
        values = [a.get() for a in arguments]
        kinds = ", ".join(scalar_ir(v.kind) for v in values)
        text = ", ".join(f"{scalar_ir(v.kind)} {v.ir}" for v in values)
        self.module.declare(f"declare {scalar_ir(result) if result else 'void'} @{name}({kinds})")
        if result is None:
            self.emit(f"call void @{name}({text})")
            return None
        return self.let(f"call {result.ir if isinstance(result, Int) else 'ptr'} @{name}({text})", result)

    def fill_bytes(self, pointer: Value, byte: int, size_bytes: Value) -> None:
        """Fill host memory, with the host's string instruction: there is no C library to call."""
        self.asm(
            "rep stosb",
            "={rdi},={rcx},{rdi},{rcx},{al},~{memory}",
            "{ i64, i64 }",
            [("ptr", pointer.get().ir), ("i64", size_bytes.get().ir), ("i8", str(byte))],
        )

    def asm(self, template: str, constraints: str, result: str, arguments: Sequence[tuple[str, str]]) -> str:
        """Host instructions. `arguments` are (IR type, operand) pairs; returns the operand of the result, if any.

        Always a side effect for LLVM, so that it keeps its place among the others.
        """
        text = ", ".join(f"{kind} {operand}" for kind, operand in arguments)
        call = f'call {result} asm sideeffect "{template}", "{constraints}"({text})'
        if result == "void":
            self.emit(call)
            return ""
        name = "%" + self.fresh()
        self.emit(f"{name} = {call}")
        return name

    # control flow
    def label(self, name: str) -> None:
        """Start a block; the current one must have been ended."""
        self.lines.append(f"{name}:")
        self.live = True

    def jump(self, name: str) -> None:
        """End the current block by going to `name`."""
        self.emit(f"br label %{name}")
        self.live = False

    def jump_if(self, condition: Value, then: str, other: str, weight: str = "") -> None:
        """End the current block by a choice."""
        test = as_bool(condition)
        self.emit(f"br i1 {test.ir}, label %{then}, label %{other}{weight}")
        self.live = False

    def ret(self, item: Any = None) -> None:
        """Return from the function; what follows in this block is dropped."""
        if self.result is None:
            if item is not None:
                msg = "a result where none is declared"
                raise StagingError(msg)
            self.emit("ret void")
        else:
            if is_staged(item) and item.get().kind == BOOL and isinstance(self.result, Int):
                item = item.zext(self.result.bits)
            value = self.value(item, self.result)
            self.emit(f"ret {scalar_ir(self.result)} {value.ir}")
        self.live = False

    def branch(self, condition: Any, weight: str = "") -> Iterator[bool]:
        """Arms of an `if`: once for a build-time condition, else True then False with blocks around them."""
        if not is_staged(condition):
            yield bool(condition)
            return
        if not self.live:  # code after a `return`: its arms are traced and dropped
            yield True
            self.live = False
            yield False
            self.live = False
            return
        then, other, end = self.fresh("then"), self.fresh("else"), self.fresh("end")
        reachable = self.live
        self.jump_if(condition, then, other, weight)
        self.depth += 1
        falls = False
        for name, arm in ((then, True), (other, False)):
            self.label(name)
            self.live = reachable
            yield arm
            falls = falls or self.live
            self.jump(end)
        self.depth -= 1
        self.label(end)
        if not falls:
            self.emit("unreachable")
            self.live = False

    def loop(self, condition: Callable[[], Any]) -> Iterator[None]:
        """Body of a `while`; the condition is evaluated at its head."""
        if not self.live:
            condition()
            self._loops.append(("", ""))
            yield
            self._loops.pop()
            self.live = False
            return
        head, body, end = self.fresh("head"), self.fresh("body"), self.fresh("done")
        reachable = self.live
        self.jump(head)
        self.label(head)
        self.live = reachable
        self.depth += 1
        test = condition()
        if is_staged(test):
            self.jump_if(test, body, end)
        elif test:
            self.jump(body)
        else:
            msg = "a staged `while` whose condition is false at build time"
            raise StagingError(msg)
        self._loops.append((head, end))
        self.label(body)
        self.live = reachable
        yield
        self.jump(head)
        self._loops.pop()
        self.depth -= 1
        self.label(end)
        self.live = reachable

    def break_(self) -> None:
        """Leave the innermost staged loop."""
        self.jump(self._loops[-1][1])

    def continue_(self) -> None:
        """Go to the head of the innermost staged loop."""
        self.jump(self._loops[-1][0])

    def finish(self) -> str:
        """The body's text; raises StagingError when the end can be reached without a `return`."""
        if self.live:
            if self.result is not None:
                msg = "the end of the function can be reached without a return"
                raise StagingError(msg)
            self.ret()
        return "\n".join(["entry:", *self.allocas, *self.lines])
