"""``<cputune>``: which of the host's CPUs run a guest, and how much.

Source: libvirt's documentation, "Domain XML format", CPU tuning.
"""

from __future__ import annotations

from pyhyve.xml.document import Node
from pyhyve.xml.element import INTEGER, NUMBER, Element, attribute, child, child_text, children, element, nodes

__all__ = ["CpuTune", "EmulatorPin", "IothreadPin", "VcpuPin"]


@element("vcpupin")
class VcpuPin(Element):
    """The host CPUs one vCPU may run on."""

    vcpu: int = attribute("vcpu", NUMBER, required=True)
    cpuset: str = attribute("cpuset", required=True)


@element("emulatorpin")
class EmulatorPin(Element):
    """The host CPUs the emulator itself may run on."""

    cpuset: str = attribute("cpuset", required=True)


@element("iothreadpin")
class IothreadPin(Element):
    """The host CPUs one I/O thread may run on."""

    iothread: int = attribute("iothread", NUMBER, required=True)
    cpuset: str = attribute("cpuset", required=True)


@element("cputune")
class CpuTune(Element):
    """Shares, limits (microseconds) and places."""

    shares: int | None = child_text("shares", NUMBER)
    period: int | None = child_text("period", NUMBER)
    quota: int | None = child_text("quota", INTEGER)
    global_period: int | None = child_text("global_period", NUMBER)
    global_quota: int | None = child_text("global_quota", INTEGER)
    emulator_period: int | None = child_text("emulator_period", NUMBER)
    emulator_quota: int | None = child_text("emulator_quota", INTEGER)
    iothread_period: int | None = child_text("iothread_period", NUMBER)
    iothread_quota: int | None = child_text("iothread_quota", INTEGER)
    vcpupin: tuple[VcpuPin, ...] = children(VcpuPin)
    emulatorpin: EmulatorPin | None = child(EmulatorPin)
    iothreadpin: tuple[IothreadPin, ...] = children(IothreadPin)
    vcpusched: tuple[Node, ...] = nodes("vcpusched")
    iothreadsched: tuple[Node, ...] = nodes("iothreadsched")
    emulatorsched: tuple[Node, ...] = nodes("emulatorsched")
    cachetune: tuple[Node, ...] = nodes("cachetune")
    memorytune: tuple[Node, ...] = nodes("memorytune")
