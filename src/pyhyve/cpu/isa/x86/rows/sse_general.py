"""Opcode rows that came with SSE but do not use its state: CRC32, POPCNT, MOVNTI, fences, cache hints.

They work whatever CR0 and CR4 say about floating point.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.cpu.isa.x86.table import Row, row
from pyhyve.cpu.lang import Int, Value

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.cpu.isa.x86.context import X86Context

_SUFFIX = {8: "b", 16: "w", 32: "l", 64: "q"}


def _crc(c: X86Context, source: Value) -> None:
    wide = Int(64 if c.bits == 64 else 32)
    value = source.get()
    operands = [(wide.ir, c.read(0, wide.bits).ir), (f"i{value.bits}", value.ir)]
    result = c.builder.asm(f"crc32{_SUFFIX[value.bits]} $2, $0", "=r,0,r", wide.ir, operands)
    c.write(0, Value(c.builder, result, wide))


def _crc32_byte(c: X86Context) -> None:
    _crc(c, c.read(1, 8))


def _crc32(c: X86Context) -> None:
    _crc(c, c.read(1))


def _popcnt(c: X86Context) -> None:
    """ZF for a zero source, every other flag clear (so PF must not follow from the result)."""
    source = c.read(1)
    kind = Int(c.bits)
    wide = source.zext(32) if c.bits == 16 else source
    count = c.builder.asm(
        f"popcnt{_SUFFIX[wide.bits]} $1, $0", "=r,r", f"i{wide.bits}", [(f"i{wide.bits}", wide.get().ir)]
    )
    c.write(0, Value(c.builder, count, Int(wide.bits)).trunc(kind.bits))
    zero = source == 0
    c.set_flags((zero ^ 1).zext(64), zero.zext(32) << 8)


def _movnti(c: X86Context) -> None:
    c.write(0, c.read(1))


def _fence(name: str) -> Callable[[X86Context], None]:
    def semantics(c: X86Context) -> None:
        c.builder.asm(name, "~{memory}", "void", [])

    return semantics


def _hint(_: X86Context) -> None:
    """Nothing to see."""


def _flush(c: X86Context) -> None:
    """CLFLUSH: faults like a load of one byte."""
    c.load(c.address, 8)


ROWS: tuple[Row, ...] = (
    row("F2 0F 38 F0", "crc32_byte", "Gy Eb", _crc32_byte, size="y", flags="n"),
    row("F2 0F 38 F1", "crc32", "Gv Ev", _crc32, flags="n"),
    row("F3 0F B8", "popcnt", "Gv Ev", _popcnt, flags="w"),
    row("NP 0F C3 m", "movnti", "My Gy", _movnti, size="y", flags="n"),
    row("NP 0F AE /5 r", "lfence", "", _fence("lfence"), flags="n"),
    row("NP 0F AE /6 r", "mfence", "", _fence("mfence"), flags="n"),
    row("NP 0F AE /7 r", "sfence", "", _fence("sfence"), flags="n"),
    row("NP 0F AE /7 m", "clflush", "Mb", _flush, size="", flags="n", stores=False),
    *(row(f"0F 18 /{i} m", "prefetch", "Mb", _hint, size="", flags="n", stores=False) for i in range(4)),
    *(row(f"0F 0D /{i} m", "prefetch", "Mb", _hint, size="", flags="n", stores=False) for i in range(8)),
)
