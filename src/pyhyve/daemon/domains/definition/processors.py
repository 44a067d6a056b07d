"""``<vcpus>``: which processors a machine began with, and which were plugged in.

A machine that takes over a state must have begun as the one that gave it: QEMU gives virtio devices queues, and with
them interrupts, by the number of processors at the start. Source: libvirt's documentation, "Domain XML format".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.xml.document import Node
from pyhyve.xml.element import replace

if TYPE_CHECKING:
    from pyhyve.xml.domain import Domain

__all__ = ["at_most", "at_start", "now", "with_plugged"]


def at_most(domain: Domain) -> int:
    """Return how many processors a domain can have."""
    return domain.vcpu.count if domain.vcpu is not None else 1


def now(domain: Domain) -> int:
    """Return how many it has."""
    return (domain.vcpu.current or domain.vcpu.count) if domain.vcpu is not None else 1


def at_start(domain: Domain) -> int:
    """Return how many its machine begins with; the others it has are plugged in before the guest runs."""
    present = now(domain)
    if domain.vcpus is None:
        return present
    attributes = [dict(node.attributes) for node in domain.vcpus.children]
    fixed = sum(1 for each in attributes if each.get("enabled") == "yes" and each.get("hotpluggable") == "no")
    return fixed if 0 < fixed < present else present


def with_plugged(domain: Domain, first: int, present: int) -> Domain:
    """Return a domain that says of each processor whether it is there, and whether it was from the first."""
    nodes = []
    for number in range(at_most(domain)):
        there = number < present
        attributes = [("id", str(number)), ("enabled", "yes" if there else "no")]
        attributes.append(("hotpluggable", "no" if number < first else "yes"))
        if there:
            attributes.append(("order", str(number + 1)))
        nodes.append(Node("vcpu", tuple(attributes)))
    return replace(domain, vcpus=Node("vcpus", children=tuple(nodes)))
