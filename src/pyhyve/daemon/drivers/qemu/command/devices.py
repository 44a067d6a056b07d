"""Controllers, networks, screens and everything smaller."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.domains.faults import unsupported
from pyhyve.daemon.drivers.qemu.command.addresses import pci_properties, usb_properties, virtio_properties
from pyhyve.daemon.drivers.qemu.command.launch import NetworkEnd
from pyhyve.rpc.errors import ErrorDomain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pyhyve.daemon.drivers.qemu.command.launch import Command
    from pyhyve.xml.devices import Controller, Devices, Hostdev, Input, Video, Watchdog
    from pyhyve.xml.document import Node
    from pyhyve.xml.interface import Interface

__all__ = [
    "controller_device",
    "hostdev_device",
    "input_device",
    "interface_device",
    "interface_netdev",
    "rng_parts",
    "watchdog_device",
    "write_controllers",
    "write_displays",
    "write_filesystems",
    "write_interfaces",
    "write_others",
]

_USB: Final = {
    "piix3-uhci": "piix3-usb-uhci",
    "piix4-uhci": "piix4-usb-uhci",
    "ehci": "usb-ehci",
    "ich9-ehci1": "ich9-usb-ehci1",
    "ich9-uhci1": "ich9-usb-uhci1",
    "ich9-uhci2": "ich9-usb-uhci2",
    "ich9-uhci3": "ich9-usb-uhci3",
    "qemu-xhci": "qemu-xhci",
    "nec-xhci": "nec-usb-xhci",
    "vt82c686b-uhci": "vt82c686b-usb-uhci",
    "pci-ohci": "pci-ohci",
}
_SCSI: Final = {"lsilogic": "lsi", "virtio-scsi": "virtio-scsi-pci", "lsisas1068": "mptsas1068", "vmpvscsi": "pvscsi"}
_PCI: Final = {
    "pci-bridge": "pci-bridge",
    "dmi-to-pci-bridge": "i82801b11-bridge",
    "pcie-to-pci-bridge": "pcie-pci-bridge",
    "pcie-root-port": "pcie-root-port",
    "pcie-switch-upstream-port": "x3130-upstream",
    "pcie-switch-downstream-port": "xio3130-downstream",
}
_SOUND: Final = {"ich6": "intel-hda", "ich9": "ich9-intel-hda", "ac97": "AC97", "es1370": "ES1370", "sb16": "sb16"}
_VIDEO: Final = {
    "cirrus": "cirrus-vga",
    "vga": "VGA",
    "vmvga": "vmware-svga",
    "bochs": "bochs-display",
    "ramfb": "ramfb",
}


def attribute(node: Node | None, name: str) -> str | None:
    """Return an attribute of a part that may be missing."""
    return None if node is None else dict(node.attributes).get(name)


def write_controllers(command: Command, devices: Devices, known: Callable[[str], bool] | None) -> None:
    """Write controllers, PCI ones first, since the others hang on them: all, or those that are `known`."""
    for item in sorted(devices.controller, key=lambda item: item.type != "pci"):
        device = controller_device(devices, item)
        if device is not None and (known is None or known(device["driver"])):
            command.device(device)


def controller_device(devices: Devices, item: Controller) -> dict[str, Any] | None:
    """Return a controller, or None where it is part of the board."""
    alias = item.alias.name if item.alias is not None else None
    place = pci_properties(devices, item.address)
    model = item.model or ""
    if item.type == "pci":
        if model not in _PCI:
            return None
        target = item.target
        numbers: dict[str, Any] = {}
        if target is not None and model in {"pcie-root-port", "pcie-switch-downstream-port"}:
            numbers = {"port": int(target.port or "0", 0), "chassis": target.chassis}
        elif target is not None and model == "pci-bridge":
            numbers = {"chassis_nr": target.chassis_nr}
        return {"driver": _PCI[model], **numbers, "id": alias, **place}
    if item.type == "usb":
        return None if model == "none" else _usb(item, alias, place)
    if item.type == "scsi":
        queues = attribute(item.driver, "queues")
        options = {"num_queues": int(queues)} if queues else {}
        iothread = attribute(item.driver, "iothread")
        if iothread:
            options["iothread"] = f"iothread{iothread}"  # type: ignore[assignment] # a name among numbers
        driver = _SCSI.get(model, "virtio-scsi-pci")
        rings = virtio_properties(item.driver) if driver == "virtio-scsi-pci" else {}
        return {"driver": driver, **rings, **options, "id": alias, **place}
    if item.type == "virtio-serial":
        ports = {"max_ports": item.ports, "vectors": item.vectors}
        rings = virtio_properties(item.driver)
        return {"driver": "virtio-serial-pci", **rings, "id": alias, **ports, **place}
    if item.type == "sata" and (item.index or 0) > 0:
        return {"driver": "ahci", "id": alias, **place}
    return None  # on the board


def _usb(item: Controller, alias: str | None, place: Mapping[str, Any]) -> dict[str, Any]:
    driver = _USB.get(item.model or "")
    if driver is None:
        raise unsupported(f"model type '{item.model}' is unknown for usb controller", ErrorDomain.QEMU)
    device: dict[str, Any] = {"driver": driver}
    if item.ports is not None:
        device.update({"p2": item.ports, "p3": item.ports})
    start = attribute(item.master, "startport")
    if start is not None:
        return {**device, "masterbus": f"{alias}.0", "firstport": int(start), **place}
    return {**device, "id": alias, **place}


def interface_netdev(item: Interface, end: NetworkEnd, name: str) -> dict[str, Any]:
    """Return the host's side of a network interface; descriptors are named by number."""
    if item.type == "user":
        return {"type": "user", "id": name}
    if end.tap_fd is not None:
        netdev: dict[str, Any] = {"type": "tap", "fd": str(end.tap_fd)}
        if end.vhost_fd is not None:
            netdev.update({"vhost": True, "vhostfd": str(end.vhost_fd)})
        return {**netdev, "id": name}
    if end.tap_name is not None:
        return {"type": "tap", "ifname": end.tap_name, "script": "no", "downscript": "no", "id": name}
    if item.type in {"server", "client", "mcast", "udp"} and item.source is not None:
        port = item.source.port or "0"
        where = {"server": "listen", "client": "connect", "mcast": "mcast"}.get(item.type, "udp")
        return {"type": "socket", where: f"{item.source.address or ''}:{port}", "id": name}
    raise unsupported(f"network type '{item.type}' is not supported", ErrorDomain.QEMU)


