"""How QEMU's options are written: `-name value`, in any order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyhyve.support.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Option:
    """One option of the command: whether a value follows it, and what `-help` says."""

    value: str
    """Placeholder of its value; empty for a switch."""
    summary: str


_FIRST = {"M", "machine"}


def split_command_line(words: Sequence[str], options: Mapping[str, Option]) -> list[tuple[str, str]]:
    """Options and their values, in order, but the machine first: what drives mean depends on it.

    Raises InputError on what is unknown, or lacks its value.
    """
    found: list[tuple[str, str]] = []
    rest = iter(words)
    for word in rest:
        if not word.startswith("-") or word == "-":
            found.append(("hda", word))
            continue
        name = word[2:] if word.startswith("--") else word[1:]
        option = options.get(name)
        if option is None:
            msg = f"{word}: invalid option, or one that is not supported (-help lists those that are)"
            raise InputError(msg)
        value = next(rest, None) if option.value else ""
        if value is None:
            msg = f"{word}: requires an argument"
            raise InputError(msg)
        if name in {"readconfig", "set"}:
            from pyhyve.cli.system_config_files import change_option, read_config

            found = change_option(found, value) if name == "set" else [*found, *read_config(value)]
            continue
        found.append((name, value))
    return sorted(found, key=lambda option: option[0] not in _FIRST)
