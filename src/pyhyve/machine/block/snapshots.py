"""Snapshots inside images, and what images say is below them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pyhyve.image.contract import BackingReference, ImageError
from pyhyve.image.operations.chain import change_backing
from pyhyve.machine.block.attach import drained
from pyhyve.machine.block.errors import ChangeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyhyve.image.contract import Image, SnapshotInfo
    from pyhyve.machine.block.services import BlockServices


def check_internal(services: BlockServices, device: str, name: str) -> None:
    """Raise ChangeError when no snapshot `name` can be taken inside the image of `device`."""
    node, _ = services.find(device)
    image = node.need_image()
    if not name:
        msg = "Name is empty"
        raise ChangeError(msg)
    if image.readonly:
        msg = f"Device '{device}' is read only"
        raise ChangeError(msg)
    if image.format_name != "qcow2":
        msg = f"Block format '{image.format_name}' used by device '{device}' does not support internal snapshots"
        raise ChangeError(msg)
    if any(entry.name == name for entry in _listed(image)):
        msg = f"Snapshot with name '{name}' already exists on device '{device}'"
        raise ChangeError(msg)


def _listed(image: Image) -> Sequence[SnapshotInfo]:
    try:
        return image.snapshots()
    except (ImageError, OSError) as error:
        raise ChangeError(str(error)) from error


def take_internal(services: BlockServices, device: str, name: str, clock_ns: int) -> SnapshotInfo:
    """Take a snapshot inside the image; the disk is drained by the caller. Raises ChangeError."""
    node, _ = services.find(device)
    try:
        return node.need_image().create_snapshot(name, date_ns=time.time_ns(), vm_clock_ns=clock_ns)
    except (ImageError, OSError) as error:
        msg = f"Failed to create snapshot '{name}' on device '{device}': {error}"
        raise ChangeError(msg) from error


def delete_internal(services: BlockServices, device: str, identifier: str | None, name: str | None) -> SnapshotInfo:
    """Remove a snapshot inside the image. Raises ChangeError."""
    if identifier is None and name is None:
        msg = "Name or id must be provided"
        raise ChangeError(msg)
    node, attachment = services.find(device)
    image = node.need_image()
    found = next(
        (entry for entry in _listed(image) if identifier in {None, entry.id} and name in {None, entry.name}),
        None,
    )
    if found is None:
        named = f"id '{identifier or 'null'}' and name '{name or 'null'}'"
        msg = f"Snapshot with {named} does not exist on device '{device}'"
        raise ChangeError(msg)
    try:
        with drained([] if attachment is None else [attachment]):
            image.delete_snapshot(found)
    except (ImageError, OSError) as error:
        raise ChangeError(str(error)) from error
    return found


def change_backing_file(services: BlockServices, device: str, node_name: str, backing_file: str) -> None:
    """Change what an image says is below it. Raises ChangeError."""
    root, _ = services.find(device)
    node = services.graph.find(node_name)
    if node is None:
        msg = f"Cannot find device='' nor node-name='{node_name}'"
        raise ChangeError(msg)
    if not any(below is node for below in root.chain()):
        msg = f"'{node_name}' is not in the backing chain of '{device}'"
        raise ChangeError(msg)
    if node.backing is None:
        msg = "not allowing backing file change on an image without a backing file"
        raise ChangeError(msg)
    above = services.above(node)
    if node.need_image().readonly:
        services.graph.make_writable(node, above)
    try:
        with drained(above):
            change_backing(node.need_image(), BackingReference(backing_file, node.backing.driver))
    except (ImageError, OSError) as error:
        raise ChangeError(str(error)) from error
