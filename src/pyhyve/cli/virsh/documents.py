"""XML documents: shown, edited in the user's editor, and the few facts verbs read from them."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lxml import etree

from pyhyve.cli.virsh.shell import VerbFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.cli.virsh.shell import Shell
    from pyhyve.cli.virsh.syntax import Values

__all__ = ["DUMP_USAGE", "Disk", "Nic", "disks", "edit", "edited", "nics", "parse", "show"]

DUMP_USAGE = "[--xpath <string>] [--wrap]"


def parse(xml: str, *, blanks: bool = True) -> etree._Element:
    """Parse a document, with or without the white space between elements. Raises VerbFailed."""
    try:
        return etree.fromstring(xml.encode(), etree.XMLParser(resolve_entities=False, remove_blank_text=not blanks))
    except etree.XMLSyntaxError as error:
        msg = f"malformed document: {error}"
        raise VerbFailed(msg) from error


def show(shell: Shell, values: Values, xml: str) -> None:
    """Print a document, or with --xpath what matches in it, and with --wrap within one element."""
    query = values.get("xpath")
    if query is None:
        shell.write(xml)
        return
    try:
        found = parse(xml, blanks=False).xpath(query)
    except etree.XPathError as error:
        msg = f"failed to extract xpath expression '{query}': {error}"
        raise VerbFailed(msg) from error
    if not isinstance(found, list):
        shell.print(_scalar(found))
        return
    if not values.flag("wrap"):
        for node in found:
            shell.print(_node_text(node))
        return
    shell.print("<nodes>")
    for node in found:
        shell.print(_node_text(node, "  "))
    shell.print("</nodes>")


def _scalar(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def _node_text(node: object, indent: str = "") -> str:
    if isinstance(node, etree._Element):  # noqa: SLF001 - lxml's public type by its only name
        text = etree.tostring(node, encoding="unicode", with_tail=False, pretty_print=True)
        return "\n".join(indent + line for line in text.removesuffix("\n").split("\n"))
    name = getattr(node, "attrname", None)
    return f' {name}="{node}"' if name else str(node)


def edited(text: str) -> str:
    """Return what the user's editor made of a text. Raises VerbFailed."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with tempfile.NamedTemporaryFile("w", prefix="virsh", suffix=".xml", encoding="utf-8", delete=False) as file:
        file.write(text)
    path = Path(file.name)
    try:
        try:
            status = subprocess.run([*shlex.split(editor), str(path)], check=False).returncode
        except OSError as error:
            msg = f"cannot run the editor {editor}: {error.strerror}"
            raise VerbFailed(msg) from error
        if status:
            msg = f"{editor} {path}: exit status {status}"
            raise VerbFailed(msg)
        return path.read_text(encoding="utf-8")
    finally:
        path.unlink(missing_ok=True)


def edit(shell: Shell, before: str, apply: Callable[[str], object], *, unchanged: str, done: str) -> None:
    """Edit a document and apply it; an edit that the daemon refuses is not lost while somebody is there to mend it."""
    from pyhyve.client import LibvirtError

    text = before
    while True:
        text = edited(text)
        if text == before:
            shell.hint(unchanged + ("" if unchanged.startswith(("Domain", "Managed", "Saved")) else "\n"))
            return
        try:
            apply(text)
        except LibvirtError as error:
            shell.error(str(error))
            if not shell.interactive or input("Failed. Try again? [y,n]: ").strip().lower() not in {"y", "yes"}:
                raise VerbFailed from error
        else:
            shell.say(done)
            return


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk of a domain's document."""

    type: str
    device: str
    target: str | None
    source: str | None
    readonly: bool
    shareable: bool
    element: etree._Element


def disks(xml: str) -> list[Disk]:
    """The disks of a domain's document."""
    return [_disk(element) for element in parse(xml).findall("./devices/disk")]


def _disk(element: etree._Element) -> Disk:
    source = element.find("source")
    shown = None
    if source is not None:
        for name in ("file", "dev", "dir", "name", "volume", "path"):
            if (shown := source.get(name)) is not None:
                break
        if element.get("type") == "volume" and source.get("pool") and source.get("volume"):
            shown = source.get("volume")
        if element.get("type") == "nvme":
            shown = _nvme(source)
    target = element.find("target")
    return Disk(
        element.get("type", "file"),
        element.get("device", "disk"),
        None if target is None else target.get("dev"),
        shown,
        element.find("readonly") is not None,
        element.find("shareable") is not None,
        element,
    )


def _nvme(source: etree._Element) -> str | None:
    address = source.find("address")
    if address is None:
        return None
    domain, bus, slot, function = (int(address.get(n, "0"), 0) for n in ("domain", "bus", "slot", "function"))
    return f"nvme://{domain:04x}:{bus:02x}:{slot:02x}.{function}/{source.get('namespace', '')}"


@dataclass(frozen=True, slots=True)
class Nic:
    """A network interface of a domain's document."""

    type: str
    source: str | None
    target: str | None
    model: str | None
    mac: str | None
    element: etree._Element

    def matches(self, name: str) -> bool:
        """Whether a person means this one: by MAC address or host device."""
        return name in {self.target, self.mac} or (self.mac or "").lower() == name.lower()


def nics(xml: str) -> list[Nic]:
    """The network interfaces of a domain's document."""
    return [_nic(element) for element in parse(xml).findall("./devices/interface")]


def _nic(element: etree._Element) -> Nic:
    def attribute(child: str, *names: str) -> str | None:
        found = element.find(child)
        if found is None:
            return None
        return next((value for name in names if (value := found.get(name)) is not None), None)

    kind = element.get("type", "user")
    source = "-" if kind == "user" else attribute("source", "network", "bridge", "dev", "path", "name", "address")
    return Nic(
        kind, source, attribute("target", "dev"), attribute("model", "type"), attribute("mac", "address"), element
    )
