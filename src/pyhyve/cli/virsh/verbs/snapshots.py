"""Domains: their snapshots."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Final

from pyhyve.cli.virsh.device_documents import attribute
from pyhyve.cli.virsh.documents import DUMP_USAGE, edit, parse, show
from pyhyve.cli.virsh.flags import collect, exclusive
from pyhyve.cli.virsh.output import tree_lines
from pyhyve.cli.virsh.registry import verb
from pyhyve.cli.virsh.shell import VerbFailed, read_file
from pyhyve.client import LibvirtError, Snapshot
from pyhyve.rpc.errors import ErrorCode

if TYPE_CHECKING:
    from lxml import etree

    from pyhyve.cli.virsh.shell import Shell
    from pyhyve.cli.virsh.syntax import Values
    from pyhyve.client import Domain

_CREATE: Final = {
    "redefine": 1,
    "current": 2,
    "no-metadata": 4,
    "halt": 8,
    "disk-only": 16,
    "reuse-external": 32,
    "quiesce": 64,
    "atomic": 128,
    "live": 256,
    "validate": 512,
}
_LIST: Final = {
    "roots": 1,
    "metadata": 2,
    "leaves": 4,
    "no-leaves": 8,
    "no-metadata": 16,
    "inactive": 32,
    "active": 64,
    "disk-only": 128,
    "internal": 256,
    "external": 512,
    "topological": 1024,
}


def escape_text(text: str) -> str:
    """Text as it stands in a document."""
    from xml.sax.saxutils import escape

    return escape(text, {"'": "&apos;", '"': "&quot;"})


def _create(shell: Shell, domain: Domain, xml: str, flags: int, source: str | None) -> None:
    snapshot = domain.create_snapshot(xml, flags)
    if source is None:
        shell.hint(f"Domain snapshot {snapshot.name} created")
    else:
        shell.hint(f"Domain snapshot {snapshot.name} created from '{source}'")


@verb(
    "snapshot-create",
    "snapshot",
    "<domain> [--xmlfile <string>] [--redefine] [--current] [--no-metadata] [--halt] [--disk-only] "
    "[--reuse-external] [--quiesce] [--atomic] [--live] [--validate]",
    "take a snapshot described by a file",
)
def snapshot_create(shell: Shell, values: Values) -> None:
    """Take a snapshot from a document."""
    if values.flag("current") and not values.flag("redefine"):
        msg = "Option --redefine is required by option --current"
        raise VerbFailed(msg)
    domain, path = shell.domain(values), values.get("xmlfile")
    xml = "<domainsnapshot/>" if path is None else read_file(path)
    _create(shell, domain, xml, collect(values, _CREATE), path)


@verb(
    "snapshot-create-as",
    "snapshot",
    "<domain> [--name <string>] [--description <string>] [--print-xml] [--no-metadata] [--halt] [--disk-only] "
    "[--reuse-external] [--quiesce] [--atomic] [--live] [--validate] [--memspec=<string>] [[--diskspec] <string>]...",
    "take a snapshot described by options",
)
def snapshot_create_as(shell: Shell, values: Values) -> None:
    """Take a snapshot from options."""
    domain, memory = shell.domain(values), values.get("memspec")
    lines = ["<domainsnapshot>"]
    lines += [f"  <{tag}>{escape_text(text)}</{tag}>" for tag in ("name", "description") if (text := values.get(tag))]
    if memory is not None:
        lines.append(_memory(memory))
    if specs := values.words("diskspec"):
        lines += ["  <disks>", *(line for spec in specs for line in _disk(spec)), "  </disks>"]
    lines.append("</domainsnapshot>")
    xml = "\n".join(lines) + "\n"
    if values.flag("print-xml"):
        shell.print(xml)
        return
    _create(shell, domain, xml, collect(values, _CREATE), None)


def split_fields(spec: str) -> list[str]:
    """Split at commas; two commas stand for one in the text."""
    return [part.replace("\0", ",") for part in spec.replace(",,", "\0").split(",")]


def _memory(spec: str) -> str:
    first, *rest = split_fields(spec)
    given: dict[str, str | None] = {"file": first if "=" not in first else None, "snapshot": None}
    for part in rest if given["file"] is not None else [first, *rest]:
        name, equals, text = part.partition("=")
        if name not in given or not equals or given[name] is not None:
            msg = f"unable to parse memspec: {spec}"
            raise VerbFailed(msg)
        given[name] = text
    shown = "".join(attribute(n, value) for n in ("snapshot", "file") if (value := given[n]) is not None)
    return f"  <memory{shown}/>"


def _disk(spec: str) -> list[str]:
    name, *rest = split_fields(spec)
    given: dict[str, str] = {}
    for part in rest:
        field, equals, text = part.partition("=")
        if field not in {"snapshot", "driver", "stype", "file"} or not equals or field in given:
            msg = f"unable to parse diskspec: {spec}"
            raise VerbFailed(msg)
        given[field] = text
    if not name:
        msg = f"unable to parse diskspec: {spec}"
        raise VerbFailed(msg)
    kind = given.get("stype")
    if kind not in {None, "file", "block"}:
        msg = f"Unknown storage type: '{kind}'"
        raise VerbFailed(msg, f"unable to parse diskspec: {spec}")
    opening = f"    <disk{attribute('name', name)}"
    if "snapshot" in given:
        opening += attribute("snapshot", given["snapshot"])
    if kind is not None:
        opening += attribute("type", kind)
    inner = []
    if "driver" in given:
        inner.append(f"      <driver{attribute('type', given['driver'])}/>")
    if "file" in given:
        inner.append(f"      <source{attribute('dev' if kind == 'block' else 'file', given['file'])}/>")
    return [opening + ">", *inner, "    </disk>"] if inner else [opening + "/>"]


def _chosen(values: Values, domain: Domain) -> Snapshot:
    exclusive(values, "snapshotname", "current")
    name = values.get("snapshotname")
    if name is not None:
        return domain.snapshot(name)
    if values.flag("current"):
        return domain.snapshot(_current_name(domain))
    msg = "--snapshotname or --current is required"
    raise VerbFailed(msg)


def _current_name(domain: Domain) -> str:
    return str(domain._call("DOMAIN_SNAPSHOT_CURRENT", 0).snap.name)  # noqa: SLF001 - raises where there is none


@verb(
    "snapshot-current",
    "snapshot",
    "<domain> [--name] [--security-info] [--snapshotname <string>]",
    "show or choose the snapshot a domain goes on from",
)
def snapshot_current(shell: Shell, values: Values) -> None:
    """Show or set the current snapshot."""
    exclusive(values, "name", "snapshotname")
    domain, name = shell.domain(values), values.get("snapshotname")
    if name is not None:
        xml = domain.snapshot(name).xml(1)
        domain.create_snapshot(xml, _CREATE["redefine"] | _CREATE["current"])
        shell.say(f"Snapshot {name} set as current")
        return
    current = domain.current_snapshot()
    if current is None:
        msg = f"domain '{values.text('domain')}' has no current snapshot"
        raise VerbFailed(msg)
    if values.flag("name"):
        shell.write(current.name)
    else:
        shell.write(current.xml(collect(values, {"security-info": 1})))


@verb(
    "snapshot-delete",
    "snapshot",
    "<domain> [--snapshotname <string>] [--current] [--children] [--children-only] [--metadata]",
    "delete a snapshot",
)
def snapshot_delete(shell: Shell, values: Values) -> None:
    """Delete a snapshot."""
    snapshot = _chosen(values, shell.domain(values))
    flags = collect(values, {"children": 1, "metadata": 2, "children-only": 4})
    with shell.failing(f"Failed to delete snapshot {snapshot.name}"):
        snapshot.delete(flags)
    if flags & 4:
        shell.say(f"Domain snapshot {snapshot.name} children deleted")
    else:
        shell.say(f"Domain snapshot {snapshot.name} deleted")


@verb(
    "snapshot-dumpxml", "snapshot", f"<domain> <snapshotname> [--security-info] {DUMP_USAGE}", "a snapshot's document"
)
def snapshot_dumpxml(shell: Shell, values: Values) -> None:
    """Show a snapshot's document."""
    snapshot = shell.domain(values).snapshot(values.text("snapshotname"))
    show(shell, values, snapshot.xml(collect(values, {"security-info": 1})))


