"""Checkpoints of a domain: moments since which its disks note what changes, in bitmaps of their images.

Every checkpoint's bitmap goes on recording until it is removed, as with libvirtd, so that removing one says nothing
about the others. Source: libvirt's documentation, "Checkpoint XML format"; QEMU's, "Dirty Bitmaps".
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.domains import snapshots
from pyhyve.daemon.domains.definition.chains import chain_of
from pyhyve.daemon.domains.definition.parse import parse_live_domain, parse_root, validate_document
from pyhyve.daemon.domains.definition.view import format_domain, inactive_view
from pyhyve.daemon.domains.faults import failed, invalid, invalid_argument, not_supported, unsupported
from pyhyve.daemon.domains.trees import Tree
from pyhyve.daemon.errors import LibvirtError
from pyhyve.rpc.errors import ErrorCode, ErrorDomain
from pyhyve.xml.document import Node, format_node, parse_document

if TYPE_CHECKING:
    from pyhyve.daemon.domains.domain import ManagedDomain
    from pyhyve.xml.disk import Disk

__all__ = [
    "Checkpoint",
    "CheckpointTree",
    "bitmap_actions",
    "count",
    "create",
    "delete",
    "describe",
    "document",
    "drop_metadata",
    "find",
    "listed",
    "parse_checkpoint",
]

_REDEFINE, _QUIESCE, _REDEFINE_VALIDATE = 1, 2, 4
_SECURE, _NO_DOMAIN, _SIZE = 1, 2, 4
_CHILDREN, _METADATA_ONLY, _CHILDREN_ONLY = 1, 2, 4
_ROOTS, _TOPOLOGICAL, _LEAVES, _NO_LEAVES = 1, 2, 4, 8
LIST_FLAGS: Final = 15
_GRANULARITY_KIND: Final = "qcow2"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One checkpoint. ``disks`` are targets with the names of their bitmaps, or None where they have none."""

    name: str
    created: int
    disks: tuple[tuple[str, str | None], ...]
    description: str | None = None
    parent: str | None = None
    domain: str | None = None
    """The domain's document then."""


class CheckpointTree(Tree[Checkpoint]):
    """A domain's checkpoints."""

    @staticmethod
    def parent_of(item: Checkpoint) -> str | None:
        """Name of what a checkpoint was made after."""
        return item.parent

    @staticmethod
    def adopted(item: Checkpoint, parent: Checkpoint) -> Checkpoint:
        """A checkpoint made after what ``parent`` was made after."""
        return replace(item, parent=parent.parent)


def tree_of(domain: ManagedDomain) -> CheckpointTree:
    """Return a domain's checkpoints."""
    return domain.registry.checkpoints.of(domain)


def count(domain: ManagedDomain) -> int:
    """How many it has."""
    return domain.registry.checkpoints.count(domain)


async def drop_metadata(domain: ManagedDomain) -> None:
    """Forget a domain's checkpoints; bitmaps in its images stay."""
    await domain.registry.checkpoints.forget(domain)


def parse_tree(data: bytes) -> CheckpointTree:
    """Read what :func:`form_tree` wrote. Raises ValueError."""
    held = json.loads(data)
    try:
        items = {}
        for name, each in held["checkpoints"].items():
            each["disks"] = tuple((str(target), bitmap) for target, bitmap in each["disks"])
            items[name] = Checkpoint(**each)
        return CheckpointTree(items, held["current"])
    except (KeyError, TypeError) as error:
        msg = f"no checkpoints: {error}"
        raise ValueError(msg) from error


def form_tree(tree: CheckpointTree) -> bytes:
    """Write a tree for the store."""
    held = {name: asdict(item) for name, item in tree.items.items()}
    return json.dumps({"current": tree.current, "checkpoints": held}).encode()


def find(domain: ManagedDomain, name: str) -> Checkpoint:
    """Return a checkpoint. Raises LibvirtError where there is none."""
    found = tree_of(domain).items.get(name)
    if found is None:
        detail = f"no domain checkpoint with matching name '{name}'"
        raise LibvirtError(ErrorCode.NO_DOMAIN_CHECKPOINT, ErrorDomain.QEMU, detail)
    return found


def listed(domain: ManagedDomain, flags: int, start: str | None = None) -> list[str]:
    """Return names by virDomainCheckpointListFlags: of all (or the first), or of what was made after ``start``."""
    tree = tree_of(domain)
    names = tree.names(start, roots=bool(flags & _ROOTS), topological=bool(flags & _TOPOLOGICAL))
    if names is None:
        names = sorted(tree.items)
    chosen = flags & (_LEAVES | _NO_LEAVES)
    return [name for name in names if not chosen or chosen & (_NO_LEAVES if tree.children(name) else _LEAVES)]


