"""What an instruction's semantics is written against when it becomes a stencil: operands, memory, ways to go on.

A stencil is one function in LLVM's `preserve_none` convention, `(state, tlb, a0)`; it ends in a tail call to the
symbol NEXT (the following stencil), to TAKEN, to a looked-up address, or by returning to the dispatcher. Symbols are
patched when a block is stitched:

- V0-V3: the instance's operands (state offsets, immediates); PC, NPC: the addresses of its instruction and the next;
- NEXT, TAKEN: host addresses of stencils.

Stencils have no stack frame (`override-stack-alignment`), so a kernel call in a cold path costs the hot path nothing:
the three arguments live in registers that C functions preserve.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.cpu.engine.jumps import jump_entry
from pyhyve.cpu.engine.state import PAGE_MASK, PAGE_SHIFT, TLB_ENTRIES, TLB_ENTRY, TLB_ENTRY_SHIFT
from pyhyve.cpu.lang import U32, U64, Int, Pointer, Value
from pyhyve.cpu.lang.builder import LIKELY, UNLIKELY, Builder

if TYPE_CHECKING:
    from pyhyve.cpu.engine.softmmu import SoftMmu
    from pyhyve.cpu.lang import Module, Struct

SIGNATURE = "ptr %st, ptr %tlb, i64 %a0"
SYMBOLS = ("V0", "V1", "V2", "V3", "PC", "NPC")
FUNCTIONS = ("NEXT", "TAKEN")
RELOCATION_SYMBOLS = {
    **{name: i for i, name in enumerate(SYMBOLS)},
    **{f"{name}_{form}": i for i, name in enumerate(SYMBOLS) for form in ("s32", "u31")},
    "NEXT": 6,
    "TAKEN": 7,
    "HOT": 8,
    "COLD": 9,
    "PC_low": 10,
    "PC_high": 11,
}
"""Number of each symbol in a template's relocations; from `FIRST_HELPER` on, kernels."""
FIRST_HELPER = 16
PRELUDE = "\n".join(
    [
        *(f"@{name} = extern_weak global i8, !absolute_symbol !2" for name in ("PC_low", "PC_high")),
        *(f"@{name}_s32 = extern_weak global i8, !absolute_symbol !3" for name in SYMBOLS),
        *(f"@{name}_u31 = extern_weak global i8, !absolute_symbol !4" for name in SYMBOLS),
        *(f"declare preserve_nonecc void @{name}(ptr, ptr, i64)" for name in FUNCTIONS),
        "!2 = !{i64 0, i64 4294967296}",
        "!3 = !{i64 -2147483648, i64 2147483648}",
        "!4 = !{i64 0, i64 2147483648}",
        '!5 = !{i32 1, !"override-stack-alignment", i32 8}',
        "!llvm.module.flags = !{!5}",
    ]
)
"""Declarations that each stencil module needs, weak since a symbol may well be zero.

`_s32` and `_u31` promise LLVM a range, which selects short forms.
"""


