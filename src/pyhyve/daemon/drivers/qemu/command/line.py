"""The whole command line."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.domains import iothreads
from pyhyve.daemon.domains.definition.processors import at_most, at_start, now
from pyhyve.daemon.domains.faults import unsupported
from pyhyve.daemon.drivers.qemu.command.block import write_disks
from pyhyve.daemon.drivers.qemu.command.characters import write_characters
from pyhyve.daemon.drivers.qemu.command.devices import (
    attribute,
    write_controllers,
    write_displays,
    write_filesystems,
    write_inputs,
    write_interfaces,
    write_others,
)
from pyhyve.daemon.drivers.qemu.command.launch import Command, Launch
from pyhyve.rpc.errors import ErrorDomain
from pyhyve.xml.devices import Devices

if TYPE_CHECKING:
    from pyhyve.daemon.domains.emulators import Emulator
    from pyhyve.xml.domain import Domain

__all__ = ["boot_order", "command_line", "cpu_option"]

_SANDBOX: Final = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
_ON_CPU: Final = {"force": "on", "require": "on", "optional": "on", "disable": "off", "forbid": "off"}


_UNKNOWN: Final = ("lease", "smartcard", "tpm", "hub", "nvram", "shmem", "memory", "iommu")
"""Devices that are written nowhere."""


def command_line(domain: Domain, emulator: Emulator, launch: Launch) -> Command:
    """Return the command line of a domain's machine. Raises LibvirtError for what the emulator cannot be told.

    ``domain`` is a definition made whole, with aliases and everything that is chosen at the start.
    """
    command = Command(emulator, launch)
    devices = domain.devices or Devices()
    ours = emulator.is_ours
    _refuse(domain, devices)
    command.add("name", f"guest={domain.name.replace(',', ',,')},debug-threads=on")
    if launch.paused or launch.incoming is not None:
        command.add("S")
    _write_machine(command, domain, ours=ours)
    _write_memory(command, domain, ours=ours)
    _write_vcpus(command, domain, ours=ours)
    _write_iothreads(command, domain)
    command.add("uuid", domain.uuid or "")
    if not devices.graphics or ours:
        command.add("display", "none")
    command.add("no-user-config")
    command.add("nodefaults")
    monitor = str(launch.monitor).replace(",", ",,")
    command.add("chardev", f"socket,id=charmonitor,path={monitor},server=on,wait=off")
    command.add(
        "mon", "chardev=charmonitor,id=monitor,mode=control" if not ours else "chardev=charmonitor,mode=control"
    )
    if launch.pidfile is not None:
        command.maybe("pidfile", str(launch.pidfile))
    _write_clock(command, domain)
    if domain.on_reboot == "destroy":
        command.add("no-reboot")
    command.add("no-shutdown")
    features = domain.features
    if features is None or features.acpi is None:
        command.maybe("no-acpi")
    _write_boot(command, domain, ours=ours)
    boot = boot_order(domain)
    write_controllers(command, devices, known=emulator.has if ours else None)
    write_disks(command, devices, boot)
    write_filesystems(command, devices)
    write_interfaces(command, devices, boot)
    write_characters(command, devices)
    if not ours:
        write_inputs(command, devices)
        write_displays(command, devices)
    write_others(command, devices)
    if launch.incoming is not None:
        command.add("incoming", launch.incoming)
    command.maybe("sandbox", _SANDBOX)
    for node in domain.qemu_commandline.children if domain.qemu_commandline is not None else ():
        if node.name == "qemu:arg":
            command.arguments.append(attribute(node, "value") or "")
    command.maybe("msg", "timestamp=on")
    return command


def _refuse(domain: Domain, devices: Devices) -> None:
    """Raise LibvirtError for what would be left out: a guest without it is not what was asked for."""
    for name in _UNKNOWN:
        held = getattr(devices, name)
        if held:
            raise unsupported(f"device '{name}' is not supported", ErrorDomain.QEMU)
    characters: list[Any] = [*devices.channel, *devices.redirdev, *devices.serial, *devices.console, *devices.parallel]
    if any(item.type == "spicevmc" for item in characters) and not any(
        item.type == "spice" for item in devices.graphics
    ):
        raise unsupported("chardev 'spicevmc' not supported without spice graphics", ErrorDomain.QEMU)
    backing = domain.memory_backing
    if backing is not None and any(node.name == "hugepages" for node in backing.children):
        raise unsupported("huge pages are not supported", ErrorDomain.QEMU)


def _write_machine(command: Command, domain: Domain, *, ours: bool) -> None:
    machine = domain.os.type.machine or command.emulator.default_machine
    parts = [machine]
    if not ours:
        parts.append("usb=off")
        features = domain.features
        if features is not None:
            for name in ("vmport", "smm"):
                state = attribute(getattr(features, name), "state")
                if state is not None:
                    parts.append(f"{name}={state}")
    parts.append("dump-guest-core=on" if domain.memory.dump_core == "on" else "dump-guest-core=off")
    if ours:
        parts.pop()
    if not ours and "memory-backend-ram" in command.emulator.objects and _has_ram_id(machine):
        parts.append("memory-backend=pc.ram")
    parts += _write_flash(command, domain)
    command.add("machine", ",".join(parts))
    command.add("accel", "kvm" if domain.type == "kvm" else "tcg")
    command.add("cpu", cpu_option(domain))


def _write_flash(command: Command, domain: Domain) -> list[str]:
    """Write the images of UEFI firmware and its variables; return what the machine is told of them."""
    os = domain.os
    if attribute(os.loader, "type") != "pflash" or os.loader is None:
        return []
    images = [(os.loader.text.strip(), attribute(os.loader, "readonly") != "no")]
    if os.nvram is not None and os.nvram.text.strip():
        images.append((os.nvram.text.strip(), False))
    parts = []
    for number, (path, read_only) in enumerate(images):
        name = f"libvirt-pflash{number}"
        storage = {"driver": "file", "filename": path, "node-name": f"{name}-storage"}
        command.add_json("blockdev", {**storage, "auto-read-only": True, "discard": "unmap"})
        layer = {"node-name": f"{name}-format", "read-only": read_only, "driver": "raw", "file": f"{name}-storage"}
        command.add_json("blockdev", layer)
        parts.append(f"pflash{number}={name}-format")
    if attribute(os.loader, "secure") == "yes":
        command.add("global", "driver=cfi.pflash01,property=secure,value=on")
    return parts


def _has_ram_id(machine: str) -> bool:
    return machine.startswith(("pc-", "pc", "q35"))


def cpu_option(domain: Domain) -> str:
    """Return ``-cpu``'s value. Raises LibvirtError for a mode the machine cannot have."""
    cpu = domain.cpu
    if cpu is None:
        return "max"
    if cpu.mode == "host-passthrough":
        if domain.type != "kvm":
            where = f"for x86_64 {domain.type} domain on x86_64 host is not supported by hypervisor"
            raise unsupported(f"CPU mode 'host-passthrough' {where}", ErrorDomain.QEMU)
        parts = ["host", *(["migratable=on"] if cpu.migratable == "on" else [])]
    elif cpu.mode in {"maximum", "host-model"}:
        parts = ["host" if cpu.mode == "host-model" and domain.type == "kvm" else "max"]
    else:
        name = cpu.model.name if cpu.model is not None else None
        parts = [name or "max"]
    for feature in cpu.feature:
        parts.append(f"{feature.name.replace('_', '-')}={_ON_CPU.get(feature.policy or 'require', 'on')}")
    features = domain.features
    if features is not None and domain.type == "kvm":
        hidden = next((i for i in features.kvm.children if i.name == "hidden"), None) if features.kvm else None
        if attribute(hidden, "state") == "on":
            parts.append("kvm=off")
        if attribute(features.pmu, "state") is not None:
            parts.append(f"pmu={attribute(features.pmu, 'state')}")
    return ",".join(parts)


