"""Every x87 row against the host's own instruction."""

from __future__ import annotations

import dataclasses
import platform
import random

import pytest

from pyhyve.cpu.isa.x86.rows.x87 import ROWS

from .stencil_runner import StencilRunner, cases_of, random_start

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the reference is an x86-64 host's own CPU")


@pytest.fixture(scope="module")
def runner() -> StencilRunner:
    """All rows."""
    return StencilRunner(cases_of(ROWS, 1))


@pytest.mark.parametrize("unmasked", [False, True])
def test_rows_do_what_the_host_does(runner: StencilRunner, unmasked: bool) -> None:
    rnd = random.Random(8 + unmasked)
    found = [
        runner.difference(n, random_start(rnd, unmasked=unmasked)) for n in range(len(runner.cases)) for _ in range(12)
    ]
    assert [text for text in found if text][:5] == []


def test_all_but_the_control_instructions_wait_for_pending_exceptions() -> None:
    free = {row.name for row in ROWS if row.fpu == "x87" and not row.waits}
    assert free == {"fnstcw", "fnstsw", "fnstsw_ax", "fnclex", "fninit", "fneni", "fnstenv", "fnsave"}


def test_last_instruction_pointer_is_kept(runner: StencilRunner) -> None:
    number = next(n for n, c in enumerate(runner.cases) if c.row.name == "fldl")
    runner.emulate(number, dataclasses.replace(random_start(random.Random(4)), status=0))
    assert (runner.get("fp_ip"), runner.get("fp_dp")) == (0x1234, runner._memory.address)
