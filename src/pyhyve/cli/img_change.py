"""`pyhyve img amend|commit|rebase|resize|snapshot`: changes to existing images."""

from __future__ import annotations

import time
from contextlib import suppress

from pyhyve.cli.img_options import (
    ProgressPrinter,
    add_progress,
    add_quiet,
    add_source,
    create_options,
    fail,
    open_named,
    option_help,
    settings_from,
    wants_help,
    warn,
)
from pyhyve.cli.option_parser import Usage
from pyhyve.image.contract import BackingReference, ImageError, ImageUnsupportedError
from pyhyve.image.filename import resolve_relative
from pyhyve.image.opening import CACHE_MODES, OpenSettings, open_image, parse_size
from pyhyve.image.registry import find_format
from pyhyve.support.records import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyhyve.cli.option_parser import Arguments, VerbParser
    from pyhyve.image.contract import Image
    from pyhyve.image.qcow2.image import Qcow2Image


def _add_cache(parser: VerbParser) -> None:
    parser.add_argument("-t", dest="cache", default="writeback", metavar="CACHE", help="cache mode for writing")


def require_qcow2(image: Image, what: str) -> Qcow2Image:
    """The image as qcow2; ImageUnsupportedError says that its format cannot do `what`."""
    from pyhyve.image.qcow2.image import Qcow2Image

    if not isinstance(image, Qcow2Image):
        msg = f"{what}: format '{image.format_name}' does not support it (Operation not supported)"
        raise ImageUnsupportedError(msg)
    return image


# --- amend ---


def configure_amend(parser: VerbParser) -> None:
    """Options of `amend`."""
    add_source(parser, share=False)
    add_progress(parser)
    add_quiet(parser)
    _add_cache(parser)
    parser.add_argument("--force", action="store_true", help="accepted for compatibility")
    parser.add_argument("-o", dest="options", action="append", default=[], metavar="LIST", help="options, or `help`")
    parser.add_argument("filename", nargs="?")


def run_amend(arguments: Arguments) -> int:
    """Change creation options."""
    if wants_help(arguments.options):
        if (arguments.format or "qcow2") != "qcow2":
            return fail(f"Format driver '{arguments.format}' does not support option amendment")
        from pyhyve.image.qcow2.maintenance import AMENDABLE

        print(option_help("qcow2", "Amend options for 'qcow2':", AMENDABLE))
        return 0
    if not arguments.options or arguments.filename is None:
        msg = "Must specify options (-o) and one image file name"
        raise Usage(msg)
    from pyhyve.image.qcow2.maintenance import amend

    printer = ProgressPrinter(arguments)
    settings = settings_from(arguments, writable=True, cache=arguments.cache)
    with open_named(arguments.filename, arguments, settings) as image:
        target = require_qcow2(image, "Format driver cannot amend options")
        amend(target, create_options(image.format_name, arguments.options), printer)
    printer.finish()
    return 0


# --- commit ---


def configure_commit(parser: VerbParser) -> None:
    """Options of `commit`."""
    add_source(parser, share=False)
    add_progress(parser)
    add_quiet(parser)
    _add_cache(parser)
    parser.add_argument("-b", dest="base", metavar="FILE", help="commit down to this image of the chain (implies -d)")
    parser.add_argument("-d", dest="drop", action="store_true", help="leave the overlay as it is")
    parser.add_argument("-r", dest="rate_limit", default="0", metavar="RATE", help="bytes per second at most")
    parser.add_argument("filename")


def run_commit(arguments: Arguments) -> int:
    """Write the overlay's data into a backing image."""
    from pyhyve.image.operations.chain import commit

    printer = ProgressPrinter(arguments)
    rate_limit = parse_size(arguments.rate_limit, "rate limit")
    settings = settings_from(arguments, writable=True, cache=arguments.cache)
    with open_named(arguments.filename, arguments, settings) as top:
        depth, below = 1, top.backing
        if below is None:
            return fail("Image does not have a backing file")
        if arguments.base is not None:
            wanted = resolve_relative(arguments.base, top.storage.filename)
            while below is not None and below.storage.filename not in {wanted, arguments.base}:
                below, depth = below.backing, depth + 1
            if below is None:
                return fail(f"Did not find '{arguments.base}' in the backing chain of '{arguments.filename}'")
        name, format_name = below.storage.filename, below.format_name
        # Our own reader of the same file holds a lock that forbids writers: this second opening takes none.
        base = open_image(
            name, OpenSettings(format_name, writable=True, cache=arguments.cache, lock=False, force_share=True)
        )
        with base:
            commit(top, base, depth, printer, rate_limit)
        if not arguments.drop and arguments.base is None:
            with suppress(ImageUnsupportedError):  # as qemu-img: formats that cannot be emptied stay as they are
                top.make_empty()
    printer.finish()
    if not arguments.quiet:
        print("Image committed.")
    return 0


# --- rebase ---


def configure_rebase(parser: VerbParser) -> None:
    """Options of `rebase`."""
    add_source(parser)
    add_progress(parser)
    add_quiet(parser)
    _add_cache(parser)
    parser.add_argument("-T", dest="source_cache", default="writeback", metavar="CACHE", help="cache mode for reading")
    parser.add_argument("-b", dest="backing", metavar="FILE", help="new backing file ('' for none)")
    parser.add_argument("-F", dest="backing_format", metavar="FMT", help="its format")
    parser.add_argument("-u", dest="unsafe", action="store_true", help="only change the name: contents match")
    parser.add_argument("filename")


