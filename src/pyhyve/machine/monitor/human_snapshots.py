"""Snapshots and migration in the monitor for people."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from pyhyve.machine.monitor.errors import QmpError
from pyhyve.machine.monitor.human_syntax import Verb
from pyhyve.machine.monitor.queries_block import NO_ICOUNT
from pyhyve.machine.snapshot_jobs import all_disks
from pyhyve.machine.snapshots import delete_snapshot, load_snapshot, save_snapshot, state_disk
from pyhyve.state.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pyhyve.machine.monitor.commands import MachineCommands

_HEADING = f"{'ID':<9} {'TAG':<16}{'VM SIZE':>9}{'DATE':>20}{'VM CLOCK':>13}{'ICOUNT':>11}"
_PREFIXES = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")


def _shown_size(size_bytes: int) -> str:
    """Three digits and a unit, as QEMU shows sizes: from 1,000 of one unit on in the next."""
    power = max(0, (math.frexp(size_bytes * 1.024)[1] - 1) // 10)
    return f"{size_bytes / (1 << 10 * power):.3g} {_PREFIXES[power]}B"


def _shown_icount(icount: int | None) -> str:
    """Instructions counted until a snapshot; nothing where none were."""
    return "" if icount in {None, NO_ICOUNT} else str(icount)


class HumanSnapshots:
    """Snapshots in the disks, and how a migration stands."""

    def __init__(self, commands: MachineCommands) -> None:
        self._commands = commands
        self.verbs = [
            Verb("savevm", "", "name:s?", "tag", "keep the machine in its disks", self._telling(self._savevm)),
            Verb("loadvm", "", "name:s", "tag", "go back to a snapshot", self._telling(self._loadvm)),
            Verb("delvm", "", "name:s", "tag", "remove a snapshot", self._telling(self._delvm)),
        ]
        self.topics = [
            Verb("migrate", "", "", "", "show how a migration stands", lambda _given: self.migration()),
            Verb("snapshots", "", "", "", "show the snapshots of machine and disks", lambda _given: self.snapshots()),
        ]

    @staticmethod
    def _telling(run: Callable[[str], None]) -> Callable[[Mapping[str, Any]], str]:
        def carry_out(given: Mapping[str, Any]) -> str:
            try:
                run(given.get("name", ""))
            except (StateError, OSError) as error:
                raise QmpError(str(error)) from error
            return ""

        return carry_out

    def _savevm(self, name: str) -> None:
        tag = name or time.strftime("vm-%Y%m%d%H%M%S")
        disks = all_disks(self._commands.machine)
        save_snapshot(self._commands.machine, disks, state_disk(disks), tag)

    def _loadvm(self, name: str) -> None:
        disks = all_disks(self._commands.machine)
        load_snapshot(self._commands.machine, disks, state_disk(disks), name)

    def _delvm(self, name: str) -> None:
        delete_snapshot(self._commands.machine, all_disks(self._commands.machine), name)

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
            lines.append(f"{'--':<9} {entry.name:<16}{size:>9}{date:>20}{clock:>13}{_shown_icount(entry.icount):>11}")
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
