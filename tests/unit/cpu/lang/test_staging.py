"""The staged language against plain Python: what a kernel computes when compiled."""

from __future__ import annotations

import ctypes
from typing import Any

import llvmlite.binding as llvm
import pytest

from pyhyve.cpu.lang import U8, U16, U32, U64, Array, Kernel, Module, Pointer, StagingError, Struct, inline, kernel, u64

MASK = (1 << 64) - 1
POINT = Struct("Point").add("x", U32).add("y", U64).add("tail", Array(U16, 4))


def compiled(item: Kernel) -> Any:
    """`item` as a function of 64-bit integers."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()
    module = Module()
    item.exported = True
    module.need(item)
    machine = llvm.Target.from_default_triple().create_target_machine(opt=2)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(module.render()), machine)
    engine.finalize_object()
    function = ctypes.CFUNCTYPE(ctypes.c_uint64, *([ctypes.c_uint64] * len(item.parameters)))(
        engine.get_function_address(item.name)
    )
    function.engine = engine
    return function


@kernel(U64, U64, result=U64)
def clamp(value: Any, limit: Any) -> Any:
    if value > limit:
        return limit
    if value == 0 or value == 7:  # noqa: PLR1714 - staged code has no `in`
        return 1
    return value


def test_if_and_or_return_take_the_right_path() -> None:
    run = compiled(clamp)
    assert [run(v, 100) for v in (0, 3, 7, 100, 101, MASK)] == [1, 3, 1, 100, 100, 100]


@kernel(Pointer(U64), U64, result=U64)
def checked_sum(items: Any, count: Any) -> Any:
    total: U64 = 0
    i: U64 = 0
    while i < count:
        item = items[i]
        i += 1
        if item == 13:
            break
        if item & 1 == 1:
            continue
        total += item
    return total


def test_while_break_and_continue() -> None:
    run = compiled(checked_sum)
    items = (ctypes.c_uint64 * 6)(2, 3, 4, 13, 8, 10)
    assert run(ctypes.addressof(items), 3) == 6
    assert run(ctypes.addressof(items), 6) == 6
    assert run(ctypes.addressof(items), 0) == 0


@kernel(U64, U64, result=U64)
def guarded(pointer: Any, index: Any) -> Any:
    if pointer != 0 and pointer.cast(U64)[index] == 5:
        return 1
    return 0


def test_and_does_not_evaluate_its_right_side_needlessly() -> None:
    run = compiled(guarded)
    items = (ctypes.c_uint64 * 2)(1, 5)
    assert run(0, 0) == 0  # would read address 0
    assert run(ctypes.addressof(items), 1) == 1


@kernel(U64, U64, result=U64)
def signs(a: Any, b: Any) -> Any:
    quotient = a.sdiv(b)
    remainder = a.srem(b)
    less = a.slt(b).zext(64)
    return (quotient << 32) ^ (remainder << 8) ^ (a.sar(1) << 4) ^ less


@pytest.mark.parametrize(("a", "b"), [(7, 2), (-7, 2), (7, -2), (-7, -2), (-(1 << 63), 3)])
def test_signed_operations_match_the_machine(a: int, b: int) -> None:
    quotient = abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    remainder = a - quotient * b
    expected = (quotient << 32) ^ (remainder << 8) ^ ((a >> 1) << 4) ^ int(a < b)
    assert compiled(signs)(a & MASK, b & MASK) == expected & MASK


@kernel(U64, result=U64)
def unsigned_compare(a: Any) -> Any:
    return (a > 5).zext(64) + (a >> 63)


def test_plain_operators_are_unsigned() -> None:
    run = compiled(unsigned_compare)
    assert run(MASK) == 2
    assert run(5) == 0


@kernel(Pointer(POINT), U64, result=U64)
def touch(point: Any, index: Any) -> Any:
    point.x = point.x + 1
    point.y = point.x.zext(64) * 2
    point.tail[index] = point.tail[index] ^ 0xFFFF
    return point.y


def test_structures_have_fields_and_arrays() -> None:
    memory = (ctypes.c_uint8 * POINT.size_bytes)()
    run = compiled(touch)
    assert run(ctypes.addressof(memory), 3) == 2
    data = bytes(memory)
    assert data[POINT.offset("tail", 3) :][:2] == b"\xff\xff"
    assert data[POINT.offset("tail", 2) :][:2] == b"\0\0"
    assert int.from_bytes(data[POINT.offset("x") :][:4], "little") == 1


@inline
def double_if_small(value: Any) -> Any:
    result = value
    if value < 10:
        result = value * 2
    return result


@kernel(U64, result=U64)
def uses_inline(value: Any) -> Any:
    return double_if_small(value) + double_if_small(value + 1)


def test_inline_functions_are_expanded_with_their_own_locals() -> None:
    run = compiled(uses_inline)
    assert run(3) == 14
    assert run(9) == 28
    assert run(50) == 101


@kernel(U64, result=U64)
def unrolled(value: Any) -> Any:
    total = value
    for step in (1, 10, 100):
        total = total + step
    return total


def test_for_over_python_values_unrolls() -> None:
    assert compiled(unrolled)(5) == 116


@kernel(U64, result=U64)
def factorial(n: Any) -> Any:
    if n == 0:
        return 1
    return n * factorial(n - 1)


def test_kernels_call_themselves() -> None:
    assert compiled(factorial)(10) == 3628800


@kernel(U64, result=U64)
def swaps(a: Any) -> Any:
    b = a + 1
    c = a
    if a > 3:
        b, c = c, b
    return b * 16 + c


def test_tuple_assignment_evaluates_the_right_side_first() -> None:
    run = compiled(swaps)
    assert run(2) == 3 * 16 + 2
    assert run(4) == 4 * 16 + 5


@kernel(U64, result=U64)
def rebinding(n: Any) -> Any:
    count = 0
    while n > count:
        count = count + 1
    return u64(0)


def test_rebinding_a_build_time_value_in_a_loop_is_refused() -> None:
    with pytest.raises(StagingError, match="annotate it"):
        compiled(rebinding)


@kernel(U64, result=U64)
def mixed_widths(n: Any) -> Any:
    return n + n.trunc(32)


def test_mixing_widths_is_refused() -> None:
    with pytest.raises(StagingError, match="expected"):
        compiled(mixed_widths)


@kernel(U64, result=U64)  # noqa: RET503 - the mistake under test
def forgets(n: Any) -> Any:
    if n == 0:
        return 1


def test_a_missing_return_is_refused() -> None:
    with pytest.raises(StagingError, match="without a return"):
        compiled(forgets)


def test_structures_refuse_a_field_twice() -> None:
    with pytest.raises(ValueError, match="twice"):
        Struct("S").add("a", U8).add("a", U8)


def test_two_kernels_of_one_name_are_refused() -> None:
    module = Module()
    module.need(Kernel(lambda: None, (), None, name="same"))
    with pytest.raises(ValueError, match="same"):
        module.need(Kernel(lambda: None, (), None, name="same"))
