"""x87 arithmetic: the guest's registers are loaded into the host's x87 unit, which executes the guest's instruction.

The image is that of FNSAVE (32-bit protected format, SDM Vol. 1, figure 8-9): everything the instruction depends on,
control word with the guest's own masks included, so that stack faults, masked and unmasked responses, condition codes
and tags come out as the processor makes them. An unmasked exception is only recorded by the host's FNSAVE, which does
not wait, and never raised there.

Afterwards the host's unit is in its initial state, as host code expects it.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from pyhyve.cpu.isa.x86.addressing import operand_linear
from pyhyve.cpu.isa.x86.memory import load, store
from pyhyve.cpu.isa.x86.state import STATE, Seg
from pyhyve.cpu.lang import U8, U16, U32, U64, Pointer, current, kernel, u64
from pyhyve.cpu.lang.staging import inline

if TYPE_CHECKING:
    from pyhyve.cpu.lang import Kernel, Value

POINTER = Pointer(STATE)
IMAGE_BYTES = 108
IMAGE_REGISTERS = 28
STACK_REGISTERS = 8
_SUPPRESSES = 0x1F
_CLOBBERS = "~{memory},~{flags},~{fpsr}," + ",".join(["~{st}", *(f"~{{st({i})}}" for i in range(1, STACK_REGISTERS))])


@inline
def tags_of(valid: Any) -> Any:
    """Full tag word (32 bits; `00` valid, `11` empty) of the mask of valid registers."""
    x = valid & 0xFF
    x = (x | (x << 4)) & 0x0F0F
    x = (x | (x << 2)) & 0x3333
    x = (x | (x << 1)) & 0x5555
    return (x * 3) ^ 0xFFFF


@inline
def valid_of(tags: Any) -> Any:
    """Mask of the registers that a full tag word (32 bits) does not call empty."""
    x = tags & (tags >> 1) & 0x5555
    x = (x | (x >> 1)) & 0x3333
    x = (x | (x >> 2)) & 0x0F0F
    x = (x | (x >> 4)) & 0xFF
    return x ^ 0xFF


@kernel(POINTER, U64, name="x87.load_host", attributes="nounwind noinline")
def load_host(st: Any, image: Any) -> None:
    """FRSTOR the guest's state; `image` is a host address with room for it."""
    words = image.cast(U32)
    words[0] = st.fp_control.zext(32)
    words[1] = st.fp_status.zext(32) | (st.fp_top << 11)
    words[2] = tags_of(st.fp_valid)
    for i in range(3, 7):
        words[i] = 0
    registers = st.fpr
    for i in range(STACK_REGISTERS):
        source = registers.offset(((st.fp_top.zext(64) + i) & 7) << 4)
        target = image + IMAGE_REGISTERS + 10 * i
        target.cast(U64)[0] = source[0]
        (target + 8).cast(U16)[0] = source[1].trunc(16)
    current().asm("frstor ($0)", f"r,{_CLOBBERS}", "void", [("i64", image.get().ir)])


@kernel(POINTER, U64, name="x87.store_host", attributes="nounwind noinline")
def store_host(st: Any, image: Any) -> None:
    """Take the state that FNSAVE left in `image`; this instruction becomes the last non-control one."""
    words = image.cast(U32)
    status = words[1]
    st.fp_status = (status & 0xC7FF).trunc(16)
    st.fp_top = (status >> 11) & 7
    st.fp_valid = valid_of(words[2] & 0xFFFF)
    registers = st.fpr
    for i in range(STACK_REGISTERS):
        target = registers.offset(((st.fp_top.zext(64) + i) & 7) << 4)
        source = image + IMAGE_REGISTERS + 10 * i
        target[0] = source.cast(U64)[0]
        target[1] = (source + 8).cast(U16)[0].zext(64)
    st.fp_ip = st.pc
    st.fp_cs = st.seg_sel[Seg.CS].trunc(32)


@inline
def _save(image: Any) -> None:
    current().asm("fnsave ($0)", f"r,{_CLOBBERS}", "void", [("ptr", image.get().ir)])


def _bytes(opcode: int, modrm: int) -> str:
    return f".byte 0x{opcode:02x}, 0x{modrm:02x}"


@functools.cache
def register_kernel(opcode: int, first: int, count: int) -> Kernel:
    """Executes `opcode` with ModRM `first` + its argument (less than `count`)."""

    @kernel(POINTER, U64, name=f"x87.r_{opcode:02x}_{first:02x}", attributes="nounwind noinline")
    def run(st: Any, number: Any) -> None:
        image = current().buffer(IMAGE_BYTES, U8)
        load_host(st, image.address())
        for i in range(count):
            if number == i or count == 1:
                current().asm(_bytes(opcode, first + i), _CLOBBERS, "void", [])
        _save(image)
        store_host(st, image.address())

    return run


