# ruff: noqa: E501 - documents and rules as they are
from __future__ import annotations

import pytest

from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.resources.filter_rules import missing, table_name, table_script, used_filters
from pyhyve.xml.document import Node, parse_document

FILTERS = {
    "clean": """<filter name='clean' chain='root'><filterref filter='no-mac-spoofing'/><filterref filter='no-ip-spoofing'/>
    <rule direction='out' action='accept' priority='-650'><mac protocolid='ipv4'/></rule>
    <rule action='drop' direction='inout' priority='1000'/></filter>""",
    "no-mac-spoofing": """<filter name='no-mac-spoofing' chain='mac' priority='-800'>
    <rule direction='out' action='return'><mac srcmacaddr='$MAC'/></rule>
    <rule direction='out' action='drop'><mac/></rule></filter>""",
    "no-ip-spoofing": """<filter name='no-ip-spoofing' chain='ipv4-ip' priority='-710'>
    <rule direction='out' action='return' priority='500'><ip srcipaddr='$IP'/></rule>
    <rule direction='out' action='drop' priority='1000'/></filter>""",
}
VARIABLES = {"MAC": ("52:54:00:00:00:01",), "IP": ("10.0.0.1", "10.0.0.2")}


def find(name: str) -> Node:
    if name not in FILTERS:
        raise missing(name)
    return parse_document(FILTERS[name])


def rules(text: str) -> list[str]:
    """Rules of a filter's own chain that leave the guest, then those that reach it."""
    node = parse_document(f"<filter name='x' chain='root'>{text}</filter>")
    lines = table_script("vnet0", node, VARIABLES, find).splitlines()
    return [line.strip() for line in lines if line.startswith("  ")]


def test_filter_becomes_chains_in_the_order_of_priorities() -> None:
    script = table_script("vnet0", find("clean"), VARIABLES, find)
    out = script[script.index(" chain out {") : script.index("}", script.index(" chain out {"))]
    mac, ip = "out_" + b"mac".hex(), "out_" + b"ipv4-ip".hex()
    assert out.splitlines()[1:] == [
        f"  jump {mac}",
        f"  ether type 0x0800 jump {ip}",
        "  ether type == 0x0800 accept",
        "  drop",
        " ",
    ]
    assert "  ether saddr == 52:54:00:00:00:01 return\n  drop\n" in script
    assert (
        "  ether type 0x0800 ip saddr == 10.0.0.1/32 return\n  ether type 0x0800 ip saddr == 10.0.0.2/32 return\n  drop\n"
        in script
    )
    assert 'iifname "vnet0" jump out' in script
    assert 'oifname "vnet0" jump in' in script


def test_rule_for_both_ways_has_source_and_destination_swapped() -> None:
    text = "<rule action='accept' direction='inout'><ip srcipaddr='10.0.0.0' srcipmask='24' protocol='udp' dstportstart='53'/></rule>"
    assert rules(text) == [
        "ether type 0x0800 ip saddr == 10.0.0.0/24 meta l4proto == 17 th dport == 53 accept",
        "ether type 0x0800 ip daddr == 10.0.0.0/24 meta l4proto == 17 th sport == 53 accept",
    ]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("<arp match='no' arpsrcmacaddr='$MAC'/>", "ether type 0x0806 @nh,64,48 != 0x525400000001 drop"),
        ("<arp opcode='Reply'/>", "ether type 0x0806 @nh,48,16 == 2 drop"),
        ("<rarp arpsrcipaddr='10.0.0.7'/>", "ether type 0x8035 @nh,112,32 & 0xffffffff == 0x0a000007 drop"),
        (
            "<mac dstmacaddr='1:0:0:0:0:0' dstmacmask='1:0:0:0:0:0'/>",
            "ether daddr & 01:00:00:00:00:00 == 01:00:00:00:00:00 drop",
        ),
        ("<ipv6 srcipaddr='fe80::' srcipmask='10'/>", "ether type 0x86dd ip6 saddr == fe80::/10 drop"),
        ("<vlan vlanid='5'/>", "ether type 0x8100 @nh,4,12 == 5 drop"),
        ("<mac protocolid='0x88cc'/>", "ether type == 0x88cc drop"),
    ],
)
def test_match_is_written_for_nft(rule: str, expected: str) -> None:
    assert rules(f"<rule action='drop' direction='out'>{rule}</rule>") == [expected]


