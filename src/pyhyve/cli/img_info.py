"""`pyhyve img info|check|map|measure`: what images are."""

from __future__ import annotations

import sys
import time

from pyhyve.cli.img_options import (
    add_output,
    add_quiet,
    add_source,
    create_options,
    fail,
    human_size,
    open_named,
    settings_from,
)
from pyhyve.cli.option_parser import Usage
from pyhyve.image.contract import Extent, ImageError, ImageUnsupportedError
from pyhyve.image.filename import parse_reference, resolve_relative
from pyhyve.image.opening import MAX_CHAIN_DEPTH, OpenSettings, open_image, parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from pyhyve.cli.option_parser import Arguments, VerbParser
    from pyhyve.image.contract import CheckResult, Image, SnapshotInfo


def _print_json(value: object) -> None:
    from pyhyve.cli.img_json import json_text

    print(json_text(value))


# --- info ---


def configure_info(parser: VerbParser) -> None:
    """Options of `info`."""
    add_source(parser)
    add_output(parser)
    parser.add_argument("--backing-chain", action="store_true", help="describe every image of the backing chain")
    parser.add_argument("filename")


def describe(image: Image) -> dict[str, object]:
    """The ImageInfo object of one image."""
    info: dict[str, object] = {}
    snapshots = image.snapshots()
    if snapshots:
        info["snapshots"] = [_snapshot_object(snapshot) for snapshot in snapshots]
    below = image.backing_reference
    if below is not None and below.format_name:
        info["backing-filename-format"] = below.format_name
    info["virtual-size"] = image.size_bytes
    info["filename"] = image.storage.filename
    if image.cluster_size_bytes:
        info["cluster-size"] = image.cluster_size_bytes
    info["format"] = image.format_name
    used = image.disk_usage_bytes()
    if used is not None:
        info["actual-size"] = used
    specific = image.specific_info()
    if specific is not None:
        info["format-specific"] = {"type": image.format_name, "data": dict(specific)}
    if below is not None:
        whole = below.filename.startswith("file:")  # as QEMU shows it
        info["full-backing-filename"] = (
            below.filename if whole else resolve_relative(below.filename, image.storage.filename)
        )
        info["backing-filename"] = below.filename
    if image.dirty is not None:
        info["dirty-flag"] = image.dirty
    return info


def _snapshot_object(snapshot: SnapshotInfo) -> dict[str, object]:
    fields: dict[str, object] = {}
    if snapshot.icount is not None and snapshot.icount != (1 << 64) - 1:
        fields["icount"] = snapshot.icount
    fields |= {
        "vm-clock-nsec": snapshot.vm_clock_ns % 1_000_000_000,
        "name": snapshot.name,
        "date-sec": snapshot.date_s,
        "date-nsec": snapshot.date_ns,
        "vm-clock-sec": snapshot.vm_clock_ns // 1_000_000_000,
        "id": snapshot.id,
        "vm-state-size": snapshot.vm_state_size_bytes,
    }
    return fields


def snapshot_table(snapshots: Sequence[SnapshotInfo]) -> str:
    """The table of `snapshot -l`."""
    lines = ["Snapshot list:", f"{'ID':<10}{'TAG':<17}{'VM SIZE':>8}{'DATE':>20}{'VM CLOCK':>13}{'ICOUNT':>11}"]
    for snapshot in snapshots:
        date = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(snapshot.date_s))
        millis = snapshot.vm_clock_ns // 1_000_000
        seconds = millis // 1000
        clock = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{millis % 1000:03d}"
        known = snapshot.icount is not None and snapshot.icount != (1 << 64) - 1
        lines.append(
            f"{snapshot.id:<9} {snapshot.name:<16} {human_size(snapshot.vm_state_size_bytes):>8}"
            f"{date:>20}{clock:>13}{(str(snapshot.icount) if known else ''):>11}"
        )
    return "\n".join(lines)


def _print_info(info: Mapping[str, Any], snapshots: Sequence[SnapshotInfo]) -> None:
    size, used = info["virtual-size"], info.get("actual-size")
    print(f"image: {info['filename']}\nfile format: {info['format']}")
    print(f"virtual size: {human_size(size)} ({size} bytes)")
    print(f"disk size: {'unavailable' if used is None else human_size(used)}")
    if "cluster-size" in info:
        print(f"cluster_size: {info['cluster-size']}")
    if info.get("dirty-flag"):
        print("cleanly shut down: no")
    if "backing-filename" in info:
        full, short = info["full-backing-filename"], info["backing-filename"]
        print(f"backing file: {short}" + (f" (actual path: {full})" if full != short else ""))
        if "backing-filename-format" in info:
            print(f"backing file format: {info['backing-filename-format']}")
    if snapshots:
        print(snapshot_table(snapshots))
    specific = info.get("format-specific")
    if isinstance(specific, dict) and specific["data"]:
        print("Format specific information:")
        _print_nested(specific["data"], 1)