@kernel(POINTER, U64, U64, name="x87.conditional_move", attributes="nounwind noinline")
def conditional_move(st: Any, number: Any, condition: Any) -> None:
    """FCMOVcc ST(0), ST(`number`) if `condition` is not 0, by the host's FCMOVE."""
    image = current().buffer(IMAGE_BYTES, U8)
    load_host(st, image.address())
    flag = condition ^ 1
    for i in range(STACK_REGISTERS):
        if number == i:
            template = f"testq $0, $0\\0A {_bytes(0xDA, 0xC8 + i)}"
            current().asm(template, f"r,{_CLOBBERS}", "void", [("i64", flag.get().ir)])
    _save(image)
    store_host(st, image.address())


@functools.cache
def compare_kernel(opcode: int, first: int) -> Kernel:
    """FCOMI and its like: ZF, PF, CF in bits 0-2 of the result.

    Processors set them for an unmasked invalid operation too.
    """

    @kernel(POINTER, U64, result=U64, name=f"x87.c_{opcode:02x}_{first:02x}", attributes="nounwind noinline")
    def run(st: Any, number: Any) -> Any:
        image = current().buffer(IMAGE_BYTES, U8)
        load_host(st, image.address())
        flags = u64(0)
        for i in range(STACK_REGISTERS):
            if number == i:
                flags = _compare(_bytes(opcode, first + i))
        _save(image)
        store_host(st, image.address())
        return flags

    return run


def _compare(instruction: str) -> Value:
    """Emit a comparison that sets EFLAGS."""
    builder = current()
    template = f"{instruction}\\0A setz ${{0:b}}\\0A setp ${{1:b}}\\0A setc ${{2:b}}"
    kind = "{ i8, i8, i8 }"
    result = builder.asm(template, f"=&r,=&r,=&r,{_CLOBBERS}", kind, [])
    total = u64(0)
    for index in range(3):
        part = builder.let(f"extractvalue {kind} {result}, {index}", U8)
        total = total | (part.zext(64) << index)
    return total


@functools.cache
def memory_load_kernel(opcode: int, extension: int) -> Kernel:
    """Executes an instruction that reads memory, at host address `host`; `address` is the guest's."""

    @kernel(POINTER, U64, U64, name=f"x87.m_{opcode:02x}_{extension}", attributes="nounwind noinline")
    def run(st: Any, host: Any, address: Any) -> None:
        image = current().buffer(IMAGE_BYTES, U8)
        load_host(st, image.address())
        _execute_memory(opcode, extension, host)
        _save(image)
        store_host(st, image.address())
        _set_data_pointer(st, address)

    return run


@functools.cache
def wide_load_kernel(opcode: int, extension: int) -> Kernel:
    """Executes an instruction that reads ten bytes at the operand's `address`: eight, then two, as processors do."""

    @kernel(POINTER, U64, name=f"x87.t_{opcode:02x}_{extension}", attributes="nounwind noinline")
    def run(st: Any, address: Any) -> None:
        copy = current().buffer(16, U64)
        for offset, part in ((0, 8), (8, 2)):
            linear = operand_linear(st, address + offset, part, 0)
            if st.stop != 0:
                return
            value = load(st, linear, part)
            if st.stop != 0:
                return
            copy[offset // 8] = value
        memory_load_kernel(opcode, extension)(st, copy.address(), address)

    return run


@functools.cache
def memory_store_kernel(opcode: int, extension: int, size: int) -> Kernel:
    """Executes an instruction that writes `size` bytes at the operand's `address`; may fault.

    It writes a copy first. The state changes last, since the instruction runs again when memory is not ready; and
    memory is not touched when an unmasked exception (other than the inexact result's) suppresses the result.
    """

    @kernel(POINTER, U64, name=f"x87.w_{opcode:02x}_{extension}", attributes="nounwind noinline")
    def run(st: Any, address: Any) -> None:
        image = current().buffer(IMAGE_BYTES, U8)
        copy = current().buffer(16, U64)
        copy[0] = 0
        copy[1] = 0
        load_host(st, image.address())
        _execute_memory(opcode, extension, copy.address())
        _save(image)
        status = image.cast(U32)[1]
        if (status & ~st.fp_control.zext(32) & _SUPPRESSES) == 0:
            _write(st, address, copy, size)
            if st.stop != 0:
                return
        store_host(st, image.address())
        _set_data_pointer(st, address)

    return run


@inline
def _write(st: Any, address: Any, copy: Any, size: int) -> None:
    """Write the low `size` bytes of `copy`; of 10 the first 8 stay written when the others fault, as on processors."""
    for offset in range(0, size, 8):
        part = min(size - offset, 8)
        if st.stop == 0:
            linear = operand_linear(st, address + offset, part, 1)
            if st.stop == 0:
                store(st, linear, part, copy[offset // 8])


def _execute_memory(opcode: int, extension: int, host: Value) -> None:
    """Emit the instruction with a memory operand at RAX."""
    template = _bytes(opcode, extension << 3)
    current().asm(template, f"{{rax}},{_CLOBBERS}", "void", [("i64", host.get().ir)])


@inline
def _set_data_pointer(st: Any, address: Any) -> None:
    st.fp_dp = address
    st.fp_ds = st.seg_sel[Seg.DS].trunc(32)
