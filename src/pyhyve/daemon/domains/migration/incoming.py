"""The destination's part: prepare and finish."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.domains import lifecycle
from pyhyve.daemon.domains.definition.parse import parse_domain
from pyhyve.daemon.domains.definition.view import inactive_view
from pyhyve.daemon.domains.faults import failed, internal, not_supported
from pyhyve.daemon.domains.migration import parameters, transport
from pyhyve.daemon.domains.migration.cookie import Cookie, form_cookie, own_cookie, parse_cookie
from pyhyve.daemon.domains.migration.spec import OPERATION_IN, STORAGE, MigrateFlags
from pyhyve.daemon.domains.migration.watch import wait_incoming
from pyhyve.daemon.domains.states import (
    DomainState,
    LifecycleEvent,
    PausedReason,
    ResumedDetail,
    RunningReason,
    ShutoffReason,
    StartedDetail,
    StoppedDetail,
    SuspendedDetail,
)
from pyhyve.daemon.errors import LibvirtError
from pyhyve.rpc.errors import ErrorCode, ErrorDomain
from pyhyve.xml.element import replace

if TYPE_CHECKING:
    from pyhyve.daemon.connection import Connection
    from pyhyve.daemon.domains.domain import AsyncJob, ManagedDomain
    from pyhyve.daemon.domains.migration.wish import MigrationWish
    from pyhyve.daemon.domains.registry import DomainRegistry
    from pyhyve.daemon.streams import Stream
    from pyhyve.rpc.values import Domain as DomainRef

__all__ = ["Incoming", "finish", "prepare", "receive_tunnelled"]

_LISTENS: Final = "in use"
_LOG_TAIL: Final = 2000
"""Bytes of a machine's last words."""


class Incoming:
    """A machine that waits for its state, or (``domain`` None) a definition that waits for the word to be kept."""

    def __init__(self, registry: DomainRegistry, definition: Any, cookie: Cookie | None) -> None:
        self.registry = registry
        self.trouble: LibvirtError | None = None
        """Why the machine is gone before it got its state."""
        self.log = Path("/dev/null")
        self.log_offset = 0
        self.definition = definition
        self.cookie = cookie
        self.domain: ManagedDomain | None = None
        self.job: AsyncJob | None = None
        self.held = contextlib.AsyncExitStack()
        self.tunnel: socket.socket | None = None
        """Our end of the pair a machine reads from, until somebody writes to it, who closes it."""

    def close(self) -> None:
        """The machine is gone."""
        self._close_tunnel()
        domain = self.domain
        if domain is not None:
            said = self._log_tail()
            self.trouble = internal(f"qemu unexpectedly closed the monitor: {said}")
            domain.registry.spawn(self.held.aclose(), f"the end of the migration of {domain.name}")

    def note_log(self, domain: ManagedDomain) -> None:
        """Remember where in its log the machine is, now that it started."""
        if domain.record is not None:
            self.log = Path(domain.record.log)
            with contextlib.suppress(OSError):
                self.log_offset = self.log.stat().st_size

    def _log_tail(self) -> str:
        """Return what the machine wrote to its log since."""
        try:
            with self.log.open("rb") as file:
                file.seek(self.log_offset)
                return file.read(_LOG_TAIL).decode(errors="replace").strip()
        except OSError:
            return ""

    def client_gone(self, connection: Connection) -> None:
        """The client that leads the migration hung up; a machine that waits ends with it."""
        del connection
        waiting = self.registry.incoming
        if waiting.get(self.definition.name) is self:
            del waiting[self.definition.name]

    async def release(self) -> None:
        """Let others change the domain."""
        if self.domain is not None:
            self.domain.parts.pop("migration-in", None)
        self._close_tunnel()
        await self.held.aclose()

    def _close_tunnel(self) -> None:
        tunnel, self.tunnel = self.tunnel, None
        if tunnel is not None:
            tunnel.close()


