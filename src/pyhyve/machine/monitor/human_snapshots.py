"""Snapshots and migration in the monitor for people."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from pyhyve.machine.monitor.errors import QmpError
from pyhyve.machine.snapshot_jobs import all_disks
from pyhyve.machine.snapshots import delete_snapshot, load_snapshot, save_snapshot, state_disk
from pyhyve.state.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.machine.monitor.commands import MachineCommands

_HEADING = f"{'ID':<9} {'TAG':<16}{'VM SIZE':>9}{'DATE':>20}{'VM CLOCK':>13}{'ICOUNT':>11}"
_PREFIXES = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")


def _shown_size(size_bytes: int) -> str:
    """Three digits and a unit, as QEMU shows sizes: from 1,000 of one unit on in the next."""
    power = max(0, (math.frexp(size_bytes * 1.024)[1] - 1) // 10)
    return f"{size_bytes / (1 << 10 * power):.3g} {_PREFIXES[power]}B"


class HumanSnapshots:
    """`savevm`, `loadvm`, `delvm`, `migrate`, `info snapshots` and `info migrate`: each takes words, gives text."""

    def __init__(self, commands: MachineCommands) -> None:
        self._commands = commands
        self.verbs: dict[str, tuple[str, Callable[[list[str]], str]]] = {
            "savevm": ("keep the machine in its disks", self._savevm),
            "loadvm": ("go back to a snapshot", self._loadvm),
            "delvm": ("remove a snapshot", self._delvm),
            "migrate": ("save the machine into a stream", self._migrate),
            "migrate_cancel": ("take that back", self._migrate_cancel),
        }

    def execute(self, name: str, words: list[str]) -> str:
        """Carry out a verb. Raises QmpError."""
        try:
            return self.verbs[name][1](words)
        except (StateError, OSError) as error:
            raise QmpError(str(error)) from error

    def _one(self, name: str, words: list[str]) -> str:
        if len(words) != 1:
            msg = f"{name}: string expected"
            raise QmpError(msg)
        return words[0]

    def _savevm(self, words: list[str]) -> str:
        tag = words[0] if words else time.strftime("vm-%Y%m%d%H%M%S")
        disks = all_disks(self._commands.machine)
        save_snapshot(self._commands.machine, disks, state_disk(disks), tag)
        return ""

    def _loadvm(self, words: list[str]) -> str:
        disks = all_disks(self._commands.machine)
        load_snapshot(self._commands.machine, disks, state_disk(disks), self._one("loadvm", words))
        return ""

    def _delvm(self, words: list[str]) -> str:
        delete_snapshot(self._commands.machine, all_disks(self._commands.machine), self._one("delvm", words))
        return ""

    def _migrate(self, words: list[str]) -> str:
        self._commands.execute("migrate", {"uri": self._one("migrate", [word for word in words if word != "-d"])})
        return ""

    def _migrate_cancel(self, words: list[str]) -> str:
        del words
        self._commands.execute("migrate_cancel", {})
        return ""

    def snapshots(self) -> str:
        """`info snapshots`."""
        disks = [disk for disk in all_disks(self._commands.machine) if disk.can_have_snapshots]
        if not disks:
            return "No available block device supports snapshots"
        found = [entry for entry in disks[0].image.snapshots() if entry.vm_state_size_bytes]
        if not found:
            return "There is no snapshot available."
        lines = ["List of snapshots present on all disks:", _HEADING]
        for entry in found:
            clock_ms = entry.vm_clock_ns // 1_000_000
            clock = f"{clock_ms // 3_600_000:02}:{clock_ms // 60_000 % 60:02}:{clock_ms // 1000 % 60:02}"
            date = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.date_s))
            clock += f".{clock_ms % 1000:03}"
            size = _shown_size(entry.vm_state_size_bytes)
            lines.append(f"{'--':<9} {entry.name:<16}{size:>9}{date:>20}{clock:>13}{entry.icount or '':>11}")
        return "\n".join(lines)

    def migration(self) -> str:
        """`info migrate`."""
        info = self._commands.execute("query-migrate", {})
        lines = [f"Migration status: {info['status']}"] if info else []
        for words, key in (
            ("total time", "total-time"),
            ("expected downtime", "expected-downtime"),
            ("downtime", "downtime"),
            ("setup", "setup-time"),
        ):
            lines += [f"{words}: {info[key]} ms"] if key in info else []
        ram = info.get("ram")
        if ram:
            lines += [
                f"transferred ram: {ram['transferred'] >> 10} kbytes",
                f"throughput: {ram['mbps']:.2f} mbps",
                f"remaining ram: {ram['remaining'] >> 10} kbytes",
                f"total ram: {ram['total'] >> 10} kbytes",
                f"duplicate: {ram['duplicate']} pages",
                f"normal: {ram['normal']} pages",
                f"normal bytes: {ram['normal-bytes'] >> 10} kbytes",
                f"dirty sync count: {ram['dirty-sync-count']}",
                f"page size: {ram['page-size'] >> 10} kbytes",
            ]
        if "cpu-throttle-percentage" in info:
            lines.append(f"cpu throttle percentage: {info['cpu-throttle-percentage']}")
        return "\n".join(lines)
