"""Random cases: one to four instructions from the table, and register states that make them do something.

Each piece of code runs on several states. What an instruction needs from the registers is collected while it is
encoded, as *needs*: functions that set registers in a fresh random state. Needs of earlier instructions are met last,
so they win.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Any, Final

from . import layout as at
from . import values
from .batch import Batch, Step
from .opcodes import Entry, table

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    Need = Callable[[list[int]], None]

_M64: Final = (1 << 64) - 1
_RAX, _RCX, _RDX, _RBX, _RSP, _RBP, _RSI, _RDI = range(8)
_SEGMENT_PREFIXES: Final = (0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65)
_BASES: Final = {0x64: at.FS_BASE, 0x65: at.GS_BASE}
_IMMEDIATE_BYTES: Final = {"ib": 1, "iw": 2, "rel8": 1, "rel32": 4}
_PLACES: Final = (
    *((at.DATA, 512, 16),) * 33,
    *((at.DATA, at.DATA_SIZE - 64, 1),) * 16,
    *((at.DATA + at.PAGE * n - 40, 40, 1) for n in (1, 2, 3, 3)),
    *((at.READ_ONLY, at.READ_ONLY_SIZE, 1),) * 3,
    *((at.READ_ONLY + at.READ_ONLY_SIZE - 40, 40, 1),) * 2,
    *((at.DATA - 20, 20, 1),) * 2,
    *((at.STACK, at.STACK_SIZE, 1),) * 2,
    (at.CODE, at.CODE_TRAPS, 1),
)
"""Where memory operands go: first address, number of addresses, distance. Mostly good, some across or in a bad one."""
_LENGTHS: Final = (1, 1, 1, 1, 1, 2, 3, 4)
_CODE_ROOM: Final = 16
_STATES: Final = 4


class Code:
    """Code being put together."""

    __slots__ = (
        "bytes", "environment", "flags_undefined", "jumps", "may_leave", "needs", "rip", "starts", "steps",
        "sw_undefined",
    )  # fmt: skip

    def __init__(self, rip: int) -> None:
        self.rip = rip
        self.bytes = bytearray()
        self.starts: list[int] = []
        self.steps: list[Step] = []
        self.needs: list[Need] = []
        self.jumps: list[tuple[int, int]] = []
        """Position of a relative offset, its size."""
        self.flags_undefined = self.sw_undefined = 0
        self.environment: Any = None
        """The segments it runs with, where they matter."""
        self.may_leave = False
        """Whether what follows may be left out: then it defines nothing."""


class Generator:
    """Produces batches.

    Args:
        random: the source of everything.
        only: a regular expression; only entries whose label matches (anywhere) are used.
        alignment_checks: set RFLAGS.AC now and then.

    Raises:
        ValueError: no table entry matches ``only``.
    """

    _safe = at.STUB
    """Where wild jumps mostly go."""

    def __init__(self, random: Random, only: str = "", *, alignment_checks: bool = True) -> None:
        self._random = random
        self._entries = [entry for entry in table() if re.search(only, entry.label)]
        if not self._entries:
            message = f"no instruction matches {only!r}"
            raise ValueError(message)
        self._jumps = conditional_jumps(self._entries)
        self._alignment_checks = alignment_checks
        self._integers: list[int] = []
        self._template = b""

    def batch(self, count: int) -> Batch:
        """``count`` cases on one fresh memory template."""
        random = self._random
        self._template = values.template(random, self._safe)
        self._integers = [values.integer(random) for _ in range(512)]
        vectors = [values.vector(random) for _ in range(512)]
        extendeds = [values.extended(random) for _ in range(256)]
        headers = [values.fx_header(random) for _ in range(128)]
        batch = Batch(self._template, bytearray(count * at.CASE_SIZE))
        done = 0
        while done < count:
            code = self._code()
            padded = bytes(code.bytes).ljust(at.CODE_MAX, b"\0")
            for _ in range(min(_STATES, count - done)):
                gprs = self._registers()
                for need in reversed(code.needs):
                    need(gprs)
                fx = [random.choice(headers), *random.choices(extendeds, k=8), *random.choices(vectors, k=16)]
                base = done * at.CASE_SIZE
                struct.pack_into(
                    "<18QIIQ", batch.cases, base, *gprs, code.rip, self._flags(), len(code.bytes),
                    at.SW_ALL & ~code.sw_undefined, at.FLAGS_COMPARED & ~code.flags_undefined,
                )  # fmt: skip
                struct.pack_into("<Q4H", batch.cases, base + at.CASE_EIP, *self._place(code))
                batch.cases[base + at.CASE_CODE : base + at.CASE_CODE + at.CODE_MAX] = padded
                batch.cases[base + at.CASE_FX : base + at.CASE_FX + at.FX_END] = b"".join(fx)
                batch.steps.append(tuple(code.steps))
                done += 1
        return batch

    def _registers(self) -> list[int]:
        """Registers without any need."""
        gprs = self._random.choices(self._integers, k=16)
        gprs[_RSP] = at.STACK + 8 * self._random.randint(16, 960)
        return gprs

    def _place(self, code: Code) -> tuple[int, int, int, int, int]:
        """Instruction pointer, CS, SS, DS, ES."""
        return code.rip, at.SELECTOR_CS, at.SELECTOR_SS, 0, 0

    def _flags(self) -> int:
        bits = self._random.getrandbits(32)
        flags = at.FLAGS_FIXED | bits & at.ARITHMETIC
        if bits >> 16 & 7 == 0:
            flags |= at.DF
        if bits >> 20 & 63 == 0:
            flags |= at.ID
        if self._alignment_checks and bits >> 28 == 0:
            flags |= at.AC
        return flags

    # Code --------------------------------------------------------------------------------------------------------

    def _code(self) -> Code:
        random = self._random
        place = random.getrandbits(5)
        if place == 0:
            offset = at.PAGE - random.randint(1, _CODE_ROOM)
        elif place == 1 and not random.getrandbits(1):
            offset = at.CODE_SIZE - random.randint(1, _CODE_ROOM + 4)
        else:
            offset = random.randint(at.CODE_TRAPS + 16, at.CODE_SIZE - at.CODE_MAX - _CODE_ROOM)
        code = Code(at.CODE + offset)
        for _ in range(random.choice(_LENGTHS)):
            if len(code.bytes) > at.CODE_MAX - _CODE_ROOM - at.LANDING_PAD_SIZE:
                break
            self._append(code, self._pick(code))
        self._resolve_jumps(code)
        del code.bytes[at.CODE_SIZE - offset :]
        return code

    def _pick(self, code: Code) -> Entry:
        """An entry that reads nothing the code before left undefined."""
        after_comparison = bool(code.steps) and code.steps[-1].entry.name in _COMPARISONS
        for _ in range(64):
            jumps = after_comparison and self._jumps and self._random.getrandbits(2) == 0
            entry = self._random.choice(self._jumps if jumps else self._entries)
            undefined = code.flags_undefined
            if entry.name.startswith(_WITHOUT_AF):
                undefined &= ~at.AF
            if (entry.reads and undefined) or (entry.sw_reads and code.sw_undefined):
                continue
            if not code.steps or "first" not in entry.steering:
                return entry
        return next(entry for entry in table() if entry.opcode == 0xF8 and not entry.escape)  # CLC

    def _append(self, code: Code, entry: Entry) -> None:  # noqa: C901, PLR0912 - one encoder, top to bottom
        random = self._random
        start = len(code.bytes)
        code.starts.append(start)
        steering = entry.steering
        choice = random.getrandbits(16)
        memory = entry.modrm == "mem" or (entry.modrm == "rm" and choice & 1 == 0)
        operand16 = entry.sized and choice >> 1 & 3 == 0
        if operand16 and "double" in steering and start and not entry.immediates:
            operand16 = False  # an earlier instruction may have changed CL: a count above 16 is undefined altogether
        wide = choice >> 3 & 3 == 0
        address32 = choice >> 5 & 15 == 0 and (memory or bool(steering & {"string", "loop", "xlat", "maskmov"}))
        segment = 0
        if choice >> 9 & 15 == 0 and (memory or steering & {"string", "xlat", "maskmov"}):
            segment = random.choice(_SEGMENT_PREFIXES)
        lock = memory and entry.lock and choice >> 13 & 3 == 0
        if not lock and random.getrandbits(8) == 0:
            lock = not entry.prefix and not entry.rep and not _lock_means_more(entry)
        prefixes = bytearray()
        if operand16:
            prefixes.append(0x66)
        if address32:
            prefixes.append(0x67)
        if segment:
            prefixes.append(segment)
        if lock:
            prefixes.append(0xF0)
        repeated = entry.rep and choice >> 14 != 0
        if repeated:
            prefixes.append(0xF2 if choice >> 14 == 1 else 0xF3)
        if entry.prefix:
            prefixes += entry.prefix
        if len(prefixes) > 1:
            random.shuffle(prefixes)

        # Instruction bytes from the opcode on; the displacement of a RIP-relative operand is filled in last.
        body = bytearray(entry.escape)
        body.append(entry.opcode)
        rex = 8 if wide else 0
        rip_relative = -1
        if entry.modrm == "fixed":
            body.append(entry.digit or 0)
        elif entry.modrm:
            reg = random.getrandbits(3) if entry.digit is None else entry.digit
            if memory:
                base = _BASES.get(segment, 0)
                atomic = lock or "atomic" in steering or (entry.opcode == 0xC7 and entry.escape == b"\x0f")
                rex, rip_relative = self._memory(code, entry, body, reg, rex, (base, address32, atomic))
            else:
                rm = random.getrandbits(3)
                body.append(0xC0 | reg << 3 | rm)
                rex |= random.getrandbits(1)
                self._register_needs(code, entry, rm | (rex & 1) << 3)
            if entry.digit is None:
                rex |= random.getrandbits(1) << 2
                if "bits" in steering:
                    self._bit_offset(code, reg | (rex & 4) << 1)
        elif entry.opcode & 0xF0 in (0x50, 0x90, 0xB0, 0xC0):
            rex |= random.getrandbits(1)
        if rex == 8 and "jump" in steering:
            rex = 0
        if rex or random.getrandbits(3) == 0:
            prefixes.append(0x40 | rex)
        wide = bool(rex & 8)
        for kind in entry.immediates:
            self._immediate(
                code, entry, kind, body, start + len(prefixes), wide=wide, narrow=operand16 and not wide,
                address32=address32, base=_BASES.get(segment, 0),
            )  # fmt: skip
        code.bytes += prefixes + body
        if rip_relative >= 0:
            end = code.rip + len(code.bytes)
            target = self._target(area_alignment(entry)) - _BASES.get(segment, 0)
            position = start + len(prefixes) + rip_relative
            struct.pack_into("<i", code.bytes, position, _signed32(target - end))
        if steering:
            narrow = operand16 and not wide
            self._steer(code, entry, _BASES.get(segment, 0), repeated=repeated, narrow=narrow)
        count = None
        if steering & {"shift", "double"}:
            if entry.immediates:
                count = body[-1] & (0x3F if wide else 0x1F)
            elif entry.opcode in (0xD0, 0xD1):
                count = 1
        byte_shift = "shift" in steering and not entry.sized
        bits = 64 if wide and not byte_shift else 8 if byte_shift else 16 if operand16 else 32
        self._note_undefined(code, entry, count, bits, repeated=repeated)

    def _note_undefined(self, code: Code, entry: Entry, count: int | None, bits: int, *, repeated: bool) -> None:
        """Follow which flags and condition codes are undefined after this instruction."""
        undefined, defines = entry.undefined, entry.defines
        if entry.steering & {"shift", "double"}:
            undefined = _shift_undefined(entry, count, bits)
            defines = defines and bool(count)
        if defines and not repeated and not code.may_leave:
            code.flags_undefined = 0
        code.flags_undefined |= undefined
        if entry.sw_defines and not code.may_leave:
            code.sw_undefined = 0
        code.sw_undefined |= entry.sw_undefined
        code.may_leave |= entry.name.startswith(("j", "loop", "call", "ret"))
        code.steps.append(Step(entry, len(code.bytes), code.flags_undefined, code.sw_undefined))

    def _memory(
        self, code: Code, entry: Entry, body: bytearray, reg: int, rex: int, access: tuple[int, bool, bool]
    ) -> tuple[int, int]:
        """Append ModRM, SIB and displacement; returns REX and the place of a RIP-relative displacement, or -1."""
        random = self._random
        segment_base, address32, atomic = access
        alignment = _ATOMIC if atomic else area_alignment(entry)
        form = random.getrandbits(5)
        if form == 0 and not atomic:
            body.append(reg << 3 | 5)
            body += bytes(4)
            return rex, len(body) - 4
        if form == 1:
            target = self._target(alignment) - segment_base
            body.append(reg << 3 | 4)
            body.append(random.getrandbits(2) << 6 | 4 << 3 | 5)
            body += struct.pack("<i", _signed32(target))
            return rex, -1
        mod = random.choice((0, 0, 1, 1, 2))
        base, index, scale = self._address_register(entry), 4, 0
        sib = form & 1 == 1 or base & 7 == 4
        if mod == 0 and base & 7 == 5:
            mod = 1
        displacement = 0
        if mod == 1:
            displacement = random.getrandbits(8) - 128
        elif mod == 2:
            displacement = _signed32(random.choice(self._integers))
        if sib:
            index, scale = self._address_register(entry), random.getrandbits(2)
            body.append(mod << 6 | reg << 3 | 4)
            body.append(scale << 6 | (index & 7) << 3 | base & 7)
            rex |= index >> 3 << 1
        else:
            body.append(mod << 6 | reg << 3 | base & 7)
        rex |= base >> 3
        if mod == 1:
            body += struct.pack("<b", displacement)
        elif mod == 2:
            body += struct.pack("<i", displacement)
        popped = entry.opcode == 0x8F and not entry.escape and base == _RSP
        steered_rax = "cmpxchg" in entry.steering

        def need(gprs: list[int]) -> None:
            target = self._target(alignment)
            if steered_rax and random.getrandbits(1):
                self._match_memory(gprs, target)
            rest = target - segment_base - displacement - (8 if popped else 0)
            if index != _RSP:
                if index == base:
                    gprs[base] = rest // (1 + (1 << scale)) & _M64
                    return
                rest -= gprs[index] << scale
            gprs[base] = rest & (0xFFFF_FFFF if address32 else _M64)
            if address32 and gprs[_RCX] & 1 and base != _RSP:
                gprs[base] |= gprs[_RAX] & 0xFFFF_FFFF << 32

        code.needs.append(need)
        return rex, -1

    def _address_register(self, entry: Entry) -> int:
        """Any; but XSAVE and XRSTOR read which components they are about from EDX:EAX."""
        register = self._random.getrandbits(4)
        return _RBX if "xstate" in entry.steering and register & 7 in (_RAX, _RDX) else register

    def _immediate(
        self, code: Code, entry: Entry, kind: str, body: bytearray, before: int, *,
        wide: bool, narrow: bool, address32: bool, base: int,
    ) -> None:  # fmt: skip
        random = self._random
        if kind in ("rel8", "rel32"):
            size = _IMMEDIATE_BYTES[kind]
            code.jumps.append((before + len(body), size))
            body += bytes(size)
        elif kind == "moffs":
            size = 4 if address32 else 8
            body += (self._target(1) - base & (1 << 8 * size) - 1).to_bytes(size, "little")
        elif "int" in entry.steering:
            number = random.getrandbits(8)
            body.append(number if number != 0x80 else 0x81)
        elif entry.opcode == 0xC8 and not entry.escape:
            small = random.getrandbits(3) != 0
            if kind == "iw":
                body += (random.getrandbits(8) if small else random.getrandbits(16)).to_bytes(2, "little")
            else:
                body.append(random.getrandbits(2) if small else random.getrandbits(8))
        elif kind == "iw":
            body += (8 * random.getrandbits(5)).to_bytes(2, "little")
        elif kind == "ib":
            value = random.choice(self._integers) if random.getrandbits(1) else random.getrandbits(8)
            if "double" in entry.steering and narrow:
                value = random.randint(0, 16)  # more is undefined altogether
            body.append(value & 0xFF)
        else:
            size = 2 if narrow else 4
            if kind == "iv" and wide:
                size = 8
            body += (random.choice(self._integers) & (1 << 8 * size) - 1).to_bytes(size, "little")

    def _resolve_jumps(self, code: Code) -> None:
        """Point relative jumps at a later instruction or behind the code, near ones now and then far outside."""
        random = self._random
        boundaries = [*code.starts, len(code.bytes)]
        for position, size in code.jumps:
            end = position + size
            target = random.choice([boundary for boundary in boundaries if boundary >= end])
            relative = target - end
            if size == 4 and random.getrandbits(4) == 0:
                where = random.choice((at.CODE + 8, at.DATA + 16, 0x1000, self._safe))
                relative = where - code.rip - end
            code.bytes[position:end] = (relative & (1 << 8 * size) - 1).to_bytes(size, "little")

    # Steering ----------------------------------------------------------------------------------------------------

    def _target(self, alignment: int) -> int:
        """An address for a memory operand: mostly good, sometimes across or in something bad."""
        random = self._random
        if alignment < 0:
            area, count, size = (
                (values.FX_AREA, values.FX_AREA_COUNT, 512) if alignment == _FX else
                (values.XSAVE_AREA, values.XSAVE_AREA_COUNT, values.XSAVE_SIZE) if alignment == _XSTATE else
                (values.DECIMAL_AREA, values.DECIMAL_AREA_COUNT, 16)
            )  # fmt: skip
            if alignment == _BCD or random.getrandbits(3):
                return area + size * random.randrange(count)
            if alignment == _XSTATE and random.getrandbits(1):
                if random.getrandbits(1):
                    return at.READ_ONLY + at.READ_ONLY_SIZE - 64 * random.randrange(10)
                return random.choice(values.XSAVE_HEADERS) - 512
        if alignment == _ATOMIC:  # locked accesses never split a line: some hosts make that slow on purpose
            return at.DATA + 16 * random.getrandbits(9) if random.getrandbits(6) else at.READ_ONLY + 64
        if random.getrandbits(6) == 0:
            return random.choice(self._integers)
        base, span, step = random.choice(_PLACES)
        return base + step * random.randrange(span)

    def _match_memory(self, gprs: list[int], target: int) -> None:
        offset = target - at.DATA
        if 0 <= offset <= at.DATA_SIZE - 16:
            low, high = struct.unpack_from("<2Q", self._template, offset)
            gprs[_RAX] = low
            gprs[_RDX] = high if self._random.getrandbits(1) else low >> 32

    def _bit_offset(self, code: Code, register: int) -> None:
        def need(gprs: list[int]) -> None:
            if self._random.getrandbits(2):
                gprs[register] = self._random.randint(-600, 600) & _M64

        code.needs.insert(0, need)
        code.needs.append(code.needs.pop(0))

    def _register_needs(self, code: Code, entry: Entry, register: int) -> None:
        random = self._random
        if "cmpxchg" in entry.steering:

            def equal(gprs: list[int]) -> None:
                if random.getrandbits(1) and register != _RSP:
                    gprs[register] = gprs[_RAX]

            code.needs.append(equal)
        elif "jump" in entry.steering:

            def jump(gprs: list[int]) -> None:
                wild = random.choice(self._integers)
                gprs[register] = random.choice((*(self._safe,) * 3, at.CODE + 8, at.DATA, wild))

            code.needs.append(jump)

    def _steer(  # noqa: C901 - one branch per kind
        self, code: Code, entry: Entry, segment_base: int, *, repeated: bool, narrow: bool
    ) -> None:
        random = self._random
        steering = entry.steering
        needs = code.needs
        if "string" in steering:

            def string(gprs: list[int]) -> None:
                gprs[_RSI] = self._target(1) - segment_base & _M64
                gprs[_RDI] = self._target(1)
                if repeated and random.getrandbits(5):
                    gprs[_RCX] = random.choice((0, 1, 2, 3, 5, 8, 16, 33))

            needs.append(string)
        elif "stack" in steering:

            def stack(gprs: list[int]) -> None:
                kind = random.getrandbits(4)
                if kind == 0:
                    gprs[_RSP] = at.STACK + random.choice((0, at.PAGE, 2 * at.PAGE)) + random.randint(-12, 12)
                elif kind == 1:
                    gprs[_RSP] = self._target(1)
                gprs[_RBP] = at.STACK + 8 * random.randint(16, 960)

            needs.append(stack)
        elif "maskmov" in steering:
            needs.append(lambda gprs: gprs.__setitem__(_RDI, self._target(1) - segment_base & _M64))
        elif "xstate" in steering:

            def components(gprs: list[int]) -> None:
                # x87 and SSE only: the host's processor may have more, and none has bit 63.
                gprs[_RAX] = gprs[_RAX] & ~0xFFFF_FFFF | random.getrandbits(2)
                gprs[_RDX] = gprs[_RDX] & ~0xFFFF_FFFF | random.getrandbits(1) << 31

            needs.append(components)
        elif "xlat" in steering:
            needs.append(lambda gprs: gprs.__setitem__(_RBX, self._target(1) - segment_base - 100 & _M64))
        elif steering & {"shift", "double"} and not entry.immediates:

            def count(gprs: list[int]) -> None:
                cl = random.randint(0, 16) if narrow and "double" in steering else random.getrandbits(7)
                gprs[_RCX] = gprs[_RCX] & ~0xFF | cl

            needs.append(count)
        elif "loop" in steering:

            def iterations(gprs: list[int]) -> None:
                if random.getrandbits(1):
                    gprs[_RCX] = random.getrandbits(1)

            needs.append(iterations)
        elif "lengths" in steering:

            def lengths(gprs: list[int]) -> None:
                if random.getrandbits(2):
                    gprs[_RAX] = random.randint(-20, 20) & _M64
                    gprs[_RDX] = random.randint(-20, 20) & _M64

            needs.append(lengths)
        elif "div" in steering:

            def dividend(gprs: list[int]) -> None:
                kind = random.getrandbits(2)
                if kind:
                    gprs[_RDX] = 0 if kind == 1 else (-(gprs[_RAX] >> (63 if kind == 2 else 31) & 1) & _M64)

            needs.append(dividend)


_COMPARISONS: Final = frozenset({"cmp", "test", "sub", "add", "and", "dec", "inc"})
"""What compilers put before a conditional jump."""
_WITHOUT_AF: Final = ("j", "set", "cmov", "loop")
"""What depends on flags, but not on AF."""
_ATOMIC: Final = 64
_SHL: Final = 4
_SHR: Final = 5
_FX: Final = -1
_BCD: Final = -2
_XSTATE: Final = -3


def area_alignment(entry: Entry) -> int:
    """Where memory operands go: 1 anywhere, negative numbers name areas of the template made for an instruction."""
    if "fx" in entry.steering:
        return _FX
    if "xstate" in entry.steering:
        return _XSTATE
    return _BCD if "bcd" in entry.steering else 1


def _lock_means_more(entry: Entry) -> bool:
    """LOCK next to MOV CRn is an encoding of its own on AMD (CR8)."""
    return entry.escape == b"\x0f" and entry.opcode in range(0x20, 0x24)


def conditional_jumps(entries: list[Entry]) -> list[Entry]:
    """The Jcc among some entries."""
    return [entry for entry in entries if entry.reads and entry.name.startswith("j")]


def _signed32(value: int) -> int:
    return (value + (1 << 31) & 0xFFFF_FFFF) - (1 << 31)


def _shift_undefined(entry: Entry, count: int | None, bits: int) -> int:
    """Flags a shift of ``bits`` by ``count`` (None: CL) leaves undefined.

    SDM volume 2: RCL/RCR/ROL/ROR, SAL/SAR/SHL/SHR, SHLD, SHRD.
    """
    if count == 0:
        return 0
    rotate = "shift" in entry.steering and (entry.digit or 0) < _SHL
    undefined = 0 if rotate else at.AF
    if count != 1:
        undefined |= at.OF
    if "shift" in entry.steering and entry.digit in (_SHL, _SHR) and (bits <= 16 if count is None else count >= bits):
        undefined |= at.CF
    return undefined