@verb(
    "snapshot-edit",
    "snapshot",
    "<domain> [--snapshotname <string>] [--current] [--rename] [--clone]",
    "edit a snapshot's document",
)
def snapshot_edit(shell: Shell, values: Values) -> None:
    """Edit a snapshot's document."""
    exclusive(values, "rename", "clone")
    domain = shell.domain(values)
    flags = _CREATE["redefine"] | (_CREATE["current"] if values.flag("current") else 0)
    snapshot = _chosen(values, domain)
    made: list[Snapshot] = []

    def apply(xml: str) -> None:
        name = parse(xml).findtext("name")
        if name != snapshot.name and not (values.flag("rename") or values.flag("clone")):
            msg = f"Must use --rename or --clone to change {snapshot.name} to {name}"
            raise VerbFailed(msg)
        made.append(domain.create_snapshot(xml, flags))

    edit(
        shell,
        snapshot.xml(1),
        apply,
        unchanged=f"Snapshot {snapshot.name} XML configuration not changed.",
        done="",
    )
    if not made:
        return
    if made[0].name == snapshot.name:
        shell.say(f"Snapshot {snapshot.name} edited.")
    elif values.flag("clone"):
        shell.say(f"Snapshot {snapshot.name} cloned to {made[0].name}.")
    else:
        snapshot.delete(2)
        shell.say(f"Snapshot {snapshot.name} edited.")


