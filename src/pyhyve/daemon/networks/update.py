"""Changing parts of a network: libvirt's sections, each a list of entries in the document.

Source: libvirt's documentation, "virNetworkUpdate"; which entries count as the same is libvirt 9.0's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import IntEnum
from typing import Final

from pyhyve.daemon.networks import faults
from pyhyve.daemon.networks.definition import parse
from pyhyve.xml.document import Node, XmlError, format_node, parse_document
from pyhyve.xml.element import from_node, to_node
from pyhyve.xml.network import Network

__all__ = ["Command", "Section", "update"]


class Command(IntEnum):
    """What to do (virNetworkUpdateCommand)."""

    NONE = 0
    MODIFY = 1
    DELETE = 2
    ADD_LAST = 3
    ADD_FIRST = 4


class Section(IntEnum):
    """Where (virNetworkUpdateSection)."""

    NONE = 0
    BRIDGE = 1
    DOMAIN = 2
    IP = 3
    IP_DHCP_HOST = 4
    IP_DHCP_RANGE = 5
    FORWARD = 6
    FORWARD_INTERFACE = 7
    FORWARD_PF = 8
    PORTGROUP = 9
    DNS_HOST = 10
    DNS_TXT = 11
    DNS_SRV = 12


_WORDS: Final = {section: section.name.lower().replace("_", "-") for section in Section}
_Matcher = Callable[[dict[str, str], dict[str, str]], bool]


def _any_of(*names: str) -> _Matcher:
    return lambda old, new: any(name in new and old.get(name) == new[name] for name in names)


def _all_of(*names: str) -> _Matcher:
    return lambda old, new: all(old.get(name) == new[name] for name in names if name in new)


def _given_agree(old: dict[str, str], new: dict[str, str]) -> bool:
    """Everything the new entry says is so of the old one."""
    return bool(new) and all(old.get(name) == value for name, value in new.items())


_ENTRIES: Final[dict[Section, tuple[str, str, _Matcher, _Matcher]]] = {
    # section: (container, element, clashes with one to add, is the one to delete)
    Section.IP_DHCP_HOST: ("dhcp", "host", _any_of("mac", "name", "ip", "id"), _given_agree),
    Section.IP_DHCP_RANGE: ("dhcp", "range", _all_of("start", "end"), _all_of("start", "end")),
    Section.FORWARD_INTERFACE: ("forward", "interface", _all_of("dev"), _all_of("dev")),
    Section.PORTGROUP: ("", "portgroup", _all_of("name"), _all_of("name")),
    Section.DNS_HOST: ("dns", "host", _any_of("ip"), _given_agree),
    Section.DNS_TXT: ("dns", "txt", _all_of("name"), _all_of("name")),
    Section.DNS_SRV: (
        "dns",
        "srv",
        _all_of("domain", "service", "protocol", "target"),
        _all_of("domain", "service", "protocol", "target"),
    ),
}
_CALLED: Final = {
    Section.IP_DHCP_HOST: "dhcp host",
    Section.IP_DHCP_RANGE: "dhcp range",
    Section.FORWARD_INTERFACE: "forward interface",
    Section.PORTGROUP: "portgroup",
    Section.DNS_HOST: "DNS HOST",
    Section.DNS_TXT: "DNS TXT",
    Section.DNS_SRV: "DNS SRV",
}
_FIRST_IN: Final = {"txt": 0, "srv": 1, "host": 2, "range": 0}
"""Order of different entries within one container."""


def update(network: Network, command: int, section: int, parent_index: int, xml: str) -> Network:
    """Return a definition with a part of it changed. Raises LibvirtError."""
    try:
        where, what = Section(section), Command(command)
    except ValueError as error:
        raise faults.not_supported(f"can't update unrecognized section of network '{network.name}'") from error
    entry = _ENTRIES.get(where)
    if entry is None:
        raise faults.not_supported(f"can't update '{_WORDS[where]}' section of network '{network.name}'")
    if what is Command.NONE:
        raise faults.not_supported(f"unrecognized network update command code {command}")
    container, element, clashes, is_meant = entry
    try:
        new = parse_document(xml)
    except XmlError as error:
        raise faults.xml(str(error)) from error
    if new.name != element:
        detail = f"unexpected element <{new.name}>, expecting <{element}>, while updating network '{network.name}'"
        raise faults.xml(detail)
    if where is Section.PORTGROUP and not new.children:
        new = replace(new, spread=True)  # a container, as libvirt writes it
    if where is Section.IP_DHCP_RANGE and what is Command.MODIFY:
        raise faults.not_supported("dhcp ranges cannot be modified, only added or deleted")
    if where is Section.IP_DHCP_HOST and not {"mac", "name", "id"} & dict(new.attributes).keys():
        detail = f"Static host definition in IPv4 network '{network.name}' must have mac or name attribute"
        raise faults.xml(detail)
    root = to_node(network)
    change = _Change(network.name, where, what, element, new, clashes, is_meant)
    changed = _within(root, container, parent_index, change)
    # Read again: what was added is checked as if it had been there from the start.
    return parse(format_node(to_node(from_node(Network, changed))))


class _Change:
    """What to do with a list of entries."""

    def __init__(
        self,
        network: str,
        section: Section,
        command: Command,
        element: str,
        new: Node,
        clashes: _Matcher,
        is_meant: _Matcher,
    ) -> None:
        self.network, self.section, self.command = network, section, command
        self.element, self.new = element, new
        self.clashes, self.is_meant = clashes, is_meant

    def apply(self, children: tuple[Node, ...]) -> tuple[Node, ...]:
        """Return the children with the change made. Raises LibvirtError."""
        mine = [child for child in children if child.name == self.element]
        given = dict(self.new.attributes)
        called = _CALLED[self.section]
        if self.command in {Command.ADD_FIRST, Command.ADD_LAST}:
            if any(self.clashes(dict(child.attributes), given) for child in mine):
                shown = self._shown(given)
                detail = f"there is an existing {called} entry in network '{self.network}' that matches \"{shown}\""
                raise faults.invalid(detail)
            mine = [self.new, *mine] if self.command is Command.ADD_FIRST else [*mine, self.new]
            return self._merged(children, mine)
        matcher = self.is_meant if self.command is Command.DELETE else self.clashes
        index = next((i for i, child in enumerate(mine) if matcher(dict(child.attributes), given)), None)
        if index is None:
            raise faults.invalid(f"couldn't locate a matching {called} entry in network '{self.network}'")
        if self.command is Command.DELETE:
            del mine[index]
        else:
            mine[index] = self.new
        return self._merged(children, mine)

    def _shown(self, given: dict[str, str]) -> str:
        if self.section is Section.IP_DHCP_HOST:
            fields = (
                ("mac", given.get("mac", "(null)")),
                ("name", given.get("name", "(null)")),
                ("ip", given.get("ip")),
            )
            return "<host " + " ".join(f"{name}='{value}'" for name, value in fields) + "/>"
        return f"<{self.element} " + " ".join(f"{name}='{value}'" for name, value in given.items()) + "/>"

    def _merged(self, children: tuple[Node, ...], mine: list[Node]) -> tuple[Node, ...]:
        others = [child for child in children if child.name != self.element]
        rank = _FIRST_IN.get(self.element)
        if rank is None:
            return (*others, *mine)
        before = [child for child in others if _FIRST_IN.get(child.name, 9) < rank]
        after = [child for child in others if _FIRST_IN.get(child.name, 9) >= rank]
        if self.element == "host" and self.section is Section.IP_DHCP_HOST:
            before, after = others, []
        return (*before, *mine, *after)


def _within(root: Node, container: str, parent_index: int, change: _Change) -> Node:
    if not container:
        return replace(root, children=change.apply(root.children))
    if container == "dhcp":
        return _dhcp(root, parent_index, change)
    children = list(root.children)
    for i, child in enumerate(children):
        if child.name == container:
            inner = change.apply(child.children)
            children[i] = replace(child, children=inner)
            if not inner and container == "dns":
                del children[i]
            return replace(root, children=tuple(children))
    made = Node(container, children=change.apply(()))
    if container == "forward":
        raise faults.invalid(f"network '{change.network}' does not forward to interfaces")
    # libvirt writes dns behind the bridge's address and the domain, in front of the addresses
    place = next((i for i, child in enumerate(children) if child.name in {"ip", "route", "portgroup"}), len(children))
    children.insert(place, made)
    return replace(root, children=tuple(children))


def _dhcp(root: Node, parent_index: int, change: _Change) -> Node:
    children = list(root.children)
    places = [i for i, child in enumerate(children) if child.name == "ip"]
    if parent_index >= 0:
        if parent_index >= len(places):
            raise faults.invalid(
                f"couldn't update dhcp host entry - no <ip> element found at index {parent_index} in network"
                f" '{change.network}'"
            )
        places = [places[parent_index]]
    with_dhcp = [i for i in places if any(child.name == "dhcp" for child in children[i].children)]
    if not places:
        raise faults.invalid(
            f"couldn't update dhcp host entry - no <ip> element found at index 0 in network '{change.network}'"
        )
    place = (with_dhcp or places)[0]
    ip = children[place]
    inner = list(ip.children)
    index = next((i for i, child in enumerate(inner) if child.name == "dhcp"), None)
    if index is None:
        inner.insert(0, Node("dhcp", children=change.apply(())))
    else:
        inner[index] = replace(inner[index], children=change.apply(inner[index].children))
        if not inner[index].children:
            del inner[index]
    children[place] = replace(ip, children=tuple(inner))
    return replace(root, children=tuple(children))
