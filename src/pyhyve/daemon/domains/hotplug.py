"""Devices that come and go while a domain is defined or runs: attaching, detaching, changing.

A change of the definition is made by completing a definition with the device in it. A change of a machine is a few
commands to its monitor, undone where a later one fails; a device leaves when the guest lets go of it, which the machine
says by an event.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.domains.definition.disks import complete_disk, insert_disk
from pyhyve.daemon.domains.definition.find import COLLECTIONS, drop_device, each_device, with_collection
from pyhyve.daemon.domains.definition.match import find_same
from pyhyve.daemon.domains.definition.parse import parse_device
from pyhyve.daemon.domains.faults import failed, internal, invalid, system_error, unsupported, xml_error
from pyhyve.daemon.domains.hotplug_live import attach_live, remove_backends, remove_commands, update_live
from pyhyve.daemon.domains.states import Affect
from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.events import DomainEvent
from pyhyve.rpc.errors import ErrorCode, ErrorDomain
from pyhyve.xml.devices import Devices
from pyhyve.xml.document import Node, XmlError
from pyhyve.xml.element import Element, from_node, replace

if TYPE_CHECKING:
    from pyhyve.daemon.domains.domain import ManagedDomain
    from pyhyve.xml.domain import Domain

__all__ = ["after_removal", "attach", "detach", "detach_alias", "update"]

_log = logging.getLogger(__name__)
UNPLUG_WAIT_S: Final = 5.0
"""How long a detach waits for the guest; after that it goes on in the background."""
_ONE_ONLY: Final = frozenset({"memballoon", "vsock"})


def read_device(text: str) -> tuple[str, Any]:
    """Parse one device's document; return the field of :class:`Devices` it belongs to, and it. Raises LibvirtError."""
    root = parse_device(text)
    if root.name not in COLLECTIONS and root.name != "graphics":
        raise unsupported(f"unknown device type '{root.name}'")
    try:
        holder = from_node(Devices, Node("devices", children=(root,)), keep_unknown=False)
    except XmlError as error:
        raise xml_error(str(error)) from error
    held = getattr(holder, root.name)
    device = held[0] if isinstance(held, tuple) else held
    assert isinstance(device, Element)  # noqa: S101 - for the type checker: every collection holds elements
    return root.name, device


def _with_device(domain: Domain, name: str, device: Any) -> Domain:
    devices = domain.devices or Devices()
    held = getattr(devices, name)
    if name in _ONE_ONLY:
        if held is not None and not (name == "memballoon" and held.model == "none"):
            raise failed(f"a {name} device is already in the domain configuration", ErrorDomain.DOMAIN)
        return replace(domain, devices=with_collection(devices, name, device))
    if name == "disk":
        disks = list(devices.disk)
        if any(disk.target.dev == device.target.dev for disk in disks):
            raise invalid(f"target {device.target.dev} already exists")
        insert_disk(disks, complete_disk(device, disks))
        held = tuple(disks)
    else:
        held = (*held, device)
    return replace(domain, devices=with_collection(devices, name, held))


async def _store(domain: ManagedDomain, definition: Domain) -> None:
    """Make a changed definition the domain's. Raises LibvirtError."""
    before, domain.definition = domain.definition, definition
    try:
        await domain.save_definition()
    except OSError as error:
        domain.definition = before
        raise system_error("cannot write the definition", error) from error


async def attach(domain: ManagedDomain, text: str, flags: int) -> None:
    """Add a device. Raises LibvirtError."""
    affect = domain.affected(flags)
    name, device = read_device(text)
    changed: Domain | None = None
    if affect & Affect.CONFIG and domain.definition is not None:
        changed = await domain.registry.complete_parsed(_with_device(domain.definition, name, device))
        if name == "disk" and device.type == "volume" and not affect & Affect.LIVE:
            await domain.registry.hypervisor.prepare_disk(device, 0)  # it has to be there, as for a disk plugged in
        if affect & Affect.LIVE and name == "interface" and device.mac is None:
            added = (changed.devices or Devices()).interface[-1]
            device = replace(device, mac=added.mac)  # the same card in both
    if affect & Affect.LIVE:
        added = await attach_live(domain, name, device)
        domain.publish(DomainEvent.DEVICE_ADDED, added.alias.name if added.alias is not None else "")
    if changed is not None:
        await _store(domain, changed)


