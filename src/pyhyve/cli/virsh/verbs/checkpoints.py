"""Domains: checkpoints, points in time that backups start from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pyhyve.cli.virsh.device_documents import attribute
from pyhyve.cli.virsh.documents import DUMP_USAGE, edit, parse, show
from pyhyve.cli.virsh.flags import collect, exclusive
from pyhyve.cli.virsh.output import tree_lines
from pyhyve.cli.virsh.registry import verb
from pyhyve.cli.virsh.shell import VerbFailed, read_file
from pyhyve.cli.virsh.verbs.snapshots import creation_time, escape_text, split_fields

if TYPE_CHECKING:
    from pyhyve.cli.virsh.shell import Shell
    from pyhyve.cli.virsh.syntax import Values
    from pyhyve.client import Domain

_CREATE: Final = {"redefine": 1, "quiesce": 2, "redefine-validate": 4}
_LIST: Final = {"roots": 1, "topological": 2, "leaves": 4, "no-leaves": 8}


def _find(shell: Shell, values: Values, domain: Domain) -> Any:  # noqa: ANN401 - a record
    name = values.get("checkpointname")
    if name is None:
        msg = "--checkpointname is required"
        raise VerbFailed(msg)
    return shell.call("DOMAIN_CHECKPOINT_LOOKUP_BY_NAME", domain.ref, name, 0).checkpoint


def _create(shell: Shell, domain: Domain, xml: str, flags: int, source: str | None) -> None:
    made = shell.call("DOMAIN_CHECKPOINT_CREATE_XML", domain.ref, xml, flags).checkpoint
    origin = "" if source is None else f" from '{source}'"
    shell.hint(f"Domain checkpoint {made.name} created{origin}")


@verb(
    "checkpoint-create",
    "checkpoint",
    "<domain> [--xmlfile <string>] [--redefine] [--redefine-validate] [--quiesce]",
    "make a checkpoint described by a file",
)
def checkpoint_create(shell: Shell, values: Values) -> None:
    """Make a checkpoint from a document."""
    if values.flag("redefine-validate") and not values.flag("redefine"):
        msg = "Option --redefine is required by option --redefine-validate"
        raise VerbFailed(msg)
    domain, path = shell.domain(values), values.get("xmlfile")
    xml = "<domaincheckpoint/>" if path is None else read_file(path)
    _create(shell, domain, xml, collect(values, _CREATE), path)


@verb(
    "checkpoint-create-as",
    "checkpoint",
    "<domain> [--name <string>] [--description <string>] [--print-xml] [--quiesce] [[--diskspec] <string>]...",
    "make a checkpoint described by options",
)
def checkpoint_create_as(shell: Shell, values: Values) -> None:
    """Make a checkpoint from options."""
    domain = shell.domain(values)
    lines = ["<domaincheckpoint>"]
    lines += [f"  <{tag}>{escape_text(text)}</{tag}>" for tag in ("name", "description") if (text := values.get(tag))]
    if specs := values.words("diskspec"):
        lines += ["  <disks>", *map(_disk, specs), "  </disks>"]
    lines.append("</domaincheckpoint>")
    xml = "\n".join(lines) + "\n"
    if values.flag("print-xml"):
        shell.print(xml)
        return
    _create(shell, domain, xml, collect(values, _CREATE), None)


def _disk(spec: str) -> str:
    name, *rest = split_fields(spec)
    given: dict[str, str] = {}
    for part in rest:
        field, equals, text = part.partition("=")
        if field not in {"checkpoint", "bitmap"} or not equals or field in given:
            msg = f"unable to parse diskspec: {spec}"
            raise VerbFailed(msg)
        given[field] = text
    if not name:
        msg = f"unable to parse diskspec: {spec}"
        raise VerbFailed(msg)
    shown = "".join(attribute(field, given[field]) for field in ("checkpoint", "bitmap") if field in given)
    return f"    <disk{attribute('name', name)}{shown}/>"


@verb(
    "checkpoint-delete",
    "checkpoint",
    "<domain> [--checkpointname <string>] [--children] [--children-only] [--metadata]",
    "delete a checkpoint",
)
def checkpoint_delete(shell: Shell, values: Values) -> None:
    """Delete a checkpoint."""
    checkpoint = _find(shell, values, shell.domain(values))
    flags = collect(values, {"children": 1, "metadata": 2, "children-only": 4})
    with shell.failing(f"Failed to delete checkpoint {checkpoint.name}"):
        shell.call("DOMAIN_CHECKPOINT_DELETE", checkpoint, flags)
    shell.say(f"Domain checkpoint {checkpoint.name} {'children ' if flags & 4 else ''}deleted")


@verb(
    "checkpoint-dumpxml",
    "checkpoint",
    f"<domain> [--checkpointname <string>] [--security-info] [--no-domain] [--size] {DUMP_USAGE}",
    "a checkpoint's document",
)
def checkpoint_dumpxml(shell: Shell, values: Values) -> None:
    """Show a checkpoint's document."""
    checkpoint = _find(shell, values, shell.domain(values))
    flags = collect(values, {"security-info": 1, "no-domain": 2, "size": 4})
    show(shell, values, shell.call("DOMAIN_CHECKPOINT_GET_XML_DESC", checkpoint, flags).xml)


