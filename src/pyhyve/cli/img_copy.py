"""`pyhyve img compare|dd|bench`."""

from __future__ import annotations

import sys
import threading
import time

from pyhyve.cli.img_options import (
    ProgressPrinter,
    add_progress,
    add_quiet,
    add_source,
    fail,
    open_named,
    settings_from,
)
from pyhyve.cli.option_parser import Usage
from pyhyve.image.contract import ImageError
from pyhyve.image.opening import OpenSettings, create_image, open_image, parse_size
from pyhyve.support.records import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyhyve.cli.option_parser import Arguments, VerbParser


# --- compare ---


def configure_compare(parser: VerbParser) -> None:
    """Options of `compare`."""
    add_source(parser)
    add_progress(parser)
    add_quiet(parser)
    parser.add_argument("-F", dest="second_format", metavar="FMT", help="format of the second image")
    parser.add_argument("-T", dest="source_cache", default="writeback", metavar="CACHE", help="cache mode")
    parser.add_argument("-s", dest="strict", action="store_true", help="sizes and allocation must be equal too")
    parser.add_argument("filename1")
    parser.add_argument("filename2")


def run_compare(arguments: Arguments) -> int:
    """Compare two images. Exit status 0 identical, 1 different, 2 and up an error."""
    from pyhyve.image.operations.compare import compare

    def say(text: str) -> None:
        if not arguments.quiet:
            print(text)

    settings = settings_from(arguments, cache=arguments.source_cache)
    other_settings = replace(settings, format_name=arguments.second_format)
    try:
        with (
            open_named(arguments.filename1, arguments, settings) as first,
            open_named(arguments.filename2, arguments, other_settings) as second,
        ):
            if arguments.strict and first.size_bytes != second.size_bytes:
                say("Strict mode: Image size mismatch!")
                return 1
            printer = ProgressPrinter(arguments)
            result = compare(first, second, strict=arguments.strict, progress=printer)
            if result.identical:
                printer.finish()
            common = min(first.size_bytes, second.size_bytes)
            unequal = first.size_bytes != second.size_bytes
    except ImageError as error:
        return fail(str(error), 2)
    if unequal and (result.identical or result.offset >= common):
        say("Warning: Image size mismatch!")
    if not result.identical:
        if result.allocation:
            say(f"Strict mode: Offset {result.offset} block status mismatch!")
        else:
            say(f"Content mismatch at offset {result.offset}!")
        return 1
    say("Images are identical.")
    return 0


# --- dd ---


def configure_dd(parser: VerbParser) -> None:
    """Options of `dd`."""
    add_source(parser)
    parser.add_argument("-O", dest="target_format", default="raw", metavar="FMT", help="format of the output")
    parser.add_argument("operands", nargs="*", metavar="if=F of=F [bs=N] [count=N] [skip=N]")


def run_dd(arguments: Arguments) -> int:
    """Copy a range. As in qemu-img, `count` counts from the start of the input, so `skip` shortens the copy."""
    values: dict[str, str] = {}
    for operand in arguments.operands:
        name, separator, value = operand.partition("=")
        if not separator or name not in {"if", "of", "bs", "count", "skip"}:
            msg = f"unrecognized operand {name}"
            raise Usage(msg)
        values[name] = value
    if "if" not in values or "of" not in values:
        msg = "Must specify both input and output file names"
        raise Usage(msg)
    block = parse_size(values.get("bs", "512"), "bs")
    if not 0 < block < 1 << 31:
        msg = "Invalid bs specified. Must be between 1 and 2147483647"
        raise Usage(msg)
    skip = parse_size(values.get("skip", "0"), "skip") * block
    with open_named(values["if"], arguments, settings_from(arguments)) as source:
        end = source.size_bytes
        if "count" in values:
            end = min(end, parse_size(values["count"], "count") * block)
        length = max(0, end - skip)
        if skip > end:
            print(f"pyhyve img dd: {values['if']}: cannot skip to specified offset", file=sys.stderr)
        create_image(values["of"], arguments.target_format, length)
        with open_image(values["of"], OpenSettings(arguments.target_format, writable=True)) as target:
            buffer = memoryview(bytearray(min(max(block, 1 << 20), max(length, 1))))
            at = 0
            while at < length:
                part = buffer[: length - at]
                source.pread_into(part, skip + at)
                target.pwrite(part, at)
                at += len(part)
            target.flush()
    return 0


# --- bench ---

AIO_MODES = ("threads", "native", "io_uring")


