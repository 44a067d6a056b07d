"""The source's part: begin, perform, confirm.

What is between begin and confirm is kept with the domain (:class:`Outgoing`); while it is, nothing else is changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from enum import Enum
from typing import TYPE_CHECKING, Final

from pyhyve.daemon.domains import lifecycle
from pyhyve.daemon.domains.definition.stable import check_same_domain, check_same_guest
from pyhyve.daemon.domains.definition.view import format_domain, inactive_view, migratable_view
from pyhyve.daemon.domains.definitions import undefine
from pyhyve.daemon.domains.faults import failed, invalid, not_supported
from pyhyve.daemon.domains.migration import parameters, safety, transport
from pyhyve.daemon.domains.migration.cookie import form_cookie, own_cookie, parse_cookie
from pyhyve.daemon.domains.migration.spec import OPERATION_OUT, STORAGE, MigrateFlags
from pyhyve.daemon.domains.migration.watch import wait_outgoing
from pyhyve.daemon.domains.states import (
    DomainState,
    LifecycleEvent,
    PausedReason,
    ResumedDetail,
    RunningReason,
    ShutoffReason,
    StoppedDetail,
    SuspendedDetail,
)
from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.events import DomainEvent
from pyhyve.rpc.values import ParamType, TypedParam

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pyhyve.daemon.connection import Connection
    from pyhyve.daemon.domains.domain import AsyncJob, ManagedDomain
    from pyhyve.daemon.domains.migration.wish import MigrationWish

__all__ = ["Outgoing", "begin", "confirm", "form_begin", "perform", "run", "settle"]

_log = logging.getLogger(__name__)
_KEY: Final = "migration-out"
MOVING: Final = "moving"
"""What a machine did before it began to move, in the details of its record."""
_RECOVER_TRIES: Final = 100
_RECOVER_PAUSE_S: Final = 0.1


class Phase(Enum):
    """How far a migration is."""

    BEGUN = "begun"
    PERFORMING = "performing"
    PERFORMED = "performed"


class Outgoing:
    """A migration that began and is not confirmed; holds the domain's job."""

    def __init__(self, domain: ManagedDomain, held: contextlib.AsyncExitStack, job: AsyncJob) -> None:
        self.domain = domain
        self.job = job
        self.phase = Phase.BEGUN
        self.was_running = domain.state is DomainState.RUNNING
        self.postcopy = False
        """The destination's machine runs already."""
        self.led_here = False
        """No client leads it through its steps: it is peer to peer."""
        self.leaderless = False
        """The client that led it is gone."""
        self._held = held
        self.over = False
        self.done = False
        """The domain moved."""

    async def release(self) -> None:
        """Let others change the domain again."""
        if not self.over:
            self.over = True
            if self.domain.parts.get(_KEY) is self:
                del self.domain.parts[_KEY]
            await self._held.aclose()
            if not self.done:
                self.domain.last_job = None

    def client_gone(self, connection: Connection) -> None:
        """The client that leads the migration hung up."""
        del connection
        if not self.over:
            name = self.domain.name
            self.domain.registry.spawn(self._abandon(), f"the migration of {name} without its client")

    async def _abandon(self) -> None:
        self.leaderless = True
        if self.phase is Phase.PERFORMING:
            await cancel(self.domain, self.job)
            return  # who performs finds out
        if self.led_here:
            return
        if self.phase is Phase.PERFORMED:
            # The destination may run it or not: only somebody who looks there may resume it here.
            _log.warning("%s moved, but nobody said whether it runs at its destination", self.domain.name)
        await self.release()


async def open_outgoing(domain: ManagedDomain) -> Outgoing:
    """Have the domain to oneself for a migration. Raises LibvirtError."""
    held = contextlib.AsyncExitStack()
    job = await held.enter_async_context(domain.long_job(OPERATION_OUT, "migration out"))
    outgoing = Outgoing(domain, held, job)
    domain.parts[_KEY] = outgoing
    return outgoing


