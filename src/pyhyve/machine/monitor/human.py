"""The monitor for people (QEMU's HMP): one line in, text out. Also what `human-monitor-command` carries out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.machine.monitor.errors import QmpError
from pyhyve.machine.monitor.human_pci import describe_functions
from pyhyve.machine.monitor.human_snapshots import HumanSnapshots
from pyhyve.machine.monitor.human_ui import HumanUi
from pyhyve.machine.monitor.registers import describe_registers

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.machine.monitor.commands import MachineCommands

END_OF_LINE = "\r\n"
_INSPECT_TIMEOUT_S = 10.0


class HumanMonitor:
    """One person's monitor; it remembers the processor that `cpu` chose."""

    def __init__(self, commands: MachineCommands) -> None:
        """Acts through the QMP commands."""
        self._commands = commands
        self._cpu = 0
        self._snapshots = HumanSnapshots(commands)
        self._groups = (self._snapshots, HumanUi(commands))
        self._verbs: dict[str, tuple[str, str, Callable[[], str]]] = {
            "cont": ("c", "resume emulation", self._qmp("cont")),
            "help": ("?", "show this", self._help),
            "nmi": ("", "inject an NMI on all CPUs", self._qmp("inject-nmi")),
            "quit": ("q", "end the machine", self._qmp("quit")),
            "stop": ("s", "stop emulation", self._qmp("stop")),
            "system_powerdown": ("", "press the power button", self._qmp("system_powerdown")),
            "system_reset": ("", "reset the machine", self._qmp("system_reset")),
        }
        self._topics: dict[str, tuple[str, Callable[[], str]]] = {
            "block": ("the disks", self._info_block),
            "chardev": ("the character devices", self._info_chardev),
            "cpus": ("the processors", self._info_cpus),
            "kvm": ("whether KVM runs the guest", self._info_kvm),
            "migrate": ("how a migration stands", self._snapshots.migration),
            "name": ("the machine's name", self._info_name),
            "pci": ("the PCI functions", self._info_pci),
            "registers": ("the chosen processor's registers", self._info_registers),
            "snapshots": ("the snapshots of machine and disks", self._snapshots.snapshots),
            "status": ("whether the machine runs", self._info_status),
            "uuid": ("the machine's UUID", self._info_uuid),
            "version": ("the version", self._info_version),
        }

    def select_cpu(self, index: int) -> None:
        """Choose the processor that `info registers` shows. Raises QmpError."""
        if not 0 <= index < len(self._commands.machine.parts.runners):
            msg = "Parameter 'cpu-index' expects a CPU number"
            raise QmpError(msg)
        self._cpu = index

    def execute(self, line: str) -> str:
        """Carry out one line; the text to show, mistakes included."""
        words = line.split()
        if not words:
            return ""
        if words[0] == "info":
            return self._info(words[1:])
        if words[0] == "cpu":
            return self._choose_cpu(words[1:])
        for group in self._groups:
            if words[0] in group.verbs:
                try:
                    return group.execute(words[0], words[1:])
                except QmpError as error:
                    return f"Error: {error}{END_OF_LINE}"
        for name, (short, _, action) in self._verbs.items():
            if words[0] in {name, short}:
                if len(words) > 1:
                    shown = f"{name}|{short}" if short else name
                    return (
                        f"{shown}: extraneous characters at the end of line{END_OF_LINE}"
                        f'Try "help {name}" for more information{END_OF_LINE}'
                    )
                try:
                    return action()
                except QmpError as error:
                    return f"Error: {error}{END_OF_LINE}"
        return f"unknown command: '{words[0][:80]}'{END_OF_LINE}"

    def _qmp(self, name: str) -> Callable[[], str]:
        def carry_out() -> str:
            self._commands.execute(name, {})
            return ""

        return carry_out

    def _query(self, name: str) -> Any:  # noqa: ANN401 - any JSON value
        return self._commands.execute(name, {})

    def _help(self) -> str:
        lines = [f"{name}{f'|{short}' if short else ''} -- {what}" for name, (short, what, _) in self._verbs.items()]
        lines += [f"{name} -- {what}" for group in self._groups for name, (what, _) in group.verbs.items()]
        lines += ["cpu index -- choose a processor", "info subcommand -- show something of the machine"]
        return "".join(line + END_OF_LINE for line in sorted(lines))

    def _choose_cpu(self, words: list[str]) -> str:
        try:
            if len(words) != 1 or not words[0].isascii() or not words[0].isdigit():
                msg = "cpu: write the number of a processor"
                raise QmpError(msg)
            self.select_cpu(int(words[0][:9]))
        except QmpError as error:
            return f"Error: {error}{END_OF_LINE}"
        return ""

    def _info(self, words: list[str]) -> str:
        if not words:
            lines = [f"info {name}  -- show {what}" for name, (what, _) in self._topics.items()]
            return "".join(line + END_OF_LINE for line in lines)
        topic = self._topics.get(words[0])
        if topic is None or len(words) > 1:
            return f"unknown command: 'info {' '.join(words)[:80]}'{END_OF_LINE}"
        try:
            text = topic[1]()
        except QmpError as error:
            text = f"Error: {error}"
        return "".join(line + END_OF_LINE for line in text.splitlines())

    # -- topics: text whose lines end in "\n" -------------------------------------------------------------------------

    def _info_status(self) -> str:
        status = self._query("query-status")["status"]
        if status == "running":
            return "VM status: running"
        return "VM status: paused" + (f" ({status})" if status != "paused" else "")

    def _info_version(self) -> str:
        version = self._query("query-version")
        numbers = version["qemu"]
        return f"{numbers['major']}.{numbers['minor']}.{numbers['micro']} ({version['package']})"

    def _info_name(self) -> str:
        return str(self._query("query-name").get("name", ""))

    def _info_uuid(self) -> str:
        return str(self._query("query-uuid")["UUID"])

    def _info_kvm(self) -> str:
        return f"kvm support: {'enabled' if self._query('query-kvm')['enabled'] else 'disabled'}"

    def _info_cpus(self) -> str:
        return "\n".join(
            f"{'*' if cpu['cpu-index'] == self._cpu else ' '} CPU #{cpu['cpu-index']}: thread_id={cpu['thread-id']}"
            for cpu in self._query("query-cpus-fast")
        )

    def _info_chardev(self) -> str:
        return "\n".join(f"{entry['label']}: filename={entry['filename']}" for entry in self._query("query-chardev"))

    def _info_block(self) -> str:
        lines = []
        for drive in self._query("query-block"):
            inserted = drive.get("inserted")
            if inserted is None:
                lines.append(
                    f"{drive['device'] or drive['qdev']}: [not inserted]\n    Attached to:      {drive['qdev']}"
                )
                continue
            mode = "read-only, " if inserted["ro"] else ""
            lines.append(
                f"{drive['device']} ({inserted['node-name']}): {inserted['file']} ({mode}{inserted['drv']})\n"
                f"    Attached to:      {drive['qdev']}\n"
                f"    Cache mode:       writeback"
            )
            if "backing_file" in inserted:
                below = f"{inserted['backing_file']} (chain depth: {inserted['backing_file_depth']})"
                lines.append(f"    Backing file:     {below}")
        return "\n".join(lines)

    def _info_pci(self) -> str:
        return "\n".join(describe_functions(self._query("query-pci")[0]["devices"]))

    def _info_registers(self) -> str:
        machine = self._commands.machine
        runner = machine.parts.runners[self._cpu]
        found: list[dict[str, int]] = []
        done = machine.inspect(lambda: found.append(dict(runner.vcpu.read_registers())))
        if not done.wait(_INSPECT_TIMEOUT_S) or not found:
            return "Error: the registers cannot be read"
        return f"\nCPU#{self._cpu}\n{describe_registers(found[0])}"