@verb("checkpoint-edit", "checkpoint", "<domain> [--checkpointname <string>]", "edit a checkpoint's document")
def checkpoint_edit(shell: Shell, values: Values) -> None:
    """Edit a checkpoint's document."""
    domain = shell.domain(values)
    checkpoint = _find(shell, values, domain)

    def apply(xml: str) -> None:
        name = parse(xml).findtext("name")
        if name != checkpoint.name:
            msg = f"Cannot rename checkpoint {checkpoint.name} to {name}"
            raise VerbFailed(msg)
        shell.call("DOMAIN_CHECKPOINT_CREATE_XML", domain.ref, xml, 1)

    edit(
        shell,
        shell.call("DOMAIN_CHECKPOINT_GET_XML_DESC", checkpoint, 1).xml,
        apply,
        unchanged=f"Checkpoint {checkpoint.name} XML configuration not changed.",
        done=f"Checkpoint {checkpoint.name} edited.",
    )


def _children(shell: Shell, checkpoint: object, flags: int) -> list[Any]:
    return list(shell.call("DOMAIN_CHECKPOINT_LIST_ALL_CHILDREN", checkpoint, 1, flags).checkpoints)


def _document(shell: Shell, checkpoint: object) -> Any:  # noqa: ANN401 - an lxml element
    return parse(shell.call("DOMAIN_CHECKPOINT_GET_XML_DESC", checkpoint, 2).xml)


@verb("checkpoint-info", "checkpoint", "<domain> [--checkpointname <string>]", "a checkpoint at a glance")
def checkpoint_info(shell: Shell, values: Values) -> None:
    """Show a checkpoint at a glance."""
    checkpoint = _find(shell, values, shell.domain(values))
    shell.fact("Name:", checkpoint.name)
    shell.fact("Domain:", checkpoint.dom.name)
    shell.fact("Parent:", _document(shell, checkpoint).findtext("./parent/name") or "-")
    children = _children(shell, checkpoint, 0)
    shell.fact("Children:", len(children))
    shell.fact("Descendants:", len(_children(shell, checkpoint, 1)) if children else 0)


@verb(
    "checkpoint-list",
    "checkpoint",
    "<domain> [--parent] [--roots] [--leaves] [--no-leaves] [--tree] [--from <string>] [--descendants] [--name] "
    "[--topological]",
    "a domain's checkpoints",
)
def checkpoint_list(shell: Shell, values: Values) -> None:
    """List checkpoints."""
    exclusive(values, "tree", "name")
    exclusive(values, "parent", "tree")
    exclusive(values, "roots", "tree")
    exclusive(values, "roots", "from")
    domain, flags, start = shell.domain(values), collect(values, _LIST), values.get("from")
    if start is not None:
        base = shell.call("DOMAIN_CHECKPOINT_LOOKUP_BY_NAME", domain.ref, start, 0).checkpoint
        deep = values.flag("descendants") or values.flag("tree")
        found = _children(shell, base, flags | int(deep))
        if values.flag("tree"):
            found.insert(0, base)
    else:
        found = list(shell.call("DOMAIN_LIST_ALL_CHECKPOINTS", domain.ref, 1, flags).checkpoints)
    if not values.flag("topological"):
        found.sort(key=lambda c: c.name.lower())
    if values.flag("name"):
        for checkpoint in found:
            shell.print(checkpoint.name)
        return
    documents = [(checkpoint, _document(shell, checkpoint)) for checkpoint in found]
    if values.flag("tree"):
        for line in tree_lines({c.name: d.findtext("./parent/name") for c, d in documents}):
            shell.print(line)
        return
    header = ["Name", "Creation Time"]
    rows = [[c.name, creation_time(d)] for c, d in documents]
    if values.flag("parent") or values.flag("roots"):
        header.append("Parent")
        for row, (_, document) in zip(rows, documents, strict=True):
            row.append(document.findtext("./parent/name") or "-")
    shell.table(header, rows)


@verb("checkpoint-parent", "checkpoint", "<domain> [--checkpointname <string>]", "the checkpoint before a checkpoint")
def checkpoint_parent(shell: Shell, values: Values) -> None:
    """Show a checkpoint's parent."""
    from pyhyve.client import LibvirtError

    checkpoint = _find(shell, values, shell.domain(values))
    try:
        shell.write(shell.call("DOMAIN_CHECKPOINT_GET_PARENT", checkpoint, 0).parent.name)
    except LibvirtError as error:
        msg = f"checkpoint '{checkpoint.name}' has no parent"
        raise VerbFailed(msg) from error
