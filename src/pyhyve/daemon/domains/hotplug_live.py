"""Devices of a machine that runs: the monitor's commands behind :mod:`pyhyve.daemon.domains.hotplug`."""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.domains.definition.aliases import controller_alias, disk_alias, free_alias
from pyhyve.daemon.domains.definition.characters import complete_channel
from pyhyve.daemon.domains.definition.complete import complete_interface
from pyhyve.daemon.domains.definition.disks import complete_disk, disk_source_name, insert_disk
from pyhyve.daemon.domains.definition.find import with_collection
from pyhyve.daemon.domains.definition.match import find_same
from pyhyve.daemon.domains.definition.pci import next_pci_address
from pyhyve.daemon.domains.definition.usb import free_usb_port
from pyhyve.daemon.domains.faults import failed, internal, invalid_argument, not_supported, unsupported
from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.events import DomainEvent
from pyhyve.daemon.networks import bandwidth
from pyhyve.rpc.errors import ErrorDomain
from pyhyve.xml.address import Address, Alias
from pyhyve.xml.character import CharSource
from pyhyve.xml.devices import Devices
from pyhyve.xml.disk import BackingStore
from pyhyve.xml.element import from_node, replace
from pyhyve.xml.interface import InterfaceTarget, Link

if TYPE_CHECKING:
    from pyhyve.daemon.domains.domain import ManagedDomain
    from pyhyve.xml.disk import Disk

__all__ = ["attach_live", "remove_backends", "remove_commands", "update_live"]

_log = logging.getLogger(__name__)
_PREFIXES: Final = {
    "interface": "net",
    "channel": "channel",
    "rng": "rng",
    "input": "input",
    "hostdev": "hostdev",
    "watchdog": "watchdog",
    "redirdev": "redir",
}
_COLD_BUSES: Final = frozenset({"ide", "fdc"})


async def attach_live(domain: ManagedDomain, name: str, device: Any) -> Any:
    """Add a device to a machine; return it as it is there. Raises LibvirtError."""
    commands = domain.registry.hypervisor.device_commands
    if name not in {"disk", "interface", "channel", "rng", "input", "hostdev", "watchdog", "controller"}:
        raise unsupported(f"live attach of device '{name}' is not supported", ErrorDomain.QEMU)
    device = await _placed(domain, name, device)
    undo: list[tuple[str, dict[str, Any]]] = []
    try:
        if name == "interface":
            device = await _attach_interface(domain, device, undo)
        else:
            for command, arguments, reverse in commands(domain.devices, name, device):
                answer = await domain.monitor(command, arguments)
                if command == "chardev-add" and answer.get("pty") is not None:
                    device = replace(device, source=CharSource(path=answer["pty"]))
                if reverse is not None:
                    undo.append(reverse)
    except BaseException:
        for command, arguments in reversed(undo):
            with contextlib.suppress(LibvirtError):
                await domain.monitor(command, arguments)
        raise
    _keep(domain, name, device)
    await domain.save_record()
    return device


def _keep(domain: ManagedDomain, name: str, device: Any) -> None:
    live = domain.live
    if live is None:
        return
    devices = live.devices or Devices()
    if name == "disk":
        disks = list(devices.disk)
        insert_disk(disks, device)
        held: tuple[Any, ...] = tuple(disks)
    else:
        held = (*getattr(devices, name), device)
    domain.live = replace(live, devices=with_collection(devices, name, held))


