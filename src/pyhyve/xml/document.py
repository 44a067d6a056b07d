"""Text and trees: reading XML safely, and writing it the way libvirt does.

libvirt writes two spaces for each level, attributes in single quotes (but in users' metadata), and empty elements as
``<a/>``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from lxml import etree

__all__ = ["Node", "XmlError", "format_node", "parse_document"]

SIZE_MAX: Final = 16 << 20
"""Bytes of a document at most."""
_TEXT: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_VALUE: Final = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", "'": "&apos;", '"': "&quot;", "\n": "&#10;", "\t": "&#9;", "\r": "&#13;"}
)
_FOREIGN_VALUE: Final = {key: value for key, value in _VALUE.items() if key != ord("'")}


class XmlError(ValueError):
    """A document that is not what it should be; the message is one line."""


@dataclass(frozen=True, slots=True)
class Node:
    """An element: name with its prefix, attributes (namespace declarations first), text, children, what follows it."""

    name: str
    attributes: tuple[tuple[str, str], ...] = ()
    text: str = ""
    children: tuple[Node, ...] = ()
    tail: str = ""
    spread: bool = False
    """Written on two lines although it is empty, as some of libvirt's containers are."""


def parse_document(text: str | bytes) -> Node:
    """Parse a document. Comments are dropped; entities, DTDs and external references refused. Raises XmlError."""
    data = text.encode() if isinstance(text, str) else text
    if len(data) > SIZE_MAX:
        msg = f"the document has {len(data)} bytes, at most {SIZE_MAX} are read"
        raise XmlError(msg)
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True, remove_pis=True
    )
    try:
        root = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        msg = f"not well-formed XML: {str(error).splitlines()[0] if str(error) else 'empty'}"
        raise XmlError(msg) from error
    if root.getroottree().docinfo.doctype:
        msg = "a document type declaration is not allowed"
        raise XmlError(msg)
    return _node(root, {})


def _node(element: Any, outer: dict[str | None, str]) -> Node:  # noqa: ANN401 - lxml has no types
    spaces: dict[str | None, str] = dict(element.nsmap)
    prefixes = {uri: prefix for prefix, uri in spaces.items()}
    attributes = [
        ("xmlns" if prefix is None else f"xmlns:{prefix}", uri)
        for prefix, uri in spaces.items()
        if outer.get(prefix) != uri
    ]
    for key, value in element.attrib.items():
        name = etree.QName(key)
        prefix = "xml" if name.namespace == "http://www.w3.org/XML/1998/namespace" else prefixes.get(name.namespace)
        attributes.append((f"{prefix}:{name.localname}" if name.namespace else key, value))
    local = etree.QName(element).localname
    children = tuple(_node(child, spaces) for child in element)
    text = element.text or ""
    spread = not children and not text.strip() and "\n" in text
    if spread or (children and not text.strip()):
        text = ""
    tail = element.tail or ""
    return Node(
        f"{element.prefix}:{local}" if element.prefix else local,
        tuple(attributes),
        text,
        children,
        tail if tail.strip() else "",
        spread,
    )


def format_node(node: Node, depth: int = 0) -> str:
    """Return an element as libvirt writes it, each line ending in a newline."""
    lines: list[str] = []
    _lines(node, depth, lines)
    return "\n".join(lines) + "\n"


def _opening(node: Node, quote: str) -> str:
    escapes = _VALUE if quote == "'" else _FOREIGN_VALUE
    return f"<{node.name}" + "".join(
        f" {name}={quote}{value.translate(escapes)}{quote}" for name, value in node.attributes
    )


def _lines(node: Node, depth: int, lines: list[str], quote: str = "'") -> None:
    indent = "  " * depth
    if node.spread or (node.children and not node.text and not any(child.tail for child in node.children)):
        lines.append(f"{indent}{_opening(node, quote)}>")
        if node.name == "metadata":
            quote = '"'  # what users keep there is written by libxml2's rules
        for child in node.children:
            _lines(child, depth + 1, lines, quote)
        lines.append(f"{indent}</{node.name}>")
    else:
        lines.append(indent + _inline(node, quote))


def _inline(node: Node, quote: str) -> str:
    """Return an element without any white space of ours: where text and elements mix, it would change the text."""
    if not node.children and not node.text:
        return f"{_opening(node, quote)}/>"
    inner = node.text.translate(_TEXT) + "".join(
        _inline(child, quote) + child.tail.translate(_TEXT) for child in node.children
    )
    return f"{_opening(node, quote)}>{inner}</{node.name}>"
