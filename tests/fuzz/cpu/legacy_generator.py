"""Random cases of 16-bit and 32-bit code: the generator's, with segments, older instructions and addressing forms."""

from __future__ import annotations

import functools
import re
import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from . import layout as at
from . import values
from .generator import Code, Generator, area_alignment, conditional_jumps
from .opcodes import Entry, entries, table

if TYPE_CHECKING:
    from random import Random

_RAX, _RCX, _RDX, _RBX, _RSP, _RBP, _RSI, _RDI = range(8)
_CS, _SS, _DS, _ES = range(4)
_PREFIXES: Final = {_ES: 0x26, _CS: 0x2E, _SS: 0x36, _DS: 0x3E}
_FORMS_16: Final = ((_RBX, _RSI), (_RBX, _RDI), (_RBP, _RSI), (_RBP, _RDI), (_RSI,), (_RDI,), (_RBP,), (_RBX,))
"""Registers of the 16-bit addressing forms (SDM volume 2, table 2-1)."""
_GONE: Final = frozenset(bytes.fromhex("06 07 0e 16 17 1e 1f 27 2f 37 3f 60 61 63 82 9a ce d4 d6 ea"))
"""One-byte opcodes that mean something else in 64-bit mode."""
_AREA_BYTES: Final = {-1: 512, -2: 10, -3: 576}
"""Size of what is kept at the places of `area_alignment`."""
_LINES: Final = """
1 06,0e,16,1e v !stack
1 07,17,1f v !stack
1 27,2f R W U=O
1 37,3f R W U=OSZP
1 40-4f v
1 60,61 v !stack
1 62 mem v
1 63 rm
1 82 rm /0,1,4-7 ib W U=A
1 8e rm /0,2,3,6,7 !selector
1 8c rm /0-3 v
1 9a,ea far v
1 c4,c5 mem v
0f b2 mem v
1 cb v !stack
1 ca iw v !stack
1 ff mem /3,5 v
1 ce R
1 d4 ib W U=OAC
1 d5 ib W U=OAC
1 d6 R
"""


@functools.cache
def legacy_table() -> tuple[Entry, ...]:
    """The main table but for what means something else here, and the older instructions."""
    kept = [entry for entry in table() if entry.escape or entry.opcode not in _GONE]
    older = [replace(entry, name=f"old-{entry.opcode:02x}") for entry in entries(_LINES.splitlines())]
    return (*kept, *older)


@dataclass(frozen=True, slots=True)
class _Environment:
    """Segments a piece of code runs with, by number of the segment register."""

    segments: tuple[at.Segment, at.Segment, at.Segment, at.Segment]


_FLAT_CODE: Final = at.Segment(at.SELECTOR_CS32, 0, 0xFFFF_FFFF, "code", wide=True)
_FLAT_DATA: Final = at.Segment(at.SELECTOR_SS, 0, 0xFFFF_FFFF, wide=True)
_NULL: Final = at.Segment(0, at.DATA, 0xFFFF)
_LOCAL: Final = {segment.selector: segment for segment in at.LOCAL_SEGMENTS}
_STACKS: Final = tuple(_LOCAL[selector] for selector in (0x1F, 0x1F, 0x27))
_DATAS: Final = (*(_LOCAL[s] for s in (*(0x17,) * 8, *(0x4F,) * 3, 0x2F, 0x2F, 0x37, 0x37, 0x3F, 0x07)), _NULL)
_SELECTORS: Final = (
    *_LOCAL, *_LOCAL, at.SELECTOR_SS, at.SELECTOR_CS32, at.SELECTOR_CS, 0, 1, 3, 0x10, 0x57, 0x5F, 0xFFFF,
)  # fmt: skip


