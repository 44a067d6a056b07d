"""Network filters as rules of nftables for one interface of a machine.

Source: libvirt's documentation, "Network Filters"; nft(8), bridge address family. What is filtered is Ethernet: rules
on MAC addresses, ARP, RARP, VLANs, and on addresses and ports of IPv4 and IPv6; those that follow connections are
:mod:`.filter_connections`'s.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pyhyve.daemon.faults import Faults
from pyhyve.daemon.resources.filter_connections import KINDS, connection_rules, tracking_lines
from pyhyve.daemon.resources.filter_fields import integer, mac, mac_number, network, ranged, swapped
from pyhyve.hostnet import nft
from pyhyve.rpc.errors import ErrorCode, ErrorDomain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pyhyve.daemon.errors import LibvirtError
    from pyhyve.xml.document import Node

__all__ = ["Variables", "table_name", "table_script", "used_filters"]

Variables = dict[str, tuple[str, ...]]
"""Values of a filter's parameters, by name."""

_FAULTS: Final = Faults(ErrorDomain.NWFILTER)
_DEPTH_MAX: Final = 16
_RULES_MAX: Final = 10_000
_PRIORITIES: Final = {
    "root": 0,
    "stp": -820,
    "mac": -810,
    "vlan": -800,
    "ipv4": -700,
    "ipv6": -600,
    "arp": -500,
    "rarp": -400,
}
_RULE_PRIORITY: Final = 500
_TYPES: Final = {"ipv4": 0x0800, "arp": 0x0806, "rarp": 0x8035, "vlan": 0x8100, "ipv6": 0x86DD}
_ACTIONS: Final = {"drop": "drop", "reject": "drop", "accept": "accept", "return": "return", "continue": "continue"}
_PROTOCOLS: Final = {
    "tcp": 6,
    "udp": 17,
    "udplite": 136,
    "esp": 50,
    "ah": 51,
    "icmp": 1,
    "igmp": 2,
    "sctp": 132,
    "icmpv6": 58,
}
_WITH_PORTS: Final = frozenset({6, 17, 132, 136})
_OPERATIONS: Final = {
    "request": 1,
    "reply": 2,
    "request_reverse": 3,
    "reply_reverse": 4,
    "drarp_request": 5,
    "drarp_reply": 6,
    "drarp_error": 7,
    "inarp_request": 8,
    "arp_nak": 10,
}


@dataclass(slots=True)
class _Chain:
    """Rules of one chain, with their priorities, in the order they were met."""

    name: str
    priority: int
    rules: list[tuple[int, int, str, str]] = field(default_factory=list)
    """Priority, number, direction (in, out) and the rule."""


@dataclass(slots=True)
class _Found:
    """What filters come to."""

    find: Callable[[str], Node]
    chains: dict[str, _Chain] = field(default_factory=lambda: {"root": _Chain("root", 0)})
    connections: list[tuple[int, int, str, str, bool]] = field(default_factory=list)
    """Priority, number, direction, the rule, and whether it asks for connections."""
    count: int = 0

    def next(self) -> int:
        """Return the number of another rule. Raises LibvirtError where there are too many."""
        self.count += 1
        if self.count > _RULES_MAX:
            raise _FAULTS.unsupported(f"a filter comes to more than {_RULES_MAX} rules")
        return self.count


def table_name(port: str) -> str:
    """Name of the table of an interface."""
    return nft.table_name("pyhyve_", port)


def used_filters(root: Node, find: Callable[[str], Node]) -> Iterator[str]:
    """Give the names of filters a filter refers to, itself and at any depth. Raises LibvirtError."""
    waiting, seen = [(root, 0)], set()
    while waiting:
        node, depth = waiting.pop()
        name = dict(node.attributes).get("name", "")
        if name in seen:
            continue
        seen.add(name)
        yield name
        if depth < _DEPTH_MAX:
            references = [child for child in node.children if child.name == "filterref"]
            waiting.extend((find(dict(child.attributes).get("filter", "")), depth + 1) for child in references)


def parameters(node: Node) -> Variables:
    """Return the parameters a reference to a filter has."""
    found: dict[str, list[str]] = {}
    for child in node.children:
        held = dict(child.attributes)
        if child.name == "parameter" and "name" in held and "value" in held:
            found.setdefault(held["name"], []).append(held["value"])
    return {name: tuple(values) for name, values in found.items()}


