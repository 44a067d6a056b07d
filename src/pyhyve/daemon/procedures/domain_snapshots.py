"""Snapshots of domains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.dispatch import procedure
from pyhyve.daemon.domains import snapshot_create, snapshot_revert, snapshots
from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.procedures.domain_access import domain_of
from pyhyve.rpc.errors import ErrorCode, ErrorDomain
from pyhyve.rpc.values import DomainSnapshot

if TYPE_CHECKING:
    from pyhyve.daemon.dispatch import Call
    from pyhyve.daemon.domains.domain import ManagedDomain

_CREATE_FLAGS: Final = 0x3FF


def _named(domain: ManagedDomain, name: str) -> DomainSnapshot:
    return DomainSnapshot(name, domain.ref)


def _owner(call: Call, args: Any) -> ManagedDomain:
    return domain_of(call, args.snap.dom)


@procedure("DOMAIN_SNAPSHOT_CREATE_XML")
async def create_xml(call: Call, args: Any) -> DomainSnapshot:
    """Make a snapshot."""
    call.check_flags(args.flags, _CREATE_FLAGS)
    domain = domain_of(call, args.dom)
    made = await snapshot_create.create(domain, args.xml_desc, args.flags)
    return _named(domain, made.name or "")


@procedure("DOMAIN_SNAPSHOT_GET_XML_DESC")
def get_xml_desc(call: Call, args: Any) -> str:
    """Return a snapshot's document."""
    call.check_flags(args.flags, 1)
    item = snapshots.find(_owner(call, args), args.snap.name)
    return snapshots.format_snapshot(item, secure=bool(args.flags & 1))


@procedure("DOMAIN_SNAPSHOT_NUM")
def num(call: Call, args: Any) -> int:
    """Count snapshots."""
    call.check_flags(args.flags, snapshots.LIST_FLAGS)
    return len(snapshots.listed(domain_of(call, args.dom), args.flags))


@procedure("DOMAIN_SNAPSHOT_LIST_NAMES")
def list_names(call: Call, args: Any) -> list[str]:
    """List snapshots by name."""
    call.check_flags(args.flags, snapshots.LIST_FLAGS)
    return snapshots.listed(domain_of(call, args.dom), args.flags)[: max(args.maxnames, 0)]


@procedure("DOMAIN_LIST_ALL_SNAPSHOTS")
def list_all(call: Call, args: Any) -> tuple[list[DomainSnapshot], int]:
    """List snapshots."""
    call.check_flags(args.flags, snapshots.LIST_FLAGS)
    domain = domain_of(call, args.dom)
    found = [_named(domain, name) for name in snapshots.listed(domain, args.flags)]
    return found if args.need_results else [], len(found)


@procedure("DOMAIN_SNAPSHOT_NUM_CHILDREN")
def num_children(call: Call, args: Any) -> int:
    """Count what grew from a snapshot."""
    call.check_flags(args.flags, snapshots.LIST_FLAGS)
    domain = _owner(call, args)
    snapshots.find(domain, args.snap.name)
    return len(snapshots.listed(domain, args.flags, args.snap.name))


@procedure("DOMAIN_SNAPSHOT_LIST_CHILDREN_NAMES")
def list_children_names(call: Call, args: Any) -> list[str]:
    """List by name what grew from a snapshot."""
    call.check_flags(args.flags, snapshots.LIST_FLAGS)
    domain = _owner(call, args)
    snapshots.find(domain, args.snap.name)
    return snapshots.listed(domain, args.flags, args.snap.name)[: max(args.maxnames, 0)]


@procedure("DOMAIN_SNAPSHOT_LIST_ALL_CHILDREN")
def list_all_children(call: Call, args: Any) -> tuple[list[DomainSnapshot], int]:
    """List what grew from a snapshot."""
    call.check_flags(args.flags, snapshots.LIST_FLAGS)
    domain = domain_of(call, args.snapshot.dom)
    snapshots.find(domain, args.snapshot.name)
    found = [_named(domain, name) for name in snapshots.listed(domain, args.flags, args.snapshot.name)]
    return found if args.need_results else [], len(found)


@procedure("DOMAIN_SNAPSHOT_LOOKUP_BY_NAME")
def lookup_by_name(call: Call, args: Any) -> DomainSnapshot:
    """Find a snapshot."""
    call.check_flags(args.flags, 0)
    domain = domain_of(call, args.dom)
    return _named(domain, snapshots.find(domain, args.name).name or "")


@procedure("DOMAIN_HAS_CURRENT_SNAPSHOT")
def has_current(call: Call, args: Any) -> int:
    """Say whether a domain is at a snapshot."""
    call.check_flags(args.flags, 0)
    return int(snapshots.tree_of(domain_of(call, args.dom)).current is not None)


@procedure("DOMAIN_SNAPSHOT_CURRENT")
def current(call: Call, args: Any) -> DomainSnapshot:
    """Return the snapshot a domain is at."""
    call.check_flags(args.flags, 0)
    domain = domain_of(call, args.dom)
    name = snapshots.tree_of(domain).current
    if name is None:
        detail = "the domain does not have a current snapshot"
        raise LibvirtError(ErrorCode.NO_DOMAIN_SNAPSHOT, ErrorDomain.QEMU, detail)
    return _named(domain, name)


@procedure("DOMAIN_SNAPSHOT_GET_PARENT")
def get_parent(call: Call, args: Any) -> DomainSnapshot:
    """Return what a snapshot grew from."""
    call.check_flags(args.flags, 0)
    domain = _owner(call, args)
    item = snapshots.find(domain, args.snap.name)
    if item.parent is None:
        detail = f"snapshot '{item.name}' does not have a parent"
        raise LibvirtError(ErrorCode.NO_DOMAIN_SNAPSHOT, ErrorDomain.QEMU, detail)
    return _named(domain, item.parent.name)


@procedure("DOMAIN_SNAPSHOT_IS_CURRENT")
def is_current(call: Call, args: Any) -> int:
    """Say whether a domain is at this snapshot."""
    call.check_flags(args.flags, 0)
    domain = _owner(call, args)
    snapshots.find(domain, args.snap.name)
    return int(snapshots.tree_of(domain).current == args.snap.name)


@procedure("DOMAIN_SNAPSHOT_HAS_METADATA")
def has_metadata(call: Call, args: Any) -> int:
    """Say whether the daemon knows a snapshot: it knows all it names."""
    call.check_flags(args.flags, 0)
    snapshots.find(_owner(call, args), args.snap.name)
    return 1


@procedure("DOMAIN_REVERT_TO_SNAPSHOT")
async def revert(call: Call, args: Any) -> None:
    """Go back to a snapshot."""
    call.check_flags(args.flags, 0xF)
    await snapshot_revert.revert(_owner(call, args), args.snap.name, args.flags)


@procedure("DOMAIN_SNAPSHOT_DELETE")
async def delete(call: Call, args: Any) -> None:
    """Delete a snapshot."""
    call.check_flags(args.flags, 7)
    await snapshot_revert.delete(_owner(call, args), args.snap.name, args.flags)
