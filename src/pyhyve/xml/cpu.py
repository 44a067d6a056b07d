"""``<cpu>``: the CPU a guest sees.

Source: libvirt's documentation, "Domain XML format", CPU model and topology.
"""

from __future__ import annotations

from pyhyve.xml.document import Node
from pyhyve.xml.element import NUMBER, Element, attribute, child, child_text, children, element, node, text

__all__ = ["Cpu", "CpuFeature", "CpuModel", "CpuTopology"]


@element("model")
class CpuModel(Element):
    """A CPU model's name."""

    fallback: str | None = attribute("fallback")
    vendor_id: str | None = attribute("vendor_id")
    name: str | None = text()


@element("topology")
class CpuTopology(Element):
    """How vCPUs share sockets, dies and cores."""

    sockets: int = attribute("sockets", NUMBER, required=True)
    dies: int | None = attribute("dies", NUMBER)
    cores: int = attribute("cores", NUMBER, required=True)
    threads: int = attribute("threads", NUMBER, required=True)


@element("feature")
class CpuFeature(Element):
    """A CPU feature; ``policy`` is force, require, optional, disable or forbid."""

    policy: str | None = attribute("policy")
    name: str = attribute("name", required=True)


@element("cpu")
class Cpu(Element):
    """The CPU the guest sees; ``mode`` is custom, host-model, host-passthrough or maximum."""

    mode: str | None = attribute("mode")
    match: str | None = attribute("match")
    check: str | None = attribute("check")
    migratable: str | None = attribute("migratable")
    model: CpuModel | None = child(CpuModel)
    vendor: str | None = child_text("vendor")
    topology: CpuTopology | None = child(CpuTopology)
    cache: Node | None = node("cache")
    maxphysaddr: Node | None = node("maxphysaddr")
    feature: tuple[CpuFeature, ...] = children(CpuFeature)
    numa: Node | None = node("numa")
