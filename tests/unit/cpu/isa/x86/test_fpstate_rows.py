"""Save areas against the host's own FXSAVE and XSAVE, and the checks that the manual asks for."""

from __future__ import annotations

import dataclasses
import platform
import random
import struct

import pytest

from pyhyve.cpu.isa.x86.rows.fpstate import ROWS

from .stencil_runner import Start, StencilRunner, cases_of, random_start

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the reference is an x86-64 host's own CPU")

AREA = 576
GP = 13


@pytest.fixture(scope="module")
def runner() -> StencilRunner:
    """Every row with a save area, for 64-bit code with 64-bit pointers, and the two MXCSR rows."""
    cases = [c for c in cases_of(ROWS, 1) if c.row.name != "xgetbv"]
    wanted = {(64, 64, 64), (0, 32, 0)}
    return StencilRunner([c for c in cases if (c.variant.code_bits, c.variant.bits, c.variant.address_bits) in wanted])


def _number(runner: StencilRunner, name: str) -> int:
    return next(n for n, c in enumerate(runner.cases) if c.row.name == name)


def _start(seed: int, memory: bytes = bytes(AREA)) -> Start:
    start = random_start(random.Random(seed))
    return dataclasses.replace(start, memory=memory, gpr=[3, 0, 0, 0])


def _without_pointers(area: bytes) -> bytes:
    """An area without the last instruction's pointers, MXCSR_MASK, header and what is not saved."""
    return area[:5] + area[24:28] + area[32:416]


@pytest.mark.parametrize("name", ["fxsave", "xsave"])
@pytest.mark.parametrize("seed", range(8))
def test_saved_area_is_the_hosts(runner: StencilRunner, name: str, seed: int) -> None:
    start = _start(seed, b"\x5a" * 512 + bytes(64))
    if name == "xsave":
        start = dataclasses.replace(start, valid=0xFF)
    _, native = runner.native(_number(runner, name), start)
    _, ours = runner.emulate(_number(runner, name), start)
    assert runner.get("stop") == 0
    assert _without_pointers(ours) == _without_pointers(native)
    assert ours[416:512] == b"\x5a" * 96
    assert ours[512:520] == struct.pack("<Q", 3 if name == "xsave" else 0)


@pytest.mark.parametrize(("save", "restore"), [("fxsave", "fxrstor"), ("xsave", "xrstor")])
def test_restore_undoes_save(runner: StencilRunner, save: str, restore: str) -> None:
    first, second = _start(11), _start(12)
    image, area = runner.emulate(_number(runner, save), first)
    restored, _ = runner.emulate(_number(runner, restore), dataclasses.replace(second, memory=area))
    assert runner.get("stop") == 0
    assert restored[:5] == image[:5]
    assert restored[24:416] == image[24:416]


def test_xrstor_initialises_components_that_are_not_present(runner: StencilRunner) -> None:
    memory = bytearray(AREA)
    struct.pack_into("<I", memory, 24, 0x1F80)
    image, _ = runner.emulate(_number(runner, "xrstor"), _start(13, bytes(memory)))
    assert struct.unpack_from("<HHB", image) == (0x37F, 0, 0)
    assert image[32:416] == bytes(384)


def test_xrstor_leaves_components_that_are_not_requested(runner: StencilRunner) -> None:
    memory = bytearray(AREA)
    struct.pack_into("<I", memory, 24, 0x1F80)
    start = dataclasses.replace(_start(14, bytes(memory)), gpr=[1, 0, 0, 0])
    image, _ = runner.emulate(_number(runner, "xrstor"), start)
    assert image[160:416] == b"".join(start.xmm)
    assert struct.unpack_from("<I", image, 24)[0] == start.mxcsr


@pytest.mark.parametrize(
    ("offset", "value"), [(24, 1 << 16), (512, 4), (520, 1), (520, 1 << 63), (528, 1)],
    ids=["mxcsr", "feature-not-in-xcr0", "xcomp", "compacted", "reserved"],
)  # fmt: skip
def test_xrstor_refuses_a_bad_area(runner: StencilRunner, offset: int, value: int) -> None:
    memory = bytearray(AREA)
    struct.pack_into("<Q", memory, offset, value)
    start = _start(15, bytes(memory))
    image, _ = runner.emulate(_number(runner, "xrstor"), start)
    assert (runner.get("stop"), runner.get("event_vector"), runner.get("event_error")) == (1, GP, 0)
    assert image[160:416] == b"".join(start.xmm)


@pytest.mark.parametrize(("name", "step"), [("fxsave", 8), ("fxrstor", 8), ("xsave", 16), ("xrstor", 32)])
def test_misaligned_area_raises_gp(runner: StencilRunner, name: str, step: int) -> None:
    runner._memory.address += step
    try:
        runner.emulate(_number(runner, name), _start(16))
    finally:
        runner._memory.address -= step
    assert (runner.get("stop"), runner.get("event_vector")) == (1, GP)


@pytest.mark.parametrize("name", ["xsave", "xrstor"])
def test_xsave_needs_osxsave(runner: StencilRunner, name: str) -> None:
    runner.emulate(_number(runner, name), _start(17), cr4=0x600)
    assert (runner.get("stop"), runner.get("event_vector")) == (1, 6)


def test_ldmxcsr_refuses_reserved_bits(runner: StencilRunner) -> None:
    start = _start(18, struct.pack("<I", 0x1F80 | 1 << 16).ljust(AREA, b"\0"))
    image, _ = runner.emulate(_number(runner, "ldmxcsr"), start)
    assert (runner.get("stop"), runner.get("event_vector"), runner.get("event_error")) == (1, GP, 0)
    assert struct.unpack_from("<I", image, 24)[0] == start.mxcsr


def test_mxcsr_rows_do_what_the_host_does(runner: StencilRunner) -> None:
    for seed in range(20):
        memory = struct.pack("<I", 0x1F80 | random.Random(seed).randrange(64)).ljust(64, b"\0")
        for name in ("ldmxcsr", "stmxcsr"):
            assert runner.difference(_number(runner, name), _start(seed, memory)) == ""