def test_rule_that_follows_connections_means_answers_the_other_way() -> None:
    element = "<tcp srcmacaddr='$MAC' srcipaddr='10.0.0.1' dstipfrom='10.1.0.1' dstipto='10.1.0.9' dstportstart='22'/>"
    assert rules(f"<rule action='drop' direction='out'>{element}</rule>")[1:4:2] == [
        "ether type 0x0800 ether saddr 52:54:00:00:00:01 meta l4proto 6 ip saddr 10.0.0.1/32 ip daddr 10.1.0.1-10.1.0.9 th dport 22 drop",
        "ether type 0x0800 meta l4proto 6 ip saddr 10.1.0.1-10.1.0.9 ip daddr 10.0.0.1/32 th sport 22 drop",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<rule action='drop' direction='out'><stp/></rule>", "rules on 'stp' are not supported"),
        ("<rule action='drop' direction='out'><tcp ipset='x'/></rule>", "attribute 'ipset' of a rule on 'tcp'"),
        ("<rule action='drop' direction='out'><tcp match='no' dstportstart='1'/></rule>", "match='no'"),
        ("<rule action='drop' direction='out'><tcp flags='SYN'/></rule>", "no TCP flags"),
        ("<rule action='drop' direction='out'><tcp flags='SYN/X'/></rule>", "no TCP flags"),
        ("<rule action='drop' direction='out'><icmp dstportstart='1'/></rule>", "has no ports"),
        ("<rule action='drop' direction='out'><all state='OLD'/></rule>", "unknown state"),
        ("<rule action='drop' direction='out'><udp srcipfrom='10.0.0.2' srcipto='10.0.0.1'/></rule>", "is no range"),
        ("<rule action='drop' direction='out'><tcp-ipv6 srcipaddr='10.0.0.1'/></rule>", "is no address of IPv6"),
        ("<rule action='drop' direction='out'><mac srcmacaddr='$NOPE'/></rule>", "unresolvable variables.*NOPE"),
        ("<rule action='drop' direction='out'><mac srcmacaddr='x; drop'/></rule>", "is no MAC address"),
        ("<rule action='drop' direction='out'><ip srcipaddr='x'/></rule>", "is no address"),
        ("<rule action='drop' direction='out'><ip dstportstart='5'/></rule>", "needs a protocol"),
        ("<rule action='drop' direction='out'><arp gratuitous='true'/></rule>", "'gratuitous'.*not supported"),
        ("<rule action='foo' direction='out'/>", "unknown action"),
        ("<rule action='drop' direction='foo'/>", "unknown direction"),
        ("<filterref filter='gone'/>", "referenced filter 'gone' is missing"),
        ("<filterref filter='x'/>", "referenced filter 'x' is missing"),
    ],
)
def test_filter_that_cannot_be_kept_is_refused(text: str, message: str) -> None:
    with pytest.raises(LibvirtError, match=message):
        rules(text)


def test_filters_that_refer_to_each_other_end() -> None:
    ring = parse_document("<filter name='ring'><filterref filter='ring'/></filter>")
    with pytest.raises(LibvirtError, match="too deeply"):
        table_script("vnet0", ring, VARIABLES, lambda _: ring)
    assert list(used_filters(ring, lambda _: ring)) == ["ring"]


def test_table_has_a_name_nft_takes() -> None:
    assert table_name("vnet0") == "pyhyve_vnet0"
    assert table_name("a-b") == "pyhyve_612d62"
