"""A client of QMP, QEMU's machine protocol, on asyncio.

Source: QEMU's documentation, "QEMU Machine Protocol Specification". One client for each monitor socket; commands may be
sent while others are under way, the answers come in order of their ids. File descriptors travel beside a command.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import socket
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["QmpClient", "QmpClosed", "QmpError", "QmpTimeout"]

_log = logging.getLogger(__name__)
LINE_MAX: Final = 64 << 20
"""Bytes of one message at most."""
_CHUNK: Final = 256 << 10
ANSWER_TIMEOUT_S: Final = 120.0
"""How long a command may take before the machine counts as stuck."""


class QmpError(Exception):
    """The machine refused a command: its class of error, and what it says."""

    def __init__(self, kind: str, description: str) -> None:
        super().__init__(description)
        self.kind = kind
        self.description = description


class QmpClosed(ConnectionError):  # noqa: N818 - what happened, in the protocol's word
    """The monitor is gone."""


class QmpTimeout(TimeoutError):  # noqa: N818 - ditto
    """The machine did not answer in time."""


class QmpClient:
    """One monitor. ``on_event`` gets every event's name and data, ``on_closed`` is told once when it is over."""

    def __init__(
        self,
        on_event: Callable[[str, dict[str, Any], float], None] | None = None,
        on_closed: Callable[[], None] | None = None,
    ) -> None:
        self._on_event = on_event
        self._on_closed = on_closed
        self._socket: socket.socket | None = None
        self._reader: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._ids = itertools.count(1)
        self._sending = asyncio.Lock()
        self._greeting: asyncio.Future[dict[str, Any]] | None = None
        self.version: tuple[int, int, int] = (0, 0, 0)
        self.package = ""

    async def connect(self, path: str, *, timeout_s: float = 30.0) -> None:
        """Connect to a monitor's unix socket and agree on the protocol. Raises OSError, QmpClosed, QmpTimeout."""
        loop = asyncio.get_running_loop()
        endpoint = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            async with asyncio.timeout(timeout_s):
                await loop.sock_connect(endpoint, path)
                self._socket = endpoint
                self._greeting = loop.create_future()
                self._reader = loop.create_task(self._read(endpoint), name=f"monitor {path}")
                greeting = await self._greeting
                version = greeting["QMP"]["version"]
                numbers = version["qemu"]
                self.version = (numbers["major"], numbers["minor"], numbers["micro"])
                self.package = version.get("package", "")
                await self.execute("qmp_capabilities")
        except TimeoutError as error:
            self.close()
            endpoint.close()
            msg = "the monitor does not answer"
            raise QmpTimeout(msg) from error
        except (OSError, KeyError, TypeError) as error:
            self.close()
            endpoint.close()
            if isinstance(error, OSError):
                raise
            msg = "what listens there is no monitor"
            raise QmpClosed(msg) from error

    @property
    def connected(self) -> bool:
        """Whether the monitor is there."""
        return self._socket is not None

    async def execute(
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        *,
        fds: Sequence[int] = (),
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> Any:
        """Run a command; return its answer. Raises QmpError, QmpClosed, QmpTimeout."""
        endpoint = self._socket
        if endpoint is None:
            msg = "the monitor is closed"
            raise QmpClosed(msg)
        number = next(self._ids)
        request: dict[str, Any] = {"execute": command, "id": number}
        if arguments:
            request["arguments"] = arguments
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        self._waiting[number] = answer
        data = json.dumps(request).encode() + b"\n"
        try:
            async with asyncio.timeout(timeout_s):
                async with self._sending:
                    try:
                        if fds:
                            await self._send_with_fds(endpoint, data, fds)
                        else:
                            await loop.sock_sendall(endpoint, data)
                    except OSError as error:
                        msg = "the monitor is closed"
                        raise QmpClosed(msg) from error
                return await answer
        except TimeoutError as error:
            if isinstance(error, QmpTimeout):
                raise
            msg = f"no answer to {command}"
            raise QmpTimeout(msg) from error
        finally:
            self._waiting.pop(number, None)

    @staticmethod
    async def _send_with_fds(endpoint: socket.socket, data: bytes, fds: Sequence[int]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sent = socket.send_fds(endpoint, [data], list(fds))
                break
            except BlockingIOError:
                await _writable(endpoint)
        if sent < len(data):
            await loop.sock_sendall(endpoint, data[sent:])

    async def _read(self, endpoint: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        pending = bytearray()
        try:
            while True:
                data = await loop.sock_recv(endpoint, _CHUNK)
                if not data:
                    break
                pending += data
                if b"\n" in data:
                    *lines, rest = bytes(pending).split(b"\n")
                    pending = bytearray(rest)
                    for line in lines:
                        if line.strip():
                            self._take(json.loads(line))
                if len(pending) > LINE_MAX:
                    _log.warning("a monitor sent a message of more than %d bytes", LINE_MAX)
                    break
        except (OSError, ValueError) as error:
            _log.debug("a monitor broke off: %s", error)
        finally:
            self._over()

    def _take(self, message: dict[str, Any]) -> None:
        if "event" in message:
            if self._on_event is not None:
                stamp = message.get("timestamp", {})
                seconds = stamp.get("seconds", 0) + stamp.get("microseconds", 0) / 1e6
                try:
                    self._on_event(message["event"], message.get("data") or {}, seconds)
                except Exception:  # noqa: BLE001 - whatever a listener does, the monitor goes on
                    _log.exception("handling the event %s failed", message["event"])
        elif "QMP" in message:
            if self._greeting is not None and not self._greeting.done():
                self._greeting.set_result(message)
        else:
            answer = self._waiting.pop(message.get("id", 0), None)
            if answer is None or answer.done():
                return
            if "error" in message:
                error = message["error"]
                answer.set_exception(QmpError(error.get("class", "GenericError"), error.get("desc", "")))
            else:
                answer.set_result(message.get("return"))

    def _over(self) -> None:
        endpoint, self._socket = self._socket, None
        if endpoint is None:
            return
        # At once: a cancelled wait would do it later, when the descriptor may be another's.
        loop = asyncio.get_running_loop()
        loop.remove_reader(endpoint)
        loop.remove_writer(endpoint)
        endpoint.close()
        closed = QmpClosed("the monitor was closed")
        for answer in [*self._waiting.values(), *([self._greeting] if self._greeting is not None else [])]:
            if not answer.done():
                answer.set_exception(closed)
                with contextlib.suppress(BaseException):
                    answer.exception()  # it may be nobody's any more
        self._waiting.clear()
        if self._on_closed is not None:
            self._on_closed()

    async def read_to_end(self, timeout_s: float) -> None:
        """Wait until the other side hung up and all it said was taken: when it is known to be gone."""
        if self._reader is not None:
            await asyncio.wait({self._reader}, timeout=timeout_s)

    def close(self) -> None:
        """Hang up; commands under way raise QmpClosed."""
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None
        self._over()


async def _writable(endpoint: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_writer(endpoint, wake)
    try:
        await ready
    finally:
        loop.remove_writer(endpoint)
