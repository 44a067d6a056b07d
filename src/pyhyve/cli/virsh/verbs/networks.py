"""Virtual networks and their ports."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Final
from uuid import UUID

from pyhyve.cli.virsh.documents import DUMP_USAGE, edit, show
from pyhyve.cli.virsh.flags import AFFECT_USAGE, affect, collect, exclusive
from pyhyve.cli.virsh.registry import verb
from pyhyve.cli.virsh.shell import VerbFailed, read_file
from pyhyve.client import LibvirtError, Network

if TYPE_CHECKING:
    from typing import Any

    from pyhyve.cli.virsh.shell import Shell
    from pyhyve.cli.virsh.syntax import Values

_ACTIVE, _INACTIVE = 2, 1
_FILTERS: Final = {"persistent": 4, "transient": 8, "autostart": 16, "no-autostart": 32}
_COMMANDS: Final = {"modify": 1, "delete": 2, "add-last": 3, "add": 3, "add-first": 4}
_SECTIONS: Final = (
    "none",
    "bridge",
    "domain",
    "ip",
    "ip-dhcp-host",
    "ip-dhcp-range",
    "forward",
    "forward-interface",
    "forward-pf",
    "portgroup",
    "dns-host",
    "dns-txt",
    "dns-srv",
)


@verb(
    "net-list",
    "network",
    "[--inactive] [--all] [--persistent] [--transient] [--autostart] [--no-autostart] [--uuid] [--name] [--table]",
    "virtual networks",
)
def net_list(shell: Shell, values: Values) -> None:
    """List networks."""
    if sum(map(values.flag, ("table", "name", "uuid"))) > 1:
        msg = "Only one argument from --table, --name and --uuid may be specified."
        raise VerbFailed(msg)
    plain = next((name for name in ("uuid", "name") if values.flag(name)), None)
    flags = collect(values, _FILTERS)
    if values.flag("all"):
        flags |= _ACTIVE | _INACTIVE
    else:
        flags |= _INACTIVE if values.flag("inactive") else _ACTIVE
    with shell.failing("Failed to list networks"):
        networks = shell.connection.list_all_networks(flags)
    networks.sort(key=lambda n: n.name.lower())
    if plain is not None:
        for network in networks:
            shell.print(str(network.uuid) if plain == "uuid" else network.name)
        return
    rows = [
        [
            n.name,
            "active" if n.is_active() else "inactive",
            _autostart(n),
            "yes" if n.is_persistent() else "no",
        ]
        for n in networks
    ]
    shell.table(["Name", "State", "Autostart", "Persistent"], rows)


def _autostart(network: Network) -> str:
    try:
        return "yes" if network.autostart() else "no"
    except LibvirtError:
        return "no autostart"


@verb("net-info", "network", "<network>", "a network at a glance")
def net_info(shell: Shell, values: Values) -> None:
    """Show a network at a glance."""
    network = shell.network(values)
    shell.fact("Name:", network.name)
    shell.fact("UUID:", network.uuid)
    shell.fact("Active:", "yes" if network.is_active() else "no")
    shell.fact("Persistent:", "yes" if network.is_persistent() else "no")
    shell.fact("Autostart:", _autostart(network))
    try:
        shell.fact("Bridge:", network.bridge_name())
    except LibvirtError:
        return


@verb("net-autostart", "network", "<network> [--disable]", "choose whether a network comes up with the daemon")
def net_autostart(shell: Shell, values: Values) -> None:
    """Mark for autostart."""
    network, enabled = shell.network(values), not values.flag("disable")
    un = "" if enabled else "un"
    with shell.failing(f"failed to {un}mark network {network.name} as autostarted"):
        network.set_autostart(enabled=enabled)
    shell.say(f"Network {network.name} {un}marked as autostarted")


def _make(shell: Shell, values: Values, word: str, procedure: str) -> None:
    path, flags = values.text("file"), collect(values, {"validate": 1})
    xml = read_file(path)
    with shell.failing(f"Failed to {word} network from {path}"):
        answer = shell.call(f"{procedure}_FLAGS", xml, flags) if flags else shell.call(procedure, xml)
    shell.say(f"Network {answer.net.name} {word}d from {path}")


@verb("net-define", "network", "<file> [--validate]", "add or change a network's definition")
def net_define(shell: Shell, values: Values) -> None:
    """Define a network."""
    _make(shell, values, "define", "NETWORK_DEFINE_XML")


@verb("net-create", "network", "<file> [--validate]", "bring up a network that is forgotten when it goes down")
def net_create(shell: Shell, values: Values) -> None:
    """Bring up a transient network."""
    _make(shell, values, "create", "NETWORK_CREATE_XML")


@verb("net-start", "network", "<network>", "bring a network up")
def net_start(shell: Shell, values: Values) -> None:
    """Bring up."""
    network = shell.network(values)
    with shell.failing(f"Failed to start network {network.name}"):
        network.start()
    shell.say(f"Network {network.name} started")


@verb("net-destroy", "network", "<network>", "take a network down")
def net_destroy(shell: Shell, values: Values) -> None:
    """Take down."""
    network = shell.network(values)
    with shell.failing(f"Failed to destroy network {network.name}"):
        network.destroy()
    shell.say(f"Network {network.name} destroyed")


@verb("net-undefine", "network", "<network>", "remove a network's definition")
def net_undefine(shell: Shell, values: Values) -> None:
    """Remove a definition."""
    network = shell.network(values)
    with shell.failing(f"Failed to undefine network {network.name}"):
        network.undefine()
    shell.say(f"Network {network.name} has been undefined")


@verb("net-dumpxml", "network", f"<network> [--inactive] {DUMP_USAGE}", "a network's document")
def net_dumpxml(shell: Shell, values: Values) -> None:
    """Show a network's document."""
    show(shell, values, shell.network(values).xml(collect(values, {"inactive": 1})))