async def detach(domain: ManagedDomain, text: str, flags: int) -> None:
    """Take a device away. Raises LibvirtError."""
    affect = domain.affected(flags)
    name, device = read_device(text)
    changed: Domain | None = None
    if affect & Affect.CONFIG and domain.definition is not None:
        devices = domain.definition.devices or Devices()
        found = find_same(devices, name, device, live=False)
        changed = _without(domain.definition, name, found)
    if affect & Affect.LIVE:
        found = find_same(domain.devices, name, device, live=True)
        await _detach_live(domain, name, found)
    if changed is not None:
        await _store(domain, await domain.registry.complete_parsed(changed))


def _without(domain: Domain, name: str, device: Any) -> Domain:
    devices = domain.devices or Devices()
    held = getattr(devices, name)
    kept = tuple(item for item in held if item is not device) if isinstance(held, tuple) else None
    return replace(domain, devices=with_collection(devices, name, kept))


async def detach_alias(domain: ManagedDomain, alias: str, flags: int) -> None:
    """Take the device of an alias away. Raises LibvirtError."""
    affect = domain.affected(flags)
    changed: Domain | None = None
    if affect & Affect.CONFIG and domain.definition is not None:
        devices, device = drop_device(domain.definition.devices or Devices(), alias)
        if device is None:
            raise LibvirtError(ErrorCode.DEVICE_MISSING, ErrorDomain.DOMAIN, f"no device found with alias {alias}")
        changed = replace(domain.definition, devices=devices)
    if affect & Affect.LIVE:
        for name, item in each_device(domain.devices):
            if item.alias is not None and item.alias.name == alias:
                await _detach_live(domain, name, item)
                break
        else:
            raise internal(f"no device found with alias {alias}", ErrorDomain.DOMAIN)
    if changed is not None:
        await _store(domain, await domain.registry.complete_parsed(changed))


async def _detach_live(domain: ManagedDomain, name: str, device: Any) -> None:
    alias = device.alias.name if device.alias is not None else ""
    commands = remove_commands(name, device)
    if commands is None:
        raise unsupported(f"live detach of device '{name}' is not supported", ErrorDomain.QEMU)
    waiting: dict[str, asyncio.Future[bool]] = domain.parts.setdefault("unplugging", {})
    gone: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    waiting[alias] = gone
    try:
        for command, arguments in commands:
            await domain.monitor(command, arguments)
        try:
            async with asyncio.timeout(UNPLUG_WAIT_S):
                left = await gone
        except TimeoutError:
            return  # the guest takes its time; the event that it is gone does the rest
        if not left:
            raise failed("device detach failed: the guest refused")
    finally:
        if waiting.get(alias) is gone:
            del waiting[alias]


async def after_removal(domain: ManagedDomain, device: Any) -> None:
    """Remove what was behind a device that left."""
    try:
        await remove_backends(domain, device)
    except LibvirtError as error:
        _log.info("%s: %s", domain.name, error)
    await domain.save_record()


async def update(domain: ManagedDomain, text: str, flags: int) -> None:
    """Change a device: another medium, a cable pulled, a password. Raises LibvirtError."""
    affect = domain.affected(flags & 3)
    name, device = read_device(text)
    changed: Domain | None = None
    if affect & Affect.CONFIG and domain.definition is not None:
        changed = await _updated(domain, domain.definition, name, device)
    if affect & Affect.LIVE:
        await update_live(domain, name, device, force=bool(flags & 4))
    if changed is not None:
        await _store(domain, changed)


async def _updated(domain: ManagedDomain, definition: Domain, name: str, device: Any) -> Domain:
    devices = definition.devices or Devices()
    if name not in {"disk", "interface", "graphics", "memballoon"}:
        raise unsupported(f"persistent update of device '{name}' is not supported", ErrorDomain.QEMU)
    found = find_same(devices, name, device, live=False)
    if name == "memballoon":
        new = replace(device, address=device.address or found.address)
        return await domain.registry.complete_parsed(replace(definition, devices=replace(devices, memballoon=new)))
    if hasattr(found, "address") and device.address is None:
        device = replace(device, address=found.address)
    if name == "interface" and device.model is None:
        device = replace(device, model=found.model)
    held = getattr(devices, name)
    items = tuple(device if item is found else item for item in held)
    return await domain.registry.complete_parsed(replace(definition, devices=with_collection(devices, name, items)))
