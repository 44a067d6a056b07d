"""The guest's agent: requests to qemu-ga through a channel of the machine.

Source: QEMU's documentation, "QEMU Guest Agent Protocol Reference". The agent may be absent, slow, or in the middle of
an old answer, so each conversation begins with ``guest-sync`` and each request has a deadline.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import time
from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.domains.faults import internal, invalid
from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.qmp import QmpError
from pyhyve.rpc.errors import ErrorCode, ErrorDomain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyhyve.daemon.domains.domain import ManagedDomain

__all__ = ["AgentConnection", "execute", "is_available", "monitor_raw", "raw", "set_timeout", "shutdown"]

_log = logging.getLogger(__name__)
CHANNEL: Final = "org.qemu.guest_agent.0"
SYNC_TIMEOUT_S: Final = 5.0
ANSWER_TIMEOUT_S: Final = 60.0
ANSWER_MAX: Final = 16 << 20
_BLOCK, _DEFAULT, _NOWAIT = -2, -1, 0


def _unresponsive(detail: str) -> LibvirtError:
    return LibvirtError(ErrorCode.AGENT_UNRESPONSIVE, ErrorDomain.QEMU, detail)


def _channel(domain: ManagedDomain) -> tuple[str, str | None]:
    """Return the agent's socket and whether the guest has it open. Raises LibvirtError where there is none."""
    for channel in domain.devices.channel:
        target = channel.target
        if target is not None and target.name == CHANNEL and channel.type == "unix" and channel.source is not None:
            return channel.source.path or "", target.state
    detail = "QEMU guest agent is not configured"
    raise LibvirtError(ErrorCode.ARGUMENT_UNSUPPORTED, ErrorDomain.QEMU, detail)


def is_available(domain: ManagedDomain) -> bool:
    """Whether somebody in the guest has the agent's channel open."""
    try:
        return _channel(domain)[1] != "disconnected"
    except LibvirtError:
        return False


class AgentConnection:
    """A connection to one machine's agent, kept while the machine runs."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._lock = asyncio.Lock()
        self._ids = itertools.count(int(time.time() * 1000) & 0x7FFFFFFF)
        self.timeout = _DEFAULT

    def close(self) -> None:
        """Hang up."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None

    async def ask(self, command: str, arguments: dict[str, Any] | None, *, answers: bool = True) -> Any:
        """Send a request; return its answer. Raises LibvirtError."""
        async with self._lock:
            try:
                await self._sync()
                request: dict[str, Any] = {"execute": command}
                if arguments:
                    request["arguments"] = arguments
                await self._send(request)
                wait = {_BLOCK: None, _DEFAULT: ANSWER_TIMEOUT_S, _NOWAIT: SYNC_TIMEOUT_S}.get(
                    self.timeout, self.timeout
                )
                async with asyncio.timeout(wait if answers else SYNC_TIMEOUT_S):
                    return _value(command, await self._receive())
            except TimeoutError as error:
                self.close()
                if not answers:
                    return None
                raise _unresponsive("QEMU guest agent is not connected") from error
            except (OSError, EOFError, asyncio.LimitOverrunError) as error:
                self.close()
                if not answers:
                    return None
                raise _unresponsive("Guest agent disappeared while executing command") from error

    async def _sync(self) -> None:
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_unix_connection(self._path, limit=ANSWER_MAX)
        wait = SYNC_TIMEOUT_S if self.timeout < 0 else max(self.timeout, 1)
        number = next(self._ids)
        async with asyncio.timeout(wait):
            await self._send({"execute": "guest-sync", "arguments": {"id": number}})
            while True:  # what comes before the answer is left over from somebody who gave up
                try:
                    if (await self._receive()).get("return") == number:
                        return
                except ValueError:
                    continue

    async def _send(self, request: dict[str, Any]) -> None:
        if self._writer is None:
            raise EOFError
        self._writer.write(json.dumps(request).encode() + b"\n")
        await self._writer.drain()

    async def _receive(self) -> dict[str, Any]:
        if self._reader is None:
            raise EOFError
        line = await self._reader.readline()
        if not line:
            raise EOFError
        answer = json.loads(line.lstrip(b"\xff"))
        if not isinstance(answer, dict):
            msg = "not an answer"
            raise ValueError(msg)  # noqa: TRY004 - the peer's mistake, not a caller's
        return answer


