"""Snapshots that would put a node on top of itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.fuzz.qmp.bench import Bench, create_image, workplace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with workplace(tmp_path):
        made = Bench()
        for name in ("a", "b"):
            create_image(f"{name}.qcow2", "qcow2", 1 << 20)
            file = {"driver": "file", "filename": f"{name}.qcow2"}
            assert "return" in ask(made, "blockdev-add", {"driver": "qcow2", "node-name": name, "file": file})
        yield made
        made.close()


def ask(bench: Bench, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
    bench.sent.clear()
    bench.session.receive(json.dumps({"execute": command, "arguments": arguments}).encode())
    reply: dict[str, Any] = json.loads(bench.sent[-1])
    bench.sent.clear()
    return reply


def snapshot(node: str, overlay: str) -> dict[str, Any]:
    return {"type": "blockdev-snapshot", "data": {"node": node, "overlay": overlay}}


def test_a_node_is_not_its_own_overlay(bench: Bench) -> None:
    reply = ask(bench, "blockdev-snapshot", {"node": "a", "overlay": "a"})
    assert reply["error"]["desc"] == "Making 'a' a backing child of 'a' would create a cycle"
    assert "return" in ask(bench, "query-named-block-nodes", {})


def test_two_actions_do_not_put_nodes_on_each_other(bench: Bench) -> None:
    reply = ask(bench, "transaction", {"actions": [snapshot("a", "b"), snapshot("b", "a")]})
    assert reply["error"]["desc"] == "The overlay 'a' is already in use"
    assert "return" in ask(bench, "query-named-block-nodes", {})
    # Nothing was kept of the refused transaction: the other way round goes.
    assert "return" in ask(bench, "blockdev-snapshot", {"node": "b", "overlay": "a"})
