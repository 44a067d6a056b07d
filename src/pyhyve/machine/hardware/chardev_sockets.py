"""Character devices on sockets: what `chardevs` opens when one is asked for."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

from pyhyve.backends import chardev_socket
from pyhyve.backends.chardev_socket import SocketChardev

if TYPE_CHECKING:
    from pyhyve.backends.chardev import Chardev

_BACKLOG = 1


def connect_unix(path: str) -> tuple[Chardev, str]:
    """A connection to `path`, and how it is shown. Raises OSError."""
    peer = socket.socket(socket.AF_UNIX)
    try:
        peer.connect(path)
    except OSError:
        peer.close()
        raise
    return SocketChardev(f"unix:{path}", peer=peer), f"unix:{path}"


def take_over(fd: int, name: str, *, is_server: bool) -> tuple[Chardev, str]:
    """A socket that was passed as `name`, and how it is shown."""
    passed = socket.socket(fileno=fd)
    passed.set_inheritable(False)
    shown = passed.getsockname()
    where = f"unix:{shown}" if isinstance(shown, str) and shown else f"fd:{name}"
    if is_server:
        description = f"{where},server=on"
        return SocketChardev(description, listener=passed), description
    return SocketChardev(where, peer=passed), where


def listen_unix(path: str) -> tuple[Chardev, str]:
    """A socket that listens at `path`, and how it is shown. Raises OSError."""
    listener = chardev_socket.listen_unix(Path(path))
    description = f"unix:{path},server=on"
    return SocketChardev(description, listener=listener, path=Path(path)), description


def open_tcp(host: str, port: str, *, is_server: bool) -> tuple[Chardev, str]:
    """A TCP socket that listens or is connected, and how it is shown. Raises OSError."""
    family, kind, protocol, _, where = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE if is_server else 0
    )[0]
    opened = socket.socket(family, kind, protocol)
    try:
        if not is_server:
            opened.connect(where)
            return SocketChardev(f"tcp:{host}:{port}", peer=opened), f"tcp:{host}:{port}"
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(where)
        opened.listen(_BACKLOG)
    except OSError:
        opened.close()
        raise
    name = opened.getsockname()
    description = f"tcp:{name[0]}:{name[1]},server=on"
    return SocketChardev(description, listener=opened), description
