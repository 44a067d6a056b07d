"""Operands and flags of one x86 instruction, for its semantics.

Operand forms: `r` general register, `m` memory at the effective address, `i` immediate, `x` XMM register,
`f` 8-byte MMX register, `n` none (the semantics names its registers itself). Register writes are held back until
everything that can fault has been done; memory writes happen when they are made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.cpu.engine.context import StencilContext
from pyhyve.cpu.isa.x86 import addressing, faults, flags
from pyhyve.cpu.isa.x86.addressing import operand_linear
from pyhyve.cpu.isa.x86.mode import next_code
from pyhyve.cpu.isa.x86.state import STATE
from pyhyve.cpu.lang import U64, Int, Pointer, Value, is_staged, u64
from pyhyve.cpu.lang.builder import LIKELY, UNLIKELY

if TYPE_CHECKING:
    from pyhyve.cpu.isa.x86.variant import Variant
    from pyhyve.cpu.lang import Module


class X86Context(StencilContext):
    """One x86 stencil being described; `variant` says which of its instruction's forms."""

    def __init__(self, module: Module, variant: Variant) -> None:
        from pyhyve.cpu.isa.x86.memory import mmu  # noqa: PLC0415 - the MMU's kernels are made on first use

        super().__init__(module, STATE, mmu)
        self.variant = variant
        self.bits = variant.bits
        self._writes: list[tuple[Value, Value, bool]] = []
        self._flags: tuple[Value, Value] | None = None
        self._producer: tuple[str, Value, Value] | None = None
        self._flags_done = False
        self.accumulator = False
        """The opcode implies AL, AX, EAX or RAX as operand 0; the others count from 1."""
        self.count_from = ""
        """`cl` when a shift takes its count from CL."""
        self.copied = 0
        """Where the value of operand 0, a register that is written, comes from instead: a copy of operand `copied`."""
        self._update: tuple[Value, Value] | None = None

    # general operands
    def form(self, operand: int) -> str:
        """Form letter of an operand; `a` for an accumulator that the opcode implies as operand 0."""
        if self.accumulator:
            return self.variant.forms[operand - 1] if operand else "a"
        return self.variant.forms[operand]

    def read(self, operand: int, bits: int = 0) -> Value:
        """Value of an operand, `bits` wide (default: the operand size)."""
        bits = bits or self.bits
        form = self.form(operand)
        if form == "m":
            return self.load(self.address, bits)
        if form == "a":
            return self.reg(0, bits)
        if form == "i":
            operand -= self.accumulator
            return self.symbol(f"V{operand}", "" if bits == 64 and self.variant.wide else "s32").trunc(bits)
        return self.builder.load(self.slot(operand or self.copied, bits))

    def write(self, operand: int, value: Value) -> None:
        """Write an operand: memory now, a register at the end (32 bits zero-extend)."""
        if self.form(operand) == "m":
            self.store(self.address, value)
        elif self.form(operand) == "a":
            self.set_reg(0, value)
        else:
            self._hold(self.slot(operand, 64 if value.bits == 32 else value.bits), value, register=True)

    def read_for_update(self, operand: int, bits: int = 0) -> Value:
        """`read` of an operand that `update` will write: memory is checked for writing first."""
        bits = bits or self.bits
        if self.form(operand) != "m":
            return self.read(operand, bits)
        host, slow = self.write_pointer(self.address, bits // 8)
        pointer = host.cast(Int(bits))
        self._update = (pointer, slow)
        return pointer[0]

    def update(self, operand: int, value: Value) -> None:
        """Write what `read_for_update` read."""
        if self.form(operand) != "m":
            self.write(operand, value)
            return
        assert self._update is not None  # noqa: S101 - the order of calls
        pointer, slow = self._update
        self.builder.store(pointer, value)
        self.write_back(slow)

    def update_pointer(self) -> tuple[Value, Value]:
        """Host pointer and slow flag of a memory operand being updated, for atomic instructions."""
        host, slow = self.write_pointer(self.address, self.bits // 8)
        return host.cast(Int(self.bits)), slow

    # registers by number
    def reg(self, number: int, bits: int = 64) -> Value:
        """Low `bits` of general register `number`."""
        return self.builder.load(self.builder.element(self.st, 8 * number, 1, Pointer(Int(bits))))

    def set_reg(self, number: int, value: Value) -> None:
        """Write general register `number`; 32 bits zero-extend, 8 and 16 leave the rest."""
        bits = 64 if value.bits == 32 else value.bits
        self._hold(self.builder.element(self.st, 8 * number, 1, Pointer(Int(bits))), value, register=True)

    def high_byte(self, number: int) -> Value:
        """AH, CH, DH or BH (of registers 0-3)."""
        return self.builder.load(self.builder.element(self.st, 8 * number + 1, 1, Pointer(Int(8))))

    def set_high_byte(self, number: int, value: Value) -> None:
        """Write AH, CH, DH or BH."""
        self._hold(self.builder.element(self.st, 8 * number + 1, 1, Pointer(Int(8))), value, register=True)

    def wide_register(self, operand: int) -> Value:
        """A register operand whole: 64 bits in 64-bit mode, else 32 (the upper half is ignored)."""
        value = self.builder.load(self.slot(operand, 64))
        long = ((self.st.mode >> 2) & 3) == 2
        return self.builder.select(long, value, value & 0xFFFFFFFF)

    def set_gpr_operand(self, operand: int, value: Value) -> None:
        """Write a register operand whole."""
        self._hold(self.slot(operand, 64), value, register=True)

    def hold(self, name: str, value: Any) -> None:
        """Write state field `name` at the end."""
        self._hold(self.st.ref(name), value)

    def _hold(self, pointer: Value, value: Any, *, register: bool = False) -> None:
        if is_staged(value):
            now = value.get()
            target = pointer.kind.target if isinstance(pointer.kind, Pointer) else U64
            if isinstance(target, Int) and now.bits < target.bits:
                now = now.zext(target.bits)
            value = now
        self._writes.append((pointer, value, register and is_staged(value)))

    def in_register(self, value: Value) -> Value:
        """`value`, which LLVM is to have in a host register: an operation on it is not joined with its load or store.

        Processors forward a register's last store to plain loads of all of it at once, but not to instructions that
        change memory, extend a sign or multiply.
        """
        kind = f"i{value.bits}"
        return self.builder.let(f'call {kind} asm "", "=r,0"({kind} {value.get().ir})', Int(value.bits))

    def _write_register(self, pointer: Value, value: Value) -> None:
        """Write a general register or part of it: always 64 bits, for loads that want more than the part."""
        if value.bits < 64:
            pointer = pointer.cast(U64)
            mask = (1 << value.bits) - 1
            value = (self.builder.load(pointer) & ~self.constant(mask)) | value.zext(64)
        self.builder.store(pointer, self.in_register(value))

    # vectors: IR operands of <N x i8> and friends, as text
    def vector(self, operand: int, bits: int = 128, *, aligned: bool = True) -> str:
        """An XMM/MMX/memory operand of `bits` (32, 64 or 128) as an IR `<bits/8 x i8>` operand.

        A 128-bit memory operand that is not 16-byte aligned raises #GP(0) unless `aligned` is False.
        """
        pointer = self.vector_pointer(operand, bits, aligned=aligned)
        return self.load_vector(pointer, bits)

    def vector_pointer(self, operand: int, bits: int = 128, *, aligned: bool = True) -> Value:
        """Host pointer to the bytes of a vector operand, for reading."""
        form = self.form(operand)
        if form == "m":
            if bits == 128 and aligned:
                self.require_alignment(16)
            return self.read_pointer(self.address, bits // 8).cast(Int(8))
        return self.slot(operand, 8)

    def load_vector(self, pointer: Value, bits: int) -> str:
        """`<bits/8 x i8>` at a host pointer."""
        name = "%" + self.builder.fresh("x")
        self.builder.emit(f"{name} = load <{bits // 8} x i8>, ptr {pointer.get().ir}, align 1")
        return name

    def store_vector(self, pointer: Value, vector: str, bits: int) -> None:
        """Write a `<bits/8 x i8>` to a host pointer now."""
        self.builder.emit(f"store <{bits // 8} x i8> {vector}, ptr {pointer.get().ir}, align 1")

    def write_vector(self, operand: int, vector: str, bits: int = 128, *, aligned: bool = True) -> None:
        """Write a vector operand now (the last thing the instruction does, or nothing after it can fault).

        A register keeps its other bytes; memory must be aligned as for `vector`.
        """
        if self.form(operand) != "m":
            self.store_vector(self.slot(operand, 8), vector, bits)
            return
        if bits == 128 and aligned:
            self.require_alignment(16)
        host, slow = self.write_pointer(self.address, bits // 8)
        self.store_vector(host.cast(Int(8)), vector, bits)
        self.write_back(slow)

    def part(self, offset: int, size: int, *, write: bool = False) -> Value:
        """Linear address of `size` bytes at `offset` within the memory operand of a `late` row, its segment checked."""
        return self.call(operand_linear, self.address + offset, u64(size), u64(int(write)))

    def require_alignment(self, size: int) -> None:
        """#GP(0) unless the effective address is a multiple of `size`."""
        for bad in self.builder.branch((self.address & (size - 1)) != 0, UNLIKELY):
            if bad:
                self.save_pc()
                faults.gp(self.st, 0)
                self.builder.ret()

    def call(self, kernel: Any, *arguments: Any) -> Any:
        """Call a kernel that may fail: the address of this instruction is saved first, and failure ends it."""
        self.save_pc()
        result = kernel(self.st, *arguments)
        self.check()
        return result

    # flags
    def set_flags(self, result: Value, aux: Value) -> None:
        """Flags from a result and a complete `fl_aux` word."""
        self._flags = (result.sext(64), aux)
        self._producer = None

    def flags_add(self, a: Value, b: Value, result: Value) -> None:
        """All six flags of an addition."""
        self.set_flags(result, flags.carry_word(flags.add_carries(a, b, result)))
        self._producer = ("add", a, b)

    def flags_subtract(self, a: Value, b: Value, result: Value) -> None:
        """All six flags of a subtraction or comparison."""
        self.set_flags(result, flags.carry_word(flags.subtract_borrows(a, b, result)))
        self._producer = ("sub", a, b)

    def flags_logic(self, result: Value) -> None:
        """CF, OF and AF clear; the others from the result."""
        self.set_flags(result, self.constant(0, 32))
        self._producer = ("logic", result, result)

    def carry_flag(self) -> Value:
        """CF as a BOOL."""
        return flags.carry(self.st.fl_aux)

    def aux(self) -> Value:
        """The present `fl_aux`."""
        return self.st.fl_aux

    def condition(self, code: int) -> Value:
        """Condition `code` as a BOOL: of the flags set here when there are any, else of the state's."""
        if self._flags is None:
            return flags.condition(code, self.st.fl_result, self.st.fl_aux)
        if self._producer is not None:
            kind, a, b = self._producer
            test = _direct(kind, code >> 1, a, b)
            if test is not None:
                return test ^ 1 if code & 1 else test
        return flags.condition(code, *self._flags)

    # ends
    def check_target(self, target: Value) -> None:
        """#GP(0) at this instruction for a transfer to a non-canonical address or beyond the code segment."""
        self.call(addressing.check_near_target, target)

    def go_on(self) -> None:
        """Go on at `pc`, which a kernel has set, in the mode that it may have changed."""
        code = next_code(self.st)
        for known in self.builder.branch(code != 0, LIKELY):
            if known:
                target, tlb = code.cast(U64), self.st.tlb.get()
                self.builder.emit(f"musttail call preserve_nonecc void {target.ir}(ptr %st, ptr {tlb.ir}, i64 0)")
                self.builder.ret()
        self.leave()

    def commit(self) -> None:
        """Write the registers and flags held back."""
        self.write_held()
        self._writes.clear()
        self._flags_done = self._flags is not None

    def write_held(self) -> None:
        """As `commit`, but the writes stay held: for each of several ends."""
        for pointer, value, register in self._writes:
            if register:
                self._write_register(pointer, value)
            else:
                self.builder.store(pointer, value)
        if self._flags is not None and not self.variant.no_flags and not self._flags_done:
            self.st.fl_result, self.st.fl_aux = self._flags


def _direct(kind: str, pair: int, a: Value, b: Value) -> Value | None:
    """A condition straight from the operands of a comparison; None where the lazy form must do."""
    if kind == "sub":
        tests = {
            1: lambda: a < b, 2: lambda: a == b, 3: lambda: a <= b, 4: lambda: (a - b).slt(0),
            6: lambda: a.slt(b), 7: lambda: a.sle(b),
        }  # fmt: skip
    elif kind == "logic":
        tests = {2: lambda: a == 0, 3: lambda: a == 0, 4: lambda: a.slt(0), 6: lambda: a.slt(0), 7: lambda: a.sle(0)}
    else:
        tests = {1: lambda: a + b < b, 2: lambda: a + b == 0}
    return tests[pair]() if pair in tests else None
