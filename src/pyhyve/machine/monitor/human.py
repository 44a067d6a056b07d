"""The monitor for people (QEMU's HMP): one line in, text out. Also what `human-monitor-command` carries out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.machine.monitor.errors import QmpError
from pyhyve.machine.monitor.human_block import HumanBlock
from pyhyve.machine.monitor.human_devices import HumanDevices
from pyhyve.machine.monitor.human_info import HumanInfo
from pyhyve.machine.monitor.human_machine import HumanMachine
from pyhyve.machine.monitor.human_snapshots import HumanSnapshots
from pyhyve.machine.monitor.human_syntax import Line, LineError, Verb, parse_parameters
from pyhyve.machine.monitor.human_ui import HumanUi
from pyhyve.support.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pyhyve.machine.monitor.commands import MachineCommands

END_OF_LINE = "\r\n"
_INSPECT_TIMEOUT_S = 10.0


class HumanMonitor:
    """One person's monitor; it remembers the processor that `cpu` chose."""

    def __init__(self, commands: MachineCommands) -> None:
        """Acts through the QMP commands."""
        self._commands = commands
        self._cpu = 0
        snapshots = HumanSnapshots(commands)
        self._verbs = [
            Verb("cpu", "", "index:i", "index", "choose a processor", self._choose_cpu),
            Verb("help", "?", "name:S?", "[command]", "show what there is", self._help),
            *HumanBlock(commands).verbs,
            *HumanDevices(commands).verbs,
            *HumanMachine(commands, self._chosen_cpu).verbs,
            *snapshots.verbs,
            *HumanUi(commands).verbs,
        ]
        self._topics = sorted(
            [*HumanInfo(commands, self._chosen_cpu).topics, *snapshots.topics], key=lambda topic: topic.name
        )

    def select_cpu(self, index: int) -> None:
        """Choose the processor that is meant. Raises QmpError."""
        if not 0 <= index < len(self._commands.machine.parts.runners):
            msg = "Parameter 'cpu-index' expects a CPU number"
            raise QmpError(msg)
        self._cpu = index

    def _chosen_cpu(self) -> int:
        if not self._commands.machine.parts.runners:
            msg = "No CPU available"
            raise QmpError(msg)
        return self._cpu

    def execute(self, line: str) -> str:
        """Carry out one line; the text to show, mistakes included."""
        text = self._execute(line.strip())
        return text.replace("\n", END_OF_LINE)

    def _execute(self, line: str) -> str:
        name = line[: _end_of_word(line)]
        rest = line[len(name) :]
        if not name:
            return ""
        if name != "info":
            return self._carry_out(self._verbs, name, rest, name)
        topic = rest.strip()[: _end_of_word(rest.strip())]
        if not topic:
            return "".join(f"info {found.help}\n" for found in self._topics)
        return self._carry_out(self._topics, topic, rest.strip()[len(topic) :], f"info {topic}", ends_lines=False)

    def _carry_out(self, verbs: Sequence[Verb], name: str, rest: str, typed: str, *, ends_lines: bool = True) -> str:
        verb = _find(verbs, name)
        if verb is None:
            return f"unknown command: '{typed[:80]}'\n"
        try:
            given = parse_parameters(verb, Line(rest, self._registers))
        except LineError as error:
            return f'{error}\nTry "help {typed}" for more information\n'
        try:
            text = verb.run(given)
        except LineError as error:
            return f"{error}\n"
        except (QmpError, UserError) as error:
            return f"Error: {error}\n"
        return text if ends_lines else "".join(line + "\n" for line in text.splitlines())

    def _registers(self) -> Mapping[str, int]:
        runners, found = self._commands.machine.parts.runners, dict[str, int]()
        if not runners:
            return found
        runner = runners[self._cpu]
        done = self._commands.machine.inspect(lambda: found.update(runner.vcpu.read_registers()))
        done.wait(_INSPECT_TIMEOUT_S)
        return found

    def _help(self, given: Mapping[str, Any]) -> str:
        name = given.get("name", "").strip()
        if name == "info" or name.startswith("info "):
            wanted = name.removeprefix("info").strip()
            shown = [f"info {topic.help}" for topic in self._topics if wanted in {"", topic.name}]
        elif name:
            verb = _find(self._verbs, name)
            shown = [] if verb is None else [verb.help]
        else:
            shown = sorted([*(verb.help for verb in self._verbs), "info [subcommand] -- show something of the machine"])
        if not shown:
            return f"unknown command: '{name[:80]}'\n"
        return "".join(line + "\n" for line in shown)

    def _choose_cpu(self, given: Mapping[str, Any]) -> str:
        try:
            self.select_cpu(given["index"])
        except QmpError as error:
            msg = "invalid CPU index"
            raise LineError(msg) from error
        return ""


def _end_of_word(text: str) -> int:
    """Where a command's name ends: a space, or the `/` of a format."""
    return next((at for at, character in enumerate(text) if character.isspace() or character == "/"), len(text))


def _find(verbs: Sequence[Verb], name: str) -> Verb | None:
    return next((verb for verb in verbs if name == verb.name or (verb.short and name == verb.short)), None)
