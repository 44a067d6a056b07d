"""Storage pools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyhyve.cli.virsh.device_documents import attribute
from pyhyve.cli.virsh.documents import DUMP_USAGE, edit, show
from pyhyve.cli.virsh.flags import collect, exclusive
from pyhyve.cli.virsh.output import pretty_size
from pyhyve.cli.virsh.registry import verb
from pyhyve.cli.virsh.shell import VerbFailed, read_file
from pyhyve.client import LibvirtError, StoragePool

if TYPE_CHECKING:
    from pyhyve.cli.virsh.shell import Shell
    from pyhyve.cli.virsh.syntax import Values

STATES: Final = ("inactive", "building", "running", "degraded", "inaccessible")
_INACTIVE, _ACTIVE = 1, 2
_FILTERS: Final = {"persistent": 4, "transient": 8, "autostart": 16, "no-autostart": 32}
_TYPES: Final = {
    name: 64 << i
    for i, name in enumerate(
        (
            "dir",
            "fs",
            "netfs",
            "logical",
            "disk",
            "iscsi",
            "scsi",
            "mpath",
            "rbd",
            "sheepdog",
            "gluster",
            "zfs",
            "vstorage",
            "iscsi-direct",
        )
    )
}
_BUILD: Final = {"overwrite": 4, "no-overwrite": 8}
_START: Final = {"build": 1, "overwrite": 2, "no-overwrite": 4}
_START_USAGE: Final = "[--build] [--no-overwrite] [--overwrite]"
_AS_USAGE: Final = (
    "<name> <type> [--print-xml] [--source-host <string>] [--source-path <string>] [--source-dev <string>] "
    "[--source-name <string>] [--target <string>] [--source-format <string>] [--auth-type <string>] "
    "[--auth-username <string>] [--secret-usage <string>] [--secret-uuid <string>] [--adapter-name <string>] "
    "[--adapter-wwnn <string>] [--adapter-wwpn <string>] [--adapter-parent <string>] [--adapter-parent-wwnn <string>] "
    "[--adapter-parent-wwpn <string>] [--adapter-parent-fabric-wwn <string>] [--source-protocol-ver <string>] "
    "[--source-initiator <string>]"
)


@verb(
    "pool-list",
    "pool",
    "[--inactive] [--all] [--transient] [--persistent] [--autostart] [--no-autostart] [--type <string>] [--details] "
    "[--uuid] [--name]",
    "storage pools",
)
def pool_list(shell: Shell, values: Values) -> None:
    """List pools."""
    exclusive(values, "details", "uuid")
    exclusive(values, "details", "name")
    flags = collect(values, _FILTERS)
    if values.flag("all"):
        flags |= _ACTIVE | _INACTIVE
    else:
        flags |= _INACTIVE if values.flag("inactive") else _ACTIVE
    for kind in (values.get("type") or "").split(","):
        if kind and kind not in _TYPES:
            msg = f"Invalid pool type '{kind}'"
            raise VerbFailed(msg)
        flags |= _TYPES.get(kind, 0)
    with shell.failing("Failed to list pools"):
        pools = shell.connection.list_all_storage_pools(flags)
    pools.sort(key=lambda p: p.name.lower())
    if values.flag("uuid") or values.flag("name"):
        for pool in pools:
            words = ([str(pool.uuid)] if values.flag("uuid") else []) + (
                [f"{pool.name:<20}"] if values.flag("name") else []
            )
            shell.print(" ".join(words))
        return
    if values.flag("details"):
        header = ["Name", "State", "Autostart", "Persistent", "Capacity", "Allocation", "Available"]
        shell.table(header, [_details(pool) for pool in pools])
        return
    rows = [[p.name, "active" if p.is_active() else "inactive", _autostart(p)] for p in pools]
    shell.table(["Name", "State", "Autostart"], rows)


def _autostart(pool: StoragePool) -> str:
    try:
        return "yes" if pool.autostart() else "no"
    except LibvirtError:
        return "no autostart"


def _details(pool: StoragePool) -> list[str]:
    info = pool.info()
    state = STATES[info.state] if info.state < len(STATES) else "unknown"
    sizes = ["-", "-", "-"]
    if info.state in {2, 3}:
        pretty = map(pretty_size, (info.capacity_bytes, info.allocation_bytes, info.available_bytes))
        sizes = [f"{value:.2f} {unit}" for value, unit in pretty]
    return [pool.name, state, _autostart(pool), "yes" if pool.is_persistent() else "no", *sizes]


@verb("pool-info", "pool", "<pool> [--bytes]", "a pool at a glance")
def pool_info(shell: Shell, values: Values) -> None:
    """Show a pool at a glance."""
    pool = shell.pool(values)
    shell.fact("Name:", pool.name)
    shell.fact("UUID:", pool.uuid)
    info = pool.info()
    shell.fact("State:", STATES[info.state] if info.state < len(STATES) else "unknown")
    shell.fact("Persistent:", "yes" if pool.is_persistent() else "no")
    shell.fact("Autostart:", _autostart(pool))
    if info.state not in {2, 3}:
        return
    sizes = zip(("Capacity:", "Allocation:", "Available:"), info[1:], strict=True)
    for label, size in sizes:
        if values.flag("bytes"):
            shell.fact(label, size)
        else:
            value, unit = pretty_size(size)
            shell.fact(label, f"{value:.2f} {unit}")


@verb("pool-autostart", "pool", "<pool> [--disable]", "choose whether a pool starts with the daemon")
def pool_autostart(shell: Shell, values: Values) -> None:
    """Mark for autostart."""
    pool, enabled = shell.pool(values), not values.flag("disable")
    un = "" if enabled else "un"
    with shell.failing(f"failed to {un}mark pool {pool.name} as autostarted"):
        pool.set_autostart(enabled=enabled)
    shell.say(f"Pool {pool.name} {un}marked as autostarted")


@verb("pool-define", "pool", "<file> [--validate]", "add or change a pool's definition")
def pool_define(shell: Shell, values: Values) -> None:
    """Define a pool."""
    path, flags = values.text("file"), collect(values, {"validate": 1})
    xml = read_file(path)
    with shell.failing(f"Failed to define pool from {path}"):
        pool = shell.call("STORAGE_POOL_DEFINE_XML", xml, flags).pool
    shell.say(f"Pool {pool.name} defined from {path}")


@verb("pool-create", "pool", f"<file> {_START_USAGE}", "start a pool that is forgotten when it stops")
def pool_create(shell: Shell, values: Values) -> None:
    """Start a transient pool."""
    exclusive(values, "overwrite", "no-overwrite")
    path, flags = values.text("file"), collect(values, _START)
    xml = read_file(path)
    with shell.failing(f"Failed to create pool from {path}"):
        pool = shell.call("STORAGE_POOL_CREATE_XML", xml, flags).pool
    shell.say(f"Pool {pool.name} created from {path}")


def _document(values: Values) -> str:
    from xml.sax.saxutils import escape

    def tag(name: str, option: str, field: str) -> list[str]:
        text = values.get(option)
        return [] if text is None else [f"    <{name}{attribute(field, text)}/>"]

    kind = values.text("type")
    source = tag("host", "source-host", "name") + tag("dir", "source-path", "path")
    source += tag("device", "source-dev", "path")
    if (initiator := values.get("source-initiator")) is not None:
        source += ["    <initiator>", f"      <iqn{attribute('name', initiator)}/>", "    </initiator>"]
    source += _adapter(values) + _auth(values)
    source += tag("format", "source-format", "type") + tag("protocol", "source-protocol-ver", "ver")
    if (name := values.get("source-name")) is not None:
        source.append(f"    <name>{escape(name)}</name>")
    lines = [f"<pool{attribute('type', kind)}>", f"  <name>{escape(values.text('name'))}</name>"]
    if source:
        lines += ["  <source>", *source, "  </source>"]
    if (target := values.get("target")) is not None:
        lines += ["  <target>", f"    <path>{escape(target)}</path>", "  </target>"]
    return "\n".join([*lines, "</pool>"]) + "\n"


def _adapter(values: Values) -> list[str]:
    name, wwnn, wwpn = (values.get(f"adapter-{part}") for part in ("name", "wwnn", "wwpn"))
    if name is not None:
        return [f"    <adapter type='scsi_host'{attribute('name', name)}/>"]
    if wwnn is None or wwpn is None:
        return []
    shown = "    <adapter type='fc_host'"
    pairs = (
        ("parent", "adapter-parent"),
        ("parent_wwnn", "adapter-parent-wwnn"),
        ("parent_wwpn", "adapter-parent-wwpn"),
        ("parent_fabric_wwn", "adapter-parent-fabric-wwn"),
    )
    shown += "".join(attribute(field, text) for field, option in pairs if (text := values.get(option)) is not None)
    return [f"{shown}{attribute('wwnn', wwnn)}{attribute('wwpn', wwpn)}/>"]


def _auth(values: Values) -> list[str]:
    kind, user = values.get("auth-type"), values.get("auth-username")
    if kind is None or user is None:
        return []
    lines = [f"    <auth{attribute('type', kind)}{attribute('username', user)}>"]
    if (usage := values.get("secret-usage")) is not None:
        lines.append(f"      <secret{attribute('usage', usage)}/>")
    elif (uuid := values.get("secret-uuid")) is not None:
        lines.append(f"      <secret{attribute('uuid', uuid)}/>")
    return [*lines, "    </auth>"]


@verb("pool-define-as", "pool", f"{_AS_USAGE} [--validate]", "define a pool from options")
def pool_define_as(shell: Shell, values: Values) -> None:
    """Define a pool described by options."""
    xml = _document(values)
    if values.flag("print-xml"):
        shell.write(xml)
        return
    name = values.text("name")
    with shell.failing(f"Failed to define pool {name}"):
        shell.call("STORAGE_POOL_DEFINE_XML", xml, collect(values, {"validate": 1}))
    shell.say(f"Pool {name} defined")


@verb("pool-create-as", "pool", f"{_AS_USAGE} {_START_USAGE} [--validate]", "start a pool made from options")
def pool_create_as(shell: Shell, values: Values) -> None:
    """Start a transient pool described by options."""
    exclusive(values, "overwrite", "no-overwrite")
    xml = _document(values)
    if values.flag("print-xml"):
        shell.write(xml)
        return
    name, flags = values.text("name"), collect(values, {**_START, "validate": 8})
    with shell.failing(f"Failed to create pool {name}"):
        shell.call("STORAGE_POOL_CREATE_XML", xml, flags)
    shell.say(f"Pool {name} created")


@verb("pool-build", "pool", "<pool> [--no-overwrite] [--overwrite]", "make what a pool needs underneath")
def pool_build(shell: Shell, values: Values) -> None:
    """Build."""
    pool = shell.pool(values)
    with shell.failing(f"Failed to build pool {pool.name}"):
        pool.build(collect(values, {"no-overwrite": 4, "overwrite": 8}))
    shell.say(f"Pool {pool.name} built")


@verb("pool-start", "pool", f"<pool> {_START_USAGE}", "take a pool into use")
def pool_start(shell: Shell, values: Values) -> None:
    """Start."""
    exclusive(values, "overwrite", "no-overwrite")
    pool = shell.pool(values)
    with shell.failing(f"Failed to start pool {pool.name}"):
        pool.start(collect(values, _START))
    shell.say(f"Pool {pool.name} started")


@verb("pool-destroy", "pool", "<pool>", "take a pool out of use; its data stays")
def pool_destroy(shell: Shell, values: Values) -> None:
    """Stop."""
    pool = shell.pool(values)
    with shell.failing(f"Failed to destroy pool {pool.name}"):
        pool.destroy()
    shell.say(f"Pool {pool.name} destroyed")


@verb("pool-refresh", "pool", "<pool>", "look at a pool's volumes anew")
def pool_refresh(shell: Shell, values: Values) -> None:
    """Refresh."""
    pool = shell.pool(values)
    with shell.failing(f"Failed to refresh pool {pool.name}"):
        pool.refresh()
    shell.say(f"Pool {pool.name} refreshed")


@verb("pool-delete", "pool", "<pool>", "delete what is underneath a pool")
def pool_delete(shell: Shell, values: Values) -> None:
    """Delete."""
    pool = shell.pool(values)
    with shell.failing(f"Failed to delete pool {pool.name}"):
        pool.delete()
    shell.say(f"Pool {pool.name} deleted")


@verb("pool-undefine", "pool", "<pool>", "remove a pool's definition")
def pool_undefine(shell: Shell, values: Values) -> None:
    """Undefine."""
    pool = shell.pool(values)
    with shell.failing(f"Failed to undefine pool {pool.name}"):
        pool.undefine()
    shell.say(f"Pool {pool.name} has been undefined")


@verb("pool-dumpxml", "pool", f"<pool> [--inactive] {DUMP_USAGE}", "a pool's document")
def pool_dumpxml(shell: Shell, values: Values) -> None:
    """Show a pool's document."""
    show(shell, values, shell.pool(values).xml(collect(values, {"inactive": 1})))


