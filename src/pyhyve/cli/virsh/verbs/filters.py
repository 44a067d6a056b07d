"""Network filters and their bindings."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from pyhyve.cli.virsh.documents import DUMP_USAGE, edit, show
from pyhyve.cli.virsh.flags import collect
from pyhyve.cli.virsh.registry import verb
from pyhyve.cli.virsh.shell import VerbFailed, read_file
from pyhyve.client import LibvirtError

if TYPE_CHECKING:
    from typing import Any

    from pyhyve.cli.virsh.shell import Shell
    from pyhyve.cli.virsh.syntax import Values


@verb("nwfilter-list", "filter", "", "network filters")
def nwfilter_list(shell: Shell, values: Values) -> None:
    """List filters."""
    with shell.failing("Failed to list network filters"):
        found = shell.call("CONNECT_LIST_ALL_NWFILTERS", 1, 0).filters
    shell.table(
        ["UUID", "Name"], [[str(UUID(bytes=f.uuid)), f.name] for f in sorted(found, key=lambda f: f.name.lower())]
    )


@verb("nwfilter-define", "filter", "<file> [--validate]", "add or change a filter")
def nwfilter_define(shell: Shell, values: Values) -> None:
    """Define a filter."""
    path, flags = values.text("file"), collect(values, {"validate": 1})
    xml = read_file(path)
    with shell.failing(f"Failed to define network filter from {path}"):
        answer = (
            shell.call("NWFILTER_DEFINE_XML_FLAGS", xml, flags) if flags else shell.call("NWFILTER_DEFINE_XML", xml)
        )
    shell.say(f"Network filter {answer.nwfilter.name} defined from {path}")


@verb("nwfilter-undefine", "filter", "<nwfilter>", "remove a filter")
def nwfilter_undefine(shell: Shell, values: Values) -> None:
    """Remove a filter."""
    found = shell.look_up_filter(values.text("nwfilter"))
    with shell.failing(f"Failed to undefine network filter {found.name}"):
        shell.call("NWFILTER_UNDEFINE", found)
    shell.say(f"Network filter {found.name} undefined")


@verb("nwfilter-dumpxml", "filter", f"<nwfilter> {DUMP_USAGE}", "a filter's document")
def nwfilter_dumpxml(shell: Shell, values: Values) -> None:
    """Show a filter's document."""
    found = shell.look_up_filter(values.text("nwfilter"))
    show(shell, values, shell.call("NWFILTER_GET_XML_DESC", found, 0).xml)


@verb("nwfilter-edit", "filter", "<nwfilter>", "edit a filter's document")
def nwfilter_edit(shell: Shell, values: Values) -> None:
    """Edit a filter's document."""
    found = shell.look_up_filter(values.text("nwfilter"))
    edit(
        shell,
        shell.call("NWFILTER_GET_XML_DESC", found, 0).xml,
        lambda xml: shell.call("NWFILTER_DEFINE_XML", xml),
        unchanged=f"Network filter {found.name} XML configuration not changed.",
        done=f"Network filter {found.name} XML configuration edited.",
    )


@verb("nwfilter-binding-list", "filter", "", "which filters are bound to which host interfaces")
def nwfilter_binding_list(shell: Shell, values: Values) -> None:
    """List bindings."""
    with shell.failing("Failed to list network filter bindings"):
        found = shell.call("CONNECT_LIST_ALL_NWFILTER_BINDINGS", 1, 0).bindings
    rows = [[b.portdev, b.filtername] for b in sorted(found, key=lambda b: b.portdev)]
    shell.table(["Port Dev", "Filter"], rows)


def _binding(shell: Shell, values: Values) -> Any:  # noqa: ANN401 - a record
    text = values.text("binding")
    try:
        return shell.call("NWFILTER_BINDING_LOOKUP_BY_PORT_DEV", text).nwfilter
    except LibvirtError as error:
        msg = f"failed to get nwfilter binding '{text}'"
        raise VerbFailed(msg, str(error)) from error


@verb("nwfilter-binding-create", "filter", "<file> [--validate]", "bind a filter to a host interface")
def nwfilter_binding_create(shell: Shell, values: Values) -> None:
    """Make a binding."""
    path, flags = values.text("file"), collect(values, {"validate": 1})
    xml = read_file(path)
    with shell.failing(f"Failed to create network filter from {path}"):
        made = shell.call("NWFILTER_BINDING_CREATE_XML", xml, flags).nwfilter
    shell.say(f"Network filter binding on {made.portdev} created from {path}")


@verb("nwfilter-binding-delete", "filter", "<binding>", "remove a binding")
def nwfilter_binding_delete(shell: Shell, values: Values) -> None:
    """Remove a binding."""
    found = _binding(shell, values)
    with shell.failing(f"Failed to delete network filter binding on {found.portdev}"):
        shell.call("NWFILTER_BINDING_DELETE", found)
    shell.say(f"Network filter binding on {found.portdev} deleted")


@verb("nwfilter-binding-dumpxml", "filter", f"<binding> {DUMP_USAGE}", "a binding's document")
def nwfilter_binding_dumpxml(shell: Shell, values: Values) -> None:
    """Show a binding's document."""
    show(shell, values, shell.call("NWFILTER_BINDING_GET_XML_DESC", _binding(shell, values), 0).xml)
