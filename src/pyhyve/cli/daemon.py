"""`pyhyve daemon`: the libvirt-compatible daemon."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from pyhyve.support.errors import ExitStatus, UserError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from pyhyve.daemon.paths import Paths


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    instance = parser.add_mutually_exclusive_group()
    instance.add_argument("--system", action="store_true", help="the host's instance (the default for root)")
    instance.add_argument("--session", action="store_true", help="the user's own instance (the default for others)")
    parser.add_argument("--root", type=Path, metavar="DIR", help="keep everything, sockets too, below DIR")
    parser.add_argument(
        "--socket",
        type=Path,
        metavar="PATH",
        help="listen on PATH, and read-only on PATH-ro, instead of the usual place",
    )
    parser.add_argument("--verbose", action="store_true", help="log more")


def run(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT."""
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.INFO, format="%(levelname)s %(name)s: %(message)s"
    )
    paths = _paths(options)
    try:
        paths.make()
    except OSError as error:
        msg = f"cannot make {error.filename}: {error.strerror} (--session or --root DIR keep it elsewhere)"
        raise UserError(msg) from error
    with _lock(paths):
        asyncio.run(_serve(paths, options))
    return ExitStatus.DONE


def _paths(options: argparse.Namespace) -> Paths:
    from pyhyve.daemon.paths import Paths

    session = options.session or (not options.system and os.geteuid() != 0)
    if options.root is not None:
        return Paths.below(options.root.absolute(), "session" if session else "system")
    return Paths.session() if session else Paths.system()


@contextlib.contextmanager
def _lock(paths: Paths) -> Iterator[None]:
    """Be the only daemon with these directories."""
    path = paths.runtime / "daemon.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        os.close(descriptor)
        msg = f"another daemon (process {owner}) already serves {paths.state}; stop it or use --root DIR"
        raise UserError(msg) from None
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        yield
    finally:
        os.close(descriptor)


async def _serve(paths: Paths, options: argparse.Namespace) -> None:
    from pyhyve.daemon.parts import build
    from pyhyve.daemon.service import Service

    daemon = build(paths)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, daemon.reload)
    service = Service(daemon)
    try:
        await daemon.start()
        path = options.socket or paths.sockets / "virtpyhyved-sock"
        session = paths.instance == "session"
        service.listen_unix(path, read_only=False, mode=0o700 if session else 0o770)
        if not session:
            service.listen_unix(path.with_name(path.name + "-ro"), read_only=True, mode=0o777)
        daemon.spawn(service.watch(), "watch clients")
        logging.getLogger(__name__).info("ready, listening on %s", path)
        await stop.wait()
    finally:
        service.close()
        await daemon.stop()
