"""What block commands work with: the nodes, the disks in front of them, and the jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.machine.block.errors import ChangeError
from pyhyve.machine.block.jobset import JobSet

if TYPE_CHECKING:
    from pyhyve.machine.block.attach import Attachment
    from pyhyve.machine.block.graph import BlockGraph
    from pyhyve.machine.block.node import BlockNode
    from pyhyve.machine.hardware.hardware import Hardware


class BlockServices:
    """One for each machine, made when first needed."""

    def __init__(self, hardware: Hardware) -> None:
        """Jobs end with the machine."""
        self.hardware = hardware
        self.jobs = JobSet(hardware.tell)
        hardware.on_close.append(self.jobs.close)

    @property
    def graph(self) -> BlockGraph:
        """The nodes."""
        return self.hardware.blocks

    def attachments(self) -> list[Attachment]:
        """The disks and drives."""
        return [plugged.attachment for plugged in self.hardware.devices if plugged.attachment is not None]

    def above(self, node: BlockNode) -> list[Attachment]:
        """The disks whose chain `node` is part of."""
        return [
            attachment
            for attachment in self.attachments()
            if attachment.node is not None and any(below is node for below in attachment.node.chain())
        ]

    def find(self, name: str) -> tuple[BlockNode, Attachment | None]:
        """The node of the drive or of the device called `name`, or the node itself, and the disk on top of it.

        Raises ChangeError.
        """
        for attachment in self.attachments():
            node = attachment.node
            if node is not None and name and name in {attachment.name, attachment.device_id, node.name}:
                return node, attachment
        node = self.graph.find(name)
        if node is None:
            msg = f"Cannot find device='{name}' nor node-name='{name}'"
            raise ChangeError(msg)
        return node, None
