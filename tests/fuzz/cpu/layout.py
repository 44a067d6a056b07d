"""Addresses and record layouts shared by the native runner, the engines and the generator.

Address space of a case (everything else is unmapped, so touching it raises #PF or #GP):

========================  ======  =========================================================
region                    access  contents
========================  ======  =========================================================
``CODE``, 2 pages         r-x     0xCC everywhere but the case's code and its landing pad
``STUB``, 1 page          r-x     where the landing pad jumps to: a case that gets here is done
``DATA``, 3 pages         rw-     the template's first part
``READ_ONLY``, 1 page     r--     follows ``DATA`` directly
``STACK``, 2 pages        rw-     the template's second part, with a hole on both sides
========================  ======  =========================================================

The records are plain little-endian structures; the offsets below are the whole definition.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

PAGE: Final = 4096

SAVE: Final = 0x3D5A_9000
"""Scratch page of the native trampoline, reached by 32-bit absolute addresses. Not part of a case's state."""

CODE: Final = 0x6000_0000
CODE_SIZE: Final = 2 * PAGE
CODE_TRAPS: Final = 64
"""The first bytes of the code pages always stay 0xCC: a safe target for wild jumps."""

STUB: Final = 0x6001_0000

DATA: Final = 0x6800_0000
DATA_SIZE: Final = 3 * PAGE
READ_ONLY: Final = DATA + DATA_SIZE
READ_ONLY_SIZE: Final = PAGE
STACK: Final = 0x7000_0000
STACK_SIZE: Final = 2 * PAGE

TEMPLATE_SIZE: Final = DATA_SIZE + STACK_SIZE + READ_ONLY_SIZE
"""A template holds the initial contents of ``DATA``, ``STACK`` and ``READ_ONLY``, in this order."""

FS_BASE: Final = 0x40
GS_BASE: Final = 0x120

SELECTOR_CS: Final = 0x33
SELECTOR_SS: Final = 0x2B
"""Selectors of a 64-bit Linux process; DS, ES, FS and GS are null."""
SELECTOR_CS32: Final = 0x23
"""Flat 32-bit code, the same for every process; its data is at `SELECTOR_SS`."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A descriptor of the local table.

    Attributes:
        selector: how programs name it.
        limit: in bytes.
        kind: data, stack (data that expands down), code.
        wide: 32 bits.
        restricted: not writable; code: not readable.
    """

    selector: int
    base: int
    limit: int
    kind: str = "data"
    wide: bool = False
    restricted: bool = False


LOCAL_SEGMENTS: Final = (
    Segment(0x07, CODE, CODE_SIZE - 1, "code"),
    Segment(0x0F, CODE, CODE_SIZE - 1, "code", wide=True),
    Segment(0x17, DATA, DATA_SIZE + READ_ONLY_SIZE - 1),
    Segment(0x1F, STACK, STACK_SIZE - 1),
    Segment(0x27, STACK, STACK_SIZE - 1, wide=True),
    Segment(0x2F, DATA + 0x100, 0x7FF, "stack"),
    Segment(0x37, DATA, PAGE - 1, "stack", wide=True),
    Segment(0x3F, DATA + 0x400, 0x5FF, restricted=True),
    Segment(0x47, CODE, 0x7F, "code", restricted=True),
    Segment(0x4F, DATA, 0xFFFF),
)
"""Entries 0, 1, ... of the local descriptor table, for 16-bit and for segmented 32-bit code."""

LANDING_PAD_SIZE: Final = 5
"""``jmp rel32`` to ``STUB`` right behind the code, if it fits into the code pages."""

BATCH: Final = 512
"""Most cases in a batch."""

# Case record -----------------------------------------------------------------------------------------------------
CASE_SIZE: Final = 768
CASE_GPR: Final = 0x00
"""16 x u64: RAX RCX RDX RBX RSP RBP RSI RDI R8..R15, as ModRM numbers them."""
CASE_RIP: Final = 0x80
CASE_RFLAGS: Final = 0x88
CASE_CODE_LEN: Final = 0x90
"""u32, at most ``CODE_MAX``. Cases of other than 64-bit code have no landing pad: they end at the INT3 behind it."""
CASE_SW_MASK: Final = 0x94
"""u32: the bits of the x87 status word that are compared."""
CASE_FLAGS_MASK: Final = 0x98
"""u64: the bits of RFLAGS that are compared."""
CASE_EIP: Final = 0xA0
"""u64: the instruction pointer that `CASE_RIP` is in the code segment."""
CASE_SELECTORS: Final = 0xA8
"""4 x u16: CS SS DS ES."""
CASE_CODE: Final = 0xC0
CODE_MAX: Final = 64
CASE_FX: Final = 0x100
"""FXSAVE64 image, 512 bytes (SDM volume 1, section 10.5.1)."""

# Result record ---------------------------------------------------------------------------------------------------
RESULT_SIZE: Final = 2048
RESULT_GPR: Final = 0x00
RESULT_RIP: Final = 0x80
"""``STUB`` if the case ended by itself, else what the exception would push."""
RESULT_RFLAGS: Final = 0x88
RESULT_VECTOR: Final = 0x90
"""i64: exception vector, or one of the values below."""
RESULT_ERROR: Final = 0x98
RESULT_CR2: Final = 0xA0
"""0 unless the vector is 14."""
RESULT_DIRTY: Final = 0xA8
"""u32: number of 64-byte lines of memory that differ from the template."""
RESULT_LINE_INDEX: Final = 0xB0
"""``MAX_LINES`` x u16: which lines, counted over ``DATA`` then ``STACK``."""
RESULT_FX: Final = 0x100
"""FXSAVE64 image with FOP, FIP, FDP, MXCSR_MASK and everything past XMM15 zero."""
RESULT_LINES: Final = 0x300
"""``MAX_LINES`` x 64 bytes: their contents."""
MAX_LINES: Final = 20
LINE: Final = 64

VECTOR_DONE: Final = -1
VECTOR_HUNG: Final = -2
VECTOR_DIED: Final = -3

# FXSAVE image ----------------------------------------------------------------------------------------------------
FX_SIZE: Final = 512
FX_CW: Final = 0
FX_SW: Final = 2
FX_TW: Final = 4
FX_FOP: Final = 6
FX_MXCSR: Final = 24
FX_MXCSR_MASK: Final = 28
FX_ST: Final = 32
FX_XMM: Final = 160
FX_END: Final = 416

# RFLAGS ----------------------------------------------------------------------------------------------------------
CF: Final = 0x0001
PF: Final = 0x0004
AF: Final = 0x0010
ZF: Final = 0x0040
SF: Final = 0x0080
TF: Final = 0x0100
DF: Final = 0x0400
OF: Final = 0x0800
NT: Final = 0x4000
RF: Final = 0x1_0000
AC: Final = 0x4_0000
ID: Final = 0x20_0000
ARITHMETIC: Final = CF | PF | AF | ZF | SF | OF
FLAGS_FIXED: Final = 0x202
FLAGS_COMPARED: Final = ARITHMETIC | TF | DF | NT | RF | AC | ID
SW_ALL: Final = 0xFFFF
SW_C0: Final = 0x0100
SW_C1: Final = 0x0200
SW_C2: Final = 0x0400
SW_C3: Final = 0x4000


def stub_page(code: bytes) -> bytes:
    """Contents of `STUB`: a jump to ``code`` in the middle, so that what cases read there is the same on both sides."""
    return (b"\xe9" + struct.pack("<i", PAGE // 2 - 5)).ljust(PAGE // 2, b"\xcc") + code.ljust(PAGE // 2, b"\xcc")
