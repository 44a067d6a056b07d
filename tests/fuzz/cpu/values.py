"""Pools of values worth trying: boundaries and special numbers among random ones."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from . import layout as at

if TYPE_CHECKING:
    from random import Random

_BOUNDARIES: Final = tuple(
    sorted(
        {
            value & (1 << 64) - 1
            for bits in (8, 16, 32, 64)
            for top in (1 << bits - 1, 1 << bits)
            for value in (top - 1, top, top + 1, -top, -top - 1)
        }
        | {0, 1, 2, 3, 0x7F, 0xFFFF_FFFF_FFFF_FFFF, 0x5555_5555_5555_5555, 0x0000_7FFF_FFFF_FFFF, 1 << 47}
    )
)

_SINGLES: Final = (
    0x0000_0000, 0x8000_0000, 0x3F80_0000, 0xBF80_0000, 0x7F80_0000, 0xFF80_0000, 0x7FC0_0000, 0xFFC0_0001, 0x7F80_0001,
    0xFFA5_A5A5, 0x0000_0001, 0x807F_FFFF, 0x0080_0000, 0x8080_0001, 0x7F7F_FFFF, 0x4EFF_FFFF, 0x4F00_0000, 0xCF00_0000,
    0x5EFF_FFFF, 0x5F00_0000, 0xDF00_0000, 0x3F00_0000, 0x3FC0_0000, 0x4B00_0001, 0x4080_0000, 0x3EFF_FFFF,
)  # fmt: skip
_DOUBLES: Final = (
    0x0000_0000_0000_0000, 0x8000_0000_0000_0000, 0x3FF0_0000_0000_0000, 0xBFF0_0000_0000_0000, 0x7FF0_0000_0000_0000,
    0xFFF0_0000_0000_0000, 0x7FF8_0000_0000_0000, 0xFFF8_0000_0000_0001, 0x7FF0_0000_0000_0001, 0xFFF5_A5A5_A5A5_A5A5,
    0x0000_0000_0000_0001, 0x800F_FFFF_FFFF_FFFF, 0x0010_0000_0000_0000, 0x8010_0000_0000_0001, 0x7FEF_FFFF_FFFF_FFFF,
    0x41DF_FFFF_FFC0_0000, 0x41E0_0000_0000_0000, 0xC1E0_0000_0000_0000, 0x43E0_0000_0000_0000, 0xC3E0_0000_0000_0000,
    0x3FE0_0000_0000_0000, 0x3FF8_0000_0000_0000, 0x4330_0000_0000_0001, 0x36A0_0000_0000_0000, 0x47EF_FFFF_F000_0000,
    0x380F_FFFF_FFFF_FFFF, 0x3810_0000_0000_0000, 0x4010_0000_0000_0000,
)  # fmt: skip
_EXTENDED: Final = (
    (0x0000, 0), (0x8000, 0), (0x3FFF, 1 << 63), (0xBFFF, 1 << 63), (0x7FFF, 1 << 63), (0xFFFF, 1 << 63),
    (0x7FFF, 3 << 62), (0xFFFF, 3 << 62), (0x7FFF, (1 << 63) + 1), (0xFFFF, (1 << 63) + 0x5A5A),
    (0xFFFF, (3 << 62) + 7),
    (0x7FFF, 0), (0x7FFF, 1), (0xFFFF, 1 << 62), (0x0000, 1), (0x8000, (1 << 63) - 1), (0x0000, 1 << 63),
    (0x8000, (1 << 63) + 1), (0x0001, 1 << 63), (0x7FFE, (1 << 64) - 1), (0x3FFF, 1 << 62), (0x4010, 1), (0x4000, 0),
    (0x4000, 0xC90F_DAA2_2168_C235), (0x401E, 1 << 63), (0xC01E, 1 << 63), (0x403E, 1 << 63), (0xC03E, 1 << 63),
    (0x3FFE, 1 << 63), (0xBFFE, 1 << 63), (0x3FFF, 3 << 62), (0x403A, 0xDE0B_6B3A_763F_FFF0),
    (0x403A, 0xDE0B_6B3A_7640_0000),
    (0x400C, 0xFFFE << 48), (0x400D, 1 << 63), (0xC00E, 1 << 63), (0x3C00, 1 << 63), (0x43FE, (1 << 64) - 1),
)  # fmt: skip


def integer(random: Random) -> int:
    """A 64-bit value."""
    kind = random.getrandbits(3)
    if kind == 0:
        return random.choice(_BOUNDARIES)
    if kind == 1:
        return random.getrandbits(64)
    if kind == 2:
        return 1 << random.getrandbits(6)
    if kind == 3:
        return random.getrandbits(8) * 0x0101_0101_0101_0101
    value = random.getrandbits(random.randint(1, 64))
    return value if kind & 1 else (value if kind == 4 else -value & (1 << 64) - 1)


def _single(random: Random) -> int:
    if random.getrandbits(1):
        return random.choice(_SINGLES)
    # Exponents close together, so that sums round and cancel.
    return random.getrandbits(1) << 31 | (127 + random.randint(-30, 34)) << 23 | random.getrandbits(23)


def _double(random: Random) -> int:
    if random.getrandbits(1):
        return random.choice(_DOUBLES)
    return random.getrandbits(1) << 63 | (1023 + random.randint(-60, 66)) << 52 | random.getrandbits(52)


def vector(random: Random) -> bytes:
    """16 bytes."""
    kind = random.getrandbits(3)
    if kind == 0:
        return random.getrandbits(128).to_bytes(16, "little")
    if kind in (1, 2):
        return struct.pack("<4I", *(_single(random) for _ in range(4)))
    if kind in (3, 4):
        return struct.pack("<2Q", _double(random), _double(random))
    if kind == 5:
        # Few distinct bytes and some NULs: what the string instructions look for.
        return bytes(random.choices(b"\0aab\x80\xff", k=16))
    return struct.pack("<2Q", integer(random), integer(random))


def extended(random: Random) -> bytes:
    """An x87 register slot of an FXSAVE image: 10 bytes and 6 of padding."""
    kind = random.getrandbits(3)
    if kind < 3:
        exponent, mantissa = random.choice(_EXTENDED)
    elif kind == 3:
        exponent, mantissa = random.getrandbits(16), integer(random)
    else:
        spread = 70 if kind < 7 else 4
        exponent = random.getrandbits(1) << 15 | (16383 + random.randint(-spread, spread))
        mantissa = 1 << 63 | random.getrandbits(63)
        if kind & 1:
            mantissa = mantissa >> (keep := random.randint(1, 62)) << keep
    return struct.pack("<QH6x", mantissa, exponent)


def fx_header(random: Random) -> bytes:
    """The first 32 bytes of an FXSAVE image: control and status of x87 and SSE, as a CPU could hold them."""
    control = 0x37F
    if random.getrandbits(1):
        control = control & 0xF0FF | random.choice((0, 2, 3)) << 8 | random.getrandbits(2) << 10
    if not random.getrandbits(4):
        control &= ~random.getrandbits(6)
    status = random.getrandbits(3) << 11 | random.getrandbits(3) << 8 | random.getrandbits(1) << 14
    if not random.getrandbits(1):
        status |= random.getrandbits(7)
    if status & ~control & 0x3F:
        status |= 0x8080
    tags = (0xFF, 0, random.getrandbits(8), random.getrandbits(8))[random.getrandbits(2)]
    mxcsr = 0x1F80
    if random.getrandbits(1):
        mxcsr |= random.getrandbits(6) | random.getrandbits(2) << 13
    if not random.getrandbits(2):
        mxcsr |= random.getrandbits(1) << 6 | random.getrandbits(1) << 15
    if not random.getrandbits(4):
        mxcsr &= ~(random.getrandbits(6) << 7)
    return struct.pack("<HHBxH16xII", control, status, tags, 0, mxcsr, 0)


def fx_image(random: Random) -> bytes:
    """A valid FXSAVE image."""
    parts = [fx_header(random), *(extended(random) for _ in range(8)), *(vector(random) for _ in range(16))]
    return b"".join(parts).ljust(at.FX_SIZE, b"\0")


def xsave_image(random: Random) -> bytes:
    """An XSAVE area in standard format of x87 and SSE (SDM volume 1, 13.4)."""
    return fx_image(random) + xsave_header(random)


def xsave_header(random: Random) -> bytes:
    """The 64 bytes behind the legacy region, mostly valid, never of the compacted format (the model has no XSAVEC)."""
    present = random.getrandbits(2)
    if not random.getrandbits(4):
        present |= 1 << 63  # no component of any processor
    compact = random.getrandbits(63) if not random.getrandbits(4) else 0
    return struct.pack("<2Q", present, compact).ljust(64, b"\0")


def packed_decimal(random: Random) -> bytes:
    """A packed BCD number of 18 digits, with 6 bytes of padding."""
    digits = bytes(random.randint(0, 9) | random.randint(0, 9) << 4 for _ in range(random.randint(0, 9)))
    return digits.ljust(9, b"\0") + bytes([random.getrandbits(1) << 7]) + bytes(6)


FX_AREA: Final = at.DATA + 0x2800
FX_AREA_COUNT: Final = 4
XSAVE_SIZE: Final = 512 + 64
XSAVE_AREA: Final = at.DATA + 0x1C00
XSAVE_AREA_COUNT: Final = 4
XSAVE_HEADERS: Final = (at.DATA + 0x40, at.DATA + 0xC0, at.DATA + 0x180, at.READ_ONLY + 0x40, at.READ_ONLY + 0x100)
"""Headers of areas that begin on the page before, which is not there, or is and can be written."""
DECIMAL_AREA: Final = at.DATA + 0x2700
DECIMAL_AREA_COUNT: Final = 16


def template(random: Random, safe: int = at.STUB) -> bytes:
    """Initial contents of ``DATA``, ``STACK`` and ``READ_ONLY``, with structures where instructions need them.

    Among them are places to return to, mostly ``safe``.
    """
    chunks = [vector(random) for _ in range(512)]
    chunks += [extended(random)[:10] + bytes(random.getrandbits(8) for _ in range(6)) for _ in range(128)]
    chunks += [struct.pack("<2Q", safe, random.choice((safe, at.DATA + 64, at.CODE + 8))) for _ in range(64)]
    memory = bytearray(b"".join(random.choices(chunks, k=at.TEMPLATE_SIZE // 16)))
    decimals = b"".join(packed_decimal(random) for _ in range(DECIMAL_AREA_COUNT))
    memory[DECIMAL_AREA - at.DATA : DECIMAL_AREA - at.DATA + len(decimals)] = decimals
    images = b"".join(fx_image(random) for _ in range(FX_AREA_COUNT))
    memory[FX_AREA - at.DATA : FX_AREA - at.DATA + len(images)] = images
    areas = b"".join(xsave_image(random) for _ in range(XSAVE_AREA_COUNT))
    memory[XSAVE_AREA - at.DATA : XSAVE_AREA - at.DATA + len(areas)] = areas
    for header in XSAVE_HEADERS:
        offset = header - at.DATA + (at.STACK_SIZE if header >= at.READ_ONLY else 0)
        memory[offset : offset + 64] = xsave_header(random)
    return bytes(memory)
