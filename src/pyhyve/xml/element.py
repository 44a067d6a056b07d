"""Declaring elements: a frozen dataclass says which attributes and children it has, in the order libvirt writes them.

::

    @element("mac")
    class Mac(Element):
        address: str = attribute("address", required=True)

Attributes and children a class does not declare are kept, each behind the declared one it followed.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final, TypeVar, dataclass_transform

from pyhyve.xml.document import Node, XmlError, format_node, parse_document

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "INTEGER",
    "NUMBER",
    "ON_OFF",
    "TEXT",
    "YES_NO",
    "Converter",
    "Element",
    "attribute",
    "child",
    "child_text",
    "children",
    "element",
    "format_element",
    "from_node",
    "node",
    "nodes",
    "parse_element",
    "present",
    "text",
    "to_node",
    "without_unknown",
]


@dataclass(frozen=True, slots=True)
class Converter:
    """How a value is written: ``parse`` raises ValueError for what is not ``what``."""

    parse: Callable[[str], Any]
    format: Callable[[Any], str]
    what: str


def _switch(on: str, off: str) -> Converter:
    values = {on: True, off: False}

    def parse(written: str) -> bool:
        if written not in values:
            raise ValueError
        return values[written]

    return Converter(parse, lambda value: on if value else off, f"{on} or {off}")


def _decimal(written: str) -> int:
    digits = written.strip()
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 20):
        raise ValueError
    return int(digits)


def _integer(written: str) -> int:
    """Read a number as C's strtol does with base 0, up to 64 bits."""
    body = written.strip().removeprefix("-")
    if not body.isascii() or len(body) > 22:
        raise ValueError
    value = int(body, 8) if body.isdecimal() and body.startswith("0") else int(body, 0)
    return -value if written.strip().startswith("-") else value


TEXT: Final = Converter(str, str, "text")
NUMBER: Final = Converter(_decimal, str, "a number")
INTEGER: Final = Converter(_integer, str, "an integer")
YES_NO: Final = _switch("yes", "no")
ON_OFF: Final = _switch("on", "off")


class _Kind(Enum):
    ATTRIBUTE = auto()
    TEXT = auto()
    CHILD_TEXT = auto()
    PRESENT = auto()
    CHILD = auto()
    CHILDREN = auto()
    NODE = auto()
    NODES = auto()


@dataclass(frozen=True, slots=True)
class _Member:
    kind: _Kind
    name: str
    converter: Converter = TEXT
    cls: type[Element] | None = None
    required: bool = False


def _field(member: _Member, default: object = None) -> Any:  # noqa: ANN401 - stands for the field's default
    if member.required:
        return field(metadata={"member": member})
    return field(default=default, metadata={"member": member})


def attribute(name: str, converter: Converter = TEXT, *, required: bool = False) -> Any:  # noqa: ANN401 - see _field
    """Declare an attribute; None where it is absent."""
    return _field(_Member(_Kind.ATTRIBUTE, name, converter, required=required))


def text(converter: Converter = TEXT, *, required: bool = False) -> Any:  # noqa: ANN401 - see _field
    """Declare the element's own text; None where it is empty."""
    return _field(_Member(_Kind.TEXT, "", converter, required=required))


def child_text(name: str, converter: Converter = TEXT, *, required: bool = False) -> Any:  # noqa: ANN401 - see _field
    """Declare a child that is only text."""
    return _field(_Member(_Kind.CHILD_TEXT, name, converter, required=required))


def present(name: str) -> Any:  # noqa: ANN401 - see _field
    """Declare an empty child that is a yes by being there."""
    return _field(_Member(_Kind.PRESENT, name), default=False)


def child(cls: type[Element], *, required: bool = False) -> Any:  # noqa: ANN401 - see _field
    """Declare a child element of that class, at most one."""
    return _field(_Member(_Kind.CHILD, cls.NAME, cls=cls, required=required))


def node(name: str) -> Any:  # noqa: ANN401 - see _field
    """Declare a child kept as the node it is, at most one."""
    return _field(_Member(_Kind.NODE, name))


def nodes(name: str) -> Any:  # noqa: ANN401 - see _field
    """Declare any number of children kept as the nodes they are, as a tuple."""
    return _field(_Member(_Kind.NODES, name), default=())


def children(cls: type[Element]) -> Any:  # noqa: ANN401 - see _field
    """Declare any number of child elements of that class, as a tuple."""
    return _field(_Member(_Kind.CHILDREN, cls.NAME, cls=cls), default=())


@dataclass(frozen=True, kw_only=True)
class Element:
    """Base of all elements. The ``other_*`` fields hold what the class does not declare: (what it follows, it)."""

    NAME = ""
    SPREAD = False
    other_attributes: tuple[tuple[str, tuple[str, str]], ...] = ()
    other_children: tuple[tuple[str, Node], ...] = ()


_E = TypeVar("_E", bound=Element)


# Without ``field_specifiers`` a type checker takes every member for one with a default, which all but the required ones
# have; with them it would take none for one, since their default is inside the functions.
@dataclass_transform(kw_only_default=True, frozen_default=True)
def element(name: str, *, spread: bool = False) -> Callable[[type[_E]], type[_E]]:
    """Make a class of annotated members an element of that name; ``spread``: on two lines even when empty."""

    def made(cls: type[_E]) -> type[_E]:
        cls.NAME, cls.SPREAD = name, spread
        return dataclass(frozen=True, kw_only=True)(cls)

    return made


_MEMBERS: Final[dict[type[Element], tuple[tuple[str, _Member], ...]]] = {}


