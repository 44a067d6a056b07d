"""Filling in what a document leaves open, as libvirt does when a domain is defined.

Each step takes a domain and returns one with more in it; their order is libvirt's, since later ones build on earlier.
"""

from __future__ import annotations

import secrets
import uuid
from dataclasses import dataclass
from typing import Any, Final

from pyhyve.daemon.domains.definition.characters import complete_characters
from pyhyve.daemon.domains.definition.controllers import add_controllers, group_controllers
from pyhyve.daemon.domains.definition.cpusets import normalize_cpuset
from pyhyve.daemon.domains.definition.disks import complete_disks
from pyhyve.daemon.domains.definition.displays import complete_displays
from pyhyve.daemon.domains.definition.nodes import normalize_nodes
from pyhyve.daemon.domains.definition.parse import parse_domain
from pyhyve.daemon.domains.definition.pci import assign_pci
from pyhyve.daemon.domains.definition.usb import assign_usb
from pyhyve.daemon.domains.definition.validate import validate_domain
from pyhyve.daemon.domains.emulators import HOST_ARCHITECTURE, Emulator, Emulators, MachineType
from pyhyve.daemon.domains.faults import unsupported, xml_error
from pyhyve.daemon.networks import bandwidth
from pyhyve.rpc.errors import ErrorDomain
from pyhyve.xml.cpu import Cpu, CpuModel
from pyhyve.xml.devices import Devices, Input, MemBalloon, RngBackend
from pyhyve.xml.domain import (
    Boot,
    Clock,
    CurrentMemory,
    Domain,
    Genid,
    MaxMemory,
    Memory,
    Vcpu,
)
from pyhyve.xml.element import replace
from pyhyve.xml.interface import Interface, InterfaceModel, Mac

__all__ = ["Context", "complete_basics", "complete_domain", "complete_interface", "define", "random_mac"]

_MEMORY_MAX_KIB: Final = 1 << 53


@dataclass(frozen=True, slots=True)
class Context:
    """What a definition is completed for: its emulator, and the machine type of it that was chosen."""

    emulator: Emulator
    machine: MachineType

    @property
    def pcie(self) -> bool:
        """Whether the machine's root bus is PCI Express."""
        return "q35" in self.machine.canonical

    @property
    def i440fx(self) -> bool:
        """Whether the machine is a PC with a PCI root bus."""
        return "i440fx" in self.machine.canonical or self.machine.canonical == "pc"


def define(text: str, emulators: Emulators, *, validate: bool = False) -> tuple[Domain, Context]:
    """Parse a document and make it whole. Raises LibvirtError. Blocks where an emulator has to be asked."""
    return complete_domain(parse_domain(text, validate=validate), emulators)


def complete_domain(domain: Domain, emulators: Emulators) -> tuple[Domain, Context]:
    """Return a domain with everything filled in, and what it was completed for. Raises LibvirtError."""
    domain, context = _choose_emulator(domain, emulators)
    domain = _boot(_cpu(complete_basics(domain), context), context)
    domain = normalize_nodes(domain)
    devices = domain.devices or Devices()
    devices = replace(
        devices,
        interface=tuple(complete_interface(item, context.emulator) for item in devices.interface),
        filesystem=tuple(replace(item, accessmode=item.accessmode or "passthrough") for item in devices.filesystem),
    )
    devices = complete_disks(devices)
    devices = complete_characters(devices)
    devices = _inputs(devices)
    devices = complete_displays(devices, context.emulator)
    devices = _small_devices(devices, context.emulator)
    devices = add_controllers(devices, pcie=context.pcie, emulator=context.emulator)
    domain = replace(domain, devices=devices)
    validate_domain(domain, context.emulator, context.machine)
    devices = assign_usb(devices)
    devices = assign_pci(devices, pcie=context.pcie, i440fx=context.i440fx)
    domain = replace(domain, devices=replace(devices, controller=group_controllers(devices.controller)))
    return domain, context


def complete_basics(domain: Domain) -> Domain:
    """Return a domain with what each has, whatever runs it. Raises LibvirtError."""
    for step in (_basics, _memory, _vcpus):
        domain = step(domain)
    return domain


