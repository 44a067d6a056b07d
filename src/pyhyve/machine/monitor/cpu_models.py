"""Processor models and their features by QEMU's names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.accel.cpu_features import FEATURES, canonical
from pyhyve.accel.cpu_models import MODEL_NAMES, CpuModel, available, filter_cpuid
from pyhyve.machine.monitor.errors import QmpError

if TYPE_CHECKING:
    from pyhyve.kvm.cpuid import CpuidEntry

_KVM_ONLY = "host"
_OPTIONAL = {"vme", "fpu"}
_SHOWN = {"sse4-1": "sse4.1", "sse4-2": "sse4.2"}
"""Names that QEMU writes otherwise than the table of features."""
FEATURE_NAMES = tuple(_SHOWN.get(name, name) for name in FEATURES)


def _supported(*, has_kvm: bool) -> tuple[CpuidEntry, ...]:
    """What the accelerator offers."""
    if has_kvm:
        from pyhyve.kvm.system import KvmSystem  # noqa: PLC0415 - only with KVM

        with KvmSystem() as system:
            return system.supported_cpuid()
    from pyhyve.cpu.isa.x86 import cpuid  # noqa: PLC0415 - takes long to load
    from pyhyve.kvm.cpuid import CpuidEntry  # noqa: PLC0415 - few clients ask

    rows = cpuid.rows(0, cpuid.CRYSTAL_HZ)
    return tuple(CpuidEntry(row[0], 0 if row[1] == cpuid.ANY_SUBLEAF else row[1], 0, *row[2:]) for row in rows)


def features(model: CpuModel, *, has_kvm: bool) -> dict[str, bool]:
    """All features by name, and whether a processor of this model has them."""
    have = available(filter_cpuid(_supported(has_kvm=has_kvm), model))
    return {_SHOWN.get(name, name): name in have for name in FEATURES}


def describe(*, has_kvm: bool) -> list[dict[str, Any]]:
    """`CpuDefinitionInfo` of each model."""
    have = available(_supported(has_kvm=has_kvm))
    described = []
    for name in MODEL_NAMES:
        missing = sorted(CpuModel(name).wanted - have - _OPTIONAL)
        if name == _KVM_ONLY and not has_kvm:
            missing = ["kvm"]
        described.append({
            "name": name,
            "typename": f"{name}-x86_64-cpu",
            "unavailable-features": [_SHOWN.get(feature, feature) for feature in missing],
            "static": False,
            "migration-safe": CpuModel(name).allowed is not None,
            "deprecated": False,
        })  # fmt: skip
    return described


def expand(model: dict[str, Any], *, full: bool, has_kvm: bool) -> dict[str, Any]:
    """`CpuModelInfo` with the features of a model; a static expansion is of the model `base`. Raises QmpError."""
    name, props = str(model["name"]), model.get("props", {})
    if not isinstance(props, dict):
        msg = "Invalid parameter type for 'model.props', expected: object"
        raise QmpError(msg)
    if name == "base":
        return {"name": "base", "props": {**dict.fromkeys(FEATURE_NAMES, False), **props}}
    if name not in MODEL_NAMES:
        msg = f"CPU model '{name}' not found"
        raise QmpError(msg)
    if name == _KVM_ONLY and not has_kvm:
        msg = "CPU model 'host' requires KVM or HVF"
        raise QmpError(msg)
    found = features(CpuModel(name), has_kvm=has_kvm)
    for key, value in props.items():
        feature = canonical(key)
        shown = _SHOWN.get(feature or "", feature or "")
        if shown in found and value is False:
            found[shown] = False
    return {"name": name if full else "base", "props": found}
