"""JSON values in a byte stream: they follow each other with or without white space between them.

As in QEMU, strings may also be written in single quotes, keys must not repeat, and a byte that cannot be part of
JSON text (0xFF) brings the stream back to its beginning, whatever came before it. Work is linear in the input, and
what is kept between calls is bounded.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

from pyhyve.machine.monitor.errors import QmpError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_MESSAGE_BYTES = 8 << 20
MAX_NESTING = 256
_SPACE = b" \t\r\n"
_RESET, _BACKSLASH = 0xFF, 0x5C
_INTERESTING = {
    0: re.compile(rb"[\[\]{}\"'\xff]"),
    ord('"'): re.compile(rb"[\"\\\xff]"),
    ord("'"): re.compile(rb"['\\\xff]"),
}
"""What matters outside strings, in double quotes and in single quotes."""
_END_OF_WORD = re.compile(rb"[ \t\r\n\[\]{}\"'\xff]")
_STRING = re.compile(r"""\"(?:[^"\\]|\\.)*\"|'((?:[^'\\]|\\.)*)'""", re.DOTALL)
_ESCAPE = re.compile(r"\\(.)|(\")", re.DOTALL)
_MAX_INTEGER_DIGITS = 21


class JsonStream:
    """Bytes in, values out."""

    def __init__(self, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
        """A message longer than `max_message_bytes` is refused, and skipped to its end."""
        self._limit = max_message_bytes
        self._restart()

    def _restart(self) -> None:
        self._buffer = bytearray()
        self._inside = False
        """Whether a value has begun."""
        self._bare = False
        """Whether that value is a bare word: a number, a literal, a mistake."""
        self._depth = 0
        self._quote = 0
        self._escaped = False
        self._refused = False

    def feed(self, data: bytes) -> Iterator[Any]:
        """The values completed by `data`, in order; a `QmpError` stands where text is not a value.

        Lazy: consume it before the next call.
        """
        position = 0
        while position < len(data):
            if not self._inside:
                if data[position] in _SPACE:
                    position += 1
                    continue
                self._inside = True
                self._bare = data[position] not in b"[]{}\"'"
            end, complete = self._bare_word(data, position) if self._bare else self._scan(data, position)
            part = data[position:end]
            if not self._refused:
                self._buffer += part
            position = end
            if part[-1:] == b"\xff":
                self._restart()
                yield QmpError("JSON parse error, stray '\\uFFFD'")
            elif complete:
                text, refused = bytes(self._buffer), self._refused
                self._restart()
                if not refused:
                    yield parse(text)
            elif not self._refused and (len(self._buffer) > self._limit or self._depth > MAX_NESTING):
                what = "nesting depth" if self._depth > MAX_NESTING else "token size"
                yield QmpError(f"JSON {what} limit exceeded")
                self._refused = True
                self._buffer.clear()

    def _bare_word(self, data: bytes, position: int) -> tuple[int, bool]:
        """Where the word stops in `data`, and whether it is complete; a reset byte ends a word, or is one itself."""
        found = _END_OF_WORD.search(data, position)
        if found is None:
            return len(data), False
        is_first = found.start() == position and not self._buffer and not self._refused
        return found.start() + is_first, True

    def _scan(self, data: bytes, position: int) -> tuple[int, bool]:
        """Go on from `position`: where to stop, and whether the value is complete there."""
        while position < len(data):
            if self._escaped:
                self._escaped = False
                if data[position] != _RESET:
                    position += 1
                    continue
            found = _INTERESTING[self._quote].search(data, position)
            if found is None:
                return len(data), False
            byte, position = data[found.start()], found.end()
            if byte == _RESET:
                return position, False
            if self._quote:
                self._escaped = byte == _BACKSLASH
                if not self._escaped:
                    self._quote = 0
                    if not self._depth:
                        return position, True
            elif byte in b"\"'":
                self._quote = byte
            elif byte in b"[{":
                self._depth += 1
                if self._depth > MAX_NESTING and not self._refused:
                    return position, False
            else:
                self._depth -= 1
                if self._depth <= 0:
                    return position, True
        return position, False


def parse(text: bytes) -> Any:  # noqa: ANN401 - any JSON value
    """The value of `text`, or the `QmpError` that says why there is none."""
    try:
        decoded = text.decode()
        if "'" in decoded:
            decoded = _STRING.sub(_in_double_quotes, decoded)
        return json.loads(
            decoded,
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_float=_number,
            parse_int=_number,
            strict=False,
        )
    except UnicodeDecodeError:
        return QmpError("JSON parse error, invalid UTF-8 sequence")
    except json.JSONDecodeError as error:
        return QmpError(f"JSON parse error, {error.msg[:1].lower()}{error.msg[1:]}")
    except QmpError as error:
        return error


def _in_double_quotes(match: re.Match[str]) -> str:
    """A string in single quotes, as JSON has it."""
    inner = match[1]
    if inner is None:
        return match[0]
    return f'"{_ESCAPE.sub(_unescape, inner)}"'


def _unescape(match: re.Match[str]) -> str:
    if match[2]:
        return '\\"'
    return "'" if match[1] == "'" else match[0]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        msg = "JSON parse error, duplicate key"
        raise QmpError(msg)
    return value


def _number(text: str) -> int | float:
    """A number: integers of 64 bits stay integers, the others become floating point, as in QEMU."""
    if text.lstrip("-").isdigit() and len(text) <= _MAX_INTEGER_DIGITS:
        value = int(text)
        if -(1 << 63) <= value < 1 << 64:
            return value
    number = float(text)
    if not math.isfinite(number):
        return _refuse_constant(text)
    return number


def _refuse_constant(text: str) -> int:
    msg = f"JSON parse error, invalid keyword '{text[:40]}'"
    raise QmpError(msg)
