"""Reading a domain's document: what libvirt refuses is refused with its code and in its words.

The checks follow libvirt's order, so that a document with several mistakes is told the same one first.
"""

from __future__ import annotations

import re
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lxml import etree

from pyhyve.daemon.domains.faults import internal, invalid_argument, unsupported, xml_error
from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.networks import bandwidth
from pyhyve.rpc.errors import ErrorCode, ErrorDomain
from pyhyve.xml.document import Node, XmlError, parse_document
from pyhyve.xml.domain import Domain
from pyhyve.xml.element import INTEGER, from_node

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "DOMAIN_TYPES",
    "SCHEMAS",
    "malformed",
    "no_name",
    "parse_device",
    "parse_domain",
    "parse_live_domain",
    "parse_root",
    "validate_document",
]

SCHEMAS: Final = Path("/usr/share/libvirt/schemas")
"""Where libvirt's published schemas are, if they are installed."""
_CONTEXT: Final = 80
DOMAIN_TYPES: Final = frozenset(
    [
        "qemu",
        "kqemu",
        "kvm",
        "xen",
        "lxc",
        "uml",
        "openvz",
        "test",
        "vmware",
        "hyperv",
        "vbox",
        "phyp",
        "parallels",
        "bhyve",
        "vz",
        "hvf",
    ]
)
"""Kinds of domains that documents may say."""
_ARCHITECTURES: Final = frozenset(
    [
        "alpha",
        "armv6l",
        "armv7l",
        "armv7b",
        "aarch64",
        "cris",
        "i686",
        "ia64",
        "lm32",
        "loongarch64",
        "m68k",
        "microblaze",
        "microblazeel",
        "mips",
        "mipsel",
        "mips64",
        "mips64el",
        "openrisc",
        "parisc",
        "parisc64",
        "ppc",
        "ppcle",
        "ppc64",
        "ppc64le",
        "ppcemb",
        "riscv32",
        "riscv64",
        "s390",
        "s390x",
        "sh4",
        "sh4eb",
        "sparc",
        "sparc64",
        "unicore32",
        "x86_64",
        "xtensa",
        "xtensaeb",
    ]
)
_OS_TYPES: Final = frozenset(["hvm", "xen", "linux", "exe", "uml", "xenpvh"])
_ACTIONS: Final = frozenset(
    ["destroy", "restart", "rename-restart", "preserve", "coredump-destroy", "coredump-restart"]
)
_CLOCKS: Final = frozenset(["utc", "localtime", "variable", "timezone", "absolute"])
_CHOICES: Final[dict[tuple[str, str], frozenset[str]]] = {
    ("disk", "type"): frozenset(["block", "file", "dir", "network", "volume", "nvme", "vhostuser", "vhostvdpa"]),
    ("disk", "device"): frozenset(["disk", "lun", "cdrom", "floppy"]),
    ("disk/target", "bus"): frozenset(["ide", "fdc", "scsi", "virtio", "xen", "usb", "uml", "sata", "sd"]),
    ("interface", "type"): frozenset(
        [
            "user",
            "ethernet",
            "vhostuser",
            "server",
            "client",
            "mcast",
            "network",
            "bridge",
            "internal",
            "direct",
            "hostdev",
            "udp",
            "vdpa",
            "null",
            "vds",
        ]
    ),
    ("graphics", "type"): frozenset(["sdl", "vnc", "rdp", "desktop", "spice", "egl-headless", "dbus"]),
    ("controller", "type"): frozenset(
        ["ide", "fdc", "scsi", "sata", "virtio-serial", "ccid", "usb", "pci", "xenbus", "isa"]
    ),
    ("input", "type"): frozenset(["mouse", "tablet", "keyboard", "passthrough", "evdev"]),
    ("input", "bus"): frozenset(["ps2", "usb", "xen", "parallels", "virtio", "none"]),
    ("video/model", "type"): frozenset(
        [
            "default",
            "vga",
            "cirrus",
            "vmvga",
            "xen",
            "vbox",
            "qxl",
            "parallels",
            "virtio",
            "gop",
            "none",
            "bochs",
            "ramfb",
        ]
    ),
    ("watchdog", "model"): frozenset(["i6300esb", "ib700", "diag288", "itco"]),
    ("memballoon", "model"): frozenset(["virtio", "xen", "none", "virtio-transitional", "virtio-non-transitional"]),
    ("rng", "model"): frozenset(["virtio", "virtio-transitional", "virtio-non-transitional"]),
    ("sound", "model"): frozenset(["sb16", "es1370", "pcspk", "ac97", "ich6", "ich9", "usb", "ich7", "virtio"]),
}
"""Values of attributes of devices that libvirt checks while it reads."""
_REQUIRED: Final = (("graphics", "type"), ("controller", "type"), ("input", "type"), ("memballoon", "model"))
_CHARACTERS: Final = frozenset(
    [
        "null",
        "vc",
        "pty",
        "dev",
        "file",
        "pipe",
        "stdio",
        "udp",
        "tcp",
        "unix",
        "spicevmc",
        "spiceport",
        "nmdm",
        "qemu-vdagent",
        "dbus",
    ]
)
_CHANNEL_TARGETS: Final = frozenset(["guestfwd", "virtio", "xen", "none"])
_MAC: Final = re.compile(r"[0-9a-fA-F]{1,2}(:[0-9a-fA-F]{1,2}){5}", re.ASCII)
_MODEL: Final = re.compile(r"[0-9A-Za-z_-]+", re.ASCII)
_XML: Final = ErrorDomain.XML