def _current(domain: ManagedDomain) -> Outgoing | None:
    found = domain.parts.get(_KEY)
    return found if isinstance(found, Outgoing) else None


async def cancel(domain: ManagedDomain, job: AsyncJob) -> None:
    """Have a machine that sends its state stop doing so."""
    job.aborted.set()
    with contextlib.suppress(LibvirtError):
        await domain.monitor("migrate_cancel")


# -- begin ------------------------------------------------------------------------------------------------------------


async def begin(domain: ManagedDomain, wish: MigrationWish, connection: Connection) -> tuple[bytes, str]:
    """Check that a domain may move; return a cookie and its document for the destination. Raises LibvirtError."""
    if not wish.has(MigrateFlags.CHANGE_PROTECTION):
        async with domain.job("migration out"):
            return await form_begin(domain, wish)
    outgoing = await open_outgoing(domain)
    try:
        answer = await form_begin(domain, wish)
    except BaseException:
        await outgoing.release()
        raise
    if domain.active:
        connection.on_close(outgoing.client_gone)
    else:
        await outgoing.release()
    return answer


async def form_begin(domain: ManagedDomain, wish: MigrationWish) -> tuple[bytes, str]:
    """As :func:`begin`, for who has the domain's job."""
    offline = wish.has(MigrateFlags.OFFLINE) and not domain.active
    if not offline:
        domain.require_active()
        if not domain.has_command("migrate"):
            raise not_supported("this emulator cannot move machines")
    safety.check_allowed(domain)
    await domain.registry.daemon.run_blocking(safety.check_safe, domain, wish)
    if wish.document is not None:
        definition = await domain.registry.complete(wish.document)
        check_same_guest(migratable_view(domain.current), definition)
        document = format_domain(definition, secure=True)
    else:
        held = domain.current
        document = format_domain(held if offline else migratable_view(held), secure=True)
    if wish.persistent_document is not None:
        kept = await domain.registry.complete(wish.persistent_document)
        check_same_domain(domain.current, kept)
    cookie = await own_cookie(domain.registry, domain.name, domain.uuid_text)
    return form_cookie(cookie), document


# -- perform ----------------------------------------------------------------------------------------------------------


async def perform(domain: ManagedDomain, wish: MigrationWish, cookie_in: bytes) -> bytes:
    """Send a machine's state to a destination that is prepared; return a cookie for it. Raises LibvirtError."""
    if wish.has(MigrateFlags.OFFLINE) and not domain.active:
        return await _last_cookie(domain, wish)
    outgoing = _current(domain) or await open_outgoing(domain)
    if outgoing.phase is not Phase.BEGUN:
        raise invalid("migration is already under way")
    try:
        return await run(outgoing, wish, cookie_in)
    except BaseException:
        if not wish.has(MigrateFlags.CHANGE_PROTECTION):
            await outgoing.release()
        raise
    finally:
        if outgoing.leaderless:
            await outgoing.release()


