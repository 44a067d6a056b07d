"""Devices of the daemon's host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pyhyve.cli.virsh.documents import DUMP_USAGE, show
from pyhyve.cli.virsh.flags import collect
from pyhyve.cli.virsh.output import tree_lines
from pyhyve.cli.virsh.registry import verb
from pyhyve.cli.virsh.shell import VerbFailed, read_file
from pyhyve.client import LibvirtError

if TYPE_CHECKING:
    from pyhyve.cli.virsh.shell import Shell
    from pyhyve.cli.virsh.syntax import Values

_CAPABILITIES: Final = {
    "system": 1,
    "pci": 2,
    "usb_device": 4,
    "usb": 8,
    "net": 16,
    "scsi_host": 32,
    "scsi_target": 64,
    "scsi": 128,
    "storage": 256,
    "fc_host": 512,
    "vports": 1024,
    "scsi_generic": 2048,
    "drm": 4096,
    "mdev_types": 8192,
    "mdev": 16384,
    "ccw": 32768,
    "css": 65536,
    "vdpa": 131072,
    "ap_card": 262144,
    "ap_queue": 524288,
    "ap_matrix": 1048576,
    "vpd": 2097152,
}
_INACTIVE, _ACTIVE = 1 << 30, 1 << 31


def _find(shell: Shell, values: Values) -> Any:  # noqa: ANN401 - a record
    text = values.text("device")
    if "," in text:
        wwnn, _, wwpn = text.partition(",")
        if "," in wwpn:
            msg = f"Malformed device value '{text}'"
            raise VerbFailed(msg)
        call: tuple[str, *tuple[object, ...]] = ("NODE_DEVICE_LOOKUP_SCSI_HOST_BY_WWN", wwnn, wwpn, 0)
    else:
        call = ("NODE_DEVICE_LOOKUP_BY_NAME", text)
    with shell.failing(f"Could not find matching device '{text}'"):
        return shell.call(*call).dev


@verb("nodedev-list", "nodedev", "[--tree] [--cap <string>] [--inactive] [--all]", "the host's devices")
def nodedev_list(shell: Shell, values: Values) -> None:
    """List devices."""
    if values.flag("tree") and (values.get("cap") is not None or values.flag("inactive")):
        msg = "Option --tree is incompatible with --cap and --inactive"
        raise VerbFailed(msg)
    flags = 0
    for word in (values.get("cap") or "").split(","):
        if word and word not in _CAPABILITIES:
            msg = "Invalid capability type"
            raise VerbFailed(msg)
        flags |= _CAPABILITIES.get(word, 0)
    if values.flag("inactive") or values.flag("all"):
        flags |= _INACTIVE
    if not values.flag("inactive"):
        flags |= _ACTIVE
    with shell.failing("Failed to list node devices"):
        found = shell.call("CONNECT_LIST_ALL_NODE_DEVICES", 1, flags).devices
    names = sorted((device.name for device in found), key=str.lower)
    if not values.flag("tree"):
        for name in names:
            shell.print(name)
        return
    parents = {}
    for name in names:
        parent = None if name == "computer" else shell.call("NODE_DEVICE_GET_PARENT", name).parent_name
        parents[name] = parent
    for line in tree_lines(parents):
        shell.print(line)


@verb("nodedev-dumpxml", "nodedev", f"<device> {DUMP_USAGE}", "a device's document")
def nodedev_dumpxml(shell: Shell, values: Values) -> None:
    """Show a device's document."""
    show(shell, values, shell.call("NODE_DEVICE_GET_XML_DESC", _find(shell, values).name, 0).xml)


@verb("nodedev-info", "nodedev", "<device>", "a device at a glance")
def nodedev_info(shell: Shell, values: Values) -> None:
    """Show a device at a glance."""
    name = _find(shell, values).name
    shell.fact("Name:", name)
    parent = shell.call("NODE_DEVICE_GET_PARENT", name).parent_name
    shell.fact("Parent:", parent or "")
    shell.fact("Active:", "yes" if shell.call("NODE_DEVICE_IS_ACTIVE", name).active else "no")
    shell.fact("Persistent:", "yes" if shell.call("NODE_DEVICE_IS_PERSISTENT", name).persistent else "no")
    try:
        shell.fact("Autostart:", "yes" if shell.call("NODE_DEVICE_GET_AUTOSTART", name).autostart else "no")
    except LibvirtError:
        shell.fact("Autostart:", "no autostart")


