"""Flat encoders and decoders for XDR field lists, generated as Python source the first time each is used.

A run of fields of fixed size, and the length of the text that follows it, is one :class:`struct.Struct`: a domain costs
about a microsecond. Every length is checked against the table's limit and against the bytes that are there before
anything is allocated, so hostile input costs no more than its own size.
"""

from __future__ import annotations

import itertools
import struct
from collections import namedtuple
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from pyhyve.rpc.values import STRUCTURES, ParamType
from pyhyve.rpc.xdr_types import SCALARS, STRING_MAX, Field, Type, parse_fields

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Codec", "XdrError", "codec"]


class XdrError(ValueError):
    """Data that is not what the table says, or values that do not fit it."""


_PARAM_VALUES: Final = {
    ParamType.INT: struct.Struct(">i"),
    ParamType.UINT: struct.Struct(">I"),
    ParamType.LLONG: struct.Struct(">q"),
    ParamType.ULLONG: struct.Struct(">Q"),
    ParamType.DOUBLE: struct.Struct(">d"),
    ParamType.BOOLEAN: struct.Struct(">i"),
}
_PARAM_PACKERS: Final = {
    int(kind): struct.Struct(">i" + layout.format[1:]).pack for kind, layout in _PARAM_VALUES.items()
}
"""What packs a typed parameter's type and value."""
_PADDING: Final = (b"", b"\0\0\0", b"\0\0", b"\0")


def _text(data: bytes, start: int, end: int) -> str:
    """Return the string in a slice; XdrError where it holds a NUL, which no C peer can mean."""
    piece = data[start:end]
    if 0 in piece:
        msg = "a string holds a NUL"
        raise XdrError(msg)
    return piece.decode("utf-8", "surrogateescape")


def _text_bytes(value: str) -> bytes:
    """Return a string as it travels; XdrError where it is too long or holds a NUL."""
    piece = value.encode("utf-8", "surrogateescape")
    if len(piece) > STRING_MAX or 0 in piece:
        msg = "a string is too long or holds a NUL"
        raise XdrError(msg)
    return piece


_NAMES_MAX: Final = 8192
_names: Final[dict[str, bytes]] = {}
"""Names of typed parameters as they travel: in the statistics of many domains the same ones come again and again."""


def _name_bytes(name: str) -> bytes:
    """Return a typed parameter's name with its length and padding, and remember it."""
    piece = _text_bytes(name)
    whole = struct.pack(">I", len(piece)) + piece + _PADDING[len(piece) & 3]
    if len(_names) >= _NAMES_MAX:
        _names.clear()
    _names[name] = whole
    return whole


def _fail(what: str) -> None:
    raise XdrError(what)


@cache
def _least(type_: Type) -> int:
    """Return the fewest bytes a value of the type takes on the wire."""
    if type_.optional or type_.most is not None:
        return 4
    if type_.base in SCALARS:
        return struct.calcsize(">" + SCALARS[type_.base]) * (type_.exactly or 1)
    if type_.base in STRUCTURES:
        return sum(_least(field.type) for field in parse_fields(STRUCTURES[type_.base][1]))
    return 8 if type_.base == "typed_value" else 4