def _members(cls: type[Element]) -> tuple[tuple[str, _Member], ...]:
    """Return (field, declaration) of a class, worked out once."""
    found = _MEMBERS.get(cls)
    if found is None:
        declared = dataclasses.fields(cls)
        found = tuple((item.name, item.metadata["member"]) for item in declared if "member" in item.metadata)
        _MEMBERS[cls] = found
    return found


def _convert(member: _Member, written: str, where: str) -> Any:  # noqa: ANN401 - whatever the converter makes
    try:
        return member.converter.parse(written)
    except ValueError as error:
        shown = written if len(written) <= 60 else f"{written[:60]}…"
        msg = f"{where}: {shown!r} is not {member.converter.what}"
        raise XmlError(msg) from error


def from_node(cls: type[_E], node: Node, where: str = "") -> _E:
    """Return the element a node is. Raises XmlError that names the place."""
    where = f"{where}/{node.name}" if where else node.name
    if node.name != cls.NAME:
        msg = f"{where}: the element should be <{cls.NAME}>"
        raise XmlError(msg)
    by_attribute = {member.name: (key, member) for key, member in _members(cls) if member.kind is _Kind.ATTRIBUTE}
    by_child = {
        member.name: (key, member) for key, member in _members(cls) if member.kind not in {_Kind.ATTRIBUTE, _Kind.TEXT}
    }
    values: dict[str, Any] = {}
    last, others = "", []
    for name, written in node.attributes:
        if name in by_attribute:
            last = name
            key, member = by_attribute[name]
            values[key] = _convert(member, written, f"{where}/@{name}")
        else:
            others.append((last, (name, written)))
    kept: list[tuple[str, Node]] = []
    last = ""
    for inner in node.children:
        if inner.name not in by_child or _is_more_than_text(by_child[inner.name][1], inner):
            kept.append((last, inner))
            continue
        last = inner.name
        key, member = by_child[inner.name]
        _take(values, key, member, inner, where)
    for key, member in _members(cls):
        if member.kind is _Kind.TEXT and node.text.strip():
            values[key] = _convert(member, node.text.strip(), where)
        if member.required and key not in values:
            missing = {_Kind.ATTRIBUTE: f"the attribute {member.name}", _Kind.TEXT: "its text"}
            msg = f"{where}: {missing.get(member.kind, f'<{member.name}>')} is missing"
            raise XmlError(msg)
    return cls(other_attributes=tuple(others), other_children=tuple(kept), **values)


def _is_more_than_text(member: _Member, inner: Node) -> bool:
    """Tell whether a child declared as text (or as being there) has content the declaration would lose."""
    if member.kind is _Kind.CHILD_TEXT:
        return bool(inner.attributes or inner.children)
    return member.kind is _Kind.PRESENT and bool(inner.attributes or inner.children or inner.text.strip())


def _take(values: dict[str, Any], key: str, member: _Member, inner: Node, where: str) -> None:
    if member.kind is _Kind.CHILDREN and member.cls is not None:
        values[key] = (*values.get(key, ()), from_node(member.cls, inner, where))
        return
    if member.kind is _Kind.NODES:
        values[key] = (*values.get(key, ()), inner)
        return
    if key in values:
        msg = f"{where}: <{inner.name}> is there more than once"
        raise XmlError(msg)
    if member.kind is _Kind.CHILD and member.cls is not None:
        values[key] = from_node(member.cls, inner, where)
    elif member.kind is _Kind.PRESENT:
        values[key] = True
    elif member.kind is _Kind.NODE:
        values[key] = inner
    else:
        values[key] = _convert(member, inner.text, f"{where}/{inner.name}")


def to_node(value: Element) -> Node:
    """Return the node an element is."""
    attributes = [kept for after, kept in value.other_attributes if not after]
    inner = [kept for after, kept in value.other_children if not after]
    written = ""
    for key, member in _members(type(value)):
        held = getattr(value, key)
        if member.kind is _Kind.ATTRIBUTE:
            if held is not None:
                attributes.append((member.name, member.converter.format(held)))
            attributes.extend(kept for after, kept in value.other_attributes if after == member.name)
            continue
        if member.kind is _Kind.TEXT:
            written = "" if held is None else member.converter.format(held)
            continue
        if member.kind is _Kind.CHILDREN:
            inner.extend(to_node(item) for item in held)
        elif member.kind is _Kind.CHILD:
            if held is not None:
                inner.append(to_node(held))
        elif member.kind is _Kind.NODES:
            inner.extend(held)
        elif member.kind is _Kind.NODE:
            if held is not None:
                inner.append(held)
        elif member.kind is _Kind.PRESENT:
            if held:
                inner.append(Node(member.name))
        elif held is not None:
            inner.append(Node(member.name, text=member.converter.format(held)))
        inner.extend(kept for after, kept in value.other_children if after == member.name)
    spread = value.SPREAD and not inner and not written
    return Node(value.NAME, tuple(attributes), written, tuple(inner), spread=spread)


def without_unknown(value: _E) -> _E:
    """Return an element without what its classes do not declare, on every level: what libvirt keeps of a document."""
    changes: dict[str, Any] = {}
    for key, member in _members(type(value)):
        held = getattr(value, key)
        if member.kind is _Kind.CHILD and held is not None:
            changes[key] = without_unknown(held)
        elif member.kind is _Kind.CHILDREN and held:
            changes[key] = tuple(without_unknown(item) for item in held)
    return dataclasses.replace(value, other_attributes=(), other_children=(), **changes)


def parse_element(cls: type[_E], document: str | bytes) -> _E:
    """Parse a whole document into an element of that class. Raises XmlError."""
    return from_node(cls, parse_document(document))


def format_element(value: Element) -> str:
    """Return an element as a document, as libvirt writes it."""
    return format_node(to_node(value))
