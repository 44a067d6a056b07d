"""The answer of `query-qmp-schema` (`SchemaInfo` in QEMU's introspection schema), made from the schema.

As in QEMU, the names of structs and enums are not part of the interface: types are numbered in the order in which
commands and events reach them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.machine.monitor.types import BUILTIN_NAMES, BUILTINS, member_name

if TYPE_CHECKING:
    from pyhyve.machine.monitor.types import Members, Schema, TypeName

_EMPTY = "0"
"""Name of the object without members: what commands take or give that have no arguments or no result."""


def describe(schema: Schema) -> list[dict[str, Any]]:
    """Every command, event and type that they use."""
    return _Describer(schema).describe()


class _Describer:
    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._names: dict[str, str] = {}
        self._pending: list[str] = []
        self._arguments: list[tuple[str, Members]] = []
        self._arrays: dict[str, str] = {}
        self._builtins: dict[str, str] = {}
        self._count = 0

    def describe(self) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = []
        for name, command in self._schema.commands.items():
            entry: dict[str, Any] = {
                "name": name,
                "meta-type": "command",
                "arg-type": self._name(command.boxed) if command.boxed else self._object(command.arguments),
                "ret-type": _EMPTY if command.returns is None else self._name(command.returns),
            }
            if command.features:
                entry["features"] = list(command.features)
            if command.allow_oob:
                entry["allow-oob"] = True
            entries.append(entry)
        for name, event in self._schema.events.items():
            entries.append({"name": name, "meta-type": "event", "arg-type": self._object(event.data)})
        types: list[dict[str, Any]] = [{"name": _EMPTY, "meta-type": "object", "members": []}]
        while self._pending or self._arguments:
            if self._arguments:
                number, members = self._arguments.pop(0)
                types.append({"name": number, "meta-type": "object", "members": self._members(members)})
            else:
                types.append(self._type(self._pending.pop(0)))
        types += [{"name": name, "meta-type": "array", "element-type": of} for name, of in self._arrays.items()]
        types += [{"name": name, "meta-type": "builtin", "json-type": json} for name, json in self._builtins.items()]
        return entries + types

    def _object(self, members: Members) -> str:
        if not members:
            return _EMPTY
        self._count += 1
        self._arguments.append((str(self._count), members))
        return str(self._count)

    def _name(self, type_name: TypeName) -> str:
        if isinstance(type_name, list):
            element = self._name(type_name[0])
            self._arrays[f"[{element}]"] = element
            return f"[{element}]"
        if type_name in BUILTINS:
            shown = BUILTIN_NAMES.get(type_name, type_name)
            self._builtins[shown] = BUILTINS[type_name]
            return shown
        if type_name not in self._names:
            self._count += 1
            self._names[type_name] = str(self._count)
            self._pending.append(type_name)
        return self._names[type_name]

    def _members(self, members: Members) -> list[dict[str, Any]]:
        described = []
        for marked, type_name in members.items():
            name, optional = member_name(marked)
            entry: dict[str, Any] = {"name": name, "type": self._name(type_name)}
            if optional:
                entry["default"] = None
            described.append(entry)
        return described

    def _type(self, type_name: str) -> dict[str, Any]:
        number = self._names[type_name]
        values = self._schema.enums.get(type_name)
        if values is not None:
            members = [{"name": value} for value in values]
            return {"name": number, "meta-type": "enum", "members": members, "values": list(values)}
        alternatives = self._schema.alternates.get(type_name)
        if alternatives is not None:
            kinds = [{"type": self._name(name)} for name in alternatives]
            return {"name": number, "meta-type": "alternate", "members": kinds}
        struct = self._schema.structs[type_name]
        entry: dict[str, Any] = {"name": number, "meta-type": "object", "members": self._members(struct.members)}
        if struct.tag:
            tags = self._schema.enums[str(struct.members[struct.tag])]
            entry["tag"] = struct.tag
            entry["variants"] = [
                {"case": case, "type": self._name(struct.variants[case]) if case in struct.variants else _EMPTY}
                for case in tags
            ]
        return entry
