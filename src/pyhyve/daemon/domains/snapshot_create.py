"""Making snapshots: inside qcow2 images, or by new images on top; of machines that run, and of those that do not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.domains import guest, jobs, lifecycle, saving
from pyhyve.daemon.domains.blockops import add_image, create_overlay, remove_image
from pyhyve.daemon.domains.definition.chains import ChainImage, chain_of, with_chain
from pyhyve.daemon.domains.definition.parse import validate_document
from pyhyve.daemon.domains.definition.stable import check_same_guest
from pyhyve.daemon.domains.definition.view import format_domain, migratable_view
from pyhyve.daemon.domains.faults import (
    failed,
    invalid,
    invalid_argument,
    not_supported,
    system_error,
    unsupported,
    xml_error,
)
from pyhyve.daemon.domains.hotplug_live import next_node
from pyhyve.daemon.domains.images import image_sizes
from pyhyve.daemon.domains.saveimage import finish, write_header
from pyhyve.daemon.domains.snapshots import parse_snapshot, save_tree, tree_of
from pyhyve.daemon.domains.states import (
    DomainState,
    PausedReason,
    RunningReason,
    ShutoffReason,
    StoppedDetail,
    SuspendedDetail,
)
from pyhyve.image.contract import ImageError
from pyhyve.image.opening import OpenSettings, open_image
from pyhyve.xml.devices import Devices
from pyhyve.xml.disk import DiskSource
from pyhyve.xml.element import replace, to_node
from pyhyve.xml.snapshot import (
    DomainSnapshot,
    SnapshotDisk,
    SnapshotDisks,
    SnapshotDriver,
    SnapshotMemory,
    SnapshotParent,
    SnapshotSource,
)

if TYPE_CHECKING:
    from pyhyve.daemon.domains.domain import ManagedDomain
    from pyhyve.xml.disk import Disk
    from pyhyve.xml.domain import Domain

__all__ = ["create"]

_REDEFINE, _CURRENT, _NO_METADATA, _HALT, _DISK_ONLY, _REUSE = 1, 2, 4, 8, 16, 32
_QUIESCE, _ATOMIC, _LIVE, _VALIDATE = 64, 128, 256, 512
_OPERATION: Final = 6
_INTERNAL_FORMATS: Final = frozenset({"qcow2"})


async def create(domain: ManagedDomain, text: str, flags: int) -> DomainSnapshot:
    """Make a snapshot, or (redefining) take over the description of one. Raises LibvirtError."""
    if flags & _QUIESCE and not flags & _DISK_ONLY:
        raise invalid_argument("quiesce requires disk-only")
    if flags & _VALIDATE:
        await asyncio.to_thread(validate_document, text, "domainsnapshot.rng")
    wanted = parse_snapshot(text)
    if flags & _REDEFINE:
        return await _redefine(domain, wanted, flags)
    if not domain.persistent and flags & _HALT:
        raise invalid("cannot halt after transient domain snapshot")
    async with domain.long_job(_OPERATION, "snapshot"):
        return await _create(domain, wanted, flags)


async def _redefine(domain: ManagedDomain, wanted: DomainSnapshot, flags: int) -> DomainSnapshot:
    if not wanted.name:
        raise xml_error("a redefined snapshot must have a name")
    if wanted.creation_time is None:
        raise xml_error("missing creationTime from existing snapshot")
    if wanted.state is None:
        raise xml_error("missing state from existing snapshot")
    tree = tree_of(domain)
    parent = wanted.parent.name if wanted.parent is not None else None
    if parent == wanted.name:
        raise invalid_argument(f"cannot set snapshot {wanted.name} as its own parent")
    if parent is not None and parent not in tree.items:
        raise invalid_argument(f"parent {parent} for snapshot {wanted.name} not found")
    if parent is not None and parent in tree.descendants(wanted.name):
        raise invalid_argument(f"parent {parent} would create cycle to {wanted.name}")
    if wanted.domain is not None and wanted.domain.uuid not in {None, domain.uuid_text}:
        raise invalid_argument(f"definition for snapshot {wanted.name} must use uuid {domain.uuid_text}")
    known = tree.items.get(wanted.name)
    if known is not None and known.domain is not None and wanted.domain is not None:
        try:
            check_same_guest(known.domain, wanted.domain)
        except ValueError as error:  # of a number or a unit that nobody has read yet
            raise xml_error(str(error)) from error
    tree.items[wanted.name] = wanted
    if flags & _CURRENT:
        tree.current = wanted.name
    await save_tree(domain)
    return wanted


async def _create(domain: ManagedDomain, wanted: DomainSnapshot, flags: int) -> DomainSnapshot:
    tree = tree_of(domain)
    name = wanted.name or str(int(time.time()))
    if "/" in name:
        raise xml_error(f"name {name} cannot contain '/'")
    if name in tree.items:
        raise failed(f"domain moment {name} already exists")
    disk_only = bool(flags & _DISK_ONLY)
    memory = wanted.memory
    external_memory = memory is not None and memory.snapshot == "external"
    if memory is not None and memory.snapshot in {None, "external"} and memory.file:
        external_memory = True
    if external_memory and (disk_only or not domain.active):
        raise xml_error("memory state cannot be saved with offline or disk-only snapshot")
    if memory is not None and memory.snapshot == "no":
        disk_only = True
    disks = _chosen_disks(domain, wanted, external=disk_only or external_memory, name=name)
    state = (
        "disk-snapshot"
        if disk_only and domain.active
        else {
            DomainState.RUNNING: "running",
            DomainState.PAUSED: "paused",
            DomainState.SHUTOFF: "shutoff",
        }.get(domain.state, "shutoff")
    )
    kept_memory = _memory_of(domain, memory, disk_only=disk_only, external=external_memory)
    live = domain.live
    definition = domain.definition
    made = DomainSnapshot(
        name=name,
        description=wanted.description,
        state=state,
        parent=SnapshotParent(name=tree.current) if tree.current is not None else None,
        creation_time=int(time.time()),
        memory=kept_memory,
        disks=SnapshotDisks(disk=tuple(disks)),
        domain=migratable_view(live) if live is not None else definition,
        inactive_domain=replace(to_node(definition), name="inactiveDomain")
        if live is not None and definition is not None
        else None,
    )
    await _take(domain, made, flags)
    if not flags & _NO_METADATA:
        tree.items[name] = made
        tree.current = name
        await save_tree(domain)
    if flags & _HALT and domain.active:
        await lifecycle.end(domain, ShutoffReason.FROM_SNAPSHOT, StoppedDetail.FROM_SNAPSHOT)
    return made


def _memory_of(
    domain: ManagedDomain, memory: SnapshotMemory | None, *, disk_only: bool, external: bool
) -> SnapshotMemory:
    if external and memory is not None:
        if not memory.file or not memory.file.startswith("/"):
            raise xml_error(f"memory snapshot file path ({memory.file or ''}) must be absolute")
        return SnapshotMemory(snapshot="external", file=memory.file)
    return SnapshotMemory(snapshot="no" if disk_only or not domain.active else "internal")


def _chosen_disks(domain: ManagedDomain, wanted: DomainSnapshot, *, external: bool, name: str) -> list[SnapshotDisk]:
    """Return what becomes of each disk. Raises LibvirtError."""
    asked: dict[str, SnapshotDisk] = {}
    devices = domain.devices
    for item in wanted.disks.disk if wanted.disks is not None else ():
        found = next(
            (
                disk
                for disk in devices.disk
                if disk.target.dev == item.name or (disk.source is not None and disk.source.file == item.name)
            ),
            None,
        )
        if found is None:
            raise unsupported(f"no disk named '{item.name}'")
        if found.target.dev in asked:
            raise xml_error(f"disk '{found.target.dev}' specified twice")
        asked[found.target.dev] = item
    chosen = [_chosen(disk, asked.get(disk.target.dev), external=external, name=name) for disk in devices.disk]
    if all(item.snapshot == "no" for item in chosen):
        if domain.active and not external:
            raise unsupported("internal and full system snapshots require all disks to be selected for snapshot")
        raise unsupported("nothing selected for snapshot")
    return chosen


def _chosen(disk: Disk, item: SnapshotDisk | None, *, external: bool, name: str) -> SnapshotDisk:
    default = "external" if external else "internal"
    if disk.source is None or disk.readonly or disk.snapshot == "no":
        default = "no"
    kind = (item.snapshot if item is not None else None) or default
    if disk.source is None:
        kind = "no"
    if kind == "internal":
        if external:
            detail = f"disk '{disk.target.dev}' must use snapshot mode 'external'"
            raise unsupported(detail)
        form = (disk.driver.type if disk.driver is not None else None) or "raw"
        if form not in _INTERNAL_FORMATS:
            raise unsupported(f"internal snapshot for disk {disk.target.dev} unsupported for storage type {form}")
        return SnapshotDisk(name=disk.target.dev, snapshot="internal")
    if kind in {"no", "manual"}:
        return SnapshotDisk(name=disk.target.dev, snapshot=kind)
    driver = item.driver if item is not None and item.driver is not None and item.driver.type else None
    source = item.source if item is not None else None
    if source is None or (source.file is None and source.dev is None):
        path = disk.source.file if disk.source is not None else None
        if path is None:
            raise unsupported(f"cannot generate external snapshot name for disk '{disk.target.dev}' without source")
        base = Path(path)
        stem = base.name.rpartition(".")[0] or base.name
        source = SnapshotSource(file=str(base.with_name(f"{stem}.{name}")))
    return SnapshotDisk(
        name=disk.target.dev,
        snapshot="external",
        type="block" if source.dev is not None else "file",
        driver=driver or SnapshotDriver(type="qcow2"),
        source=source,
    )


async def _take(domain: ManagedDomain, made: DomainSnapshot, flags: int) -> None:
    disks = made.disks.disk if made.disks is not None else ()
    has_external = any(item.snapshot == "external" for item in disks)
    has_internal = any(item.snapshot == "internal" for item in disks)
    if has_internal and domain.active and domain.registry.hypervisor.nvram_path(domain.current) is not None:
        raise not_supported("internal snapshots of a VM with pflash based firmware are not supported")
    if has_external and has_internal:
        raise unsupported("mixing internal and external targets for a snapshot is not yet supported")
    external_memory = made.memory is not None and made.memory.snapshot == "external"
    if not domain.active:
        if has_external:
            await _external_offline(domain, made, flags)
        else:
            await asyncio.to_thread(_internal_offline, domain.current, made.name or "")
    elif has_external or external_memory:
        await _external_live(domain, made, flags)
    else:
        await _internal_live(domain, made)


# -- inside images ----------------------------------------------------------------------------------------------------


def internal_disks(definition: Domain) -> list[Disk]:
    """Return the disks that have snapshots inside their images: those a guest can write."""
    devices = definition.devices or Devices()
    return [
        disk
        for disk in devices.disk
        if disk.source is not None
        and not disk.readonly
        and (disk.driver.type if disk.driver is not None else None) in _INTERNAL_FORMATS
    ]


def _internal_offline(definition: Domain, name: str) -> None:
    """Make a snapshot inside each image. Raises LibvirtError. Blocks."""
    done: list[Disk] = []
    try:
        for disk in internal_disks(definition):
            with contextlib.closing(_open_for_writing(disk)) as image:
                image.create_snapshot(name, date_ns=time.time_ns())
            done.append(disk)
    except (ImageError, OSError) as error:
        for disk in done:
            with contextlib.suppress(ImageError, OSError), contextlib.closing(_open_for_writing(disk)) as image:
                found = image.find_snapshot(name)
                if found is not None:
                    image.delete_snapshot(found)
        raise failed(f"cannot make a snapshot: {error}") from error


def _open_for_writing(disk: Disk) -> Any:
    source = disk.source
    path = (source.file or source.dev or "") if source is not None else ""
    form = disk.driver.type if disk.driver is not None else None
    return open_image(path, OpenSettings(format_name=form, writable=True, with_backing=False))


def snapshot_nodes(domain: ManagedDomain) -> list[str]:
    """Return the block nodes of a machine that have snapshots inside their images."""
    return [f"libvirt-{disk.source.index}-format" for disk in internal_disks(domain.current) if disk.source is not None]


async def _internal_live(domain: ManagedDomain, made: DomainSnapshot) -> None:
    nodes = snapshot_nodes(domain)
    if not nodes:
        raise unsupported("nothing selected for snapshot")
    arguments = {"tag": made.name, "vmstate": nodes[0], "devices": nodes}
    running = domain.state is DomainState.RUNNING
    domain.parts["suspend"] = (PausedReason.SNAPSHOT, SuspendedDetail.PAUSED)
    domain.parts["resume"] = (RunningReason.UNPAUSED, 0)
    try:
        await jobs.run_job(domain, "snapshot-save", arguments, f"snapshot-save-{made.name}")
    finally:
        domain.parts.pop("suspend", None)
        domain.parts.pop("resume", None)
        if running and domain.active and domain.state is DomainState.PAUSED:
            await lifecycle.let_run(domain, RunningReason.UNPAUSED)


# -- new images on top ------------------------------------------------------------------------------------------------


def _overlays(domain: ManagedDomain, made: DomainSnapshot) -> list[tuple[Disk, SnapshotDisk, str]]:
    found = []
    for item in made.disks.disk if made.disks is not None else ():
        if item.snapshot != "external" or item.source is None:
            continue
        disk = next(disk for disk in domain.devices.disk if disk.target.dev == item.name)
        found.append((disk, item, item.source.file or item.source.dev or ""))
    return found


def _make_overlay(disk: Disk, item: SnapshotDisk, path: str, *, reuse: bool) -> None:
    """Create the image on top of a disk's. Raises LibvirtError. Blocks."""
    if reuse:
        if not os.path.exists(path):  # noqa: PTH110 - the path is text of a document
            raise system_error(f"missing existing file for disk {item.name}: {path}", FileNotFoundError(2, ""))
        return
    is_file = item.source is not None and item.source.file is not None
    if is_file and os.path.exists(path) and os.stat(path).st_size:  # noqa: PTH110, PTH116 - ditto
        raise unsupported(
            f"external snapshot file for disk {item.name} already exists and is not a block device: {path}"
        )
    chain = chain_of(disk)
    capacity, _, _ = image_sizes(chain[0].path, chain[0].format)
    form = item.driver.type if item.driver is not None and item.driver.type is not None else "qcow2"
    create_overlay(path, form, capacity, chain[0])


