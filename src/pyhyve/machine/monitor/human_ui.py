"""Keyboard and screen in the monitor for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.machine.monitor.errors import QmpError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.machine.monitor.commands import MachineCommands


class HumanUi:
    """`sendkey` and `screendump`: each takes words, gives text."""

    def __init__(self, commands: MachineCommands) -> None:
        self._commands = commands
        self.verbs: dict[str, tuple[str, Callable[[list[str]], str]]] = {
            "sendkey": ("press keys, as in ctrl-alt-f1", self._sendkey),
            "screendump": ("write a picture of the screen to a file", self._screendump),
        }

    def execute(self, name: str, words: list[str]) -> str:
        """Carry out a verb. Raises QmpError."""
        return self.verbs[name][1](words)

    def _sendkey(self, words: list[str]) -> str:
        from pyhyve.devices.input.keys import NUMBERS  # noqa: PLC0415 - few people type here

        if not 1 <= len(words) <= 2:
            msg = "sendkey: write keys, as in ctrl-alt-f1, and how many milliseconds to hold them"
            raise QmpError(msg)
        keys = []
        for name in words[0].split("-"):
            key = "less" if name == "<" else name
            if key.startswith("0x"):
                try:
                    keys.append({"type": "number", "data": int(key[:8], 16)})
                    continue
                except ValueError:
                    key = ""
            if key not in NUMBERS:
                msg = f"invalid parameter: {name[:40]}"
                raise QmpError(msg)
            keys.append({"type": "qcode", "data": key})
        request: dict[str, object] = {"keys": keys}
        if len(words) == 2:
            if not words[1].isascii() or not words[1].isdigit():
                msg = "sendkey: the time is a number of milliseconds"
                raise QmpError(msg)
            request["hold-time"] = int(words[1][:9])
        self._commands.execute("send-key", request)
        return ""

    def _screendump(self, words: list[str]) -> str:
        is_png = words[:2] in (["-f", "png"], ["-fpng"])
        names = [word for word in words if not word.startswith("-")]
        if words[:1] == ["-f"]:
            names = names[1:]
        if len(names) != 1:
            msg = "screendump: write the name of a file"
            raise QmpError(msg)
        self._commands.execute("screendump", {"filename": names[0], "format": "png" if is_png else "ppm"})
        return ""
