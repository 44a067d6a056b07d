"""How lines of the monitor for people are written: words, numbers, formats and flags (QEMU's monitor/hmp.c)."""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_SPACE = " \t\r\n"
_ESCAPES = {"n": "\n", "r": "\r", "\\": "\\", "'": "'", '"': '"'}
_SIZES = {"b": 1, "h": 2, "w": 4, "g": 8}
_FORMATS = "oduxci"
_SUFFIXES = {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_MASK = (1 << 64) - 1
_SIZE_END = 1 << 63
_MAX_DEPTH = 32
_MAX_DIGITS = 24
_EXPECTED = {"F": "filename", "B": "block device name"}


class LineError(Exception):
    """A line that makes no sense; the text is what to show."""


@dataclass(frozen=True, slots=True)
class Format:
    """`/COUNT FORMAT SIZE` behind a command's name; None for what was not given."""

    count: int = 1
    letter: str | None = None
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Verb:
    """A command: its names, its parameters as QEMU describes them, what it does.

    `parameters` are `NAME:KIND` pairs: `s` a word, `B` a drive, `F` a file, `S` the rest of the line, `i` a number,
    `M` one of MiB, `o` a size of bytes (MiB without a unit), `b` on or off, `-X` a flag, `/` a format;
    with `?` at the end it can be left out.
    """

    name: str
    short: str
    parameters: str
    usage: str
    summary: str
    run: Callable[[Mapping[str, Any]], str]

    @property
    def shown(self) -> str:
        """Its names."""
        return f"{self.name}|{self.short}" if self.short else self.name

    @property
    def help(self) -> str:
        """One line of `help`."""
        return f"{self.shown} {self.usage} -- {self.summary}"


class Line:
    """What is left of a line."""

    def __init__(self, text: str, registers: Callable[[], Mapping[str, int]]) -> None:
        """`registers` gives the values of `$NAME`."""
        self._text = text
        self._at = 0
        self._registers = registers

    def skip(self) -> str:
        """Go to the next thing; its first character, empty at the end."""
        while self._peek() and self._peek() in _SPACE:
            self._at += 1
        return self._peek()

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def rest(self) -> str:
        """Everything else."""
        self.skip()
        found, self._at = self._text[self._at :], len(self._text)
        return found

    def word(self) -> str:
        """One word, or a string in quotation marks. Raises LineError."""
        if self.skip() != '"':
            start = self._at
            while self._peek() and self._peek() not in _SPACE:
                self._at += 1
            return self._text[start : self._at]
        self._at += 1
        found = []
        while (character := self._peek()) != '"':
            self._at += 1
            if not character:
                msg = "unterminated string"
                raise LineError(msg)
            if character == "\\":
                escape = self._peek()
                if escape not in _ESCAPES:
                    msg = f"unsupported escape code: '\\{escape}'"
                    raise LineError(msg)
                character = _ESCAPES[escape]
                self._at += 1
            found.append(character)
        self._at += 1
        return "".join(found)

    def flag(self, letters: str) -> bool:
        """Take `-X` when it is next, X one of `letters`."""
        if self.skip() == "-" and self._text[self._at + 1 : self._at + 2] in set(letters):
            after = self._text[self._at + 2 : self._at + 3]
            if not after or after in _SPACE:
                self._at += 2
                return True
        return False

    # -- numbers ------------------------------------------------------------------------------------------------------

    def number(self) -> int:
        """An expression. Raises LineError."""
        return self._logic(0)

    def _logic(self, depth: int) -> int:
        value = self._sum(depth)
        while (operator := self.skip()) and operator in "&|^":
            self._at += 1
            other = self._sum(depth)
            value = value & other if operator == "&" else value | other if operator == "|" else value ^ other
        return value & _MASK

    def _sum(self, depth: int) -> int:
        value = self._product(depth)
        while (operator := self.skip()) and operator in "+-":
            self._at += 1
            other = self._product(depth)
            value += other if operator == "+" else -other
        return value & _MASK

    def _product(self, depth: int) -> int:
        value = self._unary(depth)
        while (operator := self.skip()) and operator in "*/%":
            self._at += 1
            other = self._unary(depth)
            if operator != "*" and not other:
                msg = "division by zero"
                raise LineError(msg)
            value = value * other if operator == "*" else _divide(value, other, rest=operator == "%")
        return value & _MASK

    def _unary(self, depth: int) -> int:
        if depth > _MAX_DEPTH:
            msg = "too many parentheses"
            raise LineError(msg)
        first = self.skip()
        if first in {"+", "-", "~"}:
            self._at += 1
            value = self._unary(depth + 1)
            return (value if first == "+" else -value if first == "-" else ~value) & _MASK
        if first == "(":
            self._at += 1
            value = self._logic(depth + 1)
            if self.skip() != ")":
                msg = "')' expected"
                raise LineError(msg)
            self._at += 1
            return value
        if first == "'":
            letter, closing = self._text[self._at + 1 : self._at + 2], self._text[self._at + 2 : self._at + 3]
            if not letter or closing != "'":
                msg = "missing terminating ' character" if letter else "character constant expected"
                raise LineError(msg)
            self._at += 3
            return ord(letter)
        if first == "$":
            return self._register()
        return self._plain()

    def _letters(self, allowed: str) -> str:
        start = self._at
        while self._peek() and self._peek() in allowed:
            self._at += 1
        return self._text[start : self._at]

    def _register(self) -> int:
        self._at += 1
        name = self._letters(string.ascii_letters + string.digits + "_").lower()
        found = self._registers()
        for candidate in (name, {"pc": "rip", "eflags": "rflags"}.get(name, ""), f"r{name[1:]}", f"{name}.selector"):
            if candidate in found:
                value = found[candidate]
                return value & 0xFFFFFFFF if name.startswith("e") and candidate != name else value
        msg = "unknown register"
        raise LineError(msg)

    def _plain(self) -> int:
        start = self._at
        text = self._letters(string.hexdigits + "xX")
        if not text:
            found = self._peek()
            msg = f"invalid char '{found}' in expression" if found else "unexpected end of expression"
            raise LineError(msg)
        is_octal = text.startswith("0") and text.isdigit()
        try:
            return int(text[:_MAX_DIGITS], 8 if is_octal else 0) & _MASK
        except ValueError as error:
            self._at = start
            msg = f"invalid char '{text.lstrip(string.digits)[:1] or text[0]}' in expression"
            raise LineError(msg) from error

    # -- other kinds --------------------------------------------------------------------------------------------------

    def size(self) -> int:
        """Bytes, with a unit; MiB without. Raises LineError."""
        text = self.word()
        digits, unit = (text[:-1], text[-1:].lower()) if text[-1:].lower() in _SUFFIXES else (text, "m")
        whole, _, part = digits.partition(".")
        if (whole + part).isascii() and (whole + part).isdigit() and len(digits) <= _MAX_DIGITS:
            size = int(whole + part) * _SUFFIXES[unit] // int("1" + "0" * len(part))
            if size < _SIZE_END:
                return size
        msg = "invalid size"
        raise LineError(msg)

    def switch(self) -> bool:
        """`on` or `off`. Raises LineError."""
        word = self.word()
        if word not in {"on", "off"}:
            msg = "Expected 'on' or 'off'"
            raise LineError(msg)
        return word == "on"

    def format(self) -> Format:
        """What follows a `/`, when that is next. Raises LineError."""
        if self.skip() != "/":
            return Format()
        self._at += 1
        digits = self._letters(string.digits)
        letter = size = None
        while (character := self._peek()) and character not in _SPACE:
            if character in _FORMATS:
                letter = character
            elif character in _SIZES:
                size = _SIZES[character]
            else:
                msg = f"invalid char in format: '{character}'"
                raise LineError(msg)
            self._at += 1
        return Format(int(digits[:9]) if digits else 1, letter, size)


def _divide(value: int, other: int, *, rest: bool) -> int:
    """As C divides signed numbers of 64 bits: towards zero."""
    value, other = (number - (1 << 64) if number >> 63 else number for number in (value, other))
    quotient = abs(value) // abs(other) * (1 if (value < 0) == (other < 0) else -1)
    return value - quotient * other if rest else quotient


def parse_parameters(verb: Verb, line: Line) -> dict[str, Any]:
    """The values of a command's parameters; those that were left out are absent. Raises LineError."""
    found: dict[str, Any] = {}
    for parameter in filter(None, verb.parameters.split(",")):
        name, _, kind = parameter.partition(":")
        if kind.startswith("-"):
            found[name] = line.flag(kind[1:])
            continue
        if kind == "/":
            found[name] = line.format()
            continue
        optional = kind.endswith("?")
        if not line.skip():
            if optional:
                continue
            if kind[0] in "sFBS":
                msg = f"{verb.shown}: {_EXPECTED.get(kind[0], 'string')} expected"
                raise LineError(msg)
        found[name] = _take(line, kind[0])
    if line.skip():
        msg = f"{verb.shown}: extraneous characters at the end of line"
        raise LineError(msg)
    return found


def _mib(count: int) -> int:
    if count << 20 >= _SIZE_END:
        msg = "enter a positive value"
        raise LineError(msg)
    return count << 20


def _take(line: Line, kind: str) -> Any:  # noqa: ANN401 - the type depends on the kind
    match kind:
        case "i":
            return line.number()
        case "M":
            return _mib(line.number())
        case "o":
            return line.size()
        case "b":
            return line.switch()
        case "S":
            return line.rest()
        case _:
            return line.word()
