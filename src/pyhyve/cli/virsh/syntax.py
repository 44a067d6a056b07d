"""What a verb's words mean: options declared by a usage line, and a command line read against them.

The usage line is nearly the one virsh shows, such as ``<domain> [--mode <string>] [--all]``: ``<x>`` must be given,
with or without its name (``<x#>`` is a number); ``[--x]`` is a switch; ``[--x <string>]`` takes a value and may also go
without its name, ``[--x=<string>]`` may not; ``[[--x] <string>]...`` takes the words left. No I/O here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "Kind",
    "Option",
    "SyntaxProblem",
    "Values",
    "parse_usage",
    "parse_words",
    "scaled_bytes",
    "split_line",
    "unknown_suffix",
]

_USAGE_TOKEN: Final = re.compile(
    r"<(?P<required>[\w-]+)(?P<number>#?)>(?!\])"
    r"|\[--(?P<switch>[\w-]+)\]"
    r"|\[--(?P<valued>[\w-]+)(?P<form>[ =])<(?P<type>string|number)>\]"
    r"|\[\[--(?P<rest>[\w-]+)\] <string>\]\.\.\."
    r"|\{\[--(?P<needed_rest>[\w-]+)\] <string>\}\.\.\."
    r"|\[<(?P<bare_rest>[\w-]+)>\]\.\.\."
    r"|\s+"
)
_NUMBER: Final = re.compile(r"[+-]?(0[xX][0-9a-fA-F]+|\d+)")
_SCALED: Final = re.compile(r"(0[xX][0-9a-fA-F]+|\d+)\s*([A-Za-z]*)")
_POWERS: Final = {letter: power for power, letter in enumerate("kmgtpe", 1)}
_U64: Final = 1 << 64


class SyntaxProblem(Exception):  # noqa: N818 - a command line that cannot be read is no failure of ours
    """A command line that cannot be read; its arguments are virsh's words, each for one ``error:`` line."""


class Kind(Enum):
    """What an option takes."""

    SWITCH = auto()
    STRING = auto()
    NUMBER = auto()
    REST = auto()
    """All words that belong to no other option."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a verb."""

    name: str
    kind: Kind
    required: bool = False
    by_name: bool = False
    """Whether its name must be given with its value."""

    @property
    def type_word(self) -> str:
        """What virsh calls its value."""
        return "number" if self.kind is Kind.NUMBER else "string"


def parse_usage(usage: str) -> tuple[Option, ...]:
    """Read a usage line. Raises ValueError on a malformed one."""
    options: list[Option] = []
    position = 0
    while position < len(usage):
        match = _USAGE_TOKEN.match(usage, position)
        if match is None:
            msg = f"usage line: cannot read {usage[position:]!r}"
            raise ValueError(msg)
        position = match.end()
        name = match.lastgroup and match[match.lastgroup]
        if match["required"]:
            kind = Kind.NUMBER if match["number"] else Kind.STRING
            options.append(Option(match["required"], kind, required=True))
        elif match["switch"]:
            options.append(Option(match["switch"], Kind.SWITCH))
        elif match["valued"]:
            kind = Kind.NUMBER if match["type"] == "number" else Kind.STRING
            options.append(Option(match["valued"], kind, by_name=match["form"] == "="))
        elif name:
            options.append(Option(name, Kind.REST, required=bool(match["needed_rest"])))
    return tuple(options)


@dataclass(slots=True)
class Values:
    """The options that were given."""

    verb: str
    strings: dict[str, str] = field(default_factory=dict)
    switches: set[str] = field(default_factory=set)
    rest: dict[str, list[str]] = field(default_factory=dict)

    def flag(self, name: str) -> bool:
        """Whether a switch was given."""
        return name in self.switches

    def get(self, name: str) -> str | None:
        """The value of an option, None where it was not given."""
        return self.strings.get(name)

    def text(self, name: str) -> str:
        """The value of a required option."""
        return self.strings[name]

    def words(self, name: str) -> list[str]:
        """The words of an option that takes all that is left."""
        return self.rest.get(name, [])

    def number(self, name: str, *, minimum: int = -(1 << 63), maximum: int = _U64 - 1) -> int | None:
        """The value as a number. Raises SyntaxProblem where it is none."""
        value = self.strings.get(name)
        if value is None:
            return None
        if not _NUMBER.fullmatch(value) or not minimum <= (parsed := int(value, 0 if "x" in value.lower() else 10)):
            raise _malformed(value, name)
        if parsed > maximum:
            raise _malformed(value, name)
        return parsed

    def scaled(self, name: str, unit: int, *, maximum: int = _U64 - 1) -> int | None:
        """The value in bytes; without a suffix it counts ``unit`` bytes. Raises SyntaxProblem where it is no size."""
        value = self.strings.get(name)
        if value is None:
            return None
        size = scaled_bytes(value, unit)
        if size is None or size > maximum:
            raise _malformed(value, name, *unknown_suffix(value), scaled=True)
        return size


