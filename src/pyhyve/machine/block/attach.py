"""What stands between a node and the guest: one attachment for each disk or drive of the machine."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from pyhyve.backends.block import open_backend
from pyhyve.machine.block.errors import ChangeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager

    from pyhyve.backends.block import BlockBackend, BlockStatistics
    from pyhyve.devices.scsi.drive import DiscDrive
    from pyhyve.machine.block.graph import BlockGraph
    from pyhyve.machine.block.node import BlockNode


@runtime_checkable
class BlockDevice(Protocol):
    """A device model that reads and writes one backend."""

    statistics: BlockStatistics

    @property
    def backend(self) -> BlockBackend:
        """What it uses now."""

    def drained(self) -> AbstractContextManager[None]:
        """No request is under way inside the block, and none begins."""

    def use_backend(self, backend: BlockBackend) -> None:
        """Use another backend from now on; only while drained. The old one is the caller's."""

    def resize(self) -> None:
        """The backend's size changed: tell the guest."""


class Attachment:
    """A disk as the monitor sees it: `name` is the drive's, empty for one of a `-blockdev` node."""

    def __init__(
        self,
        graph: BlockGraph,
        device: BlockDevice,
        node: BlockNode | None,
        *,
        name: str,
        device_id: str,
        path: str,
        is_removable: bool = False,
    ) -> None:
        """The device must use the node's backend already; `path` is its place in the QOM tree."""
        self.graph = graph
        self.device = device
        self.node = node
        self.name = name
        self.device_id = device_id
        self.path = path
        self.is_removable = is_removable
        self.is_tray_open = False
        self.is_wrapped = False
        """Whether a job put something between device and node."""
        if node is not None:
            graph.hold(node, path)

    def switch(self, node: BlockNode) -> None:
        """Have the device use `node`; the device is drained by the caller."""
        before = self.node
        backend = backend_on(node)
        self.graph.hold(node, self.path)
        self.node = node
        self.device.use_backend(backend)
        if before is not None:
            self.graph.release(before, self.path)

    def refresh(self) -> None:
        """The node's image changed its size or was opened again; the device is drained by the caller."""
        if self.node is not None:
            self.device.use_backend(backend_on(self.node))

    def wrap(self, make: Callable[[BlockBackend], BlockBackend]) -> None:
        """Have what `make` returns stand between device and node. Raises ChangeError when something does already."""
        with self.device.drained():
            if self.is_wrapped:
                msg = f"Node '{'' if self.node is None else self.node.name}' is busy: another job uses it"
                raise ChangeError(msg)
            self.device.use_backend(make(self.device.backend))
            self.is_wrapped = True

    def unwrap(self) -> None:
        """Undo `wrap`; idempotent."""
        if self.is_wrapped:
            with self.device.drained():
                self.is_wrapped = False
                self.refresh()

    # -- media --------------------------------------------------------------------------------------------------------

    @property
    def cdrom(self) -> DiscDrive:
        """The drive. Raises ChangeError for what is none."""
        from pyhyve.devices.scsi.drive import DiscDrive  # noqa: PLC0415 - only machines with a drive

        if not isinstance(self.device, DiscDrive):
            msg = f"Device '{self.device_id or self.name}' is not removable"
            raise ChangeError(msg)
        return self.device

    def take_medium(self) -> None:
        """Take the medium out of the drive. Raises ChangeError."""
        drive = self.cdrom
        with drive.drained():
            drive.remove_backend()
        self.detach()

    def put_medium(self, node: BlockNode) -> None:
        """Put `node` into the drive, which is empty. Raises ChangeError."""
        drive, backend = self.cdrom, backend_on(node)
        self.graph.hold(node, self.path)
        self.node = node
        with drive.drained():
            drive.use_backend(backend)

    def detach(self) -> None:
        """The device is gone, or has no medium: let the node go."""
        if self.node is not None:
            self.graph.release(self.node, self.path)
            self.node = None


def backend_on(node: BlockNode) -> BlockBackend:
    """The fastest backend for a node, which keeps the image. Raises ChangeError."""
    return open_backend(node.need_image(), owns=False, discards=node.discards)


def drained(attachments: Iterable[Attachment]) -> ExitStack:
    """No request is under way on any of these devices until the stack is closed."""
    stack = ExitStack()
    try:
        for attachment in attachments:
            stack.enter_context(attachment.device.drained())
    except BaseException:
        stack.close()
        raise
    return stack
