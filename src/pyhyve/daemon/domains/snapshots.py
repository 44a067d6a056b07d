"""Snapshots of a domain: the tree of them, kept with the domain, and questions about it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.domains.definition.parse import parse_root
from pyhyve.daemon.domains.faults import xml_error
from pyhyve.daemon.domains.trees import Tree
from pyhyve.daemon.errors import LibvirtError
from pyhyve.rpc.errors import ErrorCode, ErrorDomain
from pyhyve.xml.document import XmlError
from pyhyve.xml.element import format_element, from_node, parse_element, replace
from pyhyve.xml.snapshot import DomainSnapshot, SnapshotParent

if TYPE_CHECKING:
    from pyhyve.daemon.domains.domain import ManagedDomain

__all__ = [
    "SnapshotTree",
    "count",
    "drop_metadata",
    "find",
    "format_snapshot",
    "has_snapshots",
    "listed",
    "parse_snapshot",
    "save_tree",
    "tree_of",
]

_ROOTS, _METADATA, _LEAVES, _NO_LEAVES, _NO_METADATA = 1, 2, 4, 8, 16
_INACTIVE, _ACTIVE, _DISK_ONLY, _INTERNAL, _EXTERNAL, _TOPOLOGICAL = 32, 64, 128, 256, 512, 1024
LIST_FLAGS: Final = 0x7FF


class SnapshotTree(Tree[DomainSnapshot]):
    """A domain's snapshots."""

    @staticmethod
    def parent_of(item: DomainSnapshot) -> str | None:
        """Name of what a snapshot grew from."""
        return item.parent.name if item.parent is not None else None

    @staticmethod
    def adopted(item: DomainSnapshot, parent: DomainSnapshot) -> DomainSnapshot:
        """A snapshot that grows from what ``parent`` grew from."""
        return replace(item, parent=parent.parent)

    def add(self, item: DomainSnapshot, *, current: bool) -> None:
        """Put one in, grown from the current one unless it says otherwise."""
        name = item.name or ""
        if item.parent is None and self.current is not None and self.current != name:
            item = replace(item, parent=SnapshotParent(name=self.current))
        self.items[name] = item
        if current:
            self.current = name


parent_name = SnapshotTree.parent_of


def tree_of(domain: ManagedDomain) -> SnapshotTree:
    """Return a domain's snapshots."""
    return domain.registry.snapshots.of(domain)


def has_snapshots(domain: ManagedDomain) -> bool:
    """Whether a domain has any."""
    return count(domain) > 0


def count(domain: ManagedDomain) -> int:
    """How many it has."""
    return domain.registry.snapshots.count(domain)


async def save_tree(domain: ManagedDomain) -> None:
    """Write a domain's snapshots."""
    await domain.registry.snapshots.save(domain)


async def drop_metadata(domain: ManagedDomain) -> None:
    """Forget a domain's snapshots; what is in its images stays."""
    await domain.registry.snapshots.forget(domain)


def parse_tree(data: bytes) -> SnapshotTree:
    """Read what :func:`form_tree` wrote. Raises ValueError."""
    held: dict[str, Any] = json.loads(data)
    items = {name: parse_element(DomainSnapshot, text) for name, text in held["snapshots"].items()}
    return SnapshotTree(items, held["current"])


def form_tree(tree: SnapshotTree) -> bytes:
    """Write a tree for the store."""
    held = {name: format_element(item) for name, item in tree.items.items()}
    return json.dumps({"current": tree.current, "snapshots": held}).encode()


def parse_snapshot(text: str) -> DomainSnapshot:
    """Read a client's document. Raises LibvirtError."""
    root = parse_root(text, "domainsnapshot", "domain_snapshot")
    try:
        return from_node(DomainSnapshot, root, keep_unknown=False)
    except XmlError as error:
        raise xml_error(str(error), ErrorDomain.DOMAIN_SNAPSHOT) from error


def find(domain: ManagedDomain, name: str) -> DomainSnapshot:
    """Return a snapshot. Raises LibvirtError where there is none."""
    found = tree_of(domain).items.get(name)
    if found is None:
        detail = f"no domain snapshot with matching name '{name}'"
        raise LibvirtError(ErrorCode.NO_DOMAIN_SNAPSHOT, ErrorDomain.QEMU, detail)
    return found


def format_snapshot(item: DomainSnapshot, *, secure: bool) -> str:
    """Return a snapshot's document; passwords only if ``secure``."""
    domain = item.domain
    if domain is not None and domain.devices is not None and not secure:
        graphics = tuple(replace(screen, passwd=None) for screen in domain.devices.graphics)
        item = replace(item, domain=replace(domain, devices=replace(domain.devices, graphics=graphics)))
    return format_element(item)


def is_external(item: DomainSnapshot) -> bool:
    """Whether a part of it is outside the images."""
    if item.memory is not None and item.memory.snapshot == "external":
        return True
    return any(disk.snapshot == "external" for disk in (item.disks.disk if item.disks is not None else ()))


def _matches(tree: SnapshotTree, item: DomainSnapshot, flags: int) -> bool:
    name = item.name or ""
    leaf = not tree.children(name)
    if flags & (_LEAVES | _NO_LEAVES) and not flags & (_LEAVES if leaf else _NO_LEAVES):
        return False
    kinds = flags & (_INACTIVE | _ACTIVE | _DISK_ONLY)
    if kinds:
        kind = _INACTIVE if item.state == "shutoff" else _DISK_ONLY if item.state == "disk-snapshot" else _ACTIVE
        if not kinds & kind:
            return False
    places = flags & (_INTERNAL | _EXTERNAL)
    if places and not places & (_EXTERNAL if is_external(item) else _INTERNAL):
        return False
    return not (flags & _NO_METADATA and not flags & _METADATA)


def listed(domain: ManagedDomain, flags: int, start: str | None = None) -> list[str]:
    """Return names by virDomainSnapshotListFlags: of all (or roots), or of what grew from ``start``."""
    tree = tree_of(domain)
    names = tree.names(start, roots=bool(flags & _ROOTS), topological=bool(flags & _TOPOLOGICAL))
    if names is None:
        names = list(tree.items)
    return [name for name in names if _matches(tree, tree.items[name], flags)]
