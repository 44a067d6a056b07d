"""Deleting external snapshots: the image that was put on top is merged into the one below it, and removed."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

from pyhyve.daemon.domains import blockjobs, blockops
from pyhyve.daemon.domains.definition.chains import chain_of
from pyhyve.daemon.domains.faults import failed, not_supported, unsupported
from pyhyve.daemon.domains.images import backing_links
from pyhyve.daemon.domains.snapshots import is_external, parent_name, tree_of
from pyhyve.image.contract import ImageError
from pyhyve.image.opening import OpenSettings, open_image
from pyhyve.image.operations.chain import commit
from pyhyve.xml.devices import Devices
from pyhyve.xml.disk import DiskSource
from pyhyve.xml.element import replace

if TYPE_CHECKING:
    from pyhyve.daemon.domains.domain import ManagedDomain
    from pyhyve.xml.disk import Disk
    from pyhyve.xml.domain import Domain
    from pyhyve.xml.snapshot import DomainSnapshot

__all__ = ["check_mergeable", "merge"]


def external_paths(item: DomainSnapshot) -> dict[str, str]:
    """Return the image a snapshot put on top of each disk, by target name."""
    disks = item.disks.disk if item.disks is not None else ()
    return {
        disk.name: disk.source.file or disk.source.dev or ""
        for disk in disks
        if disk.snapshot == "external" and disk.source is not None
    }


def check_mergeable(domain: ManagedDomain, item: DomainSnapshot, flags: int) -> None:
    """Raise LibvirtError where deleting an external snapshot would harm others."""
    tree = tree_of(domain)
    parent = parent_name(item)
    if parent is not None and not is_external(tree.items[parent]) and external_paths(item):
        raise not_supported("deleting external snapshot that has internal snapshot as parent not supported")
    children = tree.children(item.name or "")
    if flags and any(not is_external(tree.items[child]) for child in children):
        raise unsupported("deletion of external and internal children disk snapshots not supported")
    if len(children) > 1 and external_paths(item):
        raise not_supported("deletion of external disk snapshots with multiple children is not supported")


async def merge(domain: ManagedDomain, item: DomainSnapshot) -> None:
    """Merge every image a snapshot put on top into the one below it. Raises LibvirtError."""
    for target, path in external_paths(item).items():
        if domain.active:
            await _merge_live(domain, target, path)
        else:
            await _merge_offline(domain, target, path)


async def _merge_live(domain: ManagedDomain, target: str, path: str) -> None:
    disk = next((disk for disk in domain.devices.disk if disk.target.dev == target), None)
    chain = chain_of(disk) if disk is not None else []
    place = next((place for place, image in enumerate(chain) if image.path == path), None)
    if place is None or place + 1 >= len(chain):
        raise failed(f"image '{path}' is not in the chain of disk '{target}'")
    active = place == 0
    await blockops.commit(domain, target, chain[place + 1].path, None if active else path, 0, 4 if active else 0)
    job = next(job for job in blockjobs.jobs_of(domain).values() if job.disk == target)
    await blockjobs.wait(domain, job, until_ready=active)
    if active:
        await blockjobs.abort(domain, target, blockjobs.PIVOT)
    await asyncio.to_thread(_remove, path)


async def _merge_offline(domain: ManagedDomain, target: str, path: str) -> None:
    definition = domain.definition
    if definition is None:
        return
    devices = definition.devices or Devices()
    disk = next((disk for disk in devices.disk if disk.target.dev == target), None)
    source = disk.source if disk is not None else None
    if disk is None or source is None or path not in {source.file, source.dev}:
        raise not_supported(f"image '{path}' is below others of disk '{target}': start the domain to merge it")
    domain.definition = await asyncio.to_thread(_commit, definition, disk, path)
    await domain.save_definition()
    await asyncio.to_thread(_remove, path)


def _commit(definition: Domain, disk: Disk, path: str) -> Domain:
    """Write an image into the one below it; return the definition with that. Raises LibvirtError. Blocks."""
    form = (disk.driver.type if disk.driver is not None else None) or "raw"
    links = backing_links(path, form)
    if not links:
        raise failed(f"image '{path}' has none below it")
    below = links[0]
    try:
        with open_image(path, OpenSettings(format_name=form, lock=False, force_share=True)) as top:
            settings = OpenSettings(format_name=below.format, writable=True, lock=False, force_share=True)
            with open_image(below.path, settings) as base:
                commit(top, base, 1)
    except (ImageError, OSError) as error:
        raise failed(f"cannot merge '{path}' into '{below.path}': {error}") from error
    source = DiskSource(dev=below.path) if below.is_device else DiskSource(file=below.path)
    driver = replace(disk.driver, type=below.format) if disk.driver is not None else None
    merged = replace(
        disk, type="block" if below.is_device else "file", source=source, driver=driver, backing_store=None
    )
    devices = definition.devices or Devices()
    disks = tuple(merged if item is disk else item for item in devices.disk)
    return replace(definition, devices=replace(devices, disk=disks))


def _remove(path: str) -> None:
    if os.path.isfile(path):  # noqa: PTH113 - the path is text of a document
        Path(path).unlink(missing_ok=True)
