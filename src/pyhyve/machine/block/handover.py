"""Disks that change hands while a machine moves: at any time one of the two processes has them.

The machine that is sent lets go of its disks before the first byte of its state leaves, and the one that waits takes
them when that byte arrives: everything was flushed, so nothing that the new owner keeps in memory can be stale. A disk
that is let go of is open for reading alone, without locks, and still looks to its device as it did.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.image.contract import ImageError
from pyhyve.machine.block.attach import drained
from pyhyve.machine.block.errors import ChangeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyhyve.machine.block.attach import Attachment
    from pyhyve.machine.block.graph import BlockGraph
    from pyhyve.machine.block.node import BlockNode
    from pyhyve.machine.hardware.hardware import Hardware
    from pyhyve.machine.machine import Machine

__all__ = ["let_disks_go", "let_go", "take", "take_disks"]


def let_disks_go(machine: Machine) -> None:
    """Have a machine, which stands still, let its disks go. Raises ChangeError; then it has them still."""
    hardware = _hardware(machine)
    if hardware is not None:
        let_go(hardware.blocks, _attachments(hardware))


def take_disks(machine: Machine) -> None:
    """Have a machine take its disks, where it let them go or waited for them. Raises ChangeError."""
    hardware = _hardware(machine)
    if hardware is not None:
        take(hardware.blocks, _attachments(hardware))


def _hardware(machine: Machine) -> Hardware | None:
    """Return a machine's hardware where it has disks."""
    inventory = machine.parts.inventory
    return inventory.hardware if inventory is not None and inventory.hardware.has_blocks else None


def _attachments(hardware: Hardware) -> list[Attachment]:
    return [plugged.attachment for plugged in hardware.devices if plugged.attachment is not None]


def let_go(graph: BlockGraph, attachments: Sequence[Attachment]) -> None:
    """Flush all disks, and have them for reading alone, unlocked. Raises ChangeError; then they are as before."""
    if any(attachment.is_wrapped for attachment in attachments):
        msg = "a disk is used by a block job"
        raise ChangeError(msg)
    if not graph.inactive:
        _switch(graph, attachments, inactive=True)


def take(graph: BlockGraph, attachments: Sequence[Attachment]) -> None:
    """Have all disks again, locked. Raises ChangeError where somebody else has one; then they stay let go of."""
    if graph.inactive:
        _switch(graph, attachments, inactive=False)


def _switch(graph: BlockGraph, attachments: Sequence[Attachment], *, inactive: bool) -> None:
    with graph.lock, drained(attachments):
        nodes = [node for node in graph if _has_file(node)]
        _close(nodes)
        graph.inactive = inactive
        try:
            _open(graph, nodes)
        except (ImageError, OSError, ValueError) as error:
            _close(nodes)
            graph.inactive = not inactive
            _open(graph, nodes)
            raise ChangeError(str(error)) from error
        finally:
            for attachment in attachments:
                attachment.refresh()


def _has_file(node: BlockNode) -> bool:
    """Whether a node is one of ours to open again: not one of a temporary overlay."""
    return node.is_protocol or node.file is not None


def _close(nodes: Sequence[BlockNode]) -> None:
    for node in nodes:
        image = node.image
        if image is not None:
            node.was_open = True
            image.readonly = node.image_readonly  # what it is, not what it shows
            if not image.readonly:
                image.flush()
            image.backing = None
            image.close()
            node.image = None
    for node in nodes:
        if node.storage is not None:
            node.storage.close()
            node.storage = None


def _open(graph: BlockGraph, nodes: Sequence[BlockNode]) -> None:
    for node in nodes:
        if node.is_protocol:
            node.unlocked = graph.inactive
    for node in nodes:
        if node.was_open and node.image is None:
            if node.is_protocol:
                node.need_image()
            else:
                graph.open_again(node)
    for node in nodes:
        node.was_open = False
        if node.image is not None:
            node.image.backing = node.backing.need_image() if node.backing is not None else None
