"""Checks a command's arguments against its schema, with QEMU's words (its visitors' messages) for what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.machine.monitor.errors import QmpError
from pyhyve.machine.monitor.types import member_name

if TYPE_CHECKING:
    from pyhyve.machine.monitor.types import Command, Members, Schema, TypeName

_PYTHON_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "str": ((str,), "string"),
    "int": ((int,), "integer"),
    "size": ((int,), "integer"),
    "number": ((int, float), "number"),
    "bool": ((bool,), "boolean"),
}
_INT_MAX = (1 << 63) - 1


def check_command(schema: Schema, command: Command, arguments: dict[str, Any]) -> None:
    """Raise QmpError unless `arguments` are what `command` takes."""
    if command.boxed:
        _check_struct(schema, command.boxed, arguments, "")
    else:
        check_arguments(schema, command.arguments, arguments, is_open=command.is_open)


def check_arguments(schema: Schema, members: Members, arguments: dict[str, Any], *, is_open: bool = False) -> None:
    """Raise QmpError unless `arguments` are what `members` describe; an open set may hold others."""
    _check_members(schema, members, arguments, "")
    if not is_open:
        _refuse_unknown(members, arguments, "")


def check_struct(schema: Schema, name: str, value: dict[str, Any], path: str = "") -> None:
    """Raise QmpError unless `value` is a `name` of the schema; `path` is what comes before its members' names."""
    _check_struct(schema, name, value, path)


def _check_members(schema: Schema, members: Members, value: dict[str, Any], path: str) -> None:
    for marked, type_name in members.items():
        name, optional = member_name(marked)
        if name in value:
            _check_value(schema, type_name, value[name], path + name)
        elif not optional:
            msg = f"Parameter '{path}{name}' is missing"
            raise QmpError(msg)


def _refuse_unknown(members: Members, value: dict[str, Any], path: str) -> None:
    known = {member_name(name)[0] for name in members}
    for name in value:
        if name not in known:
            msg = f"Parameter '{path}{name}' is unexpected"
            raise QmpError(msg)


def _check_value(schema: Schema, type_name: TypeName, value: object, path: str) -> None:
    if isinstance(type_name, list):
        if not isinstance(value, list):
            raise _wrong_type(path, "array")
        for index, item in enumerate(value):
            _check_value(schema, type_name[0], item, f"{path}[{index}]")
    elif type_name in _PYTHON_TYPES:
        _check_builtin(type_name, value, path)
    elif type_name in schema.enums:
        if not isinstance(value, str):
            raise _wrong_type(path, "string")
        if value not in schema.enums[type_name]:
            # QEMU gives the last part of the name only.
            msg = f"Parameter '{path.rpartition('.')[2]}' does not accept value '{value}'"
            raise QmpError(msg)
    elif type_name in schema.structs:
        if not isinstance(value, dict):
            raise _wrong_type(path, "object")
        _check_struct(schema, type_name, value, f"{path}.")
    elif type_name in schema.alternates:
        _check_alternate(schema, type_name, value, path)
    elif type_name == "null" and value is not None:
        raise _wrong_type(path, "null")


def _check_alternate(schema: Schema, type_name: str, value: object, path: str) -> None:
    """The alternative whose JSON type is that of `value`."""
    for alternative in schema.alternates[type_name]:
        if _accepts(schema, alternative, value):
            _check_value(schema, alternative, value, path)
            return
    raise _wrong_type(path, type_name)


def _accepts(schema: Schema, type_name: TypeName, value: object) -> bool:
    if isinstance(type_name, list):
        return isinstance(value, list)
    if type_name in schema.structs:
        return isinstance(value, dict)
    if type_name == "null":
        return value is None
    if type_name in _PYTHON_TYPES:
        return isinstance(value, _PYTHON_TYPES[type_name][0]) and isinstance(value, bool) == (type_name == "bool")
    return type_name in schema.enums and isinstance(value, str)


def _check_struct(schema: Schema, type_name: str, value: dict[str, Any], path: str) -> None:
    struct = schema.structs[type_name]
    members = dict(struct.members)
    _check_members(schema, struct.members, value, path)
    tag = value.get(struct.tag) if struct.tag else None
    variant = struct.variants.get(tag) if isinstance(tag, str) else None
    if variant is not None:
        further = schema.structs[variant].members
        _check_members(schema, further, value, path)
        members |= further
    _refuse_unknown(members, value, path)


def _check_builtin(type_name: str, value: object, path: str) -> None:
    types, wanted = _PYTHON_TYPES[type_name]
    if not isinstance(value, types) or (isinstance(value, bool) and type_name != "bool"):
        raise _wrong_type(path, wanted)
    if type_name == "size" and isinstance(value, int) and value < 0:
        msg = f"Parameter '{path}' expects a non-negative number"
        raise QmpError(msg)
    if type_name == "int" and isinstance(value, int) and value > _INT_MAX:
        raise _wrong_type(path, wanted)


def _wrong_type(path: str, wanted: str) -> QmpError:
    return QmpError(f"Invalid parameter type for '{path}', expected: {wanted}")
