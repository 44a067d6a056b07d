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
from functools import partial
from typing import TYPE_CHECKING, Final

from pyhyve.daemon.access import Identity
from pyhyve.daemon.connection import Connection
from pyhyve.daemon.link import SocketLink, TransportLink
from pyhyve.daemon.settings import Settings
from pyhyve.daemon.tls import ACCEPTED, allowed_name, distinguished_name, server_context
from pyhyve.support.errors import InputError, UserError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pyhyve.daemon.activation import Inherited
    from pyhyve.daemon.daemon import Daemon

__all__ = ["TCP_PORT", "TLS_PORT", "Service", "parse_address"]

_log = logging.getLogger(__name__)
_CREDENTIALS: Final = struct.Struct("iII")
TCP_PORT: Final = 16509
TLS_PORT: Final = 16514
BACKLOG: Final = 128
STRANGERS_MAX: Final = 64
"""Clients at the same time that have not said who they are."""
AUTHENTICATION_S: Final = 60.0
"""How long a client has for that."""
HANDSHAKE_S: Final = 20.0
_ACCEPTS: Final = 16
"""Clients taken in before the event loop serves others again."""


def parse_address(text: str, port: int) -> tuple[str, int]:
    """Return host and port of ``HOST[:PORT]`` (``[::1]:PORT`` with IPv6; nothing: all addresses). Raises InputError."""
    host, _, number = text.rpartition(":") if ":" in text.rpartition("]")[2] else (text, "", str(port))
    if not number.isdigit() or not 0 < int(number) < 1 << 16:
        msg = f"{text}: not an address (write HOST:PORT)"
        raise InputError(msg)
    return host.removeprefix("[").removesuffix("]"), int(number)


