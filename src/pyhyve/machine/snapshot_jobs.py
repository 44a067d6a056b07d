"""Snapshots of a machine in the disks that its inventory has: as jobs, for people, and at the start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.machine.block.errors import ChangeError
from pyhyve.machine.block.job import Job
from pyhyve.machine.snapshots import (
    SnapshotDisk,
    delete_snapshot,
    load_snapshot,
    save_snapshot,
    start_from_snapshot,
)
from pyhyve.state.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.machine.hardware.hardware import Hardware
    from pyhyve.machine.machine import Machine


def hardware_of(machine: Machine) -> Hardware:
    """What may have disks. Raises StateError for a machine without an inventory."""
    if machine.parts.inventory is None:
        msg = "the machine has no inventory"
        raise StateError(msg)
    return machine.parts.inventory.hardware


def all_disks(machine: Machine) -> list[SnapshotDisk]:
    """The disks in front of the guest, by drive or node name."""
    disks = []
    for plugged in hardware_of(machine).devices:
        attachment = plugged.attachment
        if attachment is not None and attachment.node is not None:
            disks.append(SnapshotDisk(attachment.name or attachment.node.name, attachment.node.need_image()))
    return disks


def disk_of_node(machine: Machine, name: str) -> SnapshotDisk:
    """The disk whose node is called `name`. Raises ChangeError."""
    node = hardware_of(machine).blocks.find(name)
    if node is None:
        msg = f"No block device node '{name}'"
        raise ChangeError(msg)
    return SnapshotDisk(name, node.need_image())


def restore_at_start(machine: Machine, tag: str) -> None:
    """Have `machine`, which is about to start, go on from snapshot `tag` in its disks."""

    def restore() -> None:
        start_from_snapshot(machine, all_disks(machine), tag)

    machine.restore = restore


class SnapshotJob(Job):
    """`snapshot-save`, `snapshot-load` or `snapshot-delete`."""

    is_block_job = False

    def __init__(self, kind: str, name: str, machine: Machine, tell: Callable[[str, dict[str, Any]], None]) -> None:
        super().__init__(name, {"auto-dismiss": False}, tell)
        self.kind = kind
        self.total = 1
        self._machine = machine
        self._tag = ""
        self._disks: list[SnapshotDisk] = []
        self._keeper: SnapshotDisk | None = None

    def prepare(self, tag: str, keeper: str, devices: list[str]) -> None:
        """Find the disks. Raises ChangeError."""
        self._tag = tag
        self._disks = [disk_of_node(self._machine, name) for name in devices]
        if keeper and keeper not in devices:
            self._disks.append(disk_of_node(self._machine, keeper))
        self._keeper = next((disk for disk in self._disks if disk.name == keeper), None)
        for disk in self._disks:
            if not disk.can_have_snapshots:
                msg = f"Device '{disk.name}' is writable but does not support snapshots"
                raise ChangeError(msg)

    def work(self) -> None:
        """Do it; the guest stands still meanwhile."""
        try:
            if self.kind == "snapshot-delete":
                delete_snapshot(self._machine, self._disks, self._tag)
            elif self._keeper is not None and self.kind == "snapshot-save":
                save_snapshot(self._machine, self._disks, self._keeper, self._tag)
            elif self._keeper is not None:
                load_snapshot(self._machine, self._disks, self._keeper, self._tag)
        except StateError as error:
            raise ChangeError(str(error)) from error
        finally:
            self.done = 1
