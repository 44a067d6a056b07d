"""One client's conversation (docs/interop/qmp-spec), without I/O: bytes in, bytes to send out."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pyhyve.machine.monitor import client
from pyhyve.machine.monitor.errors import ErrorClass, QmpError
from pyhyve.machine.monitor.framing import JsonStream
from pyhyve.machine.monitor.validation import check_arguments, check_command

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pyhyve.machine.monitor.client import PassedDescriptors
    from pyhyve.machine.monitor.types import Schema

_LOG = logging.getLogger(__name__)
_NEGOTIATE = "qmp_capabilities"
_OOB = "oob"
_MEMBERS = ("execute", "exec-oob", "arguments", "id")


class Dispatcher(Protocol):
    """What carries out commands."""

    @property
    def schema(self) -> Schema:
        """The commands there are."""

    def execute(self, name: str, arguments: dict[str, Any]) -> Any:  # noqa: ANN401 - any JSON value
        """Carry out command `name`, which the schema knows, with checked arguments. Raises QmpError."""


@dataclass(frozen=True, slots=True)
class Greeting:
    """What the server says first."""

    version: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """The greeting message."""
        return {"QMP": {"version": self.version, "capabilities": [_OOB]}}


def encode(message: object) -> bytes:
    """One message as it goes out."""
    return json.dumps(message, allow_nan=False).encode("ascii") + b"\r\n"


def event_message(name: str, data: Mapping[str, Any] | None, time_us: int) -> bytes:
    """An event that happened `time_us` microseconds after 1970-01-01 UTC."""
    seconds, microseconds = divmod(time_us, 1_000_000)
    message: dict[str, Any] = {"timestamp": {"seconds": seconds, "microseconds": microseconds}, "event": name}
    if data:
        message["data"] = data
    return encode(message)


class Session:
    """Greeting, negotiation, then commands. `send` takes what goes to the client.

    Commands are carried out in the order in which they arrive; none takes long, so that one sent out of band is
    simply the next.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        greeting: Greeting,
        send: Callable[[bytes], None],
        descriptors: PassedDescriptors | None = None,
        before_reply: Callable[[], None] | None = None,
    ) -> None:
        """Sends the greeting. `descriptors` are those that the client passes along.

        `before_reply` is called when a command was carried out: it sends the events that this caused.
        """
        self._descriptors = descriptors
        self._before_reply = before_reply
        self._dispatcher = dispatcher
        self._send = send
        self._stream = JsonStream()
        self._negotiated = False
        self._oob = False
        send(encode(greeting.as_json()))

    def receive(self, data: bytes) -> None:
        """Take bytes from the client and answer every request they complete."""
        client.serve(self._descriptors)
        for value in self._stream.feed(data):
            reply: dict[str, Any] = {}
            try:
                if isinstance(value, QmpError):
                    raise value
                if isinstance(value, dict) and "id" in value:
                    reply["id"] = value["id"]
                result = self._answer(value)
                reply = {"return": {} if result is None else result, **reply}
            except QmpError as error:
                reply["error"] = error.as_json()
            except Exception as error:  # noqa: BLE001 - a mistake of ours costs one answer, not the machine
                _LOG.debug("a command failed", exc_info=True)
                reply["error"] = QmpError(f"internal error: {type(error).__name__}: {error}").as_json()
            if self._before_reply is not None:
                self._before_reply()
            self._send(encode(reply))

    def event(self, message: bytes) -> None:
        """Pass on an event (`event_message`), to a client that has negotiated."""
        if self._negotiated:
            self._send(message)

    def _answer(self, request: object) -> Any:  # noqa: ANN401 - any JSON value
        name, arguments, oob = self._take_apart(request)
        if not self._negotiated:
            if name != _NEGOTIATE:
                msg = "Expecting capabilities negotiation with 'qmp_capabilities'"
                raise QmpError(msg, ErrorClass.COMMAND_NOT_FOUND)
            self._negotiate(arguments)
            return {}
        schema = self._dispatcher.schema
        command = schema.commands.get(name)
        if command is None:
            msg = f"The command {name} has not been found"
            raise QmpError(msg, ErrorClass.COMMAND_NOT_FOUND)
        if oob and not command.allow_oob:
            msg = f"The command {name} does not support OOB"
            raise QmpError(msg)
        if name == _NEGOTIATE:
            msg = "Capabilities negotiation is already complete, command ignored"
            raise QmpError(msg, ErrorClass.COMMAND_NOT_FOUND)
        check_command(schema, command, arguments)
        return self._dispatcher.execute(name, arguments)

    def _take_apart(self, request: object) -> tuple[str, dict[str, Any], bool]:
        """Command, arguments, and whether it came out of band."""
        if not isinstance(request, dict):
            msg = "QMP input must be a JSON object"
            raise QmpError(msg)
        name: object = None
        oob = False
        for key, value in request.items():
            if key not in _MEMBERS or (key == "exec-oob" and not self._oob and "execute" not in request):
                msg = f"QMP input member '{key}' is unexpected"
                raise QmpError(msg)
            if key in {"execute", "exec-oob"}:
                if not isinstance(value, str):
                    msg = f"QMP input member '{key}' must be a string"
                    raise QmpError(msg)
                if name is not None:
                    msg = "QMP input member 'execute' clashes with 'exec-oob'"
                    raise QmpError(msg)
                name, oob = value, key == "exec-oob"
        arguments = request.get("arguments", {})
        if not isinstance(arguments, dict):
            msg = "QMP input member 'arguments' must be an object"
            raise QmpError(msg)
        if not isinstance(name, str):
            msg = "QMP input lacks member 'execute'"
            raise QmpError(msg)
        return name, arguments, oob

    def _negotiate(self, arguments: dict[str, Any]) -> None:
        schema = self._dispatcher.schema
        check_arguments(schema, schema.commands[_NEGOTIATE].arguments, arguments)
        self._oob = _OOB in arguments.get("enable", [])
        self._negotiated = True
