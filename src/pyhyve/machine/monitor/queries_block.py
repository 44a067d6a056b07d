"""What the queries of disks tell: `query-block`, `query-named-block-nodes`, `query-blockstats`."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pyhyve.image.contract import ImageError

if TYPE_CHECKING:
    from pyhyve.backends.block import BlockStatistics
    from pyhyve.image.contract import Image, SnapshotInfo
    from pyhyve.machine.block.attach import Attachment
    from pyhyve.machine.block.node import BlockNode
    from pyhyve.machine.hardware.hardware import Hardware

_NO_LIMITS = dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)
_NS = 1_000_000_000
NO_ICOUNT = (1 << 64) - 1
_SPECIFIC = {"compat", "extended-l2", "lazy-refcounts", "corrupt", "refcount-bits", "compression-type"}
_NOTHING = {
    "rd_bytes", "wr_bytes", "unmap_bytes", "rd_operations", "wr_operations", "flush_operations", "unmap_operations",
    "rd_total_time_ns", "wr_total_time_ns", "flush_total_time_ns", "unmap_total_time_ns", "wr_highest_offset",
    "rd_merged", "wr_merged", "unmap_merged", "failed_rd_operations", "failed_wr_operations",
    "failed_flush_operations", "failed_unmap_operations", "invalid_rd_operations", "invalid_wr_operations",
    "invalid_flush_operations", "invalid_unmap_operations",
}  # fmt: skip


def attachments(hardware: Hardware) -> list[Attachment]:
    """The disks and drives of the machine."""
    return [plugged.attachment for plugged in hardware.devices if plugged.attachment is not None]


def describe_drives(hardware: Hardware) -> list[dict[str, Any]]:
    """`BlockInfo` of every disk."""
    drives = []
    # As QEMU does: what `-drive` named before the rest.
    for attachment in sorted(attachments(hardware), key=lambda attachment: not attachment.name):
        drive: dict[str, Any] = {
            "device": attachment.name,
            "qdev": _shown_device(attachment),
            "type": "unknown",
            "removable": attachment.is_removable,
            "locked": attachment.is_removable and attachment.cdrom.drive.is_locked,
            "io-status": "ok",
        }
        if attachment.is_removable:
            drive["tray_open"] = attachment.is_tray_open
        if attachment.node is not None:
            drive["inserted"] = describe_node(attachment.node, flat=False)
        drives.append(drive)
    return drives


def _shown_device(attachment: Attachment) -> str:
    """The device's id, where its place in the QOM tree does not tell more."""
    if not attachment.device_id or "/virtio-backend" in attachment.path:
        return attachment.path
    return attachment.device_id


def describe_nodes(hardware: Hardware, *, flat: bool) -> list[dict[str, Any]]:
    """`BlockDeviceInfo` of every node; `flat` leaves out the description of backing images."""
    with hardware.blocks.lock:
        return [describe_node(node, flat=flat) for node in hardware.blocks]


def describe_node(node: BlockNode, *, flat: bool) -> dict[str, Any]:
    """`BlockDeviceInfo` of a node."""
    cache = node.options.get("cache") or (node.file.options.get("cache") if node.file is not None else None) or {}
    info: dict[str, Any] = {
        "file": node.filename,
        "node-name": node.name,
        "ro": node.readonly if node.image is None else node.image.readonly,
        "drv": node.driver,
        "backing_file_depth": 0 if flat else sum(1 for _ in node.chain()) - 1,
        "encrypted": False,
        "detect_zeroes": "off",
        **_NO_LIMITS,
        "image": _image_info(node, flat=flat),
        "cache": {
            "writeback": True,
            "direct": bool(cache.get("direct", False)),
            "no-flush": bool(cache.get("no-flush", False)),
        },
        "write_threshold": 0,
    }
    if node.backing is not None:
        info["backing_file"] = node.backing.filename
    return info


