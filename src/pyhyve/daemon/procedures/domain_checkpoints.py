"""Checkpoints of domains, and backups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.daemon.dispatch import procedure
from pyhyve.daemon.domains import backups, checkpoints, guest
from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.procedures.domain_access import domain_of
from pyhyve.rpc.errors import ErrorCode, ErrorDomain
from pyhyve.rpc.values import DomainCheckpoint

if TYPE_CHECKING:
    from pyhyve.daemon.dispatch import Call

_REDEFINE, _QUIESCE, _REDEFINE_VALIDATE = 1, 2, 4


@procedure("DOMAIN_CHECKPOINT_CREATE_XML")
async def create(call: Call, args: Any) -> DomainCheckpoint:
    """Make a checkpoint."""
    call.check_flags(args.flags, _REDEFINE | _QUIESCE | _REDEFINE_VALIDATE)
    domain = domain_of(call, args.dom)
    async with domain.job("checkpoint"):
        quiet = bool(args.flags & _QUIESCE)
        if quiet:
            await guest.freeze(domain, ())
        try:
            item = await checkpoints.create(domain, args.xml_desc, args.flags)
        finally:
            if quiet:
                await guest.thaw(domain)
    return DomainCheckpoint(item.name, domain.ref)


@procedure("DOMAIN_LIST_ALL_CHECKPOINTS")
def list_all(call: Call, args: Any) -> tuple[list[DomainCheckpoint], int]:
    """Checkpoints that pass the filters."""
    call.check_flags(args.flags, checkpoints.LIST_FLAGS)
    domain = domain_of(call, args.dom)
    found = [DomainCheckpoint(name, domain.ref) for name in checkpoints.listed(domain, args.flags)]
    return (found if args.need_results else []), len(found)


@procedure("DOMAIN_CHECKPOINT_LIST_ALL_CHILDREN")
def list_children(call: Call, args: Any) -> tuple[list[DomainCheckpoint], int]:
    """What was made after one."""
    call.check_flags(args.flags, checkpoints.LIST_FLAGS)
    domain = domain_of(call, args.checkpoint.dom)
    start = checkpoints.find(domain, args.checkpoint.name).name
    found = [DomainCheckpoint(name, domain.ref) for name in checkpoints.listed(domain, args.flags, start)]
    return (found if args.need_results else []), len(found)


@procedure("DOMAIN_CHECKPOINT_LOOKUP_BY_NAME")
def look_up(call: Call, args: Any) -> DomainCheckpoint:
    """By name."""
    call.check_flags(args.flags, 0)
    domain = domain_of(call, args.dom)
    return DomainCheckpoint(checkpoints.find(domain, args.name).name, domain.ref)


@procedure("DOMAIN_CHECKPOINT_GET_XML_DESC")
async def get_xml_desc(call: Call, args: Any) -> str:
    """The document."""
    call.check_flags(args.flags, 7)
    if args.flags & 1:
        call.require("domain:read_secure", args.checkpoint.dom.name, args.checkpoint.dom.uuid)
    domain = domain_of(call, args.checkpoint.dom)
    return await checkpoints.describe(domain, checkpoints.find(domain, args.checkpoint.name), args.flags)


@procedure("DOMAIN_CHECKPOINT_GET_PARENT")
def get_parent(call: Call, args: Any) -> DomainCheckpoint:
    """What one was made after."""
    call.check_flags(args.flags, 0)
    domain = domain_of(call, args.checkpoint.dom)
    item = checkpoints.find(domain, args.checkpoint.name)
    if item.parent is None:
        detail = f"checkpoint '{item.name}' does not have a parent"
        raise LibvirtError(ErrorCode.NO_DOMAIN_CHECKPOINT, ErrorDomain.QEMU, detail)
    return DomainCheckpoint(item.parent, domain.ref)


@procedure("DOMAIN_CHECKPOINT_DELETE")
async def delete(call: Call, args: Any) -> None:
    """Remove one."""
    call.check_flags(args.flags, 7)
    domain = domain_of(call, args.checkpoint.dom)
    async with domain.job("checkpoint"):
        await checkpoints.delete(domain, checkpoints.find(domain, args.checkpoint.name), args.flags)


@procedure("DOMAIN_BACKUP_BEGIN")
async def backup_begin(call: Call, args: Any) -> None:
    """Begin a backup; it goes on by itself."""
    call.check_flags(args.flags, 1)
    await backups.begin(domain_of(call, args.dom), args.backup_xml, args.checkpoint_xml, args.flags)


@procedure("DOMAIN_BACKUP_GET_XML_DESC")
def backup_get_xml_desc(call: Call, args: Any) -> str:
    """The backup under way."""
    call.check_flags(args.flags, 0)
    return backups.document(domain_of(call, args.dom))