async def _external_offline(domain: ManagedDomain, made: DomainSnapshot, flags: int) -> None:
    created: list[str] = []
    definition = domain.definition
    if definition is None:
        return
    try:
        for disk, item, path in _overlays(domain, made):
            await asyncio.to_thread(_make_overlay, disk, item, path, reuse=bool(flags & _REUSE))
            if not flags & _REUSE:
                created.append(path)
            definition = _with_source(definition, item, path)
        before, domain.definition = domain.definition, definition
        try:
            await domain.save_definition()
        except BaseException:
            domain.definition = before
            raise
    except BaseException:
        for path in created:
            Path(path).unlink(missing_ok=True)
        raise


def _with_source(definition: Domain, item: SnapshotDisk, path: str) -> Domain:
    """Return a definition whose disk is a new image."""
    devices = definition.devices or Devices()
    form = item.driver.type if item.driver is not None else "qcow2"
    disks = []
    for disk in devices.disk:
        if disk.target.dev == item.name:
            is_device = item.source is not None and item.source.dev is not None
            source = DiskSource(dev=path) if is_device else DiskSource(file=path)
            driver = replace(disk.driver, type=form) if disk.driver is not None else None
            disk = replace(
                disk, type="block" if is_device else "file", source=source, driver=driver, backing_store=None
            )
        disks.append(disk)
    return replace(definition, devices=replace(devices, disk=tuple(disks)))


