"""Named CPU models and the CPUID a KVM guest sees.

`host` passes on all that KVM offers. The others are the microarchitecture levels of the x86-64 psABI (x86-64 psABI
1.0, section 3.1.1, table 3.1): a guest that runs on any host of that level, whichever host it started on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pyhyve.support.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyhyve.kvm.cpuid import CpuidEntry


class CpuModelError(UserError):
    """A CPU model that does not exist, or that this host cannot provide."""


@dataclass(frozen=True, slots=True)
class _Bit:
    """One feature flag: CPUID leaf, index, register and bit (SDM Vol. 2A, CPUID)."""

    function: int
    index: int
    register: str
    bit: int


def _bits(function: int, register: str, names: str) -> dict[str, _Bit]:
    """`names` are `name=bit` words."""
    pairs = (word.split("=") for word in names.split())
    return {name: _Bit(function, 0, register, int(bit)) for name, bit in pairs}


_EXTENDED = 0x8000_0001

BASELINE = (
    _bits(1, "edx", "fpu=0 vme=1 de=2 pse=3 tsc=4 msr=5 pae=6 mce=7 cx8=8 apic=9 sep=11 mtrr=12 pge=13 mca=14 cmov=15")
    | _bits(1, "edx", "pat=16 pse36=17 clflush=19 mmx=23 fxsr=24 sse=25 sse2=26")
    | _bits(_EXTENDED, "edx", "syscall=11 nx=20 lm=29")
)
V2 = _bits(1, "ecx", "sse3=0 ssse3=9 cx16=13 sse4_1=19 sse4_2=20 popcnt=23") | _bits(_EXTENDED, "ecx", "lahf_lm=0")
V3 = (
    _bits(1, "ecx", "fma=12 movbe=22 xsave=26 osxsave=27 avx=28 f16c=29")
    | _bits(7, "ebx", "bmi1=3 avx2=5 bmi2=8")
    | _bits(_EXTENDED, "ecx", "abm=5")
)
PLATFORM = (
    _bits(1, "ecx", "x2apic=21 tsc_deadline=24 hypervisor=31 aes=25 pclmulqdq=1 rdrand=30 pcid=17")
    | _bits(1, "edx", "ht=28")
    | _bits(7, "ebx", "fsgsbase=0 tsc_adjust=1 smep=7 erms=9 invpcid=10 rdseed=18 adx=19 smap=20")
    | _bits(7, "edx", "spec_ctrl=26 stibp=27 arch_capabilities=29 ssbd=31")
    | _bits(_EXTENDED, "edx", "pdpe1gb=26 rdtscp=27")
    | _bits(_EXTENDED, "ecx", "cmp_legacy=1 cr8_legacy=4")
)
"""Given to every model where the host has them: no program's instruction set depends on them."""

_OSXSAVE = "osxsave"  # follows CR4 at run time: never asked of the host
_MODELS: dict[str, dict[str, _Bit] | None] = {
    "host": None,
    "x86-64-v2": BASELINE | V2,
    "x86-64-v3": BASELINE | V2 | V3,
}
MODEL_NAMES = tuple(_MODELS)

_FILTERED = {(1, "ecx"), (1, "edx"), (7, "ebx"), (7, "ecx"), (7, "edx"), (_EXTENDED, "ecx"), (_EXTENDED, "edx")}
"""Leaf and register pairs that hold feature flags."""

_ECX_HYPERVISOR = 1 << 31
_ECX_TSC_DEADLINE = 1 << 24
_EDX_HT = 1 << 28
_XSTATE_X87_SSE, _XSTATE_AVX = 0x3, 0x4
_LEVEL_SMT, _LEVEL_CORE = 1, 2


def guest_cpuid(
    supported: Iterable[CpuidEntry], model: str, index: int, cpu_count: int, *, has_tsc_deadline: bool = False
) -> tuple[CpuidEntry, ...]:
    """CPUID of vCPU `index` of `cpu_count` (one socket, one thread a core) from what KVM supports.

    Raises CpuModelError for an unknown model, or one with features this host lacks (they are named).
    """
    if model not in _MODELS:
        msg = f"CPU model {model}: unknown (use {', '.join(_MODELS)})"
        raise CpuModelError(msg)
    entries = [_describe_topology(entry, index, cpu_count) for entry in supported]
    if has_tsc_deadline:
        entries = [replace(e, ecx=e.ecx | _ECX_TSC_DEADLINE) if e.function == 1 else e for e in entries]
    wanted = _MODELS[model]
    if wanted is None:
        return tuple(entries)
    missing = _missing(entries, wanted)
    if missing:
        msg = f"CPU model {model}: this host lacks {', '.join(missing)}; use --cpu host"
        raise CpuModelError(msg)
    return tuple(_restrict(entry, wanted | PLATFORM, has_avx="avx" in wanted) for entry in entries)


