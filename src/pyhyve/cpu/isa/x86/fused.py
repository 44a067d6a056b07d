"""Stencils of two instructions that compilers often put one behind the other.

Their semantics is that of the two rows: a comparison and the conditional jump on it, which takes its condition from the
values just compared instead of from the flags in the state (these are set all the same); a move between registers and
an operation on the copy, which takes its operand from where the move would.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyhyve.cpu.isa.x86.decode_tables import StencilKey
from pyhyve.cpu.isa.x86.rows import tables
from pyhyve.cpu.isa.x86.rows.transfer import take
from pyhyve.cpu.isa.x86.specials import NUMBERS
from pyhyve.cpu.lang import U8, U16, table

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.cpu.isa.x86.context import X86Context

    Semantics = Callable[[X86Context], None]

CONDITIONS = 16
_BELOW, _ZERO, _NOT_ABOVE, _SIGN, _LESS, _NOT_GREATER = 1, 2, 3, 4, 6, 7
"""Numbers of pairs of conditions, a condition and its opposite (SDM Vol. 2, table B-10)."""
_COMPARE = (_BELOW, _ZERO, _NOT_ABOVE, _SIGN, _LESS, _NOT_GREATER)
_TEST = (_ZERO, _SIGN, _NOT_GREATER)
_JUMPS = {
    "cmp": _COMPARE, "cmp_al": _COMPARE, "cmp_ax": _COMPARE, "test": _TEST, "test_al": _TEST, "test_ax": _TEST,
    "sub": (_BELOW, _ZERO, _SIGN), "add": (_BELOW, _ZERO), "and": (_ZERO,), "and_ax": (_ZERO,), "dec": (_ZERO, _SIGN),
    "inc": (_ZERO,),
}  # fmt: skip
"""Pairs of conditions that are jumped on, by the name of the row before the jump."""
_WIDTHS = (8, 32, 64)
_ON_COPIES = frozenset({"shl", "shr", "sar", "rol", "ror", "add", "sub", "and", "or", "xor", "neg", "not"})
"""Operations behind a move to their destination."""
_COPY_FORMS = frozenset({("r",), ("r", "i"), ("r", "r")})
_COPY_WIDTHS = (32, 64)


def _jumps(key: StencilKey) -> tuple[int, ...]:
    """Pairs of conditions that a stencil has forms with: none in rare sizes, or when it changes memory."""
    variant = key.variant
    if variant.no_flags or variant.lock or variant.bits not in _WIDTHS:
        return ()
    if not key.name.startswith(("cmp", "test")) and "m" in variant.forms:
        return ()
    return _JUMPS.get(key.name, ())


def _with_jump(semantics: Semantics, code: int) -> Semantics:
    def fused(c: X86Context) -> None:
        semantics(c)
        take(c, c.condition(code))

    return fused


def _is_move(key: StencilKey) -> bool:
    return key.name == "mov" and key.variant.forms == ("r", "r") and key.variant.bits in _COPY_WIDTHS


def _takes_copy(key: StencilKey) -> bool:
    variant = key.variant
    return key.name in _ON_COPIES and variant.forms in _COPY_FORMS and variant.bits in _COPY_WIDTHS and not variant.lock


def _on_copy(semantics: Semantics) -> Semantics:
    """The operation on a copy of the register that V2 names."""

    def fused(c: X86Context) -> None:
        c.copied = 2
        semantics(c)

    return fused


@dataclass(slots=True)
class _Fused:
    keys: list[StencilKey] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=lambda: [0] * CONDITIONS)
    moves: list[int] = field(default_factory=list)
    copies: list[int] = field(default_factory=list)


@functools.cache
def _all() -> _Fused:
    """The stencils, numbered on from those of the rows, and the contents of the tables below."""
    first = len(NUMBERS)
    plain = tables().stencils
    made = _Fused()
    made.rows = [0] * (first + len(plain))
    made.moves, made.copies = list(made.rows), [0] * (2 * len(made.rows))

    def add(key: StencilKey, semantics: Semantics) -> int:
        made.keys.append(StencilKey(key.name, key.variant, semantics))
        return first + len(plain) + len(made.keys) - 1

    for number, key in enumerate(plain, first):
        if pairs := _jumps(key):
            made.rows[number] = len(made.numbers)
            made.numbers += [0] * CONDITIONS
            for code in (2 * pair + opposite for pair in pairs for opposite in range(2)):
                made.numbers[made.rows[number] + code] = add(key, _with_jump(key.semantics, code))
        if _is_move(key):
            made.moves[number] = _COPY_WIDTHS.index(key.variant.bits) + 1
        if _takes_copy(key):
            # A move of 32 bits clears what one of 64 bits has above them: only 32 bits can be taken from before it.
            wide = add(key, _on_copy(key.semantics))
            made.copies[2 * number + 1] = wide
            made.copies[2 * number] = wide if key.variant.bits == _COPY_WIDTHS[0] else 0
    made.rows += [0] * len(made.keys)
    made.moves += [0] * len(made.keys)
    return made


def fused_stencils() -> list[StencilKey]:
    """Keys, in the order of their numbers."""
    return _all().keys


jump_rows = table("x86_jump_rows", U16, lambda: _all().rows)
"""By the number of a stencil: where its row is in `jump_numbers`, 0 when it has none."""
jump_numbers = table("x86_jump_numbers", U16, lambda: _all().numbers)
"""The stencils that do the same and then jump on each condition; 0 where there is none."""
moves = table("x86_moves", U8, lambda: _all().moves)
"""By the number of a stencil: 1 for a move of 32 bits between registers, 2 for one of 64, else 0."""
copies = table("x86_copies", U16, lambda: _all().copies)
"""By twice the number of a stencil, and one more after a move of 64 bits: the one that works on a copy, or 0."""

__all__ = ["copies", "fused_stencils", "jump_numbers", "jump_rows", "moves"]
