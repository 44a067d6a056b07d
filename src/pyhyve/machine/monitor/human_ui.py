"""Keyboard and screen in the monitor for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.machine.monitor.errors import QmpError
from pyhyve.machine.monitor.human_syntax import LineError, Verb

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyhyve.machine.monitor.commands import MachineCommands


class HumanUi:
    """`sendkey` and `screendump`."""

    def __init__(self, commands: MachineCommands) -> None:
        self._commands = commands
        self.verbs = [
            Verb("sendkey", "", "keys:s,hold-time:i?", "keys [hold_ms]", "press keys, as in ctrl-alt-f1",
                 self._sendkey),
            Verb("screendump", "", "filename:F,format:-f,kind:s?", "filename [-f format]",
                 "write a picture of the screen to a file (ppm, or png)", self._screendump),
        ]  # fmt: skip

    def _sendkey(self, given: Mapping[str, Any]) -> str:
        from pyhyve.devices.input.keys import NUMBERS  # noqa: PLC0415 - few people type here

        keys = []
        for name in given["keys"].split("-"):
            key = "less" if name == "<" else name
            if key.startswith("0x"):
                try:
                    keys.append({"type": "number", "data": int(key[:8], 16)})
                    continue
                except ValueError:
                    key = ""
            if key not in NUMBERS:
                msg = f"invalid parameter: {name[:40]}"
                raise LineError(msg)
            keys.append({"type": "qcode", "data": key})
        request: dict[str, object] = {"keys": keys}
        if "hold-time" in given:
            request["hold-time"] = given["hold-time"]
        self._commands.execute("send-key", request)
        return ""

    def _screendump(self, given: Mapping[str, Any]) -> str:
        kind = given.get("kind", "ppm")
        if kind not in {"ppm", "png"}:
            msg = f"Parameter 'format' does not accept value '{kind}'"
            raise QmpError(msg)
        self._commands.execute("screendump", {"filename": given["filename"], "format": kind})
        return ""
