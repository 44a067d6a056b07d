"""Parts of a document that are kept as they are, put into the form libvirt writes them in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyhyve.xml.document import Node
from pyhyve.xml.element import replace
from pyhyve.xml.quantities import scaled_kib

if TYPE_CHECKING:
    from pyhyve.xml.domain import Domain

__all__ = ["normalize_nodes"]

_QUANTITIES: Final = frozenset({"hard_limit", "soft_limit", "swap_hard_limit", "min_guarantee"})


def normalize_nodes(domain: Domain) -> Domain:
    """Return a domain whose kept parts are as libvirt writes them."""
    memtune = domain.memtune
    if memtune is not None:
        memtune = replace(memtune, children=tuple(_kib(inner) for inner in memtune.children))
    features = domain.features
    if features is not None and features.hyperv is not None and not dict(features.hyperv.attributes).get("mode"):
        attributes = (("mode", "custom"), *features.hyperv.attributes)
        features = replace(features, hyperv=replace(features.hyperv, attributes=attributes))
    cpu = domain.cpu
    if cpu is not None and cpu.numa is not None:
        cells = tuple(_cell(inner, number) for number, inner in enumerate(cpu.numa.children))
        cpu = replace(cpu, numa=replace(cpu.numa, children=cells))
    seclabel = tuple(
        Node("seclabel", (("type", "none"), ("model", "none"))) if dict(item.attributes).get("type") == "none" else item
        for item in domain.seclabel
    )
    return replace(domain, memtune=memtune, features=features, cpu=cpu, seclabel=seclabel)


def _kib(node: Node) -> Node:
    if node.name not in _QUANTITIES or not node.text.strip().isdecimal():
        return node
    amount = scaled_kib(int(node.text.strip()), dict(node.attributes).get("unit"))
    return Node(node.name, (("unit", "KiB"),), str(amount))


def _cell(node: Node, number: int) -> Node:
    held = dict(node.attributes)
    if node.name != "cell" or not held.get("memory", "").isdecimal():
        return node
    amount = scaled_kib(int(held["memory"]), held.get("unit"))
    written = {"id": held.get("id", str(number)), "cpus": held.get("cpus"), "memory": str(amount), "unit": "KiB"}
    rest = {name: value for name, value in held.items() if name not in written}
    attributes = tuple((name, value) for name, value in {**written, **rest}.items() if value is not None)
    return replace(node, attributes=attributes)
