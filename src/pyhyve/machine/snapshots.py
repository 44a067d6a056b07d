"""Snapshots of a whole machine inside its disk images: its state in one of them, a snapshot of each beside it.

Functions wait for the machine's control thread: call them from any other. Errors say what QEMU says.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyhyve.image.contract import ImageError
from pyhyve.machine.lifecycle import MachineState
from pyhyve.machine.saving import load, read_saved, save
from pyhyve.state.errors import StateError, StateTruncatedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyhyve.image.contract import Image, SnapshotInfo
    from pyhyve.machine.machine import Machine

_SETTLE_TIMEOUT_S = 30.0
_ZEROS = bytes(1 << 16)


@dataclass(frozen=True, slots=True)
class SnapshotDisk:
    """A disk of the machine, by the name that a user knows, and its image."""

    name: str
    image: Image

    @property
    def can_have_snapshots(self) -> bool:
        """Whether the image's format keeps snapshots, and it may be written."""
        return self.image.format_name == "qcow2" and not self.image.readonly


class VmStateSink:
    """Writes a state where an image keeps it (`state.streams.StateSink`)."""

    start = 0

    def __init__(self, image: Image) -> None:
        self._image = image
        self.position = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`."""
        try:
            self._image.pwrite_vm_state(data, self.position)
        except ImageError as error:
            raise StateError(str(error)) from error
        self.position += len(data)

    def skip_zeros(self, size_bytes: int) -> None:
        """Append zeros: an earlier state may have left something else there."""
        while size_bytes:
            step = min(size_bytes, len(_ZEROS))
            self.write(_ZEROS[:step])
            size_bytes -= step

    def finish(self) -> None:
        """Nothing is left to do."""


class VmStateSource:
    """Reads the state of the snapshot that was applied (`state.streams.StateSource`)."""

    def __init__(self, image: Image, size_bytes: int) -> None:
        self._image = image
        self._left = size_bytes
        self._position = 0

    def read(self, size_bytes: int) -> bytes:
        """The next bytes."""
        data = bytearray(min(size_bytes, self._left))
        self._fill(memoryview(data))
        return bytes(data)

    def read_into(self, views: Sequence[memoryview]) -> None:
        """Fill `views`."""
        for view in views:
            if len(view) > self._left:
                raise StateTruncatedError
            self._fill(view)

    def _fill(self, view: memoryview) -> None:
        try:
            self._image.pread_vm_state_into(view, self._position)
        except ImageError as error:
            raise StateError(str(error)) from error
        self._position += len(view)
        self._left -= len(view)


def state_disk(disks: Sequence[SnapshotDisk]) -> SnapshotDisk:
    """The disk that the machine's state goes into: the first that can. Raises StateError when some disk cannot."""
    for disk in disks:
        if not disk.image.readonly and not disk.can_have_snapshots:
            msg = f"Device '{disk.name}' is writable but does not support snapshots"
            raise StateError(msg)
    for disk in disks:
        if disk.can_have_snapshots:
            return disk
    msg = "No block device can accept snapshots"
    raise StateError(msg)


def save_snapshot(machine: Machine, disks: Sequence[SnapshotDisk], keeper: SnapshotDisk, tag: str) -> None:
    """Keep the machine's state in `keeper`, and a snapshot of each disk, as `tag`; one of that name is replaced.

    The guest stands still meanwhile. Raises StateError and OSError; the guest goes on in any case.
    """

    def work() -> None:
        for disk in disks:
            _delete(disk, tag)
        sink = VmStateSink(keeper.image)
        result = save(machine, sink)
        for disk in disks:
            disk.image.create_snapshot(
                tag,
                date_ns=time.time_ns(),
                vm_clock_ns=max(result.vm_clock_ns, 0),
                vm_state_size_bytes=sink.position if disk is keeper else 0,
            )

    _while_stopped(machine, "save-vm", work)


def load_snapshot(machine: Machine, disks: Sequence[SnapshotDisk], keeper: SnapshotDisk, tag: str) -> None:
    """Put machine and disks into the state of snapshot `tag`.

    Raises StateError and OSError. When the state turns out not to fit, the disks are what they were then, and the
    machine stays stopped.
    """
    found = find_everywhere(disks, keeper, tag)

    def work() -> None:
        machine.stop_settling()
        _restore(machine, found, keeper, is_fresh=False)

    _while_stopped(machine, "restore-vm", work, goes_on_after_failure=False)


def start_from_snapshot(machine: Machine, disks: Sequence[SnapshotDisk], tag: str) -> None:
    """As `load_snapshot`, for a machine that is about to start; on its control thread."""
    keeper = state_disk(disks)
    try:
        _restore(machine, find_everywhere(disks, keeper, tag), keeper, is_fresh=True)
    except ImageError as error:
        raise StateError(str(error)) from error


def _restore(
    machine: Machine, found: Sequence[tuple[SnapshotDisk, SnapshotInfo]], keeper: SnapshotDisk, *, is_fresh: bool
) -> None:
    machine.suspend_devices()
    size = 0
    for disk, snapshot in found:
        disk.image.apply_snapshot(snapshot)
        if disk is keeper:
            size = snapshot.vm_state_size_bytes
    source = VmStateSource(keeper.image, size)
    load(machine, read_saved(source), source, is_fresh=is_fresh)


def find_everywhere(
    disks: Sequence[SnapshotDisk], keeper: SnapshotDisk, tag: str
) -> list[tuple[SnapshotDisk, SnapshotInfo]]:
    """The snapshot of each disk. Raises StateError when one has none, or there is no machine's state with it."""
    found = []
    for disk in disks:
        if not disk.can_have_snapshots:
            continue
        snapshot = disk.image.find_snapshot(tag, by_id=False)
        if snapshot is None:
            msg = f"Snapshot '{tag}' does not exist in one or more devices"
            raise StateError(msg)
        if disk is keeper and not snapshot.vm_state_size_bytes:
            msg = "This is a disk-only snapshot. Revert to it offline using qemu-img"
            raise StateError(msg)
        found.append((disk, snapshot))
    return found


def delete_snapshot(machine: Machine, disks: Sequence[SnapshotDisk], tag: str) -> None:
    """Remove snapshot `tag` from every disk that has it. Raises StateError."""
    having = [disk for disk in disks if disk.can_have_snapshots]

    def work() -> None:
        for disk in having:
            _delete(disk, tag)

    _while_stopped(machine, "", work)


def _delete(disk: SnapshotDisk, tag: str) -> None:
    snapshot = disk.image.find_snapshot(tag, by_id=False)
    if snapshot is not None:
        disk.image.delete_snapshot(snapshot)


def _while_stopped(
    machine: Machine, condition: str, work: Callable[[], None], *, goes_on_after_failure: bool = True
) -> None:
    """Call `work` while nothing runs and nobody can change that. Raises StateError and OSError."""
    if machine.is_moving:
        msg = "There's a migration process in progress"
        raise StateError(msg)
    was_running = machine.state is MachineState.RUNNING
    before = machine.condition
    machine.hold()
    succeeded = False
    try:
        machine.pause().wait(_SETTLE_TIMEOUT_S)
        machine.condition = condition or before
        work()
        succeeded = True
    except (ImageError, MemoryError) as error:
        raise StateError(str(error)) from error
    finally:
        machine.condition = before
        machine.release()
        if was_running and (succeeded or goes_on_after_failure):
            machine.resume().wait(_SETTLE_TIMEOUT_S)