class StencilContext:
    """One stencil being described."""

    def __init__(self, module: Module, state: Struct, mmu: SoftMmu) -> None:
        self.builder = Builder(module, None)
        self.state = state
        self.mmu = mmu
        self.st = Value(self.builder, "%st", Pointer(state))
        self.tlb = Value(self.builder, "%tlb", Pointer(TLB_ENTRY))
        self.address = Value(self.builder, "%a0", U64)
        self.carried: Value = self.address
        self.ended = False

    # symbols
    def symbol(self, name: str, form: str = "") -> Value:
        """A patched 64-bit quantity; `form` s32 or u31 when its range is known."""
        if name in {"HOT", "COLD"}:
            # The stencil's own address: relative to the instruction pointer, so that no symbol is needed.
            return self.builder.let('call i64 asm sideeffect "leaq HOT(%rip), $0", "=r"()', U64)
        if form:
            return Value(self.builder, f"ptrtoint (ptr @{name}_{form} to i64)", U64)
        return self.builder.let(f'call i64 asm "movabsq $${name}, $0", "=r"()', U64)

    def constant(self, number: int, bits: int = 64) -> Value:
        """A build-time number as a value."""
        return self.builder.value(number, Int(bits))

    def slot(self, operand: int, bits: int) -> Value:
        """Pointer to the state slot whose offset is operand number `operand`."""
        return self.builder.element(self.st, self.symbol(f"V{operand}", "u31"), 1, Pointer(Int(bits)))

    @property
    def pc(self) -> Value:
        """Address of this instruction."""
        return self.symbol("PC")

    @property
    def next_pc(self) -> Value:
        """Address of the next instruction."""
        return self.symbol("NPC")

    # memory
    def _entry(self, address: Value) -> Value:
        offset = (address >> (PAGE_SHIFT - TLB_ENTRY_SHIFT)) & ((TLB_ENTRIES - 1) << TLB_ENTRY_SHIFT)
        return self.tlb.offset(offset)

    def check(self) -> None:
        """After a kernel that can fail: back to the dispatcher if it did."""
        for failed in self.builder.branch(self.st.stop != 0, UNLIKELY):
            if failed:
                self.builder.ret()

    def save_pc(self) -> None:
        """Put this instruction's address in the state, as a kernel that may fail needs it."""
        place = self.st.ref("pc")
        for half, name in enumerate(("PC_low", "PC_high")):
            word = f"trunc (i64 ptrtoint (ptr @{name} to i64) to i32)"
            self.builder.store(place.offset(4 * half).cast(U32), Value(self.builder, word, U32))

    def translate_index(self) -> Value:
        """Translation index of data accesses now."""
        return (self.st.mode >> 8) & 3

    def load(self, address: Value, bits: int) -> Value:
        """Read `bits` (8-64) at guest virtual `address`; a fault ends the instruction."""
        size = bits // 8
        result = self.builder.variable(Int(bits))
        entry = self._entry(address)
        for hit in self.builder.branch(entry.read == ((address + (size - 1)) & PAGE_MASK), LIKELY):
            if hit:
                result.set((address + entry.addend).cast(Int(bits))[0])
            else:
                self.save_pc()
                value = self.mmu.slow_load(self.st, address, size)
                self.check()
                result.set(value.trunc(bits))
        return result.get()

    def load_extended(self, address: Value, bits: int) -> Value:
        """As `load`, zero-extended to 64 bits: on both paths, so that it costs nothing on the likely one."""
        size = bits // 8
        result = self.builder.variable(U64)
        entry = self._entry(address)
        for hit in self.builder.branch(entry.read == ((address + (size - 1)) & PAGE_MASK), LIKELY):
            if hit:
                result.set((address + entry.addend).cast(Int(bits))[0].zext(64))
            else:
                self.save_pc()
                value = self.mmu.slow_load(self.st, address, size)
                self.check()
                result.set(value & ((1 << bits) - 1))
        return result.get()

    def store(self, address: Value, value: Value) -> None:
        """Write `value` (8-64 bits) at guest virtual `address`; a fault ends the instruction."""
        now = value.get()
        bits = now.bits
        entry = self._entry(address)
        for hit in self.builder.branch(entry.write == ((address + (bits // 8 - 1)) & PAGE_MASK), LIKELY):
            if hit:
                (address + entry.addend).cast(Int(bits))[0] = now
            else:
                self.save_pc()
                self.mmu.slow_store(self.st, address, bits // 8, now.zext(64))
                self.check()

    def read_pointer(self, address: Value, size: int) -> Value:
        """Host address (64 bits) to read `size` (at most 64) bytes from."""
        result = self.builder.variable(U64)
        entry = self._entry(address)
        for hit in self.builder.branch(entry.read == ((address + (size - 1)) & PAGE_MASK), LIKELY):
            if hit:
                result.set(address + entry.addend)
            else:
                self.save_pc()
                value = self.mmu.read_pointer(self.st, address, size, self.translate_index())
                self.check()
                result.set(value)
        return result.get()

    def write_pointer(self, address: Value, size: int) -> tuple[Value, Value]:
        """Host address where `size` bytes can be changed in place, and whether `write_back` is due afterwards."""
        result = self.builder.variable(U64)
        slow = self.builder.variable(U32, 0)
        entry = self._entry(address)
        for hit in self.builder.branch(entry.write == ((address + (size - 1)) & PAGE_MASK), LIKELY):
            if hit:
                result.set(address + entry.addend)
            else:
                self.save_pc()
                value = self.mmu.write_pointer(self.st, address, size, self.translate_index())
                self.check()
                result.set(value)
                slow.set(1)
        return result.get(), slow.get()

    def write_back(self, slow: Value) -> None:
        """Finish what `write_pointer` began."""
        for due in self.builder.branch(slow != 0, UNLIKELY):
            if due:
                for copied in self.builder.branch(self.st.bounce_size != 0):
                    if copied:
                        self.mmu.write_back(self.st)
                        self.check()

    # ways to end
    def commit(self) -> None:
        """Write what was held back until nothing can fail; instruction sets override."""

    def write_held(self) -> None:
        """`commit` on one of several paths."""

    def check_target(self, target: Value) -> None:
        """Fault if `target` cannot be an instruction's address; instruction sets override."""

    def _tail(self, target: str) -> None:
        self.builder.emit(
            f"musttail call preserve_nonecc void {target}(ptr %st, ptr %tlb, i64 {self.carried.get().ir})"
        )
        self.builder.ret()

    def go_next(self) -> None:
        """Go on with the following stencil."""
        self._tail("@NEXT")
        self.ended = True

    def go_taken(self) -> None:
        """Go to the stencil that TAKEN names."""
        self._tail("@TAKEN")
        self.ended = True

    def go_to(self, target: Value) -> None:
        """Go to the block at guest address `target`: through the jump cache, or else the dispatcher."""
        pc = target.get()
        entry = jump_entry(self.st, pc)
        for same in self.builder.branch(entry.pc == pc, LIKELY):
            if same:
                for valid in self.builder.branch(entry.tag == self.st.lookup_tag, LIKELY):
                    if valid:
                        code = entry.code.cast(U64)
                        self.write_held()
                        self._tail(code.ir)
        # Not in its first place: there is a second one.
        other = self.mmu.jumps.find(self.st, pc)
        for known in self.builder.branch(other != 0, UNLIKELY):
            if known:
                code = other.cast(U64)
                self.write_held()
                self._tail(code.ir)
        self.check_target(pc)
        self.write_held()
        self.st.pc = pc
        self.builder.ret()
        self.ended = True

    def leave(self) -> None:
        """Back to the dispatcher; `pc` must be in the state."""
        self.builder.ret()
        self.ended = True

    def render(self, name: str) -> str:
        """Definition of the stencil as function `name`."""
        if not self.ended:
            self.commit()
            self.go_next()
        body = self.builder.finish()
        return f"define preserve_nonecc void @{name}({SIGNATURE}) nounwind {{\n{body}\n}}"


__all__ = ["FUNCTIONS", "PRELUDE", "SYMBOLS", "Any", "StencilContext"]