def table_script(
    port: str, root: Node, variables: Mapping[str, Sequence[str]], find: Callable[[str], Node], *, fresh: bool = True
) -> str:
    """Return the script that replaces an interface's rules by those of a filter. Raises LibvirtError.

    A table that is not made ``fresh`` goes on knowing the connections it knew.
    """
    found = _Found(find)
    _collect(root, {name: tuple(values) for name, values in variables.items()}, found, 0)
    chains = found.chains
    name = table_name(port)
    lines = [f"table bridge {name}", f"{'delete' if fresh else 'flush'} table bridge {name}", f"table bridge {name} {{"]
    for way in ("out", "in"):
        for chain in chains.values():
            if chain.name != "root":
                lines.append(f" chain {_chain_name(chain.name, way)} {{")
                lines += [f"  {rule}" for _, _, direction, rule in sorted(chain.rules) if direction == way]
                lines.append(" }")
        entries = [
            (priority, number, rule) for priority, number, direction, rule in chains["root"].rules if direction == way
        ]
        entries += [
            (chain.priority, -1, f"{_jump_match(chain.name)}jump {_chain_name(chain.name, way)}")
            for chain in chains.values()
            if chain.name != "root"
        ]
        lines.append(f" chain {way} {{")
        lines += [f"  {rule}" for _, _, rule in sorted(entries)]
        lines.append(" }")
    lines.append(f' chain from_guest {{ type filter hook prerouting priority -250; iifname "{port}" jump out; }}')
    lines.append(f' chain to_guest {{ type filter hook postrouting priority 250; oifname "{port}" jump in; }}')
    lines += _connection_lines(port, found.connections)
    lines.append("}")
    return "\n".join(lines) + "\n"


def _connection_lines(port: str, connections: list[tuple[int, int, str, str, bool]]) -> list[str]:
    """Return what judges packets by their connections: those of guests before, those that come over the bridge."""
    lines = tracking_lines(port) if any(asked for *_, asked in connections) else []
    for way, hook, match in (("out", "prerouting priority -245", "iifname"), ("in", "forward priority 0", "oifname")):
        rules = [rule for _, _, direction, rule, _ in sorted(connections) if direction == way]
        if rules:
            lines += [f" chain connections_{way} {{ type filter hook {hook};", f'  {match} != "{port}" accept']
            lines += [*(f"  {rule}" for rule in rules), " }"]
    return lines


def _chain_name(name: str, way: str) -> str:
    return f"{way}_{name.encode().hex()}"


def _protocol_of(chain: str) -> str:
    """Return what a chain is about: its name, or what that begins with."""
    for protocol in ("root", "mac", "vlan", "stp", "ipv4", "ipv6", "arp", "rarp"):
        if chain == protocol or chain.startswith(protocol + "-"):
            return protocol
    raise _FAULTS.unsupported(f"unknown chain '{chain}'")


def _jump_match(chain: str) -> str:
    number = _TYPES.get(_protocol_of(chain))
    return f"ether type {number:#06x} " if number is not None else ""


def _collect(node: Node, variables: Variables, found: _Found, depth: int) -> None:
    if depth > _DEPTH_MAX:
        raise _FAULTS.unsupported("filters refer to each other too deeply")
    attributes = dict(node.attributes)
    chain_name = attributes.get("chain", "root")
    protocol = _protocol_of(chain_name)
    priority = integer(attributes.get("priority"), _PRIORITIES[protocol])
    chain = found.chains.setdefault(chain_name, _Chain(chain_name, priority))
    for child in node.children:
        held = dict(child.attributes)
        if child.name == "filterref":
            _collect(found.find(held.get("filter", "")), {**variables, **parameters(child)}, found, depth + 1)
        elif child.name == "rule":
            wanted = integer(held.get("priority"), _RULE_PRIORITY)
            action = _ACTIONS.get(held.get("action", ""))
            if action is None:
                raise _FAULTS.xml(f"unknown action '{held.get('action')}' of a rule")
            for way, text in _rule(child, held.get("direction", ""), variables):
                chain.rules.append((wanted, found.next(), way, f"{text}{' ' if text else ''}{action}"))
            for way, text, asked in _following(child, held, action, variables):
                found.connections.append((wanted, found.next(), way, text, asked))


def _rule(node: Node, direction: str, variables: Variables) -> Iterator[tuple[str, str]]:
    """Give a rule for each direction and for each combination of its variables' values."""
    if direction not in {"in", "out", "inout"}:
        raise _FAULTS.xml(f"unknown direction '{direction}' of a rule")
    elements = [child for child in node.children if child.name != "comment" and child.name not in KINDS]
    if not elements and any(child.name in KINDS for child in node.children):
        return
    for way in ("out", "in"):
        if direction not in {way, "inout"}:
            continue
        if not elements:
            yield way, ""
        for element in elements:
            for held in _instances(dict(element.attributes), variables):
                yield way, _matches(element.name, swapped(held) if direction == "inout" and way == "in" else held)


def _following(node: Node, held: dict[str, str], action: str, variables: Variables) -> Iterator[tuple[str, str, bool]]:
    """Give the rules of the elements that follow connections."""
    follow = held.get("statematch", "true").lower() not in {"0", "false", "no"}
    for child in node.children:
        if child.name in KINDS:
            for attributes in _instances(dict(child.attributes), variables):
                yield from connection_rules(child.name, attributes, held.get("direction", ""), action, follow=follow)


def _instances(held: dict[str, str], variables: Variables) -> Iterator[dict[str, str]]:
    names = [name for name, value in held.items() if value.startswith("$")]
    choices = []
    for name in names:
        word = held[name][1:]
        if word not in variables or not variables[word]:
            detail = f"Cannot instantiate filter due to unresolvable variables or unavailable list elements: {word}"
            raise _FAULTS.internal(detail)
        choices.append(variables[word])
    for values in itertools.product(*choices):
        yield {**held, **dict(zip(names, values, strict=True))}


