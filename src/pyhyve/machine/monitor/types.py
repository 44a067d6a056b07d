"""The notation of the schema.

A type is named by a string: `str`, `int`, `size`, `number`, `bool`, `any`, the name of an enum or a struct, or one of
these in a list of one (`["PciBusInfo"]`: an array of them). A member whose name begins with `*` may be absent, as in
QEMU's schema files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pyhyve.support.records import dataclass, field

TypeName = str | list[str]
"""A type, or an array of it."""
Members = Mapping[str, TypeName]

BUILTINS: dict[str, str] = {
    "str": "string",
    "int": "int",
    "size": "int",
    "uint64": "int",
    "number": "number",
    "bool": "boolean",
    "any": "value",
    "null": "null",
}
"""Built-in types, and the JSON type that introspection gives for them."""
BUILTIN_NAMES = {"size": "int", "uint64": "int"}
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
    boxed: str = ""
    """A struct that describes the arguments instead."""
    is_open: bool = False
    """Whether there are further arguments, which the command checks itself."""
    features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Event:
    """An event and its data."""

    data: Members = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Part:
    """Types, commands and events of one area; `alternates` are types told apart by their JSON type."""

    enums: Mapping[str, tuple[str, ...]]
    structs: Mapping[str, Struct]
    commands: Mapping[str, Command]
    events: Mapping[str, Event]
    alternates: Mapping[str, tuple[TypeName, ...]] = field(default_factory=dict)


class Schema(Part):
    """All areas together: every type that is named exists."""


def merge(parts: Iterable[Part]) -> Schema:
    """One schema of all `parts`."""
    enums: dict[str, tuple[str, ...]] = {}
    structs: dict[str, Struct] = {}
    commands: dict[str, Command] = {}
    events: dict[str, Event] = {}
    alternates: dict[str, tuple[TypeName, ...]] = {}
    for part in parts:
        enums.update(part.enums)
        structs.update(part.structs)
        commands.update(part.commands)
        events.update(part.events)
        alternates.update(part.alternates)
    return Schema(enums, structs, commands, events, alternates)


def member_name(name: str) -> tuple[str, bool]:
    """The name without its mark, and whether the member may be absent."""
    return name.removeprefix("*"), name.startswith("*")
