"""The small language in which the procedure table writes XDR types.

A field list is ``"name type, name type"``. The types:

=============  ==============================================================================
``int uint``   32 bits; ``long ulong``: 64 bits ("hyper"); ``double``
``str``        UTF-8 text of at most :data:`STRING_MAX` bytes
``uuid``       16 opaque bytes
``bytes[N]``   opaque data of at most N bytes
``T[N]``       at most N items of T; ``T{N}``: exactly N integers
``T?``         a T or nothing
``domain`` …   a structure of :mod:`pyhyve.rpc.values`
=============  ==============================================================================

Source: RFC 4506 (XDR), libvirt's protocol description.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

STRING_MAX: Final = 4 << 20
"""Bytes in a string at most (the protocol's limit for remote strings)."""

SCALARS: Final = {"int": "i", "uint": "I", "long": "q", "ulong": "Q", "double": "d", "uuid": "16s"}
"""Types of fixed size, as codes of :mod:`struct`."""


@dataclass(frozen=True, slots=True)
class Type:
    """One type: its base name, and at most one of the three things that can surround it."""

    base: str
    most: int | None = None  # a variable array (or opaque data) of at most so many
    exactly: int | None = None  # a fixed array
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Field:
    """A named member of a structure."""

    name: str
    type: Type


@cache
def parse_type(text: str) -> Type:
    """Parse one type of the table's language; ValueError where it is none."""
    if text.endswith("?"):
        return Type(text[:-1], optional=True)
    for opening, closing, attribute in (("[", "]", "most"), ("{", "}", "exactly")):
        if text.endswith(closing):
            base, _, number = text[:-1].partition(opening)
            count = int(number)
            return Type(base, most=count) if attribute == "most" else Type(base, exactly=count)
    if not text.isidentifier():
        msg = f"{text!r} is no type"
        raise ValueError(msg)
    return Type(text)


@cache
def parse_fields(text: str) -> tuple[Field, ...]:
    """Parse a field list; ValueError where it is none. Empty text is the empty list."""
    fields = []
    for part in text.split(","):
        words = part.split()
        if not words and not text.strip():
            return ()
        name, type_text = words
        fields.append(Field(name, parse_type(type_text)))
    return tuple(fields)
