"""Rules of network filters that follow connections: ``<tcp/>``, ``<udp/>``, ``<icmp/>``, ``<all/>`` and their kin.

Source: libvirt's documentation, "Network Filters"; nft(8), family bridge. What libvirt leaves to the host's connection
tracking, which bridges need a module for, is kept in sets of the interface's own table: each connection by who began
it, as its addresses, protocol and ports as the guest sees them. A packet that passed all rules is noted there.

As libvirt's, a rule means both ways: what it says goes for packets in its direction, and with source and destination
swapped for those in the other. One that accepts lets connections begin only in its direction, and only answers come
back, unless it is for both directions or says ``statematch='false'``. Packets from the host's own side of a bridge
(routed ones among them) are noted, not judged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyhyve.daemon.faults import Faults
from pyhyve.daemon.resources.filter_fields import mac, network, ranged, swapped
from pyhyve.rpc.errors import ErrorDomain

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["KINDS", "connection_rules", "tracking_lines"]

_FAULTS: Final = Faults(ErrorDomain.NWFILTER)
_PROTOCOLS: Final = {"tcp": 6, "udp": 17, "udplite": 136, "sctp": 132, "esp": 50, "ah": 51, "all": None}
KINDS: Final[dict[str, tuple[int, int | None]]] = {
    **{name: (4, number) for name, number in _PROTOCOLS.items()},
    **{f"{name}-ipv6": (6, number) for name, number in _PROTOCOLS.items()},
    "icmp": (4, 1),
    "igmp": (4, 2),
    "icmpv6": (6, 58),
}
"""Kinds of these rules: the version of IP they are about, and the protocol within (None: any)."""
_WITH_PORTS: Final = (6, 17, 132, 136)
_PORTED: Final = "{ " + ", ".join(str(number) for number in _WITH_PORTS) + " }"
_STATES: Final = frozenset({"NEW", "ESTABLISHED", "RELATED", "INVALID", "NONE"})
_ERRORS: Final = {4: "icmp type { 3, 4, 5, 11, 12 }", 6: "icmpv6 type { 1, 2, 3, 4 }"}
"""ICMP's messages about other packets: what belongs to a connection without being of it."""
_FLAGS: Final = {"FIN": 1, "SYN": 2, "RST": 4, "PSH": 8, "ACK": 16, "URG": 32, "ALL": 63, "NONE": 0}
_TYPE: Final = {4: 0x0800, 6: 0x86DD}
_TIMEOUTS_S: Final = ((f"meta l4proto {_WITH_PORTS[0]}", 7440), ("meta l4proto { 17, 132, 136 }", 180))
"""How long a connection that is silent is remembered: TCP's as long as RFC 5382 asks for."""
_TIMEOUT_OTHERS_S: Final = 600
_CONNECTIONS_MAX: Final = 65_536


def _word(version: int) -> str:
    return "ip" if version == 4 else "ip6"


def _key(way: str, version: int, *, ports: bool) -> str:
    ip = _word(version)
    here, there = ("s", "d") if way == "out" else ("d", "s")
    key = f"{ip} {here}addr . {ip} {there}addr . meta l4proto"
    return f"{key} . th {here}port . th {there}port" if ports else key


def _set(begun_by: str, version: int, *, ports: bool) -> str:
    return f"begun_{begun_by}{version}{'p' if ports else ''}"


def connection_rules(
    kind: str, held: dict[str, str], direction: str, action: str, *, follow: bool
) -> Iterator[tuple[str, str, bool]]:
    """Give the rules of one element: the way packets go (in, out), the rule, and whether it asks for connections.

    ``follow`` is what the rule's ``statematch`` says. Raises LibvirtError.
    """
    take = {name: value for name, value in held.items() if name != "comment"}
    if take.pop("match", "yes") in {"no", "false", "0"}:
        raise _FAULTS.unsupported(f"match='no' of a rule on '{kind}' is not supported")
    follow = take.pop("statematch", "true").lower() not in {"0", "false", "no"} and follow
    verdict = "accept" if action == "return" else action
    states = take.pop("state", None)
    own, other = ("out", "in") if direction == "out" else ("in", "out")
    match = _match(kind, take)
    # The sender of an answer has a MAC address that the rule does not say.
    back = _match(kind, {name: value for name, value in swapped(take).items() if name != "dstmacaddr"})
    if states is not None:
        yield from _of_states(kind, match, own, verdict, states)
    elif "type" in take:  # an answer of ICMP has another type
        yield own, f"{match} {verdict}", False
    elif action != "accept" or not follow or direction == "inout":
        yield own, f"{match} {verdict}", False
        yield other, f"{back} {verdict}", False
    else:
        version = KINDS[kind][0]
        for clause, ports in _splits(kind):
            theirs, ours = _set(other, version, ports=ports), _set(own, version, ports=ports)
            yield own, _joined(match, clause, f"{_key(own, version, ports=ports)} != @{theirs}", verdict), True
            yield other, _joined(back, clause, f"{_key(other, version, ports=ports)} @{ours}", verdict), True


def _joined(*parts: str) -> str:
    return " ".join(filter(None, parts))


def _splits(kind: str) -> list[tuple[str, bool]]:
    """Return what a kind comes to: packets with ports, packets without, or both."""
    number = KINDS[kind][1]
    if number is None:
        return [(f"meta l4proto {_PORTED}", True), (f"meta l4proto != {_PORTED}", False)]
    return [("", number in _WITH_PORTS)]


