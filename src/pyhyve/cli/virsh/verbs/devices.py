"""Domains: their devices, listed, plugged in and unplugged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lxml import etree

from pyhyve.cli.virsh.device_documents import disk_document, interface_document
from pyhyve.cli.virsh.documents import disks, nics
from pyhyve.cli.virsh.flags import AFFECT_USAGE, affect, attach_affect, collect, exclusive
from pyhyve.cli.virsh.registry import verb
from pyhyve.cli.virsh.shell import VerbFailed, read_file

if TYPE_CHECKING:
    from pyhyve.cli.virsh.documents import Disk, Nic
    from pyhyve.cli.virsh.shell import Shell
    from pyhyve.cli.virsh.syntax import Values
    from pyhyve.client import Domain

_ATTACH_USAGE: Final = "[--persistent] [--config] [--live] [--current]"
_INACTIVE, _FORCE = 2, 4
_REMOVABLE: Final = frozenset({"cdrom", "floppy"})


@verb("domblklist", "monitor", "<domain> [--inactive] [--details]", "a domain's disks")
def domblklist(shell: Shell, values: Values) -> None:
    """List disks."""
    found = disks(shell.domain(values).xml(_INACTIVE if values.flag("inactive") else 0))
    if values.flag("details"):
        rows = [[d.type, d.device, d.target or "-", d.source or "-"] for d in found]
        shell.table(["Type", "Device", "Target", "Source"], rows)
    else:
        shell.table(["Target", "Source"], [[d.target or "-", d.source or "-"] for d in found])


@verb("domiflist", "monitor", "<domain> [--inactive]", "a domain's network interfaces")
def domiflist(shell: Shell, values: Values) -> None:
    """List network interfaces."""
    found = nics(shell.domain(values).xml(_INACTIVE if values.flag("inactive") else 0))
    rows = [[n.target or "-", n.type, n.source or "-", n.model or "-", n.mac or "-"] for n in found]
    shell.table(["Interface", "Type", "Source", "Model", "MAC"], rows)


def _change(shell: Shell, values: Values, attach: bool) -> Domain:  # noqa: FBT001 - plug in or out
    domain, path = shell.domain(values), values.text("file")
    flags = attach_affect(values, domain)
    xml = read_file(path)
    with shell.failing(f"Failed to {'attach' if attach else 'detach'} device from {path}"):
        if flags or values.flag("current"):
            (domain.attach_device if attach else domain.detach_device)(xml, flags)
        else:
            shell.call(f"DOMAIN_{'ATTACH' if attach else 'DETACH'}_DEVICE", domain.ref, xml)
    return domain


@verb("attach-device", "domain", f"<domain> <file> {_ATTACH_USAGE}", "plug in the device of a file")
def attach_device(shell: Shell, values: Values) -> None:
    """Plug in."""
    _change(shell, values, True)  # noqa: FBT003 - plug in
    shell.say("Device attached successfully")


@verb("detach-device", "domain", f"<domain> <file> {_ATTACH_USAGE}", "unplug the device of a file")
def detach_device(shell: Shell, values: Values) -> None:
    """Unplug."""
    _change(shell, values, False)  # noqa: FBT003 - unplug
    shell.say("Device detached successfully")


@verb("update-device", "domain", f"<domain> <file> {_ATTACH_USAGE} [--force]", "change the device of a file")
def update_device(shell: Shell, values: Values) -> None:
    """Change a device."""
    domain, path = shell.domain(values), values.text("file")
    flags = attach_affect(values, domain) | collect(values, {"force": _FORCE})
    xml = read_file(path)
    with shell.failing(f"Failed to update device from {path}"):
        domain.update_device(xml, flags)
    shell.say("Device updated successfully")


@verb("detach-device-alias", "domain", f"<domain> <alias> {AFFECT_USAGE}", "unplug a device by its alias")
def detach_device_alias(shell: Shell, values: Values) -> None:
    """Unplug by alias."""
    flags, alias = affect(values), values.text("alias")
    domain = shell.domain(values)
    with shell.failing(f"Failed to detach device with alias {alias}"):
        shell.call("DOMAIN_DETACH_DEVICE_ALIAS", domain.ref, alias, flags)
    shell.say("Device detach request sent successfully")


@verb(
    "attach-disk",
    "domain",
    "<domain> <source> <target> [--targetbus <string>] [--driver <string>] [--subdriver <string>] "
    "[--iothread <string>] [--cache <string>] [--io <string>] [--type <string>] [--mode <string>] "
    "[--sourcetype <string>] [--serial <string>] [--wwn <string>] [--alias <string>] [--rawio] [--address <string>] "
    "[--multifunction] [--print-xml] [--source-protocol <string>] [--source-host-name <string>] "
    f"[--source-host-transport <string>] [--source-host-socket <string>] {_ATTACH_USAGE}",
    "plug in a disk",
)
def attach_disk(shell: Shell, values: Values) -> None:
    """Plug in a disk described by options."""
    xml = disk_document(values)
    if values.flag("print-xml"):
        shell.write(xml)
        return
    domain = shell.domain(values)
    flags = attach_affect(values, domain)
    with shell.failing("Failed to attach disk"):
        if flags or values.flag("current"):
            domain.attach_device(xml, flags)
        else:
            shell.call("DOMAIN_ATTACH_DEVICE", domain.ref, xml)
    shell.say("Disk attached successfully")


@verb(
    "attach-interface",
    "domain",
    "<domain> <type> <source> [--target <string>] [--mac <string>] [--script <string>] [--model <string>] "
    f"[--alias <string>] [--inbound <string>] [--outbound <string>] {_ATTACH_USAGE} [--print-xml] [--managed] "
    "[--source-mode <string>]",
    "plug in a network interface",
)
def attach_interface(shell: Shell, values: Values) -> None:
    """Plug in a network interface described by options."""
    xml = interface_document(values)
    if values.flag("print-xml"):
        shell.write(xml)
        return
    domain = shell.domain(values)
    flags = attach_affect(values, domain)
    with shell.failing("Failed to attach interface"):
        if flags or values.flag("current"):
            domain.attach_device(xml, flags)
        else:
            shell.call("DOMAIN_ATTACH_DEVICE", domain.ref, xml)
    shell.say("Interface attached successfully")


def _element_text(element: etree._Element) -> str:
    return str(etree.tostring(element, encoding="unicode", with_tail=False))


def _unplug(shell: Shell, values: Values, domain: Domain, element: etree._Element, what: str) -> None:
    if values.flag("print-xml"):
        shell.write(_element_text(element))
        return
    flags = attach_affect(values, domain)
    with shell.failing(f"Failed to detach {what.lower()}"):
        if flags or values.flag("current"):
            domain.detach_device(_element_text(element), flags)
        else:
            shell.call("DOMAIN_DETACH_DEVICE", domain.ref, _element_text(element))
    shell.say(f"{what} detached successfully")


def _where(values: Values, domain: Domain) -> int:
    """Flags of the document in which to look for a device to unplug."""
    return _INACTIVE if values.flag("config") and domain.is_persistent() and not values.flag("live") else 0


@verb("detach-disk", "domain", f"<domain> <target> {_ATTACH_USAGE} [--print-xml]", "unplug a disk")
def detach_disk(shell: Shell, values: Values) -> None:
    """Unplug a disk."""
    exclusive(values, "persistent", "current")
    affect(values)
    domain = shell.domain(values)
    disk = _disk(disks(domain.xml(_where(values, domain))), values.text("target"))
    _unplug(shell, values, domain, disk.element, "Disk")


def _disk(found: list[Disk], name: str) -> Disk:
    disk = next((d for d in found if name in {d.target, d.source}), None)
    if disk is None:
        msg = f"No disk found whose source path or target is {name}"
        raise VerbFailed(msg)
    return disk


@verb(
    "detach-interface",
    "domain",
    f"<domain> <type> [--mac <string>] {_ATTACH_USAGE} [--print-xml]",
    "unplug a network interface",
)
def detach_interface(shell: Shell, values: Values) -> None:
    """Unplug a network interface."""
    domain, kind, mac = shell.domain(values), values.text("type"), values.get("mac")
    attach_affect(values, domain)
    found = [n for n in nics(domain.xml(_where(values, domain))) if n.type == kind]
    if not found:
        msg = f"No interface found whose type is {kind}"
        raise VerbFailed(msg, "Failed to detach interface")
    if mac is None and len(found) > 1:
        msg = f"Domain has {len(found)} interfaces. Please specify which one to detach using --mac"
        raise VerbFailed(msg, "Failed to detach interface")
    matching = found if mac is None else [n for n in found if (n.mac or "").lower() == mac.lower()]
    if not matching:
        msg = f"No interface with MAC address {mac} was found"
        raise VerbFailed(msg, "Failed to detach interface")
    if len(matching) > 1:
        msg = (
            f"Domain has multiple interfaces matching MAC address {mac}. You must use detach-device and specify the "
            "device pci address to remove it."
        )
        raise VerbFailed(msg, "Failed to detach interface")
    _unplug(shell, values, domain, matching[0].element, "Interface")


@verb(
    "domif-setlink",
    "domain",
    "<domain> <interface> <state> [--config] [--print-xml]",
    "put an interface's link up or down",
)
def domif_setlink(shell: Shell, values: Values) -> None:
    """Set a link's state."""
    domain, name, state = shell.domain(values), values.text("interface"), values.text("state")
    if state not in {"up", "down"}:
        msg = f"invalid link state '{state}'"
        raise VerbFailed(msg)
    config = values.flag("config") or not domain.is_active()
    nic = _nic(nics(domain.xml(_INACTIVE if config else 0)), name)
    link = nic.element.find("link")
    if link is None:
        link = etree.SubElement(nic.element, "link")
    link.set("state", state)
    if values.flag("print-xml"):
        shell.write(_element_text(nic.element))
        return
    with shell.failing("Failed to update interface link state"):
        domain.update_device(_element_text(nic.element), 2 if config else 1)
    shell.say("Device updated successfully")


