"""What the queries of statistics tell: those of KVM, by QEMU's names."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pyhyve.machine.monitor.errors import QmpError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.kvm.stats import StatisticsFile
    from pyhyve.machine.machine import Machine

PROVIDER = "kvm"
_INSPECT_TIMEOUT_S = 10.0


@runtime_checkable
class _KeepsStatistics(Protocol):
    """An engine that counts."""

    def statistics(self, index: int | None) -> StatisticsFile:
        """Those of a vCPU, or of the VM; no vCPU may run the first time."""


def _file(machine: Machine, index: int | None) -> StatisticsFile | None:
    """The statistics; None when the engine or the kernel has none. Raises QmpError."""
    vm = machine.parts.vm
    if not isinstance(vm, _KeepsStatistics):
        return None
    found: list[StatisticsFile | None] = []

    def look(open_file: Callable[[], StatisticsFile]) -> None:
        try:
            found.append(open_file())
        except OSError:
            found.append(None)

    machine.started.wait(_INSPECT_TIMEOUT_S)
    machine.inspect(functools.partial(look, functools.partial(vm.statistics, index))).wait(_INSPECT_TIMEOUT_S)
    if not found:
        msg = "the machine does not stop"
        raise QmpError(msg)
    return found[0]


def describe_schemas(machine: Machine, provider: str | None) -> list[dict[str, Any]]:
    """`StatsSchema` of each target."""
    schemas = []
    for target, index in (("vm", None), ("vcpu", 0)):
        file = _file(machine, index) if provider in {None, PROVIDER} else None
        if file is not None:
            schemas.append({"provider": PROVIDER, "target": target, "stats": [_schema(one) for one in file.statistics]})
    return schemas


def _schema(statistic: Any) -> dict[str, Any]:  # noqa: ANN401 - loaded only with KVM
    value: dict[str, Any] = {"name": statistic.name, "type": statistic.type, "exponent": statistic.exponent}
    if statistic.unit is not None:
        value["unit"] = statistic.unit
    if statistic.exponent:
        value["base"] = statistic.base
    if statistic.type == "linear-histogram":
        value["bucket-size"] = statistic.bucket_size
    return value


def describe_values(machine: Machine, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """`StatsResult` of the VM, or of each vCPU that is asked for."""
    names: set[str] | None = None
    if "providers" in arguments:
        asked = [request for request in arguments["providers"] if request["provider"] == PROVIDER]
        if not asked:
            return []
        if all("names" in request for request in asked):
            names = {name for request in asked for name in request["names"]}
    if arguments["target"] == "vm":
        return _result(machine, None, names)
    wanted = arguments.get("vcpus")
    results = []
    for index in range(len(machine.parts.runners)):
        path = f"/machine/unattached/device[{index}]"
        if wanted is None or path in wanted:
            results += [{"qom-path": path, **entry} for entry in _result(machine, index, names)]
    return results


def _result(machine: Machine, index: int | None, names: set[str] | None) -> list[dict[str, Any]]:
    file = _file(machine, index)
    if file is None:
        return []
    stats = [
        {"name": statistic.name, "value": _value(statistic, values)}
        for statistic, values in zip(file.statistics, file.values(), strict=True)
        if names is None or statistic.name in names
    ]
    return [{"provider": PROVIDER, "stats": stats}] if stats else []


def _value(statistic: Any, values: tuple[int, ...]) -> bool | int | list[int]:  # noqa: ANN401 - as `_schema`
    if len(values) != 1:
        return list(values)
    return bool(values[0]) if statistic.unit == "boolean" else values[0]
