"""`pyhyve img`: qemu-img's verbs, options and output on pyhyve's own image formats."""

from __future__ import annotations

import argparse
import importlib
import io
import sys
from typing import TYPE_CHECKING

from pyhyve.cli.img_options import Usage, VerbParser
from pyhyve.support.errors import ExitStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

VERBS = {
    "amend": ("img_change", "change format options of an existing image"),
    "bench": ("img_copy", "time reads or writes"),
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


def configure(parser: argparse.ArgumentParser) -> None:
    """Take the words of the verb as they are: each verb has its own parser, built only when it is used."""
    width = max(map(len, VERBS))
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "verbs:\n" + "\n".join(f"  {verb:<{width}}  {text}" for verb, (_, text) in VERBS.items())
    parser.add_argument("verb", metavar="VERB", choices=VERBS, help="one of the verbs below; VERB --help says more")
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="…", help="options and names of the verb")


def run(arguments: argparse.Namespace) -> int:
    """Do what the verb says; the exit status is qemu-img's (2 for wrong usage)."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # names in images are bytes; qemu-img prints them as they are
    verb: str = arguments.verb
    words: Sequence[str] = arguments.words
    name, summary = VERBS[verb]
    module = importlib.import_module(f"pyhyve.cli.{name}")
    parser = VerbParser(prog=f"pyhyve img {verb}", description=summary, allow_abbrev=False)
    module_configure: Callable[[argparse.ArgumentParser], None] = getattr(module, f"configure_{verb}")
    module_configure(parser)
    runner: Callable[[argparse.Namespace], int] = getattr(module, f"run_{verb}")
    try:
        return runner(parser.parse_verb(words))
    except Usage as error:
        print(f"pyhyve img {verb}: {error} (see pyhyve img {verb} --help)", file=sys.stderr)
        return ExitStatus.USAGE
