"""Adding a device to a machine that runs: the same devices as on the command line, as monitor commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.daemon.domains.faults import unsupported
from pyhyve.daemon.drivers.qemu.command.block import disk_device, disk_nodes
from pyhyve.daemon.drivers.qemu.command.characters import channel_device, chardev_backend, chardev_id
from pyhyve.daemon.drivers.qemu.command.devices import (
    controller_device,
    hostdev_device,
    input_device,
    interface_device,
    rng_parts,
    watchdog_device,
)
from pyhyve.daemon.drivers.qemu.command.launch import device_properties
from pyhyve.rpc.errors import ErrorDomain

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.daemon.domains.emulators import Emulator
    from pyhyve.xml.devices import Devices

__all__ = ["plug_commands"]

_Step = tuple[str, dict[str, Any], "tuple[str, dict[str, Any]] | None"]


def plug_commands(emulator: Emulator, devices: Devices, name: str, item: Any) -> list[_Step]:
    """Return the commands that add a device, each with the one that undoes it. Raises LibvirtError."""
    steps: list[_Step] = []
    alias = item.alias.name if item.alias is not None else ""
    device: dict[str, Any] | None
    if name == "disk":
        nodes = disk_nodes(item, explicit=not emulator.is_ours)
        steps.extend(("blockdev-add", node, ("blockdev-del", {"node-name": node["node-name"]})) for node in nodes)
        device = disk_device(devices, item, None, drive=nodes[-1]["node-name"] if nodes else None)
    elif name == "interface":
        device = interface_device(devices, item, None, f"host{alias}")
    elif name == "channel":
        identifier = chardev_id(alias)
        steps.append(
            (
                "chardev-add",
                {"id": identifier, "backend": chardev_backend(item)},
                ("chardev-remove", {"id": identifier}),
            )
        )
        device = channel_device(item, identifier)
    elif name == "rng":
        source, device = rng_parts(devices, item)
        steps.append(("object-add", source, ("object-del", {"id": source["id"]})))
    else:
        makers: dict[str, Callable[[Devices, Any], dict[str, Any] | None]] = {
            "controller": controller_device,
            "input": input_device,
            "hostdev": hostdev_device,
            "watchdog": watchdog_device,
        }
        device = makers[name](devices, item) if name in makers else None
    if device is None:
        raise unsupported(f"live attach of device '{name}' is not supported", ErrorDomain.QEMU)
    steps.append(("device_add", device_properties(emulator, device), ("device_del", {"id": alias})))
    return steps
