"""`pyhyve img convert`: copy images into another format."""

from __future__ import annotations

import os

from pyhyve.cli.img_options import (
    ProgressPrinter,
    add_progress,
    add_quiet,
    add_source,
    create_options,
    naming,
    open_named,
    option_help,
    settings_from,
    wants_help,
    warn,
)
from pyhyve.cli.option_parser import Usage
from pyhyve.image.contract import BackingReference, ImageError, ImageUnsupportedError
from pyhyve.image.filename import is_network, parse_image_options, resolve_relative
from pyhyve.image.opening import OpenSettings, create_image, open_image, open_reference, parse_size
from pyhyve.image.registry import find_format
from pyhyve.support.records import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyhyve.cli.option_parser import Arguments, VerbParser
    from pyhyve.image.contract import Image


MAX_SPARSE_BYTES = 16 << 20


def configure_convert(parser: VerbParser) -> None:
    """Options of `convert`."""
    add_source(parser)
    add_progress(parser)
    add_quiet(parser)
    parser.add_argument("--target-image-opts", action="store_true", help="the target is a list like driver=…")
    parser.add_argument("--target-is-zero", action="store_true", help="with -n: the target reads as zero already")
    parser.add_argument("--bitmaps", action="store_true", help="copy persistent bitmaps")
    parser.add_argument("--skip-broken-bitmaps", action="store_true", help="leave out broken ones")
    parser.add_argument("-C", dest="offload", action="store_true", help="copy inside the kernel; finds no zeroes")
    parser.add_argument("-c", dest="compress", action="store_true", help="compress the target")
    parser.add_argument("-n", dest="no_create", action="store_true", help="the target exists: write into it")
    parser.add_argument("-t", dest="cache", default="unsafe", metavar="CACHE", help="cache mode of the target")
    parser.add_argument("-T", dest="source_cache", default="writeback", metavar="CACHE", help="… of the source")
    parser.add_argument("-O", dest="target_format", metavar="FMT", help="format of the target (default: raw)")
    parser.add_argument("-B", "--backing", dest="backing", metavar="FILE", help="backing file of the target")
    parser.add_argument("-F", dest="backing_format", metavar="FMT", help="its format")
    parser.add_argument("-o", dest="options", action="append", default=[], metavar="LIST", help="options, or `help`")
    parser.add_argument("-l", dest="snapshot", metavar="SNAPSHOT", help="convert this internal snapshot")
    parser.add_argument("-S", dest="sparse", metavar="SIZE", help="shortest run of zeroes kept as hole (4k)")
    parser.add_argument("-r", dest="rate_limit", default="0", metavar="RATE", help="bytes per second at most")
    parser.add_argument("-m", dest="threads", default="8", metavar="N", help="pieces in flight at most (1-16)")
    parser.add_argument("-W", dest="out_of_order", action="store_true", help="write out of order (always allowed)")
    parser.add_argument("--salvage", action="store_true", help="what cannot be read becomes zero")
    parser.add_argument("filenames", nargs="*", metavar="FILENAME… OUTPUT")


def _target_format(arguments: Arguments) -> str:
    return arguments.target_format or "raw"


def select_snapshot(image: Image, wanted: str) -> None:
    """Make `image` (read-only) show an internal snapshot, named as for `-l`."""
    name, by_id, by_name = wanted, True, True
    if wanted.startswith("snapshot."):
        pairs = dict(part.partition("=")[::2] for part in wanted.split(","))
        for key in pairs.keys() - {"snapshot.id", "snapshot.name"}:
            msg = f"Invalid parameter '{key}' of a snapshot: there are snapshot.id and snapshot.name"
            raise ImageError(msg)
        by_name = "snapshot.name" in pairs
        by_id = not by_name
        name = pairs.get("snapshot.name") or pairs.get("snapshot.id", "")
    snapshot = image.find_snapshot(name, by_id=by_id, by_name=by_name)
    if snapshot is None:
        msg = f"Failed to load snapshot: Can't find snapshot '{wanted}'"
        raise ImageError(msg)
    image.select_snapshot(snapshot)


def run_convert(arguments: Arguments) -> int:
    """Convert."""
    from pyhyve.image.operations.convert import Concatenation, ConvertSettings, convert

    if wants_help(arguments.options):
        named = len(arguments.filenames) > 1
        print(option_help(_target_format(arguments), names_file=named))
        return 0
    _check_usage(arguments)
    *names, output = arguments.filenames
    sparse_bytes, rate_limit = _sparse_size(arguments.sparse), parse_size(arguments.rate_limit, "rate limit")
    printer = ProgressPrinter(arguments)
    opened: list[Image] = []
    try:
        settings = settings_from(arguments, cache=arguments.source_cache)
        opened.extend(open_named(name, arguments, settings) for name in names)
        images = tuple(opened)
        if arguments.snapshot is not None:
            if len(images) > 1:
                msg = "No support for concatenating multiple snapshots"
                raise ImageError(msg)
            select_snapshot(images[0], arguments.snapshot)
        sources = Concatenation(images)
        if not arguments.no_create:
            _check_compression(arguments, _target_format(arguments))  # before anything is made
        target = _open_target(arguments, output, sources.size_bytes)
        opened.append(target)
        if target.size_bytes < sources.size_bytes:
            msg = f"output file '{output}' is smaller than input file"
            raise ImageError(msg)
        _check_compression(arguments, target.format_name)
        if arguments.target_is_zero and target.backing is not None:
            msg = "Cannot use --target-is-zero when the destination image has a backing file"
            raise ImageError(msg)
        convert(
            sources,
            target,
            ConvertSettings(
                compress=arguments.compress,
                sparse_bytes=sparse_bytes,
                target_is_zero=(not arguments.no_create or arguments.target_is_zero) and target.backing is None,
                keep_backing=target.backing is not None,
                offload=arguments.offload,
                salvage=arguments.salvage,
                threads=int(arguments.threads),
                in_order=not arguments.out_of_order,
                rate_limit=rate_limit,
            ),
            printer,
        )
        if arguments.bitmaps:
            _copy_bitmaps(images[0], target, skip_broken=arguments.skip_broken_bitmaps)
        target.flush()  # which does nothing with `-t unsafe`, the default
    except BaseException:
        _close(opened, failed=True)
        raise
    _close(opened)
    printer.finish()
    return 0


