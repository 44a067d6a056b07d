"""Starting jobs on disks, from the calls' arguments: pull, rebase, commit, copy."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyhyve.daemon.domains.blockjobs import (
    BlockJob,
    JobKind,
    check_free,
    disk_named,
    image_in_chain,
    speed_bytes,
    start_job,
)
from pyhyve.daemon.domains.definition.chains import ChainImage, chain_of
from pyhyve.daemon.domains.definition.parse import parse_root
from pyhyve.daemon.domains.faults import invalid, invalid_argument, system_error, xml_error
from pyhyve.daemon.domains.hotplug_live import next_node
from pyhyve.daemon.domains.images import image_sizes
from pyhyve.image.contract import BackingReference, ImageError
from pyhyve.image.opening import create_image
from pyhyve.rpc.errors import ErrorDomain
from pyhyve.xml.disk import Disk, DiskSource
from pyhyve.xml.document import Node, XmlError
from pyhyve.xml.element import from_node

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyhyve.daemon.domains.domain import ManagedDomain
    from pyhyve.rpc.values import TypedParam

__all__ = ["commit", "copy", "create_overlay", "pull", "rebase"]

_REBASE_SHALLOW, _REBASE_REUSE, _REBASE_RAW, _REBASE_COPY, _REBASE_RELATIVE = 1, 2, 4, 8, 16
_REBASE_DEV, _REBASE_BYTES = 32, 64
_COMMIT_SHALLOW, _COMMIT_DELETE, _COMMIT_ACTIVE, _COMMIT_BYTES = 1, 2, 4, 16
_COPY_SHALLOW, _COPY_REUSE, _COPY_TRANSIENT, _COPY_SYNCHRONOUS = 1, 2, 4, 8


async def pull(domain: ManagedDomain, path: str, base: str | None, speed: int) -> None:
    """Copy what is in images below a disk's into it. Raises LibvirtError."""
    disk = disk_named(domain, path)
    check_free(domain, disk)
    chain = chain_of(disk)
    arguments: dict[str, Any] = {"device": chain[0].node}
    base_index = 0
    if base:
        image = image_in_chain(disk, base)
        if image is chain[0]:
            raise invalid_argument("base must not be the top image")
        base_index = image.index
        arguments["base-node"] = image.node
    if speed:
        arguments["speed"] = speed
    job = BlockJob(f"pull-{disk.target.dev}-{chain[0].node}", disk.target.dev, JobKind.PULL, base=base_index)
    await start_job(domain, job, "block-stream", arguments)


async def rebase(domain: ManagedDomain, path: str, base: str | None, bandwidth: int, flags: int) -> None:
    """Pull down to an image, or (with the flag) copy to a new one. Raises LibvirtError."""
    speed = speed_bytes(bandwidth, bytes_flag=flags & _REBASE_BYTES)
    if flags & _REBASE_RELATIVE and base is None:
        raise invalid_argument("flag VIR_DOMAIN_BLOCK_REBASE_RELATIVE is valid only with non-null base")
    if not flags & _REBASE_COPY:
        await pull(domain, path, base, speed)
        return
    disk = disk_named(domain, path)
    form = "raw" if flags & _REBASE_RAW else None
    if form is None and not flags & _REBASE_REUSE:
        form = chain_of(disk)[0].format if disk.source is not None else "raw"
    kind = "block" if flags & _REBASE_DEV else "file"
    copy_flags = flags & (_REBASE_SHALLOW | _REBASE_REUSE)
    await _copy(domain, disk, kind, base or "", form, speed, copy_flags, {})


async def commit(
    domain: ManagedDomain, path: str, base: str | None, top: str | None, bandwidth: int, flags: int
) -> None:
    """Write what is in images into one below them. Raises LibvirtError."""
    disk = disk_named(domain, path)
    check_free(domain, disk)
    chain = chain_of(disk)
    first = image_in_chain(disk, top) if top and top != path else chain[0]
    active = first is chain[0]
    if active and not flags & _COMMIT_ACTIVE:
        raise invalid_argument(f"commit of '{disk.target.dev}' active layer requires active flag")
    if not active and flags & _COMMIT_ACTIVE:
        raise invalid_argument(f"active commit requested but '{first.path}' is not active")
    place = chain.index(first)
    if place + 1 >= len(chain):
        if active:
            raise invalid_argument(f"could not find base image in chain for '{disk.target.dev}'")
        raise invalid_argument(f"top '{first.path}' in chain for '{disk.target.dev}' has no backing file")
    if flags & _COMMIT_SHALLOW and not base:
        last = chain[place + 1]
    elif base:
        last = image_in_chain(disk, base)
    else:
        last = chain[-1]
    if chain.index(last) <= place:
        raise invalid_argument(f"base '{last.path}' is not below '{first.path}' in chain for '{disk.target.dev}'")
    arguments: dict[str, Any] = {"device": chain[0].node, "base-node": last.node}
    if not active:
        arguments["top-node"] = first.node
    speed = speed_bytes(bandwidth, bytes_flag=flags & _COMMIT_BYTES)
    if speed:
        arguments["speed"] = speed
    kind = JobKind.ACTIVE_COMMIT if active else JobKind.COMMIT
    job = BlockJob(
        f"commit-{disk.target.dev}-{first.node}",
        disk.target.dev,
        kind,
        top=first.index,
        base=last.index,
        remove_files=bool(flags & _COMMIT_DELETE),
    )
    await start_job(domain, job, "block-commit", arguments)