def _image_info(node: BlockNode, *, flat: bool) -> dict[str, Any]:
    image = node.image
    if image is None or node.is_protocol:
        storage = node.storage
        size = 0 if storage is None else storage.size_bytes
        info: dict[str, Any] = {
            "filename": node.filename,
            "format": node.driver,
            "virtual-size": size,
            "dirty-flag": False,
        }
        used = None if storage is None else storage.disk_usage_bytes()
        if used is not None:
            info["actual-size"] = used
        return info
    info = {
        "filename": node.filename,
        "format": node.driver,
        "virtual-size": image.size_bytes,
        "dirty-flag": bool(image.dirty),
    }
    with suppress(ImageError, OSError):
        # A file that somebody damaged: what can be told of it is told.
        used = image.disk_usage_bytes()
        if used is not None:
            info["actual-size"] = used
        if image.cluster_size_bytes:
            info["cluster-size"] = image.cluster_size_bytes
        snapshots = image.snapshots()
        if snapshots:
            info["snapshots"] = [snapshot_info(entry) for entry in snapshots]
    info |= _backing_info(node, image, flat=flat)
    if node.driver == "qcow2":
        specific = {key: value for key, value in (image.specific_info() or {}).items() if key in _SPECIFIC}
        info["format-specific"] = {"type": node.driver, "data": specific}
    return info


def _backing_info(node: BlockNode, image: Image, *, flat: bool) -> dict[str, Any]:
    info: dict[str, Any] = {}
    reference = image.backing_reference
    if reference is not None:
        info["backing-filename"] = reference.filename
        if reference.format_name:
            info["backing-filename-format"] = reference.format_name
    if node.backing is not None:
        info["full-backing-filename"] = node.backing.filename
        if not flat:
            info["backing-image"] = _image_info(node.backing, flat=False)
    return info


def snapshot_info(entry: SnapshotInfo) -> dict[str, Any]:
    """`SnapshotInfo` of an internal snapshot."""
    return {
        "id": entry.id,
        "name": entry.name,
        "vm-state-size": entry.vm_state_size_bytes,
        "date-sec": entry.date_s,
        "date-nsec": entry.date_ns,
        "vm-clock-sec": entry.vm_clock_ns // _NS,
        "vm-clock-nsec": entry.vm_clock_ns % _NS,
        **({} if entry.icount in {None, NO_ICOUNT} else {"icount": entry.icount}),
    }


def describe_statistics(hardware: Hardware, *, nodes: bool) -> list[dict[str, Any]]:
    """`BlockStats` of every disk, or of every node."""
    if nodes:
        by_node = {
            id(attachment.node): attachment.device.statistics
            for attachment in attachments(hardware)
            if attachment.node is not None
        }
        return [
            {"node-name": node.name, "stats": _statistics(by_node.get(id(node)), accounts=False), **_file_below(node)}
            for node in hardware.blocks
        ]
    found = []
    for attachment in sorted(attachments(hardware), key=lambda attachment: not attachment.name):
        entry: dict[str, Any] = {"device": attachment.name, "qdev": _shown_device(attachment)}
        entry["stats"] = _statistics(attachment.device.statistics)
        node = attachment.node
        if node is not None:
            entry["node-name"] = node.name
            entry |= _below(node)
        found.append(entry)
    return found


def _below(node: BlockNode) -> dict[str, Any]:
    """Entries of the nodes below: nothing is counted there."""
    found = _file_below(node)
    if node.backing is not None:
        found["backing"] = {
            "node-name": node.backing.name,
            "stats": _statistics(None),
            **_below(node.backing),
        }
    return found


def _file_below(node: BlockNode) -> dict[str, Any]:
    return {} if node.file is None else {"parent": {"node-name": node.file.name, "stats": _statistics(None)}}


def _statistics(counted: BlockStatistics | None, *, accounts: bool | None = None) -> dict[str, Any]:
    """`BlockDeviceStats`; of a disk's requests those that failed count, unless `accounts` says otherwise."""
    values: dict[str, Any] = dict.fromkeys(sorted(_NOTHING), 0)
    if counted is not None:
        values |= asdict(counted)
    if accounts is None:
        accounts = counted is not None
    values |= {"account_invalid": accounts, "account_failed": accounts, "timed_stats": []}
    return values