async def _placed(domain: ManagedDomain, name: str, device: Any) -> Any:
    """Return a device made whole for a machine: address, alias, images looked up. Raises LibvirtError."""
    devices = domain.devices
    if name == "disk":
        return await _placed_disk(domain, device)
    emulator = await domain.registry.daemon.run_blocking(
        domain.registry.hypervisor.emulators.probed, devices.emulator or ""
    )
    if name == "interface":
        device = complete_interface(device, emulator)
    elif name == "channel":
        if not any(item.type == "virtio-serial" for item in devices.controller):
            raise internal("no virtio-serial controllers are available", ErrorDomain.DOMAIN)
        device = complete_channel(device, devices.channel)
    elif name == "controller":
        same = [item.index or 0 for item in devices.controller if item.type == device.type]
        if device.index is None:
            device = replace(device, index=max(same, default=-1) + 1)
        elif device.index in same:
            raise failed(f"target {device.type}:{device.index} already exists")
        if device.type not in {"scsi", "virtio-serial"}:
            raise not_supported(f"'{device.type}' controller cannot be hot plugged.")
        if device.type == "scsi" and device.model is None:
            device = replace(device, model="virtio-scsi")
    elif name == "input" and device.bus is None:
        device = replace(device, bus="usb" if device.type == "tablet" else "ps2")
    if name == "input" and device.bus == "ps2":
        raise not_supported("input device on bus 'ps2' cannot be hot plugged.")
    if device.alias is None:
        pcie = any(item.model == "pcie-root" for item in devices.controller)
        alias = (
            controller_alias(device, pcie=pcie)
            if name == "controller"
            else free_alias(_PREFIXES[name], getattr(devices, name))
        )
        device = replace(device, alias=Alias(name=alias))
    device = replace(device, address=device.address or _address(devices, name, device))
    if name == "channel":
        device = domain.registry.hypervisor.prepare_channel(device, domain.id, domain.name)
    return device


def _address(devices: Devices, name: str, device: Any) -> Address | None:
    usb = (name == "input" and device.bus == "usb") or (name == "hostdev" and device.type == "usb")
    usb = usb or (name == "disk" and device.target.bus == "usb")
    if usb:
        users: list[Any] = [*devices.input, *devices.hostdev, *devices.redirdev, *devices.disk]
        taken = {item.address.port for item in users if item.address is not None and item.address.type == "usb"}
        return Address(type="usb", bus="0", port=free_usb_port(taken))
    pcie = any(item.model == "pcie-root" for item in devices.controller)
    i440fx = any(item.type == "pci" and item.model == "pci-root" for item in devices.controller)
    return next_pci_address(devices, name, device, pcie=pcie, i440fx=i440fx)


async def _placed_disk(domain: ManagedDomain, disk: Disk) -> Disk:
    devices = domain.devices
    disk = complete_disk(disk, devices.disk)
    if disk.target.bus in _COLD_BUSES:
        raise not_supported(f"disk device='{disk.device}' on bus '{disk.target.bus}' cannot be hot plugged.")
    if disk.device == "cdrom" and disk.target.bus == "virtio":
        raise not_supported("cdrom device type of disk can't be attached to bus 'virtio'")
    if disk.target.bus == "scsi" and not any(item.type == "scsi" for item in devices.controller):
        raise failed("Could not find scsi controller with index 0 required for device")
    if disk.alias is None:
        disk = replace(disk, alias=Alias(name=disk_alias(disk, devices.controller)))
    disk = await domain.registry.hypervisor.prepare_disk(disk, next_node(domain))
    return disk if disk.address is not None else replace(disk, address=_address(devices, "disk", disk))


def next_node(domain: ManagedDomain) -> int:
    """Return the first number no block node of a machine has had."""
    highest: int = domain.parts.get("node-number", 0)
    for disk in domain.devices.disk:
        if disk.source is not None:
            highest = max([highest, disk.source.index or 0, *_chain_numbers(disk.backing_store)])
    domain.parts["node-number"] = highest + 1
    return highest + 1


def _chain_numbers(store: Any) -> list[int]:
    numbers = []
    while store is not None:
        numbers.append(store.index or 0)
        store = from_node(BackingStore, store.backing_store) if store.backing_store is not None else None
    return numbers


async def _attach_interface(domain: ManagedDomain, device: Any, undo: list[tuple[str, dict[str, Any]]]) -> Any:
    hypervisor = domain.registry.hypervisor
    alias = device.alias.name
    descriptor: int | None = None
    if device.type in hypervisor.sources:
        if device.target is None or device.target.dev is None:
            device = replace(device, target=InterfaceTarget(dev=hypervisor.free_tap_name()))
        name, descriptor = await hypervisor.connect_interface(device, domain.live)
        if domain.record is not None:
            domain.record.taps.append(name)
    try:
        if descriptor is not None:
            await domain.monitor("getfd", {"fdname": f"fd-{alias}"}, fds=(descriptor,))
            netdev: dict[str, Any] = {"type": "tap", "fd": f"fd-{alias}", "id": f"host{alias}"}
        elif device.type == "user":
            netdev = {"type": "user", "id": f"host{alias}"}
        else:
            raise unsupported(f"network type '{device.type}' is not supported", ErrorDomain.QEMU)
        await domain.monitor("netdev_add", netdev)
        undo.append(("netdev_del", {"id": f"host{alias}"}))
        for command, arguments, _ in hypervisor.device_commands(domain.devices, "interface", device):
            await domain.monitor(command, arguments)
    except BaseException:
        if descriptor is not None:
            await hypervisor.disconnect_interface(device)
        raise
    finally:
        if descriptor is not None:
            os.close(descriptor)
    if device.link is not None and device.link.state == "down":
        await domain.monitor("set_link", {"name": alias, "up": False})
    return device