def run_rebase(arguments: Arguments) -> int:
    """Put an image on another backing file."""
    from pyhyve.image.operations.chain import change_backing, copy_differences

    if arguments.backing is None and not arguments.unsafe:
        msg = "Must specify backing file (-b) or use simple rebase mode (-u)"
        raise Usage(msg)
    if arguments.source_cache not in CACHE_MODES:
        msg = f"Invalid source cache option: {arguments.source_cache}"
        raise ImageError(msg)
    if arguments.backing_format is not None:
        find_format(arguments.backing_format)  # which refuses a name that no format has
    printer = ProgressPrinter(arguments)
    settings = settings_from(arguments, cache=arguments.cache, with_backing=not arguments.unsafe)
    settings = replace(settings, writable=True, force_share=False)  # -U is about the backing files
    with open_named(arguments.filename, arguments, settings) as image:
        require_qcow2(image, "Could not change the backing file")
        below = None
        if arguments.backing:
            below = BackingReference(arguments.backing, arguments.backing_format)
            if arguments.backing_format is None:
                msg = f"Could not change the backing file to '{arguments.backing}': backing format must be specified"
                raise ImageError(msg)
        if not arguments.unsafe:
            if below is None:
                copy_differences(image, None, printer)
            else:
                where, share = resolve_relative(below.filename, image.storage.filename), arguments.force_share
                cache = arguments.source_cache
                with open_image(where, OpenSettings(below.format_name, cache=cache, force_share=share)) as new:
                    copy_differences(image, new, printer)
            image.flush()
        change_backing(image, below)
    printer.finish()
    return 0


# --- resize ---


def configure_resize(parser: VerbParser) -> None:
    """Options of `resize`."""
    add_source(parser, share=False)
    add_quiet(parser)
    parser.add_argument(
        "--preallocation", default="off", metavar="MODE", choices=("off", "metadata", "falloc", "full"),
        help="how to back the new space",
    )  # fmt: skip
    parser.add_argument("--shrink", action="store_true", help="allow a smaller size")
    parser.add_argument("filename")
    parser.add_argument("size", metavar="[+|-]SIZE")


def run_resize(arguments: Arguments) -> int:
    """Change the virtual size."""
    text = arguments.size.strip()
    relative = text[0] if text[:1] in {"+", "-"} else ""
    amount = parse_size(text.removeprefix(relative), "image size")
    with open_named(arguments.filename, arguments, settings_from(arguments, writable=True)) as image:
        old = image.size_bytes
        size = {"+": old + amount, "-": old - amount, "": amount}[relative]
        if size <= 0:
            return fail("New image size must be positive")
        if size < old and not arguments.shrink:
            warn(
                "Shrinking an image will delete all data beyond the shrunken image's end. Before performing such an "
                "operation, make sure there is no important data there."
            )
            return fail("Use the --shrink option to perform a shrink operation.")
        if size < old and arguments.preallocation != "off":
            return fail("Preallocation can only be used for growing images")
        if image.format_name == "raw":
            size = -(-size // 512) * 512
            if arguments.preallocation == "metadata":
                msg = "Unsupported preallocation mode 'metadata'"
                raise ImageError(msg)
        image.resize(size)
        if arguments.preallocation != "off":
            _preallocate(image, old, size, arguments.preallocation)
    if not arguments.quiet:
        print("Image resized.")
    return 0


def _preallocate(image: Image, start: int, end: int, mode: str) -> None:
    from pyhyve.image.qcow2.create import preallocate_clusters
    from pyhyve.image.storage import preallocate

    if image.format_name == "qcow2":
        target = require_qcow2(image, "Could not preallocate")
        with target.meta.lock:
            preallocate_clusters(target, start, mode)
    else:
        preallocate(image.storage, start, end - start, mode)


# --- snapshot ---


def configure_snapshot(parser: VerbParser) -> None:
    """Options of `snapshot`."""
    add_source(parser)
    add_quiet(parser)
    parser.add_argument("-l", dest="list", action="store_true", help="list them (default)")
    parser.add_argument("-a", dest="apply", metavar="NAME", help="go back to one")
    parser.add_argument("-c", dest="create", metavar="NAME", help="take one")
    parser.add_argument("-d", dest="delete", metavar="NAME", help="delete one")
    parser.exclude("list", "apply", "create", "delete")
    parser.add_argument("filename")


def run_snapshot(arguments: Arguments) -> int:
    """List, take, apply or delete internal snapshots."""
    from pyhyve.cli.img_info import snapshot_table

    names = (arguments.create, arguments.apply, arguments.delete)
    writable = names != (None, None, None)
    settings = settings_from(arguments, writable=writable, with_backing=not writable)
    with open_named(arguments.filename, arguments, settings) as image:
        if not writable:
            found = image.snapshots()
            if found:
                print(snapshot_table(found))
            return 0
        name = next(name for name in names if name is not None)
        verb = ("create", "apply", "delete")[names.index(name)]
        require_qcow2(image, f"Could not {verb} snapshot '{name}'")
        if verb == "create":
            image.create_snapshot(name, date_ns=time.time_ns(), icount=0)  # what qemu-img records
            return 0
        snapshot = image.find_snapshot(name, by_id=verb == "apply")  # as qemu-img: -d takes names alone
        if snapshot is None:
            return fail(f"Could not {verb} snapshot '{name}': snapshot not found")
        if verb == "apply":
            image.apply_snapshot(snapshot)
        else:
            image.delete_snapshot(snapshot)
    return 0
