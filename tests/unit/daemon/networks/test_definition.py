from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.networks.definition import complete, live, parse
from pyhyve.daemon.networks.plan import plan
from pyhyve.daemon.networks.registry import NetworkRegistry
from pyhyve.daemon.networks.update import Command, Section, update
from pyhyve.hostnet.spec import Mode, NetworkSpec
from pyhyve.xml.element import format_element

if TYPE_CHECKING:
    from collections.abc import Callable

NAT = """
<network><name>n</name><forward mode='nat'/><bridge name='vbr7'/><domain name='lab'/>
<ip address='10.7.0.1' netmask='255.255.255.0'><dhcp><range start='10.7.0.2' end='10.7.0.9'/>
<host mac='52:54:00:00:00:01' name='a' ip='10.7.0.5'/></dhcp></ip></network>
"""


def subnet(inner: str) -> str:
    return f"<network><name>n</name><ip address='10.0.0.1' prefix='24'><dhcp>{inner}</dhcp></ip></network>"


def test_definition_is_filled_in_and_stays_as_it_is() -> None:
    network = complete(parse(NAT), [])
    assert network.uuid is not None
    assert network.mac is not None
    assert network.mac.address.startswith("52:54:00:")
    assert "<bridge name='vbr7' stp='on' delay='0'/>" in format_element(network)
    again = complete(parse(format_element(network)), [])
    assert format_element(again) == format_element(network)


def test_bridge_gets_a_name_nobody_has() -> None:
    network = complete(parse("<network><name>n</name></network>"), [("virbr0", bytes(16)), ("virbr1", bytes(16))])
    assert network.bridge is not None
    assert network.bridge.name not in {"virbr0", "virbr1"}


@pytest.mark.parametrize(
    ("xml", "problem"),
    [
        ("<network/>", "missing name information"),
        ("<network><name>a/b</name></network>", "invalid char in name: /"),
        ("<network><name>n</name><forward mode='foo'/></network>", "unknown forwarding type 'foo'"),
        ("<network><name>n</name><forward mode='nat'/></network>", "nat forwarding requested, but no IP address"),
        ("<network><name>n</name><uuid>x</uuid></network>", "malformed uuid element"),
        ("<network><name>n</name><ip address='x'/></network>", "Invalid address 'x'"),
        ("<network><name>n</name><ip address='fd00::1' prefix='64'/></network>", "no family specified for non-IPv4"),
        (
            subnet("<range start='10.1.0.2' end='10.1.0.3'/>"),
            "is not entirely within network 10.0.0.1/24",
        ),
        (
            subnet("<range start='10.0.0.9' end='10.0.0.3'/>"),
            "is reversed",
        ),
        (
            subnet("<host ip='10.0.0.9'/>"),
            "must have mac or name attribute",
        ),
    ],
)
def test_definition_wrong_is_explained(xml: str, problem: str) -> None:
    with pytest.raises(LibvirtError, match=problem):
        complete(parse(xml), [])


def test_bridge_name_of_another_network_is_refused() -> None:
    with pytest.raises(LibvirtError, match=r"bridge name 'vbr7' already in use\."):
        complete(parse(NAT), [("vbr7", UUID(int=7).bytes)])


def test_running_nat_says_its_ports() -> None:
    assert "<port start='1024' end='65535'/>" in format_element(live(complete(parse(NAT), [])))


def test_plan_is_what_the_document_says() -> None:
    spec = plan(complete(parse(NAT), []))
    assert spec is not None
    assert (spec.name, spec.bridge, spec.mode, spec.domain) == ("n", "vbr7", Mode.NAT, "lab")
    assert [str(address) for address in spec.addresses] == ["10.7.0.1/24"]
    assert [(str(given.first), str(given.last)) for given in spec.dhcp] == [("10.7.0.2", "10.7.0.9")]
    assert [(kept.mac, str(kept.address), kept.hostname) for kept in spec.reservations] == [
        ("52:54:00:00:00:01", "10.7.0.5", "a")
    ]


def test_plan_has_dns_entries_and_mtu() -> None:
    xml = (
        "<network><name>n</name><mtu size='1400'/><dns><txt name='x' value='y'/>"
        "<host ip='10.7.0.3'><hostname>h1</hostname><hostname>h2</hostname></host></dns>"
        "<ip address='10.7.0.1' prefix='24'/></network>"
    )
    spec = plan(complete(parse(xml), []))
    assert spec is not None
    assert spec.mtu == 1400
    assert [(str(host.address), host.names) for host in spec.dns_hosts] == [("10.7.0.3", ("h1", "h2"))]
    assert [(text.name, text.value) for text in spec.dns_texts] == [("x", "y")]


