"""`pyhyve img create`: new images."""

from __future__ import annotations

from pyhyve.cli.img_options import add_quiet, create_options, naming, option_help, wants_help
from pyhyve.cli.option_parser import Usage
from pyhyve.image.contract import BackingReference, ImageError
from pyhyve.image.filename import parse_reference, resolve_relative
from pyhyve.image.opening import OpenSettings, create_image, open_image, parse_size, refuse_own_name
from pyhyve.image.registry import find_format

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyhyve.cli.option_parser import Arguments, VerbParser

_PRINT_ORDER = {
    "qcow2": (
        "cluster_size", "extended_l2", "preallocation", "compression_type", "size", "compat", "backing_file",
        "backing_fmt", "data_file", "data_file_raw", "lazy_refcounts", "refcount_bits",
    ),
    "vhdx": ("size", "log_size", "block_size", "subformat", "block_state_zero"),
    "vmdk": ("size", "adapter_type", "backing_file", "backing_fmt", "compat6", "hwversion", "toolsversion",
             "subformat"),
}  # fmt: skip
"""The order in which qemu-img tells the options of a format; of others, the size comes first."""


def configure_create(parser: VerbParser) -> None:
    """Options of `create`."""
    add_quiet(parser)
    parser.add_argument("-f", dest="format", default="raw", metavar="FMT", help="format (default: raw)")
    parser.add_argument("-b", dest="backing", metavar="FILE", help="backing file")
    parser.add_argument("-F", dest="backing_format", metavar="FMT", help="format of the backing file")
    parser.add_argument("-u", dest="unsafe", action="store_true", help="do not open the backing file")
    parser.add_argument("-o", dest="options", action="append", default=[], metavar="LIST", help="options, or `help`")
    parser.add_argument("--object", action="append", default=[], help="accepted for compatibility")
    parser.add_argument("filename", nargs="?")
    parser.add_argument("size", nargs="?")


def run_create(arguments: Arguments) -> int:
    """Create an image."""
    if wants_help(arguments.options):
        print(option_help(arguments.format, names_file=arguments.filename is not None))
        return 0
    if arguments.filename is None:
        msg = "Expecting image file name"
        raise Usage(msg)
    if find_format(arguments.format).create is None:
        msg = f"{arguments.filename}: Format driver '{arguments.format}' does not support image creation"
        raise ImageError(msg)
    options = create_options(arguments.format, arguments.options)
    backing_name = arguments.backing if arguments.backing is not None else options.pop("backing_file", None)
    backing_format = arguments.backing_format or options.pop("backing_fmt", None)
    if arguments.size is not None and "size" in options:
        msg = f"{arguments.filename}: The image size must be specified only once"
        raise ImageError(msg)
    if backing_format is not None and not backing_name:
        msg = f"{arguments.filename}: Backing format cannot be used without backing file"
        raise ImageError(msg)
    size = parse_size(arguments.size, "image size") if arguments.size is not None else options.pop("size", None)
    options = {name: value for name, value in options.items() if name not in {"backing_file", "backing_fmt", "size"}}
    backing = None
    if backing_name == "":
        msg = f"{arguments.filename}: Expected backing file name, got empty string"
        raise ImageError(msg)
    if backing_name:
        backing = BackingReference(str(backing_name), None if backing_format is None else str(backing_format))
        if not find_format(arguments.format).supports_backing:
            msg = f"{arguments.filename}: Backing file not supported for file format '{arguments.format}'"
            raise ImageError(msg)
        refuse_own_name(arguments.filename, backing)
        if not arguments.unsafe:
            found = check_backing(arguments.filename, backing)
            size = found if size is None else size
    if size is None:
        msg = f"{arguments.filename}: Image creation needs a size parameter"
        raise ImageError(msg)
    if not arguments.quiet:
        print(formatting_line(arguments.filename, arguments.format, int(size), options, backing))
    with naming(arguments.filename):
        create_image(arguments.filename, arguments.format, int(size), options, backing)
    return 0


def check_backing(filename: str, backing: BackingReference) -> int:
    """Size of the backing image; ImageError when it cannot be opened or its format was not stated."""
    where = resolve_relative(backing.filename, filename)
    settings = OpenSettings(backing.format_name, force_share=True)
    with open_image(parse_reference(where).location if where.startswith("file:") else where, settings) as below:
        if backing.format_name is None:
            msg = (
                f"{filename}: Backing file specified without backing format (detected format of {below.format_name}: "
                f"use -F {below.format_name})"
            )
            raise ImageError(msg)
        return below.size_bytes


def formatting_line(
    filename: str,
    format_name: str,
    size: int,
    options: Mapping[str, str | int | bool],
    backing: BackingReference | None,
) -> str:
    """What qemu-img says before it creates an image."""
    shown: dict[str, object] = {
        option.name: option.default for option in find_format(format_name).options if option.default is not None
    }
    shown |= options
    shown["size"] = size
    if backing is not None:
        shown["backing_file"] = backing.filename
        if backing.format_name:
            shown["backing_fmt"] = backing.format_name
    order = _PRINT_ORDER.get(format_name, ("size",))
    names = [name for name in order if name in shown] + [name for name in shown if name not in order]

    def text(value: object) -> str:
        if isinstance(value, bool):
            return "on" if value else "off"
        return str(value).replace(",", ",,")

    parts = [f"{name}={text(shown[name])}" for name in names]
    return f"Formatting '{filename}', fmt={format_name} " + " ".join(parts)