def _nic(found: list[Nic], name: str) -> Nic:
    nic = next((n for n in found if n.matches(name)), None)
    if nic is None:
        msg = f"interface '{name}' not found"
        raise VerbFailed(msg)
    return nic


@verb(
    "change-media",
    "domain",
    "<domain> <path> [--source <string>] [--eject] [--insert] [--update] [--current] [--live] [--config] [--force] "
    "[--print-xml] [--block]",
    "change the medium of a CD or floppy drive",
)
def change_media(shell: Shell, values: Values) -> None:
    """Change a medium."""
    source = values.get("source")
    exclusive(values, "eject", "insert")
    exclusive(values, "eject", "update")
    exclusive(values, "insert", "update")
    exclusive(values, "eject", "block")
    flags = affect(values) | collect(values, {"force": _FORCE})
    action = next(
        (name for name in ("eject", "insert", "update") if values.flag(name)), "update" if source else "eject"
    )
    domain = shell.domain(values)
    removable = [d for d in disks(domain.xml(_INACTIVE if values.flag("config") else 0)) if d.device in _REMOVABLE]
    disk = _disk(removable, values.text("path"))
    if action == "eject" and disk.source is None:
        msg = f"The disk device '{disk.target}' doesn't have media"
        raise VerbFailed(msg)
    if action == "insert" and disk.source is not None:
        msg = f"The disk device '{disk.target}' already has media"
        raise VerbFailed(msg)
    if action == "insert" and source is None:
        msg = "No disk source specified for inserting"
        raise VerbFailed(msg)
    xml = _with_medium(disk, None if action == "eject" else source, block=values.flag("block"))
    if values.flag("print-xml"):
        shell.write(xml)
        return
    with shell.failing(f"Failed to complete action {action} on media"):
        domain.update_device(xml, flags)
    shell.hint(
        {"eject": "Successfully ejected media.", "insert": "Successfully inserted media."}.get(action) or _UPDATED
    )