@verb("net-edit", "network", "<network>", "edit a network's document")
def net_edit(shell: Shell, values: Values) -> None:
    """Edit a network's document."""
    network = shell.network(values)
    edit(
        shell,
        network.xml(1),
        lambda xml: shell.call("NETWORK_DEFINE_XML", xml),
        unchanged=f"Network {network.name} XML configuration not changed.",
        done=f"Network {network.name} XML configuration edited.",
    )


@verb("net-name", "network", "<network>", "the name of a network's UUID")
def net_name(shell: Shell, values: Values) -> None:
    """Show a network's name."""
    shell.print(shell.network(values, by_name=False).name)


@verb("net-uuid", "network", "<network>", "the UUID of a network's name")
def net_uuid(shell: Shell, values: Values) -> None:
    """Show a network's UUID."""
    shell.print(str(shell.network(values).uuid))


@verb(
    "net-update",
    "network",
    f"<network> <command> <section> <xml> [--parent-index <number>] {AFFECT_USAGE}",
    "change a part of a network",
)
def net_update(shell: Shell, values: Values) -> None:
    """Change a part."""
    exclusive(values, "current", "live")
    network, word, part = shell.network(values), values.text("command"), values.text("section")
    index = values.number("parent-index", minimum=-1, maximum=(1 << 31) - 1)
    if word not in _COMMANDS:
        msg = f"unrecognized command name '{word}'"
        raise VerbFailed(msg)
    if part not in _SECTIONS or part == "none":
        msg = f"unrecognized section name '{part}'"
        raise VerbFailed(msg)
    xml = values.text("xml")
    if not xml.startswith("<"):
        xml = read_file(xml)
    flags = affect(values)
    number = _SECTIONS.index(part)
    with shell.failing(f"Failed to update network {network.name}"):
        network.update(_COMMANDS[word], number, xml, -1 if index is None else index, flags)
    live = bool(flags & 1) or (not flags and network.is_active())
    if flags & 2 and live:
        shell.hint(f"Updated network {network.name} persistent config and live state")
    elif live:
        shell.hint(f"Updated network {network.name} live state")
    else:
        shell.hint(f"Updated network {network.name} persistent config")


@verb("net-dhcp-leases", "network", "<network> [--mac <string>]", "addresses a network gave out")
def net_dhcp_leases(shell: Shell, values: Values) -> None:
    """Show leases."""
    network = shell.network(values)
    with shell.failing(f"Failed to get leases info for {network.name}"):
        leases = network.dhcp_leases(values.get("mac"))
    leases.sort(key=lambda lease: (lease.mac or "", lease.ipaddr))
    rows = []
    for lease in leases:
        moment = dt.datetime.fromtimestamp(lease.expirytime, dt.UTC).astimezone()
        rows.append(
            [
                moment.strftime("%Y-%m-%d %H:%M:%S"),
                lease.mac or "-",
                "ipv4" if lease.type == 0 else "ipv6" if lease.type == 1 else "",
                f"{lease.ipaddr}/{lease.prefix}",
                lease.hostname or "-",
                lease.clientid or "-",
            ]
        )
    shell.table(["Expiry Time", "MAC address", "Protocol", "IP address", "Hostname", "Client ID or DUID"], rows)


# -- ports -------------------------------------------------------------------------------------------------------------


@verb("net-port-list", "network", "<network> [--uuid] [--table]", "a network's ports")
def net_port_list(shell: Shell, values: Values) -> None:
    """List ports."""
    exclusive(values, "table", "uuid")
    ports = shell.call("NETWORK_LIST_ALL_PORTS", shell.network(values).ref, 1, 0).ports
    names = sorted(str(UUID(bytes=port.uuid)) for port in ports)
    if values.flag("uuid"):
        for name in names:
            shell.print(name)
    else:
        shell.table(["UUID"], [[name] for name in names])


def _port(shell: Shell, values: Values) -> Any:  # noqa: ANN401 - a record
    text, network = values.text("port"), shell.network(values)
    try:
        return shell.call("NETWORK_PORT_LOOKUP_BY_UUID", network.ref, UUID(text).bytes).port
    except (ValueError, LibvirtError) as error:
        reason = (str(error),) if isinstance(error, LibvirtError) else ()
        msg = f"failed to get network port '{text}'"
        raise VerbFailed(msg, *reason) from error


@verb("net-port-create", "network", "<network> <file> [--validate]", "add the port of a file to a network")
def net_port_create(shell: Shell, values: Values) -> None:
    """Add a port."""
    network, path = shell.network(values), values.text("file")
    xml, flags = read_file(path), collect(values, {"validate": 2})
    with shell.failing(f"Failed to create network from {path}"):
        port = shell.call("NETWORK_PORT_CREATE_XML", network.ref, xml, flags).port
    shell.say(f"Network port {UUID(bytes=port.uuid)} created from {path}")


@verb("net-port-dumpxml", "network", f"<network> <port> {DUMP_USAGE}", "a port's document")
def net_port_dumpxml(shell: Shell, values: Values) -> None:
    """Show a port's document."""
    show(shell, values, shell.call("NETWORK_PORT_GET_XML_DESC", _port(shell, values), 0).xml)


@verb("net-port-delete", "network", "<network> <port>", "remove a port from a network")
def net_port_delete(shell: Shell, values: Values) -> None:
    """Remove a port."""
    port = _port(shell, values)
    name = UUID(bytes=port.uuid)
    with shell.failing(f"Failed to delete network port {name}"):
        shell.call("NETWORK_PORT_DELETE", port, 0)
    shell.say(f"Network port {name} deleted")
