from __future__ import annotations

from pyhyve.hostnet import rules
from pyhyve.hostnet.spec import Mode, NetworkSpec, PortForward, host_interface, ip_address

HOST, HOST6 = host_interface("10.7.0.1/24"), host_interface("fd07::1/64")
RESET = "add table inet pyhyve\ndelete table inet pyhyve\n"


def chain(text: str, name: str) -> list[str]:
    """The rules of one chain, without its declaration."""
    body = text.partition(f"\tchain {name} {{\n")[2].partition("\n\t}")[0]
    return [line.strip() for line in body.splitlines()[1:]]


def test_no_networks_leave_no_table() -> None:
    assert rules.render([]) == RESET
    assert rules.render([NetworkSpec("plain", "br0", Mode.BRIDGE, (HOST,))]) == RESET


def test_only_our_table_is_named() -> None:
    text = rules.render([NetworkSpec("a", "a0", Mode.NAT, (HOST, HOST6)), NetworkSpec("b", "b0", Mode.ISOLATED)])
    assert text.startswith(RESET + "table inet pyhyve {\n")
    assert text.count("table ") == 3
    assert "flush" not in text


def test_nat_translates_what_leaves_but_not_multicast() -> None:
    found = chain(rules.render([NetworkSpec("a", "a0", Mode.NAT, (HOST,))]), "postrouting")
    assert found == [
        "ip saddr 10.7.0.0/24 ip daddr { 224.0.0.0/24, 255.255.255.255 } return",
        "ip saddr 10.7.0.0/24 ip daddr != 10.7.0.0/24 masquerade",
    ]


def test_nat_lets_only_answers_in() -> None:
    found = chain(rules.render([NetworkSpec("a", "a0", Mode.NAT, (HOST,))]), "forward")
    assert found[0] == 'iifname "a0" oifname "a0" accept'
    assert 'oifname "a0" ct state != { established, related } reject' in found
    # No IPv6 network: nothing of it passes.
    assert 'iifname "a0" meta nfproto ipv6 reject' in found


def test_routed_translates_nothing_and_refuses_foreign_sources() -> None:
    text = rules.render([NetworkSpec("a", "a0", Mode.ROUTED, (HOST,))])
    assert "masquerade" not in text
    assert 'iifname "a0" ip saddr != { 10.7.0.0/24 } reject' in chain(text, "forward")
    assert "established" not in text


def test_isolated_rejects_both_ways() -> None:
    found = chain(rules.render([NetworkSpec("a", "a0", Mode.ISOLATED, (HOST,))]), "forward")
    assert found == ['iifname "a0" oifname "a0" accept', 'iifname "a0" reject', 'oifname "a0" reject']


def test_a_network_cannot_open_another_one() -> None:
    """Accepting rules come first and name one bridge on both sides: all others only reject."""
    text = rules.render([NetworkSpec("a", "a0", Mode.NAT, (HOST,)), NetworkSpec("b", "b0", Mode.ISOLATED)])
    accepting = [rule for rule in chain(text, "forward") if rule.endswith("accept")]
    assert accepting == ['iifname "a0" oifname "a0" accept', 'iifname "b0" oifname "b0" accept']


def test_forward_works_from_outside_and_from_the_host() -> None:
    forward = PortForward("tcp", 2222, ip_address("10.7.0.9"), 22)
    text = rules.render([NetworkSpec("a", "a0", Mode.NAT, (HOST,), forwards=(forward,))])
    rule = "meta nfproto ipv4 fib daddr type local tcp dport 2222 dnat ip to 10.7.0.9:22"
    assert chain(text, "prerouting") == chain(text, "output") == [rule]
    assert 'oifname "a0" ip daddr 10.7.0.9 tcp dport 22 ip saddr 127.0.0.0/8 ct status dnat masquerade' in chain(
        text, "postrouting"
    )
    # `route_localnet` must not let guests reach the host's loopback services.
    assert chain(text, "input") == ['iifname "a0" ip daddr 127.0.0.0/8 ct state != { established, related } drop']


def test_forward_to_ipv6_is_bracketed_and_bound_to_its_address() -> None:
    forward = PortForward("udp", 53, ip_address("fd07::9"), 5353, ip_address("fd00::1"))
    text = rules.render([NetworkSpec("a", "a0", Mode.NAT, (HOST6,), forwards=(forward,))])
    assert chain(text, "output") == [
        "meta nfproto ipv6 ip6 daddr fd00::1 udp dport 53 dnat ip6 to [fd07::9]:5353",
    ]
