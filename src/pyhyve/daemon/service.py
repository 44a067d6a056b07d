"""Listening sockets: accepting clients, and keeping an eye on those that went silent."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import logging
import os
import pwd
import socket
import struct
from typing import TYPE_CHECKING, Final

from pyhyve.daemon.access import Identity
from pyhyve.daemon.connection import Connection
from pyhyve.daemon.link import SocketLink
from pyhyve.support.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from pyhyve.daemon.daemon import Daemon

__all__ = ["Service"]

_log = logging.getLogger(__name__)
_CREDENTIALS: Final = struct.Struct("iII")
CLIENTS_MAX: Final = 5000
"""Clients at the same time; further ones are turned away."""
BACKLOG: Final = 128
KEEPALIVE_INTERVAL_S: Final = 5.0
KEEPALIVE_COUNT: Final = 5
"""Pings without a sign of life, after which a client is disconnected."""


class Service:
    """The sockets of one daemon."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._listeners: list[tuple[socket.socket, bool]] = []
        self._paths: list[Path] = []

    def listen_unix(self, path: Path, *, read_only: bool, mode: int, group: int | None = None) -> None:
        """Listen on a unix socket. Raises UserError where another daemon does, OSError otherwise."""
        _remove_stale(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        mask = os.umask(0o777 & ~mode)
        try:
            listener.bind(str(path))
        except OSError as error:
            listener.close()
            msg = f"cannot listen on {path}: {error.strerror or error}"
            raise UserError(msg) from error
        finally:
            os.umask(mask)
        if group is not None:
            os.chown(path, -1, group)
        self._paths.append(path)
        self.adopt(listener, read_only=read_only)

    def adopt(self, listener: socket.socket, *, read_only: bool) -> None:
        """Accept clients from a socket that is bound."""
        listener.settimeout(0)
        listener.listen(BACKLOG)
        self._listeners.append((listener, read_only))
        self._daemon.loop.add_reader(listener, self._accept, listener, read_only)

    def _accept(self, listener: socket.socket, read_only: bool) -> None:  # noqa: FBT001 - add_reader passes by position
        try:
            endpoint, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            _log.warning("cannot accept a client: %s", error)
            # Out of descriptors: the listener stays readable; look again when some may be free.
            self._daemon.loop.remove_reader(listener)
            self._daemon.loop.call_later(1.0, self._accept_again, listener, read_only)
            return
        if len(self._daemon.connections) >= CLIENTS_MAX:
            _log.warning("turned a client away: %d are connected", CLIENTS_MAX)
            endpoint.close()
            return
        link = SocketLink(self._daemon.loop, endpoint)
        if endpoint.family == socket.AF_UNIX:
            identity = _peer(endpoint)
            secure = True
        else:
            endpoint.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            identity, secure = Identity("tcp"), False
        link.start(Connection(self._daemon, link, identity, read_only=read_only, secure=secure))

    def _accept_again(self, listener: socket.socket, read_only: bool) -> None:  # noqa: FBT001 - call_later, ditto
        if listener.fileno() >= 0:
            self._daemon.loop.add_reader(listener, self._accept, listener, read_only)

    async def watch(self) -> None:
        """Disconnect clients that are gone without a word. Runs until cancelled."""
        while True:
            await asyncio.sleep(KEEPALIVE_INTERVAL_S)
            for connection in list(self._daemon.connections):
                if connection.silent_pings >= KEEPALIVE_COUNT:
                    connection.close("no sign of life")
                elif connection.keepalive:
                    connection.ping()

    def close(self) -> None:
        """Stop listening; remove the sockets' files."""
        for listener, _ in self._listeners:
            self._daemon.loop.remove_reader(listener)
            listener.close()
        self._listeners.clear()
        for path in self._paths:
            path.unlink(missing_ok=True)
        self._paths.clear()


def _peer(endpoint: socket.socket) -> Identity:
    pid, uid, gid = _CREDENTIALS.unpack(endpoint.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    user, groups = None, []
    with contextlib.suppress(KeyError):
        user = pwd.getpwuid(uid).pw_name
        groups = [grp.getgrgid(number).gr_name for number in os.getgrouplist(user, gid)]
    return Identity("unix", uid=uid, gid=gid, pid=pid, user=user, groups=tuple(groups))


def _remove_stale(path: Path) -> None:
    """Remove a socket nobody listens on. Raises UserError where somebody does."""
    if not path.exists():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
            return
    msg = f"{path}: another daemon listens there; stop it or choose another --socket"
    raise UserError(msg)
