"""Events of machines' monitors, handed to clients as they come (``virsh qemu-monitor-event``)."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.errors import LibvirtError
from pyhyve.rpc.errors import ErrorCode, ErrorDomain
from pyhyve.rpc.procedures import BY_NAME

if TYPE_CHECKING:
    from pyhyve.daemon.connection import Connection
    from pyhyve.daemon.domains.domain import ManagedDomain

__all__ = ["MonitorEvents"]

_REGEX, _NOCASE = 1, 2
"""virConnectDomainQemuMonitorEventRegisterFlags."""
_MESSAGE: Final = BY_NAME["QEMU_DOMAIN_MONITOR_EVENT"]
PATTERN_MAX: Final = 4096
REGISTRATIONS_MAX: Final = 256
"""Registrations of one connection at most."""


@dataclass(frozen=True, slots=True)
class _Registration:
    uuid: bytes | None
    pattern: re.Pattern[str] | None

    def wants(self, domain: ManagedDomain, name: str) -> bool:
        """Whether an event of a domain is asked for."""
        return self.uuid in {None, domain.uuid} and (self.pattern is None or self.pattern.search(name) is not None)


class MonitorEvents:
    """Who asked for which. Offered by drivers whose machines have a monitor."""

    def __init__(self) -> None:
        self._registered: dict[Connection, dict[int, _Registration]] = {}
        self._numbers = itertools.count(1)

    def register(self, connection: Connection, uuid: bytes | None, event: str | None, flags: int) -> int:
        """Register for events of one domain or all, by name or pattern; return a number. Raises LibvirtError."""
        pattern = None if event is None else _pattern(event, flags)
        if connection not in self._registered:
            self._registered[connection] = {}
            connection.on_close(self._forget)
        held = self._registered[connection]
        if len(held) >= REGISTRATIONS_MAX:
            msg = f"more than {REGISTRATIONS_MAX} event callbacks"
            raise LibvirtError(ErrorCode.OPERATION_INVALID, ErrorDomain.REMOTE, msg)
        number = next(self._numbers) & 0x7FFFFFFF
        held[number] = _Registration(uuid, pattern)
        return number

    def deregister(self, connection: Connection, number: int) -> None:
        """End a registration. Raises LibvirtError where there is none of that number."""
        if self._registered.get(connection, {}).pop(number, None) is None:
            msg = f"couldn't find qemu monitor event callback {number}"
            raise LibvirtError(ErrorCode.INTERNAL_ERROR, ErrorDomain.REMOTE, msg)

    def _forget(self, connection: Connection) -> None:
        self._registered.pop(connection, None)

    def handle(self, domain: ManagedDomain, name: str, data: dict[str, Any], when: float) -> None:
        """Hand an event on."""
        if not self._registered:
            return
        seconds, micros = divmod(round(when * 1_000_000), 1_000_000)
        details = json.dumps(data, separators=(",", ":")) if data else None
        for connection, held in list(self._registered.items()):
            for number, registration in held.items():
                if registration.wants(domain, name) and connection.allows("domain:getattr", domain.name, domain.uuid):
                    connection.push(_MESSAGE, number, domain.ref, name, seconds, micros, details)


def _pattern(event: str, flags: int) -> re.Pattern[str]:
    case = re.IGNORECASE if flags & _NOCASE else re.NOFLAG
    if not flags & _REGEX:
        return re.compile(rf"\A{re.escape(event)}\Z", case)
    try:
        if len(event) > PATTERN_MAX:
            msg = "it is too long"
            raise ValueError(msg)
        return re.compile(event, case)
    except (re.error, ValueError, RecursionError, OverflowError) as error:
        detail = f"failed to compile regex '{event}': {error}"
        raise LibvirtError(ErrorCode.INVALID_ARG, ErrorDomain.NONE, detail) from error
