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
from enum import IntEnum, auto
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
    "replace",
    "text",
    "to_node",
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


class _Kind(IntEnum):
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
_V = TypeVar("_V")


# Without ``field_specifiers`` a type checker takes every member for one with a default, which all but the required ones
# have; with them it would take none for one, since their default is inside the functions.
@dataclass_transform(kw_only_default=True, frozen_default=True)
def element(name: str, *, spread: bool = False) -> Callable[[type[_E]], type[_E]]:
    """Make a class of annotated members an element of that name; ``spread``: on two lines even when empty."""

    def made(cls: type[_E]) -> type[_E]:
        cls.NAME, cls.SPREAD = name, spread
        return dataclass(frozen=True, kw_only=True)(cls)

    return made


@dataclass(frozen=True, slots=True)
class _Shape:
    """What a class declares, worked out once."""

    members: tuple[tuple[str, _Member], ...]
    attributes: dict[str, tuple[str, _Member]]
    children: dict[str, tuple[str, _Member]]
    text: tuple[str, _Member] | None
    required: tuple[tuple[str, _Member], ...]
    defaults: dict[str, Any]


_SHAPES: Final[dict[type[Element], _Shape]] = {}


def _shape(cls: type[Element]) -> _Shape:
    found = _SHAPES.get(cls)
    if found is None:
        declared = dataclasses.fields(cls)
        members = tuple((item.name, item.metadata["member"]) for item in declared if "member" in item.metadata)
        found = _SHAPES[cls] = _Shape(
            members,
            {member.name: (key, member) for key, member in members if member.kind is _Kind.ATTRIBUTE},
            {member.name: (key, member) for key, member in members if member.kind > _Kind.TEXT},
            next(((key, member) for key, member in members if member.kind is _Kind.TEXT), None),
            tuple((key, member) for key, member in members if member.required),
            {item.name: item.default for item in declared if item.default is not dataclasses.MISSING},
        )
    return found


def replace(value: _V, /, **changes: Any) -> _V:  # noqa: ANN401 - fields by name, of any type
    """Return a value with other fields, as dataclasses.replace does, but for elements in a tenth of the time."""
    if not isinstance(value, Element):
        return dataclasses.replace(value, **changes)  # type: ignore[type-var] # every value here is a dataclass
    held = value.__dict__
    if not changes.keys() <= held.keys():
        return dataclasses.replace(value, **changes)  # whose error it is
    new: _V = object.__new__(type(value))
    new.__dict__.update(held)
    new.__dict__.update(changes)
    return new


def _convert(member: _Member, written: str, where: str, name: str = "") -> Any:  # noqa: ANN401 - whatever it makes
    try:
        return member.converter.parse(written)
    except ValueError as error:
        shown = written if len(written) <= 60 else f"{written[:60]}…"
        msg = f"{where}{name}: {shown!r} is not {member.converter.what}"
        raise XmlError(msg) from error


def from_node(cls: type[_E], node: Node, where: str = "", *, keep_unknown: bool = True) -> _E:
    """Return the element a node is; without what the class does not declare, if so asked. Raises XmlError."""
    where = f"{where}/{node.name}" if where else node.name
    if node.name != cls.NAME:
        msg = f"{where}: the element should be <{cls.NAME}>"
        raise XmlError(msg)
    shape = _shape(cls)
    values: dict[str, Any] = dict(shape.defaults)
    seen: set[str] = set()
    last, others = "", []
    for name, written in node.attributes:
        found = shape.attributes.get(name)
        if found is not None:
            last = name
            key, member = found
            seen.add(key)
            values[key] = _convert(member, written, where, f"/@{name}")
        elif keep_unknown:
            others.append((last, (name, written)))
    kept: list[tuple[str, Node]] = []
    several: dict[str, list[Any]] = {}
    last = ""
    for inner in node.children:
        found = shape.children.get(inner.name)
        if found is None or _is_more_than_text(found[1], inner):
            if keep_unknown:
                kept.append((last, inner))
            continue
        last = inner.name
        key, member = found
        taken = _taken(member, inner, where, keep_unknown=keep_unknown)
        if member.kind is _Kind.CHILDREN or member.kind is _Kind.NODES:
            several.setdefault(key, []).append(taken)
        elif key in seen:
            msg = f"{where}: <{inner.name}> is there more than once"
            raise XmlError(msg)
        else:
            seen.add(key)
            values[key] = taken
    for key, items in several.items():
        values[key] = tuple(items)
    if shape.text is not None and (written := node.text.strip()):
        seen.add(shape.text[0])
        values[shape.text[0]] = _convert(shape.text[1], written, where)
    for key, member in shape.required:
        if key not in seen:
            missing = {_Kind.ATTRIBUTE: f"the attribute {member.name}", _Kind.TEXT: "its text"}
            msg = f"{where}: {missing.get(member.kind, f'<{member.name}>')} is missing"
            raise XmlError(msg)
    if others or kept:
        values.update({"other_attributes": tuple(others), "other_children": tuple(kept)})
    made: _E = object.__new__(cls)
    made.__dict__.update(values)
    return made


def _is_more_than_text(member: _Member, inner: Node) -> bool:
    """Tell whether a child declared as text (or as being there) has content the declaration would lose."""
    if member.kind is _Kind.CHILD_TEXT:
        return bool(inner.attributes or inner.children)
    return member.kind is _Kind.PRESENT and bool(inner.attributes or inner.children or inner.text.strip())


def _taken(member: _Member, inner: Node, where: str, *, keep_unknown: bool) -> Any:  # noqa: ANN401 - what is declared
    if member.cls is not None:
        return from_node(member.cls, inner, where, keep_unknown=keep_unknown)
    if member.kind is _Kind.NODE or member.kind is _Kind.NODES:
        return inner
    if member.kind is _Kind.PRESENT:
        return True
    return _convert(member, inner.text, where, f"/{inner.name}")


def to_node(value: Element) -> Node:
    """Return the node an element is."""
    shape = _shape(type(value))
    others_after, nodes_after = value.other_attributes, value.other_children
    attributes = [kept for after, kept in others_after if not after]
    inner = [kept for after, kept in nodes_after if not after]
    written = ""
    held_by = value.__dict__
    for key, member in shape.members:
        held = held_by[key]
        kind = member.kind
        if kind is _Kind.ATTRIBUTE:
            if held is not None:
                attributes.append((member.name, member.converter.format(held)))
            if others_after:
                attributes.extend(kept for after, kept in others_after if after == member.name)
            continue
        if kind is _Kind.TEXT:
            written = "" if held is None else member.converter.format(held)
            continue
        if kind is _Kind.CHILDREN:
            inner.extend(to_node(item) for item in held)
        elif kind is _Kind.NODES:
            inner.extend(held)
        elif kind is _Kind.PRESENT:
            if held:
                inner.append(Node(member.name))
        elif held is None:
            pass
        elif kind is _Kind.CHILD:
            inner.append(to_node(held))
        elif kind is _Kind.NODE:
            inner.append(held)
        else:
            inner.append(Node(member.name, text=member.converter.format(held)))
        if nodes_after:
            inner.extend(kept for after, kept in nodes_after if after == member.name)
    spread = value.SPREAD and not inner and not written
    return Node(value.NAME, tuple(attributes), written, tuple(inner), spread=spread)


def parse_element(cls: type[_E], document: str | bytes) -> _E:
    """Parse a whole document into an element of that class. Raises XmlError."""
    return from_node(cls, parse_document(document))


def format_element(value: Element) -> str:
    """Return an element as a document, as libvirt writes it."""
    return format_node(to_node(value))
