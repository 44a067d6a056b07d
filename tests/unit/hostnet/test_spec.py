from __future__ import annotations

import ipaddress
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyhyve.hostnet.spec import (
    DhcpRange,
    Mode,
    NetworkSpec,
    PortForward,
    Reservation,
    SpecError,
    TapSpec,
    default_range,
    host_interface,
    ip_address,
    link_name,
    mac_address,
)

HOST = host_interface("10.7.0.1/24")
HOST6 = host_interface("fd07::1/64")


def network(**changes: Any) -> NetworkSpec:
    fields: dict[str, Any] = {"name": "lab", "bridge": "lab0", "addresses": (HOST,)}
    return NetworkSpec(**fields | changes)


def test_spec_survives_json() -> None:
    spec = network(
        mode=Mode.ROUTED,
        addresses=(HOST, HOST6),
        dhcp=(default_range(HOST), default_range(HOST6)),
        reservations=(Reservation("52:54:00:00:00:01", ip_address("10.7.0.9"), "web"),),
        forwards=(
            PortForward("tcp", 80, ip_address("10.7.0.9"), 8080),
            PortForward("udp", 53, ip_address("fd07::9"), 53, ip_address("::1")),
        ),
        taps=(TapSpec("t0", 1000), TapSpec("t1")),
        domain="lab.test",
        mtu=1400,
    )
    assert NetworkSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize("name", ["", "a b", "x" * 16, "a/b", ".", "-a", 'a"b', "all", "default", "é"])
def test_link_name_refuses_what_no_interface_may_have(name: str) -> None:
    with pytest.raises(SpecError, match="not an interface name"):
        link_name(name)


@pytest.mark.parametrize("text", ["", "52:54:00:00:00", "01:00:5e:00:00:01", "52-54-00-00-00-01", "gg:00:00:00:00:00"])
def test_mac_address_refuses_malformed_and_multicast(text: str) -> None:
    with pytest.raises(SpecError, match="not a MAC address"):
        mac_address(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("10.0.0.1", "with a prefix length"),
        ("10.0.0.1/33", "with a prefix length"),
        ("10.0.0.0/24", "stands for the whole network"),
        ("10.0.0.255/24", "stands for the whole network"),
        ("224.0.0.1/24", "not an address that a bridge can have"),
        ("127.0.0.1/8", "not an address that a bridge can have"),
    ],
)
def test_host_interface_says_what_is_wrong(text: str, reason: str) -> None:
    with pytest.raises(SpecError, match=reason):
        host_interface(text)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": "a/b"}, "not a network name"),
        ({"addresses": ()}, "needs an address for the host"),
        ({"ports": ("eth0",)}, "plain bridges only"),
        ({"mode": Mode.BRIDGE, "move_addresses": True}, "no port to move addresses from"),
        ({"mode": Mode.BRIDGE, "forwards": (PortForward("tcp", 1, ip_address("10.7.0.2"), 1),)}, "no port forwards"),
        ({"forwards": (PortForward("tcp", 1, ip_address("10.8.0.2"), 1),)}, "not an address of this network"),
        ({"dhcp": (DhcpRange(ip_address("10.8.0.2"), ip_address("10.8.0.3")),)}, "in no network"),
        ({"dhcp": (DhcpRange(ip_address("10.7.0.1"), ip_address("10.7.0.3")),)}, "the host's own address"),
        ({"reservations": (Reservation("52:54:00:00:00:01", ip_address("10.7.0.2")),)}, "need DHCP"),
        ({"mtu": 67}, "mtu"),
        ({"domain": "a b"}, "not a domain name"),
        ({"taps": (TapSpec("lab0"),)}, "named twice"),
    ],
)
def test_network_refuses_parts_that_do_not_fit(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(SpecError, match=reason):
        network(**changes)


def test_network_refuses_an_address_reserved_twice() -> None:
    kept = (
        Reservation("52:54:00:00:00:01", ip_address("10.7.0.9")),
        Reservation("52:54:00:00:00:02", ip_address("10.7.0.9")),
    )
    with pytest.raises(SpecError, match="reserved twice"):
        network(dhcp=(default_range(HOST),), reservations=kept)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("10.7.0.1/24", ("10.7.0.2", "10.7.0.254")),
        ("10.7.0.254/24", ("10.7.0.2", "10.7.0.253")),
        ("10.7.0.1/30", ("10.7.0.2", "10.7.0.2")),
        ("10.7.0.2/30", ("10.7.0.1", "10.7.0.1")),
        ("fd07::1/64", ("fd07::2", "fd07::fe")),
    ],
)
def test_default_range_leaves_the_host_out(host: str, expected: tuple[str, str]) -> None:
    found = default_range(host_interface(host))
    assert (str(found.first), str(found.last)) == expected


@given(prefix=st.integers(8, 29), index=st.integers(1, 6))
def test_default_range_always_makes_a_valid_network(prefix: int, index: int) -> None:
    base = ipaddress.ip_network("10.0.0.0/8").network_address
    host = host_interface(f"{base + index}/{prefix}")
    assert network(addresses=(host,), dhcp=(default_range(host),)).dhcp


def test_default_range_needs_room() -> None:
    with pytest.raises(SpecError, match="no room"):
        default_range(host_interface("10.0.0.1/32"))
