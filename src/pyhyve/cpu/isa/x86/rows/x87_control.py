"""Opcode rows: x87 control instructions, which run no arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.cpu.isa.x86 import faults, fpstate, x87_environment
from pyhyve.cpu.isa.x86.spec import Cr0
from pyhyve.cpu.isa.x86.table import Row, row
from pyhyve.cpu.isa.x86.x87_exceptions import check_pending
from pyhyve.cpu.lang.builder import UNLIKELY

if TYPE_CHECKING:
    from pyhyve.cpu.isa.x86.context import X86Context
    from pyhyve.cpu.isa.x86.simd import Semantics
    from pyhyve.cpu.lang import Kernel


def _fldcw(c: X86Context) -> None:
    fpstate.set_control(c.st, c.read(0, 16).zext(64))


def _fnstcw(c: X86Context) -> None:
    c.write(0, c.st.fp_control)


def _fnstsw(c: X86Context) -> None:
    c.write(0, fpstate.status(c.st).trunc(16))


def _fnstsw_ax(c: X86Context) -> None:
    c.set_reg(0, fpstate.status(c.st).trunc(16))


def _fninit(c: X86Context) -> None:
    fpstate.fninit(c.st)


def _fnclex(c: X86Context) -> None:
    x87_environment.fnclex(c.st)


def _nothing(_: X86Context) -> None:
    """FNOP; FNENI, FNDISI, FNSETPM of older coprocessors."""


def _fwait(c: X86Context) -> None:
    """#NM with CR0.MP and CR0.TS both set, then a pending exception."""
    both = Cr0.MP | Cr0.TS
    for blocked in c.builder.branch((c.st.cr0 & both) == both, UNLIKELY):
        if blocked:
            c.save_pc()
            faults.nm(c.st)
            c.builder.ret()
    check_pending(c)


def _area(kernel: Kernel) -> Semantics:
    def semantics(c: X86Context) -> None:
        c.call(kernel, c.address, c.bits // 8)

    return semantics


def _x87(
    opcode: str, name: str, operands: str, semantics: Semantics, *, stores: bool = False, waits: bool = False
) -> Row:
    return row(opcode, name, operands, semantics, size="", flags="n", fpu="x87", stores=stores, waits=waits)


def _block(opcode: str, name: str, kernel: Kernel, *, stores: bool) -> Row:
    semantics = _area(kernel)
    return row(opcode, name, "M", semantics, size="z", flags="n", fpu="x87", stores=stores, late=True, waits=not stores)


ROWS: tuple[Row, ...] = (
    _x87("D9 /5 m", "fldcw", "Mw", _fldcw, waits=True),
    _x87("D9 /7 m", "fnstcw", "Mw", _fnstcw, stores=True),
    _x87("DD /7 m", "fnstsw", "Mw", _fnstsw, stores=True),
    _x87("DF E0", "fnstsw_ax", "", _fnstsw_ax),
    _x87("DB E2", "fnclex", "", _fnclex),
    _x87("DB E3", "fninit", "", _fninit),
    *(_x87(f"DB {modrm}", "fneni", "", _nothing) for modrm in ("E0", "E1", "E4")),
    _x87("D9 D0", "fnop", "", _nothing, waits=True),
    row("9B", "fwait", "", _fwait, size=""),
    _block("D9 /4 m", "fldenv", x87_environment.fldenv, stores=False),
    _block("D9 /6 m", "fnstenv", x87_environment.fnstenv, stores=True),
    _block("DD /4 m", "frstor", x87_environment.frstor, stores=False),
    _block("DD /6 m", "fnsave", x87_environment.fnsave, stores=True),
)