def no_name() -> LibvirtError:
    """The document has no name."""
    error = LibvirtError(ErrorCode.NO_NAME, ErrorDomain.DOMAIN, "")
    error.args = ("missing name information",)
    return error


def malformed(text: str, error: Exception, what: str) -> LibvirtError:
    """The document is not XML: the line, and where in it."""
    cause = error.__cause__
    if not isinstance(cause, etree.XMLSyntaxError):
        return LibvirtError(ErrorCode.XML_DETAIL, ErrorDomain.DOMAIN, f"({what}):1: {error}")
    number = cause.lineno or 1
    message = re.sub(r", line \d+, column \d+( \(<string>, line \d+\))?$", "", str(cause.msg))
    lines = text.splitlines()
    line = lines[min(number, len(lines)) - 1] if lines else ""
    place = len(line) if message.startswith("Premature end") else max((cause.offset or 1) - 1, 0)
    start = max(0, place - _CONTEXT) if place > _CONTEXT else 0
    shown = line[start : start + _CONTEXT]
    pointer = "-" * max(min(place - start, len(shown)), 0) + "^"
    detail = f"({what}):{number}: {message}\n{shown}\n{pointer}"
    return LibvirtError(ErrorCode.XML_DETAIL, ErrorDomain.DOMAIN, detail)


def parse_root(text: str, name: str, what: str) -> Node:
    """Parse a document whose root has that name. ``what`` is libvirt's name for it. Raises LibvirtError."""
    try:
        root = parse_document(text)
    except XmlError as error:
        raise malformed(text, error, what) from error
    if root.name != name:
        raise xml_error(f"expecting root element of '{name}', not '{root.name}'", _XML)
    return root


def validate_document(text: str, schema: str) -> None:
    """Check a document against one of libvirt's schemas, where they are installed. Raises LibvirtError. Blocks."""
    path = SCHEMAS / schema
    try:
        grammar = etree.RelaxNG(etree.parse(str(path)))
    except (OSError, etree.RelaxNGParseError) as error:
        raise internal(f"Unable to find schema file {path}", _XML) from error
    if not grammar.validate(etree.fromstring(text.encode())):
        said = "\n".join(dict.fromkeys(entry.message for entry in grammar.error_log))
        detail = f"Unable to validate doc against {path}\n{said}\n"
        raise LibvirtError(ErrorCode.XML_INVALID_SCHEMA, _XML, detail)


def parse_domain(text: str, *, validate: bool = False) -> Domain:
    """Parse a domain's document; what libvirt does not know is left out. Raises LibvirtError. Blocks if validating."""
    root = parse_root(text, "domain", "domain_definition")
    if validate:
        validate_document(text, "domain.rng")
    root = _merge_first(root)
    _check_head(root)
    for device in _child(root, "devices", Node("devices")).children:
        check_device(device)
    return _read(root, keep_unknown=False)


def _read(root: Node, *, keep_unknown: bool = True) -> Domain:
    try:
        return from_node(Domain, root, keep_unknown=keep_unknown)
    except XmlError as error:
        raise xml_error(str(error)) from error