async def _external_live(domain: ManagedDomain, made: DomainSnapshot, flags: int) -> None:
    running = domain.state is DomainState.RUNNING
    memory = made.memory.file if made.memory is not None and made.memory.snapshot == "external" else None
    frozen = 0
    if flags & _QUIESCE:
        frozen = await guest.freeze(domain, ())
    paused = memory is not None and running
    try:
        if paused:
            await lifecycle.suspend(domain, PausedReason.SNAPSHOT, SuspendedDetail.PAUSED)
        if memory is not None:
            await _save_memory(domain, made, memory, running=running)
        try:
            await _switch_images(domain, made, flags)
        except BaseException:
            if memory is not None:
                Path(memory).unlink(missing_ok=True)
            raise
    finally:
        if paused and domain.active and domain.state is DomainState.PAUSED and not flags & _HALT:
            await lifecycle.let_run(domain, RunningReason.UNPAUSED)
        if frozen:
            with contextlib.suppress(Exception):
                await guest.thaw(domain)


async def _save_memory(domain: ManagedDomain, made: DomainSnapshot, path: str, *, running: bool) -> None:
    job = domain.async_job
    if job is None or made.domain is None:
        return
    try:
        with open(path, "wb") as file:  # noqa: PTH123 - the path is text of a document
            write_header(file, format_domain(made.domain, secure=True), running=running)
            await saving.migrate_to(domain, job, file.fileno())
        await asyncio.to_thread(finish, Path(path))
    except OSError as error:
        raise system_error(f"Failed to create file '{path}'", error) from error


