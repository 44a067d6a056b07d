"""Commands on disks: nodes, media, sizes, snapshots, transactions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.image.contract import ImageError
from pyhyve.machine.block.errors import ChangeError, ChangeKind
from pyhyve.machine.monitor import queries_block
from pyhyve.machine.monitor.errors import QmpError
from pyhyve.machine.monitor.group import CommandGroup

if TYPE_CHECKING:
    from pyhyve.machine.block.attach import Attachment
    from pyhyve.machine.block.node import BlockNode


class BlockCommands(CommandGroup):
    """Disks."""

    # -- looking ------------------------------------------------------------------------------------------------------

    def query_block(self) -> list[dict[str, Any]]:
        """The disks."""
        return queries_block.describe_drives(self.hardware)

    def query_named_block_nodes(self, *, flat: bool = False) -> list[dict[str, Any]]:
        """The nodes."""
        return queries_block.describe_nodes(self.hardware, flat=flat)

    def query_blockstats(self, *, query_nodes: bool = False) -> list[dict[str, Any]]:
        """What was read and written."""
        return queries_block.describe_statistics(self.hardware, nodes=query_nodes)

    def _attachments(self) -> list[Attachment]:
        return queries_block.attachments(self.hardware)

    def _find(self, device: str | None, node_name: str | None) -> tuple[BlockNode, Attachment | None]:
        """The node of a drive, or the one named, and the drive on top of it. Raises QmpError and ChangeError."""
        if (device is None) == (node_name is None):
            msg = (
                "Cannot find device='' nor node-name=''"
                if device is None
                else "'device' and 'node-name' are mutually exclusive"
            )
            raise QmpError(msg)
        for attachment in self._attachments():
            node = attachment.node
            if node is not None and (
                (device is not None and device == attachment.name) or (node_name is not None and node.name == node_name)
            ):
                return node, attachment
        if node_name is not None:
            found = self.hardware.blocks.find(node_name)
            if found is None:
                msg = f"Cannot find device='' nor node-name='{node_name}'"
                raise QmpError(msg)
            return found, None
        msg = f"Cannot find device='{device}' nor node-name=''"
        raise QmpError(msg)

    # -- nodes --------------------------------------------------------------------------------------------------------

    def blockdev_add(self, arguments: dict[str, Any]) -> None:
        """Open a node."""
        self.hardware.was_changed = True
        self.hardware.blocks.add(arguments)

    def blockdev_del(self, node_name: str) -> None:
        """Close a node."""
        self.hardware.was_changed = True
        self.hardware.blocks.remove(node_name)

    def blockdev_reopen(self, options: list[dict[str, Any]]) -> None:
        """Change options of nodes: whether they can be written, and what is below them."""
        from pyhyve.machine.block import reopen  # noqa: PLC0415 - rarely done

        self.hardware.was_changed = True
        reopen.reopen(self._commands.block_services, options)

    def block_resize(self, size: int, device: str | None = None, node_name: str | None = None) -> None:
        """Change a disk's size; the guest is told."""
        if size < 0:
            msg = "Parameter 'size' expects a >0 size"
            raise QmpError(msg)
        node, attachment = self._find(device, node_name)
        image = node.need_image()
        try:
            if attachment is None:
                image.resize(size)
                return
            with attachment.device.drained():
                image.resize(size)
                attachment.refresh()
        except (ImageError, OSError) as error:
            raise ChangeError(str(error)) from error
        attachment.device.resize()

    # -- media --------------------------------------------------------------------------------------------------------

    def _drive(self, device: str | None, id: str | None) -> Attachment:  # noqa: A002 - QEMU's name
        """The drive by its name or its device's. Raises QmpError and ChangeError."""
        if (device is None) == (id is None):
            msg = "Need exactly one of 'device' and 'id'"
            raise QmpError(msg)
        for attachment in self._attachments():
            if (device and device == attachment.name) or (id and id in {attachment.device_id, attachment.path}):
                return attachment
        msg = f"Device '{device or id}' not found"
        raise ChangeError(msg, ChangeKind.NOT_FOUND)

    def _removable(self, device: str | None, id: str | None) -> Attachment:  # noqa: A002 - QEMU's name
        attachment = self._drive(device, id)
        if not attachment.is_removable:
            msg = f"Device '{attachment.device_id or attachment.name}' is not removable"
            raise QmpError(msg)
        return attachment

    def _open_tray(self, attachment: Attachment, *, force: bool) -> None:
        drive = attachment.cdrom.drive
        if attachment.is_tray_open:
            return
        if drive.is_locked and not force:
            with self.machine.parts.lock:
                drive.request_eject()
            name = attachment.device_id or attachment.name
            msg = f"Device '{name}' is locked and force was not specified, wait for tray to open and try again"
            raise QmpError(msg)
        with self.machine.parts.lock:
            drive.move_tray(is_open=True)
        attachment.is_tray_open = True
        self.hardware.tray_moved(attachment)

    def _close_tray(self, attachment: Attachment) -> None:
        if not attachment.is_tray_open:
            return
        with self.machine.parts.lock:
            attachment.cdrom.drive.move_tray(is_open=False)
        attachment.is_tray_open = False
        self.hardware.tray_moved(attachment)

    def _remove_medium(self, attachment: Attachment) -> None:
        self.hardware.was_changed = True
        if attachment.node is not None:
            attachment.take_medium()

    def blockdev_open_tray(self, device: str | None = None, id: str | None = None, *, force: bool = False) -> None:  # noqa: A002 - QEMU's name
        """Open a drive's tray."""
        self._open_tray(self._removable(device, id), force=force)

    def blockdev_close_tray(self, device: str | None = None, id: str | None = None) -> None:  # noqa: A002 - QEMU's name
        """Close it."""
        self._close_tray(self._removable(device, id))

    def blockdev_remove_medium(self, id: str) -> None:  # noqa: A002 - QEMU's name
        """Take the medium out of an open tray."""
        attachment = self._removable(None, id)
        if not attachment.is_tray_open:
            msg = f"Tray of device '{id}' is not open"
            raise QmpError(msg)
        self._remove_medium(attachment)

    def blockdev_insert_medium(self, id: str, node_name: str) -> None:  # noqa: A002 - QEMU's name
        """Put a node into an open tray."""
        attachment = self._removable(None, id)
        node = self.hardware.blocks.find(node_name)
        if node is None:
            msg = f"Node '{node_name}' not found"
            raise QmpError(msg)
        if any(user.startswith("/machine/") for user in node.users):
            msg = f"Node '{node_name}' is already in use"
            raise QmpError(msg)
        if not attachment.is_tray_open:
            msg = f"Tray of device '{id}' is not open"
            raise QmpError(msg)
        if attachment.node is not None:
            msg = f"There already is a medium in device '{id}'"
            raise QmpError(msg)
        self.hardware.was_changed = True
        attachment.put_medium(node)

    def eject(self, device: str | None = None, id: str | None = None, *, force: bool = False) -> None:  # noqa: A002 - QEMU's name
        """Open the tray and take the medium out."""
        attachment = self._removable(device, id)
        self._open_tray(attachment, force=force)
        self._remove_medium(attachment)

    def blockdev_change_medium(
        self,
        filename: str,
        device: str | None = None,
        id: str | None = None,  # noqa: A002 - QEMU's name
        format: str | None = None,  # noqa: A002 - QEMU's name
        read_only_mode: str = "retain",
        *,
        force: bool = False,
    ) -> None:
        """Put an image file into a drive instead of what is there."""
        attachment = self._removable(device, id)
        if read_only_mode == "read-write":
            msg = "a CD-ROM drive does not write"
            raise QmpError(msg)
        node = self.hardware.blocks.add_file(filename, format, readonly=True)
        try:
            self._open_tray(attachment, force=force)
        except QmpError:
            self.hardware.blocks.discard(node)
            raise
        self._remove_medium(attachment)
        attachment.put_medium(node)
        self._close_tray(attachment)

    # -- snapshots ----------------------------------------------------------------------------------------------------

    def transaction(self, actions: list[dict[str, Any]], properties: dict[str, Any] | None = None) -> None:
        """Several actions, all or none."""
        from pyhyve.machine.block import transaction  # noqa: PLC0415 - rarely done

        self.hardware.was_changed = True
        transaction.run(self._commands.block_services, actions, properties or {})

    def _one(self, kind: str, data: dict[str, Any]) -> None:
        self.transaction([{"type": kind, "data": data}])

    def blockdev_snapshot(self, node: str, overlay: str) -> None:
        """Go on writing into another node; the present one stays as it is."""
        self._one("blockdev-snapshot", {"node": node, "overlay": overlay})

    def blockdev_snapshot_sync(self, **arguments: Any) -> None:  # noqa: ANN401 - checked arguments
        """As `blockdev_snapshot`, into a new file."""
        self._one("blockdev-snapshot-sync", {key.replace("_", "-"): value for key, value in arguments.items()})

    def blockdev_snapshot_internal_sync(self, device: str, name: str) -> None:
        """Take a snapshot inside the image."""
        self._one("blockdev-snapshot-internal-sync", {"device": device, "name": name})

    def blockdev_snapshot_delete_internal_sync(
        self,
        device: str,
        id: str | None = None,  # noqa: A002 - QEMU's name
        name: str | None = None,
    ) -> dict[str, Any]:
        """Remove a snapshot inside the image."""
        from pyhyve.machine.block import snapshots  # noqa: PLC0415 - rarely done

        deleted = snapshots.delete_internal(self._commands.block_services, device, id, name)
        return queries_block.snapshot_info(deleted)

    def change_backing_file(self, device: str, image_node_name: str, backing_file: str) -> None:
        """Change what an image says is below it; the chain in use stays."""
        from pyhyve.machine.block import snapshots  # noqa: PLC0415 - rarely done

        snapshots.change_backing_file(self._commands.block_services, device, image_node_name, backing_file)
