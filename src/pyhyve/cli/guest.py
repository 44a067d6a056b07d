"""`pyhyve guest`: makes small guests from Debian packages, lists them, prints their files."""

from __future__ import annotations

import hashlib
import sys
from typing import TYPE_CHECKING

from pyhyve.guest import builder
from pyhyve.support.errors import ExitStatus, InputError
from pyhyve.support.files import write_atomically

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from pyhyve.guest.repository import Report

FILES = ("kernel", "initrd")
DISK = "disk"
DISK_COMMAND_LINE = "console=ttyS0 quiet"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verbs."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="build|list|path")
    build = verbs.add_parser("build", help="make a guest, unless it is there")
    build.add_argument("--name", help=f"its name (default: {builder.DEFAULT_NAME})")
    build.add_argument(
        "--kernel-package",
        default=builder.DEFAULT_KERNEL_PACKAGE,
        metavar="PACKAGE",
        help="Debian package of the kernel (default: %(default)s)",
    )
    build.add_argument("--module", action="append", default=[], metavar="NAME", help="always load this (repeatable)")
    build.add_argument("--installer", action="store_true", help="the Debian 12 installer, as it is")
    build.add_argument("--mirror", metavar="URL", help="Debian archive (default: what apt is set up with)")
    build.add_argument("--rebuild", action="store_true", help="build again, from the newest packages")
    verbs.add_parser("list", help="the guests that are there")
    path = verbs.add_parser("path", help="print the name of a guest's file")
    path.add_argument("file", metavar="kernel|initrd|disk", help="a disk boots by itself, from firmware")
    path.add_argument("--name", default=builder.DEFAULT_NAME, help="the guest (default: %(default)s)")
    path.add_argument("--append", metavar="STRING", help=f"command line on a disk (default: {DISK_COMMAND_LINE})")


def warn(message: str) -> None:
    """One line on standard error."""
    print(f"pyhyve guest: {message}", file=sys.stderr)


def reporter() -> Report:
    """Progress on standard error: a line that is rewritten on a terminal, else one line for each download."""
    is_terminal = sys.stderr.isatty()
    announced: set[str] = set()

    def report(what: str, done_bytes: int, total_bytes: int) -> None:
        total = f"{total_bytes / 1e6:.1f} MB"
        if is_terminal:
            percent = 100 * done_bytes // total_bytes if total_bytes else 0
            end = "\n" if done_bytes == total_bytes else ""
            print(f"\rfetching {what} ({total}) {percent:3d} %", end=end, file=sys.stderr, flush=True)
        elif what not in announced:
            announced.add(what)
            print(f"fetching {what} ({total})", file=sys.stderr, flush=True)

    return report


def build_spec(arguments: argparse.Namespace) -> builder.GuestSpec:
    """What the command line of `build` asks for. Raises InputError."""
    name = arguments.name
    if arguments.installer:
        if arguments.module or arguments.kernel_package != builder.DEFAULT_KERNEL_PACKAGE:
            msg = "--installer takes no --module and no --kernel-package: it is used as it is"
            raise InputError(msg)
        return builder.GuestSpec(name=name or builder.INSTALLER_NAME, installer=True)
    return builder.GuestSpec(name or builder.DEFAULT_NAME, arguments.kernel_package, tuple(arguments.module))


def file_path(arguments: argparse.Namespace) -> Path:
    """The file that `path` asks for; a disk is made when it is not there. Raises InputError."""
    guest = builder.find_guest(arguments.name)
    if arguments.file == DISK:
        return disk_path(guest, DISK_COMMAND_LINE if arguments.append is None else arguments.append)
    if arguments.file not in FILES:
        msg = f"no file {arguments.file!r} in a guest (there are {', '.join((*FILES, DISK))})"
        raise InputError(msg)
    if arguments.append is not None:
        msg = f"--append is written to a disk; a {arguments.file} has no command line"
        raise InputError(msg)
    path: Path = getattr(guest, arguments.file)
    return path


def disk_path(guest: builder.Guest, command_line: str) -> Path:
    """A disk that boots `guest`, beside its kernel; made when it is not there. Raises UserError."""
    from pyhyve.boot.boot_disk import boot_disk

    key = hashlib.sha256(command_line.encode(errors="surrogateescape")).hexdigest()[:16]
    path = guest.directory / (DISK if command_line == DISK_COMMAND_LINE else f"{DISK}-{key}")
    if not path.is_file():
        content = boot_disk(guest.kernel.read_bytes(), guest.initrd.read_bytes(), command_line, str(guest.kernel))
        with builder.written_to_cache():
            write_atomically(path, content, mode=0o644)
    return path


def run(arguments: argparse.Namespace) -> int:
    """Do what the verb says."""
    match arguments.verb:
        case "build":
            spec = build_spec(arguments)
            guest = builder.build_guest(spec, reporter(), warn, mirror=arguments.mirror, rebuild=arguments.rebuild)
            print(f"{guest.name}: {guest.release}")
            for file in FILES:
                path = getattr(guest, file)
                print(f"  {file:<7} {path} ({path.stat().st_size / 1e6:.1f} MB)")
        case "list":
            for guest in builder.list_guests():
                size = sum(path.stat().st_size for path in (guest.kernel, guest.initrd))
                print(f"{guest.name:<20} {guest.release:<34} {size / 1e6:.1f} MB")
        case _:
            print(file_path(arguments))
    return ExitStatus.DONE
