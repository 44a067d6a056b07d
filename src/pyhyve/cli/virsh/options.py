"""virsh's own options, those before the command."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

__all__ = ["Options", "Problem", "parse_options"]

_VALUED: Final = {
    "c": "connect",
    "d": "debug",
    "e": "escape",
    "k": "keepalive-interval",
    "K": "keepalive-count",
    "l": "log",
}
_SWITCHES: Final = {"h": "help", "q": "quiet", "r": "readonly", "t": "timing", "v": "version", "V": "version-long"}
_NUMBERS: Final = {"debug", "keepalive-interval", "keepalive-count"}
_HELP: Final = """\
pyhyve virsh [options]... [<command_string>]
pyhyve virsh [options]... <command> [args...]

  options:
    -c | --connect=URI      the daemon to talk to
    -d | --debug=NUM        level of detail (0-4)
    -e | --escape <char>    what ends a console session
    -h | --help             this text
    -k | --keepalive-interval=NUM
    -K | --keepalive-count=NUM
    -l | --log=FILE         accepted, and ignored
    -q | --quiet            no headings and no messages
    -r | --readonly         ask for a read-only connection
    -t | --timing           print how long each command took
    -v                      the version
    -V | --version=long     the version, at length

  commands: see "help"\
"""


class Problem(Exception):  # noqa: N818 - a wrong option is no failure of ours
    """An option that cannot be understood; one line for the user."""


@dataclass(slots=True)
class Options:
    """What was asked for."""

    uri: str | None = None
    read_only: bool = False
    quiet: bool = False
    timing: bool = False
    escape: str = "^]"
    words: list[str] = field(default_factory=list)
    answer: str | None = None
    """What to print instead of running a command."""


def parse_options(words: list[str]) -> Options:
    """Read options up to the first word that is none. Raises Problem."""
    options = Options()
    while words:
        word = words[0]
        if word == "--":
            words.pop(0)
            break
        if not word.startswith("-") or word == "-":
            break
        words.pop(0)
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            _long(options, words, name, value if equals else None)
        else:
            _short(options, words, word[1:])
    options.words = words
    return options


def _short(options: Options, words: list[str], letters: str) -> None:
    while letters:
        letter, letters = letters[0], letters[1:]
        if letter in _SWITCHES:
            _apply(options, _SWITCHES[letter], "")
        elif letter in _VALUED:
            value = letters or (words.pop(0) if words else None)
            if value is None:
                msg = f"option '-{letter}'/'--{_VALUED[letter]}' requires an argument"
                raise Problem(msg)
            _apply(options, _VALUED[letter], value)
            return
        else:
            msg = f"unsupported option '-{letter}'. See --help."
            raise Problem(msg)


def _long(options: Options, words: list[str], name: str, value: str | None) -> None:
    if name == "version":
        _apply(options, "version-long" if value == "long" else "version", "")
    elif name in _SWITCHES.values():
        _apply(options, name, "")
    elif name in _VALUED.values():
        if value is None:
            if not words:
                letter = next(short for short, full in _VALUED.items() if full == name)
                msg = f"option '-{letter}'/'--{name}' requires an argument"
                raise Problem(msg)
            value = words.pop(0)
        _apply(options, name, value)
    else:
        msg = f"unsupported option '--{name}'. See --help."
        raise Problem(msg)


def _apply(options: Options, name: str, value: str) -> None:
    if name in _NUMBERS and not value.isdigit():
        msg = f"option --{name} takes a numeric argument"
        raise Problem(msg)
    if name == "connect":
        options.uri = value
    elif name == "escape":
        if not (len(value) == 1 or (len(value) == 2 and value[0] == "^")):
            msg = f"Invalid string '{value}' for escape sequence"
            raise Problem(msg)
        options.escape = value
    elif name == "readonly":
        options.read_only = True
    elif name in {"quiet", "timing"}:
        setattr(options, name, True)
    elif name == "help":
        options.answer = _HELP
    elif name == "version":
        options.answer = _version()
    elif name == "version-long":
        options.answer = f"pyhyve virsh {_version()}: libvirt's client in pure Python"


def _version() -> str:
    from pyhyve.cli.main import version

    return version()