async def _switch_images(domain: ManagedDomain, made: DomainSnapshot, flags: int) -> None:
    """Create images on top and have the machine write to them, all at once. Raises LibvirtError."""
    added: list[tuple[ChainImage, str]] = []
    switched: list[tuple[Disk, SnapshotDisk, ChainImage]] = []
    actions = []
    try:
        for disk, item, path in _overlays(domain, made):
            await asyncio.to_thread(_make_overlay, disk, item, path, reuse=bool(flags & _REUSE))
            form = item.driver.type if item.driver is not None and item.driver.type is not None else "qcow2"
            number = next_node(domain)
            is_device = item.source is not None and item.source.dev is not None
            source = DiskSource(dev=path, index=number) if is_device else DiskSource(file=path, index=number)
            image = ChainImage("block" if is_device else "file", source, form)
            await add_image(domain, image, backing=None)
            added.append((image, path))
            switched.append((disk, item, image))
            node = chain_of(disk)[0].node
            actions.append({"type": "blockdev-snapshot", "data": {"node": node, "overlay": image.node}})
        if actions:
            await domain.monitor("transaction", {"actions": actions})
    except BaseException:
        for image, path in added:
            with contextlib.suppress(Exception):
                await remove_image(domain, image)
            if not flags & _REUSE:
                Path(path).unlink(missing_ok=True)
        raise
    live = domain.live
    if live is None:
        return
    devices = live.devices or Devices()
    changed = {disk.target.dev: with_chain(disk, [image, *chain_of(disk)]) for disk, _, image in switched}
    disks = tuple(changed.get(disk.target.dev, disk) for disk in devices.disk)
    domain.live = replace(live, devices=replace(devices, disk=disks))
    if domain.definition is not None:
        definition = domain.definition
        for _, item, image in switched:
            definition = _with_source(definition, item, image.path)
        domain.definition = definition
        await domain.save_definition()
    await domain.save_record()
