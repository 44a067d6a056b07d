"""The configuration of a machine as it is now: what was plugged in or out since it was built is accounted for.

What the configuration itself described (`disks`, `nets`, `extras`) stays there, so that it is made in the same order; a
slot that one of these devices left is kept free meanwhile. Everything else becomes a request with its place.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyhyve.machine.config import Additions, RngConfig, SerialBusConfig

if TYPE_CHECKING:
    from pyhyve.machine.block.node import BlockNode
    from pyhyve.machine.config import DiskConfig, ExtraConfig, MachineConfig
    from pyhyve.machine.hardware.devices import PluggedDevice
    from pyhyve.machine.hardware.hardware import Hardware


@dataclass(slots=True)
class _Changes:
    """What is found on the way."""

    requests: list[dict[str, Any]] = field(default_factory=list)
    """Devices that are no longer made as the configuration says."""
    moved: set[int] = field(default_factory=set)
    """Their slots, and those of devices that were taken out."""
    own_nodes: set[str] = field(default_factory=set)
    """Nodes that the configuration's disks make."""
    own_objects: set[str] = field(default_factory=set)


def present_config(config: MachineConfig, hardware: Hardware) -> MachineConfig:
    """`config`, as long as nothing changed; otherwise one that makes the same machine."""
    if not hardware.was_changed:
        return config
    changes = _Changes()
    changes.moved |= {*config.additions.reserved_slots, *(slot for _, slot in hardware.devices.withdrawn if slot >= 0)}
    disks = [_present_disk(disk, index, hardware, changes) for index, disk in enumerate(config.disks)]
    nets = [net for index, net in enumerate(config.nets) if _devices_of(hardware, ("nets", index))]
    extras = [_present_extra(extra, index, hardware, changes) for index, extra in enumerate(config.extras)]
    devices = [_request(plugged) for plugged in hardware.devices if plugged.is_requested]
    additions = Additions(
        objects=tuple(made.options for made in hardware.objects if made.name not in changes.own_objects),
        chardevs=tuple(
            {"id": entry.label, "backend": entry.options, **({"mux": True} if entry.mux is not None else {})}
            for entry in hardware.chardevs
            if entry.options is not None
        ),
        blockdevs=tuple(_block_options(hardware, changes.own_nodes)),
        netdevs=tuple(netdev.options for netdev in hardware.netdevs if netdev.options),
        devices=(*changes.requests, *devices),
        serials=config.additions.serials,
        reserved_slots=tuple(sorted(changes.moved)),
    )
    return replace(
        config,
        additions=additions,
        disks=tuple(disk for disk in disks if disk is not None),
        nets=tuple(nets),
        extras=tuple(extra for extra in extras if extra is not None),
    )


def _devices_of(hardware: Hardware, origin: tuple[str, int]) -> list[PluggedDevice]:
    return [plugged for plugged in hardware.devices if plugged.origin == origin]


def _present_disk(disk: DiskConfig, index: int, hardware: Hardware, changes: _Changes) -> DiskConfig | None:
    """The disk as it is now; None when it is gone, or its device has become a request."""
    name = disk.drive_id or f"virtio{index}"
    front = next(
        (plugged for plugged in hardware.devices if plugged.attachment is not None and plugged.attachment.name == name),
        None,
    )
    parts = _devices_of(hardware, ("disks", index))
    if front is None:
        _become_requests(parts, changes)
        return None
    attachment = front.attachment
    node = None if attachment is None else attachment.node
    kept = replace(disk, drive_id=name)
    if node is None:
        return kept
    if node.filename != str(disk.path) and not node.implicit:
        front.values.update(drive=node.name, serial=front.values.get("serial") or disk.serial)
        _become_requests(parts, changes)
        return None
    changes.own_nodes |= {below.name for below in node.chain()}
    if node.filename != str(disk.path):
        return replace(kept, path=Path(node.filename), format=node.driver)
    return kept


def _become_requests(parts: list[PluggedDevice], changes: _Changes) -> None:
    for plugged in parts:
        changes.requests.append(_request(plugged))
        if plugged.slot is not None:
            changes.moved.add(plugged.slot)


def _present_extra(extra: ExtraConfig, index: int, hardware: Hardware, changes: _Changes) -> ExtraConfig | None:
    """The device as it is now, with the ports that are left; None when it is gone."""
    parts = _devices_of(hardware, ("extras", index))
    if not parts:
        return None
    if isinstance(extra, RngConfig) and extra.source is not None:
        changes.own_objects.add(f"rng{index}")
    if isinstance(extra, SerialBusConfig):
        numbers = {plugged.values.get("nr") for plugged in parts}
        ports = tuple(port for port in extra.ports if port.number in numbers)
        return replace(extra, ports=ports, device_id=parts[0].name, max_ports=parts[0].values["max_ports"])
    return extra


def _request(plugged: PluggedDevice) -> dict[str, Any]:
    """What would plug the device in at its present place."""
    request = {"driver": plugged.model.name, **({"bus": plugged.bus} if plugged.bus else {}), **plugged.values}
    if plugged.name:
        request["id"] = plugged.name
    if plugged.function is not None:
        request["addr"] = f"{plugged.function.slot:x}.{plugged.function.function}"
    return request


def _block_options(hardware: Hardware, own: set[str]) -> list[dict[str, Any]]:
    """Options of the nodes that have names, those below first; `own` are made by the configuration's disks."""
    found: list[dict[str, Any]] = []
    seen = set(own)

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
            elif node.backing is not None:
                options.pop("backing", None)  # the image itself says what is below it
            found.append(options)

    for node in hardware.blocks:
        visit(node)
    return found
