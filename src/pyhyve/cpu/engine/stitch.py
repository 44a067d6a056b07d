"""The stitcher: copies the templates of a block's uops one after the other and patches them. A compiled kernel."""

from __future__ import annotations

from typing import Any

from pyhyve.cpu.engine.context import FIRST_HELPER, RELOCATION_SYMBOLS
from pyhyve.cpu.engine.templates import PATCH_8, PATCH_16, PATCH_32, PATCH_64, PATCH_PC32
from pyhyve.cpu.lang import U8, U16, U32, U64, Kernel, Pointer, Struct, Value, inline, kernel

_TEMPLATE = (
    Struct("Template")
    .add("code", U32)
    .add("hot", U16)
    .add("cold", U16)
    .add("first", U32)
    .add("hots", U16)
    .add("colds", U16)
)
_RELOCATION = (
    Struct("Relocation").add("at", U16).add("patch", U16).add("symbol", U16).add("pad", U16).add("addend", U32)
)
_NEXT = RELOCATION_SYMBOLS["NEXT"]
_TAKEN = RELOCATION_SYMBOLS["TAKEN"]
_HOT = RELOCATION_SYMBOLS["HOT"]
_COLD = RELOCATION_SYMBOLS["COLD"]
_PC = RELOCATION_SYMBOLS["PC"]
_NPC = RELOCATION_SYMBOLS["NPC"]
_HIGH = RELOCATION_SYMBOLS["PC_high"]
_LOW = RELOCATION_SYMBOLS["PC_low"]


def make_stitch(state: Struct) -> Kernel:
    """The kernel for one state layout."""
    pointer = Pointer(state)

    @kernel(pointer, Pointer(_RELOCATION), U64, U64, U64, U64, U64, name="stitch.patch")
    def patch(st: Any, relocations: Any, count: Any, part: Any, hot: Any, cold: Any, index: Any) -> None:
        """Patch one part of uop `index`, copied to `part`."""
        uop = st.uops[index]
        i: U64 = 0
        while i < count:
            relocation = relocations[i]
            at = part + relocation.at.zext(64)
            symbol = relocation.symbol
            value: U64 = 0
            if symbol < 4:
                value = uop.ref("v0")[symbol]
            elif symbol >= FIRST_HELPER:
                value = st.helpers[symbol - FIRST_HELPER]
            elif symbol == _NEXT:
                value = st.hot_address[index + 1]
            elif symbol == _TAKEN:
                value = st.hot_address[uop.taken]
                # Remember the place, so that linking can send the jump straight to its target.
                st.uops[uop.taken].v1 = at
            elif symbol == _HOT:
                value = hot
            elif symbol == _COLD:
                value = cold
            elif symbol == _PC:
                value = uop.pc
            elif symbol == _LOW:
                value = uop.pc & 0xFFFFFFFF
            elif symbol == _HIGH:
                value = uop.pc >> 32
            elif symbol == _NPC:
                value = uop.npc
            value = value + relocation.addend.sext(64)
            kind = relocation.patch
            if kind == PATCH_PC32:
                at.cast(U32)[0] = (value - at).trunc(32)
            elif kind == PATCH_32:
                at.cast(U32)[0] = value.trunc(32)
            elif kind == PATCH_64:
                at.cast(U64)[0] = value
            elif kind == PATCH_16:
                at.cast(U16)[0] = value.trunc(16)
            elif kind == PATCH_8:
                at.cast(U8)[0] = value.trunc(8)
            i += 1

    @kernel(U64, U64, U64, name="stitch.copy")
    def copy(target: Any, source: Any, size: Any) -> None:
        i: U64 = 0
        while i < size:
            (target + i).cast(U64)[0] = (source + i).cast(U64)[0]
            i += 8

    @kernel(pointer, U64, result=U64, name="stitch.stitch")
    def stitch(st: Any, count: Any) -> Any:
        """Lay down `count` uops at `cache_next`; returns the code's address. Room must have been made."""
        start = st.cache_next
        here = start
        i: U64 = 0
        while i < count:
            template = _template(st, i)
            st.hot_address[i] = here
            here = here + template.hot.zext(64)
            i += 1
        st.hot_address[count] = here
        cold = here
        # Copies run up to 7 bytes over: rising order lets the next part overwrite them.
        i = 0
        while i < count:
            template = _template(st, i)
            source = st.template_code + template.code.zext(64)
            copy(st.hot_address[i], source, template.hot.zext(64))
            i += 1
        i = 0
        while i < count:
            template = _template(st, i)
            hot_size = template.hot.zext(64)
            cold_size = template.cold.zext(64)
            source = st.template_code + template.code.zext(64) + hot_size
            copy(cold, source, cold_size)
            uop = st.uops[i]
            cold_here = cold
            cold = cold + cold_size
            uop.taken = uop.taken | (cold_here << 16)
            i += 1
        i = 0
        while i < count:
            template = _template(st, i)
            uop = st.uops[i]
            cold_here = uop.taken >> 16
            uop.taken = uop.taken & 0xFFFF
            hot = st.hot_address[i]
            relocations = (st.template_relocations + template.first.zext(64) * _RELOCATION.size_bytes).cast(_RELOCATION)
            hots = template.hots.zext(64)
            patch(st, relocations, hots, hot, hot, cold_here, i)
            patch(st, relocations[hots], template.colds.zext(64), cold_here, hot, cold_here, i)
            if i == 0:
                st.block_leave = cold_here
            i += 1
        st.cache_next = (cold + 15) & ((1 << 64) - 16)
        return start

    return stitch


@inline
def _template(st: Value, index: Value) -> Value:
    number = st.uops[index].stencil.zext(64)
    return st.templates.cast(_TEMPLATE)[number]


__all__ = ["make_stitch"]
