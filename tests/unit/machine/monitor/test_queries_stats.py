"""Statistics of KVM, as QEMU's queries tell them."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from pyhyve.kvm.ioctls import KvmError
from pyhyve.kvm.stats import Statistic
from pyhyve.machine.monitor.queries_stats import describe_schemas, describe_values

if TYPE_CHECKING:
    from collections.abc import Callable

STATISTICS = [
    Statistic("exits", "cumulative", None, 10, 0, 0, 1, 0),
    Statistic("wait", "log2-histogram", "seconds", 10, -9, 0, 3, 8),
    Statistic("steps", "linear-histogram", None, 10, 0, 5, 2, 32),
    Statistic("blocking", "instant", "boolean", 10, 0, 0, 1, 48),
]


class Engine:
    def statistics(self, index: int | None) -> Any:
        base = 100 if index is None else index
        values = [(base,), (1, 2, 3), (4, 5), (1,)]
        return SimpleNamespace(statistics=STATISTICS, values=lambda: values)


class OldEngine:
    def statistics(self, index: int | None) -> Any:
        raise KvmError(25, f"KVM_GET_STATS_FD: no statistics of {index}")


def machine(engine: object) -> Any:
    def inspect(work: Callable[[], None]) -> threading.Event:
        work()
        return done

    done = threading.Event()
    done.set()
    parts = SimpleNamespace(vm=engine, runners=[None, None])
    return SimpleNamespace(parts=parts, started=done, inspect=inspect)


def test_values_of_the_machine() -> None:
    (result,) = describe_values(machine(Engine()), {"target": "vm"})
    assert result["provider"] == "kvm"
    assert result["stats"] == [
        {"name": "exits", "value": 100},
        {"name": "wait", "value": [1, 2, 3]},
        {"name": "steps", "value": [4, 5]},
        {"name": "blocking", "value": True},
    ]


def test_values_of_one_processor_by_name() -> None:
    path = "/machine/unattached/device[1]"
    asked = {"target": "vcpu", "vcpus": [path], "providers": [{"provider": "kvm", "names": ["exits", "none"]}]}
    assert describe_values(machine(Engine()), asked) == [
        {"qom-path": path, "provider": "kvm", "stats": [{"name": "exits", "value": 1}]}
    ]


def test_all_processors_are_told_of() -> None:
    results = describe_values(machine(Engine()), {"target": "vcpu"})
    assert [result["stats"][0]["value"] for result in results] == [0, 1]


def test_schemas_say_what_values_mean() -> None:
    vm, vcpu = describe_schemas(machine(Engine()), None)
    assert (vm["target"], vcpu["target"]) == ("vm", "vcpu")
    assert vm["stats"] == [
        {"name": "exits", "type": "cumulative", "exponent": 0},
        {"name": "wait", "type": "log2-histogram", "exponent": -9, "unit": "seconds", "base": 10},
        {"name": "steps", "type": "linear-histogram", "exponent": 0, "bucket-size": 5},
        {"name": "blocking", "type": "instant", "exponent": 0, "unit": "boolean"},
    ]


@pytest.mark.parametrize("engine", [object(), OldEngine()], ids=["emulator", "old kernel"])
def test_engine_that_counts_nothing(engine: object) -> None:
    assert describe_values(machine(engine), {"target": "vm"}) == []
    assert describe_schemas(machine(engine), "kvm") == []