def _malformed(value: str, name: str, *more: str, scaled: bool = False) -> SyntaxProblem:
    what = "Scaled numeric" if scaled else "Numeric"
    return SyntaxProblem(f"{what} value '{value}' for <{name}> option is malformed or out of range", *more)


def unknown_suffix(text: str) -> tuple[str, ...]:
    """The line that explains a size of which only the suffix is wrong; none for other mistakes."""
    match = _SCALED.fullmatch(text)
    return (f"invalid argument: unknown suffix '{match[2]}'",) if match and match[2] else ()


def scaled_bytes(text: str, unit: int) -> int | None:
    """Return the bytes a size such as ``10``, ``4G``, ``4GiB`` or ``4GB`` means; None where it is none."""
    match = _SCALED.fullmatch(text)
    if match is None:
        return None
    number = int(match[1], 0 if match[1].lower().startswith("0x") else 10)
    suffix = match[2].lower()
    if not suffix:
        return number * unit
    if suffix in {"b", "byte", "bytes"}:
        return number
    power = _POWERS.get(suffix[0])
    if power is None or suffix[1:] not in {"", "b", "ib"}:
        return None
    return number * int((1000 if suffix[1:] == "b" else 1024) ** power)


def parse_words(verb: str, options: Sequence[Option], words: Sequence[str]) -> Values:
    """Read the words after a verb. Raises SyntaxProblem."""
    values = Values(verb)
    by_name = {option.name: option for option in options}
    seen: set[str] = set()
    only_data = False
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if word == "--" and not only_data:
            only_data = True
        elif not only_data and word.startswith("--") and len(word) > 2 and (word[2].isalnum() or word[2] == "_"):
            name, equals, value = word[2:].partition("=")
            option = by_name.get(name)
            if option is None:
                msg = f"command '{verb}' doesn't support option --{name}"
                raise SyntaxProblem(msg)
            if option.kind is not Kind.REST and name in seen:
                msg = f"option --{name} already seen"
                raise SyntaxProblem(msg)
            seen.add(name)
            if option.kind is Kind.SWITCH:
                if equals:
                    msg = f"invalid '=' after option --{name}"
                    raise SyntaxProblem(msg)
                values.switches.add(name)
                continue
            if not equals:
                if not queue:
                    msg = f"expected syntax: --{name} <{option.type_word}>"
                    raise SyntaxProblem(msg)
                value = queue.pop(0)
            _keep(values, option, value)
        else:
            option = next(
                (
                    o
                    for o in options
                    if o.kind is Kind.REST or (o.kind is not Kind.SWITCH and not o.by_name and o.name not in seen)
                ),
                None,
            )
            if option is None:
                msg = f"unexpected data '{word}'"
                raise SyntaxProblem(msg)
            seen.add(option.name)
            _keep(values, option, word)
    missing = [
        f"command '{verb}' requires {f'--{o.name}' if o.kind is Kind.NUMBER else f'<{o.name}>'} option"
        for o in options
        if o.required and o.name not in seen
    ]
    if missing:
        raise SyntaxProblem(*missing)
    return values


def _keep(values: Values, option: Option, value: str) -> None:
    if option.kind is Kind.REST:
        values.rest.setdefault(option.name, []).append(value)
    else:
        values.strings[option.name] = value


def split_line(line: str) -> list[list[str]]:
    """Split a line into commands (at ``;`` or a new line) and those into words, with a shell's quotes.

    A quote that is not closed ends with the line. Raises SyntaxProblem where a double quote is not.
    """
    commands: list[list[str]] = [[]]
    word: str | None = None
    quote = ""
    letters = iter(line)
    if line.count('"') % 2 and "'" not in line and "\\" not in line:
        msg = 'missing "'
        raise SyntaxProblem(msg)
    for letter in letters:
        if quote == "'":
            quote, word = ("", word) if letter == "'" else (quote, (word or "") + letter)
        elif letter == "\\":
            word = (word or "") + next(letters, "")
        elif quote == '"':
            quote, word = ("", word) if letter == '"' else (quote, (word or "") + letter)
        elif letter in "'\"":
            quote, word = letter, word or ""
        elif letter == "#" and word is None:
            break
        elif letter in " \t;\n":
            if word is not None:
                commands[-1].append(word)
                word = None
            if letter in ";\n":
                commands.append([])
        else:
            word = (word or "") + letter
    if word is not None:
        commands[-1].append(word)
    return [command for command in commands if command]