async def run(
    outgoing: Outgoing,
    wish: MigrationWish,
    cookie_in: bytes,
    send: Callable[[bytes], Awaitable[None]] | None = None,
) -> bytes:
    """Send the state, over the network or (tunnelled) with ``send``. On failure the machine goes on as it was."""
    domain, job = outgoing.domain, outgoing.job
    domain.require_active()
    cookie = parse_cookie(cookie_in)
    outgoing.phase = Phase.PERFORMING
    outgoing.was_running = domain.state is DomainState.RUNNING
    if wish.has(STORAGE) and (cookie is None or cookie.nbd_port is None):
        raise not_supported("the destination does not take copies of disks")
    domain.parts["suspend"] = (PausedReason.MIGRATION, SuspendedDetail.MIGRATED)
    await _remember(domain, "running" if outgoing.was_running else "paused")
    try:
        if not wish.has(MigrateFlags.LIVE) and outgoing.was_running:
            await lifecycle.suspend(domain, PausedReason.MIGRATION, SuspendedDetail.MIGRATED)
            domain.parts["suspend"] = (PausedReason.MIGRATION, SuspendedDetail.MIGRATED)
        place = transport.parse_place(wish.uri) if send is None and wish.uri is not None else None
        await parameters.apply(domain, wish, incoming=False, peer=place.host if place is not None else None)
        job.migrating = True
        if job.aborted.is_set():
            await wait_outgoing(domain, job, ())
        if send is not None:
            await _send_through(domain, job, send)
            status = "completed"
        else:
            await _send_to(domain, wish, place)
            ends = {"completed", "postcopy-active"} if wish.has(MigrateFlags.POSTCOPY) else {"completed"}
            status = await wait_outgoing(domain, job, ends)
        if status == "postcopy-active":
            outgoing.postcopy = True
            domain.set_state(DomainState.PAUSED, PausedReason.POSTCOPY)
            domain.lifecycle(LifecycleEvent.SUSPENDED, SuspendedDetail.POSTCOPY)
        outgoing.phase = Phase.PERFORMED
        job.migrating = False
        await _stands(domain)
        return await _last_cookie(domain, wish, dict(job.progress))
    except BaseException as error:
        outgoing.phase = Phase.BEGUN
        job.migrating = False
        await asyncio.shield(settle(outgoing))
        await _remember(domain, None)
        if isinstance(error, LibvirtError) and not domain.active:
            raise failed("domain is no longer running") from error
        raise
    finally:
        domain.parts.pop("suspend", None)


async def _remember(domain: ManagedDomain, state: str | None) -> None:
    """Note in a machine's record that it is moving, and what it did before, for a daemon that finds it so."""
    if domain.record is not None and not domain.is_left:
        if state is None:
            domain.record.details.pop(MOVING, None)
        else:
            domain.record.details[MOVING] = state
        await domain.save_record()


async def recover(domain: ManagedDomain, before: str) -> None:
    """Deal with a machine that was moving when the daemon ended: keep it here unless all of it was sent."""
    status = "none"
    for _ in range(_RECOVER_TRIES):
        status = (await domain.monitor("query-migrate")).get("status", "none")
        if status not in {"setup", "active", "device", "cancelling", "pre-switchover"}:
            break
        await domain.monitor("migrate_cancel")
        await asyncio.sleep(_RECOVER_PAUSE_S)
    await _remember(domain, None)
    if status in {"completed", "postcopy-active", "postcopy-paused"}:
        _log.warning("%s moved, but nobody said whether it runs at its destination", domain.name)
        domain.set_state(DomainState.PAUSED, PausedReason.MIGRATION)
        return
    await parameters.reset(domain)
    if before == "running" and (await domain.monitor("query-status"))["status"] != "running":
        await lifecycle.let_run(domain, RunningReason.MIGRATION_CANCELED, ResumedDetail.MIGRATED)


async def _stands(domain: ManagedDomain) -> None:
    """Note that a machine whose state was sent stands still, should it not have said so."""
    if domain.active and domain.state is DomainState.RUNNING:
        lifecycle.paused(domain)


async def _send_to(domain: ManagedDomain, wish: MigrationWish, place: transport.Place | None) -> None:
    if place is None:
        raise invalid("the destination did not say where to send the machine's state")
    if wish.has(MigrateFlags.PARALLEL):
        await domain.monitor("migrate", {"uri": place.qemu})  # several connections: the machine makes them itself
        return
    await transport.hand_over(domain, await transport.connect(place), "migrate")


