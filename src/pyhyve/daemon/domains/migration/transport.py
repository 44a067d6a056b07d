"""How the state gets across: a port the destination's machine listens on, or the daemons' own connection."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from pyhyve.daemon.domains.faults import internal, invalid_argument
from pyhyve.daemon.domains.migration.spec import PORTS
from pyhyve.daemon.domains.migration.wish import unsupported_argument
from pyhyve.daemon.errors import LibvirtError
from pyhyve.rpc.errors import ErrorCode, ErrorDomain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pyhyve.daemon.domains.domain import ManagedDomain

__all__ = ["Place", "connect", "hand_over", "listening_places", "parse_place", "pump_in", "pump_out"]

_CHUNK: Final = 256 << 10
CONNECT_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a migration URI leads: a host and port (0: to be chosen), or the path of a unix socket."""

    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def qemu(self) -> str:
        """As QEMU writes it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"unix:{self.path}" if self.scheme == "unix" else f"tcp:{host}:{self.port}"


def parse_place(uri: str) -> Place:
    """Read a migration URI (``tcp://host:port``, ``tcp:host:port``, ``unix:///path``). Raises LibvirtError."""
    text = "tcp://" + uri.removeprefix("tcp:") if uri.startswith("tcp:") and not uri.startswith("tcp://") else uri
    try:
        parts = urlsplit(text)
        port = parts.port or 0
    except ValueError as error:
        raise invalid_argument(f"unable to parse migration URI: {uri}") from error
    if not parts.scheme:
        raise invalid_argument(f"missing scheme in migration URI: {uri}")
    if parts.scheme not in {"tcp", "unix"}:
        raise unsupported_argument(f"unsupported scheme {parts.scheme} in migration URI {uri}")
    if parts.scheme == "unix":
        if not parts.path:
            raise invalid_argument(f"path missing in unix migration URI: {uri}")
        return Place("unix", path=parts.path)
    if not parts.hostname:
        raise invalid_argument(f"missing host in migration URI: {uri}")
    return Place("tcp", parts.hostname, port)


def listening_places(listen: str | None, port: int) -> list[Place]:
    """Return where a destination may listen, best first: on that port, or on a free one of :data:`PORTS`."""
    host = listen or ("::" if _has_ipv6() else "0.0.0.0")  # noqa: S104 - that is what a destination is for
    ports = [port] if port else [number for number in PORTS if _is_free(host, number)]
    if not ports:
        raise internal("Unable to find an unused port in range 'migration' (49152-49215)")
    return [Place("tcp", host, number) for number in ports]


def _has_ipv6() -> bool:
    try:
        with open("/proc/net/if_inet6", encoding="ascii") as file:  # noqa: PTH123 - not a file one has a Path of
            return bool(file.read(1))
    except OSError:
        return False


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.errno != errno.EADDRINUSE
    return True


async def connect(place: Place) -> socket.socket:
    """Connect to a destination's machine. Raises LibvirtError."""
    loop = asyncio.get_running_loop()
    if place.scheme == "unix":
        endpoint = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        addresses = [(socket.AF_UNIX, place.path)]
        endpoint.close()
    else:
        try:
            found = await loop.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
        except OSError as error:
            detail = f"Unable to resolve address '{place.host}' service '{place.port}': {error.strerror}"
            raise _system(detail) from error
        addresses = [(family, address) for family, _, _, _, address in found]  # type: ignore[misc] # either kind
    trouble: OSError = ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
    for family, address in addresses:
        endpoint = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await loop.sock_connect(endpoint, address)
        except (OSError, TimeoutError) as error:
            endpoint.close()
            trouble = error if isinstance(error, OSError) and error.strerror else OSError(errno.ETIMEDOUT, "timed out")
            continue
        endpoint.setblocking(True)  # noqa: FBT003 - the socket module takes it by position
        return endpoint
    if place.scheme == "unix":
        raise _system(f"Failed to connect to unix socket '{place.path}': {trouble.strerror}")
    detail = f"unable to connect to server at '{place.host}:{place.port}': {trouble.strerror}"
    raise _system(detail) from trouble


def _system(detail: str) -> LibvirtError:
    return LibvirtError(ErrorCode.SYSTEM_ERROR, ErrorDomain.QEMU, detail)


async def hand_over(domain: ManagedDomain, endpoint: socket.socket, command: str) -> None:
    """Give a machine a connected socket to ``migrate`` or ``migrate-incoming`` through; it is closed here."""
    with endpoint:
        await domain.monitor("getfd", {"fdname": "migrate"}, fds=(endpoint.fileno(),))
        await domain.monitor(command, {"uri": "fd:migrate"})


async def pump_out(endpoint: socket.socket, send: Callable[[bytes], Awaitable[None]]) -> None:
    """Send on everything a machine writes to its end of a pair, until it closes that. Raises what ``send`` raises."""
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(endpoint, _CHUNK):
        await send(data)


async def pump_in(endpoint: socket.socket, receive: Callable[[], Awaitable[bytes]]) -> None:
    """Give a machine everything that is received, until there is no more or it wants no more."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while data := await receive():
            await loop.sock_sendall(endpoint, data)
