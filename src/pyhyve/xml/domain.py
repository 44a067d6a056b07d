"""``<domain>``: the definition of a machine.

Source: libvirt's documentation, "Domain XML format".
"""

from __future__ import annotations

from pyhyve.xml.devices import Devices
from pyhyve.xml.document import XmlError
from pyhyve.xml.element import (
    INTEGER,
    NUMBER,
    YES_NO,
    Converter,
    Element,
    attribute,
    child,
    child_text,
    children,
    element,
    text,
)
from pyhyve.xml.quantities import scaled_kib

__all__ = [
    "Boot",
    "BootMenu",
    "Clock",
    "Cpu",
    "CpuFeature",
    "CpuModel",
    "CpuTopology",
    "CurrentMemory",
    "Domain",
    "Memory",
    "Os",
    "OsType",
    "Vcpu",
]


class _Quantity(Element):
    """A quantity of memory with its unit."""

    amount: int
    unit: str | None

    @property
    def kib(self) -> int:
        """The quantity in KiB, rounded up. Raises XmlError for an unknown unit."""
        return scaled_kib(self.amount, self.unit)


@element("memory")
class Memory(_Quantity):
    """Memory at most."""

    unit: str | None = attribute("unit")
    dump_core: str | None = attribute("dumpCore")
    amount: int = text(NUMBER, required=True)


@element("currentMemory")
class CurrentMemory(_Quantity):
    """Memory the guest has at the start."""

    unit: str | None = attribute("unit")
    amount: int = text(NUMBER, required=True)


@element("vcpu")
class Vcpu(Element):
    """Number of vCPUs at most, and at the start."""

    placement: str | None = attribute("placement")
    cpuset: str | None = attribute("cpuset")
    current: int | None = attribute("current", NUMBER)
    count: int = text(NUMBER, required=True)


@element("type")
class OsType(Element):
    """How the guest boots ("hvm"), on which machine."""

    arch: str | None = attribute("arch")
    machine: str | None = attribute("machine")
    type: str = text(required=True)


@element("boot")
class Boot(Element):
    """A device to boot from: hd, cdrom, network or fd."""

    dev: str = attribute("dev", required=True)


@element("bootmenu")
class BootMenu(Element):
    """Whether the firmware asks what to boot."""

    enable: bool | None = attribute("enable", YES_NO)
    timeout: int | None = attribute("timeout", NUMBER)


@element("os")
class Os(Element):
    """What is booted: firmware and a device, or a kernel."""

    firmware: str | None = attribute("firmware")
    type: OsType = child(OsType, required=True)
    kernel: str | None = child_text("kernel")
    initrd: str | None = child_text("initrd")
    cmdline: str | None = child_text("cmdline")
    boot: tuple[Boot, ...] = children(Boot)
    bootmenu: BootMenu | None = child(BootMenu)


@element("model")
class CpuModel(Element):
    """A CPU model's name."""

    fallback: str | None = attribute("fallback")
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
    topology: CpuTopology | None = child(CpuTopology)
    feature: tuple[CpuFeature, ...] = children(CpuFeature)


@element("clock")
class Clock(Element):
    """What the guest's clock shows: utc, localtime, timezone, variable or absolute."""

    offset: str | None = attribute("offset")


def _name(written: str) -> str:
    if not written.strip() or "/" in written or "\n" in written:
        raise ValueError
    return written


NAME = Converter(_name, str, "a name (not empty, no slash, one line)")


@element("domain")
class Domain(Element):
    """A domain. ``type`` is kvm or qemu; ``id`` is there while it runs."""

    type: str = attribute("type", required=True)
    id: int | None = attribute("id", INTEGER)
    name: str = child_text("name", NAME, required=True)
    uuid: str | None = child_text("uuid")
    title: str | None = child_text("title")
    description: str | None = child_text("description")
    memory: Memory = child(Memory, required=True)
    current_memory: CurrentMemory | None = child(CurrentMemory)
    vcpu: Vcpu | None = child(Vcpu)
    os: Os = child(Os, required=True)
    cpu: Cpu | None = child(Cpu)
    clock: Clock | None = child(Clock)
    on_poweroff: str | None = child_text("on_poweroff")
    on_reboot: str | None = child_text("on_reboot")
    on_crash: str | None = child_text("on_crash")
    devices: Devices | None = child(Devices)

    @property
    def memory_kib(self) -> int:
        """Memory at most, in KiB."""
        return self.memory.kib

    @property
    def current_memory_kib(self) -> int:
        """Memory at the start, in KiB: the most, where nothing else is said. Raises XmlError where it is more."""
        current = self.memory.kib if self.current_memory is None else self.current_memory.kib
        if current > self.memory.kib:
            msg = f"domain: currentMemory of {current} KiB exceeds memory of {self.memory.kib} KiB"
            raise XmlError(msg)
        return current