async def prepare(
    registry: DomainRegistry, wish: MigrationWish, cookie_in: bytes, connection: Connection, *, tunnelled: bool = False
) -> tuple[bytes, str | None, Incoming]:
    """Have a machine ready that waits for its state; return a cookie and the migration URI. Raises LibvirtError."""
    cookie = parse_cookie(cookie_in)
    own = await registry.host_uuid()
    if cookie is not None and cookie.host_uuid == own:
        raise internal(f"Attempt to migrate guest to the same host {own}")
    if wish.document is None:
        raise internal("no domain XML passed")
    definition = await _definition(registry, wish.document, wish.name)
    for permission in ("domain:write", "domain:start", "domain:migrate"):
        connection.require(permission, definition.name, b"")
    if cookie is not None and cookie.uuid != definition.uuid:
        raise internal(f"Incoming cookie data had unexpected UUID {cookie.uuid} vs {definition.uuid}")
    under_way = registry.incoming.get(definition.name)
    if under_way is not None and under_way.trouble is None:
        raise failed(f"domain '{definition.name}' is being migrated already", ErrorDomain.DOMAIN)
    if wish.has(STORAGE):
        raise not_supported("this daemon does not take copies of disks")
    place = None if tunnelled else await _place(registry, wish)
    incoming = Incoming(registry, definition, cookie)
    known = registry.check_unique(definition, inactive_only=True)
    if wish.has(MigrateFlags.OFFLINE):
        registry.incoming[definition.name] = incoming
        connection.on_close(incoming.client_gone)
        return (
            form_cookie(await own_cookie(registry, definition.name, definition.uuid)),
            _uri_out(wish, place),
            incoming,
        )
    domain = known or registry.add(definition)
    incoming.domain = domain
    try:
        incoming.job = await incoming.held.enter_async_context(domain.long_job(OPERATION_IN, "migration in"))
        registry.watch(connection)
        port = await _start(domain, incoming, wish, connection, place)
    except BaseException:
        await incoming.held.aclose()
        if not domain.persistent and not domain.active:
            registry.remove(domain)
        raise
    registry.incoming[definition.name] = incoming
    connection.on_close(incoming.client_gone)
    domain.parts["migration-in"] = incoming
    uri = None if place is None else _uri_out(wish, replace_port(place, port))
    return form_cookie(await own_cookie(registry, definition.name, definition.uuid)), uri, incoming


def replace_port(place: transport.Place, port: int) -> transport.Place:
    """Return a place with the port that was chosen."""
    return transport.Place(place.scheme, place.host, port or place.port, place.path)


async def _definition(registry: DomainRegistry, document: str, name: str | None) -> Any:
    parsed = await registry.daemon.run_blocking(parse_domain, document)
    if name is not None:
        parsed = replace(parsed, name=name)
    return await registry.complete_parsed(parsed)


async def _place(registry: DomainRegistry, wish: MigrationWish) -> transport.Place:
    """Return where the source is to send the state. Raises LibvirtError."""
    if wish.uri is not None:
        return transport.parse_place(wish.uri)
    hostname = await registry.daemon.run_blocking(registry.driver.host.hostname)
    if hostname.startswith("localhost"):
        raise internal("hostname on destination resolved to localhost, but migration requires an FQDN")
    return transport.Place("tcp", hostname)


def _uri_out(wish: MigrationWish, place: transport.Place | None) -> str | None:
    if place is None:
        return None
    if wish.uri is not None and (place.scheme == "unix" or transport.parse_place(wish.uri).port):
        return wish.uri
    if wish.uri is not None:
        return f"{wish.uri}:{place.port}"
    return f"tcp:{place.host}:{place.port}"


async def _start(
    domain: ManagedDomain,
    incoming: Incoming,
    wish: MigrationWish,
    connection: Connection,
    place: transport.Place | None,
) -> int:
    """Start the machine and have it listen; return the port. Nothing is left where that fails."""
    await lifecycle.start(domain, incoming="defer", definition=incoming.definition, owner=connection, announce=None)
    try:
        incoming.note_log(domain)
        domain.set_state(DomainState.PAUSED, PausedReason.MIGRATION)
        await parameters.apply(domain, wish, incoming=True)
        port = 0
        if place is None:
            near, far = socket.socketpair()
            near.setblocking(False)  # noqa: FBT003 - the socket module takes it by position
            incoming.tunnel = near
            await transport.hand_over(domain, far, "migrate-incoming")
        else:
            port = await _listen(domain, wish, place)
        domain.lifecycle(LifecycleEvent.STARTED, StartedDetail.MIGRATED)
    except BaseException:
        await asyncio.shield(_end(domain))
        raise
    return port


async def _listen(domain: ManagedDomain, wish: MigrationWish, place: transport.Place) -> int:
    if place.scheme == "unix":
        await domain.monitor("migrate-incoming", {"uri": place.qemu})
        return 0
    run_blocking = domain.registry.daemon.run_blocking
    where = await run_blocking(transport.listening_places, wish.listen, place.port)
    for number, each in enumerate(where):
        try:
            await domain.monitor("migrate-incoming", {"uri": each.qemu})
        except LibvirtError as error:
            if _LISTENS not in str(error) or number + 1 == len(where):
                raise
        else:
            return each.port
    raise internal("no port to listen on")


