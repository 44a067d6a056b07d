"""The configuration of a machine as it is now: what was plugged in or out since it was built is accounted for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pyhyve.machine.config import Additions
from pyhyve.state.errors import StateError

if TYPE_CHECKING:
    from pyhyve.machine.block.node import BlockNode
    from pyhyve.machine.config import MachineConfig
    from pyhyve.machine.hardware.devices import PluggedDevice
    from pyhyve.machine.hardware.hardware import Hardware


def present_config(config: MachineConfig, hardware: Hardware) -> MachineConfig:
    """`config`, as long as nothing changed; otherwise one that makes the same machine. Raises StateError."""
    if not hardware.was_changed:
        return config
    additions = Additions(
        objects=tuple(made.options for made in hardware.objects),
        chardevs=tuple(
            {"id": entry.label, "backend": entry.options} for entry in hardware.chardevs if entry.options is not None
        ),
        blockdevs=tuple(_block_options(hardware)),
        netdevs=tuple(netdev.options for netdev in hardware.netdevs if netdev.options),
        devices=tuple(_request(plugged) for plugged in hardware.devices if plugged.is_requested),
        serials=config.additions.serials,
    )
    names = {plugged.name for plugged in hardware.devices}
    drives = {plugged.attachment.name for plugged in hardware.devices if plugged.attachment is not None}
    for index, disk in enumerate(config.disks):
        if (disk.drive_id or f"virtio{index}") not in drives:
            msg = f"the disk {disk.drive_id or disk.path} was taken out: such a machine cannot be saved"
            raise StateError(msg)
    for net in config.nets:
        if net.device_id and net.device_id not in names:
            msg = f"the network card {net.device_id} was taken out: such a machine cannot be saved"
            raise StateError(msg)
    return replace(config, additions=additions)


def _request(plugged: PluggedDevice) -> dict[str, Any]:
    """What would plug the device in at its present place."""
    request = {"driver": plugged.model.name, "bus": plugged.bus, **plugged.values}
    if plugged.name:
        request["id"] = plugged.name
    if plugged.function is not None:
        request["addr"] = f"{plugged.function.slot:x}.{plugged.function.function}"
    return request


def _block_options(hardware: Hardware) -> list[dict[str, Any]]:
    """Options of the nodes that have names, those below first."""
    found: list[dict[str, Any]] = []
    seen: set[str] = set()

    def visit(node: BlockNode) -> None:
        if node.name in seen:
            return
        seen.add(node.name)
        for below in (node.file, node.backing):
            if below is not None and not below.implicit:
                visit(below)
        if not node.implicit:
            options = dict(node.options)
            if node.backing is not None and not node.backing.implicit:
                options["backing"] = node.backing.name
            found.append(options)

    for node in hardware.blocks:
        visit(node)
    return found
