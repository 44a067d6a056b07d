"""Cases and results as the harness's Python sees them."""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from . import layout as at
from .machine_code import harness_code

if TYPE_CHECKING:
    from .opcodes import Entry


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction of a case: where it ends, and what is undefined after it."""

    entry: Entry
    end: int
    flags_undefined: int
    sw_undefined: int


@dataclass(slots=True)
class Batch:
    """Cases that share a memory template.

    Attributes:
        template: ``TEMPLATE_SIZE`` bytes.
        cases: case records, back to back.
        steps: for each case, its instructions.
    """

    template: bytes
    cases: bytearray
    steps: list[tuple[Step, ...]] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Number of cases."""
        return len(self.cases) // at.CASE_SIZE

    def case(self, index: int) -> Case:
        """A view of one case."""
        return Case(bytes(self.cases[index * at.CASE_SIZE : (index + 1) * at.CASE_SIZE]))


def code_bits(selector: int) -> int:
    """Width of the code in a code segment."""
    local = [segment for segment in at.LOCAL_SEGMENTS if segment.selector == selector]
    if local:
        return 32 if local[0].wide else 16
    return 32 if selector == at.SELECTOR_CS32 else 64


@dataclass(frozen=True, slots=True)
class Case:
    """One case record."""

    record: bytes

    @property
    def gprs(self) -> tuple[int, ...]:
        """The sixteen registers, in ModRM order."""
        return struct.unpack_from("<16Q", self.record, at.CASE_GPR)

    @property
    def rip(self) -> int:
        """Where the code starts."""
        return _u64(self.record, at.CASE_RIP)

    @property
    def eip(self) -> int:
        """What the instruction pointer holds then."""
        return _u64(self.record, at.CASE_EIP)

    @property
    def selectors(self) -> tuple[int, ...]:
        """CS, SS, DS, ES."""
        return struct.unpack_from("<4H", self.record, at.CASE_SELECTORS)

    @property
    def bits(self) -> int:
        """Width of the code: 16, 32 or 64."""
        return code_bits(self.selectors[0])

    @property
    def rflags(self) -> int:
        """Initial RFLAGS."""
        return _u64(self.record, at.CASE_RFLAGS)

    @property
    def flags_mask(self) -> int:
        """Bits of RFLAGS that are compared."""
        return _u64(self.record, at.CASE_FLAGS_MASK)

    @property
    def sw_mask(self) -> int:
        """Bits of the x87 status word that are compared."""
        return int.from_bytes(self.record[at.CASE_SW_MASK : at.CASE_SW_MASK + 4], "little")

    @property
    def code(self) -> bytes:
        """The instructions, without landing pad."""
        size = int.from_bytes(self.record[at.CASE_CODE_LEN : at.CASE_CODE_LEN + 4], "little")
        return self.record[at.CASE_CODE : at.CASE_CODE + size]

    @property
    def fx(self) -> bytes:
        """Initial FXSAVE image."""
        return self.record[at.CASE_FX : at.CASE_FX + at.FX_SIZE]

    @property
    def landing(self) -> int | None:
        """Address of the landing pad, None if the code pages end before it would or the code is not 64-bit."""
        if self.bits != 64:
            return None
        end = self.rip + len(self.code)
        return end if end + at.LANDING_PAD_SIZE <= at.CODE + at.CODE_SIZE else None

    @property
    def code_image(self) -> bytes:
        """What the code pages hold from ``rip`` on: the code and the landing pad."""
        landing = self.landing
        if landing is None:
            return self.code
        return self.code + b"\xe9" + struct.pack("<i", at.STUB - landing - at.LANDING_PAD_SIZE)


@dataclass(frozen=True, slots=True)
class Result:
    """One result record."""

    record: bytes

    @property
    def gprs(self) -> tuple[int, ...]:
        """The sixteen registers, in ModRM order."""
        return struct.unpack_from("<16Q", self.record, at.RESULT_GPR)

    @property
    def rip(self) -> int:
        """Final RIP."""
        return _u64(self.record, at.RESULT_RIP)

    @property
    def rflags(self) -> int:
        """Final RFLAGS, all bits."""
        return _u64(self.record, at.RESULT_RFLAGS)

    @property
    def vector(self) -> int:
        """Exception vector or one of ``VECTOR_DONE``, ``VECTOR_HUNG``, ``VECTOR_DIED``."""
        value: int = struct.unpack_from("<q", self.record, at.RESULT_VECTOR)[0]
        return value

    @property
    def error(self) -> int:
        """Error code, 0 if there is none."""
        return _u64(self.record, at.RESULT_ERROR)

    @property
    def cr2(self) -> int:
        """Page fault address."""
        return _u64(self.record, at.RESULT_CR2)

    @property
    def fx(self) -> bytes:
        """The first ``FX_END`` bytes of the final FXSAVE image."""
        return self.record[at.RESULT_FX : at.RESULT_FX + at.FX_END]

    @property
    def dirty(self) -> int:
        """Number of changed 64-byte lines."""
        return int.from_bytes(self.record[at.RESULT_DIRTY : at.RESULT_DIRTY + 4], "little")

    def lines(self) -> dict[int, bytes]:
        """Address and contents of the changed lines (the first ``MAX_LINES``)."""
        count = min(self.dirty, at.MAX_LINES)
        indices = struct.unpack_from(f"<{count}H", self.record, at.RESULT_LINE_INDEX)
        first_stack = at.DATA_SIZE // at.LINE
        return {
            (at.DATA + i * at.LINE if i < first_stack else at.STACK + (i - first_stack) * at.LINE): self.record[
                at.RESULT_LINES + n * at.LINE : at.RESULT_LINES + (n + 1) * at.LINE
            ]
            for n, i in enumerate(indices)
        }


def compare(batch: Batch, a: memoryview | bytearray, b: memoryview | bytearray) -> list[int]:
    """Indices of the cases whose two results differ in what the case says is to be compared."""
    code = harness_code()
    indices = (ctypes.c_uint32 * max(1, batch.count))()
    pointer = ctypes.c_char * 1
    function = ctypes.CFUNCTYPE(
        ctypes.c_uint32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p
    )(code.compare)
    found = function(
        ctypes.addressof(pointer.from_buffer(batch.cases)),
        ctypes.addressof(pointer.from_buffer(a)),
        ctypes.addressof(pointer.from_buffer(b)),
        batch.count,
        ctypes.addressof(indices),
    )
    return list(indices[:found])


def _u64(record: bytes, offset: int) -> int:
    return int.from_bytes(record[offset : offset + 8], "little")
