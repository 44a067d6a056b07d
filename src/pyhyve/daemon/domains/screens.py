"""Screens of machines: pictures of them, and sockets to look at them."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.domains.faults import internal, invalid, invalid_argument, unsupported
from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.qmp import QmpError
from pyhyve.rpc.errors import ErrorDomain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pyhyve.daemon.domains.domain import ManagedDomain
    from pyhyve.daemon.streams import Stream

__all__ = ["open_graphics", "open_graphics_fd", "screenshot"]

_CHUNK: Final = 256 << 10
_SKIP_AUTHENTICATION: Final = 1


async def screenshot(domain: ManagedDomain, screen: int) -> tuple[str, Callable[[Stream], Awaitable[None]]]:
    """Take a picture; return its type, and what sends it. Raises LibvirtError."""
    machine = domain.require_active(ErrorDomain.QEMU)
    videos = [item for item in domain.devices.video if item.model is not None and item.model.type != "none"]
    if not videos or not machine.has("screendump"):
        raise invalid("no screens to take screenshot from")
    if screen >= max(len(videos), sum((item.model.heads or 1) if item.model else 1 for item in videos)):
        raise invalid("no such screen ID")
    descriptor, path = tempfile.mkstemp(prefix="screenshot-", dir=domain.registry.daemon.paths.runtime)
    os.close(descriptor)
    arguments: dict[str, Any] = {"filename": path}
    if screen:
        video = videos[min(screen, len(videos) - 1)]
        arguments["device"] = video.alias.name if video.alias is not None else "video0"
    try:
        try:
            await machine.execute("screendump", {**arguments, "format": "png"})
            kind = "image/png"
        except QmpError:
            await domain.monitor("screendump", arguments)
            kind = "image/x-portable-pixmap"
        data = Path(path).read_bytes()
    except OSError as error:
        raise internal(f"cannot read the picture: {error.strerror}") from error
    finally:
        Path(path).unlink(missing_ok=True)

    async def body(stream: Stream) -> None:
        for start in range(0, len(data), _CHUNK):
            await stream.write(data[start : start + _CHUNK])

    return kind, body


def _protocol(domain: ManagedDomain, number: int) -> str:
    domain.require_active()
    graphics = domain.devices.graphics
    if number >= len(graphics):
        raise internal(f"No graphics backend with index {number}")
    kind = graphics[number].type
    if kind not in {"vnc", "spice"}:
        raise unsupported(f"Can only open VNC or SPICE graphics backends, not {kind}", ErrorDomain.QEMU)
    return kind


async def open_graphics(domain: ManagedDomain, number: int, flags: int, descriptor: int) -> None:
    """Have a display serve a socket it is handed. Raises LibvirtError."""
    protocol = _protocol(domain, number)
    if descriptor < 0:
        raise invalid_argument("no file descriptor was passed", ErrorDomain.RPC)
    await domain.monitor("getfd", {"fdname": "graphicsfd"}, fds=(descriptor,))
    arguments = {"protocol": protocol, "fdname": "graphicsfd", "skipauth": bool(flags & _SKIP_AUTHENTICATION)}
    try:
        await domain.monitor("add_client", arguments)
    except LibvirtError:
        if domain.has_command("closefd"):
            await domain.monitor("closefd", {"fdname": "graphicsfd"})
        raise


async def open_graphics_fd(domain: ManagedDomain, number: int, flags: int) -> int:
    """Return one end of a pair of sockets whose other a display serves. Raises LibvirtError."""
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            await open_graphics(domain, number, flags, theirs.fileno())
        except BaseException:
            ours.close()
            raise
    return ours.detach()
