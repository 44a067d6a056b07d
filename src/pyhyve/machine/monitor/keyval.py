"""Options whose values are those of QEMU's schema: JSON, or `key=value` lists with dotted keys, checked against it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.machine.monitor.errors import QmpError
from pyhyve.machine.monitor.framing import parse
from pyhyve.machine.monitor.schema import SCHEMA
from pyhyve.machine.monitor.types import member_name
from pyhyve.machine.monitor.validation import check_struct
from pyhyve.support.errors import InputError
from pyhyve.support.option_lists import split_list

if TYPE_CHECKING:
    from pyhyve.machine.monitor.types import TypeName

_SWITCHES = {"on": True, "yes": True, "true": True, "y": True, "off": False, "no": False, "false": False, "n": False}
_SUFFIXES = {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_MAX_LIST = 256


def parse_json(option: str, text: str) -> dict[str, Any]:
    """A JSON object. Raises InputError."""
    value = parse(text.encode(errors="surrogateescape"))
    if not isinstance(value, dict):
        msg = f"{option}: {value if isinstance(value, Exception) else 'not a JSON object'}"
        raise InputError(msg)
    return value


def parse_struct(option: str, text: str, struct: str, implied: str = "") -> dict[str, Any]:
    """The `struct` of the schema that `text` describes. Raises InputError."""
    if text.startswith("{"):
        value = parse_json(option, text)
    else:
        value = _convert_struct(option, struct, parse_keyval(option, text, implied))
    return check(option, struct, value)


def check(option: str, struct: str, value: dict[str, Any]) -> dict[str, Any]:
    """`value`, which is a `struct` of the schema. Raises InputError."""
    try:
        check_struct(SCHEMA, struct, value)
    except QmpError as error:
        msg = f"{option}: {error}"
        raise InputError(msg) from error
    return value


def parse_keyval(option: str, text: str, implied: str = "") -> dict[str, Any]:
    """A list of `key=value` as nested dictionaries of strings: `a.b=c` is member `b` of member `a`."""
    found: dict[str, Any] = {}
    for index, part in enumerate(split_list(text)):
        key, equals, value = part.partition("=")
        if not equals:
            if index or not implied:
                msg = f"{option}: '{part[:80]}': write KEY=VALUE"
                raise InputError(msg)
            key, value = implied, part
        *above, name = key.split(".")
        place = found
        for step in above:
            place = place.setdefault(step, {})
            if not isinstance(place, dict):
                msg = f"{option}: parameters '{step}' and '{step}.*' used inconsistently"
                raise InputError(msg)
        if isinstance(place.get(name), dict):
            msg = f"{option}: parameters '{key}' and '{key}.*' used inconsistently"
            raise InputError(msg)
        place[name] = value
    return found


def _convert_struct(option: str, name: str, value: dict[str, Any]) -> dict[str, Any]:
    struct = SCHEMA.structs[name]
    members = dict(struct.members)
    variant = struct.variants.get(str(value.get(struct.tag))) if struct.tag else None
    if variant is not None:
        members |= SCHEMA.structs[variant].members
    types = {member_name(marked)[0]: kind for marked, kind in members.items()}
    return {key: _convert(option, key, types[key], item) if key in types else item for key, item in value.items()}


def _convert(option: str, key: str, kind: TypeName, value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Text as a value of type `kind`; what does not fit is left for the check to refuse."""
    if isinstance(kind, list):
        if isinstance(value, dict) and len(value) <= _MAX_LIST and all(name.isdigit() for name in value):
            return [_convert(option, key, kind[0], value[name]) for name in sorted(value, key=int)]
        return value
    if kind in SCHEMA.structs:
        return _convert_struct(option, kind, value) if isinstance(value, dict) else value
    if kind in SCHEMA.alternates:
        return _convert_alternate(option, key, kind, value)
    if not isinstance(value, str):
        return value
    if kind == "bool":
        return _SWITCHES.get(value, value)
    if kind in {"int", "size"}:
        return _number(option, key, value)
    return value


def _convert_alternate(option: str, key: str, kind: str, value: Any) -> Any:  # noqa: ANN401 - any JSON value
    alternatives = SCHEMA.alternates[kind]
    if isinstance(value, dict):
        structs = [name for name in alternatives if isinstance(name, str) and name in SCHEMA.structs]
        return _convert_struct(option, structs[0], value) if structs else value
    if "str" in alternatives:
        return None if value == "" and "null" in alternatives else value
    return _convert(option, key, alternatives[0], value)


def _number(option: str, key: str, text: str) -> int:
    digits, scale = text, 1
    if text[-1:].lower() in _SUFFIXES and not text.lower().startswith("0x"):
        digits, scale = text[:-1], _SUFFIXES[text[-1].lower()]
    try:
        return int(digits[:24], 0) * scale
    except ValueError as error:
        msg = f"{option}: parameter '{key}' expects a number, not '{text[:40]}'"
        raise InputError(msg) from error
