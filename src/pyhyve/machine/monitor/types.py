"""The notation of the schema.

A type is named by a string: `str`, `int`, `size`, `number`, `bool`, `any`, the name of an enum or a struct, or one of
these in a list of one (`["PciBusInfo"]`: an array of them). A member whose name begins with `*` may be absent, as in
QEMU's schema files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

TypeName = str | list[str]
"""A type, or an array of it."""
Members = Mapping[str, TypeName]

BUILTINS: dict[str, str] = {
    "str": "string",
    "int": "int",
    "size": "int",
    "number": "number",
    "bool": "boolean",
    "any": "value",
}
"""Built-in types, and the JSON type that introspection gives for them."""
BUILTIN_NAMES = {"size": "int"}
"""Built-in types that introspection shows under another name."""


@dataclass(frozen=True, slots=True)
class Struct:
    """An object type. With `tag`, the value of that (enum) member selects a struct of further members."""

    members: Members
    tag: str = ""
    variants: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Command:
    """A command: its arguments, and the type of its result (None: an empty object)."""

    arguments: Members = field(default_factory=dict)
    returns: TypeName | None = None
    allow_oob: bool = False
    """May run out of band."""


@dataclass(frozen=True, slots=True)
class Event:
    """An event and its data."""

    data: Members = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Schema:
    """All types, commands and events."""

    enums: Mapping[str, tuple[str, ...]]
    structs: Mapping[str, Struct]
    commands: Mapping[str, Command]
    events: Mapping[str, Event]


def member_name(name: str) -> tuple[str, bool]:
    """The name without its mark, and whether the member may be absent."""
    return name.removeprefix("*"), name.startswith("*")