_UPDATED: Final = "Successfully updated media."


def _with_medium(disk: Disk, source: str | None, *, block: bool) -> str:
    element = disk.element
    for child in (*element.findall("source"), *element.findall("backingStore")):
        element.remove(child)
    if source is not None:
        element.set("type", "block" if block else "file")
        found = etree.Element("source")
        found.set("dev" if block else "file", source)
        target = element.find("target")
        element.insert(0 if target is None else element.index(target), found)
    return _element_text(element)


@verb(
    "update-memory-device",
    "domain",
    f"<domain> {AFFECT_USAGE} [--print-xml] [--alias <string>] [--node <number>] [--requested-size <number>]",
    "change the requested size of a virtio memory device",
)
def update_memory_device(shell: Shell, values: Values) -> None:
    """Change a memory device."""
    from pyhyve.cli.virsh.documents import parse

    flags = affect(values)
    exclusive(values, "node", "alias")
    alias, node = values.get("alias"), values.number("node", minimum=0)
    domain = shell.domain(values)
    memories = parse(domain.xml(_INACTIVE if flags & 2 else 0)).findall("./devices/memory")
    if alias is not None:
        memories = [m for m in memories if (a := m.find("alias")) is not None and a.get("name") == alias]
    elif node is not None:
        memories = [m for m in memories if m.findtext("./target/node") == str(node)]
    if not memories:
        msg = "no memory device found"
        raise VerbFailed(msg)
    if len(memories) > 1:
        msg = "multiple memory devices found, use --alias or --node to select one"
        raise VerbFailed(msg)
    size = values.scaled("requested-size", 1024)
    if size is not None:
        requested = memories[0].find("./target/requested")
        if requested is None:
            msg = "virtio-mem device is missing <requested/>"
            raise VerbFailed(msg)
        requested.set("unit", "KiB")
        requested.text = str(size // 1024)
    if values.flag("print-xml"):
        shell.write(_element_text(memories[0]))
        return
    domain.update_device(_element_text(memories[0]), flags)
