"""`pyhyve img bitmap`: persistent bitmaps of qcow2 images."""

from __future__ import annotations

from contextlib import ExitStack

from pyhyve.cli.img_options import add_source, fail, open_named, settings_from
from pyhyve.cli.option_parser import Usage
from pyhyve.image.contract import ImageError
from pyhyve.image.opening import OpenSettings, open_image, parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyhyve.cli.option_parser import Arguments, VerbParser
    from pyhyve.image.contract import Image
    from pyhyve.image.qcow2.bitmap_changes import BitmapChanges
    from pyhyve.image.qcow2.metadata import Metadata


def configure_bitmap(parser: VerbParser) -> None:
    """Options of `bitmap`; the actions are done in the order they are given."""
    add_source(parser, share=False)
    for name, said in (
        ("add", "make the bitmap"),
        ("remove", "remove it"),
        ("clear", "set nothing in it"),
        ("enable", "let it record writes"),
        ("disable", "let it record nothing"),
    ):
        parser.add_argument(f"--{name}", dest="actions", action="step", help=said)
    parser.add_argument("--merge", dest="actions", action="step_value", metavar="SOURCE", help="add what SOURCE has")
    parser.add_argument("-g", "--granularity", metavar="SIZE", help="bytes a bit stands for (with --add)")
    parser.add_argument("-b", "--source-file", dest="source", metavar="FILE", help="image that has SOURCE")
    parser.add_argument("-F", "--source-format", dest="source_format", metavar="FMT", help="its format")
    parser.add_argument("filename")
    parser.add_argument("bitmap")


def run_bitmap(arguments: Arguments) -> int:
    """Do the actions, all or none of them."""
    _check_usage(arguments)
    granularity = None if arguments.granularity is None else parse_size(arguments.granularity, "granularity") or None
    with ExitStack() as opened:
        image = opened.enter_context(open_named(arguments.filename, arguments, settings_from(arguments, writable=True)))
        other = None
        if arguments.source is not None:
            settings = OpenSettings(arguments.source_format, with_backing=False)
            other = opened.enter_context(open_image(arguments.source, settings))
        action = arguments.actions[0][0]
        try:
            changes, meta = _changes(image)
            with meta.lock:
                for action, value in arguments.actions:
                    _act(changes, action, arguments.bitmap, value, granularity, other)
                changes.commit()
        except ImageError as error:
            return fail(f"Operation {action} on bitmap {arguments.bitmap} failed: {error}")
    return 0


def _check_usage(arguments: Arguments) -> None:
    actions = {action for action, _ in arguments.actions}
    message = None
    if not actions:
        message = "Need at least one of --add, --remove, --clear, --enable, --disable, or --merge"
    elif arguments.granularity is not None and "add" not in actions:
        message = "granularity only supported with --add"
    elif arguments.source is not None and "merge" not in actions:
        message = "Merge bitmap source file only supported with --merge"
    elif arguments.source_format is not None and arguments.source is None:
        message = "-F only supported with -b"
    if message is not None:
        raise Usage(message)


def _changes(image: Image) -> tuple[BitmapChanges, Metadata]:
    from pyhyve.image.qcow2.bitmap_changes import BitmapChanges

    meta = _metadata(image)
    return BitmapChanges(meta), meta


def _metadata(image: Image) -> Metadata:
    from pyhyve.image.qcow2.reading import Qcow2Reader

    if not isinstance(image, Qcow2Reader):
        msg = f"Format '{image.format_name}' has no persistent bitmaps"
        raise ImageError(msg)
    return image.meta


def _act(
    changes: BitmapChanges, action: str, name: str, value: str | None, granularity: int | None, other: Image | None
) -> None:
    if action == "add":
        changes.add(name, granularity)
    elif action == "remove":
        changes.remove(name)
    elif action == "clear":
        changes.clear(name)
    elif action == "merge":
        changes.merge(name, str(value), None if other is None else _metadata(other))
    else:
        changes.enable(name, enabled=action == "enable")
