"""Domains: their documents, titles, descriptions and metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.cli.virsh.documents import DUMP_USAGE, edit, edited, nics, parse, show
from pyhyve.cli.virsh.flags import affect, collect, exclusive
from pyhyve.cli.virsh.registry import verb
from pyhyve.cli.virsh.shell import VerbFailed, read_file
from pyhyve.client import LibvirtError
from pyhyve.rpc.errors import ErrorCode

if TYPE_CHECKING:
    from lxml import etree

    from pyhyve.cli.virsh.shell import Shell
    from pyhyve.cli.virsh.syntax import Values
    from pyhyve.client import Domain

_DUMP = {"security-info": 1, "inactive": 2, "update-cpu": 4, "migratable": 8}
_DESCRIPTION, _TITLE, _ELEMENT = 0, 1, 2


@verb(
    "dumpxml",
    "domain",
    f"<domain> [--inactive] [--security-info] [--update-cpu] [--migratable] {DUMP_USAGE}",
    "a domain's document",
)
def dumpxml(shell: Shell, values: Values) -> None:
    """Show a domain's document."""
    show(shell, values, shell.domain(values).xml(collect(values, _DUMP)))


@verb("edit", "domain", "<domain> [--skip-validate]", "edit a domain's document")
def edit_domain(shell: Shell, values: Values) -> None:
    """Edit a domain's document."""
    domain = shell.domain(values)
    flags = 0 if values.flag("skip-validate") else 1
    edit(
        shell,
        domain.xml(1 | 2),
        lambda xml: shell.call("DOMAIN_DEFINE_XML_FLAGS", xml, flags),
        unchanged=f"Domain '{domain.name}' XML configuration not changed.",
        done=f"Domain '{domain.name}' XML configuration edited.",
    )


@verb(
    "desc",
    "domain",
    "<domain> [--live] [--config] [--current] [--title] [--edit] [[--new-desc] <string>]...",
    "show or set a domain's description or title",
)
def desc(shell: Shell, values: Values) -> None:
    """Show or set a description or a title."""
    flags, domain = affect(values), shell.domain(values)
    kind = _TITLE if values.flag("title") else _DESCRIPTION
    word = "title" if values.flag("title") else "description"
    given = values.words("new-desc")
    if not given and not values.flag("edit"):
        text = _read_description(domain, kind, flags)
        if text:
            shell.hint(text)
        else:
            shell.hint(f"No {word} for domain: {domain.name}")
        return
    text = " ".join(given)
    if values.flag("edit"):
        before = text or _read_description(domain, kind, flags)
        text = edited(before).rstrip("\n")
        if text == before:
            shell.hint(f"Domain {word} not changed.\n")
            return
    with shell.failing(f"Failed to set new domain {word}"):
        domain.set_metadata(kind, text, None, None, flags)
    shell.hint(f"Domain {word} updated successfully")


def _read_description(domain: Domain, kind: int, flags: int) -> str:
    try:
        return domain.metadata(kind, None, flags)
    except LibvirtError as error:
        if error.code == ErrorCode.NO_DOMAIN_METADATA:
            return ""
        raise


@verb(
    "metadata",
    "domain",
    "<domain> <uri> [--live] [--config] [--current] [--edit] [--key <string>] [--set <string>] [--remove]",
    "show or set the element of a namespace in a domain's metadata",
)
def metadata(shell: Shell, values: Values) -> None:
    """Show, set or remove an element of the metadata."""
    exclusive(values, "edit", "set")
    exclusive(values, "remove", "set")
    exclusive(values, "remove", "edit")
    flags, domain, uri, key = affect(values), shell.domain(values), values.text("uri"), values.get("key")
    text = values.get("set")
    if (text is not None or values.flag("edit")) and not key:
        msg = "namespace key is required when modifying metadata"
        raise VerbFailed(msg)
    if text is not None:
        domain.set_metadata(_ELEMENT, text, key, uri, flags)
        shell.print("Metadata modified")
    elif values.flag("remove"):
        domain.set_metadata(_ELEMENT, None, None, uri, flags)
        shell.print("Metadata removed")
    elif values.flag("edit"):
        try:
            before = domain.metadata(_ELEMENT, uri, flags)
        except LibvirtError as error:
            if error.code != ErrorCode.NO_DOMAIN_METADATA:
                raise
            before = "\n"
        edit(
            shell,
            before,
            lambda xml: domain.set_metadata(_ELEMENT, xml, key, uri, flags),
            unchanged="Metadata not changed",
            done="Metadata modified",
        )
    else:
        shell.print(domain.metadata(_ELEMENT, uri, flags))


@verb("domxml-from-native", "domain", "<format> <config>", "a foreign configuration as a document")
def domxml_from_native(shell: Shell, values: Values) -> None:
    """Convert from a hypervisor's own configuration."""
    config = read_file(values.text("config"))
    shell.write(shell.call("CONNECT_DOMAIN_XML_FROM_NATIVE", values.text("format"), config, 0).domain_xml)


