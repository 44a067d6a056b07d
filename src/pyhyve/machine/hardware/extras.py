"""Configured devices that are neither disk nor network card, as the requests that QEMU's options would be."""

from __future__ import annotations

from pyhyve.machine.chardevs import open_chardev
from pyhyve.machine.config import BalloonConfig, RngConfig, SerialBusConfig, VsockConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyhyve.machine.config import ConsoleConfig, ExtraConfig
    from pyhyve.machine.hardware.hardware import Hardware


def add_extra(hardware: Hardware, extra: ExtraConfig, index: int) -> None:
    """Add the device. Raises ChangeError and ChardevError."""
    request: dict[str, Any] = {"id": extra.device_id} if extra.device_id else {}
    match extra:
        case RngConfig():
            if extra.source is not None:
                name = f"rng{index}"
                hardware.objects.add({"qom-type": "rng-random", "id": name, "filename": str(extra.source)})
                request["rng"] = name
            hardware.devices.add({"driver": hardware.virtio("rng"), **request})
        case BalloonConfig():
            request["deflate-on-oom"] = extra.deflate_on_oom
            request["free-page-reporting"] = extra.free_page_reporting
            hardware.devices.add({"driver": hardware.virtio("balloon"), **request})
        case SerialBusConfig():
            _add_bus(hardware, extra, index, request)
        case VsockConfig():
            place = {"guest-cid": extra.cid, "path": str(extra.path)}
            hardware.devices.add({"driver": hardware.virtio("vsock"), **place, **request})


def _add_bus(hardware: Hardware, bus: SerialBusConfig, index: int, request: dict[str, Any]) -> None:
    name = bus.device_id or f"virtio-serial{index}"
    most = bus.max_ports or max((port.number for port in bus.ports), default=0) + 1
    hardware.devices.add({"driver": hardware.virtio("serial"), "max_ports": most, **request, "id": name})
    for port in bus.ports:
        label = f"{name}.port{port.number}"
        shown = f"channel {port.name}" if port.name else "console"
        chardev = open_chardev(port.chardev, label=shown)
        hardware.chardevs.adopt(label, str(port.chardev.kind), chardev, describe_console(port.chardev))
        device: dict[str, Any] = {"driver": "virtconsole" if port.is_console else "virtserialport", "chardev": label}
        device |= {"nr": port.number, "bus": f"{name}.0"}
        if port.name:
            device["name"] = port.name
        if port.device_id:
            device["id"] = port.device_id
        hardware.devices.add(device)


def describe_console(config: ConsoleConfig) -> str:
    """What a monitor shows of a configured character device."""
    shown = {"none": "null", "file": "file", "unix": f"unix:{config.path},server=on"}
    return shown.get(config.kind, str(config.kind))
