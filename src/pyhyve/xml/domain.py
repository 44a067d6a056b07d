"""``<domain>``: the definition of a machine.

Source: libvirt's documentation, "Domain XML format".
"""

from __future__ import annotations

from pyhyve.xml.cpu import Cpu, CpuFeature, CpuModel, CpuTopology
from pyhyve.xml.devices import Devices
from pyhyve.xml.document import Node, XmlError
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
    node,
    nodes,
    text,
)
from pyhyve.xml.quantities import scaled_kib
from pyhyve.xml.tuning import CpuTune, EmulatorPin, VcpuPin

__all__ = [
    "Boot",
    "BootMenu",
    "Clock",
    "Cpu",
    "CpuFeature",
    "CpuModel",
    "CpuTopology",
    "CpuTune",
    "CurrentMemory",
    "Domain",
    "EmulatorPin",
    "Features",
    "Genid",
    "MaxMemory",
    "Memory",
    "Os",
    "OsType",
    "Pm",
    "PmState",
    "Timer",
    "Vcpu",
    "VcpuPin",
]


class _Quantity(Element):
    """A quantity of memory with its unit."""

    amount: int
    unit: str | None

    @property
    def kib(self) -> int:
        """The quantity in KiB, rounded up. Raises XmlError for an unknown unit."""
        return scaled_kib(self.amount, self.unit)


@element("genid")
class Genid(Element):
    """A number that changes when the guest's time forks."""

    uuid: str | None = text()


@element("maxMemory")
class MaxMemory(_Quantity):
    """Memory with everything plugged in."""

    slots: int | None = attribute("slots", NUMBER)
    unit: str | None = attribute("unit")
    amount: int = text(NUMBER, required=True)


@element("memory")
class Memory(_Quantity):
    """Memory at most."""

    dump_core: str | None = attribute("dumpCore")
    unit: str | None = attribute("unit")
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
    firmware_features: Node | None = node("firmware")
    init: Node | None = node("init")
    loader: Node | None = node("loader")
    nvram: Node | None = node("nvram")
    kernel: str | None = child_text("kernel")
    initrd: str | None = child_text("initrd")
    cmdline: str | None = child_text("cmdline")
    dtb: str | None = child_text("dtb")
    acpi: Node | None = node("acpi")
    boot: tuple[Boot, ...] = children(Boot)
    bootmenu: BootMenu | None = child(BootMenu)
    bios: Node | None = node("bios")
    smbios: Node | None = node("smbios")


@element("features")
class Features(Element):
    """What the machine has or lacks."""

    acpi: Node | None = node("acpi")
    apic: Node | None = node("apic")
    pae: Node | None = node("pae")
    hap: Node | None = node("hap")
    viridian: Node | None = node("viridian")
    privnet: Node | None = node("privnet")
    hyperv: Node | None = node("hyperv")
    kvm: Node | None = node("kvm")
    pvspinlock: Node | None = node("pvspinlock")
    pmu: Node | None = node("pmu")
    vmport: Node | None = node("vmport")
    gic: Node | None = node("gic")
    smm: Node | None = node("smm")
    ioapic: Node | None = node("ioapic")
    msrs: Node | None = node("msrs")
    vmcoreinfo: Node | None = node("vmcoreinfo")


@element("timer")
class Timer(Element):
    """A clock source of the guest."""

    name: str = attribute("name", required=True)
    present: str | None = attribute("present")
    tickpolicy: str | None = attribute("tickpolicy")
    track: str | None = attribute("track")
    frequency: str | None = attribute("frequency")
    mode: str | None = attribute("mode")
    catchup: Node | None = node("catchup")


@element("clock")
class Clock(Element):
    """What the guest's clock shows: utc, localtime, timezone, variable or absolute."""

    offset: str | None = attribute("offset")
    adjustment: str | None = attribute("adjustment")
    basis: str | None = attribute("basis")
    timezone: str | None = attribute("timezone")
    start: str | None = attribute("start")
    timer: tuple[Timer, ...] = children(Timer)


class PmState(Element):
    """Whether a power state exists."""

    enabled: str | None


@element("suspend-to-mem")
class _SuspendToMem(PmState):
    enabled: str | None = attribute("enabled")


@element("suspend-to-disk")
class _SuspendToDisk(PmState):
    enabled: str | None = attribute("enabled")


@element("pm")
class Pm(Element):
    """Power states the firmware offers."""

    suspend_to_mem: PmState | None = child(_SuspendToMem)
    suspend_to_disk: PmState | None = child(_SuspendToDisk)


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
    xmlns_qemu: str | None = attribute("xmlns:qemu")
    name: str = child_text("name", NAME, required=True)
    uuid: str | None = child_text("uuid")
    genid: Genid | None = child(Genid)
    title: str | None = child_text("title")
    description: str | None = child_text("description")
    metadata: Node | None = node("metadata")
    max_memory: MaxMemory | None = child(MaxMemory)
    memory: Memory = child(Memory, required=True)
    current_memory: CurrentMemory | None = child(CurrentMemory)
    blkiotune: Node | None = node("blkiotune")
    memtune: Node | None = node("memtune")
    memory_backing: Node | None = node("memoryBacking")
    vcpu: Vcpu | None = child(Vcpu)
    vcpus: Node | None = node("vcpus")
    iothreads: int | None = child_text("iothreads", NUMBER)
    iothreadids: Node | None = node("iothreadids")
    cputune: CpuTune | None = child(CpuTune)
    numatune: Node | None = node("numatune")
    resource: Node | None = node("resource")
    sysinfo: tuple[Node, ...] = nodes("sysinfo")
    os: Os = child(Os, required=True)
    features: Features | None = child(Features)
    cpu: Cpu | None = child(Cpu)
    clock: Clock | None = child(Clock)
    on_poweroff: str | None = child_text("on_poweroff")
    on_reboot: str | None = child_text("on_reboot")
    on_crash: str | None = child_text("on_crash")
    on_lockfailure: str | None = child_text("on_lockfailure")
    pm: Pm | None = child(Pm)
    perf: Node | None = node("perf")
    devices: Devices | None = child(Devices)
    seclabel: tuple[Node, ...] = nodes("seclabel")
    launch_security: Node | None = node("launchSecurity")
    qemu_commandline: Node | None = node("qemu:commandline")
    qemu_capabilities: Node | None = node("qemu:capabilities")

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
