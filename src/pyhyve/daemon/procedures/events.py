"""Asking for events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.dispatch import procedure
from pyhyve.daemon.events import DomainEvent, EventKind

if TYPE_CHECKING:
    from pyhyve.daemon.dispatch import Call


@procedure("CONNECT_DOMAIN_EVENT_CALLBACK_REGISTER_ANY")
def register_domain_event(call: Call, args: Any) -> int:
    """Register for an event of one domain or all."""
    key = None if args.dom is None else args.dom.uuid
    return call.daemon.events.register(call.connection, EventKind.DOMAIN, args.event_id, key)


@procedure("CONNECT_NETWORK_EVENT_REGISTER_ANY")
def register_network_event(call: Call, args: Any) -> int:
    """Register for an event of one network or all."""
    key = None if args.net is None else args.net.uuid
    return call.daemon.events.register(call.connection, EventKind.NETWORK, args.event_id, key)


@procedure("CONNECT_STORAGE_POOL_EVENT_REGISTER_ANY")
def register_storage_pool_event(call: Call, args: Any) -> int:
    """Register for an event of one pool or all."""
    key = None if args.pool is None else args.pool.uuid
    return call.daemon.events.register(call.connection, EventKind.STORAGE_POOL, args.event_id, key)


@procedure("CONNECT_NODE_DEVICE_EVENT_REGISTER_ANY")
def register_node_device_event(call: Call, args: Any) -> int:
    """Register for an event of one device of the host or all."""
    key = None if args.dev is None else args.dev.name
    return call.daemon.events.register(call.connection, EventKind.NODE_DEVICE, args.event_id, key)


@procedure("CONNECT_SECRET_EVENT_REGISTER_ANY")
def register_secret_event(call: Call, args: Any) -> int:
    """Register for an event of one secret or all."""
    key = None if args.secret is None else args.secret.uuid
    return call.daemon.events.register(call.connection, EventKind.SECRET, args.event_id, key)


_DEREGISTER: Final = {
    "CONNECT_DOMAIN_EVENT_CALLBACK_DEREGISTER_ANY": EventKind.DOMAIN,
    "CONNECT_NETWORK_EVENT_DEREGISTER_ANY": EventKind.NETWORK,
    "CONNECT_STORAGE_POOL_EVENT_DEREGISTER_ANY": EventKind.STORAGE_POOL,
    "CONNECT_NODE_DEVICE_EVENT_DEREGISTER_ANY": EventKind.NODE_DEVICE,
    "CONNECT_SECRET_EVENT_DEREGISTER_ANY": EventKind.SECRET,
}


@procedure(*_DEREGISTER)
def deregister_event(call: Call, args: Any) -> None:
    """End a registration."""
    call.daemon.events.deregister(call.connection, _DEREGISTER[call.procedure.name], args.callback_id)


@procedure("CONNECT_DOMAIN_EVENT_REGISTER")
def register_lifecycle(call: Call, args: Any) -> int:
    """Register for the life cycle of all domains, in the oldest way."""
    call.daemon.events.register_old(call.connection, DomainEvent.LIFECYCLE)
    return 1


@procedure("CONNECT_DOMAIN_EVENT_DEREGISTER")
def deregister_lifecycle(call: Call, args: Any) -> int:
    """End that."""
    call.daemon.events.deregister_old(call.connection, DomainEvent.LIFECYCLE)
    return 0


@procedure("CONNECT_DOMAIN_EVENT_REGISTER_ANY")
def register_old_event(call: Call, args: Any) -> None:
    """Register for an event of all domains, in the way before callbacks had numbers."""
    call.daemon.events.register_old(call.connection, args.event_id)


@procedure("CONNECT_DOMAIN_EVENT_DEREGISTER_ANY")
def deregister_old_event(call: Call, args: Any) -> None:
    """End that."""
    call.daemon.events.deregister_old(call.connection, args.event_id)
