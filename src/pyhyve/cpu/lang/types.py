"""Types of the staged language: fixed-width integers, pointers, structures and arrays, all without signedness.

Sign is a property of an operation (`sdiv`, `sar`, `slt`), as in LLVM IR, so there is one type per width.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Int:
    """An integer of `bits` bits."""

    bits: int

    @property
    def ir(self) -> str:
        """Spelling in LLVM IR."""
        return f"i{self.bits}"

    @property
    def size_bytes(self) -> int:
        """Bytes in memory."""
        return (self.bits + 7) // 8

    @property
    def mask(self) -> int:
        """All ones."""
        return (1 << self.bits) - 1


@dataclass(frozen=True, slots=True)
class Array:
    """`count` elements laid out without padding."""

    element: Type
    count: int

    @property
    def size_bytes(self) -> int:
        """Bytes in memory."""
        return self.element.size_bytes * self.count


@dataclass(frozen=True, slots=True)
class Pointer:
    """A host address of a `target`."""

    target: Type

    @property
    def ir(self) -> str:
        """Spelling in LLVM IR."""
        return "ptr"

    @property
    def size_bytes(self) -> int:
        """Bytes in memory."""
        return 8


@dataclass(frozen=True, slots=True, eq=False)
class Struct:
    """Named fields at byte offsets, naturally aligned in declaration order."""

    name: str
    fields: dict[str, tuple[int, Type]] = field(default_factory=dict)
    size: list[int] = field(default_factory=lambda: [0])

    def add(self, name: str, kind: Type, *, align_bytes: int = 0) -> Struct:
        """Append a field and return the structure; raises ValueError for a name used before."""
        if name in self.fields:
            msg = f"{self.name}.{name} is defined twice"
            raise ValueError(msg)
        align = align_bytes or alignment(kind)
        offset = -(-self.size[0] // align) * align
        self.fields[name] = (offset, kind)
        self.size[0] = offset + kind.size_bytes
        return self

    def offset(self, name: str, index: int = 0) -> int:
        """Byte offset of field `name`, or of its element `index`."""
        offset, kind = self.fields[name]
        return offset + (kind.element.size_bytes * index if isinstance(kind, Array) else 0)

    @property
    def size_bytes(self) -> int:
        """Bytes in memory, rounded up to 8."""
        return -(-self.size[0] // 8) * 8


Type = Int | Pointer | Array | Struct

BOOL = Int(1)
U8 = Int(8)
U16 = Int(16)
U32 = Int(32)
U64 = Int(64)
U128 = Int(128)
BYTES = Pointer(U8)


def alignment(kind: Type) -> int:
    """Natural alignment in bytes."""
    if isinstance(kind, Array):
        return alignment(kind.element)
    if isinstance(kind, Struct):
        return 8
    return kind.size_bytes


def scalar_ir(kind: Type) -> str:
    """IR spelling of a type that fits a register; raises TypeError for the others."""
    if isinstance(kind, Int | Pointer):
        return kind.ir
    msg = f"{kind} is not a scalar"
    raise TypeError(msg)
