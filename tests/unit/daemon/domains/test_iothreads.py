"""In what order limits of an I/O thread's helpers are changed."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from pyhyve.daemon.domains import iothreads
from pyhyve.daemon.domains.states import Affect
from pyhyve.rpc.values import ParamType, TypedParam


@pytest.mark.parametrize(
    ("before", "given", "first"),
    [
        ((0, 64), (70, 80), "thread-pool-max"),
        ((70, 80), (1, 2), "thread-pool-min"),
        ((1, 8), (8, 9), "thread-pool-min"),
    ],
)
def test_least_is_never_above_the_most(
    monkeypatch: pytest.MonkeyPatch, before: tuple[int, int], given: tuple[int, int], first: str
) -> None:
    least, most = before
    asked: list[str] = []

    async def monitor(_command: str, arguments: dict[str, Any]) -> None:
        nonlocal least, most
        asked.append(arguments["property"])
        if arguments["property"] == "thread-pool-min":
            least = arguments["value"]
        else:
            most = arguments["value"]
        assert least <= most

    async def change(*_arguments: object) -> None:
        pass

    monkeypatch.setattr(iothreads, "numbers_of", lambda _held: [1])
    monkeypatch.setattr(iothreads, "pool_of", lambda _held, _number: dict(zip(iothreads.POOL, before, strict=True)))
    monkeypatch.setattr(iothreads.definitions, "change", change)
    domain: Any = SimpleNamespace(
        affected=lambda _flags: Affect.LIVE, definitions_affected=lambda _affect: [None], current=None, monitor=monitor
    )
    values = dict(zip(iothreads.POOL, given, strict=True))
    for names in (iothreads.POOL, iothreads.POOL[::-1]):
        least, most = before
        asked.clear()
        params = [TypedParam(name, ParamType.UINT, values[name]) for name in names]
        asyncio.run(iothreads.set_parameters(domain, 1, params, 1))
        assert (asked[0], least, most) == (first, *given)
