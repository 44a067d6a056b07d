"""C structures of the kernel's ABI as declared data, over one compiled `struct.Struct` each."""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterator, Mapping
    from typing import Any, TypeAlias

Buffer: TypeAlias = "bytes | bytearray | memoryview | mmap.mmap"

_CODE_SIZE_BYTES = {"B": 1, "b": 1, "H": 2, "h": 2, "I": 4, "i": 4, "Q": 8, "q": 8, "s": 1, "x": 1}


class StructLayout:
    """The fields of one C structure, little-endian, with every padding byte written out.

    `fields` is one string of `name:code` words, where `code` is a `struct` code with an optional count; `_:4x` is
    padding. A counted integer (`db:4Q`) is a tuple of values, `name:16s` is bytes.
    """

    __slots__ = ("_counts", "_struct", "c_name", "offsets", "size_bytes")

    def __init__(self, c_name: str, fields: str) -> None:
        self.c_name = c_name
        self.offsets: dict[str, int] = {}
        self._counts: dict[str, int] = {}
        offset = 0
        codes = ["<"]
        for word in fields.split():
            name, code = word.split(":")
            count, letter = int(code[:-1] or "1"), code[-1]
            codes.append(code)
            if letter != "x":
                self.offsets[name] = offset
                self._counts[name] = 1 if letter == "s" else count
            offset += count * _CODE_SIZE_BYTES[letter]
        self._struct = struct.Struct("".join(codes))
        self.size_bytes = self._struct.size

    def pack(self, *values: int | bytes) -> bytes:
        """All fields in order, arrays spread out; struct.error when a value does not fit."""
        return self._struct.pack(*values)

    def pack_into(self, buffer: bytearray | memoryview, offset: int, *values: int | bytes) -> None:
        """`pack` into `buffer` at `offset`."""
        self._struct.pack_into(buffer, offset, *values)

    def pack_fields(self, values: Mapping[str, int | bytes | tuple[int, ...]]) -> bytes:
        """The structure with the named fields set and every other one zero."""
        flat: list[int | bytes] = []
        zero = self.unpack(bytes(self.size_bytes))
        unknown = values.keys() - zero.keys()
        if unknown:
            msg = f"{self.c_name} has no field {min(unknown)}"
            raise KeyError(msg)
        for name, default in zero.items():
            value = values.get(name, default)
            if isinstance(value, tuple):
                flat.extend(value)
            else:
                flat.append(value)
        return self._struct.pack(*flat)

    def unpack(self, data: Buffer, offset: int = 0) -> dict[str, int | bytes | tuple[int, ...]]:
        """Field values by name."""
        flat = self._struct.unpack_from(data, offset)
        result: dict[str, int | bytes | tuple[int, ...]] = {}
        position = 0
        for name, count in self._counts.items():
            result[name] = flat[position] if count == 1 else flat[position : position + count]
            position += count
        return result

    def rows(self, data: Buffer, offset: int, count: int) -> Iterator[tuple[Any, ...]]:
        """The plain field values of `count` structures in a row."""
        return self._struct.iter_unpack(memoryview(data)[offset : offset + count * self.size_bytes])

    def unpack_ints(self, data: Buffer, offset: int = 0) -> dict[str, int]:
        """`unpack` for a structure of plain integers only: arrays and byte fields are left out."""
        return {name: value for name, value in self.unpack(data, offset).items() if isinstance(value, int)}
