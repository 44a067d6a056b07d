"""`pyhyve img`: qemu-img's verbs, options and output on pyhyve's own image formats."""

from __future__ import annotations

import io
import sys

from pyhyve.cli.option_parser import Usage, VerbParser
from pyhyve.support.errors import ExitStatus, InputError
from pyhyve.support.loading import load_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyhyve.cli.option_parser import Arguments

VERBS = {
    "amend": ("img_change", "change format options of an existing image"),
    "bench": ("img_copy", "time reads or writes"),
    "bitmap": ("img_bitmap", "make, remove, clear, merge, enable or disable bitmaps"),
    "check": ("img_info", "verify an image and repair it"),
    "commit": ("img_change", "write an overlay's data into its backing file"),
    "compare": ("img_copy", "compare the content of two images"),
    "convert": ("img_convert", "copy into another format"),
    "create": ("img_create", "make an image"),
    "dd": ("img_copy", "copy a range"),
    "info": ("img_info", "what an image is"),
    "map": ("img_info", "what is allocated where"),
    "measure": ("img_info", "how large an image will be"),
    "rebase": ("img_change", "put an image on another backing file"),
    "resize": ("img_change", "change the virtual size"),
    "serve": ("img_serve", "offer an image as a network block device (NBD)"),
    "snapshot": ("img_change", "list, take, apply or delete internal snapshots"),
}
"""Each verb is `configure_VERB(parser)` and `run_VERB(arguments)` in the module `pyhyve.cli.NAME`."""


def usage() -> str:
    """What `pyhyve img --help` prints."""
    width = max(map(len, VERBS))
    lines = [f"  {verb:<{width}}  {text}" for verb, (_, text) in VERBS.items()]
    return "\n".join(
        ["usage: pyhyve img VERB [OPTION…] [NAME…]", "", "Make, convert, check and change disk images.", "", *lines, "",
         "pyhyve img VERB --help says more."]
    )  # fmt: skip


def run_words(words: Sequence[str]) -> int:
    """Do what the verb says; the exit status is qemu-img's (2 for wrong usage)."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # names in images are bytes; qemu-img prints them as they are
    if not words or words[0] in {"-h", "--help"}:
        print(usage(), file=sys.stdout if words else sys.stderr)
        return ExitStatus.DONE if words else ExitStatus.USAGE
    if words[0] in {"-V", "--version"}:
        from pyhyve.cli.main import version

        print(f"pyhyve img {version()}")
        return ExitStatus.DONE
    verb = words[0]
    if verb not in VERBS:
        msg = f"no verb {verb!r} (there are {', '.join(VERBS)})"
        raise InputError(msg)
    name, summary = VERBS[verb]
    module = load_module(f"pyhyve.cli.{name}")
    parser = VerbParser(f"pyhyve img {verb}", summary)
    module_configure: Callable[[VerbParser], None] = getattr(module, f"configure_{verb}")
    module_configure(parser)
    runner: Callable[[Arguments], int] = getattr(module, f"run_{verb}")
    try:
        arguments = parser.parse_verb(words[1:])
        return ExitStatus.DONE if arguments is None else runner(arguments)
    except Usage as error:
        print(f"pyhyve img {verb}: {error} (see pyhyve img {verb} --help)", file=sys.stderr)
        return ExitStatus.USAGE