def _choose_emulator(domain: Domain, emulators: Emulators) -> tuple[Domain, Context]:
    architecture = domain.os.type.arch or HOST_ARCHITECTURE
    devices = domain.devices or Devices()
    path = devices.emulator or emulators.default_path(architecture, domain.type)
    if path is None:
        raise unsupported(f"No emulator found for arch '{architecture}'", ErrorDomain.QEMU)
    emulator = emulators.probed(path)
    if domain.type not in {"qemu", "kvm"} or (domain.type == "kvm" and not emulator.kvm):
        raise unsupported(f"Emulator '{path}' does not support virt type '{domain.type}'", ErrorDomain.QEMU)
    if emulator.architecture != architecture:
        raise unsupported(f"Emulator '{path}' does not support arch '{architecture}'", ErrorDomain.QEMU)
    if domain.os.type.type != "hvm":
        raise unsupported(f"Emulator '{path}' does not support os type '{domain.os.type.type}'", ErrorDomain.QEMU)
    machine = emulator.machine(domain.os.type.machine)
    if machine is None:
        known = f"'{path}' does not support machine type '{domain.os.type.machine}'"
        raise unsupported(f"Emulator {known}", ErrorDomain.QEMU)
    kind = replace(domain.os.type, arch=architecture, machine=machine.canonical)
    os = replace(domain.os, type=kind)
    return replace(domain, os=os, devices=replace(devices, emulator=path)), Context(emulator, machine)


def _basics(domain: Domain) -> Domain:
    written = uuid.UUID(domain.uuid) if domain.uuid else uuid.uuid4()
    genid = domain.genid
    if genid is not None and not genid.uuid:
        genid = Genid(uuid=str(uuid.uuid4()))
    return replace(
        domain,
        id=None,
        uuid=str(written),
        genid=genid,
        title=domain.title or None,
        description=domain.description or None,
        clock=replace(domain.clock, offset=domain.clock.offset or "utc") if domain.clock else Clock(offset="utc"),
        on_poweroff=domain.on_poweroff or "destroy",
        on_reboot=domain.on_reboot or "restart",
        on_crash=domain.on_crash or "destroy",
        resource=None,
        xmlns_qemu=domain.xmlns_qemu if domain.qemu_commandline or domain.qemu_capabilities else None,
    )


def _memory(domain: Domain) -> Domain:
    kib = domain.memory.kib
    if not kib or kib > _MEMORY_MAX_KIB:
        raise xml_error("Memory size must be specified via <memory> or in the <numa> configuration")
    current = domain.current_memory.kib if domain.current_memory else 0
    current = min(current, kib) or kib
    most = domain.max_memory
    return replace(
        domain,
        memory=Memory(unit="KiB", amount=kib, dump_core=domain.memory.dump_core),
        current_memory=CurrentMemory(unit="KiB", amount=current),
        max_memory=MaxMemory(slots=most.slots, unit="KiB", amount=most.kib) if most else None,
    )


def _vcpus(domain: Domain) -> Domain:
    vcpu = domain.vcpu or Vcpu(count=1)
    count = vcpu.count or 1
    current = vcpu.current
    if current is not None and current >= count:
        current = None
    placement = vcpu.placement or "static"
    cpuset = normalize_cpuset(vcpu.cpuset) if vcpu.cpuset else None
    if cpuset and domain.vcpu is not None and vcpu.placement == "auto":
        cpuset = None
    tune = domain.cputune
    if tune is not None:
        tune = replace(
            tune,
            vcpupin=tuple(
                replace(pin, cpuset=normalize_cpuset(pin.cpuset))
                for pin in sorted(tune.vcpupin, key=lambda pin: pin.vcpu)
                if pin.vcpu < count
            ),
            emulatorpin=replace(tune.emulatorpin, cpuset=normalize_cpuset(tune.emulatorpin.cpuset))
            if tune.emulatorpin
            else None,
            iothreadpin=tuple(replace(pin, cpuset=normalize_cpuset(pin.cpuset)) for pin in tune.iothreadpin),
        )
    vcpu = Vcpu(placement=placement, cpuset=cpuset, current=current, count=count)
    return replace(domain, vcpu=vcpu, cputune=tune)