async def _send_through(domain: ManagedDomain, job: AsyncJob, send: Callable[[bytes], Awaitable[None]]) -> None:
    """Have a machine write to one end of a pair, and send on what comes out of the other."""
    near, far = socket.socketpair()
    near.setblocking(False)  # noqa: FBT003 - the socket module takes it by position
    with near:
        await transport.hand_over(domain, far, "migrate")
        sending = asyncio.ensure_future(transport.pump_out(near, send))
        watching = asyncio.ensure_future(wait_outgoing(domain, job, {"completed"}))
        try:
            await asyncio.wait({sending, watching}, return_when=asyncio.FIRST_EXCEPTION)
            if sending.done() and sending.exception() is not None:
                await cancel(domain, job)
            for task in (sending, watching):
                await task
        finally:
            for task in (sending, watching):
                task.cancel()
            await asyncio.gather(sending, watching, return_exceptions=True)


async def _last_cookie(domain: ManagedDomain, wish: MigrationWish, statistics: dict[str, int] | None = None) -> bytes:
    kept: str | None = None
    if wish.has(MigrateFlags.PERSIST_DEST):
        if wish.persistent_document is not None:
            definition = await domain.registry.complete(wish.persistent_document)
        else:
            definition = domain.definition or inactive_view(domain.current)
        kept = format_domain(definition, secure=True)
    return form_cookie(
        await own_cookie(domain.registry, domain.name, domain.uuid_text, persistent=kept, statistics=statistics)
    )


async def settle(outgoing: Outgoing) -> None:
    """Let a machine that did not move go on as it was."""
    domain = outgoing.domain
    if not domain.active:
        return
    with contextlib.suppress(LibvirtError):
        await parameters.reset(domain)
    if outgoing.was_running and domain.state is DomainState.PAUSED and domain.reason == PausedReason.MIGRATION:
        with contextlib.suppress(LibvirtError):
            await lifecycle.let_run(domain, RunningReason.MIGRATION_CANCELED, ResumedDetail.MIGRATED)


# -- confirm ----------------------------------------------------------------------------------------------------------


async def confirm(domain: ManagedDomain, wish: MigrationWish, cookie_in: bytes, *, cancelled: bool) -> None:
    """End the source's machine, or (``cancelled``) let it go on. Raises LibvirtError."""
    outgoing = _current(domain)
    if outgoing is None and not domain.active:
        await _leave(domain, wish, cancelled=cancelled)
        return
    if outgoing is None:
        outgoing = await open_outgoing(domain)
    try:
        await finish(outgoing, wish, cookie_in, cancelled=cancelled)
    finally:
        await outgoing.release()


async def finish(outgoing: Outgoing, wish: MigrationWish, cookie_in: bytes, *, cancelled: bool) -> None:
    """As :func:`confirm`, for who has the domain's job."""
    domain = outgoing.domain
    if cancelled:
        await settle(outgoing)
        await _remember(domain, None)
        return
    if not domain.active:
        await _leave(domain, wish, cancelled=False)
        return
    if outgoing.postcopy:
        await wait_outgoing(domain, outgoing.job, {"completed"})
    cookie = parse_cookie(cookie_in)
    if cookie is not None and cookie.statistics is not None:
        outgoing.job.progress |= {name: cookie.statistics[name] for name in ("downtime",) if name in cookie.statistics}
    job = outgoing.job
    params = [TypedParam("operation", ParamType.INT, job.operation)]
    figures = {"time_elapsed": job.elapsed_ms, **job.progress}
    params.extend(TypedParam(name, ParamType.ULLONG, value) for name, value in figures.items())
    outgoing.done = True
    domain.parts.pop(_KEY, None)  # parts are closed with the machine
    await lifecycle.end(domain, ShutoffReason.MIGRATED, StoppedDetail.MIGRATED)
    domain.publish(DomainEvent.JOB_COMPLETED, params)
    await _leave(domain, wish, cancelled=False)


async def _leave(domain: ManagedDomain, wish: MigrationWish, *, cancelled: bool) -> None:
    if not cancelled and wish.has(MigrateFlags.UNDEFINE_SOURCE) and domain.persistent:
        await undefine(domain, 0)
