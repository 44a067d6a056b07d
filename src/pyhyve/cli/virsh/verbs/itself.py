"""The shell's own verbs."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from pyhyve.cli.virsh.registry import GROUPS, VERBS, Verb, verb
from pyhyve.cli.virsh.shell import VerbFailed
from pyhyve.cli.virsh.syntax import Kind, Option

if TYPE_CHECKING:
    from pyhyve.cli.virsh.shell import Shell
    from pyhyve.cli.virsh.syntax import Values


@verb("cd", "virsh", "[--dir <string>]", "change the working directory", offline=True)
def cd(shell: Shell, values: Values) -> None:
    """Change the directory."""
    if not shell.interactive:
        msg = "cd: command valid only in interactive mode"
        raise VerbFailed(msg)
    place = values.get("dir") or str(Path.home())
    try:
        os.chdir(place)
    except OSError as error:
        msg = f"cd: {place}: {error.strerror}"
        raise VerbFailed(msg) from error


@verb("pwd", "virsh", "", "the working directory", offline=True)
def pwd(shell: Shell, values: Values) -> None:
    """Show the directory."""
    shell.print(str(Path.cwd()))


@verb("echo", "virsh", "[--shell] [--xml] [--split] [--err] [<string>]...", "the words given", offline=True)
def echo(shell: Shell, values: Values) -> None:
    """Show words."""
    words = values.words("string")
    if values.flag("xml"):
        words = [escape(word, {"'": "&apos;", '"': "&quot;"}) for word in words]
    if values.flag("shell"):
        words = [shlex.quote(word) for word in words]
    text = ("\n " if values.flag("split") else " ").join(words) + ("\n" if values.flag("split") else "")
    if values.flag("err"):
        shell.error(text)
    else:
        shell.write(text)


@verb("quit", "virsh", "", "leave", offline=True)
def quit_(shell: Shell, values: Values) -> None:
    """Leave."""
    shell.ended = True


@verb("exit", "virsh", "", "leave", offline=True)
def exit_(shell: Shell, values: Values) -> None:
    """Leave."""
    shell.ended = True


@verb("connect", "virsh", "[--name <string>] [--readonly]", "connect to another daemon", offline=True)
def connect(shell: Shell, values: Values) -> None:
    """Connect elsewhere."""
    shell.reconnect(values.get("name"), read_only=values.flag("readonly"))


@verb("help", "virsh", "[--command <string>]", "what verbs there are, or one explained", offline=True)
def help_(shell: Shell, values: Values) -> None:
    """Explain."""
    name = values.get("command")
    if name is None:
        shell.print("Grouped commands:\n")
        for keyword in GROUPS:
            shell.print(group_text(keyword))
    elif name in VERBS:
        shell.print(verb_text(VERBS[name]))
    elif (found := next((g for g in GROUPS.values() if name in {g.keyword, g.title}), None)) is not None:
        shell.print(group_text(found.keyword))
    else:
        msg = f"command or command group '{name}' doesn't exist"
        raise VerbFailed(msg)


def group_text(keyword: str) -> str:
    """A chapter of the help."""
    lines = [f" {GROUPS[keyword].title} (help keyword '{keyword}'):"]
    lines += [f"    {v.name:<30} {v.summary}" for v in VERBS.values() if v.group == keyword]
    return "\n".join(lines) + "\n"


def verb_text(entry: Verb) -> str:
    """One verb explained."""
    lines = [
        "  NAME",
        f"    {entry.name} - {entry.summary}",
        "",
        "  SYNOPSIS",
        f"    {entry.name} {entry.usage}".rstrip(),
    ]
    options = entry.options
    if options:
        lines += ["", "  OPTIONS", *(f"    {_option_text(option)}" for option in options)]
    return "\n".join(lines) + "\n"


def _option_text(option: Option) -> str:
    if option.kind is Kind.SWITCH:
        return f"--{option.name}"
    named = f"--{option.name}" if not option.required and option.kind is not Kind.REST else f"[--{option.name}]"
    return f"{named} <{option.type_word}>"
