"""Device documents made from the options of attach-disk and attach-interface."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

from pyhyve.cli.virsh.shell import VerbFailed
from pyhyve.cli.virsh.syntax import scaled_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyhyve.cli.virsh.syntax import Values

__all__ = ["attribute", "disk_document", "interface_document"]

_BUS_BY_TARGET: Final = {"hd": "ide", "sd": "scsi", "vd": "virtio", "xvd": "xen", "ubd": "uml", "fd": "fdc"}
_PCI: Final = re.compile(r"(?:pci:)?([0-9a-fA-F]+)[.:]([0-9a-fA-F]+)[.:]([0-9a-fA-F]+)\.([0-7])")
_CCW: Final = re.compile(r"ccw:(?:0x)?([0-9a-fA-F]+)\.(?:0x)?([0-9a-fA-F]+)\.(?:0x)?([0-9a-fA-F]+)")
_DRIVE: Final = re.compile(r"(?:scsi|sata|ide|usb):(\d+)\.(\d+)(?:\.(\d+))?")
_RATE_FIELDS: Final = ("average", "peak", "burst", "floor")


def attribute(name: str, value: object) -> str:
    """Return an attribute with its leading space."""
    return f" {name}='" + escape(str(value), {"'": "&apos;", '"': "&quot;"}) + "'"


def _optional(*pairs: tuple[str, str | None]) -> str:
    return "".join(attribute(name, value) for name, value in pairs if value is not None)


def _lines(text: Sequence[str | None]) -> str:
    return "\n".join(line for line in text if line is not None) + "\n"


# -- disks -------------------------------------------------------------------------------------------------------------


def disk_document(values: Values) -> str:
    """Return the ``<disk>`` that attach-disk's options describe. Raises VerbFailed."""
    mode = values.get("mode")
    if mode not in {None, "readonly", "shareable"}:
        msg = f"No support for {mode} in command 'attach-disk'"
        raise VerbFailed(msg)
    kind, source = _disk_source(values)
    driver = _optional(
        ("name", values.get("driver")),
        ("type", values.get("subdriver")),
        ("iothread", values.get("iothread")),
        ("cache", values.get("cache")),
        ("io", values.get("io")),
    )
    simple = [(tag, values.get(tag)) for tag in ("serial",)]
    alias, wwn = values.get("alias"), values.get("wwn")
    rawio = attribute("rawio", "yes") if values.flag("rawio") else ""
    return _lines(
        [
            f"<disk{attribute('type', kind)}{_optional(('device', values.get('type')))}{rawio}>",
            f"  <driver{driver}/>" if driver else None,
            *source,
            f"  <target{attribute('dev', values.text('target'))}{_optional(('bus', values.get('targetbus')))}/>",
            f"  <{mode}/>" if mode else None,
            *(f"  <{tag}>{escape(text)}</{tag}>" for tag, text in simple if text is not None),
            f"  <alias{attribute('name', alias)}/>" if alias is not None else None,
            f"  <wwn>{escape(wwn)}</wwn>" if wwn is not None else None,
            _disk_address(values),
            "</disk>",
        ]
    )


def _disk_source(values: Values) -> tuple[str, list[str]]:
    source, kind = values.text("source"), values.get("sourcetype")
    protocol = values.get("source-protocol")
    if kind is None:
        if protocol is not None:
            kind = "network"
        else:
            try:
                kind = "block" if stat.S_ISBLK(Path(source).stat().st_mode) else "file"
            except (OSError, ValueError):
                kind = "file"
    if kind not in {"block", "file", "network"}:
        msg = f"Unknown source type: '{kind}'"
        raise VerbFailed(msg)
    if kind != "network":
        return kind, [f"  <source{attribute('dev' if kind == 'block' else 'file', source)}/>"]
    if protocol is None:
        msg = "--source-protocol option is required by option --sourcetype network"
        raise VerbFailed(msg)
    host, transport, socket = (values.get(f"source-host-{name}") for name in ("name", "transport", "socket"))
    opening = f"  <source{attribute('protocol', protocol)}{attribute('name', source)}"
    if host is None and transport is None and socket is None:
        return kind, [opening + "/>"]
    name, port = (None, None) if host is None else _host_port(host)
    pairs = _optional(("transport", transport), ("name", name), ("port", port), ("socket", socket))
    return kind, [opening + ">", f"    <host{pairs}/>", "  </source>"]


def _host_port(host: str) -> tuple[str, str | None]:
    if host.startswith("[") and "]" in host:
        name, _, rest = host[1:].partition("]")
        return name, rest.removeprefix(":") or None
    name, colon, port = host.rpartition(":")
    return (name, port) if colon else (host, None)


