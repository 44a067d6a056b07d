"""Records: frozen values with typed, bounded fields, as devices save them; to JSON and back with every field checked.

A field is a bool, an integer of one of the widths below, bytes, a string, another record, a tuple of one of these, or
one of these or None. In JSON, bytes are hexadecimal, tuples are arrays and records are objects.
"""

from __future__ import annotations

import builtins
import functools
import sys
import types

from pyhyve.state.errors import StateError
from pyhyve.support.hints import Annotated, cast, dataclass_transform
from pyhyve.support.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, ClassVar, Self, TypeVar

    RecordT = TypeVar("RecordT")
    Json = None | bool | int | float | str | list[Any] | dict[str, Any]

_MAX_TUPLE = 1 << 16


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds of an integer, both included."""

    least: int
    most: int


@dataclass(frozen=True, slots=True)
class Size:
    """Number of bytes, exactly."""

    count: int


U8 = Annotated[int, Range(0, (1 << 8) - 1)]
U16 = Annotated[int, Range(0, (1 << 16) - 1)]
U32 = Annotated[int, Range(0, (1 << 32) - 1)]
U64 = Annotated[int, Range(0, (1 << 64) - 1)]
U256 = Annotated[int, Range(0, (1 << 256) - 1)]
I64 = Annotated[int, Range(-(1 << 63), (1 << 63) - 1)]
I128 = Annotated[int, Range(-(1 << 127), (1 << 127) - 1)]


class Record:
    """What `record` makes of a class. Unlike a dataclass it costs next to nothing to define: a machine has many."""

    __slots__ = ()
    if TYPE_CHECKING:  # no types of fields to be read
        fields: ClassVar[tuple[str, ...]]
        defaults: ClassVar[dict[str, Any]]

    def __init__(self, **values: Any) -> None:  # noqa: ANN401 - as declared by each record
        """Fields by name; TypeError for one that is missing or unknown."""
        for name in self.fields:
            if name in values:
                object.__setattr__(self, name, values.pop(name))
            elif name in self.defaults:
                object.__setattr__(self, name, self.defaults[name])
            else:
                msg = f"{type(self).__name__} needs {name}"
                raise TypeError(msg)
        if values:
            msg = f"{type(self).__name__} has no {', '.join(values)}"
            raise TypeError(msg)

    def __setattr__(self, name: str, value: object) -> None:
        msg = f"{type(self).__name__} is frozen"
        raise AttributeError(msg)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self.fields)})"

    def replaced(self, **changes: Any) -> Self:  # noqa: ANN401 - as declared by each record
        """The same with other values for some fields."""
        return type(self)(**{name: getattr(self, name) for name in self.fields} | changes)

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.fields)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def record(kind: type[RecordT]) -> type[RecordT]:
    """Class decorator: a frozen value whose fields can be saved; fields are given by name."""
    fields = tuple(kind.__annotations__)
    namespace = {name: value for name, value in vars(kind).items() if name not in {*fields, "__dict__", "__weakref__"}}
    defaults = {name: vars(kind)[name] for name in fields if name in vars(kind)}
    namespace |= {"__slots__": fields, "fields": fields, "defaults": defaults}
    return cast("type[RecordT]", type(kind.__name__, (Record,), namespace))


def to_json(value: object) -> Json:
    """A record (or a field of one) in plain values."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, bytes | bytearray):
        return value.hex()
    if isinstance(value, tuple):
        return [to_json(item) for item in value]
    if isinstance(value, Record):
        return {name: to_json(getattr(value, name)) for name in value.fields}
    msg = f"{type(value).__name__} cannot be saved"
    raise TypeError(msg)


def from_json(kind: type[RecordT], value: Json, where: str) -> RecordT:
    """The record of type `kind` that `to_json` turned into `value`; raises StateError, which names the field."""
    result: RecordT = _reader(kind)(value, where)  # type: ignore[arg-type] # a type object is hashable
    return result


def _refuse(where: str, reason: str) -> StateError:
    return StateError(f"state of {where}: {reason}")


@functools.cache
def _reader(kind: Any) -> Callable[[Any, str], Any]:  # noqa: ANN401 - any of the annotations that fields may have
    """How a field of type `kind` is read."""
    import typing  # noqa: PLC0415 - slow to load; most machines read no state

    metadata = getattr(kind, "__metadata__", None)
    if metadata is not None:  # Annotated[…]
        return _bounded(kind.__origin__, metadata[0])
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return _items(_reader(arguments[0]))
    if origin in {typing.Union, types.UnionType}:
        (inner,) = (argument for argument in arguments if argument is not type(None))
        read = _reader(inner)
        return lambda value, where: None if value is None else read(value, where)
    if isinstance(kind, type) and issubclass(kind, Record):
        return _fields(kind)
    if kind is bytes:
        return _bytes
    if kind in {bool, str}:
        return lambda value, where: _typed(kind, value, where)
    msg = f"a field of type {kind} cannot be saved"
    raise TypeError(msg)


def _typed(kind: type, value: object, where: str) -> object:
    if type(value) is not kind:
        raise _refuse(where, f"is not a {kind.__name__}")
    return value


def _bytes(value: object, where: str) -> bytes:
    try:
        return bytes.fromhex(cast("str", _typed(str, value, where)))
    except ValueError:
        raise _refuse(where, "is not hexadecimal") from None


def _bounded(kind: Any, bound: Range | Size) -> Callable[[Any, str], Any]:  # noqa: ANN401 - as `_reader`
    read = _bytes if kind is bytes else functools.partial(_typed, kind)
    if isinstance(bound, Size):
        size = bound.count

        def sized(value: object, where: str) -> bytes:
            found = _bytes(value, where)
            if len(found) != size:
                raise _refuse(where, f"has {len(found)} bytes instead of {size}")
            return found

        return sized
    least, most = bound.least, bound.most

    def ranged(value: object, where: str) -> object:
        found = read(value, where)
        if not least <= cast("int", found) <= most:
            raise _refuse(where, "is out of range")
        return found

    return ranged


def _items(read: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    def items(value: object, where: str) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) > _MAX_TUPLE:
            raise _refuse(where, "is not a list, or is too long")
        return tuple(read(item, f"{where}[{number}]") for number, item in enumerate(value))

    return items


def _evaluated(annotation: Any, names: Mapping[str, Any]) -> Any:  # noqa: ANN401 - as `_reader`
    """What an annotation means in a module. Most are plain names: `typing.get_type_hints` would compile them too."""
    if not isinstance(annotation, str):
        return annotation
    if annotation.isidentifier():
        return names[annotation] if annotation in names else getattr(builtins, annotation)
    return eval(annotation, dict(names))  # noqa: S307 - an annotation of our own


def prepare(kind: type) -> None:
    """Do now what `from_json` of `kind` does the first time."""
    _reader(kind)


def _fields(kind: type[Record]) -> Callable[[Any, str], Any]:
    names = vars(sys.modules[kind.__module__])
    optional = kind.defaults.keys()
    readers = {name: _reader(_evaluated(kind.__annotations__[name], names)) for name in kind.fields}

    def fields(value: object, where: str) -> object:
        if not isinstance(value, dict):
            raise _refuse(where, "is not an object")
        unknown = value.keys() - readers.keys()
        missing = readers.keys() - value.keys() - optional
        if unknown or missing:
            words = [f"unknown field {name}" for name in sorted(unknown)]
            words += [f"no field {name}" for name in sorted(missing)]
            raise _refuse(where, words[0][:100])
        return kind(**{name: readers[name](item, f"{where}.{name}") for name, item in value.items()})

    return fields
