"""What the verbs of `pyhyve img` share: options, opening, progress, sizes in words."""

from __future__ import annotations

import sys

from pyhyve.image.contract import ImageError
from pyhyve.image.filename import parse_image_options, parse_reference
from pyhyve.image.opening import OpenSettings, open_reference, parse_create_options
from pyhyve.support.records import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyhyve.cli.option_parser import Arguments, VerbParser
    from pyhyve.image.contract import Image

_MAX_OPTION_BYTES = 64 * 1024


def add_source(parser: VerbParser, *, share: bool = True) -> None:
    """Options about the image to open."""
    parser.add_argument("-f", dest="format", metavar="FMT", help="format of the image (default: found by looking)")
    parser.add_argument("--image-opts", action="store_true", help="names are lists like driver=qcow2,file.filename=F")
    parser.add_argument("--object", action="append", default=[], help=None)
    if share:
        parser.add_argument("-U", "--force-share", action="store_true", help="open even if another process writes it")


def add_quiet(parser: VerbParser) -> None:
    """`-q`."""
    parser.add_argument("-q", dest="quiet", action="store_true", help="say nothing except errors")


def add_progress(parser: VerbParser) -> None:
    """`-p`."""
    parser.add_argument("-p", dest="progress", action="store_true", help="show progress")


def add_output(parser: VerbParser) -> None:
    """`--output`."""
    parser.add_argument("--output", choices=("human", "json"), default="human", help="how to print")


def settings_from(arguments: Arguments, **changes: object) -> OpenSettings:
    """Settings from `add_source` options. Raises ImageError for options that contradict each other."""
    if arguments.image_opts and arguments.format is not None:
        msg = "--image-opts and --format are mutually exclusive"
        raise ImageError(msg)
    for definition in arguments.object:
        if not definition.startswith(("secret,", "qom-type=secret,")):
            msg = f"--object {definition}: only secrets can be given, and nothing here needs one"
            raise ImageError(msg)
        if not {"data", "file"} & {part.partition("=")[0] for part in definition.split(",")}:
            msg = f"--object {definition}: either 'file' or 'data' must be provided"
            raise ImageError(msg)
    if changes.get("writable") and getattr(arguments, "force_share", False):
        msg = "force-share=on can only be used with read-only images"
        raise ImageError(msg)
    settings = OpenSettings(
        format_name=getattr(arguments, "format", None), force_share=getattr(arguments, "force_share", False)
    )
    return replace(settings, **changes)  # type: ignore[arg-type]


def open_named(name: str, arguments: Arguments, settings: OpenSettings) -> Image:
    """Open an image given on the command line."""
    reference = parse_image_options(name) if arguments.image_opts else parse_reference(name)
    image = open_reference(reference, settings)
    if settings.writable and image.format_name == "raw" and image.probed:
        warn(
            f"Image format was not specified for '{name}' and probing guessed raw; write operations on block 0 will be "
            "restricted. Specify the 'raw' format explicitly to remove the restrictions."
        )
    return image


class naming:  # noqa: N801 - reads as a function
    """Errors inside tell which file they are about; `what` stands before their text unless it is there already."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, ImageError) and not str(error).startswith(self._what.partition(":")[0] + ":"):
            msg = f"{self._what}: {error}"
            raise type(error)(msg) from error


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


def option_help(
    format_name: str, title: str | None = None, names: Sequence[str] = (), *, names_file: bool = True
) -> str:
    """What `-o help` prints: all creation options, or those in `names`.

    Without the name of a file (`names_file`) the options of files are left out, as by qemu-img.
    """
    from pyhyve.image.contract import OptionType
    from pyhyve.image.registry import find_format

    kinds = {
        OptionType.STRING: "str",
        OptionType.SIZE: "size",
        OptionType.NUMBER: "num",
        OptionType.BOOLEAN: "bool (on/off)",
    }
    found = find_format(format_name)
    if found.create is None:
        msg = f"Format driver '{format_name}' does not support image creation"
        raise ImageError(msg)
    lines = [title or ("Supported options:" if names_file else f"Supported {format_name} options:")]
    for option in found.options:
        if (names and option.name not in names) or (not names and not names_file and option.of_file):
            continue
        name = f"{option.name}=<{kinds[option.type]}>"
        lines.append(f"  {name:<22} - {option.help}")
    if not names and not names_file:
        lines += ["", "The protocol level may support further options."]
        lines += ["Specify the target filename to include those options."]
    return "\n".join(lines)


def wants_help(lists: Sequence[str]) -> bool:
    """Whether `-o help` was given."""
    return any(part in {"help", "?"} for text in lists for part in text.split(","))


def human_size(size_bytes: int) -> str:
    """Three significant digits, as qemu-img writes sizes: `10 MiB`, `0.977 GiB`."""
    power = 0  # the size may have up to 999 of its unit
    while size_bytes * 1024 >= 1000 << (10 * power + 10):
        power += 1
    return f"{size_bytes / (1 << (10 * power)):.3g} {('', 'Ki', 'Mi', 'Gi', 'Ti', 'Pi', 'Ei')[power]}B"


class ProgressPrinter:
    """qemu-img's progress line."""

    def __init__(self, arguments: Arguments) -> None:
        """Shown with `-p`, unless `-q` is there too."""
        self._enabled = arguments.progress and not arguments.quiet
        self._shown = -1.0
        if self._enabled:
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
