"""Serial ports, consoles and channels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.daemon.domains.faults import unsupported
from pyhyve.daemon.drivers.qemu.command.addresses import pci_properties, usb_properties
from pyhyve.rpc.errors import ErrorDomain

if TYPE_CHECKING:
    from pyhyve.daemon.drivers.qemu.command.launch import Command
    from pyhyve.xml.character import Channel, CharSource, Console, Parallel, Serial
    from pyhyve.xml.devices import Devices, Redirdev

__all__ = ["channel_device", "chardev_backend", "chardev_id", "chardev_option", "write_characters"]


def chardev_id(alias: str) -> str:
    """Return the name of the host's end of a device."""
    return f"char{alias}"


def chardev_option(item: Serial | Parallel | Console | Channel | Redirdev, identifier: str) -> str:
    """Return ``-chardev``'s value for a device. Raises LibvirtError for a kind of end the emulator has not."""
    source = item.source
    kind, *rest = _kind(item.type, source, getattr(item.protocol, "type", None))
    parts = [kind, f"id={identifier}", *rest]
    log = getattr(item, "log", None)
    if log is not None:
        parts.append(f"logfile={_escaped(log.file)}")
        parts.append(f"logappend={'off' if log.append == 'off' else 'on'}")
    return ",".join(parts)


def _escaped(value: str | None) -> str:
    return (value or "").replace(",", ",,")


def _kind(kind: str, source: CharSource | None, protocol: str | None) -> list[str]:
    path = _escaped(source.path if source else None)
    if kind in {"null", "stdio", "vc", "pty"}:
        return [kind]
    if kind == "dev":
        return ["tty" if not path.startswith("/dev/parport") else "parport", f"path={path}"]
    if kind == "file":
        append = source.append if source else None
        return ["file", f"path={path}", *([f"append={append}"] if append else [])]
    if kind == "pipe":
        return ["pipe", f"path={path}"]
    if kind == "unix":
        server = source is None or source.mode != "connect"
        return ["socket", f"path={path}", *(["server=on", "wait=off"] if server else [])]
    if kind == "tcp" and source is not None:
        server = source.mode == "bind"
        telnet = ["telnet=on"] if protocol == "telnet" else []
        ends = ["server=on", "wait=off"] if server else []
        return ["socket", f"host={source.host or ''}", f"port={source.service or ''}", *telnet, *ends]
    if kind == "udp" and source is not None:
        return ["udp", f"host={source.host or ''}", f"port={source.service or ''}"]
    if kind == "spicevmc":
        return ["spicevmc", "name=vdagent"]
    raise unsupported(f"unsupported chardev '{kind}'", ErrorDomain.QEMU)


def chardev_backend(item: Channel | Serial | Console) -> dict[str, Any]:
    """Return the host's end of a device as ``chardev-add`` takes it. Raises LibvirtError."""
    kind, source = item.type, item.source
    if kind in {"pty", "null"}:
        return {"type": kind, "data": {}}
    if kind == "file" and source is not None:
        return {"type": "file", "data": {"out": source.path}}
    if kind == "unix" and source is not None:
        server = source.mode != "connect"
        data: dict[str, Any] = {"addr": {"type": "unix", "data": {"path": source.path}}, "server": server}
        if server:
            data["wait"] = False
        return {"type": "socket", "data": data}
    if kind == "tcp" and source is not None:
        server = source.mode == "bind"
        address = {"host": source.host or "", "port": source.service or ""}
        data = {"addr": {"type": "inet", "data": address}, "server": server}
        if server:
            data["wait"] = False
        return {"type": "socket", "data": data}
    raise unsupported(f"unsupported chardev '{kind}'", ErrorDomain.QEMU)


def channel_device(channel: Channel, identifier: str) -> dict[str, Any]:
    """Return the device of a virtio channel."""
    alias = channel.alias.name if channel.alias is not None else None
    place = channel.address
    name = channel.target.name if channel.target is not None else None
    if name is None and channel.type == "spicevmc":
        name = "com.redhat.spice.0"
    return {
        "driver": "virtserialport",
        "bus": f"virtio-serial{(place.controller or 0) if place else 0}.0",
        "nr": int((place.port if place else None) or 1),
        "chardev": identifier,
        "id": alias,
        "name": name,
    }


def write_characters(command: Command, devices: Devices) -> None:
    """Write serial and parallel ports, channels and virtio consoles."""
    _write_serials(command, devices)
    for parallel in devices.parallel:
        alias = parallel.alias.name if parallel.alias is not None else ""
        command.add("chardev", chardev_option(parallel, chardev_id(alias)))
        command.device({"driver": "isa-parallel", "chardev": chardev_id(alias), "id": alias})
    for channel in devices.channel:
        alias = channel.alias.name if channel.alias is not None else ""
        identifier = chardev_id(alias)
        if channel.target is not None and channel.target.type == "virtio":
            command.add("chardev", chardev_option(channel, identifier))
            command.device(channel_device(channel, identifier))
    for number, console in enumerate(devices.console):
        if console.target is None or console.target.type != "virtio":
            continue
        alias = console.alias.name if console.alias is not None else f"console{number}"
        command.add("chardev", chardev_option(console, chardev_id(alias)))
        command.device({"driver": "virtconsole", "bus": "virtio-serial0.0", "chardev": chardev_id(alias), "id": alias})
    for redir in devices.redirdev:
        alias = redir.alias.name if redir.alias is not None else ""
        command.add("chardev", chardev_option(redir, chardev_id(alias)).replace("name=vdagent", "name=usbredir"))
        command.device(
            {"driver": "usb-redir", "chardev": chardev_id(alias), "id": alias, **usb_properties(redir.address)}
        )


def _write_serials(command: Command, devices: Devices) -> None:
    for number, serial in enumerate(devices.serial):
        alias = serial.alias.name if serial.alias is not None else ""
        identifier = chardev_id(alias)
        command.add("chardev", chardev_option(serial, identifier))
        model = serial.target.model.name if serial.target is not None and serial.target.model is not None else None
        if not command.emulator.has("isa-serial") and (model or "isa-serial") == "isa-serial":
            if number == 0:
                command.add("serial", f"chardev:{identifier}")
            continue
        port = serial.target.port if serial.target is not None else number
        device: dict[str, Any] = {"driver": model or "isa-serial", "chardev": identifier, "id": alias}
        if device["driver"] == "isa-serial":
            device["index"] = port
        command.device({**device, **pci_properties(devices, serial.address), **usb_properties(serial.address)})