def _merge_first(root: Node) -> Node:
    """Return the document with only the first of each child that may be there once: libvirt reads no more."""
    many = {"sysinfo", "seclabel"}
    seen: set[str] = set()
    kept = []
    for inner in root.children:
        if inner.name in seen and inner.name not in many:
            continue
        seen.add(inner.name)
        kept.append(inner)
    return Node(root.name, root.attributes, "", tuple(kept))


def _child(root: Node, name: str, otherwise: Node | None = None) -> Node:
    for inner in root.children:
        if inner.name == name:
            return inner
    return otherwise or Node(name)


def _text(root: Node, name: str) -> str:
    return _child(root, name).text.strip()


def _attribute(node: Node, name: str) -> str | None:
    return dict(node.attributes).get(name)


def _check_head(root: Node) -> None:
    kind = _attribute(root, "type")
    name = _child(root, "name").text
    if not name:
        raise no_name()
    if kind is None:
        raise internal("missing domain type attribute", ErrorDomain.DOMAIN)
    if kind not in DOMAIN_TYPES:
        raise unsupported(f"invalid domain type {kind}")
    if "/" in name:
        raise xml_error(f"name {name} cannot contain '/'")
    if "\n" in name:
        raise xml_error("name cannot contain newlines")
    if written := _text(root, "uuid"):
        try:
            uuid.UUID(written)
        except ValueError as error:
            raise internal("malformed uuid element", ErrorDomain.DOMAIN) from error
    if "\n" in _child(root, "title").text:
        raise xml_error("Domain title can't contain newlines")
    _check_os(root)
    _check_memory(root)
    _check_vcpu(_child(root, "vcpu"))
    for event, what in (("on_poweroff", "on_poweroff"), ("on_reboot", "on_reboot"), ("on_crash", "on_crash")):
        if (action := _text(root, event)) and action not in _ACTIONS:
            raise unsupported(f"unknown {what} action: {action}")
    offset = _attribute(_child(root, "clock"), "offset")
    if offset and offset not in _CLOCKS:
        raise unsupported(f"unknown clock offset '{offset}'")


def _check_os(root: Node) -> None:
    kind = _child(_child(root, "os"), "type")
    written = kind.text.strip()
    if not written:
        raise xml_error("an os <type> must be specified")
    if written not in _OS_TYPES:
        raise unsupported(f"unknown OS type '{written}'")
    architecture = _attribute(kind, "arch")
    if architecture and architecture not in _ARCHITECTURES:
        raise unsupported(f"Unknown architecture {architecture}")


def _check_memory(root: Node) -> None:
    missing = "Memory size must be specified via <memory> or in the <numa> configuration"
    for name in ("memory", "currentMemory"):
        node = _child(root, name)
        written = node.text.strip()
        if not written:
            if name == "memory":
                raise xml_error(missing)
            continue
        if not written.isdecimal():
            raise xml_error(f"Invalid value '{written}' for element or attribute './{name}[1]'")
        unit = _attribute(node, "unit")
        if unit and not re.fullmatch(r"b|bytes?|[kmgtpe](i?b)?", unit, re.IGNORECASE):
            raise invalid_argument(f"unknown suffix '{unit}'", ErrorDomain.NONE)
        if name == "memory" and not int(written):
            raise xml_error(missing)


def _check_vcpu(node: Node) -> None:
    written = node.text.strip()
    if written and not written.isdecimal():
        raise xml_error("maximum vcpus count must be an integer")
    current = _attribute(node, "current")
    if current is not None and not current.strip().isdecimal():
        raise xml_error("current vcpus count must be an integer")
    most = int(written) if written else 1
    if current is not None and int(current) > most:
        raise unsupported("maximum vCPU count must not be less than current vCPU count")


def check_device(node: Node) -> None:
    """Check one device as libvirt does while reading it. Raises LibvirtError."""
    for name, wanted in _REQUIRED:
        if node.name == name and _attribute(node, wanted) is None:
            raise xml_error(f"Missing required attribute '{wanted}' in element '{name}'", _XML)
    _check_choices(node, node.name)
    for inner in node.children:
        _check_choices(inner, f"{node.name}/{inner.name}")
        if inner.name == "address":
            _check_address(inner)
    check = _CHECKS.get(node.name)
    if check is not None:
        check(node)