def interface_device(devices: Devices, item: Interface, boot_index: int | None, netdev: str) -> dict[str, Any]:
    """Return the card the guest sees."""
    alias = item.alias.name if item.alias is not None else None
    model = item.model.type if item.model is not None else "virtio"
    driver = {"virtio": "virtio-net-pci", "netfront": "virtio-net-pci"}.get(model, model)
    device: dict[str, Any] = {"driver": driver}
    options = item.driver
    if options is not None and driver == "virtio-net-pci":
        device.update(virtio_properties(options))
        if options.queues is not None and options.queues > 1:
            device.update({"mq": True, "vectors": options.queues * 2 + 2})
        device.update({"rx_queue_size": options.rx_queue_size, "tx_queue_size": options.tx_queue_size})
    if item.mtu is not None and driver == "virtio-net-pci":
        device["host_mtu"] = item.mtu.size
    device.update({"netdev": netdev, "id": alias, "mac": item.mac.address if item.mac is not None else None})
    device.update({"bootindex": boot_index, **pci_properties(devices, item.address)})
    return {name: value for name, value in device.items() if value is not None}


def write_interfaces(command: Command, devices: Devices, boot: Mapping[str, int]) -> None:
    """Write network interfaces."""
    for item in devices.interface:
        alias = item.alias.name if item.alias is not None else ""
        end = command.launch.networks.get(alias, NetworkEnd())
        for descriptor in (end.tap_fd, end.vhost_fd):
            if descriptor is not None:
                command.inherit(descriptor)
        netdev = f"host{alias}"
        properties = interface_netdev(item, end, netdev)
        if command.emulator.is_ours:
            kind = properties.pop("type")
            plain = {key: value for key, value in properties.items() if key not in {"script", "downscript"}}
            command.add("netdev", ",".join((kind, *(f"{key}={value}" for key, value in plain.items()))))
        else:
            command.add_json("netdev", properties)
        command.device(interface_device(devices, item, boot.get(alias), netdev))


def write_displays(command: Command, devices: Devices) -> None:
    """Write sound, screens and how people see them."""
    for audio in devices.audio:
        if command.has("audiodev"):
            driver = {"pulseaudio": "pa", "file": "wav"}.get(audio.type, audio.type)
            command.add_json("audiodev", {"id": f"audio{audio.id}", "driver": driver})
    for item in devices.graphics:
        if item.type == "vnc":
            command.add("vnc", _vnc(command, devices, item))
        elif item.type == "spice":
            command.add("spice", _spice(item))
        elif item.type == "sdl":
            command.add("display", "sdl")
        elif item.type == "egl-headless":
            command.add("display", "egl-headless")
    for number, video in enumerate(devices.video):
        device = _video(devices, video, primary=number == 0)
        if device is not None:
            command.device(device)


