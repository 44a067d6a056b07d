"""Defining domains, and what their documents say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.dispatch import procedure
from pyhyve.daemon.domains import definitions
from pyhyve.daemon.domains.definition.view import XmlFlags
from pyhyve.daemon.procedures.domain_access import domain_of, registry_of

if TYPE_CHECKING:
    from pyhyve.daemon.dispatch import Call
    from pyhyve.rpc.values import Domain

_DEFINE_VALIDATE: Final = 1
_UNDEFINE_FLAGS: Final = 0x7F
_XML_FLAGS: Final = int(XmlFlags.SECURE | XmlFlags.INACTIVE | XmlFlags.UPDATE_CPU | XmlFlags.MIGRATABLE)


@procedure("DOMAIN_DEFINE_XML", "DOMAIN_DEFINE_XML_FLAGS")
async def define_xml(call: Call, args: Any) -> Domain:
    """Define a domain."""
    flags = getattr(args, "flags", 0)
    call.check_flags(flags, _DEFINE_VALIDATE)
    registry = registry_of(call)
    definition = await registry.complete(args.xml, validate=bool(flags & _DEFINE_VALIDATE))
    for permission in call.procedure.permissions:
        call.require(permission, definition.name, b"")
    return (await registry.define(definition)).ref


@procedure("DOMAIN_UNDEFINE", "DOMAIN_UNDEFINE_FLAGS")
async def undefine(call: Call, args: Any) -> None:
    """Undefine a domain."""
    flags = getattr(args, "flags", 0)
    call.check_flags(flags, _UNDEFINE_FLAGS)
    domain = domain_of(call, args.dom)
    async with domain.job("undefine"):
        await definitions.undefine(domain, flags)


@procedure("DOMAIN_RENAME")
async def rename(call: Call, args: Any) -> int:
    """Give a domain another name."""
    call.check_flags(args.flags, 0)
    domain = domain_of(call, args.dom)
    async with domain.job("rename"):
        await definitions.rename(domain, args.new_name or "")
    return 0


@procedure("DOMAIN_GET_XML_DESC")
def get_xml_desc(call: Call, args: Any) -> str:
    """Return a domain's document."""
    call.check_flags(args.flags, _XML_FLAGS)
    domain = domain_of(call, args.dom)
    if args.flags & XmlFlags.SECURE:
        call.require("domain:read_secure", domain.name, domain.uuid)
    return definitions.document(domain, args.flags)


@procedure("DOMAIN_GET_AUTOSTART")
def get_autostart(call: Call, args: Any) -> int:
    """Say whether a domain starts by itself."""
    return int(domain_of(call, args.dom).autostart)


@procedure("DOMAIN_SET_AUTOSTART")
async def set_autostart(call: Call, args: Any) -> None:
    """Have a domain start by itself, or not."""
    domain = domain_of(call, args.dom)
    async with domain.job("autostart"):
        await definitions.set_autostart(domain, enabled=bool(args.autostart))


@procedure("DOMAIN_GET_METADATA")
def get_metadata(call: Call, args: Any) -> str:
    """Return a title, a description, or somebody's own XML."""
    call.check_flags(args.flags, 3)
    domain = domain_of(call, args.dom)
    return definitions.get_metadata(domain, args.type, args.uri, args.flags)


@procedure("DOMAIN_SET_METADATA")
async def set_metadata(call: Call, args: Any) -> None:
    """Set a title, a description, or somebody's own XML."""
    call.check_flags(args.flags, 3)
    domain = domain_of(call, args.dom)
    async with domain.job("metadata"):
        await definitions.set_metadata(domain, args.type, args.metadata, args.key, args.uri, args.flags)


@procedure("DOMAIN_SET_LIFECYCLE_ACTION")
async def set_lifecycle_action(call: Call, args: Any) -> None:
    """Say what happens when a guest powers off, reboots or crashes."""
    call.check_flags(args.flags, 3)
    domain = domain_of(call, args.dom)
    async with domain.job("lifecycle action"):
        await definitions.set_lifecycle_action(domain, args.type, args.action, args.flags)


@procedure("CONNECT_DOMAIN_XML_TO_NATIVE")
async def domain_xml_to_native(call: Call, args: Any) -> str:
    """Return the command line a domain would run."""
    call.check_flags(args.flags, 0)
    return await definitions.native_command(registry_of(call), args.native_format, args.domain_xml)
