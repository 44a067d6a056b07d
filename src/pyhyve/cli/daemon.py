"""`pyhyve daemon`: the libvirt-compatible daemon."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import getpass
import grp
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pyhyve.support.errors import ExitStatus, InputError, UserError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from pyhyve.daemon.daemon import Daemon
    from pyhyve.daemon.paths import Paths
    from pyhyve.daemon.service import Service
    from pyhyve.daemon.settings import Settings

_log = logging.getLogger(__name__)


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
    parser.add_argument(
        "--listen",
        action="append",
        default=[],
        metavar="tcp:HOST:PORT|tls:HOST:PORT|libvirt",
        help="listen there too; libvirt: on libvirt-sock, where a bare virsh looks (repeatable)",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings (daemon.toml in the configuration)")
    parser.add_argument("--verbose", action="store_true", help="log more")
    other = parser.add_argument_group("instead of serving")
    other.add_argument("--set-password", metavar="USER", help="set a user's password (asked for, or read from stdin)")
    other.add_argument("--remove-user", metavar="USER", help="remove a user")
    other.add_argument("--write-units", type=Path, metavar="DIR", help="write systemd units for this instance to DIR")


def run(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT, or do the one thing asked for."""
    paths = _paths(options)
    if options.write_units is not None:
        from pyhyve.daemon.activation import write_units

        for path in write_units(options.write_units, paths.instance):
            print(path)
        return ExitStatus.DONE
    if options.set_password is not None or options.remove_user is not None:
        _change_user(paths, options)
        return ExitStatus.DONE
    from pyhyve.daemon.settings import read_settings

    settings = read_settings(options.config or paths.configuration / "daemon.toml")
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.INFO, format="%(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    try:
        paths.make()
    except OSError as error:
        msg = f"cannot make {error.filename}: {error.strerror} (--session or --root DIR keep it elsewhere)"
        raise UserError(msg) from error
    with _lock(paths):
        asyncio.run(_serve(paths, settings, options))
    return ExitStatus.DONE


def _paths(options: argparse.Namespace) -> Paths:
    from pyhyve.daemon.paths import Paths

    session = options.session or (not options.system and os.geteuid() != 0)
    if options.root is not None:
        return Paths.below(options.root.absolute(), "session" if session else "system")
    return Paths.session() if session else Paths.system()


def _change_user(paths: Paths, options: argparse.Namespace) -> None:
    from pyhyve.daemon.users import Users

    users = Users(paths.configuration / "users")
    if options.remove_user is not None:
        users.change(options.remove_user, None)
    if options.set_password is not None:
        password = getpass.getpass() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
        if not password:
            msg = "an empty password is none"
            raise InputError(msg)
        users.change(options.set_password, password)


@contextlib.contextmanager
def _lock(paths: Paths) -> Iterator[None]:
    """Be the only daemon with these directories."""
    descriptor = os.open(paths.runtime / "daemon.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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


async def _serve(paths: Paths, settings: Settings, options: argparse.Namespace) -> None:
    from pyhyve.daemon.activation import notify
    from pyhyve.daemon.parts import build
    from pyhyve.daemon.service import Service

    daemon = build(paths)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    service = Service(daemon, settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, _reload, daemon, service)
    try:
        await daemon.start()
        where = await _listen(service, paths, settings, options)
        daemon.spawn(service.watch(), "watch clients")
        # What was read so far stays: the collector need not look at a thousand definitions again and again.
        gc.collect()
        gc.freeze()
        # Documents are parsed and images looked into on threads: clients are not to wait five milliseconds for those.
        sys.setswitchinterval(0.0005)
        _log.info("ready, listening on %s", ", ".join(where))
        notify("READY=1")
        await stop.wait()
        notify("STOPPING=1")
    finally:
        service.close()
        await daemon.stop()


def _reload(daemon: Daemon, service: Service) -> None:
    daemon.reload()
    try:
        service.reload()
    except UserError as error:
        _log.error("the certificates stay as they were: %s", error)
    _log.info("reloaded")


async def _listen(service: Service, paths: Paths, settings: Settings, options: argparse.Namespace) -> list[str]:
    """Listen everywhere; return where."""
    from pyhyve.daemon.activation import inherited_sockets

    where: list[str] = []
    inherited = inherited_sockets()
    await service.adopt(inherited)
    if inherited:
        where.append(f"{len(inherited)} sockets of systemd")
    sockets: list[Path] = []
    if options.socket is not None:
        sockets.append(options.socket)
    elif settings.listen.unix and not any(each.kind == "unix" for each in inherited):
        sockets.append(paths.sockets / "virtpyhyved-sock")
    addresses = [("tcp", each) for each in settings.listen.tcp] + [("tls", each) for each in settings.listen.tls]
    legacy = settings.listen.legacy_socket
    for text in options.listen:
        kind, _, address = text.partition(":")
        if text == "libvirt":
            legacy = True
        elif kind in {"tcp", "tls"}:
            addresses.append((kind, address))
        else:
            msg = f"--listen {text}: write tcp:HOST:PORT, tls:HOST:PORT or libvirt"
            raise InputError(msg)
    if legacy:
        sockets.append(paths.sockets / "libvirt-sock")
    for path in sockets:
        _listen_unix(service, path, settings, session=paths.instance == "session")
        where.append(str(path))
    for kind, address in addresses:
        await (service.listen_tls if kind == "tls" else service.listen_tcp)(address)
        where.append(f"{kind}:{address}")
    if not where:
        msg = "nothing to listen on (see --listen, and [listen] in daemon.toml)"
        raise InputError(msg)
    return where


def _listen_unix(service: Service, path: Path, settings: Settings, *, session: bool) -> None:
    unix, group = settings.unix, None
    if unix.group:
        try:
            group = grp.getgrnam(unix.group).gr_gid
        except KeyError as error:
            msg = f"unix.group: no group {unix.group!r}"
            raise InputError(msg) from error
    # Who may write to the socket may do everything: the owner alone, or the group that was named for it.
    mode = int(unix.mode, 8) if unix.mode else (0o770 if group is not None else 0o700)
    service.listen_unix(path, read_only=False, mode=mode, group=group)
    if not session:
        read_only = path.with_name(path.name + "-ro")
        service.listen_unix(read_only, read_only=True, mode=int(unix.mode_read_only, 8), group=group)
