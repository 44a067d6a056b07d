"""The command `pyhyve`: finds the sub-command, and turns every error into one line and an exit status.

Nothing is imported here that `pyhyve img info` does not need: the start of short commands is measured.
"""

from __future__ import annotations

import gc
import os
import sys

from pyhyve.support.errors import ExitStatus, UserError
from pyhyve.support.loading import load_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn

COMMANDS = {
    "run": "one machine in the foreground, its console on the terminal",
    "guest": "make small guests from Debian packages",
    "img": "make, convert, check and change disk images",
    "net": "bridges with NAT, DHCP, DNS and port forwards: make, list and remove them",
    "daemon": "the libvirt-compatible daemon: virsh, virt-manager and python-libvirt on pyhyve",
    "demo": "three machines on one bridge, with a table of pings and ssh logins",
    "virsh": "virsh's verbs on a pure-Python client, for any libvirt daemon",
    "doctor": "what this host offers, and how to get what is missing",
}
"""Each command is the module `pyhyve.cli.NAME`."""
QUICK = frozenset({"run"})
"""Commands whose start is measured, and whose options are plain enough for a parser of our own."""
_SIGINT = 2
_GC_THRESHOLD = 50_000


def usage() -> str:
    """What `pyhyve --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "usage: pyhyve COMMAND [OPTION…]",
            "",
            "Virtual machines in pure Python.",
            "",
            *lines,
            "",
            "pyhyve COMMAND --help says more; pyhyve --version prints the version.",
        ]
    )


def version() -> str:
    """The installed version."""
    from importlib import metadata

    try:
        return metadata.version("pyhyve")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def command() -> NoReturn:
    """What the installed `pyhyve` calls: `main`, with less work for the memory manager at both ends.

    Modules and classes live as long as the process: looking for garbage while they are made finds none (a tenth of a
    start), nor does it matter that they are taken apart again at the end (a third of `pyhyve img info`).
    """
    gc.set_threshold(_GC_THRESHOLD)
    status = main()
    sys.stderr.flush()
    if not has_loose_ends():
        os._exit(status)
    sys.exit(status)


def has_loose_ends() -> bool:
    """Whether something waits for the interpreter's orderly end: a function, or another thread."""
    atexit, threading = sys.modules.get("atexit"), sys.modules.get("threading")
    waits = atexit is not None and atexit._ncallbacks() > 0  # noqa: SLF001 - no other way
    return waits or (threading is not None and threading.active_count() > 1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    try:
        status = dispatch(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output went away; keep Python from complaining about it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitStatus.FAILED
    except OSError as error:  # a full disk, a closed descriptor: what was printed is not all there
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"pyhyve: standard output: {error.strerror}", file=sys.stderr)
        return ExitStatus.FAILED
    return status


def dispatch(words: list[str]) -> int:
    """Do what the command line `words` ask for."""
    if not words or words[0] in {"-h", "--help", "help"}:
        print(usage(), file=sys.stdout if words else sys.stderr)
        return ExitStatus.DONE if words else ExitStatus.USAGE
    if words[0] in {"-V", "--version", "version"}:
        print(f"pyhyve {version()}")
        return ExitStatus.DONE
    name = words[0]
    if name not in COMMANDS:
        print(f"pyhyve: no command {name!r} (there are {', '.join(COMMANDS)})", file=sys.stderr)
        return ExitStatus.USAGE
    return run_command(name, words[1:])


def run_command(name: str, words: Sequence[str]) -> int:
    """Run command `name` with the rest of the command line."""
    prog = f"pyhyve {name}"
    debug = False
    try:
        module = load_module(f"pyhyve.cli.{name}")
        if name == "img":  # has a parser for each verb
            debug = words[:1] == ["--debug"]
            return int(module.run_words(words[debug:]))
        parser = new_parser(name)
        parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
        module.configure(parser)
        parsed = parser.parse_args(words)
        if parsed is None:  # help was asked for
            return ExitStatus.DONE
        debug = parsed.debug
        return int(module.run(parsed))
    except KeyboardInterrupt:
        return 128 + _SIGINT
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 - the one place where everything ends up
        if debug:
            import traceback

            traceback.print_exc()
        status, message = explain(error)
        print(f"{prog}: {message}", file=sys.stderr)
        return status


def new_parser(name: str) -> Any:  # noqa: ANN401 - two classes, of which one is to be loaded
    """The parser of command `name`: argparse's, or one that is there at once."""
    if name in QUICK:
        from pyhyve.cli.option_parser import VerbParser

        return VerbParser(f"pyhyve {name}", COMMANDS[name], abbreviated=False)
    from pyhyve.cli.parser import Parser

    return Parser(prog=f"pyhyve {name}", description=COMMANDS[name], allow_abbrev=False)


def explain(error: Exception) -> tuple[int, str]:
    """Exit status and one line for `error`."""
    if isinstance(error, UserError):
        return error.status, one_line(str(error))
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename is not None else ""
        return ExitStatus.FAILED, f"{where}{error.strerror}"
    return ExitStatus.FAILED, f"internal error: {type(error).__name__}: {one_line(str(error))} (--debug shows where)"


def one_line(text: str) -> str:
    """`text` without line breaks."""
    return " ".join(text.split())
