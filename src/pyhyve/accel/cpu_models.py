"""Named CPU models, and the CPUID a guest sees.

`host` (or `max`) passes on all that the accelerator offers. The others are the microarchitecture levels of the x86-64
psABI (1.0, section 3.1.1, table 3.1), for a guest that runs on any host of that level, whichever it started on, and
QEMU's oldest 64-bit model. `+name` and `-name` after a model add and take away features.
"""

from __future__ import annotations

from pyhyve.support.errors import InputError, UserError
from pyhyve.support.records import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyhyve.kvm.cpuid import CpuidEntry


class CpuModelError(InputError):
    """A CPU model, or a feature, that does not exist."""


class CpuUnavailableError(UserError):
    """A CPU model, or a feature, that cannot be provided here."""


BASELINE = frozenset({
    "fpu", "vme", "de", "pse", "tsc", "msr", "pae", "mce", "cx8", "apic", "sep", "mtrr", "pge", "mca", "cmov", "pat",
    "pse36", "clflush", "mmx", "fxsr", "sse", "sse2", "syscall", "nx", "lm",
})  # fmt: skip
V2 = frozenset({
    "pni", "ssse3", "cx16", "sse4-1", "sse4-2", "popcnt", "lahf-lm",
})  # fmt: skip
V3 = frozenset({
    "fma", "movbe", "xsave", "avx", "f16c", "bmi1", "avx2", "bmi2", "abm",
})  # fmt: skip
PLATFORM = frozenset({
    "x2apic", "tsc-deadline", "hypervisor", "aes", "pclmulqdq", "rdrand", "pcid", "ht", "fsgsbase", "tsc-adjust",
    "smep", "erms", "invpcid", "rdseed", "adx", "smap", "umip", "spec-ctrl", "stibp", "arch-capabilities", "ssbd",
    "pdpe1gb", "rdtscp", "cmp-legacy", "cr8legacy", "invtsc", "ibpb", "amd-stibp", "amd-ssbd",
})  # fmt: skip
"""Given to every named model where the host has them: no program's instruction set depends on them."""

_MODELS: dict[str, frozenset[str] | None] = {
    "host": None,
    "max": None,
    "x86-64-v2": BASELINE | V2,
    "x86-64-v3": BASELINE | V2 | V3,
    "qemu64": BASELINE | frozenset({"pni", "cx16", "lahf-lm"}),
}
MODEL_NAMES = tuple(_MODELS)
_OPTIONAL = frozenset({"vme", "fpu"})
"""Asked of no host: long mode has no use for VME, and no processor is without an FPU."""
_SWITCHES = {"on": True, "yes": True, "true": True, "off": False, "no": False, "false": False}
_NOT_FEATURES = frozenset({"migratable", "check", "enforce", "host-phys-bits", "kvm"})
"""Properties of QEMU's models that change nothing here: a feature that is missing is always an error."""

_ECX_HYPERVISOR = 1 << 31
_ECX_TSC_DEADLINE = 1 << 24
_EDX_HT = 1 << 28
_REPEATED = 0x0183_F3FF
"""Flags of leaf 1 EDX that AMD repeats in leaf 0x80000001."""
_LEVEL_SMT, _LEVEL_CORE = 1, 2
_XSAVE_LEGACY_BYTES = 576
_SUPERVISOR_STATE = 1
"""In ECX of a state component's sub-leaf: IA32_XSS enables it, not XCR0."""
_XSTATES = {0: "fpu", 1: "sse", 2: "avx", 3: "mpx", 4: "mpx", 5: "avx512f", 6: "avx512f", 7: "avx512f", 9: "pku"} | {
    17: "amx-tile",
    18: "amx-tile",
}
"""Features that state components of XSAVE belong to (SDM Vol. 1, 13.1)."""


@dataclass(frozen=True, slots=True)
class CpuModel:
    """A model with changes; `added` holds what those features need, `removed` what needs them."""

    name: str = "host"
    added: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()

    @staticmethod
    def parse(text: str) -> CpuModel:
        """`MODEL[,+feature][,-feature][,feature=on|off]…`. Raises CpuModelError."""
        name, *changes = text.split(",")
        if name not in _MODELS:
            msg = f"cpu {text}: unknown model (use {', '.join(_MODELS)})"
            raise CpuModelError(msg)
        if not changes:
            return CpuModel(name)
        from pyhyve.accel.cpu_features import (  # noqa: PLC0415 - a model as it is needs no table of features
            canonical,
            with_dependents,
            with_needs,
        )

        wanted: dict[str, bool] = {}
        for change in changes:
            word, value = _parse_change(change)
            if word in _NOT_FEATURES:
                continue
            feature = canonical(word)
            if feature is None:
                msg = f"cpu {text}: unknown feature {word!r}"
                raise CpuModelError(msg)
            wanted[feature] = value
        added = with_needs(feature for feature, is_on in wanted.items() if is_on)
        removed = with_dependents(feature for feature, is_on in wanted.items() if not is_on)
        if added & removed:
            msg = f"cpu {text}: {', '.join(sorted(added & removed))} both asked for and taken away"
            raise CpuModelError(msg)
        return CpuModel(name, added, removed)

    @property
    def wanted(self) -> frozenset[str]:
        """Features the accelerator must have."""
        return ((_MODELS[self.name] or frozenset()) | self.added) - self.removed

    @property
    def allowed(self) -> frozenset[str] | None:
        """Features passed on; None for all but `removed`."""
        level = _MODELS[self.name]
        return None if level is None else (level | PLATFORM | self.added) - self.removed


HOST = CpuModel()
MAX = CpuModel("max")


