"""Domains that move to another host: the steps of protocol 3, with parameters and as before there were any."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.dispatch import procedure
from pyhyve.daemon.domains.faults import invalid_argument
from pyhyve.daemon.domains.migration import incoming, outgoing, tuning
from pyhyve.daemon.domains.migration.spec import ALL_FLAGS, MigrateFlags
from pyhyve.daemon.domains.migration.wish import wish_from_params
from pyhyve.daemon.procedures.domain_access import domain_of, registry_of
from pyhyve.rpc.values import ParamType, TypedParam

if TYPE_CHECKING:
    from pyhyve.daemon.dispatch import Call
    from pyhyve.daemon.domains.migration.wish import MigrationWish
    from pyhyve.daemon.streams import Stream
    from pyhyve.rpc.values import Domain

_TEXTS: Final = (
    ("xmlin", "destination_xml"),
    ("dom_xml", "destination_xml"),
    ("dname", "destination_name"),
    ("uri", "migrate_uri"),
    ("uri_in", "migrate_uri"),
)


def _params(args: Any) -> list[TypedParam]:
    """Return a call's parameters; of a call without, those its arguments stand for."""
    given = getattr(args, "params", None)
    if given is not None:
        return list(given)
    found = [
        TypedParam(field, ParamType.STRING, text)
        for name, field in _TEXTS
        if (text := getattr(args, name, None)) is not None
    ]
    if resource := getattr(args, "resource", 0):
        found.append(TypedParam("bandwidth", ParamType.ULLONG, resource))
    return found


def _wish(call: Call, args: Any, *, source: bool) -> MigrationWish:
    call.check_flags(args.flags, ALL_FLAGS)
    return wish_from_params(_params(args), args.flags, source=source)


@procedure("DOMAIN_MIGRATE_BEGIN3_PARAMS", "DOMAIN_MIGRATE_BEGIN3")
async def begin(call: Call, args: Any) -> tuple[bytes, str]:
    """First step, on the source."""
    wish = _wish(call, args, source=True)
    return await outgoing.begin(domain_of(call, args.dom), wish, call.connection)


@procedure("DOMAIN_MIGRATE_PREPARE3_PARAMS", "DOMAIN_MIGRATE_PREPARE3")
async def prepare(call: Call, args: Any) -> tuple[bytes, str | None]:
    """Second step, on the destination."""
    wish = _wish(call, args, source=False)
    if wish.has(MigrateFlags.TUNNELLED):
        text = "Tunnelled migration requested but invalid RPC method called"
        raise invalid_argument(text)
    cookie, uri, _ = await incoming.prepare(registry_of(call), wish, args.cookie_in, call.connection)
    return cookie, uri


@procedure("DOMAIN_MIGRATE_PREPARE_TUNNEL3_PARAMS", "DOMAIN_MIGRATE_PREPARE_TUNNEL3")
async def prepare_tunnel(call: Call, args: Any) -> bytes:
    """Second step, with a stream for the machine's state."""
    wish = _wish(call, args, source=False)
    if not wish.has(MigrateFlags.TUNNELLED):
        msg = "no tunnelled migration requested, but the RPC method for it called"
        raise invalid_argument(msg)
    cookie, _, waiting = await incoming.prepare(
        registry_of(call), wish, args.cookie_in, call.connection, tunnelled=True
    )

    async def body(stream: Stream) -> None:
        await incoming.receive_tunnelled(waiting, stream)
        await stream.wait_finished()

    call.stream(body)
    return cookie


@procedure("DOMAIN_MIGRATE_PERFORM3_PARAMS", "DOMAIN_MIGRATE_PERFORM3")
async def perform(call: Call, args: Any) -> bytes:
    """Third step, on the source; of peer to peer migrations the only one a client asks for."""
    wish = _wish(call, args, source=True)
    domain = domain_of(call, args.dom)
    if wish.has(MigrateFlags.PEER2PEER):
        if args.dconnuri is None:
            msg = "dconnuri in a peer-to-peer migration must not be NULL"
            raise invalid_argument(msg)
        from pyhyve.daemon.domains.migration import peer  # noqa: PLC0415 - it brings the client

        await peer.migrate(domain, args.dconnuri, wish, _params(args), call.connection)
        return b""
    if args.dconnuri is not None:
        msg = "Unexpected dconnuri parameter with VIR_MIGRATE_PEER2PEER not set"
        raise invalid_argument(msg)
    return await outgoing.perform(domain, wish, args.cookie_in)


@procedure("DOMAIN_MIGRATE_FINISH3_PARAMS", "DOMAIN_MIGRATE_FINISH3")
async def finish(call: Call, args: Any) -> tuple[Domain, bytes]:
    """Fourth step, on the destination."""
    wish = _wish(call, args, source=False)
    name = getattr(args, "dname", None) or wish.name
    if name is None:
        msg = "missing domain name"
        raise invalid_argument(msg)
    registry = registry_of(call)
    known = registry.by_name.get(name)
    if known is not None:
        domain_of(call, known.ref)
    return await incoming.finish(registry, name, wish, args.cookie_in, cancelled=bool(args.cancelled))


@procedure("DOMAIN_MIGRATE_CONFIRM3_PARAMS", "DOMAIN_MIGRATE_CONFIRM3")
async def confirm(call: Call, args: Any) -> None:
    """Last step, on the source."""
    wish = _wish(call, args, source=True)
    domain = domain_of(call, args.dom)
    await outgoing.confirm(domain, wish, args.cookie_in, cancelled=bool(args.cancelled))


@procedure("DOMAIN_MIGRATE_GET_MAX_DOWNTIME")
async def get_max_downtime(call: Call, args: Any) -> int:
    """How long a machine may stand still, in milliseconds."""
    call.check_flags(args.flags, 0)
    return await tuning.max_downtime_ms(domain_of(call, args.dom))


@procedure("DOMAIN_MIGRATE_SET_MAX_DOWNTIME")
async def set_max_downtime(call: Call, args: Any) -> None:
    """Change that."""
    call.check_flags(args.flags, 0)
    await tuning.set_max_downtime(domain_of(call, args.dom), args.downtime)


@procedure("DOMAIN_MIGRATE_GET_MAX_SPEED")
async def get_max_speed(call: Call, args: Any) -> int:
    """How fast a machine may send its state, in MiB a second."""
    call.check_flags(args.flags, 1)
    return await tuning.max_speed(domain_of(call, args.dom), args.flags)


@procedure("DOMAIN_MIGRATE_SET_MAX_SPEED")
async def set_max_speed(call: Call, args: Any) -> None:
    """Change that."""
    call.check_flags(args.flags, 1)
    await tuning.set_max_speed(domain_of(call, args.dom), args.bandwidth, args.flags)


@procedure("DOMAIN_MIGRATE_GET_COMPRESSION_CACHE")
async def get_compression_cache(call: Call, args: Any) -> int:
    """How much is kept to send pages as differences, in bytes."""
    call.check_flags(args.flags, 0)
    return await tuning.compression_cache(domain_of(call, args.dom))


@procedure("DOMAIN_MIGRATE_SET_COMPRESSION_CACHE")
async def set_compression_cache(call: Call, args: Any) -> None:
    """Change that."""
    call.check_flags(args.flags, 0)
    await tuning.set_compression_cache(domain_of(call, args.dom), args.cache_size)


@procedure("DOMAIN_MIGRATE_START_POST_COPY")
async def start_post_copy(call: Call, args: Any) -> None:
    """Have a machine that moves run at its destination from now on."""
    call.check_flags(args.flags, 0)
    await tuning.start_postcopy(domain_of(call, args.dom))