def _print_nested(value: object, depth: int) -> None:
    indent = "    " * depth
    if isinstance(value, dict):
        pairs = [(str(key).replace("-", " "), item) for key, item in value.items()]
    elif isinstance(value, list):
        pairs = [(f"[{index}]", item) for index, item in enumerate(value)]
    else:
        pairs = []
    for key, item in pairs:
        if isinstance(item, dict | list):
            print(f"{indent}{key}:")
            _print_nested(item, depth + 1)
        else:
            text = str(item).lower() if isinstance(item, bool) else str(item)
            print(f"{indent}{key}: {text}")


def _chain(arguments: Arguments) -> Iterator[Image]:
    """The image, and with --backing-chain those below it, each closed after use."""
    settings = settings_from(arguments, with_backing=False)
    name = arguments.filename
    seen: set[str] = set()
    image = open_named(name, arguments, settings)
    while True:
        with image:
            yield image
            below = image.backing_reference
            beside = image.storage.filename
        if below is None or not arguments.backing_chain:
            return
        seen.add(name)
        name = resolve_relative(below.filename, beside)
        if name in seen or len(seen) > MAX_CHAIN_DEPTH:
            msg = f"Backing file '{name}' creates an infinite loop."
            raise ImageError(msg)
        child = OpenSettings(below.format_name, with_backing=False, force_share=settings.force_share)
        reference = parse_reference(name)
        image = open_image(name if reference.driver else reference.location, child)


def run_info(arguments: Arguments) -> int:
    """Print what the image is."""
    found = [(describe(image), image.snapshots()) for image in _chain(arguments)]
    if arguments.output == "json":
        infos = [info for info, _ in found]
        _print_json(infos if arguments.backing_chain else infos[0])
        return 0
    for number, (info, snapshots) in enumerate(found):
        if number:
            print()
        _print_info(info, snapshots)
    return 0


# --- check ---


def configure_check(parser: VerbParser) -> None:
    """Options of `check`."""
    add_source(parser)
    add_output(parser)
    add_quiet(parser)
    parser.add_argument("-r", dest="repair", choices=("leaks", "all"), help="repair leaks, or everything")
    parser.add_argument("-T", dest="source_cache", metavar="CACHE", help="cache mode")
    parser.add_argument("filename")


def run_check(arguments: Arguments) -> int:
    """Check an image. Exit status 0 clean, 1 check failed, 2 corruptions, 3 leaks, 63 nothing to check."""
    settings = settings_from(
        arguments, writable=arguments.repair is not None, check_only=True, cache=arguments.source_cache or "writeback",
        with_backing=False,
    )  # fmt: skip
    with open_named(arguments.filename, arguments, settings) as image:
        fix_errors = arguments.repair == "all"
        try:
            result = image.check(fix_leaks=arguments.repair is not None, fix_errors=fix_errors)
        except ImageUnsupportedError as error:
            return fail(str(error), 63)
        format_name = image.format_name
    if arguments.output == "json":
        fields: dict[str, object] = {"check-errors": result.check_errors}
        optional = {
            "image-end-offset": result.image_end_offset, "total-clusters": result.total_clusters,
            "corruptions": result.corruptions, "leaks": result.leaks, "corruptions-fixed": result.corruptions_fixed,
            "leaks-fixed": result.leaks_fixed, "allocated-clusters": result.allocated_clusters,
            "fragmented-clusters": result.fragmented_clusters, "compressed-clusters": result.compressed_clusters,
        }  # fmt: skip
        fields |= {name: value for name, value in optional.items() if value}
        _print_json(fields | {"filename": arguments.filename, "format": format_name})
    elif not arguments.quiet:
        _print_check(result)
    if result.corruptions:
        return 2
    if result.leaks:
        return 3
    return 1 if result.check_errors else 0


def _print_check(result: CheckResult) -> None:
    for line in (*result.errors, *result.leak_messages):
        print(line, file=sys.stderr)
    if result.corruptions_fixed or result.leaks_fixed:
        print("The following inconsistencies were found and repaired:\n")
        print(f"    {result.leaks_fixed} leaked clusters\n    {result.corruptions_fixed} corruptions\n")
        print("Double checking the fixed image now...")
    if not (result.corruptions or result.leaks or result.check_errors):
        print("No errors were found on the image.")
    if result.corruptions:
        print(f"\n{result.corruptions} errors were found on the image.")
        print("Data may be corrupted, or further writes to the image may corrupt it.")
    if result.leaks:
        print(f"\n{result.leaks} leaked clusters were found on the image.")
        print("This means waste of disk space, but no harm to data.")
    if result.check_errors:
        print(f"\n{result.check_errors} internal errors have occurred during the check.")
    if result.total_clusters and result.allocated_clusters:
        allocated = result.allocated_clusters
        print(
            f"{allocated}/{result.total_clusters} = {allocated * 100 / result.total_clusters:.2f}% allocated, "
            f"{result.fragmented_clusters * 100 / allocated:.2f}% fragmented, "
            f"{result.compressed_clusters * 100 / allocated:.2f}% compressed clusters"
        )
    if result.image_end_offset:
        print(f"Image end offset: {result.image_end_offset}")


