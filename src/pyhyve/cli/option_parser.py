"""The command lines of `pyhyve img` and `pyhyve run`, read as getopt_long reads qemu-img's.

Importing argparse takes longer than everything `pyhyve img info` does; `python -m benchmarks img` and `start` measure
it. The few of its conventions that are used are here: options and names in any order, options with and without a value,
`-pq` for `-p -q`, `-fqcow2`, `--output=json` and unambiguous beginnings of long names.
"""

from __future__ import annotations

from pyhyve.support.errors import InputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


class Usage(Exception):  # noqa: N818 - it is one, not an error of the program
    """The command line makes no sense; the text says why."""


class Arguments:
    """What was given, by name."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...  # noqa: ANN401 - each option has its own type


class Option:
    """An option, or (without flags) a name on the command line. See `VerbParser.add_argument`."""

    __slots__ = ("action", "choices", "const", "default", "flags", "help", "metavar", "name", "nargs")

    def __init__(
        self,
        flags: Sequence[str],
        name: str,
        action: str,
        default: Any,  # noqa: ANN401 - as above
        choices: Sequence[str],
        help: str | None,  # noqa: A002 - argparse's name
        metavar: str,
        nargs: str,
        const: Any,  # noqa: ANN401 - ditto
    ) -> None:
        self.const = const
        self.flags, self.name, self.action, self.default = flags, name, action, default
        self.choices, self.help, self.metavar, self.nargs = choices, help, metavar, nargs

    @property
    def takes_value(self) -> bool:
        """Whether a value follows."""
        return self.action in {"store", "append", "step_value"}

    @property
    def shown(self) -> str:
        """The option in an error message."""
        return "/".join(self.flags)

    def line(self) -> str:
        """The option in the help text."""
        shown = f"[{self.metavar}]" if self.nargs == "?" else self.metavar
        value = f" {shown}" if self.takes_value else ""
        said = (self.help or "").replace("%(default)s", str(self.default))
        if not self.flags:
            return f"  {self.metavar:<24} {said}".rstrip()
        return f"  {', '.join(self.flags) + value:<24} {said}".rstrip()


class VerbParser:
    """Options and names of one verb, or of a command; `abbreviated`: beginnings of long names are taken for them."""

    def __init__(self, prog: str, description: str, *, abbreviated: bool = True) -> None:
        self._prog, self._description, self._abbreviated = prog, description, abbreviated
        self._options: list[Option] = []
        self._names: list[Option] = []
        self._by_flag: dict[str, Option] = {}
        self._exclusive: list[set[str]] = []

    def add_argument(
        self,
        *flags: str,
        dest: str | None = None,
        action: str = "store",
        default: Any = None,  # noqa: ANN401 - as above
        choices: Sequence[str] = (),
        help: str | None = "",  # noqa: A002 - argparse's name
        metavar: str | None = None,
        nargs: str = "",
        const: Any = None,  # noqa: ANN401 - as above
    ) -> None:
        """As argparse's: `action` is `store`, `store_true` or `append`; `nargs` of names is one, `?` or `*`.

        An option with `nargs="?"` stands for `const` when no value follows.

        With `step` and `step_value` all options of one `dest` collect `(long name, value or None)` in their order.
        `help=None` keeps the option out of the help text.
        """
        is_name = not flags[0].startswith("-")
        name = dest or max(flags, key=len).lstrip("-").replace("-", "_")
        shown = metavar or (flags[0] if is_name else name.upper())
        if action == "store_true":
            default = False
        option = Option(() if is_name else flags, name, action, default, choices, help, shown, nargs, const)
        if is_name:
            self._names.append(option)
            return
        self._options.append(option)
        for flag in flags:
            self._by_flag[flag] = option

    def exclude(self, *names: str) -> None:
        """At most one of these may be given."""
        self._exclusive.append(set(names))

    def help_text(self) -> str:
        """What --help prints."""
        names = " ".join(
            {"": option.metavar, "?": f"[{option.metavar}]", "*": f"[{option.metavar}]"}[option.nargs]
            for option in self._names
        )
        lines = [option.line() for option in self._options if option.help is not None]
        named = [option.line() for option in self._names if option.help]
        return "\n".join([f"usage: {self._prog} [OPTION…] {names}".rstrip(), "", self._description, "", *named, *lines])

    def parse_args(self, words: Sequence[str]) -> Arguments | None:
        """As `parse_verb`; wrong usage is an InputError."""
        try:
            return self.parse_verb(words)
        except Usage as error:
            msg = f"{error} (see {self._prog} --help)"
            raise InputError(msg) from None

    def parse_verb(self, words: Sequence[str]) -> Arguments | None:
        """The values, or None when help was asked for and printed. Raises `Usage`."""
        values: dict[str, Any] = {
            option.name: option.default if option.action in {"store", "store_true"} else [] for option in self._options
        }
        given: set[str] = set()
        names: list[str] = []
        rest = list(reversed(words))
        while rest:
            word = rest.pop()
            if word == "--":
                names.extend(reversed(rest))
                break
            if word in {"-h", "--help"}:
                print(self.help_text())
                return None
            if word[:1] != "-" or word == "-" or word[1].isdecimal():  # `-1G` is a size
                names.append(word)
            elif word[1] == "-":
                name, separator, value = word.partition("=")
                self._take(self._long(name), value if separator else None, rest, values, given)
            else:
                self._short(word, rest, values, given)
        for group in self._exclusive:
            if len(group & given) > 1:
                msg = f"Cannot mix {', '.join(sorted(group & given))}"
                raise Usage(msg)
        return Arguments(values | self._assign(names))

    def _long(self, name: str) -> Option:
        option = self._by_flag.get(name)
        if option is None:
            begun = [flag for flag in self._by_flag if self._abbreviated and flag.startswith(name)]
            found = {id(self._by_flag[flag]): self._by_flag[flag] for flag in begun}
            if len(found) != 1 or name == "--":
                msg = f"option '{name}' is ambiguous" if found else f"unrecognized option '{name}'"
                raise Usage(msg)
            (option,) = found.values()
        return option

    def _short(self, word: str, rest: list[str], values: dict[str, Any], given: set[str]) -> None:
        for at in range(1, len(word)):
            option = self._by_flag.get("-" + word[at])
            if option is None:
                msg = f"unrecognized option '-{word[at]}'"
                raise Usage(msg)
            if option.takes_value:
                value = word[at + 1 :]
                self._take(option, value or None, rest, values, given)
                return
            self._take(option, None, rest, values, given)

    def _take(
        self, option: Option, value: str | None, rest: list[str], values: dict[str, Any], given: set[str]
    ) -> None:
        given.add(option.name)
        if not option.takes_value:
            if value is not None:
                msg = f"option '{option.shown}' takes no value"
                raise Usage(msg)
            if option.action == "step":
                values[option.name].append((option.flags[-1].lstrip("-"), None))
            else:
                values[option.name] = True
            return
        if value is None and option.nargs == "?" and (not rest or rest[-1].startswith("-")):
            value = option.const
        elif value is None:
            if not rest:
                msg = f"option '{option.shown}' needs a value"
                raise Usage(msg)
            value = rest.pop()
        if option.choices and value not in option.choices:
            msg = f"{option.shown} must be one of {', '.join(option.choices)}, not '{value}'"
            raise Usage(msg)
        if option.action == "append":
            values[option.name].append(value)
        elif option.action == "step_value":
            values[option.name].append((option.flags[-1].lstrip("-"), value))
        else:
            values[option.name] = value

    def _assign(self, names: list[str]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        at = 0
        for option in self._names:
            if option.nargs == "*":
                values[option.name] = names[at:]
                at = len(names)
            elif at < len(names):
                values[option.name] = names[at]
                at += 1
            elif option.nargs == "?":
                values[option.name] = None
            else:
                msg = f"{option.metavar} is missing"
                raise Usage(msg)
        if at < len(names):
            msg = f"Unexpected argument: {names[at]}"
            raise Usage(msg)
        return values
