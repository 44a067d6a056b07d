"""``<capabilities>``: what a host offers.

Source: libvirt's documentation, "Driver capabilities XML format".
"""

from __future__ import annotations

from pyhyve.xml.element import NUMBER, Element, attribute, child, child_text, children, element, text

__all__ = ["Arch", "Capabilities", "Guest", "GuestDomain", "GuestMachine", "Host", "HostCpu", "HostCpuFeature"]


@element("feature")
class HostCpuFeature(Element):
    """A feature of the host's CPU beyond its model."""

    name: str = attribute("name", required=True)


@element("cpu")
class HostCpu(Element):
    """The host's CPU."""

    arch: str | None = child_text("arch")
    model: str | None = child_text("model")
    vendor: str | None = child_text("vendor")
    feature: tuple[HostCpuFeature, ...] = children(HostCpuFeature)


@element("host")
class Host(Element):
    """The host."""

    uuid: str | None = child_text("uuid")
    cpu: HostCpu | None = child(HostCpu)


@element("machine")
class GuestMachine(Element):
    """A machine type; ``canonical`` is what an alias stands for."""

    canonical: str | None = attribute("canonical")
    max_cpus: int | None = attribute("maxCpus", NUMBER)
    name: str = text(required=True)


@element("domain")
class GuestDomain(Element):
    """A domain type: qemu or kvm, with machines of its own if it has some."""

    type: str = attribute("type", required=True)
    emulator: str | None = child_text("emulator")
    machine: tuple[GuestMachine, ...] = children(GuestMachine)


@element("arch")
class Arch(Element):
    """A guest architecture."""

    name: str = attribute("name", required=True)
    wordsize: int | None = child_text("wordsize", NUMBER)
    emulator: str | None = child_text("emulator")
    machine: tuple[GuestMachine, ...] = children(GuestMachine)
    domain: tuple[GuestDomain, ...] = children(GuestDomain)


@element("guest")
class Guest(Element):
    """Guests that can run here."""

    os_type: str = child_text("os_type", required=True)
    arch: Arch = child(Arch, required=True)


@element("capabilities")
class Capabilities(Element):
    """Host and guests."""

    host: Host | None = child(Host)
    guest: tuple[Guest, ...] = children(Guest)
