"""What the verbs of `pyhyve img` share: options, opening, progress, sizes in words."""

from __future__ import annotations

import argparse
import math
import re
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

from pyhyve.image.contract import ImageError
from pyhyve.image.filename import parse_image_options, parse_reference
from pyhyve.image.opening import OpenSettings, open_reference, parse_create_options
from pyhyve.image.raw import RawImage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyhyve.image.contract import Image

_NEGATIVE = re.compile(r"-\d")
_MAX_OPTION_BYTES = 64 * 1024


class Usage(Exception):  # noqa: N818 - it is one, not an error of the program
    """The command line makes no sense; the text says why."""


class VerbParser(argparse.ArgumentParser):
    """A verb's parser: raises `Usage`, and takes `-1G` for a size rather than an option."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of exiting."""
        raise Usage(message)

    def parse_verb(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse options and names in any order."""
        escaped = [f" {word}" if _NEGATIVE.match(word) else word for word in words]
        return self.parse_intermixed_args(escaped)


def add_source(parser: argparse.ArgumentParser, *, share: bool = True) -> None:
    """Options about the image to open."""
    parser.add_argument("-f", dest="format", metavar="FMT", help="format of the image (default: found by looking)")
    parser.add_argument("--image-opts", action="store_true", help="names are lists like driver=qcow2,file.filename=F")
    parser.add_argument("--object", action="append", default=[], help=argparse.SUPPRESS)
    if share:
        parser.add_argument("-U", "--force-share", action="store_true", help="open even if another process writes it")


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """`-q`."""
    parser.add_argument("-q", dest="quiet", action="store_true", help="say nothing except errors")


def add_progress(parser: argparse.ArgumentParser) -> None:
    """`-p`."""
    parser.add_argument("-p", dest="progress", action="store_true", help="show progress")


def add_output(parser: argparse.ArgumentParser) -> None:
    """`--output`."""
    parser.add_argument("--output", choices=("human", "json"), default="human", help="how to print")


def settings_from(arguments: argparse.Namespace, **changes: object) -> OpenSettings:
    """Settings from `add_source` options."""
    settings = OpenSettings(
        format_name=getattr(arguments, "format", None), force_share=getattr(arguments, "force_share", False)
    )
    return replace(settings, **changes)  # type: ignore[arg-type]


def open_named(name: str, arguments: argparse.Namespace, settings: OpenSettings) -> Image:
    """Open an image given on the command line."""
    reference = parse_image_options(name) if arguments.image_opts else parse_reference(name)
    image = open_reference(reference, settings)
    if settings.writable and isinstance(image, RawImage) and image.probed:
        warn(
            f"Image format was not specified for '{name}' and probing guessed raw; write operations on block 0 will be "
            "restricted. Specify the 'raw' format explicitly to remove the restrictions."
        )
    return image


def warn(message: str) -> None:
    """One line on standard error."""
    print(f"WARNING: {message}", file=sys.stderr)


def fail(message: str, status: int = 1) -> int:
    """One line on standard error; returns the exit status."""
    print(f"pyhyve img: {message}", file=sys.stderr)
    return status


def split_options(lists: Sequence[str]) -> dict[str, str]:
    """`-o a=b,c=d` (repeatable); `,,` stands for a comma, a bare name for `name=on`."""
    pairs: dict[str, str] = {}
    for text in lists:
        if len(text) > _MAX_OPTION_BYTES:
            msg = "the option list is too long"
            raise ImageError(msg)
        for part in text.replace(",,", "\0").split(","):
            name, separator, value = part.replace("\0", ",").partition("=")
            if name:
                pairs[name] = value if separator else "on"
    return pairs


def create_options(format_name: str, lists: Sequence[str]) -> dict[str, str | int | bool]:
    """Checked creation options of a format."""
    return parse_create_options(format_name, split_options(lists))


def option_help(format_name: str) -> str:
    """What `-o help` prints."""
    from pyhyve.image.contract import OptionType
    from pyhyve.image.registry import find_format

    kinds = {
        OptionType.STRING: "str",
        OptionType.SIZE: "size",
        OptionType.NUMBER: "num",
        OptionType.BOOLEAN: "bool (on/off)",
    }
    lines = ["Supported options:"]
    for option in find_format(format_name).options:
        name = f"{option.name}=<{kinds[option.type]}>"
        lines.append(f"  {name:<22} - {option.help}")
    return "\n".join(lines)


def wants_help(lists: Sequence[str]) -> bool:
    """Whether `-o help` was given."""
    return any(part in {"help", "?"} for text in lists for part in text.split(","))


def human_size(size_bytes: int) -> str:
    """Three significant digits, as qemu-img writes sizes: `10 MiB`, `0.977 GiB`."""
    _, exponent = math.frexp(size_bytes / (1000 / 1024))
    power = max(0, (exponent - 1) // 10)
    return f"{size_bytes / (1 << (10 * power)):.3g} {('', 'Ki', 'Mi', 'Gi', 'Ti', 'Pi', 'Ei')[power]}B"


class ProgressPrinter:
    """qemu-img's progress line."""

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._shown = -1.0
        if enabled:
            self._print(0.0)

    def _print(self, percent: float) -> None:
        self._shown = percent
        print(f"    ({percent:3.2f}/100%)", end="\r", flush=True)

    def __call__(self, done: int, total: int) -> None:
        """Show `done` of `total` when it moved by a percent."""
        if self._enabled:
            percent = 100.0 * done / total if total else 100.0
            if percent >= self._shown + 1 or percent >= 100 > self._shown:
                self._print(percent)

    def finish(self) -> None:
        """The last line."""
        if self._enabled:
            self._print(100.0)
            print()


def callback(printer: ProgressPrinter) -> Callable[[int, int], None]:
    """The printer as a plain function."""
    return printer.__call__
