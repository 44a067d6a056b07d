"""What `query-block` and `query-named-block-nodes` tell of a machine's disks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.backends.block import ImageBlock

if TYPE_CHECKING:
    from pyhyve.image.contract import Image
    from pyhyve.machine.inventory import Inventory, PluggedDisk

_NO_LIMITS = dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)


def describe_drives(inventory: Inventory) -> list[dict[str, Any]]:
    """`BlockInfo` of every disk."""
    drives = []
    for index, disk in enumerate(inventory.disks):
        config = disk.config
        device = config.device_id
        drive: dict[str, Any] = {
            "device": config.drive_id or ("" if config.node_name else f"virtio{index}"),
            "qdev": f"/machine/peripheral/{device}/virtio-backend"
            if device
            else f"/machine/peripheral-anon/device[{index}]/virtio-backend",
            "type": "unknown",
            "removable": False,
            "locked": False,
            "io-status": "ok",
        }
        image = image_of(disk)
        if image is not None:
            drive["inserted"] = _device_info(image, disk, index, flat=False)
        drives.append(drive)
    return drives


def describe_nodes(inventory: Inventory, *, flat: bool) -> list[dict[str, Any]]:
    """`BlockDeviceInfo` of every node; `flat` leaves out the description of backing images."""
    nodes = []
    for index, disk in enumerate(inventory.disks):
        image = image_of(disk)
        if image is not None:
            nodes.append(_device_info(image, disk, index, flat=flat))
    return nodes


def image_of(disk: PluggedDisk) -> Image | None:
    """The image behind a disk."""
    backend = disk.plugged.device.backend
    return backend.image if isinstance(backend, ImageBlock) else None


def _device_info(image: Image, disk: PluggedDisk, index: int, *, flat: bool) -> dict[str, Any]:
    info: dict[str, Any] = {
        "file": image.storage.filename,
        "node-name": disk.config.node_name or f"#block{index:03d}",
        "ro": image.readonly,
        "drv": image.format_name,
        "backing_file_depth": _depth(image),
        "encrypted": False,
        "detect_zeroes": "off",
        **_NO_LIMITS,
        "image": _image_info(image, flat=flat),
        "cache": {"writeback": True, "direct": False, "no-flush": False},
        "write_threshold": 0,
    }
    below = image.backing_reference
    if below is not None:
        info["backing_file"] = below.filename
    return info


def _depth(image: Image) -> int:
    depth = 0
    below = image.backing
    while below is not None:
        depth += 1
        below = below.backing
    return depth


def _image_info(image: Image, *, flat: bool) -> dict[str, Any]:
    info: dict[str, Any] = {
        "filename": image.storage.filename,
        "format": image.format_name,
        "virtual-size": image.size_bytes,
        "dirty-flag": bool(image.dirty),
    }
    used = image.disk_usage_bytes()
    if used is not None:
        info["actual-size"] = used
    if image.cluster_size_bytes:
        info["cluster-size"] = image.cluster_size_bytes
    reference = image.backing_reference
    if reference is not None:
        info["backing-filename"] = reference.filename
        if reference.format_name:
            info["backing-filename-format"] = reference.format_name
    if image.backing is not None:
        info["full-backing-filename"] = image.backing.storage.filename
        if not flat:
            info["backing-image"] = _image_info(image.backing, flat=False)
    return info