async def _end(domain: ManagedDomain) -> None:
    if domain.active:
        with contextlib.suppress(LibvirtError):
            await lifecycle.end(domain, ShutoffReason.FAILED, StoppedDetail.FAILED)


async def receive_tunnelled(incoming: Incoming, stream: Stream) -> None:
    """Give a machine the state that arrives on the daemons' connection."""
    tunnel, incoming.tunnel = incoming.tunnel, None
    if tunnel is None:
        raise internal("the machine is gone")

    async def receive() -> bytes:
        piece = await stream.read()
        return bytes(piece) if isinstance(piece, int) else piece

    with tunnel:
        await transport.pump_in(tunnel, receive)


async def finish(
    registry: DomainRegistry, name: str, wish: MigrationWish, cookie_in: bytes, *, cancelled: bool
) -> tuple[DomainRef, bytes]:
    """Let the machine run that got its state; (``cancelled``) end it. Raises LibvirtError, then it is gone."""
    incoming = registry.incoming.pop(name, None)
    if incoming is None:
        raise LibvirtError(ErrorCode.NO_DOMAIN, ErrorDomain.QEMU, f"no domain with matching name '{name}'")
    cookie = parse_cookie(cookie_in)
    try:
        if incoming.trouble is not None:
            raise incoming.trouble
        if incoming.domain is None:
            if cancelled:
                raise _aborted()
            return await _keep_offline(registry, incoming, cookie)
        if cancelled:
            await _end(incoming.domain)
            raise _aborted()
        try:
            await _finish(incoming.domain, incoming, wish, cookie)
        except BaseException:
            await asyncio.shield(_end(incoming.domain))
            raise
        domain = incoming.domain
        statistics = cookie.statistics if cookie is not None else None
        definition = incoming.definition
        own = await own_cookie(registry, definition.name, definition.uuid, statistics=statistics)
        return domain.ref, form_cookie(own)
    finally:
        await incoming.release()


def _aborted() -> LibvirtError:
    """What a destination answers that was told to give up, and did: clients tell it from real trouble by its code."""
    return LibvirtError(ErrorCode.MIGRATE_FINISH_OK, ErrorDomain.QEMU, "migration successfully aborted")


async def _keep_offline(registry: DomainRegistry, incoming: Incoming, cookie: Cookie | None) -> tuple[DomainRef, bytes]:
    definition = incoming.definition
    if cookie is not None and cookie.persistent is not None:
        definition = await _definition(registry, cookie.persistent, definition.name)
    domain = await registry.define(definition)
    return domain.ref, form_cookie(await own_cookie(registry, definition.name, definition.uuid))


async def _finish(domain: ManagedDomain, incoming: Incoming, wish: MigrationWish, cookie: Cookie | None) -> None:
    registry = domain.registry
    if not domain.active:
        raise internal("guest unexpectedly quit")
    status = await wait_incoming(domain)
    paused = wish.has(MigrateFlags.PAUSED)
    if status != "completed":
        await lifecycle.let_run(domain, RunningReason.POSTCOPY, ResumedDetail.POSTCOPY)
        await wait_incoming(domain, postcopy=False)
        domain.set_state(DomainState.RUNNING, RunningReason.MIGRATED)
        domain.lifecycle(LifecycleEvent.RESUMED, ResumedDetail.MIGRATED)
    elif not paused:
        await lifecycle.let_run(domain, RunningReason.MIGRATED, ResumedDetail.MIGRATED)
    await parameters.reset(domain)
    domain.owner = None
    if domain.record is not None:
        domain.record.autodestroy = False
    await lifecycle.began(domain)
    if wish.has(MigrateFlags.PERSIST_DEST):
        if cookie is not None and cookie.persistent is not None:
            definition = await _definition(registry, cookie.persistent, domain.name)
        else:
            definition = inactive_view(incoming.definition)
        try:
            await registry.define(definition)
        except LibvirtError as error:
            raise LibvirtError(ErrorCode.MIGRATE_PERSIST_FAILED, ErrorDomain.QEMU, str(error)) from error
        if domain.record is not None:
            domain.record.transient = False
            await domain.save_record()
    if paused:
        domain.set_state(DomainState.PAUSED, PausedReason.USER)
        domain.lifecycle(LifecycleEvent.SUSPENDED, SuspendedDetail.PAUSED)
    job = incoming.job
    if job is not None and cookie is not None and cookie.statistics is not None:
        job.progress |= {name: value for name, value in cookie.statistics.items() if name != "time_elapsed"}
        job.progress |= {
            f"data_{what}": job.progress.get(f"memory_{what}", 0) for what in ("total", "processed", "remaining")
        }
