"""Opcode rows: state of the floating-point units as a whole.

These check CR0 and CR4 themselves, since each does it in its own way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.cpu.isa.x86 import fpstate
from pyhyve.cpu.isa.x86.table import Row, row

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.cpu.isa.x86.context import X86Context
    from pyhyve.cpu.lang import Kernel


def _area(kernel: Kernel) -> Callable[[X86Context], None]:
    """An instruction on a save area: REX.W selects 64-bit pointers, 64-bit mode all 16 XMM registers.

    The kernel is told the address size too: an area wraps around where its addresses end.
    """

    def semantics(c: X86Context) -> None:
        long = c.variant.code_bits == 64
        c.call(kernel, c.address, int(c.bits == 64), 16 if long else 8, c.constant(c.variant.address_bits))

    return semantics


def _xgetbv(c: X86Context) -> None:
    c.call(fpstate.xgetbv)


def _ldmxcsr(c: X86Context) -> None:
    c.call(fpstate.ldmxcsr, c.read(0, 32).zext(64))


def _stmxcsr(c: X86Context) -> None:
    c.write(0, fpstate.read_mxcsr(c.st).trunc(32))


def _save(opcode: str, name: str, kernel: Kernel, *, stores: bool) -> Row:
    return row(
        opcode,
        name,
        "M",
        _area(kernel),
        size="y",
        flags="n",
        code_size=True,
        stores=stores,
        late=True,
        address_size=True,
    )


ROWS: tuple[Row, ...] = (
    _save("NP 0F AE /0 m", "fxsave", fpstate.fxsave, stores=True),
    _save("NP 0F AE /1 m", "fxrstor", fpstate.fxrstor, stores=False),
    _save("NP 0F AE /4 m", "xsave", fpstate.xsave, stores=True),
    _save("NP 0F AE /5 m", "xrstor", fpstate.xrstor, stores=False),
    row("NP 0F 01 D0", "xgetbv", "", _xgetbv),
    row("NP 0F AE /2 m", "ldmxcsr", "Md", _ldmxcsr, flags="n", fpu="sse", stores=False),
    row("NP 0F AE /3 m", "stmxcsr", "Md", _stmxcsr, flags="n", fpu="sse", stores=True),
)