@verb("pool-edit", "pool", "<pool>", "edit a pool's document")
def pool_edit(shell: Shell, values: Values) -> None:
    """Edit a pool's document."""
    pool = shell.pool(values)
    edit(
        shell,
        pool.xml(1),
        lambda xml: shell.call("STORAGE_POOL_DEFINE_XML", xml, 0),
        unchanged=f"Pool {pool.name} XML configuration not changed.",
        done=f"Pool {pool.name} XML configuration edited.",
    )


@verb("pool-name", "pool", "<pool>", "the name of a pool's UUID")
def pool_name(shell: Shell, values: Values) -> None:
    """Show a pool's name."""
    shell.print(shell.pool(values, by_name=False).name)


@verb("pool-uuid", "pool", "<pool>", "the UUID of a pool's name")
def pool_uuid(shell: Shell, values: Values) -> None:
    """Show a pool's UUID."""
    shell.print(str(shell.pool(values).uuid))


@verb("pool-capabilities", "pool", "", "what kinds of pool the daemon has")
def pool_capabilities(shell: Shell, values: Values) -> None:
    """Show what there is."""
    with shell.failing("failed to get storage pool capabilities"):
        shell.print(shell.call("CONNECT_GET_STORAGE_POOL_CAPABILITIES", 0).capabilities)


