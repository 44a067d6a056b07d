"""Packet filter rules for all networks, as one text for `nft -f`: our own table is replaced in one transaction.

Only the table `inet pyhyve` is ever named, so the tables of Docker, firewalld and the distribution stay as they are.
Source: nft(8); netfilter hook priorities (`filter` 0, `dstnat` -100, `srcnat` 100).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.hostnet.spec import Mode

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pyhyve.hostnet.spec import Interface, NetworkSpec, PortForward

TABLE = "inet pyhyve"
DELETE = f"add table {TABLE}\ndelete table {TABLE}\n"
"""Removes the table whether or not it is there: `delete` alone fails on one that is missing."""
_NEVER_TRANSLATED = {4: "{ 224.0.0.0/24, 255.255.255.255 }", 6: "ff00::/8"}
"""Multicast that stays on the link, and broadcast."""


def family(address: Interface) -> str:
    """`ip` or `ip6`."""
    return "ip" if address.version == 4 else "ip6"


def render(networks: Iterable[NetworkSpec]) -> str:
    """The whole text; without networks that need rules, only the removal of the table."""
    specs = [network for network in networks if network.needs_rules]
    if not specs:
        return DELETE
    forwards = [rule for spec in specs for forward in spec.forwards for rule in _destination(forward)]
    chains = {
        "input": ("type filter hook input priority filter", [rule for spec in specs for rule in _input(spec)]),
        "forward": (
            "type filter hook forward priority filter",
            [rule for part in (_within, _forward) for spec in specs for rule in part(spec)],
        ),
        "prerouting": ("type nat hook prerouting priority dstnat", forwards),
        "output": ("type nat hook output priority -100", forwards),
        "postrouting": ("type nat hook postrouting priority srcnat", [r for spec in specs for r in _source(spec)]),
    }
    lines = [f"table {TABLE} {{"]
    for name, (hook, rules) in chains.items():
        if rules:
            lines += [f"\tchain {name} {{", f"\t\t{hook}; policy accept;", *(f"\t\t{r}" for r in rules), "\t}"]
    lines.append("}")
    return DELETE + "\n".join(lines) + "\n"


def _input(spec: NetworkSpec) -> Sequence[str]:
    """Forwards from 127.0.0.1 need `route_localnet` on the bridge: only their answers may use it."""
    if not any(forward.address.version == 4 for forward in spec.forwards):
        return ()
    return (f'iifname "{spec.bridge}" ip daddr 127.0.0.0/8 ct state != {{ established, related }} drop',)


def _within(spec: NetworkSpec) -> list[str]:
    """What passes whatever the other networks' rules say: traffic within the bridge, and port forwards."""
    inside, outside = f'iifname "{spec.bridge}"', f'oifname "{spec.bridge}"'
    rules = [f"{inside} {outside} accept"]
    if spec.forwards:
        rules += [f"{outside} ct status dnat accept", f"{inside} ct status dnat accept"]
    return rules


def _forward(spec: NetworkSpec) -> list[str]:
    """What may not pass. These only reject: between two of our networks a packet has to please both."""
    inside, outside = f'iifname "{spec.bridge}"', f'oifname "{spec.bridge}"'
    if spec.mode is Mode.ISOLATED:
        return [f"{inside} reject", f"{outside} reject"]
    rules: list[str] = []
    for version, kind in ((4, "ip"), (6, "ip6")):
        networks = ", ".join(str(host.network) for host in spec.addresses if host.version == version)
        if not networks:
            rules += [f"{way} meta nfproto ipv{version} reject" for way in (inside, outside)]
            continue
        rules.append(f"{inside} {kind} saddr != {{ {networks} }} reject")
        rules.append(f"{outside} {kind} daddr != {{ {networks} }} reject")
    if spec.mode is Mode.NAT:
        rules.append(f"{outside} ct state != {{ established, related }} reject")
    return rules


def _source(spec: NetworkSpec) -> list[str]:
    """Translation of source addresses."""
    rules: list[str] = []
    if spec.mode is Mode.NAT:
        for host in spec.addresses:
            kind, network = family(host), host.network
            rules += [
                f"{kind} saddr {network} {kind} daddr {_NEVER_TRANSLATED[host.version]} return",
                f"{kind} saddr {network} {kind} daddr != {network} masquerade",
            ]
    for forward in spec.forwards:
        host_net = spec.network_of(forward.address)
        if host_net is None:
            continue
        kind = family(host_net)
        target = f'oifname "{spec.bridge}" {kind} daddr {forward.address} {forward.protocol} dport {forward.port}'
        # From the host's loopback, or from a guest of the same network: the answer must come back through the host.
        loopback = "127.0.0.0/8" if host_net.version == 4 else "::1"
        for source in (loopback, str(host_net.network)):
            rules.append(f"{target} {kind} saddr {source} ct status dnat masquerade")
    return list(dict.fromkeys(rules))


def _destination(forward: PortForward) -> list[str]:
    """Translation of destination addresses, for packets from outside and from the host itself."""
    kind = "ip" if forward.address.version == 4 else "ip6"
    target = f"[{forward.address}]" if forward.address.version == 6 else str(forward.address)
    where = f"{kind} daddr {forward.host_address}" if forward.host_address else "fib daddr type local"
    protocol = "ipv4" if kind == "ip" else "ipv6"
    match = f"meta nfproto {protocol} {where} {forward.protocol} dport {forward.host_port}"
    return [f"{match} dnat {kind} to {target}:{forward.port}"]
