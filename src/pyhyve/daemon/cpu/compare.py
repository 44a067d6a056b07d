"""Does a CPU fit, and what do several have in common."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final

from pyhyve.daemon.cpu.decode import decode
from pyhyve.daemon.cpu.model import ARCHITECTURES, in_order, migratable, models
from pyhyve.daemon.cpu.tables import VENDORS
from pyhyve.daemon.errors import LibvirtError
from pyhyve.rpc.errors import ErrorCode, ErrorDomain
from pyhyve.xml.document import Node, format_node

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from collections.abc import Set as AbstractSet

    from pyhyve.daemon.cpu.definition import CpuDefinition

__all__ = ["Comparison", "baseline", "compare"]


_FOLLOWS_SYSTEM: Final = frozenset({"osxsave", "ospke"})
"""What CPUID shows only once an operating system switched it on: of a host, never asked of a guest."""


class Comparison(IntEnum):
    """How a host's CPU relates to one described (virCPUCompareResult)."""

    INCOMPATIBLE = 0
    IDENTICAL = 1
    SUPERSET = 2


def _misfit(reason: str) -> LibvirtError:
    return LibvirtError(ErrorCode.CPU_INCOMPATIBLE, ErrorDomain.CPU, reason)


def compare(
    features: AbstractSet[str], vendor: str | None, cpu: CpuDefinition, *, arch: str = "x86_64"
) -> Comparison | LibvirtError:
    """Compare a host's features with a CPU; the error says why it does not fit."""
    if cpu.arch is not None and cpu.arch != arch and not (arch == "x86_64" and cpu.arch == "i686" and cpu.guest):
        return _misfit(f"CPU arch {cpu.arch} does not match host arch")
    if cpu.vendor is not None and cpu.vendor != vendor:
        return _misfit(f"host CPU vendor does not match required CPU vendor {cpu.vendor}")
    if forbidden := cpu.with_policy("forbid") & features:
        return _misfit(f"Host CPU provides forbidden features: {', '.join(in_order(forbidden))}")
    wanted = cpu.required() - cpu.with_policy("force")
    if missing := wanted - features:
        return _misfit(f"Host CPU does not provide required features: {', '.join(in_order(missing))}")
    more = features - wanted - cpu.with_policy("force", "optional", "disable", "forbid")
    if not more:
        return Comparison.IDENTICAL
    if cpu.guest and cpu.match == "strict":
        return _misfit(f"Host CPU does not strictly match guest CPU: Extra features: {', '.join(in_order(more))}")
    return Comparison.SUPERSET


def baseline(
    cpus: Sequence[CpuDefinition],
    *,
    expand: bool = False,
    only_migratable: bool = False,
    allowed: Collection[str] | None = None,
    available: AbstractSet[str] | None = None,
    exact: bool = False,
) -> str:
    """Return the ``<cpu>`` of what all have. Raises LibvirtError where that is nothing.

    ``allowed``: names of models to choose among; ``available``: features that can be had; ``exact``: no
    other model may be taken instead.
    """
    for cpu in cpus:
        if cpu.model is None:
            detail = "no CPU model specified" if cpu.mode == "custom" else f"unsupported CPU mode: {cpu.mode}"
            raise LibvirtError(ErrorCode.INVALID_ARG, ErrorDomain.CPU, detail)
        if cpu.arch is not None and cpu.arch not in ARCHITECTURES:
            detail = f"cannot compute baseline CPU of {cpu.arch} architecture"
            raise LibvirtError(ErrorCode.NO_SUPPORT, ErrorDomain.CPU, detail)
    vendor = _common_vendor(cpus)
    common = set.intersection(*(cpu.required() for cpu in cpus)) - _FOLLOWS_SYSTEM
    if available is not None:
        # As libvirt does: what a model brings is taken away where it cannot be had; what was asked for by name stays.
        of_models = set[str]().union(*(models[cpu.model or ""].features for cpu in cpus))
        common -= of_models - available
    if not common:
        detail = "CPUs are incompatible"
        raise LibvirtError(ErrorCode.OPERATION_FAILED, ErrorDomain.CPU, detail)
    if only_migratable:
        common = {name for name in common if migratable(name)}
    names = {cpu.model for cpu in cpus}
    same_model = next(iter(names)) if len(names) == 1 else None
    found = decode(common, vendor=vendor, allowed=allowed, preferred=same_model)
    if found is None:
        detail = "Cannot find suitable CPU model for given data"
        raise LibvirtError(ErrorCode.INTERNAL_ERROR, ErrorDomain.CPU, detail)
    # A model that was asked for by name must be had; one that was found may be replaced by another.
    fallback = "forbid" if exact or found.model.name == same_model else "allow"
    children = [Node("model", (("fallback", fallback),), found.model.name)]
    if vendor is not None and all(cpu.vendor is not None for cpu in cpus):
        children.append(Node("vendor", (), vendor))
    policies = dict.fromkeys(found.more, "require") | dict.fromkeys(found.less, "disable")
    if expand:
        kept = dict.fromkeys(found.model.features, "require")
        policies = dict(sorted((kept | policies).items()))
    children.extend(Node("feature", (("policy", policy), ("name", name))) for name, policy in policies.items())
    return format_node(Node("cpu", (("mode", "custom"), ("match", "exact")), children=tuple(children)))


def _common_vendor(cpus: Sequence[CpuDefinition]) -> str | None:
    """Return the vendor of all: what each says, else (but for the first) what its model implies."""
    vendor = cpus[0].vendor
    if vendor is not None and vendor not in VENDORS:
        detail = f"Unknown CPU vendor {vendor}"
        raise LibvirtError(ErrorCode.INTERNAL_ERROR, ErrorDomain.CPU, detail)
    for cpu in cpus[1:]:
        implied = models[cpu.model or ""].vendor
        if cpu.vendor is not None and implied is not None and cpu.vendor != implied:
            detail = f"CPU vendor {implied} of model {cpu.model} differs from vendor {cpu.vendor}"
            raise LibvirtError(ErrorCode.OPERATION_FAILED, ErrorDomain.CPU, detail)
        own = cpu.vendor or implied
        if own is not None and vendor not in {None, own}:
            detail = "CPU vendors do not match"
            raise LibvirtError(ErrorCode.OPERATION_FAILED, ErrorDomain.CPU, detail)
        vendor = own or vendor
    return vendor
