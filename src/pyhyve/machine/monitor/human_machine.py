"""The machine as a whole in the monitor for people: how it runs, its memory, migration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.machine.monitor.errors import QmpError
from pyhyve.machine.monitor.human_commands import HumanCommands
from pyhyve.machine.monitor.human_syntax import Format, LineError, Verb
from pyhyve.machine.monitor.schema import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pyhyve.machine.monitor.commands import MachineCommands

_MAX_BYTES = 1 << 20
_MAX_DIGITS = 19
_ESCAPES = {"'": "\\'", "\\": "\\\\", "\n": "\\n", "\r": "\\r"}


class HumanMachine(HumanCommands):
    """Control, memory, and what a migration may do. `chosen_cpu` tells which processor is meant."""

    def __init__(self, commands: MachineCommands, chosen_cpu: Callable[[], int]) -> None:
        super().__init__(commands)
        self._chosen_cpu = chosen_cpu
        self._letter, self._size_bytes = "x", 4
        simple = {
            "cont": ("c", "resume emulation", "cont"),
            "nmi": ("", "inject an NMI on all CPUs", "inject-nmi"),
            "quit": ("q", "end the machine", "quit"),
            "stop": ("s", "stop emulation", "stop"),
            "system_powerdown": ("", "press the power button", "system_powerdown"),
            "system_reset": ("", "reset the machine", "system_reset"),
            "migrate_cancel": ("", "take a migration back", "migrate_cancel"),
        }
        self.verbs = [
            *(Verb(name, short, "", "", what, self._plain(command)) for name, (short, what, command) in simple.items()),
            Verb("balloon", "", "value:M", "target", "ask the guest to make do with target MiB", self._balloon),
            Verb("x", "", "fmt:/,addr:i", "/fmt addr", "show memory as the processor sees it", self._virtual),
            Verb("xp", "", "fmt:/,addr:i", "/fmt addr", "show physical memory", self._physical),
            Verb("print", "p", "fmt:/,val:i", "/fmt expr", "show the value of an expression ($reg: a register)",
                 self._print),
            Verb("sum", "", "start:i,size:i", "addr size", "add physical memory up", self._sum),
            Verb("memsave", "", "val:i,size:i,filename:s", "addr size file", "save memory as the processor sees it",
                 lambda given: self._do("memsave", **given, **{"cpu-index": self._chosen_cpu()})),
            Verb("pmemsave", "", "val:i,size:i,filename:s", "addr size file", "save physical memory",
                 lambda given: self._do("pmemsave", **given)),
            Verb("dump-guest-memory", "", "paging:-p,detach:-d,filename:F,begin:i?,length:i?",
                 "[-p] [-d] filename [begin length]", "write the guest's memory into a file (-d: do not wait)",
                 self._dump),
            Verb("migrate", "", "detach:-d,uri:s", "[-d] uri", "begin to move the machine, with -d or without",
                 self._migrate),
            Verb("migrate_incoming", "", "uri:s", "uri", "take a machine from there",
                 lambda given: self._do("migrate-incoming", **given)),
            Verb("migrate_set_capability", "", "capability:s,state:b", "capability on|off", "what a migration may do",
                 self._set_capability),
            Verb("migrate_set_parameter", "", "parameter:s,value:s", "parameter value", "how a migration goes",
                 self._set_parameter),
            Verb("calc_dirty_rate", "", "second:i,sample:i?", "seconds [sample_pages]",
                 "measure how fast the guest writes to its memory", self._dirty_rate),
        ]  # fmt: skip

    def _plain(self, command: str) -> Callable[[Mapping[str, Any]], str]:
        return lambda _given: self._do(command)

    def _balloon(self, given: Mapping[str, Any]) -> str:
        return self._do("balloon", value=given["value"])

    def _dirty_rate(self, given: Mapping[str, Any]) -> str:
        arguments = {"calc_time": given["second"], **({"sample_pages": given["sample"]} if "sample" in given else {})}
        self._do("calc-dirty-rate", **arguments)
        return (
            f"Starting dirty rate measurement with period {given['second']} seconds\n"
            "[Please use 'info dirty_rate' to check results]\n"
        )

    def _dump(self, given: Mapping[str, Any]) -> str:
        if given["paging"]:
            msg = "dump-guest-memory: -p is not supported"
            raise QmpError(msg)
        arguments = {"paging": False, "protocol": f"file:{given['filename']}", "detach": given["detach"]}
        arguments |= {key: given[key] for key in ("begin", "length") if key in given}
        return self._do("dump-guest-memory", **arguments)

    # -- memory -------------------------------------------------------------------------------------------------------

    def _virtual(self, given: Mapping[str, Any]) -> str:
        return self._show(given["fmt"], given["addr"], self._chosen_cpu())

    def _physical(self, given: Mapping[str, Any]) -> str:
        return self._show(given["fmt"], given["addr"], None)

    def _choose(self, wanted: Format) -> tuple[str, int]:
        """Letter and size; what is left out is as the last time."""
        self._letter = wanted.letter or self._letter
        if self._letter == "i":
            self._letter = "x"
            msg = "there is no disassembler here: use another format than i"
            raise LineError(msg)
        self._size_bytes = wanted.size_bytes or self._size_bytes
        return self._letter, 1 if self._letter == "c" else self._size_bytes

    def _show(self, wanted: Format, start: int, cpu: int | None) -> str:
        from pyhyve.machine.monitor.dump import read_memory  # noqa: PLC0415 - rarely done

        letter, size = self._choose(wanted)
        total = wanted.count * size
        if total > _MAX_BYTES:
            msg = f"no more than {_MAX_BYTES} bytes at once"
            raise LineError(msg)
        data = read_memory(self._commands.machine, start, total, cpu)
        per_line = 8 if size == 1 else 16
        lines = []
        for at in range(0, total, per_line):
            end = min(at + per_line, total)
            head = f"{(start + at) & (1 << 64) - 1:016x}:"
            if end > len(data):
                lines.append(f"{head} Cannot access memory")
                break
            values = [int.from_bytes(data[place : place + size], "little") for place in range(at, end, size)]
            lines.append(" ".join([head, *(_cell(letter, size, value) for value in values)]))
        return "".join(line + "\n" for line in lines)

    def _print(self, given: Mapping[str, Any]) -> str:
        letter, _ = self._choose(given["fmt"])
        value = given["val"]
        match letter:
            case "o":
                return f"{'0' if value else ''}{value:o}\n"
            case "x":
                return f"{value:#x}\n" if value else "0\n"
            case "u":
                return f"{value}\n"
            case "c":
                return _character(value & 0xFF) + "\n"
            case _:
                return f"{value - (1 << 64) if value >> 63 else value}\n"

    def _sum(self, given: Mapping[str, Any]) -> str:
        from pyhyve.machine.monitor.dump import read_memory  # noqa: PLC0415 - rarely done

        start, size = given["start"], given["size"]
        if size > _MAX_BYTES:
            msg = f"no more than {_MAX_BYTES} bytes at once"
            raise LineError(msg)
        total = 0
        for byte in read_memory(self._commands.machine, start, size).ljust(size, b"\xff"):
            total = (total >> 1 | total << 15) & 0xFFFF
            total = total + byte & 0xFFFF
        return f"{total:05d}\n"

    # -- migration ----------------------------------------------------------------------------------------------------

    def _migrate(self, given: Mapping[str, Any]) -> str:
        return self._do("migrate", uri=given["uri"])

    def _set_capability(self, given: Mapping[str, Any]) -> str:
        name = given["capability"]
        if name not in SCHEMA.enums["MigrationCapability"]:
            msg = f"Parameter 'MigrationCapability' does not accept value '{name}'"
            raise QmpError(msg)
        return self._do("migrate-set-capabilities", capabilities=[{"capability": name, "state": given["state"]}])

    def _set_parameter(self, given: Mapping[str, Any]) -> str:
        name, text = given["parameter"], given["value"]
        known = SCHEMA.structs["MigrationParameters"].members
        if f"*{name}" not in known:
            msg = f"Parameter 'MigrationParameter' does not accept value '{name}'"
            raise QmpError(msg)
        digits, unit = (text[:-1], text[-1].lower()) if name == "max-bandwidth" and text[-1:].isalpha() else (text, "")
        scale = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "b": 1}
        if name == "max-bandwidth":
            scale[""] = 1 << 20
        if not digits.isascii() or not digits.isdigit() or len(digits) > _MAX_DIGITS or (unit not in scale and unit):
            msg = f"Parameter '{name}' expects a {'size' if name == 'max-bandwidth' else 'number'}"
            raise QmpError(msg)
        return self._do("migrate-set-parameters", **{name: int(digits) * scale.get(unit, 1)})


def _cell(letter: str, size: int, value: int) -> str:
    match letter:
        case "o":
            return f"{'0' if value else ''}{value:o}".rjust(-(-size * 8 // 3))
        case "u" | "d":
            shown = value - (1 << 64) if letter == "d" and value >> 63 else value
            return str(shown).rjust(-(-size * 80 // 33))
        case "c":
            return _character(value)
        case _:
            return f"0x{value:0{size * 2}x}"


def _character(value: int) -> str:
    character = chr(value)
    if character in _ESCAPES:
        return f"'{_ESCAPES[character]}'"
    return f"'{character}'" if 32 <= value <= 126 else f"'\\x{value:02x}'"
