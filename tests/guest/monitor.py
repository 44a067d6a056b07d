"""A machine's monitor, as a test speaks to it."""

from __future__ import annotations

import json
import socket
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

WAIT_S = 120.0


def connect(path: str) -> socket.socket:
    """A connection to a socket that may be there a little later."""
    deadline = time.monotonic() + WAIT_S
    while True:
        found = socket.socket(socket.AF_UNIX)
        found.settimeout(WAIT_S)
        try:
            found.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            found.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return found


class Monitor:
    """A QMP client that keeps events until somebody asks for them; it waits for a machine that is being started."""

    def __init__(self, path: Path | str) -> None:
        self._socket = connect(str(path))
        self._stream = self._socket.makefile("rwb")
        self.events: list[dict[str, Any]] = []
        assert "QMP" in json.loads(self._stream.readline())
        self.ask("qmp_capabilities")

    def _take(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self._stream.readline())
        return message

    def ask(self, name: str, **arguments: Any) -> Any:
        names = {key.replace("_", "-") if key != "class_" else key: value for key, value in arguments.items()}
        self._stream.write(json.dumps({"execute": name, "arguments": names}).encode())
        self._stream.flush()
        while True:
            message = self._take()
            if "event" in message:
                self.events.append(message)
                continue
            assert "return" in message, message
            return message["return"]

    def event(self, name: str) -> Any:
        """The data of the next event called `name`."""
        while True:
            for event in self.events:
                if event["event"] == name:
                    self.events.remove(event)
                    return event.get("data", {})
            message = self._take()
            self.events.append(message)

    def migrate(self, uri: str) -> None:
        """Send the machine there, and wait until it is."""
        self.ask("migrate", uri=uri)
        while (status := self.ask("query-migrate")["status"]) not in {"completed", "failed"}:
            time.sleep(0.05)
        assert status == "completed"

    def close(self) -> None:
        self._stream.close()
        self._socket.close()
