"""Network interfaces of the daemon's host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from lxml import etree

from pyhyve.cli.virsh.documents import DUMP_USAGE, edit, parse, show
from pyhyve.cli.virsh.flags import collect
from pyhyve.cli.virsh.registry import verb
from pyhyve.cli.virsh.shell import VerbFailed, read_file
from pyhyve.client import LibvirtError

if TYPE_CHECKING:
    from pyhyve.cli.virsh.shell import Shell
    from pyhyve.cli.virsh.syntax import Values

_INACTIVE, _ACTIVE = 1, 2
_MAC_LENGTH: Final = 17


def _find(shell: Shell, values: Values, name: str = "interface") -> Any:  # noqa: ANN401 - a record
    text = values.text(name)
    is_mac = len(text) == _MAC_LENGTH and text.count(":") == 5
    ways = ("INTERFACE_LOOKUP_BY_NAME", *(["INTERFACE_LOOKUP_BY_MAC_STRING"] if is_mac else []))
    reason = ""
    for procedure in ways:
        try:
            return shell.call(procedure, text).iface
        except LibvirtError as error:
            reason = str(error)
    msg = f"failed to get interface '{text}'"
    raise VerbFailed(msg, reason)


@verb("iface-list", "interface", "[--inactive] [--all]", "the host's network interfaces")
def iface_list(shell: Shell, values: Values) -> None:
    """List interfaces."""
    flags = _ACTIVE | _INACTIVE if values.flag("all") else _INACTIVE if values.flag("inactive") else _ACTIVE
    with shell.failing("Failed to list interfaces"):
        found = sorted(shell.call("CONNECT_LIST_ALL_INTERFACES", 1, flags).ifaces, key=lambda i: i.name.lower())
    rows = [[i.name, "active" if shell.call("INTERFACE_IS_ACTIVE", i).active else "inactive", i.mac] for i in found]
    shell.table(["Name", "State", "MAC Address"], rows)


@verb("iface-name", "interface", "<interface>", "the name of an interface's MAC address")
def iface_name(shell: Shell, values: Values) -> None:
    """Show a name."""
    text = values.text("interface")
    try:
        shell.print(shell.call("INTERFACE_LOOKUP_BY_MAC_STRING", text).iface.name)
    except LibvirtError as error:
        msg = f"failed to get interface '{text}'"
        raise VerbFailed(msg) from error


@verb("iface-mac", "interface", "<interface>", "the MAC address of an interface's name")
def iface_mac(shell: Shell, values: Values) -> None:
    """Show a MAC address."""
    text = values.text("interface")
    try:
        shell.print(shell.call("INTERFACE_LOOKUP_BY_NAME", text).iface.mac)
    except LibvirtError as error:
        msg = f"failed to get interface '{text}'"
        raise VerbFailed(msg, str(error)) from error


@verb("iface-dumpxml", "interface", f"<interface> [--inactive] {DUMP_USAGE}", "an interface's document")
def iface_dumpxml(shell: Shell, values: Values) -> None:
    """Show an interface's document."""
    flags = collect(values, {"inactive": 1})
    show(shell, values, shell.call("INTERFACE_GET_XML_DESC", _find(shell, values), flags).xml)


@verb("iface-edit", "interface", "<interface>", "edit an interface's document")
def iface_edit(shell: Shell, values: Values) -> None:
    """Edit an interface's document."""
    found = _find(shell, values)
    edit(
        shell,
        shell.call("INTERFACE_GET_XML_DESC", found, 1).xml,
        lambda xml: shell.call("INTERFACE_DEFINE_XML", xml, 0),
        unchanged=f"Interface {found.name} XML configuration not changed.",
        done=f"Interface {found.name} XML configuration edited.",
    )


@verb("iface-define", "interface", "<file> [--validate]", "add or change an interface's definition")
def iface_define(shell: Shell, values: Values) -> None:
    """Define an interface."""
    path = values.text("file")
    xml = read_file(path)
    with shell.failing(f"Failed to define interface from {path}"):
        made = shell.call("INTERFACE_DEFINE_XML", xml, collect(values, {"validate": 1})).iface
    shell.say(f"Interface {made.name} defined from {path}")


def _act(shell: Shell, values: Values, procedure: str, verb_: str, done: str, *flags: int) -> None:
    found = _find(shell, values)
    with shell.failing(f"Failed to {verb_} interface {found.name}"):
        shell.call(procedure, found, *flags)
    shell.say(f"Interface {found.name} {done}")


@verb("iface-start", "interface", "<interface>", "bring an interface up")
def iface_start(shell: Shell, values: Values) -> None:
    """Bring up."""
    _act(shell, values, "INTERFACE_CREATE", "start", "started", 0)


@verb("iface-destroy", "interface", "<interface>", "take an interface down")
def iface_destroy(shell: Shell, values: Values) -> None:
    """Take down."""
    _act(shell, values, "INTERFACE_DESTROY", "destroy", "destroyed", 0)