def _write_memory(command: Command, domain: Domain, *, ours: bool) -> None:
    kib = domain.memory_kib
    mib = -(-kib // 1024)
    most = domain.max_memory
    if most is not None and not ours:
        command.add("m", f"size={mib * 1024}k,slots={most.slots or 0},maxmem={most.kib}k")
    else:
        command.add("m", str(mib))
    if "memory-backend-ram" in command.emulator.objects and _has_ram_id(domain.os.type.machine or "") and not ours:
        command.add_json("object", {"qom-type": "memory-backend-ram", "id": "pc.ram", "size": mib << 20})
    command.maybe("overcommit", "mem-lock=off")


def _write_vcpus(command: Command, domain: Domain, *, ours: bool) -> None:
    most = at_most(domain)
    current = now(domain) if ours else at_start(domain)
    if ours and current == most:
        command.add("smp", str(most))
        return
    topology = domain.cpu.topology if domain.cpu is not None else None
    if topology is not None:
        layout = (
            f"sockets={topology.sockets},dies={topology.dies or 1},cores={topology.cores},threads={topology.threads}"
        )
    else:
        layout = f"sockets={most},cores=1,threads=1"
    command.add("smp", f"{current},{f'maxcpus={most},' if current != most else ''}{layout}")


def _write_iothreads(command: Command, domain: Domain) -> None:
    for number in iothreads.numbers_of(domain):
        pool = {name.replace("_", "-"): value for name, value in iothreads.pool_of(domain, number).items()}
        command.add_json("object", {"qom-type": "iothread", "id": f"iothread{number}", **pool})


def _write_clock(command: Command, domain: Domain) -> None:
    clock = domain.clock
    offset = clock.offset if clock is not None else "utc"
    timers = {timer.name: timer for timer in clock.timer} if clock is not None else {}
    base = "localtime" if offset == "localtime" else "utc"
    if offset == "absolute" and clock is not None and clock.start is not None:
        base = _moment(int(clock.start))
    elif offset == "variable" and clock is not None and int(clock.adjustment or 0):
        now = int(command.launch.now)
        local = time.localtime(now).tm_gmtoff if clock.basis == "localtime" else 0
        base = _moment(now + local + int(clock.adjustment or 0))
    value = f"base={base}"
    rtc = timers.get("rtc")
    if rtc is not None and rtc.track in {"guest", "wall"}:
        value += f",clock={'vm' if rtc.track == 'guest' else 'host'}"
    if rtc is not None and rtc.tickpolicy == "catchup":
        value += ",driftfix=slew"
    command.maybe("rtc", value)
    pit = timers.get("pit")
    if pit is not None and pit.tickpolicy in {"delay", "discard"}:
        command.maybe("global", f"kvm-pit.lost_tick_policy={pit.tickpolicy}")
    hpet = timers.get("hpet")
    if hpet is not None and hpet.present == "no":
        command.maybe("no-hpet")


def _moment(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _write_boot(command: Command, domain: Domain, *, ours: bool) -> None:
    os = domain.os
    parts = []
    if os.bootmenu is not None and os.bootmenu.enable is not None:
        parts.append(f"menu={'on' if os.bootmenu.enable else 'off'}")
        if os.bootmenu.timeout is not None:
            parts.append(f"splash-time={os.bootmenu.timeout}")
    if not ours:
        command.add("boot", ",".join([*parts, "strict=on"]))
    elif os.boot:
        letters = "".join({"hd": "c", "cdrom": "d", "network": "n"}.get(item.dev, "") for item in os.boot)
        if letters:
            command.add("boot", letters)
    if os.loader is not None and os.loader.text.strip() and attribute(os.loader, "type") != "pflash":
        command.add("bios", os.loader.text.strip())
    if os.kernel:
        command.add("kernel", os.kernel)
    if os.initrd:
        command.add("initrd", os.initrd)
    if os.cmdline:
        command.add("append", os.cmdline)


def boot_order(domain: Domain) -> dict[str, int]:
    """Return the boot index of devices by alias: their own order, or what ``<os>`` says."""
    devices = domain.devices or Devices()
    order: dict[str, int] = {}
    items: list[Any] = [*devices.disk, *devices.interface, *devices.hostdev, *devices.redirdev]
    for item in items:
        if item.boot is not None and item.alias is not None:
            order[item.alias.name] = item.boot.order
    for number, boot in enumerate(domain.os.boot, 1):
        wanted: list[Any]
        if boot.dev == "network":
            wanted = list(devices.interface[:1])
        else:
            kind = {"hd": {"disk", "lun"}, "cdrom": {"cdrom"}, "fd": {"floppy"}}.get(boot.dev, set())
            wanted = [disk for disk in devices.disk if (disk.device or "disk") in kind][:1]
        for item in wanted:
            if item.alias is not None:
                order[item.alias.name] = number
    return order
