"""Host memory of one vCPU of the engine: its state, tables and code, and calls into the compiled runtime."""

from __future__ import annotations

import ctypes
import mmap
import struct
from typing import TYPE_CHECKING

from pyhyve.cpu.engine.state import (
    BLOCK,
    HASH_ENTRIES,
    JUMP_CACHE_ENTRIES,
    JUMP_ENTRY,
    JUMP_PAGES,
    MAX_BLOCKS,
    MAX_REGIONS,
    NO_ADDRESS,
    REGION,
    TLB_BYTES,
    TLB_ENTRIES,
    TLB_ENTRY,
    TLB_VICTIMS,
)
from pyhyve.support.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyhyve.cpu.engine.library import Library
    from pyhyve.cpu.lang import Struct

CODE_CACHE_BYTES = 192 << 20
_MAP_NORESERVE = 0x4000
_PAGE = 4096


def _anonymous(size_bytes: int, *, executable: bool = False) -> mmap.mmap:
    protection = mmap.PROT_READ | mmap.PROT_WRITE | (mmap.PROT_EXEC if executable else 0)
    try:
        return mmap.mmap(-1, size_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE, protection)
    except OSError as error:
        what = "executable memory" if executable else "memory"
        msg = f"the host refuses {size_bytes >> 20} MiB of {what}: {error.strerror}"
        raise UserError(msg) from error