async def copy(domain: ManagedDomain, path: str, document: str, params: Sequence[TypedParam], flags: int) -> None:
    """Copy a disk to another image, then keep the two the same until told what to do. Raises LibvirtError."""
    disk = disk_named(domain, path)
    try:
        root = parse_root(document, "disk", "block_copy")
        target = from_node(Disk, Node("disk", root.attributes, "", (*root.children, *_missing_target(root, disk))))
    except XmlError as error:
        raise xml_error(str(error)) from error
    source = target.source
    where = (source.file or source.dev) if source is not None else None
    if where is None:
        raise invalid_argument("non-file destination not supported yet")
    form = target.driver.type if target.driver is not None else None
    given = {param.field: param.value for param in params}
    options: dict[str, Any] = {}
    if given.get("granularity"):
        options["granularity"] = int(given["granularity"])
    if given.get("buf-size"):
        options["buf-size"] = int(given["buf-size"])
    speed = int(given.get("bandwidth", 0))
    await _copy(
        domain, disk, "block" if source is not None and source.dev else "file", where, form, speed, flags, options
    )


def _missing_target(root: Node, disk: Disk) -> tuple[Node, ...]:
    if any(inner.name == "target" for inner in root.children):
        return ()
    return (Node("target", (("dev", disk.target.dev),)),)


async def _copy(
    domain: ManagedDomain,
    disk: Disk,
    kind: str,
    where: str,
    form: str | None,
    speed: int,
    flags: int,
    options: dict[str, Any],
) -> None:
    check_free(domain, disk)
    if domain.persistent and not flags & _COPY_TRANSIENT:
        raise invalid("domain is not transient")
    chain = chain_of(disk)
    shallow = bool(flags & _COPY_SHALLOW) and len(chain) > 1
    form = form or (chain[0].format if not flags & _COPY_REUSE else "raw")
    if not flags & _COPY_REUSE:
        await asyncio.to_thread(_make_target, where, form, chain, kind == "block", shallow)
    elif not await asyncio.to_thread(Path(where).exists):
        raise system_error(f"missing destination file for disk {disk.target.dev}: {where}", FileNotFoundError(2, ""))
    index = next_node(domain)
    source = DiskSource(dev=where, index=index) if kind == "block" else DiskSource(file=where, index=index)
    image = ChainImage(kind, source, form)
    await add_image(domain, image, backing=chain[1].node if shallow else None)
    arguments: dict[str, Any] = {
        "device": chain[0].node,
        "target": image.node,
        "sync": "top" if shallow else "full",
        "copy-mode": "write-blocking" if flags & _COPY_SYNCHRONOUS else "background",
        **options,
    }
    if speed:
        arguments["speed"] = speed
    job = BlockJob(
        f"copy-{disk.target.dev}-{chain[0].node}",
        disk.target.dev,
        JobKind.COPY,
        target={"kind": kind, "path": where, "format": form, "index": index, "shallow": shallow},
    )
    try:
        await start_job(domain, job, "blockdev-mirror", arguments)
    except BaseException:
        await remove_image(domain, image)
        raise


async def add_image(domain: ManagedDomain, image: ChainImage, *, backing: str | None) -> None:
    """Have a machine open an image, not in use yet. Raises LibvirtError."""
    storage: dict[str, Any] = {"node-name": image.storage, "auto-read-only": True, "discard": "unmap"}
    if image.kind == "block":
        storage.update({"driver": "host_device", "filename": image.path})
    else:
        storage.update({"driver": "file", "filename": image.path})
    top: dict[str, Any] = {"node-name": image.node, "driver": image.format, "file": image.storage, "read-only": False}
    if image.format in {"qcow2", "qed", "qcow", "vmdk"}:
        top["backing"] = backing
    await domain.monitor("blockdev-add", storage)
    try:
        await domain.monitor("blockdev-add", top)
    except BaseException:
        await domain.monitor("blockdev-del", {"node-name": image.storage})
        raise


async def remove_image(domain: ManagedDomain, image: ChainImage) -> None:
    """Have a machine close an image that is not in use. Raises LibvirtError."""
    for node in (image.node, image.storage):
        await domain.monitor("blockdev-del", {"node-name": node})


def _make_target(where: str, form: str, chain: list[ChainImage], is_device: bool, shallow: bool) -> None:  # noqa: FBT001 - to_thread passes by position
    capacity, _, _ = image_sizes(chain[0].path, chain[0].format)
    if is_device:
        return
    backing = chain[1] if shallow else None
    create_overlay(where, form, capacity, backing)


def create_overlay(where: str, form: str, capacity: int, backing: ChainImage | None) -> None:
    """Create an image, on another one if one is given. Raises LibvirtError. Blocks."""
    reference = BackingReference(backing.path, backing.format) if backing is not None else None
    try:
        create_image(where, form, capacity, backing=reference)
    except (ImageError, OSError) as error:
        reason = error if isinstance(error, OSError) else error.__cause__
        if isinstance(reason, OSError):
            raise system_error(f"failed to create image file '{where}'", reason) from error
        raise invalid_argument(str(error), ErrorDomain.STORAGE) from error
