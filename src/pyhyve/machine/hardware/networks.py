"""Network backends by name: `-netdev`, `netdev_add` and `netdev_del`."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyhyve.backends.net import NetError
from pyhyve.machine.block.errors import ChangeError, ChangeKind
from pyhyve.machine.identifiers import is_identifier
from pyhyve.support.logs import late_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pyhyve.backends.net import NetBackend
    from pyhyve.backends.tap import Tap
    from pyhyve.machine.hardware.descriptors import Descriptors

_LOG = late_logger(__name__)
KINDS = ("user", "tap", "bridge", "socket", "stream")
_NO_SCRIPT = {"no", ""}


@dataclass(slots=True, eq=False)
class Netdev:
    """A backend and the card that uses it. A backend serves one card: it is opened again for the next."""

    name: str
    options: Mapping[str, Any]
    backend: NetBackend | None
    user: str = ""
    reopen: Callable[[], NetBackend] | None = None
    """How the backend is opened, when `options` do not say."""


class NetdevSet:
    """All named network backends of one machine."""

    def __init__(self, descriptors: Descriptors) -> None:
        self._descriptors = descriptors
        self._netdevs: dict[str, Netdev] = {}

    def __iter__(self) -> Iterator[Netdev]:
        return iter(list(self._netdevs.values()))

    def find(self, name: str) -> Netdev | None:
        """The backend called `name`."""
        return self._netdevs.get(name)

    def add(self, options: Mapping[str, Any], *, is_ours: bool = False) -> Netdev:
        """Open what `options` (a checked `Netdev`) describe; `is_ours`: we named it. Raises ChangeError."""
        name = str(options["id"])
        if not is_ours and not is_identifier(name):
            msg = "Parameter 'id' expects an identifier"
            raise ChangeError(msg)
        if name in self._netdevs:
            msg = f"Duplicate ID '{name}'"
            raise ChangeError(msg)
        try:
            backend = self._open(options)
        except NetError as error:
            raise ChangeError(str(error)) from error
        except (OSError, ValueError) as error:
            msg = f"netdev {name}: {getattr(error, 'strerror', None) or error}"
            raise ChangeError(msg) from error
        netdev = Netdev(name, options, backend)
        self._netdevs[name] = netdev
        return netdev

    def adopt(self, name: str, reopen: Callable[[], NetBackend]) -> None:
        """Name a backend that `reopen` opens; now, so that it raises what that raises."""
        self._netdevs[name] = Netdev(name, {}, reopen(), reopen=reopen)

    def claim(self, name: str, user: str) -> NetBackend:
        """Have the card `user` use it. Raises ChangeError when it does not exist or is taken."""
        netdev = self._netdevs.get(name)
        if netdev is None:
            msg = f"Property '{user}.netdev' can't find value '{name}'"
            raise ChangeError(msg)
        if netdev.user:
            msg = f"Property '{user}.netdev' can't take value '{name}', it's in use"
            raise ChangeError(msg)
        backend = netdev.backend
        if backend is None:
            try:
                backend = self._open(netdev.options) if netdev.reopen is None else netdev.reopen()
            except (NetError, OSError) as error:
                raise ChangeError(str(error)) from error
        netdev.backend, netdev.user = None, user
        return backend

    def release(self, name: str) -> None:
        """The card is gone; it closed the backend."""
        netdev = self._netdevs.get(name)
        if netdev is not None:
            netdev.user = ""

    def remove(self, name: str) -> None:
        """`netdev_del`. Raises ChangeError when it does not exist, or a card uses it."""
        netdev = self._netdevs.get(name)
        if netdev is None:
            msg = f"Device '{name}' not found"
            raise ChangeError(msg, ChangeKind.NOT_FOUND)
        if netdev.user:
            msg = f"netdev '{name}' is in use by a network card"
            raise ChangeError(msg)
        del self._netdevs[name]
        if netdev.backend is not None:
            netdev.backend.close()

    def close(self) -> None:
        """Close what no card took."""
        for netdev in self._netdevs.values():
            if netdev.backend is not None:
                netdev.backend.close()
        self._netdevs.clear()

    # -- opening ------------------------------------------------------------------------------------------------------

    def _open(self, options: Mapping[str, Any]) -> NetBackend:
        match options["type"]:
            case "user":
                return _open_user(options)
            case "tap":
                return self._open_tap(options)
            case "bridge":
                from pyhyve.machine.plug import tap_on_bridge  # noqa: PLC0415 - netlink takes long to load

                return tap_on_bridge(str(options.get("br", "br0")))
            case "socket":
                return self._open_socket(options)
            case "stream":
                return self._open_stream(options)
            case kind:
                msg = f"netdev type '{kind}' is not supported (use {', '.join(KINDS)})"
                raise ChangeError(msg)

    def _open_tap(self, options: Mapping[str, Any]) -> NetBackend:
        tap = self._make_tap(options)
        tap.vhost = options.get("vhost")
        tap.vhost_fds = [
            self._descriptors.take(name)
            for name in str(options.get("vhostfds") or options.get("vhostfd") or "").split(":")
            if name
        ]
        return tap

    def _make_tap(self, options: Mapping[str, Any]) -> Tap:
        from pyhyve.backends.tap import Tap  # noqa: PLC0415 - only machines with a tap need it

        passed = str(options.get("fds") or options.get("fd") or "")
        if passed:
            return Tap.adopt([self._descriptors.take(name) for name in passed.split(":")])
        if "br" in options and "ifname" not in options:
            from pyhyve.machine.plug import tap_on_bridge  # noqa: PLC0415 - netlink takes long to load

            return tap_on_bridge(str(options["br"]))
        for script in ("script", "downscript"):
            if str(options.get(script, "no")) not in _NO_SCRIPT:
                msg = f"netdev tap: {script}={options[script]} is not supported (use {script}=no)"
                raise ChangeError(msg)
        if "ifname" not in options:
            msg = "netdev tap: name the interface with ifname, or pass a descriptor with fd"
            raise ChangeError(msg)
        return Tap(str(options["ifname"]))

    def _open_socket(self, options: Mapping[str, Any]) -> NetBackend:
        kinds = [kind for kind in ("fd", "listen", "connect", "mcast", "udp") if kind in options]
        if len(kinds) != 1:
            msg = "exactly one of listen=, connect=, mcast= or udp= is required"
            raise ChangeError(msg)
        kind = kinds[0]
        if kind == "fd":
            return _stream(socket.socket(fileno=self._descriptors.take(str(options["fd"]))))
        if kind in {"mcast", "udp"}:
            msg = f"netdev socket: {kind} is not supported (use listen or connect)"
            raise ChangeError(msg)
        host, _, port = str(options[kind]).rpartition(":")
        return _open_address({"type": "inet", "host": host, "port": port}, is_server=kind == "listen")

    def _open_stream(self, options: Mapping[str, Any]) -> NetBackend:
        address = options["addr"]
        if address["type"] == "fd":
            return _stream(socket.socket(fileno=self._descriptors.take(str(address["str"]))))
        return _open_address(address, is_server=bool(options.get("server", False)))


def _stream(connection: socket.socket) -> NetBackend:
    from pyhyve.backends.stream import StreamNet  # noqa: PLC0415 - only machines with such a network

    connection.set_inheritable(False)
    return StreamNet(connection)


def _open_address(address: Mapping[str, Any], *, is_server: bool) -> NetBackend:
    """A frame stream to `address`; as a server, to the first that connects there."""
    from pyhyve.backends.stream_listener import ListeningStreamNet  # noqa: PLC0415 - only machines with such a network

    match address["type"]:
        case "unix":
            where: Any = str(address["path"])
            opened = socket.socket(socket.AF_UNIX)
        case "inet":
            host, port = str(address["host"]), str(address["port"])
            flags = socket.AI_PASSIVE if is_server else 0
            family, kind, protocol, _, where = socket.getaddrinfo(
                host or None, port, type=socket.SOCK_STREAM, flags=flags
            )[0]
            opened = socket.socket(family, kind, protocol)
        case other:
            msg = f"netdev: sockets of type {other} are not supported (use unix, inet or fd)"
            raise ChangeError(msg)
    try:
        if not is_server:
            opened.connect(where)
            return _stream(opened)
        if opened.family != socket.AF_UNIX:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(where)
        opened.listen(1)
    except OSError:
        opened.close()
        raise
    return ListeningStreamNet(opened)


def _open_user(options: Mapping[str, Any]) -> NetBackend:
    from pyhyve.backends.passt import Forward, open_passt  # noqa: PLC0415 - only machines with such a network

    for key in ("net", "host"):
        if key in options:
            msg = f"netdev user: {key} is not supported: the guest gets the host's own addresses"
            raise ChangeError(msg)
    return open_passt([Forward(*parse_forward(item["str"])) for item in options.get("hostfwd", [])])


def parse_forward(text: str) -> tuple[str, int, int, str]:
    """`[PROTOCOL]:[ADDRESS]:PORT-[ADDRESS]:PORT` as (protocol, host port, guest port, host address).

    Raises ChangeError.
    """
    host, dash, guest = text.partition("-")
    protocol, _, where = host.partition(":")
    address, colon, port = where.rpartition(":")
    guest_address, guest_colon, guest_port = guest.rpartition(":")
    numbers_ok = all(
        number.isascii() and number.isdigit() and 0 < int(number[:6]) < 1 << 16 for number in (port, guest_port)
    )
    if not (dash and colon and guest_colon) or guest_address or protocol not in {"", "tcp", "udp"} or not numbers_ok:
        msg = f"hostfwd={text}: write hostfwd=tcp:[ADDRESS]:HOST_PORT-:GUEST_PORT"
        raise ChangeError(msg)
    return protocol or "tcp", int(port), int(guest_port), address