def _close(images: list[Image], *, failed: bool = False) -> None:
    """Close all, the last first, whatever fails; what already `failed` says more than what fails now."""
    if images:
        try:
            images.pop().close()
        except (OSError, ImageError):
            if not failed:
                raise
        finally:
            _close(images, failed=failed)


def _check_usage(arguments: Arguments) -> None:
    message = None
    if len(arguments.filenames) < 2:
        message = "Must specify image file name"
    elif not arguments.threads.isdecimal() or not 1 <= int(arguments.threads) <= 16:
        message = "Invalid number of coroutines. Allowed number of coroutines is between 1 and 16"
    elif arguments.offload and arguments.compress:
        message = "Cannot enable copy offloading when -c is used"
    elif arguments.offload and arguments.sparse is not None:
        message = "Cannot enable copy offloading when -S is used"
    elif arguments.target_is_zero and not arguments.no_create:
        message = "--target-is-zero requires use of -n flag"
    elif arguments.backing is not None and len(arguments.filenames) > 2:
        message = "Having a backing file for the target makes no sense when concatenating multiple input images"
    elif arguments.no_create and arguments.options:
        message = "-n and -o cannot be used together"
    elif arguments.skip_broken_bitmaps and not arguments.bitmaps:
        message = "Use of --skip-broken-bitmaps requires --bitmaps"
    elif arguments.offload and arguments.salvage:
        message = "Cannot use copy offloading in salvaging mode"
    elif arguments.target_image_opts and arguments.target_format is not None:
        message = "-O and --target-image-opts cannot be used together"
    elif arguments.target_image_opts and not arguments.no_create:
        message = "--target-image-opts requires use of -n flag"
    if message is not None:
        raise Usage(message)


def _check_compression(arguments: Arguments, format_name: str) -> None:
    if arguments.compress and not find_format(format_name).supports_compressed:
        msg = f"Compression not supported for this file format ('{format_name}')"
        raise ImageUnsupportedError(msg)


def _sparse_size(text: str | None) -> int:
    size = 4096 if text is None else parse_size(text, "sparse size")
    if size % 512 or size > MAX_SPARSE_BYTES:
        msg = (
            "Invalid buffer size for sparse output specified. Valid sizes are multiples of 512 up to "
            f"{MAX_SPARSE_BYTES}. Select 0 to disable sparse detection (fully allocates output)."
        )
        raise ImageError(msg)
    return size


def _open_target(arguments: Arguments, output: str, size: int) -> Image:
    """Create the target unless -n, and open it for writing."""
    settings = OpenSettings(None, writable=True, cache=arguments.cache, with_backing=arguments.backing is not None)
    if arguments.target_image_opts:
        return open_reference(parse_image_options(output), settings)
    settings = replace(settings, format_name=_target_format(arguments))
    if not arguments.no_create:
        options = create_options(_target_format(arguments), arguments.options)
        backing_name = arguments.backing if arguments.backing is not None else options.pop("backing_file", None)
        backing_format = arguments.backing_format or options.pop("backing_fmt", None)
        options.pop("size", None)  # as qemu-img: the size is the source's
        backing = None
        if backing_name is None and backing_format is not None:
            msg = f"{output}: Backing format cannot be used without backing file"
            raise ImageError(msg)
        if backing_name is not None:
            if backing_format is None:
                msg = "backing file specified without backing format (use -F)"
                raise ImageError(msg)
            backing = BackingReference(str(backing_name), str(backing_format))
            where = resolve_relative(backing.filename, output)
            with open_image(where, OpenSettings(backing.format_name, force_share=True)):
                pass
            settings = replace(settings, with_backing=True)
        if arguments.compress and options.get("preallocation", "off") != "off":
            msg = "Compression and preallocation not supported at the same time"
            raise ImageError(msg)
        if not (is_network(output) and _target_format(arguments) == "raw"):  # an export is there already
            with naming(f"{output}: error while converting {_target_format(arguments)}"):
                create_image(output, _target_format(arguments), size, options, backing, durable=False)
    elif not is_network(output) and not os.path.exists(output):  # noqa: PTH110 - a name, not a path
        msg = f"Could not open '{output}': No such file or directory"
        raise ImageError(msg)
    return open_image(output, settings)


def _copy_bitmaps(source: Image, target: Image, *, skip_broken: bool) -> None:
    from pyhyve.image.qcow2.bitmap_changes import copy_bitmaps
    from pyhyve.image.qcow2.image import Qcow2Image
    from pyhyve.image.qcow2.reading import Qcow2Reader

    if not isinstance(source, Qcow2Reader) or not isinstance(target, Qcow2Image) or target.header.version < 3:
        msg = "This will continue to be invalid until both images are qcow2 (compat 1.1): format lacks bitmap support"
        raise ImageUnsupportedError(msg)
    for name in copy_bitmaps(source.meta, target.meta, skip_broken=skip_broken):
        warn(f"Skipping inconsistent bitmap '{name}'")