def _sources(shell: Shell, kind: str, xml: str | None) -> None:
    with shell.failing(f"Failed to find any {kind} pool sources"):
        shell.write(shell.call("CONNECT_FIND_STORAGE_POOL_SOURCES", kind, xml, 0).xml)


@verb("find-storage-pool-sources", "pool", "<type> [--srcSpec <string>]", "what pools could be made of")
def find_storage_pool_sources(shell: Shell, values: Values) -> None:
    """Find sources described by a file."""
    path = values.get("srcSpec")
    _sources(shell, values.text("type"), None if path is None else read_file(path))


@verb(
    "find-storage-pool-sources-as",
    "pool",
    "<type> [--host <string>] [--port <string>] [--initiator <string>]",
    "what pools could be made of, on a host",
)
def find_storage_pool_sources_as(shell: Shell, values: Values) -> None:
    """Find sources described by options."""
    host, port, initiator = values.get("host"), values.get("port"), values.get("initiator")
    if host is None:
        _sources(shell, values.text("type"), None)
        return
    shown = attribute("name", host) + (attribute("port", port) if port is not None else "")
    lines = ["<source>", f"  <host{shown}/>"]
    if initiator is not None:
        lines += ["  <initiator>", f"    <iqn{attribute('name', initiator)}/>", "  </initiator>"]
    _sources(shell, values.text("type"), "\n".join([*lines, "</source>"]) + "\n")