# --- map ---


def configure_map(parser: VerbParser) -> None:
    """Options of `map`."""
    add_source(parser)
    add_output(parser)
    parser.add_argument("-s", "--start-offset", default="0", metavar="OFFSET", help="first byte")
    parser.add_argument("-l", "--max-length", metavar="LENGTH", help="how much")
    parser.add_argument("filename")


def merged_map(extents: Iterator[Extent]) -> Iterator[Extent]:
    """Neighbours that continue each other become one extent."""
    from pyhyve.support.records import replace

    last: Extent | None = None
    for extent in extents:
        if last is not None:
            alike = (
                (last.data, last.zero, last.present, last.depth, last.filename, last.compressed)
                == (extent.data, extent.zero, extent.present, extent.depth, extent.filename, extent.compressed)
                and last.end == extent.start
            )  # fmt: skip
            expected = None if last.offset is None else last.offset + last.length
            if alike and extent.offset == expected:
                last = replace(last, length=last.length + extent.length)
                continue
            yield last
        last = extent
    if last is not None:
        yield last


def run_map(arguments: Arguments) -> int:
    """Print the map."""
    start = parse_size(arguments.start_offset, "start offset")
    with open_named(arguments.filename, arguments, settings_from(arguments)) as image:
        length = image.size_bytes - start
        if arguments.max_length is not None:
            length = min(length, parse_size(arguments.max_length, "max length"))
        extents = merged_map(image.map(start, length)) if length > 0 else iter(())
        if arguments.output == "json":
            separator = "["
            for extent in extents:
                print(separator + _map_object(extent), end="")
                separator = ",\n"
            if separator == "[":  # as qemu-img says that there is nothing
                print(separator + _map_object(Extent(start, 0, data=False, zero=False, present=False, depth=0)), end="")
            print("]")
            return 0
        print(f"{'Offset':<16}{'Length':<16}{'Mapped to':<16}File")
        for extent in extents:
            if extent.data and not extent.zero and extent.offset is None:
                return fail("File contains external, encrypted or compressed clusters.")
            if extent.data and not extent.zero:
                values = (f"{value:#x}" if value else "0" for value in (extent.start, extent.length, extent.offset))
                print("".join(f"{value:<16}" for value in values) + (extent.filename or ""))
    return 0


def _map_object(extent: Extent) -> str:
    def word(*, flag: bool) -> str:
        return "true" if flag else "false"

    text = (
        f'{{ "start": {extent.start}, "length": {extent.length}, "depth": {extent.depth}, '
        f'"present": {word(flag=extent.present)}, "zero": {word(flag=extent.zero)}, "data": {word(flag=extent.data)}'
    )
    if extent.offset is not None:
        text += f', "offset": {extent.offset}'
    return text + "}"


# --- measure ---


def configure_measure(parser: VerbParser) -> None:
    """Options of `measure`."""
    add_source(parser)
    add_output(parser)
    parser.add_argument("-O", dest="target_format", default="raw", metavar="FMT", help="format to measure")
    parser.add_argument("-o", dest="options", action="append", default=[], metavar="LIST", help="creation options")
    parser.add_argument("-l", dest="snapshot", metavar="SNAPSHOT", help="measure this internal snapshot")
    parser.add_argument("--size", metavar="N", help="size of a new image")
    parser.add_argument("filename", nargs="?")


def run_measure(arguments: Arguments) -> int:
    """Print how large an image will be."""
    from pyhyve.image.operations.measure import measure

    if (arguments.filename is None) == (arguments.size is None):
        msg = "Either --size N or one filename must be specified."
        raise Usage(msg)
    options = create_options(arguments.target_format, arguments.options)
    if arguments.filename is None:
        found = measure(arguments.target_format, parse_size(arguments.size), options)
    else:
        with open_named(arguments.filename, arguments, settings_from(arguments)) as image:
            if arguments.snapshot is not None:
                from pyhyve.cli.img_convert import select_snapshot

                select_snapshot(image, arguments.snapshot)
            found = measure(arguments.target_format, image.size_bytes, options, image)
    if arguments.output == "json":
        fields = {"required": found.required, "fully-allocated": found.fully_allocated}
        if found.bitmaps is not None:
            fields["bitmaps"] = found.bitmaps
        _print_json(fields)
    else:
        print(f"required size: {found.required}\nfully allocated size: {found.fully_allocated}")
        if found.bitmaps is not None:
            print(f"bitmaps size: {found.bitmaps}")
    return 0