# -- matches ----------------------------------------------------------------------------------------------------------


def _matches(kind: str, held: dict[str, str]) -> str:
    """Return what packets of one kind a rule is about. Raises LibvirtError."""
    take = dict(held)
    equal = "!=" if take.pop("match", "yes") in {"no", "false", "0"} else "=="
    take.pop("comment", None)
    take.pop("statematch", None)
    found: list[str] = []
    for name, word in (("srcmacaddr", "saddr"), ("dstmacaddr", "daddr")):
        if (value := take.pop(name, None)) is not None:
            found.append(_masked(f"ether {word}", mac(value), take.pop(name[:3] + "macmask", None), equal, mac))
    if kind == "mac":
        if (value := take.pop("protocolid", None)) is not None:
            number = _TYPES.get(value.lower())
            found.append(f"ether type {equal} {integer(value, 0) if number is None else number:#06x}")
    elif kind in {"arp", "rarp"}:
        found = [f"ether type {_TYPES[kind]:#06x}", *found, *_arp(take, equal)]
    elif kind in {"ip", "ipv6"}:
        found = [f"ether type {_TYPES['ipv4' if kind == 'ip' else 'ipv6']:#06x}", *found, *_ip(kind, take, equal)]
    elif kind == "vlan":
        found.insert(0, f"ether type {_TYPES['vlan']:#06x}")
        if (value := take.pop("vlanid", None)) is not None:
            found.append(f"@nh,4,12 {equal} {ranged(value, 4095)}")
        if (value := take.pop("encap-protocol", None)) is not None:
            number = _TYPES.get(value.lower())
            found.append(f"@nh,16,16 {equal} {integer(value, 0) if number is None else number:#06x}")
    else:
        raise _FAULTS.unsupported(f"rules on '{kind}' are not supported")
    if take:
        raise _FAULTS.unsupported(f"attribute '{next(iter(take))}' of a rule on '{kind}' is not supported")
    return " ".join(found)


def _masked(expression: str, value: str, mask: str | None, equal: str, parse: Callable[[str], str]) -> str:
    if mask is None:
        return f"{expression} {equal} {value}"
    return f"{expression} & {parse(mask)} {equal} {value}"


def _arp(take: dict[str, str], equal: str) -> Iterator[str]:
    """Matches on ARP's fields (RFC 826), by where they are: RARP has the same ones under another type."""
    for name, place, most in (("hwtype", "@nh,0,16", 0xFFFF), ("protocoltype", "@nh,16,16", 0xFFFF)):
        if (value := take.pop(name, None)) is not None:
            yield f"{place} {equal} {ranged(str(_TYPES.get(value.lower(), value)), most)}"
    if (value := take.pop("opcode", None)) is not None:
        number = _OPERATIONS.get(value.lower())
        yield f"@nh,48,16 {equal} {ranged(value, 0xFFFF) if number is None else number}"
    for name, place in (("arpsrcmacaddr", "@nh,64,48"), ("arpdstmacaddr", "@nh,144,48")):
        if (value := take.pop(name, None)) is not None:
            yield f"{place} {equal} {mac_number(value)}"
    for name, place in (("arpsrcip", "@nh,112,32"), ("arpdstip", "@nh,192,32")):
        if (value := take.pop(name + "addr", None)) is not None:
            wanted = network(value, take.pop(name + "mask", None), 4)
            address, mask = int(wanted.network_address), int(wanted.netmask)
            yield f"{place} & {mask:#010x} {equal} {address:#010x}"


def _ip(kind: str, take: dict[str, str], equal: str) -> Iterator[str]:
    word, version = ("ip", 4) if kind == "ip" else ("ip6", 6)
    for name, side in (("srcip", "saddr"), ("dstip", "daddr")):
        if (value := take.pop(name + "addr", None)) is not None:
            yield f"{word} {side} {equal} {network(value, take.pop(name + 'mask', None), version)}"
    if (value := take.pop("dscp", None)) is not None:
        yield f"{word} dscp {equal} {ranged(value, 63)}"
    number: int | None = None
    if (value := take.pop("protocol", None)) is not None:
        number = _PROTOCOLS.get(value.lower())
        number = ranged(value, 255) if number is None else number
        yield f"meta l4proto {equal} {number}"
    for side, word in (("src", "sport"), ("dst", "dport")):
        low, high = take.pop(f"{side}portstart", None), take.pop(f"{side}portend", None)
        if low is None:
            continue
        if number not in _WITH_PORTS:
            raise _FAULTS.xml("a rule on ports needs a protocol that has them")
        first, last = ranged(low, 0xFFFF), ranged(high or low, 0xFFFF)
        yield f"th {word} {equal} {first}" + (f"-{last}" if last != first else "")


def missing(name: str) -> LibvirtError:
    """Return the error for a filter that is referred to and not there."""
    return _FAULTS.make(ErrorCode.NO_NWFILTER, f"referenced filter '{name}' is missing")
