"""How fast the host's time-stamp counter runs, which guests are told."""

from __future__ import annotations

import ctypes
import functools
import time
from typing import TYPE_CHECKING, Any

import llvmlite.binding as llvm

from pyhyve.cpu.lang import U64, Module, current, kernel

if TYPE_CHECKING:
    from collections.abc import Callable

INTERVAL_S = 0.02
SAMPLES = 16


@kernel(result=U64, name="tsc.read", exported=True)
def read_counter() -> Any:
    """The host's cycle counter."""
    return current().intrinsic("llvm.readcyclecounter", U64)


def _sample(read: Callable[[], int]) -> tuple[int, int]:
    """A counter value and the monotonic time (ns) it was read at: the tightest of some pairs."""
    best: tuple[int, int, int] | None = None
    for _ in range(SAMPLES):
        before = time.monotonic_ns()
        counter = read()
        after = time.monotonic_ns()
        if best is None or after - before < best[0]:
            best = after - before, counter, (before + after) // 2
    assert best is not None  # noqa: S101 - SAMPLES is positive
    return best[1], best[2]


@functools.cache
def host_tsc_hz() -> int:
    """Frequency of the counter that RDTSC reads, measured once against the monotonic clock (about 20 ms)."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()
    module = Module()
    module.need(read_counter)
    machine = llvm.Target.from_default_triple().create_target_machine()
    with llvm.create_mcjit_compiler(llvm.parse_assembly(module.render()), machine) as engine:
        engine.finalize_object()
        read = ctypes.CFUNCTYPE(ctypes.c_uint64)(engine.get_function_address(read_counter.name))
        counter0, time0 = _sample(read)
        time.sleep(INTERVAL_S)
        counter1, time1 = _sample(read)
    return max(1, round((counter1 - counter0) * 1_000_000_000 / (time1 - time0)))
