"""Every SSE and MMX row against the host's own instruction."""

from __future__ import annotations

import dataclasses
import platform
import random
import struct
from importlib import import_module

import pytest

from .stencil_runner import Case, StencilRunner, cases_of, random_start

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the reference is an x86-64 host's own CPU")

_MASKED_MOVES = "maskmov.*"
"""They address memory by RDI."""


def _rows(module: str) -> list[Case]:
    return cases_of(import_module(f"pyhyve.cpu.isa.x86.rows.{module}").ROWS, 1, skip=_MASKED_MOVES)


@pytest.mark.parametrize("module", ["sse", "sse_float", "sse_integer", "mmx"])
def test_rows_do_what_the_host_does(module: str) -> None:
    runner = StencilRunner(_rows(module))
    rnd = random.Random(2)
    found = [runner.difference(n, random_start(rnd)) for n in range(len(runner.cases)) for _ in range(6)]
    assert [text for text in found if text][:5] == []


def test_general_rows_do_what_the_host_does() -> None:
    rows = import_module("pyhyve.cpu.isa.x86.rows.sse_general").ROWS
    runner = StencilRunner(cases_of(rows, 3))
    rnd = random.Random(4)
    found = [runner.difference(n, random_start(rnd)) for n in range(len(runner.cases)) for _ in range(10)]
    assert [text for text in found if text] == []


def _single(module: str, name: str, form: str = "x") -> StencilRunner:
    cases = cases_of([r for r in import_module(f"pyhyve.cpu.isa.x86.rows.{module}").ROWS if r.name == name], 5)
    case = next(c for c in cases if c.variant.forms[1] == form)
    case.values = [1, 2]
    return StencilRunner([case])


def _division(mxcsr: int) -> tuple[StencilRunner, bytes, bytes]:
    runner = _single("sse_float", "divsd")
    start = random_start(random.Random(6))
    start.xmm[1], start.xmm[2] = struct.pack("<2d", 1.0, 3.0), struct.pack("<2d", 0.0, 0.0)
    before = start.xmm[1]
    image, _ = runner.emulate(0, dataclasses.replace(start, mxcsr=mxcsr))
    return runner, before, image


def test_unmasked_simd_exception_leaves_the_destination() -> None:
    runner, before, image = _division(0x1F80 & ~0x200)
    assert (runner.get("stop"), runner.get("event_vector"), runner.get("pc")) == (1, 19, 0x1234)
    assert image[160 + 16 : 160 + 32] == before
    assert struct.unpack_from("<I", image, 24)[0] == 0x1D84


def test_another_unmasked_simd_exception_does_not_matter() -> None:
    runner, _, image = _division(0x1F80 & ~0x400)
    assert runner.get("stop") == 0
    assert image[160 + 16 : 160 + 24] == struct.pack("<d", float("inf"))
    assert struct.unpack_from("<I", image, 24)[0] == 0x1B84


def test_misaligned_memory_operand_raises_gp() -> None:
    runner = _single("sse_integer", "paddb", "m")
    start = random_start(random.Random(7))
    runner._memory.address += 8
    image, _ = runner.emulate(0, start)
    assert (runner.get("stop"), runner.get("event_vector"), runner.get("event_error")) == (1, 13, 0)
    assert image[160:416] == b"".join(start.xmm)