def remove_commands(name: str, device: Any) -> list[tuple[str, dict[str, Any]]] | None:
    """Return the commands that have a guest let go of a device, or None where it cannot leave."""
    alias = device.alias.name if device.alias is not None else ""
    if name == "disk" and device.target.bus in _COLD_BUSES:
        raise not_supported(f"disk device type '{device.device}' cannot be detached")
    if name == "controller" and device.type not in {"scsi", "virtio-serial", "pci"}:
        raise not_supported(f"'{device.type}' controller cannot be hot unplugged.")
    if name == "input" and device.bus == "ps2":
        raise not_supported("input device on bus 'ps2' cannot be detached")
    if name not in {"disk", "interface", "channel", "rng", "input", "hostdev", "watchdog", "controller", "redirdev"}:
        return None
    return [("device_del", {"id": alias})]


async def remove_backends(domain: ManagedDomain, device: Any) -> None:
    """Remove what was behind a device that is gone. Raises LibvirtError."""
    name = type(device).NAME
    alias = device.alias.name if device.alias is not None else ""
    hypervisor = domain.registry.hypervisor
    if name == "disk":
        for node in reversed(hypervisor.disk_nodes(device)):
            await domain.monitor("blockdev-del", {"node-name": node["node-name"]})
    elif name == "interface":
        await domain.monitor("netdev_del", {"id": f"host{alias}"})
        if device.type in hypervisor.sources:
            await hypervisor.disconnect_interface(device)
            if domain.record is not None and device.target is not None and device.target.dev in domain.record.taps:
                domain.record.taps.remove(device.target.dev)
    elif name in {"channel", "serial", "console", "redirdev"}:
        await domain.monitor("chardev-remove", {"id": f"char{alias}"})
    elif name == "rng":
        await domain.monitor("object-del", {"id": f"obj{alias}"})


# -- changes ----------------------------------------------------------------------------------------------------------


async def update_live(domain: ManagedDomain, name: str, device: Any, *, force: bool) -> None:
    """Change a device of a machine. Raises LibvirtError."""
    found = find_same(domain.devices, name, device, live=True)
    if name == "disk":
        await change_medium(domain, found, device, force=force)
    elif name == "interface":
        await _update_interface(domain, found, device)
    elif name == "graphics":
        await _update_graphics(domain, found, device)
    elif name == "memballoon":
        period = device.stats.period if device.stats is not None else None
        await set_stats_period(domain, period or 0)
        _swap(domain, name, found, replace(found, stats=device.stats))
    else:
        raise not_supported(f"live update of device '{name}' is not supported")
    await domain.save_record()


def _swap(domain: ManagedDomain, name: str, old: Any, new: Any) -> None:
    live = domain.live
    if live is None or live.devices is None:
        return
    held = getattr(live.devices, name)
    changed = tuple(new if item is old else item for item in held) if isinstance(held, tuple) else new
    domain.live = replace(live, devices=with_collection(live.devices, name, changed))


async def set_stats_period(domain: ManagedDomain, period: int) -> None:
    """Have the guest report its memory every so many seconds. Raises LibvirtError."""
    alias = _balloon_alias(domain)
    arguments = {"path": f"/machine/peripheral/{alias}", "property": "guest-stats-polling-interval", "value": period}
    await domain.monitor("qom-set", arguments)


def _balloon_alias(domain: ManagedDomain) -> str:
    balloon = domain.devices.memballoon
    if balloon is None or balloon.model == "none":
        raise not_supported("Memory balloon model must be virtio to set the collection period")
    return balloon.alias.name if balloon.alias is not None else "balloon0"