@verb("snapshot-info", "snapshot", "<domain> [--snapshotname <string>] [--current]", "a snapshot at a glance")
def snapshot_info(shell: Shell, values: Values) -> None:
    """Show a snapshot at a glance."""
    domain = shell.domain(values)
    snapshot = _chosen(values, domain)
    document = parse(snapshot.xml())
    shell.fact("Name:", snapshot.name)
    shell.fact("Domain:", domain.name)
    shell.fact("Current:", "yes" if snapshot.is_current() else "no")
    state = document.findtext("state") or ""
    shell.fact("State:", state)
    memory = document.find("memory")
    kind = memory.get("snapshot") if memory is not None else None
    external = state == "disk-snapshot" or kind == "external"
    external |= any(disk.get("snapshot") == "external" for disk in document.findall("./disks/disk"))
    shell.fact("Location:", "external" if external else "internal")
    shell.fact("Parent:", document.findtext("./parent/name") or "-")
    children = _children(shell, snapshot, 0)
    shell.fact("Children:", len(children))
    shell.fact("Descendants:", len(_children(shell, snapshot, 1)) if children else 0)
    try:
        metadata = shell.call("DOMAIN_SNAPSHOT_HAS_METADATA", snapshot.ref, 0).metadata
    except LibvirtError:
        return
    shell.fact("Metadata:", "yes" if metadata else "no")


def _children(shell: Shell, snapshot: Snapshot, flags: int) -> list[Snapshot]:
    answer = shell.call("DOMAIN_SNAPSHOT_LIST_ALL_CHILDREN", snapshot.ref, 1, flags)
    return [Snapshot(shell.connection.session, ref) for ref in answer.snapshots]


@verb(
    "snapshot-list",
    "snapshot",
    "<domain> [--parent] [--roots] [--leaves] [--no-leaves] [--metadata] [--no-metadata] [--inactive] [--active] "
    "[--disk-only] [--internal] [--external] [--tree] [--from <string>] [--current] [--descendants] [--name] "
    "[--topological]",
    "a domain's snapshots",
)
def snapshot_list(shell: Shell, values: Values) -> None:
    """List snapshots."""
    for other in ("tree", "name"):
        exclusive(values, "parent", other)
    exclusive(values, "roots", "tree")
    exclusive(values, "roots", "from")
    exclusive(values, "roots", "current")
    exclusive(values, "tree", "name")
    domain, flags = shell.domain(values), collect(values, _LIST)
    start = values.get("from")
    if start is not None or values.flag("current"):
        base = domain.snapshot(start) if start is not None else domain.current_snapshot()
        deep = values.flag("descendants") or values.flag("tree")
        found = [] if base is None else _children(shell, base, (flags & ~1) | int(deep))
        if values.flag("tree") and base is not None:
            found.insert(0, base)
    else:
        found = domain.list_snapshots(flags)
    if not values.flag("topological"):
        found.sort(key=lambda s: s.name.lower())
    if values.flag("name"):
        for snapshot in found:
            shell.print(snapshot.name)
        return
    documents = [(snapshot, parse(snapshot.xml())) for snapshot in found]
    if values.flag("tree"):
        for line in tree_lines({s.name: d.findtext("./parent/name") for s, d in documents}):
            shell.print(line)
        return
    header = ["Name", "Creation Time", "State"]
    rows = [[s.name, creation_time(d), d.findtext("state") or ""] for s, d in documents]
    if values.flag("parent") or values.flag("roots"):
        header.append("Parent")
        for row, (_, document) in zip(rows, documents, strict=True):
            row.append(document.findtext("./parent/name") or "-")
    shell.table(header, rows)


def creation_time(document: etree._Element) -> str:
    """When a snapshot or checkpoint was made, in local time."""
    text = document.findtext("creationTime") or "0"
    moment = dt.datetime.fromtimestamp(int(text), dt.UTC).astimezone()
    return moment.strftime("%Y-%m-%d %H:%M:%S %z")


@verb("snapshot-parent", "snapshot", "<domain> [--snapshotname <string>] [--current]", "the snapshot before a snapshot")
def snapshot_parent(shell: Shell, values: Values) -> None:
    """Show a snapshot's parent."""
    snapshot = _chosen(values, shell.domain(values))
    try:
        shell.write(snapshot.parent().name)
    except LibvirtError as error:
        if error.code != ErrorCode.NO_DOMAIN_SNAPSHOT:
            raise
        msg = f"snapshot '{snapshot.name}' has no parent"
        raise VerbFailed(msg) from error


@verb(
    "snapshot-revert",
    "snapshot",
    "<domain> [--snapshotname <string>] [--current] [--running] [--paused] [--force] [--reset-nvram]",
    "bring a domain back to a snapshot",
)
def snapshot_revert(shell: Shell, values: Values) -> None:
    """Go back to a snapshot."""
    flags = collect(values, {"running": 1, "paused": 2, "force": 4, "reset-nvram": 8})
    snapshot = _chosen(values, shell.domain(values))
    with shell.failing(f"Failed to revert snapshot {snapshot.name}"):
        snapshot.revert(flags)
    shell.say(f"Domain snapshot {snapshot.name} reverted")