def _vnc(command: Command, devices: Devices, item: Any) -> str:
    listen = item.listens[0] if item.listens else None
    if listen is not None and listen.type == "socket":
        where = f"vnc=unix:{listen.socket}"
    else:
        address = (listen.address if listen is not None else None) or "127.0.0.1"
        if ":" in address:
            address = f"[{address}]"
        where = f"{address}:{(item.port or 5900) - 5900}"
    if item.passwd:
        where += ",password=on"
    if item.websocket is not None:
        where += f",websocket={item.websocket}"
    if item.share_policy:
        where += f",share={item.share_policy}"
    if devices.audio and command.has("audiodev"):
        where += f",audiodev=audio{devices.audio[0].id}"
    return where


def _spice(item: Any) -> str:
    listen = item.listens[0] if item.listens else None
    parts = [f"port={max(item.port or 0, 0)}"]
    if listen is not None and listen.type == "address":
        parts.append(f"addr={listen.address or '127.0.0.1'}")
    parts.append("disable-ticketing=on" if not item.passwd else "disable-ticketing=off")
    if item.image is not None and attribute(item.image, "compression"):
        parts.append(f"image-compression={attribute(item.image, 'compression')}")
    parts.append("seamless-migration=on")
    return ",".join(parts)


def _video(devices: Devices, item: Video, *, primary: bool) -> dict[str, Any] | None:
    model = item.model
    kind = model.type if model is not None else "none"
    if model is None or kind == "none":
        return None
    place = pci_properties(devices, item.address)
    alias = item.alias.name if item.alias is not None else None
    if kind == "virtio":
        driver = "virtio-vga" if primary else "virtio-gpu-pci"
        return {"driver": driver, "id": alias, "max_outputs": model.heads, **place}
    if kind == "qxl":
        return {
            "driver": "qxl-vga" if primary else "qxl",
            "id": alias,
            "max_outputs": model.heads,
            "ram_size": (model.ram or 65536) * 1024,
            "vram_size": (model.vram or 65536) * 1024,
            "vram64_size_mb": 0,
            "vgamem_mb": (model.vgamem or 16384) // 1024,
            **place,
        }
    memory = {"vgamem_mb": (model.vram or 16384) // 1024} if kind in {"vga", "vmvga"} else {}
    return {"driver": _VIDEO.get(str(kind), str(kind)), "id": alias, **memory, **place}


def input_device(devices: Devices, item: Input) -> dict[str, Any] | None:
    """Return a keyboard or pointer, or None where it is part of the board."""
    alias = item.alias.name if item.alias is not None else None
    if item.bus == "usb":
        driver = {"mouse": "usb-mouse", "tablet": "usb-tablet", "keyboard": "usb-kbd"}[item.type]
        return {"driver": driver, "id": alias, **usb_properties(item.address)}
    if item.bus == "virtio":
        driver = {"mouse": "virtio-mouse-pci", "tablet": "virtio-tablet-pci", "keyboard": "virtio-keyboard-pci"}.get(
            item.type, "virtio-input-host-pci"
        )
        return {"driver": driver, "id": alias, **pci_properties(devices, item.address)}
    return None


def write_inputs(command: Command, devices: Devices) -> None:
    """Write keyboards and pointers that are not part of the board."""
    for item in devices.input:
        device = input_device(devices, item)
        if device is not None:
            command.device(device)


def rng_parts(devices: Devices, item: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the object that has randomness, and the device that hands it on."""
    alias = item.alias.name if item.alias is not None else "rng0"
    backend = item.backend
    name = f"obj{alias}"
    source: dict[str, Any]
    if backend is not None and backend.model == "builtin":
        source = {"qom-type": "rng-builtin", "id": name}
    else:
        path = backend.path if backend is not None and backend.path else "/dev/urandom"
        source = {"qom-type": "rng-random", "id": name, "filename": path}
    device: dict[str, Any] = {"driver": "virtio-rng-pci", **virtio_properties(item.driver), "rng": name, "id": alias}
    if item.rate is not None:
        device["max-bytes"] = int(attribute(item.rate, "bytes") or 0)
        device["period"] = int(attribute(item.rate, "period") or 1000)
    return source, {**device, **pci_properties(devices, item.address)}


def write_filesystems(command: Command, devices: Devices) -> None:
    """Write the directories of the host that a guest has. Raises LibvirtError for what this cannot be."""
    for item in devices.filesystem:
        driver = attribute(item.driver, "type") or "path"
        directory, tag = attribute(item.source, "dir"), attribute(item.target, "dir")
        if (item.type or "mount") != "mount" or driver != "path" or not command.emulator.has("virtio-9p-pci"):
            kind = driver if driver != "path" else item.type or "mount"
            raise unsupported(f"filesystem of type '{kind}' is not supported", ErrorDomain.QEMU)
        if item.alias is None or not directory or not tag:
            raise unsupported("a filesystem needs a directory of the host, and a name", ErrorDomain.QEMU)
        model = {"squash": "none"}.get(item.accessmode or "", item.accessmode or "passthrough")
        words = ["local", f"security_model={model}"]
        words += [f"fmode={item.fmode}"] if item.fmode else []
        words += [f"dmode={item.dmode}"] if item.dmode else []
        if (policy := attribute(item.driver, "wrpolicy")) is not None:
            words.append(f"writeout={policy}")
        words += [f"id=fsdev-{item.alias.name}", f"path={directory.replace(',', ',,')}"]
        words += ["readonly"] if item.readonly is not None else []
        command.add("fsdev", ",".join(words))
        device = {"driver": "virtio-9p-pci", "id": item.alias.name, "fsdev": f"fsdev-{item.alias.name}"}
        command.device({**device, "mount_tag": tag, **pci_properties(devices, item.address)})


def write_others(command: Command, devices: Devices) -> None:
    """Write sound cards, watchdogs, host devices, the balloon, randomness, panic and vsock devices."""
    for item in devices.sound:
        alias = item.alias.name if item.alias is not None else "sound0"
        driver = _SOUND.get(item.model, item.model)
        audiodev = f"audio{devices.audio[0].id}" if devices.audio else None
        if item.model in {"ich6", "ich9"}:
            command.device({"driver": driver, "id": alias, **pci_properties(devices, item.address)})
            codec = {"driver": "hda-duplex", "id": f"{alias}-codec0", "bus": f"{alias}.0", "cad": 0}
            command.device({**codec, "audiodev": audiodev})
        elif item.model == "usb":
            command.device({"driver": "usb-audio", "id": alias, "audiodev": audiodev, **usb_properties(item.address)})
        else:
            place = pci_properties(devices, item.address)
            command.device({"driver": driver, "id": alias, "audiodev": audiodev, **place})
    for watchdog in devices.watchdog:
        if watchdog.model != "itco":
            command.device(watchdog_device(devices, watchdog))
        action = "pause" if watchdog.action == "dump" else (watchdog.action or "reset")
        command.add("watchdog-action", action)
    for hostdev in devices.hostdev:
        command.device(hostdev_device(devices, hostdev))
    balloon = devices.memballoon
    if balloon is not None and balloon.model != "none" and command.emulator.has("virtio-balloon-pci"):
        place = pci_properties(devices, balloon.address)
        device = {"driver": "virtio-balloon-pci", **virtio_properties(balloon.driver), "id": "balloon0", **place}
        if balloon.alias is not None:
            device["id"] = balloon.alias.name
        if balloon.autodeflate is not None:
            device["deflate-on-oom"] = balloon.autodeflate == "on"
        if balloon.free_page_reporting is not None:
            device["free-page-reporting"] = balloon.free_page_reporting == "on"
        command.device(device)
    for generator in devices.rng:
        source, device = rng_parts(devices, generator)
        command.add_json("object", source)
        command.device(device)
    for panic in devices.panic:
        if panic.model == "isa":
            command.device({"driver": "pvpanic", "id": panic.alias.name if panic.alias is not None else None})
    if devices.vsock is not None:
        cid = attribute(devices.vsock.cid, "address")
        alias = devices.vsock.alias.name if devices.vsock.alias is not None else "vsock0"
        place = pci_properties(devices, devices.vsock.address)
        command.device({"driver": "vhost-vsock-pci", "id": alias, "guest-cid": int(cid or 3), **place})


def watchdog_device(devices: Devices, item: Watchdog) -> dict[str, Any]:
    """Return a watchdog."""
    alias = item.alias.name if item.alias is not None else "watchdog0"
    return {"driver": item.model, "id": alias, **pci_properties(devices, item.address)}


def hostdev_device(devices: Devices, item: Hostdev) -> dict[str, Any]:
    """Return a device of the host. Raises LibvirtError for a kind that cannot be handed on."""
    alias = item.alias.name if item.alias is not None else None
    source = item.source
    address = next((inner for inner in source.children if inner.name == "address"), None) if source else None
    boot = item.boot.order if item.boot is not None else None
    if item.type == "pci":
        host = (
            f"{int(attribute(address, 'domain') or '0', 0):04x}:{int(attribute(address, 'bus') or '0', 0):02x}:"
            f"{int(attribute(address, 'slot') or '0', 0):02x}.{int(attribute(address, 'function') or '0', 0):x}"
        )
        place = pci_properties(devices, item.address)
        return {"driver": "vfio-pci", "host": host, "id": alias, "bootindex": boot, **place}
    if item.type == "usb":
        bus, device = int(attribute(address, "bus") or "0", 0), int(attribute(address, "device") or "0", 0)
        path = f"/dev/bus/usb/{bus:03d}/{device:03d}"
        return {
            "driver": "usb-host",
            "hostdevice": path,
            "id": alias,
            "bootindex": boot,
            **usb_properties(item.address),
        }
    raise unsupported(f"hostdev subsys type '{item.type}' is not supported", ErrorDomain.QEMU)
