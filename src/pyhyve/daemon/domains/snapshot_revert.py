"""Going back to snapshots, and deleting them."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from pyhyve.daemon.domains import jobs, lifecycle
from pyhyve.daemon.domains.faults import failed, invalid_argument, unsupported
from pyhyve.daemon.domains.snapshot_create import internal_disks, snapshot_nodes
from pyhyve.daemon.domains.snapshot_merge import check_mergeable, merge
from pyhyve.daemon.domains.snapshots import find, is_external, save_tree, tree_of
from pyhyve.daemon.domains.states import (
    DefinedDetail,
    DomainState,
    LifecycleEvent,
    PausedReason,
    ResumedDetail,
    RunningReason,
    ShutoffReason,
    StartedDetail,
    StoppedDetail,
    SuspendedDetail,
)
from pyhyve.daemon.errors import LibvirtError
from pyhyve.image.contract import ImageError
from pyhyve.image.opening import OpenSettings, open_image
from pyhyve.rpc.errors import ErrorCode, ErrorDomain
from pyhyve.xml.domain import Domain
from pyhyve.xml.element import from_node, replace

if TYPE_CHECKING:
    from pyhyve.daemon.domains.domain import ManagedDomain
    from pyhyve.xml.snapshot import DomainSnapshot

__all__ = ["delete", "revert"]

_RUNNING, _PAUSED, _FORCE = 1, 2, 4
_CHILDREN, _METADATA_ONLY, _CHILDREN_ONLY = 1, 2, 4


async def revert(domain: ManagedDomain, name: str, flags: int) -> None:
    """Go back to a snapshot. Raises LibvirtError."""
    item = find(domain, name)
    if flags & _RUNNING and flags & _PAUSED:
        both = "VIR_DOMAIN_SNAPSHOT_REVERT_RUNNING and VIR_DOMAIN_SNAPSHOT_REVERT_PAUSED are mutually exclusive"
        raise invalid_argument(both, ErrorDomain.DOMAIN_SNAPSHOT)
    if not domain.persistent and item.state not in {"running", "paused"} and not flags & (_RUNNING | _PAUSED):
        detail = "transient domain needs to request run or pause to revert to inactive snapshot"
        raise LibvirtError(ErrorCode.OPERATION_INVALID, ErrorDomain.QEMU, detail)
    if is_external(item):
        raise unsupported("revert to external snapshot not supported yet")
    if item.domain is None and not flags & _FORCE:
        detail = f"snapshot '{name}' lacks domain '{domain.name}' rollback info"
        raise LibvirtError(ErrorCode.SNAPSHOT_REVERT_RISKY, ErrorDomain.QEMU, detail)
    async with domain.job("revert"):
        await _revert(domain, item, flags)


async def _revert(domain: ManagedDomain, item: DomainSnapshot, flags: int) -> None:
    definition = await _definition(domain, item)
    was_active = domain.active
    if was_active:
        await lifecycle.end(domain, ShutoffReason.FROM_SNAPSHOT, StoppedDetail.FROM_SNAPSHOT)
    with_memory = item.state in {"running", "paused"}
    name = item.name or ""
    if not with_memory:
        await asyncio.to_thread(_apply_offline, definition, name)
    if domain.persistent:
        inactive = item.inactive_domain
        kept = definition
        if inactive is not None:
            kept = await _own(domain, from_node(Domain, replace(inactive, name="domain")))
        domain.definition = kept
        await domain.save_definition()
        domain.lifecycle(LifecycleEvent.DEFINED, DefinedDetail.FROM_SNAPSHOT)
    runs = with_memory or bool(flags & (_RUNNING | _PAUSED))
    if runs:
        await _start(domain, item, definition, flags, with_memory=with_memory)
    elif not was_active:
        domain.set_state(DomainState.SHUTOFF, ShutoffReason.FROM_SNAPSHOT)
    tree = tree_of(domain)
    tree.current = name
    await save_tree(domain)


async def _definition(domain: ManagedDomain, item: DomainSnapshot) -> Domain:
    if item.domain is None:
        return domain.definition or domain.current
    return await _own(domain, item.domain)


async def _own(domain: ManagedDomain, parsed: Domain) -> Domain:
    """Return a definition a snapshot keeps, made whole. The domain may have another name than it had then."""
    return await domain.registry.complete_parsed(replace(parsed, name=domain.name))


async def _start(
    domain: ManagedDomain, item: DomainSnapshot, definition: Domain, flags: int, *, with_memory: bool
) -> None:
    paused = bool(flags & _PAUSED) or (item.state == "paused" and not flags & _RUNNING)
    await lifecycle.start(
        domain,
        definition=definition,
        incoming=None,
        paused=True,
        announce=None,
    )
    try:
        if with_memory:
            nodes = snapshot_nodes(domain)
            arguments = {"tag": item.name, "vmstate": nodes[0] if nodes else "", "devices": nodes}
            await jobs.run_job(domain, "snapshot-load", arguments, f"snapshot-load-{item.name}")
        domain.set_state(DomainState.PAUSED, PausedReason.FROM_SNAPSHOT)
        domain.lifecycle(LifecycleEvent.STARTED, StartedDetail.FROM_SNAPSHOT)
        if paused:
            domain.lifecycle(LifecycleEvent.SUSPENDED, SuspendedDetail.FROM_SNAPSHOT)
        else:
            await lifecycle.let_run(domain, RunningReason.FROM_SNAPSHOT, ResumedDetail.FROM_SNAPSHOT)
    except BaseException:
        if domain.active:
            with contextlib.suppress(LibvirtError):
                await lifecycle.end(domain, ShutoffReason.FAILED, StoppedDetail.FAILED)
        raise


def _each_image(definition: Domain, name: str, *, apply: bool) -> None:
    for disk in internal_disks(definition):
        source = disk.source
        path = (source.file or source.dev or "") if source is not None else ""
        settings = OpenSettings(
            format_name=disk.driver.type if disk.driver is not None else None, writable=True, with_backing=False
        )
        with open_image(path, settings) as image:
            found = image.find_snapshot(name, by_id=False)
            if found is None:
                if apply:
                    raise failed(f"disk {disk.target.dev} has no snapshot '{name}'")
                continue
            if apply:
                image.apply_snapshot(found)
            else:
                image.delete_snapshot(found)


def _apply_offline(definition: Domain, name: str) -> None:
    """Go back inside each image. Raises LibvirtError. Blocks."""
    try:
        _each_image(definition, name, apply=True)
    except (ImageError, OSError) as error:
        raise failed(f"cannot go back to snapshot '{name}': {error}") from error


async def delete(domain: ManagedDomain, name: str, flags: int) -> None:
    """Delete a snapshot, what grew from it, or only what grew from it. Raises LibvirtError."""
    find(domain, name)
    tree = tree_of(domain)
    doomed = tree.descendants(name) if flags & (_CHILDREN | _CHILDREN_ONLY) else []
    if not flags & _CHILDREN_ONLY:
        doomed = [*doomed, name] if not doomed else [name, *doomed]
    doomed.reverse()
    async with domain.job("snapshot delete"):
        if not flags & _METADATA_ONLY:
            for key in doomed:
                if is_external(tree.items[key]):
                    check_mergeable(domain, tree.items[key], flags & (_CHILDREN | _CHILDREN_ONLY))
        for key in doomed:
            if not flags & _METADATA_ONLY:
                await _delete_data(domain, key)
            tree.remove(key)
            await save_tree(domain)


async def _delete_data(domain: ManagedDomain, name: str) -> None:
    item = tree_of(domain).items[name]
    if item.memory is not None and item.memory.snapshot == "external" and item.memory.file:
        Path(item.memory.file).unlink(missing_ok=True)
    await merge(domain, item)
    if not any(disk.snapshot == "internal" for disk in (item.disks.disk if item.disks is not None else ())):
        return
    if domain.active:
        nodes = snapshot_nodes(domain)
        await jobs.run_job(domain, "snapshot-delete", {"tag": name, "devices": nodes}, f"snapshot-delete-{name}")
        return
    try:
        await asyncio.to_thread(_each_image, domain.current, name, apply=False)
    except (ImageError, OSError) as error:
        raise failed(f"cannot delete snapshot '{name}': {error}") from error