def _of_states(kind: str, match: str, way: str, action: str, text: str) -> Iterator[tuple[str, str, bool]]:
    states = {word.strip().upper() for word in text.split(",")}
    if not states or not states <= _STATES:
        raise _FAULTS.xml(f"unknown state '{text}' of a rule")
    version, number = KINDS[kind]
    if "NONE" in states or states >= {"NEW", "ESTABLISHED"}:
        yield way, f"{match} {action}", False
        return
    if "RELATED" in states and number in {None, 1, 58}:
        yield way, f"{match} {_ERRORS[version]} {action}", False
    for clause, ports in _splits(kind):
        key = _key(way, version, ports=ports)
        sets = [_set(begun_by, version, ports=ports) for begun_by in ("out", "in")]
        asked = []
        if "NEW" in states:
            asked.append(" ".join(f"{key} != @{name}" for name in sets))
        if "ESTABLISHED" in states:
            asked += [f"{key} @{name}" for name in sets]
        for question in asked:
            yield way, _joined(match, clause, question, action), True


def _match(kind: str, held: dict[str, str]) -> str:
    take = dict(held)
    version, number = KINDS[kind]
    ip = _word(version)
    found = [f"ether type {_TYPE[version]:#06x}"]
    if (value := take.pop("srcmacaddr", None)) is not None:
        found.append(f"ether saddr {mac(value)}")
    if number is not None:
        found.append(f"meta l4proto {number}")
    for side, word in (("src", "saddr"), ("dst", "daddr")):
        if (value := take.pop(f"{side}ipaddr", None)) is not None:
            found.append(f"{ip} {word} {network(value, take.pop(f'{side}ipmask', None), version)}")
        first, last = take.pop(f"{side}ipfrom", None), take.pop(f"{side}ipto", None)
        if first is not None:
            low, high = network(first, None, version), network(last or first, None, version)
            if int(low.network_address) > int(high.network_address):
                raise _FAULTS.xml(f"'{first}' to '{last}' is no range of addresses")
            found.append(f"{ip} {word} {low.network_address}-{high.network_address}")
    if (value := take.pop("dscp", None)) is not None:
        found.append(f"{ip} dscp {ranged(value, 63)}")
    found += _ports(kind, take)
    if kind in {"tcp", "tcp-ipv6"}:
        if (value := take.pop("flags", None)) is not None:
            found.append(_flags(value))
        if (value := take.pop("option", None)) is not None:
            found.append(f"tcp option {ranged(value, 255)} exists")
    if kind in {"icmp", "icmpv6"}:
        found += [
            f"{kind} {name} {ranged(value, 255)}"
            for name in ("type", "code")
            if (value := take.pop(name, None)) is not None
        ]
    if take:
        raise _FAULTS.unsupported(f"attribute '{next(iter(take))}' of a rule on '{kind}' is not supported")
    return " ".join(found)


def _ports(kind: str, take: dict[str, str]) -> Iterator[str]:
    for side, word in (("src", "sport"), ("dst", "dport")):
        low, high = take.pop(f"{side}portstart", None), take.pop(f"{side}portend", None)
        if low is None:
            continue
        if KINDS[kind][1] not in _WITH_PORTS:
            raise _FAULTS.xml(f"a rule on '{kind}' has no ports")
        first, last = ranged(low, 0xFFFF), ranged(high or low, 0xFFFF)
        yield f"th {word} {first}" + (f"-{last}" if last != first else "")


def _flags(text: str) -> str:
    values = []
    for part in text.split("/"):
        words = [word.strip().upper() for word in part.split(",")]
        if not all(word in _FLAGS for word in words):
            raise _FAULTS.xml(f"'{text}' are no TCP flags")
        values.append(sum({_FLAGS[word] for word in words}))
    if len(values) != 2:
        raise _FAULTS.xml(f"'{text}' are no TCP flags: MASK/FLAGS")
    return f"tcp flags & {values[0]:#04x} == {values[1]:#04x}"


def tracking_lines(port: str) -> list[str]:
    """Return the sets of an interface's connections, and the chains that note what passed its rules."""
    lines = []
    for version, kind in ((4, "ipv4_addr"), (6, "ipv6_addr")):
        for ports in (True, False):
            spec = f"type {kind} . {kind} . inet_proto" + (" . inet_service . inet_service" if ports else "")
            lines += [
                f" set {_set(begun_by, version, ports=ports)}"
                f" {{ {spec}; flags dynamic,timeout; timeout 10m; size {_CONNECTIONS_MAX}; }}"
                for begun_by in ("out", "in")
            ]
    hooks = (("out", "prerouting priority -240", "iifname"), ("in", "postrouting priority 260", "oifname"))
    for way, hook, match in hooks:
        lines.append(f" chain note_{way} {{ type filter hook {hook};")
        lines.append(f'  {match} != "{port}" accept')
        other = "in" if way == "out" else "out"
        for version in (4, 6):
            lines.append(f"  {_ERRORS[version]} accept")
            cases = [(clause, True, timeout) for clause, timeout in _TIMEOUTS_S]
            cases.append((f"meta l4proto != {_PORTED}", False, _TIMEOUT_OTHERS_S))
            for clause, ports, timeout in cases:
                key, theirs = _key(way, version, ports=ports), _set(other, version, ports=ports)
                head = f"  ether type {_TYPE[version]:#06x} {clause}"
                note = f"{{ {key} timeout {timeout}s }} accept"
                lines.append(f"{head} {key} @{theirs} update @{theirs} {note}")
                lines.append(f"{head} update @{_set(way, version, ports=ports)} {note}")
        lines.append(" }")
    return lines
