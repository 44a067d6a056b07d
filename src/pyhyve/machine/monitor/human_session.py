"""A person's conversation with the monitor, without I/O: lines in, text and a prompt out.

Editing a line is the terminal's business: what arrives is taken as it was sent.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pyhyve.machine.monitor.errors import QmpError
from pyhyve.machine.monitor.human import END_OF_LINE, HumanMonitor

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.machine.monitor.commands import MachineCommands

_LOG = logging.getLogger(__name__)
PROMPT = b"(qemu) "
MAX_LINE_BYTES = 4096


class HumanSession:
    """Banner and prompt, then one answer and prompt for each line."""

    def __init__(self, commands: MachineCommands, package: str, send: Callable[[bytes], None]) -> None:
        """`package` names the program in the banner."""
        self._human = HumanMonitor(commands)
        self._send = send
        self._line = bytearray()
        self._overlong = False
        send(f"{package} monitor - type 'help' for more information{END_OF_LINE}".encode() + PROMPT)

    def receive(self, data: bytes) -> None:
        """Take bytes and answer every line they complete; an overlong line is refused."""
        *ends, rest = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for part in ends:
            self._take(part)
            answer = f"line too long{END_OF_LINE}" if self._overlong else self._answer()
            self._line.clear()
            self._overlong = False
            self._send(answer.encode(errors="replace") + PROMPT)
        self._take(rest)

    def event(self, message: bytes) -> None:
        """Events are for programs."""

    def _take(self, part: bytes) -> None:
        self._overlong |= len(self._line) + len(part) > MAX_LINE_BYTES
        if not self._overlong:
            self._line += part

    def _answer(self) -> str:
        try:
            return self._human.execute(self._line.decode(errors="replace"))
        except QmpError as error:
            return f"Error: {error}{END_OF_LINE}"
        except Exception as error:  # noqa: BLE001 - a mistake of ours costs one answer, not the conversation
            _LOG.debug("a line failed", exc_info=True)
            return f"Error: internal error: {type(error).__name__}: {error}".replace("\n", " ") + END_OF_LINE