class EngineVcpu:
    """One vCPU's memory. `regions` are (gpa, size in bytes, host address, read-only) by rising address.

    Raises UserError when the host refuses the memory, ValueError for too many regions.
    """

    def __init__(
        self, library: Library, state: Struct, regions: Sequence[tuple[int, int, int, bool]], indexes: int
    ) -> None:
        self._layout = state
        self._arena = _anonymous(CODE_CACHE_BYTES, executable=True)
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._arena))
        self._library = library
        self._keep: list[mmap.mmap] = []
        self._state_map = _anonymous(-(-state.size_bytes // _PAGE) * _PAGE)
        self.view = memoryview(self._state_map)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._state_map))
        self._place_code(library)
        self._place_tables(regions, indexes)
        self._functions = {
            name: ctypes.CFUNCTYPE(None, *([ctypes.c_uint64] * 3))(self._base + offset)
            for name, offset in library.exports.items()
        }
        self.set("step_from", NO_ADDRESS)
        self.call("dispatch.forget_code")
        self.call("mmu.flush_all")

    def _place_code(self, library: Library) -> None:
        at = 0
        for name, data in (
            ("image", library.image),
            ("template_code", library.code),
            ("templates", library.templates),
            ("template_relocations", library.relocations),
            ("helpers", struct.pack(f"<{len(library.helpers)}Q", *(self._base + h for h in library.helpers))),
        ):
            self._arena[at : at + len(data)] = data
            if name != "image":
                self.set(name, self._base + at)
            at += -(-len(data) // 64) * 64
        at = -(-at // _PAGE) * _PAGE
        self.set("cache_start", self._base + at)
        self.set("cache_next", self._base + at)
        self.set("cache_end", self._base + CODE_CACHE_BYTES)

    def _table(self, name: str, size_bytes: int) -> mmap.mmap:
        block = _anonymous(max(-(-size_bytes // _PAGE) * _PAGE, _PAGE))
        self._keep.append(block)
        self.set(name, ctypes.addressof(ctypes.c_char.from_buffer(block)))
        return block

    def _place_tables(self, regions: Sequence[tuple[int, int, int, bool]], indexes: int) -> None:
        table = self._table("tlb_base", TLB_BYTES * indexes)
        table[:] = b"\xff" * len(table)
        self.set("tlb", self.get("tlb_base"))
        self._table("tlb_victims", TLB_VICTIMS * TLB_ENTRY.size_bytes * indexes)
        self._table("tlb_victim_marks", TLB_VICTIMS * indexes)
        self._table("tlb_marks", TLB_ENTRIES * indexes)
        self._table("tlb_log", 2 * TLB_ENTRIES * indexes)
        self._table("jump_cache", JUMP_CACHE_ENTRIES * JUMP_ENTRY.size_bytes)
        self._table("jump_pages", JUMP_PAGES)
        self._table("block_table", MAX_BLOCKS * BLOCK.size_bytes)
        self._table("hash_table", HASH_ENTRIES * 4)
        if len(regions) > MAX_REGIONS:
            msg = f"{len(regions)} memory regions, at most {MAX_REGIONS}"
            raise ValueError(msg)
        pages = 0
        for number, (gpa, size, hva, readonly) in enumerate(regions):
            offset = self._layout.offset("regions", number)
            struct.pack_into("<5Q", self.view, offset, gpa, size, hva, int(readonly), pages)
            pages += size // _PAGE
        assert REGION.size_bytes == 5 * 8  # noqa: S101 - packed just above
        self.set("region_count", len(regions))
        self._table("page_blocks", pages * 4)
        self._table("owners", pages * 8)
        self.set("owner_bit", 1)
        self._page_code = self._table("page_code", pages * 8)

    # state by field name
    def get(self, name: str, index: int = 0) -> int:
        """Value of a field, or of its element `index`."""
        offset, size = self._field(name, index)
        return int.from_bytes(self.view[offset : offset + size], "little")

    def set(self, name: str, value: int, index: int = 0) -> None:
        """Write a field, truncated to its width."""
        offset, size = self._field(name, index)
        self.view[offset : offset + size] = (value & ((1 << (8 * size)) - 1)).to_bytes(size, "little")

    def _field(self, name: str, index: int) -> tuple[int, int]:
        offset, kind = self._layout.fields[name]
        element = getattr(kind, "element", kind)
        size: int = element.size_bytes
        return offset + index * size, size

    def call(self, name: str, first: int = 0, second: int = 0) -> None:
        """Call an exported kernel with the state; the GIL is released meanwhile."""
        self._functions[name](self.address, first, second)

    def bind(self, name: str) -> Callable[[], None]:
        """An exported kernel as a callable without arguments."""
        function, address = self._functions[name], self.address
        return lambda: function(address, 0, 0)

    def bind_with(self, name: str) -> Callable[[int], None]:
        """An exported kernel as a callable with one operand; any thread, the GIL is released meanwhile."""
        function, address = self._functions[name], self.address
        return lambda operand: function(address, operand, 0)

    def bind_two(self, name: str) -> Callable[[int, int], None]:
        """As `bind_with`, with two operands."""
        function, address = self._functions[name], self.address
        return lambda first, second: function(address, first, second)

    def bind_quick(self, name: str) -> Callable[[int, int], None]:
        """An exported kernel of a few instructions, called with two operands while the GIL is kept."""
        call = ctypes.PYFUNCTYPE(None, *([ctypes.c_uint64] * 3))(self._base + self._library.exports[name])
        address = self.address
        return lambda first, second: call(address, first, second)

    def clear(self, name: str) -> None:
        """Zero a field, all its elements."""
        offset, kind = self._layout.fields[name]
        self.view[offset : offset + kind.size_bytes] = bytes(kind.size_bytes)

    def set_table(self, name: str, data: bytes) -> None:
        """Make pointer field `name` designate a copy of `data`."""
        self._table(name, len(data))[: len(data)] = data

    def code_pages(self, first: int, last: int) -> list[int]:
        """Which of the RAM pages numbered `first` to `last - 1` hold translated code."""
        table = self._page_code[first * 8 : last * 8]
        if table.count(0) == len(table):
            return []
        return [first + at // 8 for at in range(0, len(table), 8) if any(table[at : at + 8])]

    def share(self, number: int, owners: int, peers: int, count: int) -> None:
        """Be vCPU `number` (0-63) of `count` over one memory: addresses of the tables they share."""
        self.set("owner_bit", 1 << number)
        self.set("owners", owners)
        self.set("peers", peers)
        self.set("peer_count", count)

    def close(self) -> None:
        """Drop references; the mappings go when nothing points into them."""
        self._keep.clear()
