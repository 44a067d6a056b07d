"""Reading the document of a device somebody asks for: a mediated device, or a port of a fibre channel host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

from pyhyve.daemon.domains.definition.parse import parse_root, validate_document
from pyhyve.daemon.resources.node_device_faults import FAULTS

if TYPE_CHECKING:
    from pyhyve.xml.document import Node

__all__ = ["CAPABILITIES", "MediatedWish", "PortWish", "Wish", "parse_wish"]

CAPABILITIES: Final = (
    "system",
    "pci",
    "usb_device",
    "usb",
    "net",
    "scsi_host",
    "scsi_target",
    "scsi",
    "storage",
    "fc_host",
    "vports",
    "scsi_generic",
    "drm",
    "mdev_types",
    "mdev",
    "ccw",
    "css",
    "vdpa",
    "ap_card",
    "ap_queue",
    "ap_matrix",
    "vpd",
)
"""Kinds of device, by the bit of virConnectListAllNodeDeviceFlags."""
_WWN_DIGITS: Final = 16


@dataclass(frozen=True, slots=True)
class MediatedWish:
    """A mediated device: of a type of its parent, with attributes its driver knows."""

    parent: str | None
    type: str
    uuid: str | None
    attributes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class PortWish:
    """A virtual port of a fibre channel host."""

    parent: str | None
    parent_names: tuple[str, str] | None
    node: str | None
    port: str | None


Wish = MediatedWish | PortWish


def _child(node: Node, name: str) -> Node | None:
    return next((child for child in node.children if child.name == name), None)


def _text(node: Node, name: str) -> str | None:
    found = _child(node, name)
    return None if found is None else found.text.strip() or None


def parse_wish(xml: str, *, validate: bool = False) -> Wish:
    """Return what a document asks for. Raises LibvirtError, for devices that nobody can make too. Blocks."""
    root = parse_root(xml, "device", "node_device_definition")
    if validate:
        validate_document(xml, "nodedev.rng")
    capability = _child(root, "capability")
    if capability is None:
        raise FAULTS.internal("no device capabilities for 'new device'")
    kind = dict(capability.attributes).get("type")
    if kind is None:
        raise FAULTS.xml("Missing required attribute 'type' in element 'capability'")
    if kind not in CAPABILITIES:
        raise FAULTS.xml(f"Invalid value for attribute 'type' in element 'capability': '{kind}'.")
    parent = _text(root, "parent")
    if kind == "mdev":
        return _mediated(capability, parent)
    port = next((c for c in capability.children if c.name == "capability"), None) if kind == "scsi_host" else None
    if port is not None and dict(port.attributes).get("type") == "fc_host":
        return _port(root, port, parent)
    raise FAULTS.unsupported("Unsupported device type")


def _mediated(capability: Node, parent: str | None) -> MediatedWish:
    kind = _child(capability, "type")
    type_id = None if kind is None else dict(kind.attributes).get("id")
    if not type_id:
        raise FAULTS.unsupported("missing type id attribute for 'new device'")
    if "/" in type_id or type_id in {".", ".."}:
        raise FAULTS.unsupported(f"invalid type id '{type_id}' for 'new device'")
    uuid = _text(capability, "uuid")
    if uuid is not None:
        try:
            uuid = str(UUID(uuid))
        except ValueError as error:
            raise FAULTS.internal(f"Invalid uuid '{uuid}' for new mdev device") from error
    attributes = []
    for child in capability.children:
        if child.name == "attr":
            held = dict(child.attributes)
            if not held.get("name") or "value" not in held or held["name"].startswith("."):
                raise FAULTS.xml("mdev attribute missing name or value")
            attributes.append((held["name"], held["value"]))
    return MediatedWish(parent, type_id, uuid, tuple(attributes))


def _wwn(node: Node, name: str) -> str | None:
    text = _text(node, name)
    if text is not None and (len(text) != _WWN_DIGITS or set(text.lower()) - set("0123456789abcdef")):
        raise FAULTS.internal(f"malformed wwn: {text}")
    return text


def _port(root: Node, capability: Node, parent: str | None) -> PortWish:
    given = _child(root, "parent")
    names = dict(given.attributes) if given is not None else {}
    node, port = names.get("wwnn"), names.get("wwpn")
    if (node is None) != (port is None):
        known, missing = ("wwnn", "wwpn") if port is None else ("wwpn", "wwnn")
        raise FAULTS.xml(f"when providing parent {known}='{node or port}', the {missing} must also be provided")
    both = None if node is None or port is None else (node, port)
    return PortWish(parent, both, _wwn(capability, "wwnn"), _wwn(capability, "wwpn"))