def _cpu(domain: Domain, context: Context) -> Domain:
    cpu = domain.cpu
    if cpu is None or (cpu.mode is None and cpu.model is None):
        default = CpuModel(fallback="forbid", name=context.machine.default_cpu)
        kept = cpu or Cpu()
        cpu = replace(kept, mode="custom", match="exact", check="none", model=default)
    elif cpu.mode in {"host-passthrough", "maximum"}:
        passthrough = cpu.mode == "host-passthrough"
        cpu = replace(cpu, match=None, check=cpu.check or "none", model=None)
        if passthrough:
            cpu = replace(cpu, migratable=cpu.migratable or "on")
    elif cpu.mode == "host-model":
        cpu = replace(cpu, match=None, check=cpu.check or "partial", model=None)
    else:
        if cpu.vendor and cpu.model is None:
            raise xml_error("CPU vendor specified without CPU model", ErrorDomain.CPU)
        model = cpu.model
        if model is not None:
            model = replace(model, fallback=model.fallback or "allow")
        check = cpu.check or ("none" if domain.type == "qemu" else "partial")
        cpu = replace(cpu, mode="custom", match=cpu.match or "exact", check=check, model=model)
    if cpu.topology is not None:
        cpu = replace(cpu, topology=replace(cpu.topology, dies=cpu.topology.dies or 1))
    features = tuple(replace(feature, policy=feature.policy or "require") for feature in cpu.feature)
    return replace(domain, cpu=replace(cpu, feature=features))


def _boot(domain: Domain, context: Context) -> Domain:
    del context
    devices = domain.devices or Devices()
    bootable: list[Any] = [*devices.disk, *devices.interface, *devices.hostdev, *devices.redirdev]
    orders = [item.boot.order for item in bootable if item.boot is not None]
    ordered = bool(orders)
    if ordered and domain.os.boot:
        raise unsupported("per-device boot elements cannot be used together with os/boot elements")
    for order in orders:
        if orders.count(order) > 1:
            raise unsupported(f"boot order '{order}' used for more than one device")
    if domain.os.boot or ordered:
        return domain
    return replace(domain, os=replace(domain.os, boot=(Boot(dev="hd"),)))


def random_mac() -> str:
    """Return a new hardware address in QEMU's and KVM's range."""
    return ":".join(("52:54:00", *(f"{byte:02x}" for byte in secrets.token_bytes(3))))


def complete_interface(interface: Interface, emulator: Emulator) -> Interface:
    """Return a network interface with what it leaves open filled in."""
    model = interface.model
    if model is None and interface.type != "hostdev":
        names = {"rtl8139": "rtl8139", "e1000": "e1000"}
        model = InterfaceModel(type=next((name for name, device in names.items() if emulator.has(device)), "virtio"))
    target = interface.target
    if target is not None and (target.dev is None or target.dev.startswith(("vnet", "macvtap", "macvlan", "vif"))):
        target = replace(target, dev=None) if target.managed else None
    driver = interface.driver
    if driver is not None and (model is None or not model.type.startswith("virtio") or driver == type(driver)()):
        driver = None
    source = interface.source
    if interface.type == "direct" and source is not None:
        source = replace(source, mode=source.mode or "vepa")
    return replace(
        interface,
        mac=interface.mac or Mac(address=random_mac()),
        model=model,
        target=target,
        driver=driver,
        source=source,
        bandwidth=bandwidth.form(bandwidth.parse(interface.bandwidth)),
    )


def _inputs(devices: Devices) -> Devices:
    inputs = []
    for item in devices.input:
        bus = item.bus or ("ps2" if item.type in {"mouse", "keyboard"} else None)
        if bus is None:
            bus = {"tablet": "usb", "passthrough": "virtio", "evdev": "none"}[item.type]
        inputs.append(replace(item, bus=None if item.type == "evdev" else bus))
    for kind in ("mouse", "keyboard"):
        if not any(item.type == kind and item.bus == "ps2" for item in inputs):
            inputs.append(Input(type=kind, bus="ps2"))
    return replace(devices, input=tuple(inputs))


def _small_devices(devices: Devices, emulator: Emulator) -> Devices:
    generators = tuple(
        replace(item, backend=_rng_backend(item.backend or RngBackend(model="random"))) for item in devices.rng
    )
    return replace(
        devices,
        memballoon=devices.memballoon or MemBalloon(model="virtio" if emulator.has("virtio-balloon-pci") else "none"),
        rng=generators,
        watchdog=tuple(replace(item, action=item.action or "reset") for item in devices.watchdog),
        panic=tuple(replace(item, model=item.model or "isa") for item in devices.panic),
        hostdev=tuple(replace(item, managed=item.managed or "no") for item in devices.hostdev),
    )


def _rng_backend(backend: RngBackend) -> RngBackend:
    if backend.model == "random" and not backend.path:
        return replace(backend, path="/dev/random")
    return backend
