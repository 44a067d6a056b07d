"""The processor model as CPUID tells it (SDM Vol. 2A, CPUID): x86-64-v2, in order, without mitigations to switch on."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from pyhyve.cpu.isa.x86.spec import LOW32, Cr4
from pyhyve.cpu.isa.x86.state import STATE, Gpr
from pyhyve.cpu.lang import U64, Pointer, kernel

if TYPE_CHECKING:
    from collections.abc import Iterable

ANY_SUBLEAF = LOW32
ROW_WORDS = 6

CRYSTAL_HZ = 1_000_000_000
"""Clock of leaf 0x15, which Linux also takes for that of the local APIC timer."""
PHYSICAL_BITS = 40
LINEAR_BITS = 48
XSAVE_BYTES = 576
"""Legacy region and header: x87 and SSE have no extended area."""

VENDOR = b"GenuineIntel"
HYPERVISOR = b"PyhyvePyhyve"
BRAND = b"pyhyve x86-64-v2 virtual processor"
SIGNATURE = 0x000106CA
"""Family 6, model 0x1C, stepping 10: an in-order core, which no kernel defends against speculation."""

FEATURES_EDX = {
    "fpu": 0,
    "de": 2,
    "pse": 3,
    "tsc": 4,
    "msr": 5,
    "pae": 6,
    "mce": 7,
    "cx8": 8,
    "apic": 9,
    "sep": 11,
    "mtrr": 12,
    "pge": 13,
    "mca": 14,
    "cmov": 15,
    "pat": 16,
    "pse36": 17,
    "clfsh": 19,
    "mmx": 23,
    "fxsr": 24,
    "sse": 25,
    "sse2": 26,
}
"""Leaf 1, EDX."""
FEATURES_ECX = {
    "sse3": 0,
    "ssse3": 9,
    "cx16": 13,
    "sse4_1": 19,
    "sse4_2": 20,
    "popcnt": 23,
    "tsc_deadline": 24,
    "xsave": 26,
    "hypervisor": 31,
}
"""Leaf 1, ECX; OSXSAVE (bit 27) follows CR4."""
LEAF7_EBX = {"smep": 7, "smap": 20}
LEAF7_ECX = {"umip": 2}
EXTENDED_EDX = {"syscall": 11, "nx": 20, "pdpe1gb": 26, "rdtscp": 27, "lm": 29}
"""Leaf 0x80000001, EDX."""
EXTENDED_ECX = {"lahf_lm": 0}
OSXSAVE = 1 << 27


@dataclass(frozen=True, slots=True)
class Cache:
    """One cache of leaf 4."""

    kind: int
    """1 data, 2 instruction, 3 unified."""
    level: int
    size_bytes: int
    ways: int
    line_bytes: int = 64

    def row(self, subleaf: int) -> tuple[int, ...]:
        """Its leaf 4 row."""
        sets = self.size_bytes // (self.ways * self.line_bytes)
        kind = self.kind | self.level << 5 | 1 << 8
        return (4, subleaf, kind, self.line_bytes - 1 | (self.ways - 1) << 22, sets - 1, 0)


CACHES = (Cache(1, 1, 32 << 10, 8), Cache(2, 1, 32 << 10, 8), Cache(3, 2, 1 << 20, 8))


def mask(features: Iterable[int]) -> int:
    """Word with these bits set."""
    return sum(1 << bit for bit in features)


def _words(text: bytes) -> list[int]:
    return [int.from_bytes(text[i : i + 4], "little") for i in range(0, len(text), 4)]


def rows(index: int, tsc_hz: int) -> list[tuple[int, ...]]:
    """Table for the vCPU with APIC ID `index`: (leaf, subleaf, eax, ebx, ecx, edx), `ANY_SUBLEAF` where it has none."""
    vendor = _words(VENDOR)
    hypervisor = _words(HYPERVISOR)
    brand = _words(BRAND.ljust(48, b"\0"))
    # Linux multiplies kHz of the crystal by the numerator in 32 bits.
    largest_numerator = LOW32 // (CRYSTAL_HZ // 1000)
    ratio = Fraction(tsc_hz, CRYSTAL_HZ).limit_denominator(largest_numerator // max(1, -(-tsc_hz // CRYSTAL_HZ)))
    mhz = round(tsc_hz / 1e6)
    l2 = CACHES[2]
    any_ = ANY_SUBLEAF
    return [
        (0, any_, 0x16, vendor[0], vendor[2], vendor[1]),
        (1, any_, SIGNATURE, index << 24 | 1 << 16 | 8 << 8, mask(FEATURES_ECX.values()), mask(FEATURES_EDX.values())),
        (2, any_, 0x0000FF01, 0, 0, 0),
        *(cache.row(i) for i, cache in enumerate(CACHES)),
        (6, any_, 1 << 2, 0, 0, 0),
        (7, 0, 0, mask(LEAF7_EBX.values()), mask(LEAF7_ECX.values()), 0),
        (0xD, 0, 3, XSAVE_BYTES, XSAVE_BYTES, 0),
        (0x15, any_, ratio.denominator, ratio.numerator, CRYSTAL_HZ, 0),
        (0x16, any_, mhz, mhz, CRYSTAL_HZ // 1_000_000, 0),
        (0x4000_0000, any_, 0x4000_0010, *hypervisor),
        (0x4000_0010, any_, tsc_hz // 1000, CRYSTAL_HZ // 1000, 0, 0),
        (0x8000_0000, any_, 0x8000_0008, 0, 0, 0),
        (0x8000_0001, any_, 0, 0, mask(EXTENDED_ECX.values()), mask(EXTENDED_EDX.values())),
        *((0x8000_0002 + i, any_, *brand[4 * i : 4 * i + 4]) for i in range(3)),
        (0x8000_0006, any_, 0, 0, l2.line_bytes | 6 << 12 | (l2.size_bytes >> 10) << 16, 0),
        (0x8000_0007, any_, 0, 0, 0, 1 << 8),
        (0x8000_0008, any_, PHYSICAL_BITS | LINEAR_BITS << 8, 0, 0, 0),
    ]


@kernel(Pointer(STATE), name="x86.cpuid", attributes="nounwind noinline cold")
def cpuid(st: Any) -> None:
    """CPUID of EAX and ECX from the state's table; a leaf without a row reads zeros."""
    leaf = st.gpr[Gpr.RAX].trunc(32)
    subleaf = st.gpr[Gpr.RCX].trunc(32)
    for register in (Gpr.RAX, Gpr.RBX, Gpr.RCX, Gpr.RDX):
        st.gpr[register] = 0
    i: U64 = 0
    while i < st.cpuid_count:
        at = i * ROW_WORDS
        if st.cpuid[at] == leaf and (st.cpuid[at + 1] == subleaf or st.cpuid[at + 1] == ANY_SUBLEAF):
            for position, register in enumerate((Gpr.RAX, Gpr.RBX, Gpr.RCX, Gpr.RDX)):
                st.gpr[register] = st.cpuid[at + 2 + position].zext(64)
            if leaf == 1 and (st.cr4 & Cr4.OSXSAVE) != 0:
                st.gpr[Gpr.RCX] = st.gpr[Gpr.RCX] | OSXSAVE
            return
        i += 1