def _parse_change(change: str) -> tuple[str, bool]:
    if change[:1] in {"+", "-"}:
        return change[1:], change[0] == "+"
    word, equals, value = change.partition("=")
    if word.replace("_", "-") in _NOT_FEATURES:
        return word.replace("_", "-"), True
    if not equals:
        return word, True
    if value not in _SWITCHES:
        msg = f"cpu {change}: use {word}=on or {word}=off"
        raise CpuModelError(msg)
    return word, _SWITCHES[value]


def available(entries: Iterable[CpuidEntry]) -> frozenset[str]:
    """Names of the features set in `entries`."""
    from pyhyve.accel.cpu_features import FEATURES  # noqa: PLC0415 - as above

    leaves = {(entry.function, entry.index): entry for entry in entries}
    return frozenset(
        name
        for name, flag in FEATURES.items()
        if (entry := leaves.get((flag.function, flag.index))) is not None
        and getattr(entry, flag.register) >> flag.bit & 1
    )


def check_model(supported: Iterable[CpuidEntry], model: CpuModel, provider: str) -> None:
    """Raise CpuUnavailableError, naming the features, unless `supported` has all that `model` asks for."""
    missing = model.wanted and model.wanted - available(supported) - _OPTIONAL
    if missing:
        from pyhyve.accel.cpu_features import FEATURES  # noqa: PLC0415 - as above

        order = list(FEATURES)
        names = ", ".join(sorted(missing, key=order.index))
        msg = f"cpu: {model.name} needs {names}, which {provider} lacks"
        raise CpuUnavailableError(msg)


def filter_cpuid(supported: Iterable[CpuidEntry], model: CpuModel) -> tuple[CpuidEntry, ...]:
    """`supported` without the features that `model` does not have."""
    entries = tuple(supported)
    if model.allowed is None and not model.removed:
        return entries
    from pyhyve.accel.cpu_features import EXTENDED  # noqa: PLC0415 - as above

    masks = _masks(model)
    leaf1 = masks.get((1, 0), {}).get("edx", 0xFFFF_FFFF)
    found = []
    for entry in entries:
        changes = {
            register: getattr(entry, register) & mask
            for register, mask in masks.get((entry.function, entry.index), {}).items()
        }
        if entry.function == EXTENDED and "edx" in changes:
            changes["edx"] = changes["edx"] & ~_REPEATED | entry.edx & _REPEATED & leaf1
        if model.allowed is not None and entry.function == 7:
            if entry.index:
                changes = dict.fromkeys(("eax", "ebx", "ecx", "edx"), 0)
            else:
                changes["eax"] = 0
        found.append(replace(entry, **changes))
    return _filter_xsave(found, available(found))


def _masks(model: CpuModel) -> dict[tuple[int, int], dict[str, int]]:
    """What to keep of each register that holds feature flags."""
    from pyhyve.accel.cpu_features import FEATURES  # noqa: PLC0415 - as above

    allowed = model.allowed
    masks: dict[tuple[int, int], dict[str, int]] = {}
    for name, flag in FEATURES.items():
        registers = masks.setdefault((flag.function, flag.index), {})
        mask = registers.setdefault(flag.register, 0xFFFF_FFFF if allowed is None else 0)
        if allowed is None and name in model.removed:
            registers[flag.register] = mask & ~(1 << flag.bit)
        elif allowed is not None and name in allowed:
            registers[flag.register] = mask | 1 << flag.bit
    return masks


def _filter_xsave(entries: list[CpuidEntry], features: frozenset[str]) -> tuple[CpuidEntry, ...]:
    """Leaf 0xD with the state components of `features` only (SDM Vol. 1, 13.2)."""
    if not any(entry.function == 0xD for entry in entries):
        return tuple(entries)
    has_xsave = "xsave" in features
    kept = {bit for bit, name in _XSTATES.items() if bit < 2 or name in features} if has_xsave else set()
    mask = sum(1 << bit for bit in kept)
    areas = [
        entry.eax + entry.ebx for entry in entries if entry.function == 0xD and entry.index >= 2 and entry.index in kept
    ]
    size = max([_XSAVE_LEGACY_BYTES, *areas])
    found = []
    for entry in entries:
        changed = entry
        if entry.function == 0xD:
            is_user_state = entry.index >= 2 and not entry.ecx & _SUPERVISOR_STATE
            if not has_xsave or (is_user_state and entry.index not in kept):
                changed = replace(entry, eax=0, ebx=0, ecx=0, edx=0)
            elif entry.index == 0:
                high = entry.edx & mask >> 32
                changed = replace(entry, eax=entry.eax & mask, ebx=_XSAVE_LEGACY_BYTES, ecx=size, edx=high)
            elif entry.index == 1 and not entry.eax & 8:
                changed = replace(entry, ebx=0, ecx=0, edx=0)
        found.append(changed)
    return tuple(found)


def guest_cpuid(
    supported: Iterable[CpuidEntry], model: CpuModel, index: int, cpu_count: int, *, has_tsc_deadline: bool = False
) -> tuple[CpuidEntry, ...]:
    """CPUID of vCPU `index` of `cpu_count` (one socket, one thread a core) from what KVM supports.

    Raises CpuUnavailableError for a model with features that `supported` lacks.
    """
    entries = [_describe_topology(entry, index, cpu_count) for entry in supported]
    if has_tsc_deadline:
        entries = [replace(e, ecx=e.ecx | _ECX_TSC_DEADLINE) if e.function == 1 else e for e in entries]
    check_model(entries, model, "this host")
    return filter_cpuid(entries, model)


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