# -- documents --------------------------------------------------------------------------------------------------------


def _attributes(node: Node) -> dict[str, str]:
    return dict(node.attributes)


def parse_checkpoint(domain: ManagedDomain, text: str, *, redefine: bool = False) -> Checkpoint:
    """Read a client's document, and find out what it means for the domain's disks. Raises LibvirtError. Blocks."""
    root = parse_root(text, "domaincheckpoint", "domain_checkpoint")
    validate_document(text, "domaincheckpoint.rng")
    held = {child.name: child for child in root.children}
    now = int(time.time())
    name = held["name"].text.strip() if "name" in held else str(now)
    if "/" in name or name.startswith("."):
        raise unsupported(f"invalid checkpoint name '{name}'")
    wanted: dict[str, dict[str, str]] = {}
    for child in held["disks"].children if "disks" in held else ():
        attributes = _attributes(child)
        target = _target(domain, attributes.get("name", ""))
        if target is None:
            raise unsupported(f"no disk named '{attributes.get('name')}'")
        if target in wanted:
            raise unsupported(f"disk '{target}' specified twice")
        wanted[target] = attributes
    disks = []
    for disk in domain.devices.disk:
        asked = wanted.get(disk.target.dev, {})
        otherwise = "no" if wanted or not _takes_bitmap(disk) else "bitmap"
        kind = asked.get("checkpoint", "bitmap" if asked else otherwise)
        if kind == "bitmap" and not _takes_bitmap(disk):
            form = disk.driver.type if disk.driver is not None else None
            detail = f"checkpoint for disk {disk.target.dev} unsupported for storage type {form or 'raw'}"
            raise unsupported(detail)
        disks.append((disk.target.dev, (asked.get("bitmap") or name) if kind == "bitmap" else None))
    parent = None
    created = now
    if redefine:
        created = int(held["creationTime"].text) if "creationTime" in held else now
        above = next(iter(held["parent"].children), None) if "parent" in held else None
        parent = above.text.strip() if above is not None else None
    description = held["description"].text if "description" in held else None
    return Checkpoint(name, created, tuple(disks), description, parent)


def _target(domain: ManagedDomain, name: str) -> str | None:
    for disk in domain.devices.disk:
        source = disk.source
        if name == disk.target.dev or (source is not None and name and name in {source.file, source.dev}):
            return disk.target.dev
    return None


def _takes_bitmap(disk: Disk) -> bool:
    form = disk.driver.type if disk.driver is not None else None
    return disk.source is not None and not disk.readonly and form == _GRANULARITY_KIND


def document(item: Checkpoint, flags: int, sizes: dict[str, int] | None = None) -> str:
    """Return a checkpoint's document, by virDomainCheckpointXMLFlags."""
    children = [Node("name", text=item.name)]
    if item.description:
        children.append(Node("description", text=item.description))
    if item.parent is not None:
        children.append(Node("parent", children=(Node("name", text=item.parent),)))
    children.append(Node("creationTime", text=str(item.created)))
    disks = []
    for target, bitmap in item.disks:
        attributes = [("name", target), ("checkpoint", "no" if bitmap is None else "bitmap")]
        if bitmap is not None:
            attributes.append(("bitmap", bitmap))
            if sizes is not None and target in sizes:
                attributes.append(("size", str(sizes[target])))
        disks.append(Node("disk", tuple(attributes)))
    if disks:
        children.append(Node("disks", children=tuple(disks)))
    if item.domain is not None and not flags & _NO_DOMAIN:
        text = format_domain(parse_live_domain(item.domain), secure=bool(flags & _SECURE))
        children.append(parse_document(text))
    return format_node(Node("domaincheckpoint", children=tuple(children)))


async def describe(domain: ManagedDomain, item: Checkpoint, flags: int) -> str:
    """Return a checkpoint's document, with how much changed since if asked. Raises LibvirtError."""
    if not flags & _SIZE:
        return document(item, flags)
    if not domain.active:
        raise not_supported("cannot update checkpoint size for inactive domain")
    found = {node["node-name"]: node for node in await domain.monitor("query-named-block-nodes", {"flat": True})}
    sizes: dict[str, int] = {}
    for disk in domain.devices.disk:
        bitmap = dict(item.disks).get(disk.target.dev)
        for image in chain_of(disk) if bitmap is not None else ():
            for each in found.get(image.node, {}).get("dirty-bitmaps", ()):
                if each.get("name") == bitmap:
                    sizes[disk.target.dev] = sizes.get(disk.target.dev, 0) + int(each["count"])
    return document(item, flags, sizes)