def test_plan_has_what_dnsmasq_serves_beside_addresses_and_names() -> None:
    xml = (
        "<network><name>n</name><dns><forwarder addr='8.8.8.8'/><forwarder domain='a.b' addr='fd00::1'/>"
        "<forwarder domain='c'/>"
        "<srv service='kerberos' protocol='tcp'/>"
        "<srv service='sip' protocol='udp' domain='lab' target='h' port='5060' weight='7'/></dns>"
        "<ip address='10.7.0.1' prefix='24'><tftp root='/srv/boot files'/>"
        "<dhcp><range start='10.7.0.2' end='10.7.0.9'/><bootp file='pxelinux.0' server='10.7.0.3'/></dhcp>"
        "</ip></network>"
    )
    spec = plan(complete(parse(xml), []))
    assert spec is not None
    assert spec.served == (
        ("enable-tftp", ""),
        ("tftp-root", "/srv/boot files"),
        ("dhcp-boot", "pxelinux.0,,10.7.0.3"),
        ("no-resolv", ""),
        ("server", "8.8.8.8"),
        ("server", "/a.b/fd00::1"),
        ("server", "/c/#"),
        ("srv-host", "_kerberos._tcp"),
        ("srv-host", "_sip._udp.lab,h,5060,0,7"),
    )
    assert NetworkSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    "inner",
    [
        "<dns><forwarder/></dns>",
        "<dns><forwarder addr='nowhere'/></dns>",
        "<dns><srv service='a,b' protocol='tcp'/></dns>",
        "<dns><srv service='a' protocol='tcp' target='h' port='65536'/></dns>",
        "<dns><srv service='a' protocol='tcp' target='h' weight='-1'/></dns>",
        "<ip address='10.7.0.1' prefix='24'><tftp root='/x&#10;port=5'/></ip>",
        "<ip address='10.7.0.1' prefix='24'><dhcp><bootp file='a#b'/></dhcp></ip>",
    ],
)
def test_what_dnsmasq_could_misread_is_refused(inner: str) -> None:
    network = complete(parse(f"<network><name>n</name>{inner}</network>"), [])
    with pytest.raises(LibvirtError, match="XML error"):
        plan(network)
    # One that was made before that was so can still be taken down.
    removed: list[str] = []

    async def run_blocking(work: Callable[[str], None], name: str) -> None:
        work(name)

    registry: Any = SimpleNamespace(
        daemon=SimpleNamespace(run_blocking=run_blocking), host=lambda: SimpleNamespace(delete=removed.append)
    )
    asyncio.run(NetworkRegistry._unmake(registry, network))
    assert removed == ["n"]


def test_plan_of_a_bridge_of_the_host_is_nothing_to_make() -> None:
    xml = "<network><name>n</name><forward mode='bridge'/><bridge name='br0'/></network>"
    assert plan(complete(parse(xml), [])) is None


HOST = "<host mac='52:54:00:00:00:02' ip='10.7.0.6'/>"


def test_update_adds_in_front_or_behind() -> None:
    network = complete(parse(NAT), [])
    last = update(network, Command.ADD_LAST, Section.IP_DHCP_HOST, -1, HOST)
    first = update(network, Command.ADD_FIRST, Section.IP_DHCP_HOST, -1, HOST)
    assert [host.ip for host in last.ip[0].dhcp.host] == ["10.7.0.5", "10.7.0.6"]  # type: ignore[union-attr] # it has
    assert [host.ip for host in first.ip[0].dhcp.host] == ["10.7.0.6", "10.7.0.5"]  # type: ignore[union-attr] # it has


def test_update_takes_away_and_changes() -> None:
    network = complete(parse(NAT), [])
    gone = update(network, Command.DELETE, Section.IP_DHCP_HOST, -1, "<host mac='52:54:00:00:00:01'/>")
    assert gone.ip[0].dhcp is not None
    assert not gone.ip[0].dhcp.host
    changed = update(network, Command.MODIFY, Section.IP_DHCP_HOST, -1, "<host mac='52:54:00:00:00:01' ip='10.7.0.8'/>")
    assert changed.ip[0].dhcp is not None
    assert [host.ip for host in changed.ip[0].dhcp.host] == ["10.7.0.8"]


@pytest.mark.parametrize(
    ("command", "section", "xml", "problem"),
    [
        (
            Command.ADD_LAST,
            Section.IP_DHCP_HOST,
            "<host mac='52:54:00:00:00:01' ip='10.7.0.7'/>",
            "there is an existing",
        ),
        (Command.DELETE, Section.IP_DHCP_HOST, "<host mac='52:54:00:00:00:09'/>", "couldn't locate a matching"),
        (Command.ADD_LAST, Section.IP_DHCP_HOST, "<foo/>", "unexpected element <foo>, expecting <host>"),
        (Command.ADD_LAST, Section.IP_DHCP_HOST, "<host/>", "must have mac or name attribute"),
        (Command.ADD_LAST, Section.IP, "<ip/>", "can't update 'ip' section"),
        (Command.ADD_LAST, 99, "<ip/>", "can't update unrecognized section"),
        (Command.MODIFY, Section.IP_DHCP_RANGE, "<range start='10.7.0.2' end='10.7.0.9'/>", "cannot be modified"),
        (Command.ADD_LAST, Section.IP_DHCP_HOST, "<host", "not well-formed"),
    ],
)
def test_update_wrong_is_explained(command: Command, section: int, xml: str, problem: str) -> None:
    with pytest.raises(LibvirtError, match=problem):
        update(complete(parse(NAT), []), command, section, -1, xml)


def test_update_makes_the_container_it_needs() -> None:
    network = update(complete(parse(NAT), []), Command.ADD_LAST, Section.DNS_TXT, -1, "<txt name='x' value='y'/>")
    assert "<dns>\n    <txt name='x' value='y'/>\n  </dns>" in format_element(network)
    network = update(network, Command.DELETE, Section.DNS_TXT, -1, "<txt name='x'/>")
    assert "<dns" not in format_element(network)