@verb("nodedev-create", "nodedev", "<file> [--validate]", "make the device of a file")
def nodedev_create(shell: Shell, values: Values) -> None:
    """Make a device."""
    path = values.text("file")
    xml = read_file(path)
    with shell.failing(f"Failed to create node device from {path}"):
        made = shell.call("NODE_DEVICE_CREATE_XML", xml, collect(values, {"validate": 1})).dev
    shell.say(f"Node device {made.name} created from {path}")


@verb("nodedev-define", "nodedev", "<file> [--validate]", "add or change a device's definition")
def nodedev_define(shell: Shell, values: Values) -> None:
    """Define a device."""
    path = values.text("file")
    xml = read_file(path)
    with shell.failing(f"Failed to define node device from '{path}'"):
        made = shell.call("NODE_DEVICE_DEFINE_XML", xml, collect(values, {"validate": 1})).dev
    shell.say(f"Node device '{made.name}' defined from '{path}'")


@verb("nodedev-destroy", "nodedev", "<device>", "remove a device from the host")
def nodedev_destroy(shell: Shell, values: Values) -> None:
    """Remove a device."""
    name = _find(shell, values).name
    with shell.failing(f"Failed to destroy node device '{name}'"):
        shell.call("NODE_DEVICE_DESTROY", name)
    shell.say(f"Destroyed node device '{name}'")


@verb("nodedev-undefine", "nodedev", "<device>", "remove a device's definition")
def nodedev_undefine(shell: Shell, values: Values) -> None:
    """Remove a definition."""
    name = _find(shell, values).name
    with shell.failing(f"Failed to undefine node device '{name}'"):
        shell.call("NODE_DEVICE_UNDEFINE", name, 0)
    shell.say(f"Undefined node device '{name}'")


@verb("nodedev-start", "nodedev", "<device>", "make a defined device exist")
def nodedev_start(shell: Shell, values: Values) -> None:
    """Start a device."""
    name = _find(shell, values).name
    with shell.failing(f"Failed to start device {name}"):
        shell.call("NODE_DEVICE_CREATE", name, 0)
    shell.say(f"Device {name} started")


@verb("nodedev-autostart", "nodedev", "<device> [--disable]", "choose whether a device starts with the host")
def nodedev_autostart(shell: Shell, values: Values) -> None:
    """Mark for autostart."""
    name, enabled = _find(shell, values).name, not values.flag("disable")
    un = "" if enabled else "un"
    with shell.failing(f"failed to {un}mark device {name} as autostarted"):
        shell.call("NODE_DEVICE_SET_AUTOSTART", name, int(enabled))
    shell.say(f"Device {name} {un}marked as autostarted")


@verb("nodedev-detach", "nodedev", "<device> [--driver <string>]", "take a device from the host's driver, for a guest")
def nodedev_detach(shell: Shell, values: Values) -> None:
    """Detach from the host."""
    name, driver = _find(shell, values).name, values.get("driver")
    with shell.failing(f"Failed to detach device {name}"):
        if driver is not None:
            shell.call("NODE_DEVICE_DETACH_FLAGS", name, driver, 0)
        else:
            shell.call("NODE_DEVICE_DETTACH", name)
    shell.say(f"Device {name} detached")


@verb("nodedev-reattach", "nodedev", "<device>", "give a device back to the host's driver")
def nodedev_reattach(shell: Shell, values: Values) -> None:
    """Give back to the host."""
    name = _find(shell, values).name
    with shell.failing(f"Failed to re-attach device {name}"):
        shell.call("NODE_DEVICE_RE_ATTACH", name)
    shell.say(f"Device {name} re-attached")


@verb("nodedev-reset", "nodedev", "<device>", "reset a device")
def nodedev_reset(shell: Shell, values: Values) -> None:
    """Reset a device."""
    name = _find(shell, values).name
    with shell.failing(f"Failed to reset device {name}"):
        shell.call("NODE_DEVICE_RESET", name)
    shell.say(f"Device {name} reset")