class LegacyGenerator(Generator):
    """Produces batches of ``bits``-wide code (16 or 32)."""

    _safe = at.CODE + 8
    """Not the stub, which is 64-bit code."""

    def __init__(self, random: Random, only: str, bits: int, *, alignment_checks: bool = True) -> None:
        super().__init__(random, alignment_checks=alignment_checks)
        self._bits = bits
        self._entries = [entry for entry in legacy_table() if re.search(only, entry.label)]
        if not self._entries:
            message = f"no instruction matches {only!r}"
            raise ValueError(message)
        self._jumps = conditional_jumps(self._entries)
        self._environment = self._any_environment()

    def _any_environment(self) -> _Environment:
        random = self._random
        if self._bits == 32 and random.getrandbits(1):
            return _Environment((_FLAT_CODE, _FLAT_DATA, _FLAT_DATA, _FLAT_DATA))
        code = _LOCAL[0x0F if self._bits == 32 else 0x07]
        return _Environment((code, random.choice(_STACKS), random.choice(_DATAS), random.choice(_DATAS)))

    def _code(self) -> Code:
        self._environment = self._any_environment()
        code = super()._code()
        code.environment = self._environment
        return code

    def _registers(self) -> list[int]:
        gprs = [value & 0xFFFF_FFFF for value in super()._registers()]
        gprs[8:] = [0] * 8
        stack = self._environment.segments[_SS]
        gprs[_RSP] = 8 * self._random.randint(16, 960) + (0 if stack.base else at.STACK)
        return gprs

    def _place(self, code: Code) -> tuple[int, int, int, int, int]:
        segments = code.environment.segments
        return code.rip - segments[_CS].base, *(segment.selector for segment in segments)

    # Encoding ----------------------------------------------------------------------------------------------------

    def _append(self, code: Code, entry: Entry) -> None:
        random = self._random
        start = len(code.bytes)
        code.starts.append(start)
        choice = random.getrandbits(16)
        memory = entry.modrm == "mem" or (entry.modrm == "rm" and choice & 1 == 0)
        size_prefix = entry.sized and choice >> 1 & 3 == 0
        operand = 16 if (self._bits == 16) != size_prefix else 32
        if operand == 16 and "double" in entry.steering and start and not entry.immediates:
            size_prefix, operand = self._bits == 16, 32
        address_prefix = choice >> 3 & 7 == 0
        address = 16 if (self._bits == 16) != address_prefix else 32
        override = random.choice((_CS, _SS, _DS, _ES)) if choice >> 6 & 7 == 0 else None
        lock = memory and entry.lock and choice >> 9 & 3 == 0
        repeated = entry.rep and choice >> 14 != 0
        prefixes = bytearray()
        if size_prefix:
            prefixes.append(0x66)
        if address_prefix:
            prefixes.append(0x67)
        if override is not None:
            prefixes.append(_PREFIXES[override])
        if lock:
            prefixes.append(0xF0)
        if repeated:
            prefixes.append(0xF2 if choice >> 14 == 1 else 0xF3)
        prefixes += entry.prefix
        random.shuffle(prefixes)
        body = bytearray((*entry.escape, entry.opcode))
        if entry.modrm == "fixed":
            body.append(entry.digit or 0)
        elif entry.modrm:
            reg = random.getrandbits(3) if entry.digit is None else entry.digit
            if memory and address == 16:
                self._memory_16(code, entry, body, reg, override)
            elif memory:
                self._memory_32(code, entry, body, reg, override)
            else:
                rm = random.getrandbits(3)
                body.append(0xC0 | reg << 3 | rm)
                self._register_needs(code, entry, rm)
                if "selector" in entry.steering:
                    code.needs.append(lambda gprs: gprs.__setitem__(rm, random.choice(_SELECTORS)))
            if entry.digit is None and "bits" in entry.steering:
                self._small_bit_offset(code, reg)
        for kind in entry.immediates:
            self._legacy_immediate(code, entry, kind, body, start + len(prefixes), operand, address, override)
        code.bytes += prefixes + body
        self._steer_legacy(code, entry, address, override, repeated=repeated, narrow=operand == 16)
        count = None
        if entry.steering & {"shift", "double"}:
            count = body[-1] & 0x1F if entry.immediates else 1 if entry.opcode in (0xD0, 0xD1) else None
        bits = 8 if "shift" in entry.steering and not entry.sized else operand
        self._note_undefined(code, entry, count, bits, repeated=repeated)

    def _memory_16(self, code: Code, entry: Entry, body: bytearray, reg: int, override: int | None) -> None:
        random = self._random
        mod, rm = random.choice((0, 0, 1, 2)), random.getrandbits(3)
        if mod == 0 and rm == 6:
            offset = self._offset(_DS if override is None else override, entry)
            body.append(reg << 3 | 6)
            body += struct.pack("<H", offset & 0xFFFF)
            return
        displacement = 0 if mod == 0 else random.getrandbits(8) - 128 if mod == 1 else random.getrandbits(16)
        body.append(mod << 6 | reg << 3 | rm)
        body += (displacement & 0xFFFF).to_bytes(2, "little")[:mod]
        used = _FORMS_16[rm]
        segment = (_SS if _RBP in used else _DS) if override is None else override

        def need(gprs: list[int]) -> None:
            rest = self._offset(segment, entry) - displacement - sum(gprs[n] for n in used[1:])
            gprs[used[0]] = gprs[used[0]] & 0xFFFF_0000 | rest & 0xFFFF

        code.needs.append(need)

    def _memory_32(self, code: Code, entry: Entry, body: bytearray, reg: int, override: int | None) -> None:
        random = self._random
        if random.getrandbits(4) == 0:
            offset = self._offset(_DS if override is None else override, entry)
            body.append(reg << 3 | 5)
            body += struct.pack("<I", offset)
            return
        base, index, scale = self._address_register(entry) & 7, 4, 0
        mod = random.choice((0, 0, 1, 2))
        if mod == 0 and base == _RBP:
            mod = 1
        displacement = 0 if mod == 0 else random.getrandbits(8) - 128 if mod == 1 else random.getrandbits(32)
        if base == _RSP or random.getrandbits(2) == 0:
            index, scale = self._address_register(entry) & 7, random.getrandbits(2)
            body += bytes((mod << 6 | reg << 3 | 4, scale << 6 | index << 3 | base))
        else:
            body.append(mod << 6 | reg << 3 | base)
        body += (displacement & 0xFFFF_FFFF).to_bytes(4, "little")[: (0, 1, 4)[mod]]
        segment = (_SS if base in (_RSP, _RBP) else _DS) if override is None else override

        def need(gprs: list[int]) -> None:
            rest = self._offset(segment, entry) - displacement
            if index == base != _RSP:
                gprs[base] = rest // (1 + (1 << scale)) & 0xFFFF_FFFF
                return
            if index != _RSP:
                rest -= gprs[index] << scale
            gprs[base] = rest & 0xFFFF_FFFF

        code.needs.append(need)

    def _legacy_immediate(
        self, code: Code, entry: Entry, kind: str, body: bytearray, before: int, operand: int, address: int,
        override: int | None,
    ) -> None:  # fmt: skip
        random = self._random
        if kind in ("rel8", "rel32"):
            size = 1 if kind == "rel8" else operand // 8
            code.jumps.append((before + len(body), size))
            body += bytes(size)
        elif kind == "moffs":
            offset = self._offset(_DS if override is None else override, entry)
            body += (offset & (1 << address) - 1).to_bytes(address // 8, "little")
        elif kind == "far":
            target = random.choice(_SELECTORS)
            base = _LOCAL[target].base if target in _LOCAL else 0
            offset = at.CODE + 8 - base if random.getrandbits(2) else random.getrandbits(32)
            body += (offset & (1 << operand) - 1).to_bytes(operand // 8, "little") + target.to_bytes(2, "little")
        elif kind in ("iz", "iv"):
            body += (random.choice(self._integers) & (1 << operand) - 1).to_bytes(operand // 8, "little")
        else:
            self._immediate(
                code, entry, kind, body, before, wide=False, narrow=operand == 16, address32=False, base=0
            )  # fmt: skip

    # Steering ----------------------------------------------------------------------------------------------------

    def _offset(self, number: int, entry: Entry) -> int:
        """An offset in a segment: mostly good, else at its limit or anywhere."""
        random = self._random
        segment = self._environment.segments[number]
        size = _AREA_BYTES.get(alignment := area_alignment(entry), 0)
        if not segment.base:
            return self._target(alignment) & 0xFFFF_FFFF
        if size and random.getrandbits(2):
            return self._target(alignment) - segment.base & 0xFFFF_FFFF
        if size and random.getrandbits(2):
            # Near the limit, where it is aligned; in the segment of 64 KiB 16-bit addresses wrap.
            if "xstate" in entry.steering and segment.limit == 0xFFFF:
                return random.choice(values.XSAVE_HEADERS) - 512 - segment.base & 0xFFFF
            offset = segment.limit + 1 - random.choice((0, size, size, random.randrange(size + 64)))
            if segment.kind == "stack":
                offset = segment.limit + 1 - random.choice((0, 16, size, -16))
            return ((offset + segment.base & -64) - segment.base) + random.choice((0, 0, 16, 64)) & 0xFFFF_FFFF
        step = 16 if random.getrandbits(1) else 1
        kind = random.getrandbits(5)
        if kind == 0:
            return random.choice(self._integers) & 0xFFFF_FFFF
        if kind < 4:
            return segment.limit + random.randint(-17, 4) & 0xFFFF_FFFF
        if kind == 4:
            return 0xFFFF + random.randint(-16, 2)
        if segment.kind == "stack":
            return segment.limit + 1 + step * random.randint(0, 200)
        span = min(segment.limit, at.DATA_SIZE - 1) // step
        return step * random.randint(0, span)

    def _small_bit_offset(self, code: Code, register: int) -> None:
        def need(gprs: list[int]) -> None:
            if self._random.getrandbits(2):
                gprs[register] = self._random.randint(-600, 600) & 0xFFFF_FFFF

        code.needs.insert(0, need)

    def _steer_legacy(
        self, code: Code, entry: Entry, address: int, override: int | None, *, repeated: bool, narrow: bool
    ) -> None:
        random = self._random
        steering, needs = entry.steering, code.needs
        mask = (1 << address) - 1

        def put(gprs: list[int], number: int, value: int) -> None:
            gprs[number] = gprs[number] & ~mask | value & mask

        if "string" in steering:

            def string(gprs: list[int]) -> None:
                put(gprs, _RSI, self._offset(_DS if override is None else override, entry))
                put(gprs, _RDI, self._offset(_ES, entry))
                if repeated and random.getrandbits(5):
                    put(gprs, _RCX, random.choice((0, 1, 2, 3, 5, 8, 16, 33)))

            needs.append(string)
        elif "xstate" in steering:
            super()._steer(code, entry, 0, repeated=repeated, narrow=narrow)
            needs.append(_narrow)
        elif "maskmov" in steering:
            needs.append(lambda gprs: put(gprs, _RDI, self._offset(_DS if override is None else override, entry)))
        elif "xlat" in steering:
            needs.append(lambda gprs: put(gprs, _RBX, self._offset(_DS if override is None else override, entry) - 100))
        elif "stack" in steering:
            segment = self._environment.segments[_SS]

            def stack(gprs: list[int]) -> None:
                start = 0 if segment.base else at.STACK
                kind = random.getrandbits(4)
                if kind == 0:
                    gprs[_RSP] = start + random.choice((0, at.PAGE, segment.limit & 0xFFFF)) + random.randint(-12, 12)
                gprs[_RSP] &= 0xFFFF_FFFF if segment.wide else 0xFFFF
                gprs[_RBP] = start + 8 * random.randint(16, 960)

            needs.append(stack)
        elif {"loop", "div", "lengths"} & steering or (steering & {"shift", "double"} and not entry.immediates):
            super()._steer(code, entry, 0, repeated=repeated, narrow=narrow)
            needs.append(_narrow)


def _narrow(gprs: list[int]) -> None:
    gprs[:] = [value & 0xFFFF_FFFF for value in gprs]


__all__ = ["LegacyGenerator", "legacy_table"]
