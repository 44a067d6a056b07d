from __future__ import annotations

import pytest

from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.networks.bandwidth import Bandwidth, Way, form, given, held, parse, sent_and_received
from pyhyve.hostnet.shaping import Promise, Rate, first_free, table_name, table_script
from pyhyve.xml.document import Node, format_node, parse_document


def read(text: str) -> Bandwidth:
    return parse(parse_document(f"<bandwidth>{text}</bandwidth>"))


def test_limits_are_written_in_libvirts_order() -> None:
    found = read("<outbound burst='8' average='7'/><inbound burst='4' floor='3' peak='2' average='1'/>")
    assert found == Bandwidth(Way(1, 2, 3, 4), Way(7, 0, 0, 8))
    node = form(found)
    assert node is not None
    inbound, outbound = (line.strip() for line in format_node(node).splitlines()[1:3])
    assert inbound == "<inbound average='1' peak='2' floor='3' burst='4'/>"
    assert outbound == "<outbound average='7' burst='8'/>"
    assert read("<inbound average='0'/>") == Bandwidth()
    assert form(Bandwidth()) is None
    assert parse(None) == parse(Node("bandwidth")) == Bandwidth()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<inbound average='x'/>", "could not convert bandwidth average value 'x'"),
        ("<inbound average='99999999999999999999'/>", "could not convert bandwidth average value"),
        ("<inbound/>", "Missing mandatory average or floor attributes"),
        ("<outbound peak='1'/>", "Missing mandatory average or floor attributes"),
        ("<inbound floor='1' peak='2'/>", "'peak' and 'burst' require 'average' attribute"),
        ("<outbound average='1' floor='1'/>", "'floor' attribute allowed only in <inbound> element"),
        ("<inbound average='1'/><inbound average='1'/>", "Only one child <inbound> element allowed"),
    ],
)
def test_limits_that_are_none_are_refused(text: str, message: str) -> None:
    with pytest.raises(LibvirtError, match=message):
        read(text)


def test_changes_leave_the_other_way_alone_and_zero_ends_a_limit() -> None:
    before = Bandwidth(Way(1, 2, 3, 4), Way(5, 6, 0, 7))
    assert given(before, {"inbound.average": 9, "inbound.burst": 8}) == Bandwidth(Way(9, 0, 0, 8), before.outbound)
    assert given(before, {"inbound.average": 0, "inbound.floor": 0}) == Bandwidth(Way(), before.outbound)
    assert given(before, {"outbound.average": 0, "outbound.peak": 3}) == Bandwidth(before.inbound, Way())
    assert given(before, {}) == before
    assert dict(held(before))["inbound.floor"] == 3


def test_host_sends_what_the_guest_receives() -> None:
    sent, received = sent_and_received(Bandwidth(Way(10, 20, 5, 3), Way()))
    assert sent == Rate(10_000, 20_000, 3072)
    assert received is None
    assert sent_and_received(Bandwidth(Way(floor=5)))[0] is None


def test_table_of_limits_is_replaced_as_a_whole() -> None:
    script = table_script("vnet0", Rate(100_000, 0, 300_000), [Promise(3, "52:54:00:00:00:01", 50_000)])
    assert script.startswith(f"table netdev {table_name('vnet0')}\ndelete table netdev pyhyve_limit_vnet0\n")
    assert "limit rate over 100000 bytes/second burst 200000 bytes drop" in script
    assert "ether daddr 52:54:00:00:00:01 meta priority set 0x00010003" in script
    # a whole packet fits into the bucket, however small it is meant to be
    assert "over 10 bytes/second burst 65590 bytes" in table_script("vnet0", Rate(10, 0, 5))
    assert table_script("a-b", None).count("\n") == 2
    assert table_name("a-b") != table_name("a_b")


def test_first_free_class_is_taken() -> None:
    assert first_free([]) == 3
    assert first_free([0, 3, 5]) == 4