@verb("domxml-to-native", "domain", "<format> [--domain=<string>] [--xml <string>]", "a document as a command line")
def domxml_to_native(shell: Shell, values: Values) -> None:
    """Convert to a hypervisor's own configuration."""
    exclusive(values, "domain", "xml")
    name, path = values.get("domain"), values.get("xml")
    if name is not None:
        xml = shell.find_domain(name).xml()
    elif path is not None:
        xml = read_file(path)
    else:
        msg = "need either domain or domain XML"
        raise VerbFailed(msg)
    shell.print(shell.call("CONNECT_DOMAIN_XML_TO_NATIVE", values.text("format"), xml, 0).native_config)


# -- where to look at a guest ------------------------------------------------------------------------------------------


@verb("ttyconsole", "domain", "<domain>", "the device of a domain's console")
def ttyconsole(shell: Shell, values: Values) -> None:
    """Show the console's device."""
    tty = parse(shell.domain(values).xml()).find("./devices/console")
    if tty is None or tty.get("tty") is None:
        raise VerbFailed
    shell.print(str(tty.get("tty")))


@verb("vncdisplay", "domain", "<domain>", "where a domain's VNC display listens")
def vncdisplay(shell: Shell, values: Values) -> None:
    """Show the VNC display."""
    domain = shell.domain(values)
    if domain.id is None:
        msg = "Domain is not running"
        raise VerbFailed(msg)
    for graphics in parse(domain.xml()).findall("./devices/graphics[@type='vnc']"):
        port = int(graphics.get("port", "-1"))
        if port >= 5900:
            listen = _listen(graphics)
            shown = "" if listen in {None, "0.0.0.0", "::"} else listen  # noqa: S104 - "any address" is left out
            shell.print(f"{shown or ''}:{port - 5900}")
            return
    msg = "Failed to get VNC port. Is this domain using VNC?"
    raise VerbFailed(msg)


def _listen(graphics: etree._Element) -> str | None:
    address = graphics.find("listen")
    if address is not None and address.get("type") == "address":
        return _text(address.get("address"))
    return _text(graphics.get("listen"))


def _text(value: object) -> str | None:
    return None if value is None else str(value)


@verb(
    "domdisplay",
    "domain",
    "<domain> [--include-password] [--type <string>] [--all]",
    "the URI of a domain's display",
)
def domdisplay(shell: Shell, values: Values) -> None:
    """Show the URIs of displays."""
    domain = shell.domain(values)
    if domain.id is None:
        msg = "Domain is not running"
        raise VerbFailed(msg)
    document = parse(domain.xml(1 if values.flag("include-password") else 0))
    wanted, shown = values.get("type"), False
    for graphics in document.findall("./devices/graphics"):
        kind = graphics.get("type", "")
        uri = None if wanted not in {None, kind} else _display_uri(graphics, kind)
        if uri is None:
            continue
        shell.print(uri)
        shown = True
        if not values.flag("all"):
            return
    if not shown:
        msg = f"No graphical display with type '{wanted}' found" if wanted else "No graphical display found"
        raise VerbFailed(msg)


def _display_uri(graphics: etree._Element, kind: str) -> str | None:
    if kind not in {"vnc", "spice", "rdp"}:
        return None
    password = graphics.get("passwd")
    socket = graphics.find("listen[@type='socket']")
    if socket is not None:
        return f"{kind}+unix://{':' + password + '@' if password and kind == 'vnc' else ''}{socket.get('socket')}"
    port = int(graphics.get("port", "-1"))
    if port < 0:
        return None
    host = _listen(graphics)
    if host in {None, "0.0.0.0", "::"}:  # noqa: S104 - "any address" is this host
        host = "localhost" if host is None else "127.0.0.1" if host == "0.0.0.0" else "[::1]"  # noqa: S104 - ditto
    login = f":{password}@" if password and kind == "vnc" else ""
    number = port - 5900 if kind == "vnc" else port
    extra = f"?password={password}" if password and kind == "spice" else ""
    return f"{kind}://{login}{host}:{number}{extra}"


# -- links -------------------------------------------------------------------------------------------------------------


@verb("domif-getlink", "monitor", "<domain> <interface> [--config]", "whether an interface's link is up")
def domif_getlink(shell: Shell, values: Values) -> None:
    """Show a link's state."""
    name = values.text("interface")
    domain = shell.domain(values)
    nic = next((n for n in nics(domain.xml(2 if values.flag("config") else 0)) if n.matches(name)), None)
    if nic is None:
        kind = "mac" if name.count(":") == 5 else "dev"
        msg = f"Interface ({kind}: {name}) not found."
        raise VerbFailed(msg)
    link = nic.element.find("link")
    shell.hint(f"{name} {'up' if link is None else link.get('state')}")
