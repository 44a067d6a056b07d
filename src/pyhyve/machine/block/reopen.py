"""`blockdev-reopen`: whether nodes can be written, and what is below them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.machine.block.attach import drained
from pyhyve.machine.block.copying import relink
from pyhyve.machine.block.errors import ChangeError

if TYPE_CHECKING:
    from pyhyve.machine.block.node import BlockNode
    from pyhyve.machine.block.services import BlockServices

_CHANGEABLE = {"read-only", "auto-read-only", "backing", "discard", "node-name", "driver", "file", "cache"}


def reopen(services: BlockServices, options: list[dict[str, Any]]) -> None:
    """Open nodes again with new options. Raises ChangeError; nodes before the one that failed keep theirs."""
    for wanted in options:
        name = wanted.get("node-name")
        if name is None:
            msg = "node-name not specified"
            raise ChangeError(msg)
        node = services.graph.find(str(name))
        if node is None:
            msg = f"Failed to find node with node-name='{name}'"
            raise ChangeError(msg)
        _reopen(services, node, wanted)


def _reopen(services: BlockServices, node: BlockNode, wanted: dict[str, Any]) -> None:
    for key in {*wanted, *node.options} - _CHANGEABLE:
        if wanted.get(key) != node.options.get(key):
            msg = f"Cannot change the option '{key}'"
            raise ChangeError(msg)
    if wanted["driver"] != node.driver:
        msg = "Cannot change the option 'driver'"
        raise ChangeError(msg)
    readonly = bool(wanted.get("read-only", False))
    if not node.is_protocol and readonly != node.need_image().readonly:
        services.graph.change_access(node, services.above(node), writable=not readonly)
    backing = wanted.get("backing", node.options.get("backing"))
    if not node.is_protocol and (backing is None or isinstance(backing, str)) and "backing" in wanted:
        below = None if backing is None else services.graph.need(backing)
        with drained(services.above(node)):
            relink(services, node, below)
    node.options = {**node.options, **wanted}
