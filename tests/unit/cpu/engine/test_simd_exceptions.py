"""Unmasked SIMD floating-point exceptions: what MXCSR says when #XM is raised (SDM Vol. 1, 11.5)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import pytest

from pyhyve.accel.api import ExitKind
from tests.unit.cpu.engine.conftest import CODE, STACK

if TYPE_CHECKING:
    from tests.unit.cpu.engine.conftest import Guest

IE, DE, ZE, OE, UE, PE = (1 << bit for bit in range(6))
ALL_MASKED: Final = 0x1F80
DAZ, FTZ = 1 << 6, 1 << 15
DATA: Final = 0x40000
HANDLER: Final = 0x11000
MAX: Final = 1.7976931348623157e308
MIN: Final = 2.2250738585072014e-308
ODD: Final = 2.225073858507202e-308
"""The next one up: its last bit is set."""
MAX_SINGLE: Final = 3.4028234663852886e38


def raised(
    guest: Guest, code: str, first: bytes, second: bytes, *, unmasked: int, control: int = 0
) -> tuple[bool, int]:
    """Run `code` on xmm0 = `first`, xmm1 = `second`: whether #XM came, and the exception flags of MXCSR after."""
    guest.gate(19, HANDLER)
    # the handler: stmxcsr [DATA+44]; mov bl, 1; hlt
    guest.code("0fae1c252c000400 b301 f4", at=HANDLER)
    mxcsr = ALL_MASKED & ~(unmasked << 7) | control
    guest.memory.write(DATA, first + second + struct.pack("<II", mxcsr, 0xFFFFFFFF))
    # movups xmm0, [DATA]; movups xmm1, [DATA+16]; ldmxcsr [DATA+32]; ...; stmxcsr [DATA+44]; hlt
    guest.code(f"0f10042500000400 0f100c2510000400 0fae142520000400 {code} 0fae1c252c000400 f4")
    assert guest.run(rbx=0, rip=CODE, rsp=STACK).kind == ExitKind.HALT
    flags = struct.unpack("<I", guest.memory.read(DATA + 44, 4))[0] & 0x3F
    return guest.vcpu.read_registers()["rbx"] == 1, flags


def doubles(*values: float) -> bytes:
    return struct.pack("<2d", *values, *[1.0] * (2 - len(values)))


def singles(*values: float) -> bytes:
    return struct.pack("<4f", *values, *[1.0] * (4 - len(values)))


ADDSD, MULSD, DIVSD, CVTSD2SS = "f20f58c1", "f20f59c1", "f20f5ec1", "f20f5ac1"
MULPD, MULPS, HADDPS, DPPS, DPPD = "660f59c1", "0f59c1", "f20f7cc1", "660f3a40c1ff", "660f3a41c1ff"


@pytest.mark.parametrize(
    ("code", "first", "second", "flags"),
    [
        (MULSD, MAX, 2.0, OE),  # exact but for its exponent
        (MULSD, MAX, 1.7, OE | PE),
        (ADDSD, MAX, MAX, OE),
        (MULSD, MIN, 0.5, UE),
        (MULSD, ODD, 0.3, UE | PE),
        (DIVSD, MIN, 4.0, UE),
        (DIVSD, MIN, 3.0, UE | PE),
        (CVTSD2SS, 0.0, 2.0**200, OE),
        (CVTSD2SS, 0.0, 1.1e200, OE | PE),
        (CVTSD2SS, 0.0, 2.0**-149, UE),
        (CVTSD2SS, 0.0, 1.1e-200, UE | PE),
    ],
)
def test_precision_is_that_of_an_unbounded_exponent(
    guest: Guest, code: str, first: float, second: float, flags: int
) -> None:
    assert raised(guest, code, doubles(first), doubles(second), unmasked=OE | UE) == (True, flags)


def test_masked_overflow_and_underflow_keep_the_masked_meaning(guest: Guest) -> None:
    assert raised(guest, MULSD, doubles(MAX), doubles(2.0), unmasked=ZE) == (False, OE | PE)
    assert raised(guest, MULSD, doubles(MIN), doubles(0.5), unmasked=ZE) == (False, 0)
    # The lane that raises reports by the unmasked rule, the other by the masked one.
    pair = raised(guest, MULPD, doubles(MAX, MIN), doubles(2.0, 0.5), unmasked=OE)
    assert pair == (True, OE)
    assert raised(guest, MULPD, doubles(MAX, ODD), doubles(2.0, 0.3), unmasked=OE) == (True, OE | UE | PE)


def test_denormals_are_zero_before_anything_else(guest: Guest) -> None:
    assert raised(guest, MULSD, doubles(5e-324), doubles(0.5), unmasked=UE, control=DAZ) == (False, 0)
    assert raised(guest, MULSD, doubles(5e-324), doubles(0.5), unmasked=UE) == (True, UE | DE)


def test_flushing_to_zero_is_off_while_underflow_is_unmasked(guest: Guest) -> None:
    assert raised(guest, MULSD, doubles(MIN), doubles(0.5), unmasked=UE, control=FTZ) == (True, UE)
    assert raised(guest, MULSD, doubles(MIN), doubles(0.5), unmasked=ZE, control=FTZ) == (False, UE | PE)


def test_an_early_exception_leaves_the_flags_of_results_alone(guest: Guest) -> None:
    first = doubles(float("inf"), MAX)
    assert raised(guest, MULPD, first, doubles(0.0, 1.7), unmasked=IE | OE) == (True, IE)


def test_horizontal_addition_pairs_neighbours(guest: Guest) -> None:
    first = singles(MAX_SINGLE, MAX_SINGLE)
    assert raised(guest, HADDPS, first, singles(), unmasked=OE) == (True, OE)
    assert raised(guest, HADDPS, singles(MAX_SINGLE, 1.0, MAX_SINGLE), singles(), unmasked=OE) == (False, PE)
    assert raised(guest, MULPS, first, singles(2.0, 1.7), unmasked=OE) == (True, OE | PE)


def test_dot_product_stops_at_the_first_step_that_raises(guest: Guest) -> None:
    # The products overflow; their sum would be inf - inf.
    first = singles(MAX_SINGLE, MAX_SINGLE)
    second = singles(2.0, -2.0)
    assert raised(guest, DPPS, first, second, unmasked=OE | IE) == (True, OE)
    # Masked, the products go on as infinities, and the sum is invalid.
    assert raised(guest, DPPS, first, second, unmasked=IE) == (True, OE | PE | IE)
    # The sum alone overflows.
    assert raised(guest, DPPS, first, singles(), unmasked=OE) == (True, OE)
    assert raised(guest, DPPD, doubles(MAX, MAX), doubles(1.0, 1.0), unmasked=OE) == (True, OE)
    # What is not selected raises nothing.
    assert raised(guest, "660f3a41c11f", doubles(1.0, MAX), doubles(1.0, 2.0), unmasked=OE) == (False, 0)