# -- making and removing ----------------------------------------------------------------------------------------------


def bitmap_actions(domain: ManagedDomain, item: Checkpoint) -> list[dict[str, Any]]:
    """Return the steps of a transaction that begin a checkpoint's bitmaps."""
    disks = {disk.target.dev: disk for disk in domain.devices.disk}
    return [
        {
            "type": "block-dirty-bitmap-add",
            "data": {"node": chain_of(disks[target])[0].node, "name": bitmap, "persistent": True, "disabled": False},
        }
        for target, bitmap in item.disks
        if bitmap is not None
    ]


async def prepare(domain: ManagedDomain, text: str) -> Checkpoint:
    """Return the checkpoint a document asks for, ready to be made. Raises LibvirtError."""
    if not domain.active:
        raise not_supported("cannot create checkpoint for inactive domain")
    if not domain.has_command("block-dirty-bitmap-add"):
        raise not_supported("qemu is missing block job support")
    item = await domain.registry.daemon.run_blocking(lambda: parse_checkpoint(domain, text))
    tree = tree_of(domain)
    if item.name in tree.items:
        raise failed(f"domain moment {item.name} already exists", ErrorDomain.DOMAIN)
    kept = format_domain(inactive_view(domain.current), secure=True)
    return replace(item, parent=tree.current, domain=kept)


async def keep(domain: ManagedDomain, item: Checkpoint) -> None:
    """Note a checkpoint that was made. Raises LibvirtError."""
    tree = tree_of(domain)
    before, current = tree.items.get(item.name), tree.current
    tree.items[item.name] = item
    tree.current = item.name
    try:
        await domain.registry.checkpoints.save(domain)
    except OSError as error:
        tree.current = current
        if before is not None:
            tree.items[item.name] = before
        else:
            del tree.items[item.name]
        raise failed(f"cannot keep checkpoint '{item.name}': {error.strerror}") from error


async def keep_made(domain: ManagedDomain, item: Checkpoint) -> None:
    """Note a checkpoint whose bitmaps were just made; where that fails they go again. Raises LibvirtError."""
    try:
        await keep(domain, item)
    except BaseException:
        with contextlib.suppress(LibvirtError):
            await asyncio.shield(_remove_bitmaps(domain, item))
        raise


async def create(domain: ManagedDomain, text: str, flags: int) -> Checkpoint:
    """Make a checkpoint, or (with the flag) only note one whose bitmaps are there. Raises LibvirtError."""
    if flags & _REDEFINE:
        item = await domain.registry.daemon.run_blocking(lambda: parse_checkpoint(domain, text, redefine=True))
        if item.parent is not None and item.parent not in tree_of(domain).items:
            raise invalid_argument(f"parent {item.parent} for moment {item.name} not found", ErrorDomain.DOMAIN)
        await keep(domain, item)
        return item
    if count(domain) == 0 and snapshots.count(domain) and not domain.active:
        raise invalid("cannot create checkpoint for inactive domain")
    item = await prepare(domain, text)
    actions = bitmap_actions(domain, item)
    if actions:
        await domain.monitor("transaction", {"actions": actions})
    await keep_made(domain, item)
    return item


async def delete(domain: ManagedDomain, item: Checkpoint, flags: int) -> None:
    """Remove a checkpoint with its bitmaps, and (by flags) what was made after it. Raises LibvirtError."""
    if not flags & _METADATA_ONLY and not domain.active:
        raise not_supported("cannot delete checkpoint for inactive domain")
    tree = tree_of(domain)
    names = list(reversed(tree.descendants(item.name))) if flags & (_CHILDREN | _CHILDREN_ONLY) else []
    if not flags & _CHILDREN_ONLY:
        names.append(item.name)
    for name in names:
        if not flags & _METADATA_ONLY:
            await _remove_bitmaps(domain, tree.items[name])
        tree.remove(name)
    await domain.registry.checkpoints.save(domain)


async def _remove_bitmaps(domain: ManagedDomain, item: Checkpoint) -> None:
    found = {node["node-name"]: node for node in await domain.monitor("query-named-block-nodes", {"flat": True})}
    actions = []
    for disk in domain.devices.disk:
        bitmap = dict(item.disks).get(disk.target.dev)
        for image in chain_of(disk) if bitmap is not None else ():
            if any(each.get("name") == bitmap for each in found.get(image.node, {}).get("dirty-bitmaps", ())):
                data = {"node": image.node, "name": bitmap}
                actions.append({"type": "block-dirty-bitmap-remove", "data": data})
    if actions:
        await domain.monitor("transaction", {"actions": actions})
