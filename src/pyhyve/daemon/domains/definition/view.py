"""Writing a domain for those who ask."""

from __future__ import annotations

from enum import IntFlag
from typing import TYPE_CHECKING, Any

from pyhyve.daemon.domains.definition.characters import was_chosen
from pyhyve.daemon.domains.definition.disks import complete_disk
from pyhyve.xml.devices import Devices
from pyhyve.xml.disk import BackingStore
from pyhyve.xml.document import format_node
from pyhyve.xml.element import format_element, replace, to_node

if TYPE_CHECKING:
    from pyhyve.xml.disk import Disk
    from pyhyve.xml.domain import Domain

__all__ = ["XmlFlags", "format_device", "format_domain", "format_whole", "inactive_view", "migratable_view"]


class XmlFlags(IntFlag):
    """virDomainXMLFlags."""

    SECURE = 1
    INACTIVE = 2
    UPDATE_CPU = 4
    MIGRATABLE = 8


def format_whole(domain: Domain) -> str:
    """Return a live domain's document with what only the daemon is to know: where the volumes of its disks are."""
    return format_element(domain)


def _shown_disk(disk: Disk) -> Disk:
    """Return a disk as clients see it: a volume by its name, not by its place."""
    source = disk.source
    if source is None or source.pool is None or (source.file is None and source.dev is None):
        return disk
    return replace(disk, type="volume", source=replace(source, file=None, dev=None))


def format_domain(domain: Domain, *, secure: bool = False) -> str:
    """Return a domain's document; passwords only if ``secure``."""
    devices = domain.devices
    if devices is not None and any(disk.source is not None and disk.source.pool for disk in devices.disk):
        devices = replace(devices, disk=tuple(_shown_disk(disk) for disk in devices.disk))
        domain = replace(domain, devices=devices)
    if devices is not None and not secure and any(item.passwd for item in devices.graphics):
        graphics = tuple(replace(item, passwd=None, passwd_valid_to=None) for item in devices.graphics)
        domain = replace(domain, devices=replace(devices, graphics=graphics))
    return format_element(domain)


def format_device(device: Any) -> str:
    """Return one device's document."""
    return format_node(to_node(device))


def _without_alias(item: Any) -> Any:
    alias = getattr(item, "alias", None)
    if alias is None or alias.name.startswith("ua-"):
        return item
    return replace(item, alias=None)


def inactive_view(domain: Domain) -> Domain:
    """Return what a live definition would be if it did not run: a transient domain's inactive document."""
    devices = domain.devices or Devices()
    changes: dict[str, Any] = {}
    for name, held in vars(devices).items():
        if isinstance(held, tuple) and held and hasattr(held[0], "alias"):
            changes[name] = tuple(_without_alias(item) for item in held)
    for name in ("memballoon", "vsock"):
        held = getattr(devices, name)
        if held is not None:
            changes[name] = _without_alias(held)
    disks = []
    for disk in changes.get("disk", devices.disk):
        plain = replace(disk, backing_store=None) if _was_found(disk.backing_store) else disk
        disks.append(complete_disk(plain, ()))
    changes["disk"] = tuple(disks)
    changes["interface"] = tuple(
        replace(item, target=None)
        if item.target is not None and (item.target.dev or "").startswith("vnet") and item.target.managed is None
        else item
        for item in changes.get("interface", devices.interface)
    )
    for name in ("serial", "parallel", "console", "channel"):
        changes[name] = tuple(_inactive_character(item) for item in changes.get(name, getattr(devices, name)))
    changes["graphics"] = tuple(
        replace(item, port=-1 if item.type == "vnc" else None) if item.autoport else item for item in devices.graphics
    )
    return replace(domain, id=None, resource=None, devices=replace(devices, **changes))


def _was_found(store: BackingStore | None) -> bool:
    """Whether a chain was looked up when the machine started, and not written by its owner."""
    return store is not None and (store.index is not None or store == BackingStore())


def _inactive_character(item: Any) -> Any:
    if item.type == "pty":
        item = replace(item, source=None)
    if getattr(item, "tty", None) is not None:
        item = replace(item, tty=None)
    target = item.target
    if item.type == "unix" and was_chosen(item):
        item = replace(item, source=None)
    if target is not None and target.state is not None:
        item = replace(item, target=replace(target, state=None))
    return item


def migratable_view(domain: Domain) -> Domain:
    """Return a live definition that can be started elsewhere: what a saved machine's document is."""
    return inactive_view(domain)