def _missing(entries: list[CpuidEntry], wanted: dict[str, _Bit]) -> list[str]:
    values = {
        (entry.function, entry.index, name): getattr(entry, name)
        for entry in entries
        for name in ("eax", "ebx", "ecx", "edx")
    }
    return [
        name
        for name, flag in wanted.items()
        if name != _OSXSAVE and not values.get((flag.function, flag.index, flag.register), 0) >> flag.bit & 1
    ]


def _restrict(entry: CpuidEntry, allowed: dict[str, _Bit], *, has_avx: bool) -> CpuidEntry:
    """`entry` without the features that are not allowed."""
    function = entry.function
    if function == 0xD:
        return _restrict_xsave(entry, has_avx=has_avx)
    if function == 7 and entry.index:
        return replace(entry, eax=0, ebx=0, ecx=0, edx=0)
    changes: dict[str, int] = {"eax": 0} if function == 7 else {}
    for register in ("ebx", "ecx", "edx"):
        if (function, register) in _FILTERED:
            mask = sum(
                1 << flag.bit for flag in allowed.values() if (flag.function, flag.register) == (function, register)
            )
            changes[register] = getattr(entry, register) & mask
    if function == _EXTENDED:
        # AMD repeats leaf 1 here; the repeated flags are all baseline.
        changes["edx"] |= entry.edx & 0x0183_F3FF
    return replace(entry, **changes)


def _restrict_xsave(entry: CpuidEntry, *, has_avx: bool) -> CpuidEntry:
    """Leaf 0xD: only x87, SSE and (for models with AVX) AVX state."""
    if not has_avx or entry.index > 2:
        return replace(entry, eax=0, ebx=0, ecx=0, edx=0)
    if entry.index == 0:
        return replace(entry, eax=entry.eax & (_XSTATE_X87_SSE | _XSTATE_AVX), ebx=576, ecx=832, edx=0)
    if entry.index == 1:
        return replace(entry, eax=entry.eax & 1, ebx=0, ecx=0, edx=0)
    return entry


def _describe_topology(entry: CpuidEntry, index: int, cpu_count: int) -> CpuidEntry:
    """One package of `cpu_count` single-threaded cores; `index` is the APIC ID."""
    core_bits = (cpu_count - 1).bit_length()
    match entry.function:
        case 1:
            logical = 1 << core_bits
            ebx = entry.ebx & 0xFFFF | min(logical, 255) << 16 | (index & 0xFF) << 24
            edx = entry.edx & ~_EDX_HT | (_EDX_HT if cpu_count > 1 else 0)
            return replace(entry, ebx=ebx, ecx=entry.ecx | _ECX_HYPERVISOR, edx=edx)
        case 4 if entry.eax & 0x1F:
            level = entry.eax >> 5 & 7
            sharing = (1 << core_bits) - 1 if level >= 3 else 0
            cores = min((1 << core_bits) - 1, 63)
            return replace(entry, eax=entry.eax & 0x3FFF | sharing << 14 | cores << 26)
        case 0xB | 0x1F:
            return _extended_topology(entry, index, cpu_count, core_bits)
        case 0x8000_0008:
            return replace(entry, ecx=(core_bits << 12 | cpu_count - 1) if cpu_count > 1 else 0)
        case 0x8000_001D if entry.eax & 0x1F:
            sharing = cpu_count - 1 if entry.eax >> 5 & 7 >= 3 else 0
            return replace(entry, eax=entry.eax & 0x3FFF | sharing << 14)
        case 0x8000_001E:
            return replace(entry, eax=index, ebx=index & 0xFF, ecx=0)
    return entry


def _extended_topology(entry: CpuidEntry, index: int, cpu_count: int, core_bits: int) -> CpuidEntry:
    """Leaf 0xB: the SMT level, the core level, then the end."""
    match entry.index:
        case 0:
            return replace(entry, eax=0, ebx=1, ecx=_LEVEL_SMT << 8, edx=index)
        case 1:
            return replace(entry, eax=core_bits, ebx=cpu_count, ecx=1 | _LEVEL_CORE << 8, edx=index)
    return replace(entry, eax=0, ebx=0, ecx=entry.index, edx=index)