def _check_choices(node: Node, path: str) -> None:
    for name, value in node.attributes:
        choices = _CHOICES.get((path, name))
        if choices is not None and value not in choices:
            raise xml_error(f"Invalid value for attribute '{name}' in element '{node.name}': '{value}'.", _XML)


def _check_address(node: Node) -> None:
    if _attribute(node, "type") != "pci":
        return
    for name, most in (("domain", 0xFFFF), ("bus", 0xFF), ("slot", 0x1F), ("function", 7)):
        written = _attribute(node, name)
        if written is None:
            continue
        try:
            value = INTEGER.parse(written)
        except ValueError as error:
            what = f"Invalid value for attribute '{name}' in element 'address': '{written}'. Expected integer value"
            raise xml_error(what, _XML) from error
        if not 0 <= value <= most:
            raise xml_error(f"Invalid PCI address {name}='0x{value:02x}', must be <= 0x{most:X}")


def _check_disk(node: Node) -> None:
    target = _attribute(_child(node, "target"), "dev")
    source = _child(node, "source")
    named = next((value for name, value in source.attributes if name in {"file", "dev", "dir", "name", "volume"}), None)
    if target is None:
        if named is None:
            error = LibvirtError(ErrorCode.NO_TARGET, ErrorDomain.DOMAIN, "")
            error.args = ("missing target information for device (null)",)
            raise error
        raise LibvirtError(ErrorCode.NO_TARGET, ErrorDomain.DOMAIN, named)
    device = _attribute(node, "device") or "disk"
    network = source.name == "source" and _attribute(node, "type") in {"network", "nvme", "vhostuser", "vhostvdpa"}
    if device not in {"cdrom", "floppy"} and named is None and not network:
        raise LibvirtError(ErrorCode.NO_SOURCE, ErrorDomain.DOMAIN, target)


def _check_interface(node: Node) -> None:
    kind = _attribute(node, "type") or "ethernet"
    mac = _attribute(_child(node, "mac"), "address")
    if mac is not None:
        if not _MAC.fullmatch(mac.strip()):
            raise xml_error(f"unable to parse mac address '{mac}'")
        if int(mac.strip().split(":")[0], 16) & 1:
            raise xml_error(f"expected unicast mac address, found multicast '{mac}'")
    source = _child(node, "source")
    for needs, attribute in (("network", "network"), ("bridge", "bridge"), ("direct", "dev"), ("internal", "name")):
        if kind == needs:
            if not any(inner.name == "source" for inner in node.children):
                raise xml_error(f"interface type='{kind}' requires a 'source' element")
            if not _attribute(source, attribute):
                raise xml_error(f"Missing required attribute '{attribute}' in element 'source'", _XML)
    bandwidth.parse(_child(node, "bandwidth"), with_floor=kind == "network")
    model = _attribute(_child(node, "model"), "type")
    if model is not None and not _MODEL.fullmatch(model):
        raise invalid_argument("Model name contains invalid characters", ErrorDomain.DOMAIN)


def _check_character(node: Node) -> None:
    kind = _attribute(node, "type")
    if kind is not None and kind not in _CHARACTERS:
        raise unsupported(f"unknown type presented to host for character device: {kind}")
    target = _attribute(_child(node, "target"), "type")
    if node.name == "channel":
        if target is None:
            raise xml_error("target type must be specified for channel device")
        if target not in _CHANNEL_TARGETS:
            raise unsupported(f"unknown target type '{target}' specified for character device")


_CHECKS: Final[dict[str, Callable[[Node], None]]] = {
    "disk": _check_disk,
    "interface": _check_interface,
    "serial": _check_character,
    "parallel": _check_character,
    "console": _check_character,
    "channel": _check_character,
}


def parse_device(text: str) -> Node:
    """Parse the document of one device, checked. Raises LibvirtError."""
    try:
        root = parse_document(text)
    except XmlError as error:
        raise malformed(text, error, "device_definition") from error
    check_device(root)
    return root


def parse_live_domain(text: str) -> Domain:
    """Parse a live document that we wrote ourselves. Raises LibvirtError."""
    return _read(parse_root(text, "domain", "domain_definition"))
