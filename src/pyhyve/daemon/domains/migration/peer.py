"""Peer to peer: the source leads the migration, as a client of the destination."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from pyhyve.client import aio
from pyhyve.client.aio.stream import Stream
from pyhyve.client.errors import LibvirtError as PeerError
from pyhyve.daemon.domains.faults import failed, not_supported
from pyhyve.daemon.domains.migration import outgoing as source
from pyhyve.daemon.domains.migration.spec import MigrateFlags
from pyhyve.daemon.domains.migration.wish import onward
from pyhyve.daemon.domains.states import DomainState
from pyhyve.daemon.errors import LibvirtError
from pyhyve.rpc.errors import ErrorDomain
from pyhyve.rpc.spec import Feature

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyhyve.daemon.connection import Connection
    from pyhyve.daemon.domains.domain import ManagedDomain
    from pyhyve.daemon.domains.migration.outgoing import Outgoing
    from pyhyve.daemon.domains.migration.wish import MigrationWish
    from pyhyve.rpc.values import TypedParam

__all__ = ["migrate"]

_log = logging.getLogger(__name__)
CONNECT_TIMEOUT_S: Final = 30.0


def _told(error: PeerError) -> LibvirtError:
    """Return what the destination said, as our own answer."""
    text = str(error)
    told = LibvirtError(error.code, ErrorDomain.QEMU, text)  # type: ignore[arg-type] # any number a peer has
    told.args = (text,)
    return told


async def migrate(
    domain: ManagedDomain, uri: str, wish: MigrationWish, params: Sequence[TypedParam], connection: Connection
) -> None:
    """Take both sides through the steps. Raises LibvirtError; then the domain goes on here."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            peer = await aio.connect(uri)
    except (PeerError, TimeoutError) as error:
        raise failed(f"Failed to connect to remote libvirt URI {uri}: {error}") from error
    try:
        await _check_peer(peer, wish)
        leading = await source.open_outgoing(domain)
        leading.led_here = True
        connection.on_close(leading.client_gone)
        try:
            if domain.state is DomainState.PAUSED:
                wish = replace(wish, flags=wish.flags | MigrateFlags.PAUSED)
            await _lead(leading, peer, wish, params)
        finally:
            await leading.release()
    finally:
        with contextlib.suppress(PeerError):
            await peer.close()


async def _check_peer(peer: aio.Connection, wish: MigrationWish) -> None:
    async def has(feature: Feature) -> bool:
        try:
            return bool((await peer.session.call("CONNECT_SUPPORTS_FEATURE", feature)).supported)
        except PeerError as error:
            raise _told(error) from error

    if not await has(Feature.MIGRATION_P2P):
        raise failed("Destination libvirt does not support peer-to-peer migration protocol")
    if not await has(Feature.MIGRATION_PARAMS):
        raise not_supported(
            "Migration APIs with extensible parameters are not supported but extended parameters were passed"
        )
    if wish.has(MigrateFlags.OFFLINE) and not await has(Feature.MIGRATION_OFFLINE):
        raise not_supported("offline migration is not supported by the destination host")


async def _lead(leading: Outgoing, peer: aio.Connection, wish: MigrationWish, params: Sequence[TypedParam]) -> None:
    domain = leading.domain
    flags = int(wish.flags)
    cookie, document = await source.form_begin(domain, wish)
    given = onward(params, destination_xml=document)
    stream: Stream | None = None
    try:
        if wish.has(MigrateFlags.TUNNELLED):
            serial, answer = await peer.session.open_stream(
                "DOMAIN_MIGRATE_PREPARE_TUNNEL3_PARAMS", onward(given, migrate_uri=None), cookie, flags
            )
            stream = Stream(peer.session, serial)
            cookie, where = answer.cookie_out, None
        else:
            answer = await peer.session.call("DOMAIN_MIGRATE_PREPARE3_PARAMS", given, cookie, flags)
            cookie, where = answer.cookie_out, answer.uri_out or wish.uri
    except PeerError as error:
        raise _told(error) from error
    trouble: LibvirtError | None = None
    try:
        cookie = await _send(leading, replace(wish, uri=where), cookie, stream)
    except LibvirtError as error:
        trouble, cookie = error, b""
    given = onward(params, destination_name=wish.name or domain.name, migrate_uri=where)
    try:
        answer = await peer.session.call(
            "DOMAIN_MIGRATE_FINISH3_PARAMS", given, cookie, flags, int(trouble is not None)
        )
        cookie = answer.cookie_out
    except PeerError as error:
        if trouble is None and not peer.is_alive():
            # It may run there by now: only somebody who looks may resume it here.
            _log.warning("%s moved, but its destination did not say whether it runs", domain.name)
            raise _told(error) from error
        trouble, cookie = trouble or _told(error), b""
    await source.finish(leading, wish, cookie, cancelled=trouble is not None)
    if trouble is not None:
        raise trouble


async def _send(leading: Outgoing, wish: MigrationWish, cookie: bytes, stream: Stream | None) -> bytes:
    domain = leading.domain
    if wish.has(MigrateFlags.OFFLINE) and not domain.active:
        return await source.perform(domain, wish, cookie)
    if stream is None:
        return await source.run(leading, wish, cookie)

    async def send(data: bytes) -> None:
        try:
            await stream.send(data)
        except PeerError as error:
            raise _told(error) from error

    try:
        cookie = await source.run(leading, wish, cookie, send)
    except BaseException:
        with contextlib.suppress(PeerError):
            await stream.abort()
        raise
    try:
        await stream.finish()
    except PeerError as error:
        raise _told(error) from error
    return cookie
