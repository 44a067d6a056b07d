"""Feature flags of x86 processors, by the names that QEMU and libvirt give them, and what they need of one another.

Source: SDM Vol. 2A, CPUID; AMD64 APM Vol. 3, appendix E. A name is written with dashes (`sse4-1`); dots and underscores
are accepted for them.
"""

from __future__ import annotations

from pyhyve.support.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class FeatureBit:
    """One flag: CPUID leaf, index, register and bit."""

    function: int
    index: int
    register: str
    bit: int


EXTENDED = 0x8000_0001


def _bits(function: int, register: str, names: str, index: int = 0) -> dict[str, FeatureBit]:
    """`names` are `name=bit` words."""
    pairs = (word.split("=") for word in names.split())
    return {name: FeatureBit(function, index, register, int(bit)) for name, bit in pairs}


FEATURES: dict[str, FeatureBit] = {
    **_bits(
        1, "edx", "fpu=0 vme=1 de=2 pse=3 tsc=4 msr=5 pae=6 mce=7 cx8=8 apic=9 sep=11 mtrr=12 pge=13 mca=14 cmov=15"
    ),
    **_bits(1, "edx", "pat=16 pse36=17 clflush=19 acpi=22 mmx=23 fxsr=24 sse=25 sse2=26 ss=27 ht=28"),
    **_bits(1, "ecx", "pni=0 pclmulqdq=1 monitor=3 vmx=5 ssse3=9 fma=12 cx16=13 pcid=17 sse4-1=19 sse4-2=20 x2apic=21"),
    **_bits(1, "ecx", "movbe=22 popcnt=23 tsc-deadline=24 aes=25 xsave=26 avx=28 f16c=29 rdrand=30 hypervisor=31"),
    **_bits(7, "ebx", "fsgsbase=0 tsc-adjust=1 bmi1=3 hle=4 avx2=5 smep=7 bmi2=8 erms=9 invpcid=10 rtm=11 mpx=14"),
    **_bits(7, "ebx", "avx512f=16 avx512dq=17 rdseed=18 adx=19 smap=20 avx512ifma=21 clflushopt=23 clwb=24"),
    **_bits(7, "ebx", "avx512pf=26 avx512er=27 avx512cd=28 sha-ni=29 avx512bw=30 avx512vl=31"),
    **_bits(7, "ecx", "avx512vbmi=1 umip=2 pku=3 avx512vbmi2=6 gfni=8 vaes=9 vpclmulqdq=10 avx512vnni=11"),
    **_bits(7, "ecx", "avx512bitalg=12 avx512-vpopcntdq=14 la57=16 rdpid=22 bus-lock-detect=24 cldemote=25 movdiri=27"),
    **_bits(7, "ecx", "movdir64b=28"),
    **_bits(7, "edx", "avx512-4vnniw=2 avx512-4fmaps=3 fsrm=4 avx512-vp2intersect=8 md-clear=10 serialize=14"),
    **_bits(7, "edx", "amx-bf16=22 avx512-fp16=23 amx-tile=24 amx-int8=25 spec-ctrl=26 stibp=27 flush-l1d=28"),
    **_bits(7, "edx", "arch-capabilities=29 core-capability=30 ssbd=31"),
    **_bits(7, "eax", "avx-vnni=4 avx512-bf16=5 fzrm=10 fsrs=11 fsrc=12 amx-fp16=21 avx-ifma=23", 1),
    **_bits(0xD, "eax", "xsaveopt=0 xsavec=1 xgetbv1=2 xsaves=3", 1),
    **_bits(
        EXTENDED, "ecx", "lahf-lm=0 cmp-legacy=1 svm=2 cr8legacy=4 abm=5 sse4a=6 misalignsse=7 3dnowprefetch=8 osvw=9"
    ),
    **_bits(EXTENDED, "ecx", "xop=11 wdt=13 fma4=16 tbm=21 topoext=22 perfctr-core=23"),
    **_bits(EXTENDED, "edx", "syscall=11 nx=20 mmxext=22 fxsr-opt=25 pdpe1gb=26 rdtscp=27 lm=29 3dnowext=30 3dnow=31"),
    **_bits(0x8000_0007, "edx", "invtsc=8"),
    **_bits(0x8000_0008, "ebx", "clzero=0 xsaveerptr=2 wbnoinvd=9 ibpb=12 amd-stibp=15 amd-ssbd=24 virt-ssbd=25"),
}
"""Every flag that can be asked for or taken away."""

_ALIASES = {
    "sse3": "pni", "lzcnt": "abm", "cmpxchg8b": "cx8", "cmpxchg16b": "cx16", "clfsh": "clflush", "i64": "lm",
    "xd": "nx", "sha": "sha-ni", "ffxsr": "fxsr-opt", "cmp": "cmp-legacy",
}  # fmt: skip

_AVX512 = (
    "avx512dq avx512ifma avx512pf avx512er avx512cd avx512bw avx512vl avx512vbmi avx512vbmi2 avx512vnni avx512bitalg "
    "avx512-vpopcntdq avx512-4vnniw avx512-4fmaps avx512-vp2intersect avx512-fp16 avx512-bf16"
)
_NEEDS: dict[str, str] = {
    "sse": "fxsr", "sse2": "sse", "pni": "sse2", "ssse3": "pni", "sse4-1": "ssse3", "sse4-2": "sse4-1", "aes": "sse2",
    "pclmulqdq": "sse2", "sha-ni": "sse2", "gfni": "sse2", "sse4a": "pni", "avx": "xsave", "xsaveopt": "xsave",
    "xsavec": "xsave", "xgetbv1": "xsave", "xsaves": "xsavec", "pku": "xsave", "mpx": "xsave", "amx-tile": "xsave",
    "amx-bf16": "amx-tile", "amx-int8": "amx-tile", "amx-fp16": "amx-tile", "avx2": "avx", "fma": "avx", "f16c": "avx",
    "fma4": "avx", "xop": "avx", "vaes": "avx", "vpclmulqdq": "avx", "avx-vnni": "avx2", "avx-ifma": "avx2",
    "avx512f": "avx2", "hle": "rtm", "mmxext": "mmx", "3dnow": "mmx", "3dnowext": "3dnow",
} | dict.fromkeys(_AVX512.split(), "avx512f")  # fmt: skip
"""What a processor with the feature always has too."""


def canonical(name: str) -> str | None:
    """The name of a feature as `FEATURES` has it; None when there is none of this name."""
    plain = name.lower().replace("_", "-").replace(".", "-")
    plain = _ALIASES.get(plain, plain)
    return plain if plain in FEATURES else None


def with_needs(names: Iterable[str]) -> frozenset[str]:
    """`names` and all that they need."""
    found: set[str] = set()
    for name in names:
        needed: str | None = name
        while needed is not None and needed not in found:
            found.add(needed)
            needed = _NEEDS.get(needed)
    return frozenset(found)


def with_dependents(names: Iterable[str]) -> frozenset[str]:
    """`names` and all that need one of them."""
    found = set(names)
    grows = True
    while grows:
        more = {name for name, needed in _NEEDS.items() if needed in found} - found
        grows = bool(more)
        found |= more
    return frozenset(found)