async def change_medium(domain: ManagedDomain, found: Disk, wanted: Disk, *, force: bool) -> None:
    """Put another medium into a drive, or take it out. Raises LibvirtError."""
    if found.device not in {"cdrom", "floppy"}:
        if disk_source_name(found) == disk_source_name(wanted) or wanted.source is None:
            return
        raise not_supported("cannot modify field 'source' of the disk")
    alias = found.alias.name if found.alias is not None else ""
    hypervisor = domain.registry.hypervisor
    new = replace(found, source=wanted.source, backing_store=None, type=wanted.type or found.type)
    if wanted.driver is not None:
        new = replace(new, driver=wanted.driver)
    old_path = disk_source_name(found)
    if new.source is not None and disk_source_name(new) is None:
        new = replace(new, source=None)
    if new.source is not None:
        new = complete_disk(new, ())
        new = await hypervisor.prepare_disk(replace(new, alias=found.alias), next_node(domain))
    await _exchange(
        domain,
        alias,
        hypervisor.disk_nodes(found) if found.source is not None else [],
        hypervisor.disk_nodes(new) if new.source is not None else [],
        force=force,
    )
    current = next((item for item in domain.devices.disk if item.target.dev == found.target.dev), found)
    _swap(domain, "disk", current, replace(new, target=replace(found.target, tray=None)))
    reason = 0 if new.source is None else 1
    domain.publish(DomainEvent.DISK_CHANGE, old_path, disk_source_name(new), alias, reason)


async def _exchange(
    domain: ManagedDomain, alias: str, before: list[dict[str, Any]], after: list[dict[str, Any]], *, force: bool
) -> None:
    """Put a drive's new medium (its block nodes) where the old one was; the old one stays where that fails."""
    added: list[dict[str, Any]] = []
    try:
        for node in after:
            await domain.monitor("blockdev-add", node)
            added.append(node)
        await domain.monitor("blockdev-open-tray", {"id": alias, "force": force})
        if before:
            await domain.monitor("blockdev-remove-medium", {"id": alias})
        try:
            if after:
                await domain.monitor("blockdev-insert-medium", {"id": alias, "node-name": after[-1]["node-name"]})
        except LibvirtError:
            with contextlib.suppress(LibvirtError):
                if before:
                    await domain.monitor("blockdev-insert-medium", {"id": alias, "node-name": before[-1]["node-name"]})
                await domain.monitor("blockdev-close-tray", {"id": alias})
            raise
        await domain.monitor("blockdev-close-tray", {"id": alias})
    except LibvirtError:
        await _drop_nodes(domain, added)
        raise
    await _drop_nodes(domain, before)


async def _drop_nodes(domain: ManagedDomain, nodes: list[dict[str, Any]]) -> None:
    for node in reversed(nodes):
        try:
            await domain.monitor("blockdev-del", {"node-name": node["node-name"]})
        except LibvirtError as error:
            _log.warning("%s: %s", domain.name, error)


async def _update_interface(domain: ManagedDomain, found: Any, wanted: Any) -> None:
    if wanted.model is not None and found.model is not None and wanted.model.type != found.model.type:
        raise not_supported(f"cannot modify network device model from {found.model.type} to {wanted.model.type}")
    if wanted.type != found.type:
        raise not_supported(f"unable to change config on '{found.type}' network type")
    limits = bandwidth.parse(wanted.bandwidth)
    if limits != bandwidth.parse(found.bandwidth):
        changed = replace(found, bandwidth=bandwidth.form(limits))
        await domain.registry.hypervisor.limit_interface(changed)
        _swap(domain, "interface", found, changed)
        found = changed
    state = wanted.link.state if wanted.link is not None else "up"
    was = found.link.state if found.link is not None else "up"
    if state != was:
        alias = found.alias.name if found.alias is not None else ""
        await domain.monitor("set_link", {"name": alias, "up": state == "up"})
        _swap(domain, "interface", found, replace(found, link=Link(state=state) if wanted.link is not None else None))


async def _update_graphics(domain: ManagedDomain, found: Any, wanted: Any) -> None:
    if wanted.port not in {None, -1, found.port}:
        raise not_supported(f"cannot change port settings on {found.type} graphics")
    if wanted.passwd == found.passwd:
        return
    if not wanted.passwd:
        raise invalid_argument("cannot remove the password of a display")
    await domain.monitor(
        "set_password", {"protocol": found.type, "password": wanted.passwd, "connected": wanted.connected or "keep"}
    )
    _swap(domain, "graphics", found, replace(found, passwd=wanted.passwd))
