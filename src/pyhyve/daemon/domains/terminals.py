"""Consoles and channels for clients: bytes between a stream and a machine's terminal or socket.

One client has a device at a time, as libvirt has it; another may take it over with the flag for that.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import termios
import tty
from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.domains.faults import internal, system_error
from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.streams import Hole
from pyhyve.rpc.errors import ErrorCode, ErrorDomain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pyhyve.daemon.domains.domain import ManagedDomain
    from pyhyve.daemon.streams import Stream

__all__ = ["channel_body", "console_body"]

_FORCE, _SAFE = 1, 2
_CHUNK: Final = 64 << 10


class _Users:
    """Who has which device open."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[Any]] = {}

    def take(self, alias: str, *, force: bool) -> None:
        """Have a device. Raises LibvirtError where somebody else has it."""
        held = self._tasks.get(alias)
        if held is not None and not held.done():
            if not force:
                raise LibvirtError(
                    ErrorCode.OPERATION_FAILED, ErrorDomain.QEMU, "Active console session exists for this domain"
                )
            held.cancel()
        task = asyncio.current_task()
        if task is not None:
            self._tasks[alias] = task

    def busy(self, alias: str) -> bool:
        """Whether somebody has a device."""
        held = self._tasks.get(alias)
        return held is not None and not held.done()

    def close(self) -> None:
        """The machine is gone."""
        for task in self._tasks.values():
            task.cancel()


def _users(domain: ManagedDomain) -> _Users:
    found: _Users = domain.parts.setdefault("terminals", _Users())
    return found


def _find_console(domain: ManagedDomain, name: str | None) -> Any:
    devices = domain.devices
    everything = (*devices.console, *devices.serial, *devices.parallel)
    if name:
        for item in everything:
            if item.alias is not None and item.alias.name == name:
                return item
        raise internal(f"cannot find console device '{name}'")
    if devices.console:
        return devices.console[0]
    if devices.serial:
        return devices.serial[0]
    raise internal("cannot find console device '<default>'")


def console_body(domain: ManagedDomain, name: str | None, flags: int) -> Callable[[Stream], Awaitable[None]]:
    """Return what serves a console's stream. Raises LibvirtError where there is none to be served."""
    domain.require_active()
    item = _find_console(domain, name)
    alias = item.alias.name if item.alias is not None else "console0"
    path = item.source.path if item.source is not None else None
    if item.type not in {"pty", "unix"} or path is None:
        raise internal(f"character device {alias} is not using a PTY or UNIX socket")
    return _body(domain, alias, item.type, path, flags)


def channel_body(domain: ManagedDomain, name: str | None, flags: int) -> Callable[[Stream], Awaitable[None]]:
    """Return what serves a channel's stream. Raises LibvirtError where there is none to be served."""
    domain.require_active()
    for item in domain.devices.channel:
        target = item.target
        if name and not (
            (item.alias is not None and item.alias.name == name) or (target is not None and target.name == name)
        ):
            continue
        path = item.source.path if item.source is not None else None
        if item.type not in {"unix", "pty"} or path is None:
            raise internal(f"channel {name or '(default)'} is not using a UNIX socket")
        return _body(domain, item.alias.name if item.alias is not None else "channel0", item.type, path, flags)
    raise internal(f"cannot find channel {name or '(default)'}")


def _body(domain: ManagedDomain, alias: str, kind: str, path: str, flags: int) -> Callable[[Stream], Awaitable[None]]:
    users = _users(domain)
    if users.busy(alias) and not flags & _FORCE:
        raise LibvirtError(
            ErrorCode.OPERATION_FAILED, ErrorDomain.QEMU, "Active console session exists for this domain"
        )
    descriptor = _open(kind, path)

    async def body(stream: Stream) -> None:
        try:
            users.take(alias, force=True)
            await _copy_both(descriptor, stream)
        finally:
            os.close(descriptor)

    return body


def _open(kind: str, path: str) -> int:
    try:
        if kind == "pty":
            descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
            with contextlib.suppress(termios.error):
                tty.setraw(descriptor)
            return descriptor
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as endpoint:
            endpoint.settimeout(2)
            endpoint.connect(path)
            endpoint.settimeout(0)
            return endpoint.detach()
    except OSError as error:
        raise system_error(f"unable to open {path}", error) from error


async def _copy_both(descriptor: int, stream: Stream) -> None:
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    out = asyncio.create_task(_to_client(descriptor, stream))
    into = asyncio.create_task(_from_client(descriptor, stream))
    try:
        await asyncio.wait({out, into}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (out, into):
            task.cancel()
        await asyncio.gather(out, into, return_exceptions=True)


async def _ready(descriptor: int, *, write: bool) -> None:
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not waiter.done():
            waiter.set_result(None)

    (loop.add_writer if write else loop.add_reader)(descriptor, wake)
    try:
        await waiter
    finally:
        (loop.remove_writer if write else loop.remove_reader)(descriptor)


async def _to_client(descriptor: int, stream: Stream) -> None:
    while True:
        try:
            data = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            await _ready(descriptor, write=False)
            continue
        except OSError:
            return  # the machine is gone
        if not data:
            return
        await stream.write(data)


async def _from_client(descriptor: int, stream: Stream) -> None:
    while True:
        data = await stream.read()
        if isinstance(data, Hole):
            continue
        if not data:
            return
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(descriptor, view) :]
            except BlockingIOError:
                await _ready(descriptor, write=True)
            except OSError:
                return
