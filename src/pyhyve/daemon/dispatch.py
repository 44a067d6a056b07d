"""Handlers by procedure, and what a handler is given.

A handler is a function registered with :func:`procedure`::

    @procedure("DOMAIN_LOOKUP_BY_NAME")
    async def look_up(call: Call, args: Any) -> Domain: ...

``args`` is a record with the procedure's argument fields. It returns what the table's answer has: nothing where the
answer has no field, the value itself where it has one, a tuple where it has several, or :class:`Encoded`. It raises
:class:`~pyhyve.daemon.errors.LibvirtError`; any other exception is answered as an internal error and logged. A plain
function runs on the event loop, at once: it must not wait for anything. A coroutine may wait; what blocks goes through
``await call.daemon.run_blocking(function, …)``. A procedure without a handler is answered as one the driver lacks.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.errors import LibvirtError, api_name
from pyhyve.rpc.codec import codec
from pyhyve.rpc.errors import ErrorDomain
from pyhyve.rpc.procedure import Trait
from pyhyve.rpc.procedures import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from pyhyve.daemon.connection import Connection
    from pyhyve.daemon.daemon import Daemon
    from pyhyve.daemon.drivers.api import Driver
    from pyhyve.daemon.streams import Stream
    from pyhyve.rpc.codec import Codec
    from pyhyve.rpc.procedures import Procedure

__all__ = ["TURN_S", "Call", "Encoded", "Registered", "Turn", "procedure", "registered"]

TURN_S: Final = 0.0005
"""How long an answer is worked on before others have their turn."""
_LONG_ITEMS: Final = frozenset({"stats_record"})
"""Structures of which one takes tens of microseconds to encode."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """An answer already encoded, for answers that are made in pieces; or an item of a list that is such an answer."""

    payload: bytes


class Turn:
    """For work that may take long on the event loop: lets others have their turn every :data:`TURN_S`."""

    __slots__ = ("_until",)

    def __init__(self) -> None:
        self._until = time.perf_counter() + TURN_S

    async def over(self) -> None:
        """Let others have their turn if this one has lasted long enough."""
        if time.perf_counter() > self._until:
            await asyncio.sleep(0)
            self._until = time.perf_counter() + TURN_S


@dataclass(slots=True)
class Call:
    """One call: who asks, and what the handler may use."""

    connection: Connection
    procedure: Procedure
    fds: Sequence[int] = ()
    """Descriptors that came with the call; closed after the handler returned (``os.dup`` what has to stay)."""
    reply_fds: list[int] = field(default_factory=list)
    """Put descriptors here to send them with the answer; they are closed once sent."""
    stream_body: Callable[[Stream], Awaitable[None]] | None = None

    @property
    def daemon(self) -> Daemon:
        """The daemon."""
        return self.connection.daemon

    @property
    def driver(self) -> Driver:
        """The driver this connection was opened to. Raises LibvirtError where it was not opened."""
        return self.connection.driver

    @property
    def function(self) -> str:
        """Name of libvirt's public function, for messages."""
        return api_name(self.procedure.name)

    @property
    def read_only(self) -> bool:
        """Whether the connection may only look."""
        return self.connection.read_only

    def stream(self, body: Callable[[Stream], Awaitable[None]]) -> None:
        """Serve the stream this procedure opens with ``body``, once the answer is sent.

        ``body`` returns when everything was sent or taken in, raises LibvirtError to break the stream off, and is
        cancelled when the client aborts it or is gone.
        """
        self.stream_body = body

    def check_flags(self, flags: int, supported: int) -> None:
        """Raise LibvirtError where ``flags`` has bits that are not in ``supported``."""
        if unknown := flags & ~supported:
            connection = self.connection
            prefix = connection.driver.function_prefix if connection.opened else "remoteDispatch"
            domain = connection.driver.error_domain if connection.opened else ErrorDomain.RPC
            function = prefix + self.function.removeprefix("vir")
            raise LibvirtError.unsupported_flags(unknown, function, domain)

    def require(self, permission: str, name: str = "", uuid: bytes = b"") -> None:
        """Raise LibvirtError where the client has no such permission (``domain:read``) on the named object.

        The permissions of the table are checked before a handler runs, without a name; a handler calls this for those
        that depend on flags, and for objects, where a policy may grant some and not others.
        """
        self.connection.require(permission, name, uuid)


@dataclass(frozen=True, slots=True)
class Registered:
    """A procedure with its handler."""

    row: Procedure
    handler: Callable[[Call, Any], Any]
    encode: Callable[..., bytes]
    """Encodes the answer."""
    waits: bool
    """The handler is a coroutine function."""
    answer_fields: int
    streams: bool
    """It opens a stream."""
    quick: bool
    """It neither waits, nor opens a stream, nor moves descriptors."""
    item_codec: Codec | None
    """Of an answer that is one list of long items: the codec of an item, so that it can be encoded in pieces."""


_HANDLERS: Final[dict[tuple[int, int], Registered]] = {}


def procedure(*names: str) -> Callable[[Callable[[Call, Any], Any]], Callable[[Call, Any], Any]]:
    """Register a function as the handler of procedures (names as in :data:`pyhyve.rpc.procedures.BY_NAME`)."""

    def register(handler: Callable[[Call, Any], Any]) -> Callable[[Call, Any], Any]:
        for name in names:
            row = BY_NAME[name]
            key = (int(row.program), row.number)
            if key in _HANDLERS:
                msg = f"{name} has two handlers: {_HANDLERS[key].handler.__qualname__} and {handler.__qualname__}"
                raise ValueError(msg)
            waits = inspect.iscoroutinefunction(handler)
            streams = bool(row.traits & (Trait.UPLOAD | Trait.DOWNLOAD))
            fields = row.ret_codec.fields
            long = len(fields) == 1 and fields[0].type.base in _LONG_ITEMS
            item_codec = codec(f"item {fields[0].type.base}") if long else None
            quick = not (waits or streams or row.traits & (Trait.FDS_IN | Trait.FDS_OUT))
            encode = row.ret_codec.encode
            _HANDLERS[key] = Registered(row, handler, encode, waits, len(fields), streams, quick, item_codec)
        return handler

    return register


def registered(row: Procedure) -> Registered:
    """Return the handler of a procedure. Raises LibvirtError (NO_SUPPORT) where there is none."""
    try:
        return _HANDLERS[row.program, row.number]
    except KeyError:
        raise LibvirtError.no_support(api_name(row.name), _subject(row.name)) from None


def supported() -> frozenset[str]:
    """Names of the procedures that have a handler (of those whose modules were imported)."""
    return frozenset(name for name, row in BY_NAME.items() if (row.program, row.number) in _HANDLERS)


def _subject(name: str) -> ErrorDomain:
    """Return the subsystem that says "not supported": the file of libvirt's library the function is in."""
    for word, domain in _SUBJECTS:
        if word in name:
            return domain
    return ErrorDomain.DOMAIN


_SUBJECTS: Final = (
    ("DOMAIN_SNAPSHOT", ErrorDomain.DOMAIN_SNAPSHOT),
    ("DOMAIN_CHECKPOINT", ErrorDomain.DOMAIN_CHECKPOINT),
    ("NWFILTER", ErrorDomain.NWFILTER),
    ("NODE_DEVICE", ErrorDomain.NODEDEV),
    ("SECRET", ErrorDomain.SECRET),
    ("STORAGE", ErrorDomain.STORAGE),
    ("DOMAIN", ErrorDomain.DOMAIN),
    ("NETWORK", ErrorDomain.NETWORK),
    ("INTERFACE", ErrorDomain.INTERFACE),
)