def _value(command: str, answer: dict[str, Any]) -> Any:
    if "error" in answer:
        error = answer["error"]
        said = error.get("desc", error.get("class", "unknown QEMU command error"))
        raise internal(f"unable to execute QEMU agent command '{command}': {said}")
    if "return" not in answer:
        raise internal("QEMU agent reply was missing return data")
    return answer["return"]


def _connection(domain: ManagedDomain) -> AgentConnection:
    domain.require_active()
    path, state = _channel(domain)
    if state == "disconnected":
        raise _unresponsive("QEMU guest agent is not connected")
    found = domain.parts.get("agent")
    if found is None:
        found = domain.parts["agent"] = AgentConnection(path)
        found.timeout = domain.agent_timeout_s
    connection: AgentConnection = found
    return connection


async def execute(
    domain: ManagedDomain, command: str, arguments: dict[str, Any] | None = None, *, answers: bool = True
) -> Any:
    """Have the agent do something; return what it says. Raises LibvirtError."""
    try:
        return await _connection(domain).ask(command, arguments, answers=answers)
    except ValueError as error:
        raise internal(f"cannot parse json {command}: {error}") from error


async def shutdown(domain: ManagedDomain, mode: str) -> None:
    """Have the guest shut down ("powerdown", "reboot", "halt"); it may not say that it will."""
    await execute(domain, "guest-shutdown", {"mode": mode}, answers=False)


def set_timeout(domain: ManagedDomain, timeout: int) -> None:
    """Say how long the agent may take: seconds, -2 (for ever), -1 (a minute), 0 (hardly any). Raises LibvirtError."""
    if timeout < _BLOCK:
        detail = f"guest agent timeout '{timeout}' is less than the minimum '{_BLOCK}'"
        raise LibvirtError(ErrorCode.INVALID_ARG, ErrorDomain.QEMU, detail)
    domain.agent_timeout_s = timeout
    found = domain.parts.get("agent")
    if found is not None:
        found.timeout = timeout


async def raw(domain: ManagedDomain, text: str, wait: int) -> str:
    """Have the agent run a command given as JSON; return the answer as JSON. Raises LibvirtError."""
    request = _json(text)
    connection = _connection(domain)
    before, connection.timeout = connection.timeout, wait
    try:
        answer = await execute(domain, str(request.get("execute", "")), request.get("arguments"))
    finally:
        connection.timeout = before
    return json.dumps({"return": answer}, separators=(",", ":"))


async def monitor_raw(domain: ManagedDomain, text: str, *, human: bool, fds: Sequence[int] = ()) -> str:
    """Have the monitor run a command given as JSON, or as people write it; return the answer. Raises LibvirtError."""
    machine = domain.require_active()
    if human:
        return str(await domain.monitor("human-monitor-command", {"command-line": text}))
    request = _json(text)
    try:
        answer = await machine.execute(str(request.get("execute", "")), request.get("arguments"), fds=fds)
    except QmpError as error:
        told = {"error": {"class": error.kind, "desc": error.description}}
        return json.dumps({"id": "libvirt-1", **told}, separators=(",", ":"))
    except ConnectionError as error:
        raise invalid("domain is not running") from error
    return json.dumps({"return": answer, "id": "libvirt-1"}, separators=(",", ":"))


def _json(text: str) -> dict[str, Any]:
    try:
        request = json.loads(text)
    except ValueError as error:
        raise internal(f"cannot parse json {text}: {error}") from error
    if not isinstance(request, dict):
        raise internal(f"cannot parse json {text}: not an object")
    return request