class Service:
    """The sockets of one daemon."""

    def __init__(self, daemon: Daemon, settings: Settings | None = None) -> None:
        self._daemon = daemon
        self._settings = settings or Settings()
        self._listeners: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []
        self._paths: list[Path] = []
        self._tls: ssl.SSLContext | None = None

    # -- unix ---------------------------------------------------------------------------------------------------------

    def listen_unix(self, path: Path, *, read_only: bool, mode: int, group: int | None = None) -> None:
        """Listen on a unix socket. Raises UserError where that cannot be, as when another daemon does."""
        _remove_stale(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        mask = os.umask(0o777 & ~mode)
        try:
            listener.bind(str(path))
            if group is not None:
                os.chown(path, -1, group)
        except OSError as error:
            listener.close()
            msg = f"cannot listen on {path}: {error.strerror or error}"
            raise UserError(msg) from error
        finally:
            os.umask(mask)
        self._paths.append(path)
        self._accept_from(listener, partial(self._take_local, read_only=read_only))

    def _accept_from(self, listener: socket.socket, take: Callable[[socket.socket], None]) -> None:
        listener.settimeout(0)
        listener.listen(BACKLOG)
        self._listeners.append(listener)
        self._daemon.loop.add_reader(listener, self._accept, listener, take)

    def _accept(self, listener: socket.socket, take: Callable[[socket.socket], None]) -> None:
        for _ in range(_ACCEPTS):
            try:
                endpoint, _ = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                _log.warning("cannot accept a client: %s", error)
                # Out of descriptors: the listener stays readable; look again when some may be free.
                self._daemon.loop.remove_reader(listener)
                self._daemon.loop.call_later(1.0, self._accept_again, listener, take)
                return
            if self._is_full():
                endpoint.close()
                continue
            try:
                take(endpoint)
            except OSError as error:  # gone again already
                _log.info("a client did not stay: %s", error)
                endpoint.close()

    def _accept_again(self, listener: socket.socket, take: Callable[[socket.socket], None]) -> None:
        if listener.fileno() >= 0:
            self._daemon.loop.add_reader(listener, self._accept, listener, take)

    def _take_local(self, endpoint: socket.socket, *, read_only: bool = False) -> None:
        identity = _peer(endpoint)
        link = SocketLink(self._daemon.loop, self._daemon.readiness, endpoint)
        connection = Connection(self._daemon, link, identity, read_only=read_only)
        self._admit(connection, self._settings.unix.auth)
        link.start(connection)

    def _take_remote(self, endpoint: socket.socket) -> None:
        host, port = endpoint.getpeername()[:2]
        endpoint.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = SocketLink(self._daemon.loop, self._daemon.readiness, endpoint, passes_descriptors=False)
        connection = Connection(self._daemon, link, Identity("tcp", address=f"{host}:{port}"), secure=False)
        self._admit(connection, self._settings.tcp.auth)
        link.start(connection)

    # -- TCP and TLS --------------------------------------------------------------------------------------------------

    async def listen_tcp(self, address: str) -> None:
        """Listen for unencrypted connections on ``HOST[:PORT]``. Raises UserError."""
        host, port = parse_address(address, TCP_PORT)
        try:
            for listener in await _tcp_listeners(self._daemon.loop, host or None, port):
                self._accept_from(listener, self._take_remote)
        except OSError as error:
            msg = f"cannot listen on tcp:{address}: {error.strerror or error}"
            raise UserError(msg) from error

    async def listen_tls(self, address: str) -> None:
        """Listen for encrypted connections on ``HOST[:PORT]``. Raises UserError."""
        host, port = parse_address(address, TLS_PORT)
        await self._serve_tls((host or None, port))

    async def adopt(self, inherited: Sequence[Inherited]) -> None:
        """Accept clients from sockets systemd opened. Raises UserError."""
        for each in inherited:
            if each.kind == "unix":
                self._accept_from(each.listener, partial(self._take_local, read_only=each.read_only))
            elif each.kind == "tcp":
                self._accept_from(each.listener, self._take_remote)
            else:
                await self._serve_tls(None, each.listener)

    async def _serve_tls(self, address: tuple[str | None, int] | None, listener: socket.socket | None = None) -> None:
        context = self._tls = self._tls or server_context(self._settings.tls)
        loop = self._daemon.loop
        try:
            if address is not None:
                host, port = address
                server = await loop.create_server(
                    self._tls_link, host, port, ssl=context, backlog=BACKLOG, ssl_handshake_timeout=HANDSHAKE_S
                )
            else:
                assert listener is not None  # noqa: S101 - for the type checker: it is one or the other
                server = await loop.create_server(
                    self._tls_link, sock=listener, ssl=context, backlog=BACKLOG, ssl_handshake_timeout=HANDSHAKE_S
                )
        except OSError as error:
            msg = f"cannot listen on tls:{address}: {error.strerror or error}"
            raise UserError(msg) from error
        self._servers.append(server)

    def _tls_link(self) -> TransportLink:
        return TransportLink(self._started_tls)

    def _started_tls(self, link: TransportLink) -> Connection | None:
        name = distinguished_name(link.certificate)
        if not allowed_name(name, self._settings.tls.allowed_names):
            _log.warning("client %s: certificate %r is not among tls.allowed_names", link.peer, name)
            return None
        if self._is_full():
            return None
        identity = Identity("tls", address=link.peer, certificate=name)
        connection = Connection(self._daemon, link, identity)
        self._admit(connection, self._settings.tls.auth)
        link.send(ACCEPTED)
        return connection

    # -- clients ------------------------------------------------------------------------------------------------------

    def _is_full(self) -> bool:
        strangers = sum(not connection.authenticated for connection in self._daemon.connections)
        if len(self._daemon.connections) < self._settings.limits.clients and strangers < STRANGERS_MAX:
            return False
        _log.warning("turned a client away: %d are connected", len(self._daemon.connections))
        return True

    def _admit(self, connection: Connection, auth: str) -> None:
        if auth == "sasl":
            connection.authenticated = False
            self._daemon.loop.call_later(AUTHENTICATION_S, _dismiss_stranger, connection)

    async def watch(self) -> None:
        """Disconnect clients that are gone without a word. Runs until cancelled."""
        limits = self._settings.limits
        while True:
            await asyncio.sleep(limits.keepalive_interval_s)
            for connection in list(self._daemon.connections):
                if connection.silent_pings >= limits.keepalive_count:
                    connection.close("no sign of life")
                else:
                    connection.ping()

    def reload(self) -> None:
        """Read the certificates again; connections that stand go on. Raises UserError."""
        if self._tls is None:
            return
        settings = self._settings.tls
        server_context(settings)  # as a whole first, so that a bad file changes nothing
        self._tls.load_cert_chain(settings.certificate, settings.key)
        self._tls.load_verify_locations(settings.ca)

    def close(self) -> None:
        """Stop listening; remove the sockets' files."""
        for listener in self._listeners:
            self._daemon.loop.remove_reader(listener)
            listener.close()
        self._listeners.clear()
        for server in self._servers:
            server.close()
        self._servers.clear()
        for path in self._paths:
            path.unlink(missing_ok=True)
        self._paths.clear()


async def _tcp_listeners(loop: asyncio.AbstractEventLoop, host: str | None, port: int) -> list[socket.socket]:
    """Return a bound socket for each address a name stands for (no name: any of the host's). Raises OSError."""
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            try:
                listener = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
            except OSError:  # a host without that family
                continue
            listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _dismiss_stranger(connection: Connection) -> None:
    if not connection.authenticated and not connection.closed:
        connection.close("it did not authenticate")


def _peer(endpoint: socket.socket) -> Identity:
    pid, uid, gid = _CREDENTIALS.unpack(endpoint.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    user, groups = None, []
    with contextlib.suppress(KeyError):
        user = pwd.getpwuid(uid).pw_name
        for number in os.getgrouplist(user, gid):
            with contextlib.suppress(KeyError):
                groups.append(grp.getgrgid(number).gr_name)
    return Identity("unix", uid=uid, gid=gid, pid=pid, user=user, groups=tuple(groups))


def _remove_stale(path: Path) -> None:
    """Remove a socket nobody listens on. Raises UserError where somebody does, or where it is no socket."""
    if not path.exists():
        return
    if not path.is_socket():
        msg = f"{path}: is no socket; remove it or choose another --socket"
        raise UserError(msg)
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
            return
    msg = f"{path}: another daemon listens there; stop it or choose another --socket"
    raise UserError(msg)
