from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyhyve.xml import Domain, Network, XmlError, format_element, parse_element
from pyhyve.xml.document import Node, format_node, parse_document
from pyhyve.xml.element import INTEGER, NUMBER, Element, attribute, child_text, children, element, present, text
from pyhyve.xml.interface import Interface
from pyhyve.xml.quantities import scaled_bytes, scaled_kib


@element("item")
class Item(Element):
    size: int | None = attribute("size", INTEGER)
    value: str | None = text()


@element("box")
class Box(Element):
    name: str = attribute("name", required=True)
    count: int | None = child_text("count", NUMBER)
    sealed: bool = present("sealed")
    item: tuple[Item, ...] = children(Item)


DOCUMENT = """<box name='a' colour='red'>
  <label/>
  <count>3</count>
  <weight unit='g'>5</weight>
  <sealed/>
  <item size='7'>x &amp; y</item>
  <item/>
  <owner>
    <name>n</name>
  </owner>
</box>
"""


def test_element_keeps_what_it_does_not_declare_in_its_place() -> None:
    box = parse_element(Box, DOCUMENT)
    assert (box.name, box.count, box.sealed) == ("a", 3, True)
    assert [(item.size, item.value) for item in box.item] == [(7, "x & y"), (None, None)]
    assert format_element(box) == DOCUMENT


def test_elements_are_values_that_can_be_replaced() -> None:
    box = dataclasses.replace(parse_element(Box, DOCUMENT), count=None, item=(Item(size=-2),))
    assert "<count>" not in format_element(box)
    assert "<item size='-2'/>" in format_element(box)


def test_children_in_any_order_come_out_in_the_declared_one() -> None:
    box = parse_element(Box, "<box name='a'><item/><sealed/><count>1</count></box>")
    order = [child.name for child in parse_document(format_element(box)).children]
    assert order == ["count", "sealed", "item"]


def test_child_with_more_than_its_declaration_is_kept_whole() -> None:
    document = "<box name='a'>\n  <count unit='dozen'>3</count>\n</box>\n"
    box = parse_element(Box, document)
    assert box.count is None
    assert format_element(box) == document


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("<box/>", "box: the attribute name is missing"),
        ("<crate name='a'/>", "crate: the element should be <box>"),
        ("<box name='a'><count>many</count></box>", "box/count: 'many' is not a number"),
        ("<box name='a'><count>1</count><count>2</count></box>", "<count> is there more than once"),
        ("<box name='a'><item size='0x'/></box>", "box/item/@size: '0x' is not an integer"),
        ("<box name='a'>", "not well-formed XML"),
        ("", "not well-formed XML"),
        ("<!DOCTYPE box [<!ENTITY e 'x'>]><box name='&e;'/>", "declaration is not allowed"),
        ("<box name='a'>" + "<d>" * 400 + "</d>" * 400 + "</box>", "not well-formed XML"),
    ],
)
def test_wrong_documents_are_refused_with_the_place(document: str, message: str) -> None:
    with pytest.raises(XmlError, match=message.replace("[", r"\[")) as caught:
        parse_element(Box, document)
    assert "\n" not in str(caught.value)


def test_huge_documents_are_refused_unread() -> None:
    with pytest.raises(XmlError, match="at most"):
        parse_document(b" " * ((16 << 20) + 1))


def test_entity_bombs_and_files_are_not_expanded() -> None:
    bomb = "<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><a>&x;</a>"
    with pytest.raises(XmlError):
        parse_document(bomb)


def test_metadata_keeps_namespaces_quotes_and_mixed_text() -> None:
    document = (
        "<domain>\n  <metadata>\n"
        '    <a:b xmlns:a="urn:x" a:c="it\'s">one <i>two</i> three</a:b>\n'
        "  </metadata>\n</domain>\n"
    )
    assert format_node(parse_document(document)) == document


@pytest.mark.parametrize(("written", "value"), [("0x10", 16), ("010", 8), ("-1", -1), ("0", 0), ("12", 12)])
def test_integers_are_read_as_c_reads_them(written: str, value: int) -> None:
    assert INTEGER.parse(written) == value


@pytest.mark.parametrize(
    ("value", "unit", "size"),
    [
        (1, None, 1),
        (1, "k", 1024),
        (1, "KB", 1000),
        (1, "KiB", 1024),
        (2, "G", 2 << 30),
        (3, "bytes", 3),
        (1, "tib", 1 << 40),
    ],
)
def test_units_scale_as_in_libvirt(value: int, unit: str | None, size: int) -> None:
    assert scaled_bytes(value, unit) == size


def test_memory_is_kib_and_rounded_up() -> None:
    assert (scaled_kib(5, None), scaled_kib(1025, "b"), scaled_kib(1, "MB")) == (5, 2, 977)
    with pytest.raises(XmlError, match="suffix"):
        scaled_kib(1, "furlong")
    with pytest.raises(XmlError, match="too large"):
        scaled_kib(1 << 30, "EiB")


def test_domain_refuses_more_current_memory_than_memory_and_bad_names() -> None:
    document = (
        "<domain type='kvm'><name>{}</name><memory>10</memory><currentMemory>20</currentMemory>"
        "<os><type>hvm</type></os></domain>"
    )
    with pytest.raises(XmlError, match="exceeds"):
        _ = parse_element(Domain, document.format("a")).current_memory_kib
    for name in ("", "a/b", "a\nb"):
        with pytest.raises(XmlError, match="is not a name"):
            parse_element(Domain, document.format(name))


def test_mac_addresses_are_normalised_or_refused() -> None:
    interface = parse_element(Interface, "<interface type='user'><mac address='52:54:0:A:b:C'/></interface>")
    assert interface.mac is not None
    assert interface.mac.address == "52:54:00:0a:0b:0c"
    with pytest.raises(XmlError, match="MAC address"):
        parse_element(Interface, "<interface type='user'><mac address='52:54'/></interface>")


NAMES = st.sampled_from(["a", "b", "name", "network", "ip", "dhcp"])
TEXTS = st.text(st.characters(codec="utf-8", blacklist_categories=["Cc", "Cs", "Co", "Cn"]), min_size=1, max_size=8)
NODES = st.recursive(
    st.builds(lambda name, value: Node(name, (("x", value),)), NAMES, TEXTS),
    lambda inner: st.builds(lambda name, nodes: Node(name, children=tuple(nodes)), NAMES, st.lists(inner, max_size=3)),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(NODES)
def test_any_tree_survives_being_written_and_read(node: Node) -> None:
    assert parse_document(format_node(node)) == node


@settings(max_examples=100, deadline=None)
@given(NODES)
def test_any_tree_is_a_network_or_refused(node: Node) -> None:
    try:
        network = parse_element(Network, format_node(dataclasses.replace(node, name="network")))
    except XmlError:
        return
    assert parse_element(Network, format_element(network)) == network