def _disk_address(values: Values) -> str | None:
    text = values.get("address")
    if text is None:
        return None
    prefix = text.partition(":")[0]
    if prefix not in {"pci", "ccw", "scsi", "sata", "ide", "usb"}:
        msg = "Invalid address."
        raise VerbFailed(msg)
    target = values.text("target")
    bus = values.get("targetbus") or next((b for p, b in _BUS_BY_TARGET.items() if target.startswith(p)), None)
    if bus == "virtio":
        return _virtio_address(text, multifunction=values.flag("multifunction"))
    if bus in {"ide", "scsi", "sata"}:
        match = _DRIVE.fullmatch(text) if prefix == bus else None
        if match is None:
            expected = {"ide": "an ide:00.00.00", "scsi": "a scsi:00.00.00 or usb:00.00 or sata:00.00.00"}
            msg = f"expecting {expected.get(bus, f'a {bus}:00.00.00')} address."
            raise VerbFailed(msg)
        controller, bus_number, unit = match[1], match[2], match[3]
        if unit is None:
            return f"  <address type='drive' controller='{controller}' bus='0' unit='{bus_number}'/>"
        return f"  <address type='drive' controller='{controller}' bus='{bus_number}' unit='{unit}'/>"
    if bus == "usb":
        match = _DRIVE.fullmatch(text) if prefix == "usb" else None
        if match is None:
            msg = "expecting a usb:00.00 address."
            raise VerbFailed(msg)
        return f"  <address type='usb' bus='{match[1]}' port='{match[2]}'/>"
    return None


def _virtio_address(text: str, *, multifunction: bool) -> str:
    extra = attribute("multifunction", "on") if multifunction else ""
    if match := _PCI.fullmatch(text):
        domain, bus, slot, function = (int(part, 16) for part in match.groups())
        numbers = f"domain='0x{domain:04x}' bus='0x{bus:02x}' slot='0x{slot:02x}' function='0x{function:x}'"
        return f"  <address type='pci' {numbers}{extra}/>"
    if match := _CCW.fullmatch(text):
        cssid, ssid, number = (int(part, 16) for part in match.groups())
        return f"  <address type='ccw' cssid='0x{cssid:02x}' ssid='0x{ssid:x}' devno='0x{number:04x}'/>"
    msg = "expecting a pci:0000.00.00.00 or ccw:00.0.0000 address."
    raise VerbFailed(msg)


# -- network interfaces ------------------------------------------------------------------------------------------------


def interface_document(values: Values) -> str:
    """Return the ``<interface>`` that attach-interface's options describe. Raises VerbFailed."""
    kind, source = values.text("type"), values.text("source")
    managed = attribute("managed", "yes") if values.flag("managed") and kind == "hostdev" else ""
    rates = [_rate(values, name) for name in ("inbound", "outbound")]
    simple = (("target", "dev"), ("mac", "address"), ("script", "path"), ("model", "type"), ("alias", "name"))
    return _lines(
        [
            f"<interface{attribute('type', kind)}{managed}>",
            *_interface_source(values, kind, source),
            *(f"  <{tag}{attribute(name, given)}/>" for tag, name in simple if (given := values.get(tag)) is not None),
            *(["  <bandwidth>", *(r for r in rates if r), "  </bandwidth>"] if any(rates) else []),
            "</interface>",
        ]
    )


def _interface_source(values: Values, kind: str, source: str) -> list[str]:
    if kind in {"network", "bridge"}:
        return [f"  <source{attribute(kind, source)}/>"]
    if kind == "direct":
        return [f"  <source{attribute('dev', source)}/>"]
    if kind == "vhostuser":
        mode = values.get("source-mode")
        if mode not in {"server", "client"}:
            msg = f"Invalid source mode: {mode}"
            raise VerbFailed(msg)
        return [f"  <source type='unix'{attribute('path', source)}{attribute('mode', mode)}/>"]
    if kind == "hostdev":
        match = _PCI.fullmatch(source)
        if match is None:
            msg = f"cannot parse pci address '{source}' for network interface"
            raise VerbFailed(msg)
        domain, bus, slot, function = (int(part, 16) for part in match.groups())
        numbers = f"domain='0x{domain:04x}' bus='0x{bus:02x}' slot='0x{slot:02x}' function='0x{function:x}'"
        return ["  <source>", f"    <address type='pci' {numbers}/>", "  </source>"]
    msg = f"No support for {kind} in command 'attach-interface'"
    raise VerbFailed(msg)


def _rate(values: Values, name: str) -> str | None:
    text = values.get(name)
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) > len(_RATE_FIELDS):
        msg = f"Rate string '{text}' has too many fields"
        raise VerbFailed(msg)
    shown = ""
    for field, part in zip(_RATE_FIELDS, parts, strict=False):
        if not part and field != "average":
            continue
        if not part.isdigit() and (scaled_bytes(part, 1) is None or not part):
            msg = f"field '{field}' is malformed"
            raise VerbFailed(msg)
        shown += attribute(field, part)
    return f"    <{name}{shown}/>"
