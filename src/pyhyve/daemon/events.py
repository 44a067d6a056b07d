"""Events: who asked for which, and sending them.

A part of the daemon calls :meth:`EventBroker.publish`; every connection to the same driver that registered for that
event (of that object, or of any) and may see the object gets a message. Sending never waits: a message goes into the
connection's outgoing buffer, and a client that lets more than its limit pile up is disconnected, since events it would
not notice to be missing are worse than a connection it has to open again.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.errors import LibvirtError
from pyhyve.rpc.errors import ErrorCode, ErrorDomain
from pyhyve.rpc.procedures import BY_NAME, Procedure

if TYPE_CHECKING:
    from pyhyve.daemon.connection import Connection
    from pyhyve.daemon.drivers.api import Driver

__all__ = ["DomainEvent", "EventBroker", "EventKind", "Registration"]


class DomainEvent(IntEnum):
    """Events of domains (virDomainEventID)."""

    LIFECYCLE = 0
    REBOOT = 1
    RTC_CHANGE = 2
    WATCHDOG = 3
    IO_ERROR = 4
    GRAPHICS = 5
    IO_ERROR_REASON = 6
    CONTROL_ERROR = 7
    BLOCK_JOB = 8
    DISK_CHANGE = 9
    TRAY_CHANGE = 10
    PMWAKEUP = 11
    PMSUSPEND = 12
    BALLOON_CHANGE = 13
    PMSUSPEND_DISK = 14
    DEVICE_REMOVED = 15
    BLOCK_JOB_2 = 16
    TUNABLE = 17
    AGENT_LIFECYCLE = 18
    DEVICE_ADDED = 19
    MIGRATION_ITERATION = 20
    JOB_COMPLETED = 21
    DEVICE_REMOVAL_FAILED = 22
    METADATA_CHANGE = 23
    BLOCK_THRESHOLD = 24
    MEMORY_FAILURE = 25
    MEMORY_DEVICE_SIZE_CHANGE = 26


class EventKind(Enum):
    """What events are of, with the messages of each event number."""

    DOMAIN = "domain"
    NETWORK = "network"
    STORAGE_POOL = "storage_pool"
    NODE_DEVICE = "node_device"
    SECRET = "secret"  # noqa: S105 - libvirt's noun, no password


_MESSAGES: Final[dict[EventKind, tuple[Procedure, ...]]] = {
    EventKind.DOMAIN: tuple(
        BY_NAME[
            {
                DomainEvent.BLOCK_JOB_2: "DOMAIN_EVENT_BLOCK_JOB_2",
                DomainEvent.BLOCK_THRESHOLD: "DOMAIN_EVENT_BLOCK_THRESHOLD",
                DomainEvent.MEMORY_FAILURE: "DOMAIN_EVENT_MEMORY_FAILURE",
                DomainEvent.MEMORY_DEVICE_SIZE_CHANGE: "DOMAIN_EVENT_MEMORY_DEVICE_SIZE_CHANGE",
            }.get(event, f"DOMAIN_EVENT_CALLBACK_{event.name}")
        ]
        for event in DomainEvent
    ),
    EventKind.NETWORK: (BY_NAME["NETWORK_EVENT_LIFECYCLE"],),
    EventKind.STORAGE_POOL: (BY_NAME["STORAGE_POOL_EVENT_LIFECYCLE"], BY_NAME["STORAGE_POOL_EVENT_REFRESH"]),
    EventKind.NODE_DEVICE: (BY_NAME["NODE_DEVICE_EVENT_LIFECYCLE"], BY_NAME["NODE_DEVICE_EVENT_UPDATE"]),
    EventKind.SECRET: (BY_NAME["SECRET_EVENT_LIFECYCLE"], BY_NAME["SECRET_EVENT_VALUE_CHANGED"]),
}
"""Message of each event number."""
_OLD_MESSAGES: Final = {
    event: row
    for event in DomainEvent
    if (row := BY_NAME.get(f"DOMAIN_EVENT_{event.name}")) is not None and "callback_id" not in row.args
}
"""Messages of clients from before callbacks had numbers."""
_REASON_FIRST: Final = frozenset({DomainEvent.PMWAKEUP, DomainEvent.PMSUSPEND, DomainEvent.PMSUSPEND_DISK})
"""Domain events whose message has its one detail in front of the domain."""
REGISTRATIONS_MAX: Final = 4096
"""Registrations of one connection at most."""


@dataclass(frozen=True, slots=True)
class Registration:
    """What one connection asked for."""

    kind: EventKind
    event: int
    key: object | None
    """Key of the one object it is about (a UUID; a node device's name), or None."""
    old: bool = False
    """It was asked for in the way without numbers; its messages have none."""


class EventBroker:
    """Everyone's registrations, by the driver they are of."""

    def __init__(self) -> None:
        self._registered: dict[tuple[Driver, EventKind, int], dict[tuple[Connection, int], Registration]] = {}
        self._numbers = itertools.count(1)

    def register(self, connection: Connection, kind: EventKind, event: int, key: object | None) -> int:
        """Register for an event of one object or (None) all; return the callback's number. Raises LibvirtError."""
        if not 0 <= event < len(_MESSAGES[kind]):
            raise LibvirtError(ErrorCode.INTERNAL_ERROR, ErrorDomain.REMOTE, f"unsupported event ID {event}")
        if len(connection.registrations) >= REGISTRATIONS_MAX:
            msg = f"more than {REGISTRATIONS_MAX} event callbacks"
            raise LibvirtError(ErrorCode.OPERATION_INVALID, ErrorDomain.REMOTE, msg)
        number = next(self._numbers) & 0x7FFFFFFF
        registration = Registration(kind, event, key)
        connection.registrations[number] = registration
        self._registered.setdefault((connection.driver, kind, event), {})[connection, number] = registration
        return number

    def register_old(self, connection: Connection, event: int) -> None:
        """Register for an event of all domains in the way without numbers. Raises LibvirtError."""
        if event not in _OLD_MESSAGES:
            raise LibvirtError(ErrorCode.INTERNAL_ERROR, ErrorDomain.REMOTE, f"unsupported event ID {event}")
        if self._old_number(connection, event) is not None:
            msg = f"domain event {event} already registered"
            raise LibvirtError(ErrorCode.INTERNAL_ERROR, ErrorDomain.REMOTE, msg)
        number = self.register(connection, EventKind.DOMAIN, event, None)
        registration = Registration(EventKind.DOMAIN, event, None, old=True)
        connection.registrations[number] = registration
        self._registered[connection.driver, EventKind.DOMAIN, event][connection, number] = registration

    def deregister_old(self, connection: Connection, event: int) -> None:
        """End such a registration. Raises LibvirtError where there is none."""
        number = self._old_number(connection, event)
        if number is None:
            msg = f"domain event {event} not registered"
            raise LibvirtError(ErrorCode.INTERNAL_ERROR, ErrorDomain.REMOTE, msg)
        self.deregister(connection, EventKind.DOMAIN, number)

    @staticmethod
    def _old_number(connection: Connection, event: int) -> int | None:
        held = connection.registrations.items()
        return next((number for number, each in held if each.old and each.event == event), None)

    def deregister(self, connection: Connection, kind: EventKind, number: int) -> None:
        """End a registration. Raises LibvirtError where the connection has none of that number."""
        registration = connection.registrations.get(number)
        if registration is None or registration.kind is not kind:
            msg = f"couldn't find {kind.value.replace('_', ' ')} event callback {number}"
            raise LibvirtError(ErrorCode.INTERNAL_ERROR, ErrorDomain.REMOTE, msg)
        del connection.registrations[number]
        self._forget(connection, number, registration)

    def drop(self, connection: Connection) -> None:
        """End every registration of a connection."""
        for number, registration in connection.registrations.items():
            self._forget(connection, number, registration)
        connection.registrations.clear()

    def _forget(self, connection: Connection, number: int, registration: Registration) -> None:
        key = (connection.driver, registration.kind, registration.event)
        listeners = self._registered[key]
        del listeners[connection, number]
        if not listeners:
            del self._registered[key]

    def publish(self, driver: Driver, kind: EventKind, event: int, subject: Any, *details: object) -> None:
        """Tell everyone who asked. ``details`` are the message's fields behind the object, in the table's order.

        Call it on the event loop. Raises XdrError where the details do not fit the table, which is a bug here.
        """
        listeners = self._registered.get((driver, kind, event))
        if not listeners:
            return
        row = _MESSAGES[kind][event]
        key = subject.name if kind is EventKind.NODE_DEVICE else subject.uuid
        name = getattr(subject, "name", "")
        values = (*details, subject) if kind is EventKind.DOMAIN and event in _REASON_FIRST else (subject, *details)
        for (connection, number), registration in list(listeners.items()):
            if registration.key is None or registration.key == key:
                permission = f"{kind.value}:getattr"
                if not connection.allows(permission, name, key if isinstance(key, bytes) else b""):
                    continue
                if registration.old:
                    # The reason a machine sleeps or wakes came with the numbers.
                    old_details = () if event in _REASON_FIRST else details
                    connection.push(_OLD_MESSAGES[DomainEvent(event)], subject, *old_details)
                else:
                    connection.push(row, number, *values)
