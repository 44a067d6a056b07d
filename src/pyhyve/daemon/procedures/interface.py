"""Network interfaces of the host, for looking at: changing the host's own configuration is its administrator's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.daemon.dispatch import procedure
from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.resources.interfaces import HostInterface, find_interfaces, interface_document
from pyhyve.daemon.resources.wiring import HostLook
from pyhyve.rpc.errors import ErrorCode, ErrorDomain
from pyhyve.rpc.values import Interface

if TYPE_CHECKING:
    from pyhyve.daemon.dispatch import Call

_INACTIVE, _ACTIVE = 1, 2


async def _interfaces(call: Call) -> list[HostInterface]:
    if call.driver.offers(HostLook) is None:
        raise LibvirtError.no_support(call.function, ErrorDomain.INTERFACE)
    return await call.daemon.run_blocking(lambda: list(find_interfaces()))


def _ref(interface: HostInterface) -> Interface:
    return Interface(interface.name, interface.mac)


async def _find(call: Call, name: str) -> HostInterface:
    for interface in await _interfaces(call):
        if interface.name == name:
            return interface
    detail = f"couldn't find interface named '{name}'"
    raise LibvirtError(ErrorCode.NO_INTERFACE, ErrorDomain.INTERFACE, detail)


@procedure("CONNECT_LIST_ALL_INTERFACES")
async def list_all(call: Call, args: Any) -> tuple[list[Interface], int]:
    """Interfaces that pass the filters."""
    call.check_flags(args.flags, _INACTIVE | _ACTIVE)
    wanted = args.flags or _INACTIVE | _ACTIVE
    found = [_ref(i) for i in await _interfaces(call) if wanted & (_ACTIVE if i.active else _INACTIVE)]
    return (found if args.need_results else []), len(found)


@procedure("CONNECT_LIST_INTERFACES", "CONNECT_LIST_DEFINED_INTERFACES")
async def list_names(call: Call, args: Any) -> list[str]:
    """Names of interfaces that are up, or that are not."""
    up = call.procedure.name == "CONNECT_LIST_INTERFACES"
    return [i.name for i in await _interfaces(call) if i.active is up][: max(args.maxnames, 0)]


@procedure("CONNECT_NUM_OF_INTERFACES", "CONNECT_NUM_OF_DEFINED_INTERFACES")
async def count(call: Call, args: Any) -> int:
    """How many are up, or are not."""
    up = call.procedure.name == "CONNECT_NUM_OF_INTERFACES"
    return sum(i.active is up for i in await _interfaces(call))


@procedure("INTERFACE_LOOKUP_BY_NAME")
async def look_up_name(call: Call, args: Any) -> Interface:
    """By name."""
    return _ref(await _find(call, args.name))


@procedure("INTERFACE_LOOKUP_BY_MAC_STRING")
async def look_up_mac(call: Call, args: Any) -> Interface:
    """By MAC address."""
    found = [i for i in await _interfaces(call) if i.mac.lower() == args.mac.lower()]
    if not found:
        detail = f"couldn't find interface with MAC address '{args.mac}'"
        raise LibvirtError(ErrorCode.NO_INTERFACE, ErrorDomain.INTERFACE, detail)
    if len(found) > 1:
        detail = f"the MAC address '{args.mac}' matches multiple interfaces"
        raise LibvirtError(ErrorCode.MULTIPLE_INTERFACES, ErrorDomain.INTERFACE, detail)
    return _ref(found[0])


@procedure("INTERFACE_GET_XML_DESC")
async def get_xml(call: Call, args: Any) -> str:
    """The document."""
    call.check_flags(args.flags, 1)
    return interface_document(await _find(call, args.iface.name))


@procedure("INTERFACE_IS_ACTIVE")
async def is_active(call: Call, args: Any) -> int:
    """Whether it is up."""
    return int((await _find(call, args.iface.name)).active)