@verb("iface-undefine", "interface", "<interface>", "remove an interface's definition")
def iface_undefine(shell: Shell, values: Values) -> None:
    """Remove a definition."""
    _act(shell, values, "INTERFACE_UNDEFINE", "undefine", "undefined")


@verb("iface-begin", "interface", "", "remember the interfaces' configuration, to be able to go back")
def iface_begin(shell: Shell, values: Values) -> None:
    """Begin a change."""
    with shell.failing("Failed to begin network config change transaction"):
        shell.call("INTERFACE_CHANGE_BEGIN", 0)
    shell.hint("Network config change transaction started\n")


@verb("iface-commit", "interface", "", "keep what changed since iface-begin")
def iface_commit(shell: Shell, values: Values) -> None:
    """Keep a change."""
    with shell.failing("Failed to commit network config change transaction"):
        shell.call("INTERFACE_CHANGE_COMMIT", 0)
    shell.hint("Network config change transaction committed\n")


@verb("iface-rollback", "interface", "", "undo what changed since iface-begin")
def iface_rollback(shell: Shell, values: Values) -> None:
    """Undo a change."""
    with shell.failing("Failed to rollback network config change transaction"):
        shell.call("INTERFACE_CHANGE_ROLLBACK", 0)
    shell.hint("Network config change transaction rolled back\n")


_CONFIGURATION: Final = ("start", "mtu", "protocol")


@verb(
    "iface-bridge",
    "interface",
    "<interface> <bridge> [--no-stp] [--delay <number>] [--no-start]",
    "put an interface on a new bridge",
)
def iface_bridge(shell: Shell, values: Values) -> None:
    """Make a bridge of an interface."""
    name, bridge_name = values.text("interface"), values.text("bridge")
    delay = values.number("delay", minimum=0) or 0
    found = _find(shell, values)
    if _exists(shell, bridge_name):
        msg = f"Network device {bridge_name} already exists"
        raise VerbFailed(msg)
    inner = parse(shell.call("INTERFACE_GET_XML_DESC", found, 1).xml)
    if inner.get("type") == "bridge":
        msg = f"Existing device {name} is already a bridge"
        raise VerbFailed(msg)
    outer = etree.Element("interface", type="bridge", name=bridge_name)
    for child in [c for c in inner if c.tag in _CONFIGURATION]:
        outer.append(child)
    bridge = etree.SubElement(outer, "bridge", stp="off" if values.flag("no-stp") else "on", delay=str(delay))
    bridge.append(inner)
    xml = etree.tostring(outer, encoding="unicode")
    with shell.failing(f"Failed to define new bridge interface {bridge_name}"):
        made = shell.call("INTERFACE_DEFINE_XML", xml, 0).iface
    shell.say(f"Created bridge {bridge_name} with attached device {name}")
    if not values.flag("no-start"):
        with shell.failing(f"Failed to start bridge interface {bridge_name}"):
            shell.call("INTERFACE_CREATE", made, 0)
        shell.say(f"Bridge interface {bridge_name} started")


def _exists(shell: Shell, name: str) -> bool:
    try:
        shell.call("INTERFACE_LOOKUP_BY_NAME", name)
    except LibvirtError:
        return False
    return True


@verb("iface-unbridge", "interface", "<bridge> [--no-start]", "take an interface off its bridge, and the bridge away")
def iface_unbridge(shell: Shell, values: Values) -> None:
    """Unmake a bridge of one interface."""
    name, found = values.text("bridge"), _find(shell, values, "bridge")
    outer = parse(shell.call("INTERFACE_GET_XML_DESC", found, 1).xml)
    bridge = outer.find("bridge")
    if outer.get("type") != "bridge" or bridge is None:
        msg = f"Device {name} is not a bridge"
        raise VerbFailed(msg)
    attached = bridge.findall("interface")
    if len(attached) != 1:
        msg = "Multiple interfaces attached to bridge" if attached else "No interface attached to bridge"
        raise VerbFailed(msg)
    inner = attached[0]
    for child in [c for c in outer if c.tag in _CONFIGURATION]:
        inner.append(child)
    if shell.call("INTERFACE_IS_ACTIVE", found).active:
        with shell.failing(f"Failed to destroy bridge interface {name}"):
            shell.call("INTERFACE_DESTROY", found, 0)
    with shell.failing(f"Failed to undefine bridge interface {name}"):
        shell.call("INTERFACE_UNDEFINE", found)
    with shell.failing(f"Failed to define new interface {inner.get('name')}"):
        made = shell.call("INTERFACE_DEFINE_XML", etree.tostring(inner, encoding="unicode", with_tail=False), 0).iface
    shell.say(f"Device {inner.get('name')} un-attached from bridge {name}")
    if not values.flag("no-start"):
        with shell.failing(f"Failed to start interface {inner.get('name')}"):
            shell.call("INTERFACE_CREATE", made, 0)
        shell.say(f"Interface {inner.get('name')} started")
