"""`pyhyve virsh`: virsh's verbs, options, output and exit status, on the pure-Python client.

:mod:`~pyhyve.cli.virsh.syntax` reads command lines, :mod:`~pyhyve.cli.virsh.registry` is the table of verbs,
:mod:`~pyhyve.cli.virsh.shell` what they work with, and :mod:`~pyhyve.cli.virsh.verbs` has them, by subject.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyhyve.cli.virsh.registry import Verb
    from pyhyve.cli.virsh.shell import Shell
    from pyhyve.cli.virsh.syntax import Values

__all__ = ["configure", "run"]

_INTERACTIVE_NAME = "virsh"


def configure(parser: argparse.ArgumentParser) -> None:
    """Take the words as they are: verbs have options of their own."""
    parser.prefix_chars = "\0"  # no word is an option of this parser
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="[OPTION…] [COMMAND [ARG…]]")


def run(arguments: argparse.Namespace) -> int:
    """Run one command, several, or an interactive session; virsh's exit status."""
    return main(arguments.words)


def main(words: Sequence[str]) -> int:
    """Do what a command line says."""
    from pyhyve.cli.virsh.options import Problem, parse_options
    from pyhyve.cli.virsh.shell import Shell

    try:
        options = parse_options(list(words))
    except Problem as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    if options.answer is not None:
        print(options.answer)
        return 0
    import pyhyve.cli.virsh.verbs  # noqa: F401 - fills the table

    shell = Shell(options.uri, read_only=options.read_only, quiet=options.quiet)
    shell.escape = options.escape
    try:
        if not options.words:
            return _interactive(shell)
        if len(options.words) == 1:
            return 0 if run_line(shell, options.words[0], timing=options.timing) else 1
        return 0 if run_words(shell, options.words, timing=options.timing) else 1
    finally:
        shell.close()


def run_line(shell: Shell, line: str, *, timing: bool = False) -> bool:
    """Run the commands of a line, all of them; whether the last went well."""
    from pyhyve.cli.virsh.syntax import SyntaxProblem, split_line

    try:
        commands = split_line(line)
    except SyntaxProblem as problem:
        shell.error(str(problem))
        return False
    return _run_all(shell, commands, timing=timing)


def run_words(shell: Shell, words: Sequence[str], *, timing: bool = False) -> bool:
    """Run one command; whether it went well."""
    return _run_all(shell, [words], timing=timing)


def _run_all(shell: Shell, commands: Sequence[Sequence[str]], *, timing: bool) -> bool:
    """Run commands, unless one of them cannot be read; whether the last went well."""
    from pyhyve.cli.virsh.syntax import SyntaxProblem

    try:
        read = [_read(words) for words in commands]
    except SyntaxProblem as problem:
        for text in problem.args:
            shell.error(str(text))
        return False
    good = True
    for entry, values in read:
        good = _run(shell, entry, values, timing=timing)
        if shell.ended:
            break
    return good


def _read(words: Sequence[str]) -> tuple[Verb, Values]:
    from pyhyve.cli.virsh.registry import VERBS
    from pyhyve.cli.virsh.syntax import SyntaxProblem, Values, parse_words

    entry = VERBS.get(words[0])
    if entry is None:
        msg = f"unknown command: '{words[0]}'"
        raise SyntaxProblem(msg)
    if "--help" in words[1:]:
        return VERBS["help"], Values("help", {"command": entry.name})
    return entry, parse_words(entry.name, entry.options, words[1:])


def _run(shell: Shell, entry: Verb, values: Values, *, timing: bool) -> bool:
    import time

    from pyhyve.cli.virsh.shell import VerbFailed
    from pyhyve.cli.virsh.syntax import SyntaxProblem
    from pyhyve.client import LibvirtError

    started = time.monotonic()
    good = False
    try:
        if not entry.offline:
            shell.connection  # noqa: B018 - a daemon out of reach is said before anything else
        entry.run(shell, values)
        good = True
    except (VerbFailed, SyntaxProblem) as failure:
        for text in failure.args:
            shell.error(str(text))
    except LibvirtError as failure:
        shell.error(str(failure))
    if timing:
        shell.print(f"\n(Time: {(time.monotonic() - started) * 1000:.3f} ms)\n")
    elif not shell.ended:
        shell.say()
    return good


def _interactive(shell: Shell) -> int:
    """Read commands until `quit` or the end of input."""
    import contextlib

    from pyhyve.cli.virsh.registry import VERBS
    from pyhyve.cli.virsh.shell import VerbFailed

    shell.interactive = True
    with contextlib.suppress(ImportError):
        import readline

        def complete(text: str, state: int) -> str | None:
            found = [name for name in VERBS if name.startswith(text)]
            return found[state] if state < len(found) else None

        readline.set_completer(complete)
        readline.set_completer_delims(" ")
        readline.parse_and_bind("tab: complete")
    if not shell.quiet:
        shell.print(f"Welcome to {_INTERACTIVE_NAME}, the virtualization interactive terminal.\n")
        shell.print("Type:  'help' for help with commands\n       'quit' to quit\n")
    try:
        shell.connection  # noqa: B018 - said at once when there is none
    except VerbFailed as failure:
        for text in failure.args:
            shell.error(str(text))
    good = True
    while not shell.ended:
        try:
            line = input(f"{_INTERACTIVE_NAME} {'>' if shell.read_only else '#'} ")
        except EOFError:
            shell.print()
            break
        except KeyboardInterrupt:
            shell.print()
            continue
        if line.strip():
            try:
                good = run_line(shell, line)
            except KeyboardInterrupt:
                shell.print()
    return 0 if good or shell.ended else 1
