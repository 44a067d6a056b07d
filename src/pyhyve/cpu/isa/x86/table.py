"""The opcode table's rows: where an instruction stands in the opcode maps, its operands, its semantics.

Everything derives from these rows: the decoder's tables, the stencils, the test generator.

Opcodes are written as in the manual: an optional mandatory prefix (`NP` none of them, `66`, `F2`, `F3`), the map
(nothing, `0F`, `0F 38`, `0F 3A`), the opcode byte, then `/0`-`/7` for a ModRM.reg extension, `+r` for eight
consecutive opcodes that name a register, `m` or `r` when ModRM must designate memory or a register, and a second
byte such as `C0+i` (x87: the low three bits of ModRM are a register number) or `D0` (one exact ModRM byte).

Operands, in order: a letter for where (E ModRM.rm general, G ModRM.reg general, Z low bits of the opcode, R ModRM.rm
register only, I immediate, J relative target, O absolute address, M memory only, S/C/D segment, control, debug
register number, V/W/U XMM reg / rm / rm register only, P/Q/N the same for MMX, ST the x87 register number) and one
for size (b 8, w 16, d 32, q 64, v operand size, z operand size but at most 32, y 32 or 64 by REX.W, x 128;
`Is` an 8-bit immediate sign-extended, `Iv` a full-width one).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.cpu.isa.x86.context import X86Context

MAPS: Final = {"": 0, "0F": 1, "0F 38": 2, "0F 3A": 3}
PREFIXES: Final = ("NP", "66", "F3", "F2")


@dataclass(frozen=True, slots=True)
class Row:
    """One row; see the module's text for `opcode` and `operands`."""

    opcode: str
    name: str
    operands: tuple[str, ...]
    semantics: Callable[[X86Context], None]
    size: str
    """Size rule of the operand size: b w d q v z y, or empty when there is none."""
    flags: str
    """Arithmetic flags: `w` writes all six and reads none; `p` writes some, or none for some operands, and computes
    nothing else from them; `n` neither reads nor writes; `r` anything else."""
    lock: bool
    """LOCK is allowed (with a memory destination)."""
    ends: bool
    """The block ends here: the semantics leaves `pc` right and goes to the dispatcher or to a target."""
    address_size: bool
    stack: bool
    repeat: bool
    code_size: bool
    """The semantics depends on address size / stack / REP prefixes / code size: one stencil for each."""
    default64: bool
    """In 64-bit mode the operand size is 64 unless prefix 66 makes it 16."""
    force64: bool
    """In 64-bit mode the operand size is always 64."""
    mode: str
    """`` all, `64` only 64-bit mode, `32` not in 64-bit mode."""
    memory_bits: int
    """Size of the memory operand when it is not the operand size (for segment limit checks)."""
    conditional: bool
    """A direct transfer that may also fall through."""
    fpu: str
    """`` none, `x87`, `mmx` or `sse`: which unit must be usable."""
    stores: bool
    """A memory operand is written (for segment checks)."""
    waits: bool
    """A pending x87 exception is raised before the memory operand is looked at."""
    late: bool
    """The semantics checks the memory operand's segment itself (`X86Context.part`), for parts or under conditions."""
    aligned: bool
    """A memory operand must be aligned to 16 bytes, checked before its segment's limit."""


def row(
    opcode: str,
    name: str,
    operands: str,
    semantics: Callable[[X86Context], None],
    *,
    size: str | None = None,
    flags: str = "r",
    lock: bool = False,
    ends: bool = False,
    address_size: bool = False,
    stack: bool = False,
    repeat: bool = False,
    code_size: bool = False,
    default64: bool = False,
    force64: bool = False,
    mode: str = "",
    memory_bits: int = 0,
    conditional: bool = False,
    fpu: str = "",
    stores: bool | None = None,
    waits: bool = False,
    late: bool = False,
    aligned: bool | None = None,
) -> Row:
    """Make a row; the size rule defaults to that of the first operand, and 128-bit operands are aligned ones."""
    parts = tuple(operands.split())
    if size is None:
        size = parts[0][-1] if parts else ""
        if size not in "bwdqvzy":
            size = ""
    return Row(
        opcode,
        name,
        parts,
        semantics,
        size,
        flags,
        lock,
        ends,
        address_size,
        stack,
        repeat,
        code_size,
        default64,
        force64,
        mode,
        memory_bits,
        conditional,
        fpu,
        bool(parts) and parts[0][0] in "EMWQ" if stores is None else stores,
        waits,
        late,
        any(part in {"Wx", "Mx"} for part in parts) if aligned is None else aligned,
    )


def size_bits(letter: str) -> tuple[int, ...]:
    """Operand sizes a size rule can give, by operand-size index."""
    return {"b": (8,), "w": (16,), "d": (32,), "q": (64,), "v": (16, 32, 64), "z": (16, 32), "y": (32, 64)}.get(
        letter, (0,)
    )