class _Source:
    """Source text in the making: lines, indentation, names, and the run of fixed fields not yet written out."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.depth = 1
        self.names = itertools.count()
        self.scope: dict[str, Any] = {
            "fail": _fail,
            "text": _text,
            "text_bytes": _text_bytes,
            "PADDING": _PADDING,
            "PARAMS": _PARAM_VALUES,
            "PACKERS": _PARAM_PACKERS,
            "NAMES": _names,
            "name_bytes": _name_bytes,
            "unpack_from": struct.unpack_from,
            "pack": struct.pack,
        }
        self.run: list[tuple[str, str]] = []

    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    def name(self) -> str:
        return f"v{next(self.names)}"

    def bind(self, prefix: str, value: object) -> str:
        for name, known in self.scope.items():
            if known is value:
                return name
        name = f"{prefix}{next(self.names)}"
        self.scope[name] = value
        return name

    def fixed(self) -> str:
        """Return the format of the pending run."""
        return ">" + "".join(code for code, _ in self.run)

    def compiled(self, header: str, function: str) -> Any:  # noqa: ANN401 - a generated function
        source = "\n".join([header, *self.lines])
        exec(compile(source, f"<xdr {header}>", "exec"), self.scope)  # noqa: S102 - our own table, as namedtuple does
        return self.scope[function]


class _Decoder(_Source):
    """Writes ``decode(data, pos) -> (values, pos)``."""

    def flush(self) -> None:
        if self.run:
            unpack = self.bind("unpack", struct.Struct(self.fixed()).unpack_from)
            self.line(f"{''.join(name + ', ' for _, name in self.run)}= {unpack}(data, pos)")
            self.line(f"pos += {struct.calcsize(self.fixed())}")
            self.run.clear()

    def number(self, code: str) -> str:
        name = self.name()
        self.run.append((code, name))
        return name

    def value(self, type_: Type) -> str:
        """Write what reads one value; return the expression that is it (valid after the next flush)."""
        if type_.optional:
            return self._optional(type_)
        if type_.most is not None:
            return self._opaque(type_) if type_.base == "bytes" else self._array(type_)
        if type_.exactly is not None:
            names = [self.number(SCALARS[type_.base]) for _ in range(type_.exactly)]
            return f"({', '.join(names)},)"
        if type_.base in SCALARS:
            return self.number(SCALARS[type_.base])
        if type_.base == "str":
            return self._string()
        if type_.base == "typed_value":
            return self._typed_value()
        cls, members = STRUCTURES[type_.base]
        expressions = [self.value(field.type) for field in parse_fields(members)]
        return f"{self.bind('C', cls)}({', '.join(expressions)})"

    def _slice(self, most: int) -> tuple[str, str]:
        length, end = self.number("I"), self.name()
        self.flush()
        self.line(f"{end} = pos + {length}")
        self.line(f"if {length} > {most} or {end} > len(data): fail('a length is beyond the limit or the data')")
        return length, end

    def _string(self) -> str:
        length, end = self._slice(STRING_MAX)
        result = self.name()
        self.line(f"{result} = text(data, pos, {end})")
        self.line(f"pos = {end} + (-{length} & 3)")
        return result

    def _opaque(self, type_: Type) -> str:
        length, end = self._slice(type_.most or 0)
        result = self.name()
        self.line(f"{result} = data[pos:{end}]")
        self.line(f"pos = {end} + (-{length} & 3)")
        return result

    def _array(self, type_: Type) -> str:
        item = Type(type_.base)
        count, result = self.number("I"), self.name()
        self.flush()
        self.line(f"if {count} > {type_.most} or {count} * {_least(item)} > len(data) - pos:")
        self.line("    fail('an array is longer than the limit or the data')")
        if type_.base in SCALARS and type_.base != "uuid":
            code = SCALARS[type_.base]
            self.line(f"{result} = list(unpack_from(f'>{{{count}}}{code}', data, pos))")
            self.line(f"pos += {count} * {_least(item)}")
            return result
        self.line(f"{result} = []")
        self.line(f"for _ in range({count}):")
        self.depth += 1
        expression = self.value(item)
        self.flush()
        self.line(f"{result}.append({expression})")
        self.depth -= 1
        return result

    def _optional(self, type_: Type) -> str:
        present, result = self.number("I"), self.name()
        self.flush()
        self.line(f"if {present} == 1:")
        self.depth += 1
        expression = self.value(Type(type_.base))
        self.flush()
        self.line(f"{result} = {expression}")
        self.depth -= 1
        self.line(f"elif {present}: fail('an optional value is neither there nor absent')")
        self.line(f"else: {result} = None")
        return result

    def _typed_value(self) -> str:
        kind, result, reader = self.number("i"), self.name(), self.name()
        self.flush()
        self.line(f"if {kind} == {int(ParamType.STRING)}:")
        self.depth += 1
        text = self._string()
        self.line(f"{result} = {text}")
        self.depth -= 1
        self.line("else:")
        self.line(f"    {reader} = PARAMS.get({kind})")
        self.line(f"    if {reader} is None: fail('a typed parameter has an unknown type')")
        self.line(f"    {result}, = {reader}.unpack_from(data, pos)")
        self.line(f"    pos += {reader}.size")
        return f"{kind}, {result}"


class _Encoder(_Source):
    """Writes ``encode(arguments…) -> bytes``."""

    def flush(self) -> None:
        if self.run:
            pack = self.bind("pack", struct.Struct(self.fixed()).pack)
            self.line(f"put({pack}({', '.join(name for _, name in self.run)}))")
            self.run.clear()

    def value(self, type_: Type, given: str) -> None:
        """Write what puts out the value of the expression ``given``."""
        if type_.optional:
            self.flush()
            self.line(f"if {given} is None: put(b'\\0\\0\\0\\0')")
            self.line("else:")
            self.depth += 1
            self.run.append(("I", "1"))
            self.value(Type(type_.base), given)
            self.flush()
            self.depth -= 1
        elif type_.most is not None:
            self._many(type_, given)
        elif type_.exactly is not None:
            self.flush()
            self.line(f"put(pack('>{type_.exactly}{SCALARS[type_.base]}', *{given}))")
        elif type_.base == "uuid":
            self.line(f"if len({given}) != 16: fail('a UUID is not 16 bytes')")
            self.run.append(("16s", given))
        elif type_.base in SCALARS:
            self.run.append((SCALARS[type_.base], given))
        elif type_.base == "str":
            piece = self.name()
            self.line(f"{piece} = text_bytes({given})")
            self._piece(piece)
        else:
            self._structure(type_, given)

    def _structure(self, type_: Type, given: str) -> None:
        members = [field.type for field in parse_fields(STRUCTURES[type_.base][1])]
        if type_.base == "typed_param":
            field, kind, value = self.name(), self.name(), self.name()
            self.flush()
            self.line(f"{field}, {kind}, {value} = {given}")
            self.line(f"put(NAMES.get({field}) or name_bytes({field}))")
            self.line(f"if {kind} in PACKERS: put(PACKERS[{kind}]({kind}, {value}))")
            self.line(f"elif {kind} == {int(ParamType.STRING)}:")
            self.depth += 1
            self.run.append(("i", kind))
            self.value(Type("str"), value)
            self.flush()
            self.depth -= 1
            self.line("else: fail('a typed parameter has an unknown type')")
            return
        names = [self.name() for _ in members]
        self.line(f"{', '.join(names)}, = {given}")
        for name, member in zip(names, members, strict=True):
            self.value(member, name)

    def _piece(self, piece: str) -> None:
        self.run.append(("I", f"len({piece})"))
        self.flush()
        self.line(f"put({piece})")
        self.line(f"put(PADDING[len({piece}) & 3])")

    def _many(self, type_: Type, given: str) -> None:
        self.line(f"if len({given}) > {type_.most}: fail('more than {type_.most} items')")
        if type_.base == "bytes":
            self._piece(given)
            return
        self.run.append(("I", f"len({given})"))
        self.flush()
        if type_.base in SCALARS and type_.base != "uuid":
            self.line(f"put(pack(f'>{{len({given})}}{SCALARS[type_.base]}', *{given}))")
            return
        item = self.name()
        self.line(f"for {item} in {given}:")
        self.depth += 1
        self.value(Type(type_.base), item)
        self.flush()
        self.depth -= 1


def _decoder(fields: Sequence[Field]) -> Callable[[bytes, int], tuple[tuple[Any, ...], int]]:
    source = _Decoder()
    expressions = [source.value(field.type) for field in fields]
    source.flush()
    source.line(f"return ({''.join(expression + ', ' for expression in expressions)}), pos")
    decode: Callable[[bytes, int], tuple[tuple[Any, ...], int]] = source.compiled("def decode(data, pos):", "decode")
    return decode


def _encoder(fields: Sequence[Field]) -> Callable[..., bytes]:
    source = _Encoder()
    source.line("out = []")
    source.line("put = out.append")
    names = [f"a_{field.name}" for field in fields]
    for name, field in zip(names, fields, strict=True):
        source.value(field.type, name)
    source.flush()
    source.line("return b''.join(out)")
    encode: Callable[..., bytes] = source.compiled(f"def encode({', '.join(names)}):", "encode")
    return encode


@cache
def _record(names: tuple[str, ...]) -> Any:  # noqa: ANN401 - a class made here
    """Return the named tuple whose members have these names."""
    return namedtuple("Record", names, rename=True)  # noqa: PYI024 - the members are data


class Codec:
    """Encoder and decoder of one field list; get it from :func:`codec`."""

    __slots__ = ("_decode", "_encode", "fields", "record")

    def __init__(self, text: str) -> None:
        self.fields = parse_fields(text)
        self.record = _record(tuple(field.name for field in self.fields))
        self._decode: Callable[[bytes, int], tuple[tuple[Any, ...], int]] | None = None
        self._encode: Callable[..., bytes] | None = None

    def encode(self, *values: object) -> bytes:
        """Encode one value for each field; XdrError where one does not fit."""
        if self._encode is None:
            self._encode = _encoder(self.fields)
        try:
            return self._encode(*values)
        except XdrError:
            raise
        except (struct.error, TypeError, AttributeError, ValueError) as error:
            names = ", ".join(field.name for field in self.fields)
            msg = f"values do not fit ({names}): {error}"
            raise XdrError(msg) from error

    def decode(self, data: bytes, pos: int = 0) -> Any:  # noqa: ANN401 - a record with this list's fields
        """Decode all data from ``pos`` on into a named tuple; XdrError where it is something else."""
        try:
            values, end = self._decode(data, pos)  # type: ignore[misc] # None: not generated yet, or:
        except (struct.error, TypeError):  # the careful way, which says what is wrong
            record, end = self.decode_from(data, pos)
        else:
            record = self.record._make(values)
        if end != len(data):
            msg = f"{len(data) - end} bytes after the end"
            raise XdrError(msg)
        return record

    def decode_from(self, data: bytes, pos: int = 0) -> tuple[Any, int]:
        """Decode from ``pos`` on; return the record and where it ends."""
        if self._decode is None:
            self._decode = _decoder(self.fields)
        try:
            values, end = self._decode(data, pos)
        except struct.error as error:
            msg = f"the data ends early: {error}"
            raise XdrError(msg) from error
        if end > len(data):
            msg = "the data ends inside padding"
            raise XdrError(msg)
        return self.record._make(values), end


@cache
def codec(text: str) -> Codec:
    """Return the codec of a field list in the table's language."""
    return Codec(text)