def configure_bench(parser: VerbParser) -> None:
    """Options of `bench`."""
    add_source(parser)
    add_quiet(parser)
    parser.add_argument("-c", dest="count", default="75000", help="requests (default: %(default)s)")
    parser.add_argument("-d", dest="depth", default="64", help="requests in parallel (default: %(default)s)")
    parser.add_argument("--flush-interval", default="0", help="flush after this many writes")
    parser.add_argument("-i", dest="aio", choices=AIO_MODES, metavar="AIO", help="accepted for compatibility")
    parser.add_argument("-n", dest="native", action="store_true", help="as -i native")
    parser.add_argument("--no-drain", action="store_true", help="do not wait for requests before a flush")
    parser.add_argument("-o", dest="offset", default="0", help="first offset")
    parser.add_argument("--pattern", default="0", help="byte to write")
    parser.add_argument("-s", dest="buffer_size", default="4096", help="bytes per request (default: %(default)s)")
    parser.add_argument("-S", dest="step_size", default="0", help="distance of requests (default: their size)")
    parser.add_argument("-t", dest="cache", default="writeback", metavar="CACHE", help="cache mode")
    parser.add_argument("-w", dest="write", action="store_true", help="write instead of reading")
    parser.add_argument("filename")


@dataclass(frozen=True, slots=True)
class _Bench:
    """What requests to send."""

    count: int
    depth: int
    interval: int
    size: int
    offset: int
    step: int
    pattern: int


def _bench(arguments: Arguments) -> _Bench:
    size = parse_size(arguments.buffer_size, "buffer size")
    bench = _Bench(
        parse_size(arguments.count, "request count"), parse_size(arguments.depth, "queue depth"),
        parse_size(arguments.flush_interval, "flush interval"), size, parse_size(arguments.offset, "offset"),
        parse_size(arguments.step_size, "step size") or size, parse_size(arguments.pattern, "pattern"),
    )  # fmt: skip
    message = None
    if not 0 < bench.size <= 1 << 30 or not 0 < bench.depth <= 1 << 16 or bench.pattern > 255:
        message = "buffer size, queue depth or pattern is out of range"
    elif bench.interval and not arguments.write:
        message = "--flush-interval is only available in write tests"
    elif bench.interval and bench.interval < bench.depth:
        message = "Flush interval can't be smaller than depth"
    if message is not None:
        raise Usage(message)
    if (arguments.native or arguments.aio == "native") and arguments.cache not in {"none", "directsync"}:
        msg = "aio=native was specified, but it requires a cache mode without page cache (-t none, -t directsync)"
        raise ImageError(msg)
    return bench


def run_bench(arguments: Arguments) -> int:
    """Time requests."""
    bench = _bench(arguments)
    count, depth, interval, size = bench.count, bench.depth, bench.interval, bench.size
    offset, step, pattern = bench.offset, bench.step, bench.pattern
    settings = settings_from(arguments, writable=arguments.write, cache=arguments.cache)
    with open_named(arguments.filename, arguments, settings) as image:
        if image.size_bytes < size:
            return fail("the image is smaller than one request")
        kind = "write" if arguments.write else "read"
        print(
            f"Sending {count} {kind} requests, {size} bytes each, {depth} in parallel "
            f"(starting at offset {offset}, step size {step})"
        )
        if interval:
            print(f"Sending flush every {interval} requests")
        if offset + size > image.size_bytes:
            return fail("Failed request: the first offset is outside the image")
        numbers, lock = iter(range(count)), threading.Lock()
        failures: list[Exception] = []
        limit = image.size_bytes

        def worker() -> None:
            buffer = memoryview(bytearray(bytes([pattern]) * size))
            try:
                while not failures:
                    with lock:
                        number = next(numbers, None)
                    if number is None:
                        return
                    at = (offset + number * step) % limit
                    at = at if at + size <= limit else 0
                    if arguments.write:
                        image.pwrite(buffer, at)
                        if interval and (number + 1) % interval == 0:
                            image.flush()
                    else:
                        image.pread_into(buffer, at)
            except Exception as error:  # noqa: BLE001 - reported by the main thread
                failures.append(error)

        # More threads than this only wait for each other: requests here are served synchronously.
        threads = [threading.Thread(target=worker) for _ in range(min(depth, 4))]
        begin = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        elapsed = time.perf_counter() - begin
        if failures:
            raise failures[0]
        print(f"Run completed in {elapsed:.3f} seconds.")
    return 0
