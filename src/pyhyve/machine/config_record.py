"""A machine's configuration in plain values, so that a saved machine can be made again; and back, checked."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any
from uuid import UUID

from pyhyve.machine import config as config_module
from pyhyve.machine.config import MachineConfig
from pyhyve.state.errors import StateError
from pyhyve.support.enums import Enum

_MAX_ITEMS = 4096


def to_plain(value: object) -> Any:  # noqa: ANN401 - any JSON value
    """A configuration, or a part of one, in JSON's types."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, PathLike | UUID):
        return str(value)
    if isinstance(value, frozenset):
        return sorted(to_plain(item) for item in value)
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    return value


def from_plain(value: object) -> MachineConfig:
    """The configuration that `to_plain` described. Raises StateError for what is none, ConfigError for a bad one."""
    try:
        result: MachineConfig = _reader(MachineConfig)(value)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        msg = f"the state's configuration is not understood: {str(error)[:100]}"
        raise StateError(msg) from error
    return result


@functools.cache
def _reader(kind: Any) -> Callable[[Any], Any]:  # noqa: ANN401 - any annotation of a configuration
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in {typing.Union, types.UnionType}:
        inner = [argument for argument in arguments if argument is not type(None)]
        if len(inner) == 1:
            read = _reader(inner[0])
            return lambda value: None if value is None else read(value)
        if all(map(dataclasses.is_dataclass, inner)):
            # No two of them have the same fields.
            by_fields = {frozenset(field.name for field in dataclasses.fields(one)): _reader(one) for one in inner}
            return lambda value: by_fields[frozenset(value)](value)
        return lambda value: value
    if origin is PathLike:
        return functools.partial(_made_of, Path)
    if origin in {tuple, frozenset, list}:
        return functools.partial(_collection, origin, _reader(arguments[0]))
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = _hints(kind)
        return functools.partial(_instance, kind, {name: _reader(hint) for name, hint in hints.items()})
    if kind in {Path, UUID} or (isinstance(kind, type) and issubclass(kind, Enum)):
        return functools.partial(_made_of, kind)
    if kind in {bool, int, str}:
        return functools.partial(_exactly, (kind,))
    if kind is float:
        return functools.partial(_exactly, (int, float))
    return lambda value: value


def _hints(kind: Any) -> dict[str, Any]:  # noqa: ANN401 - a dataclass
    """Types of the fields, among them those that the module imports for type checkers only."""
    fields = {field.name for field in dataclasses.fields(kind)}
    names = {"Any": Any, "Path": Path, "PathLike": PathLike, "UUID": UUID, "Mapping": Mapping}
    found = typing.get_type_hints(kind, vars(config_module), names)
    return {name: hint for name, hint in found.items() if name in fields}


def _exactly(kinds: tuple[type, ...], value: object) -> object:
    if type(value) not in kinds:
        msg = f"{str(value)[:40]!r} is not a {kinds[0].__name__}"
        raise TypeError(msg)
    return value


def _made_of(kind: Callable[[Any], object], value: object) -> object:
    return kind(_exactly((str, int), value))


def _collection(kind: Callable[[Any], object], read: Callable[[Any], object], value: object) -> object:
    if not isinstance(value, list) or len(value) > _MAX_ITEMS:
        msg = "is not a list, or is too long"
        raise TypeError(msg)
    return kind(read(item) for item in value)


def _instance(kind: Callable[..., object], readers: dict[str, Callable[[Any], object]], value: object) -> object:
    if not isinstance(value, dict):
        msg = "is not an object"
        raise TypeError(msg)
    return kind(**{name: readers[name](item) for name, item in value.items()})
