"""Network filters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.daemon.dispatch import procedure
from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.resources.filter_bindings import FilterBindings
from pyhyve.daemon.resources.filters import FilterRegistry, parse_filter
from pyhyve.rpc.errors import ErrorDomain

if TYPE_CHECKING:
    from pyhyve.daemon.dispatch import Call
    from pyhyve.daemon.resources.filters import Filter
    from pyhyve.rpc.values import NwFilter, NwFilterBinding


def _filters(call: Call) -> FilterRegistry:
    found = call.driver.offers(FilterRegistry)
    if found is None:
        raise LibvirtError.no_support(call.function, ErrorDomain.NWFILTER)
    return found


def _visible(call: Call) -> list[Filter]:
    return [kept for kept in _filters(call) if call.connection.allows("nwfilter:getattr", kept.name, kept.uuid)]


@procedure("CONNECT_LIST_ALL_NWFILTERS")
def list_all(call: Call, args: Any) -> tuple[list[NwFilter], int]:
    """All filters."""
    call.check_flags(args.flags, 0)
    found = [kept.ref for kept in _visible(call)]
    return (found if args.need_results else []), len(found)


@procedure("CONNECT_LIST_NWFILTERS")
def list_names(call: Call, args: Any) -> list[str]:
    """Names of filters."""
    return [kept.name for kept in _visible(call)][: max(args.maxnames, 0)]


@procedure("CONNECT_NUM_OF_NWFILTERS")
def count(call: Call, args: Any) -> int:
    """How many there are."""
    return len(_visible(call))


def _bindings(call: Call) -> FilterBindings:
    found = call.driver.offers(FilterBindings)
    if found is None:
        raise LibvirtError.no_support(call.function, ErrorDomain.NWFILTER)
    return found


@procedure("CONNECT_LIST_ALL_NWFILTER_BINDINGS")
def list_bindings(call: Call, args: Any) -> tuple[list[NwFilterBinding], int]:
    """Interfaces that filters are in force for."""
    call.check_flags(args.flags, 0)
    found = [held.ref for held in _bindings(call)]
    return (found if args.need_results else []), len(found)


@procedure("NWFILTER_BINDING_LOOKUP_BY_PORT_DEV")
def look_up_binding(call: Call, args: Any) -> NwFilterBinding:
    """By the interface."""
    return _bindings(call).named(args.name).ref


@procedure("NWFILTER_BINDING_GET_XML_DESC")
def get_binding_xml(call: Call, args: Any) -> str:
    """The document."""
    call.check_flags(args.flags, 0)
    return _bindings(call).named(args.nwfilter.portdev).text


@procedure("NWFILTER_LOOKUP_BY_NAME")
def look_up_name(call: Call, args: Any) -> NwFilter:
    """By name."""
    return _filters(call).named(args.name).ref


@procedure("NWFILTER_LOOKUP_BY_UUID")
def look_up_uuid(call: Call, args: Any) -> NwFilter:
    """By UUID."""
    return _filters(call).with_uuid(args.uuid).ref


@procedure("NWFILTER_GET_XML_DESC")
def get_xml(call: Call, args: Any) -> str:
    """The document."""
    call.check_flags(args.flags, 0)
    return _filters(call).with_uuid(args.nwfilter.uuid).text


@procedure("NWFILTER_DEFINE_XML")
async def define(call: Call, args: Any) -> NwFilter:
    """Add or change a filter."""
    return (await _filters(call).define(parse_filter(args.xml))).ref


@procedure("NWFILTER_DEFINE_XML_FLAGS")
async def define_flags(call: Call, args: Any) -> NwFilter:
    """The same, checked."""
    call.check_flags(args.flags, 1)
    return (await _filters(call).define(parse_filter(args.xml))).ref


@procedure("NWFILTER_UNDEFINE")
async def undefine(call: Call, args: Any) -> None:
    """Remove a filter."""
    registry = _filters(call)
    await registry.undefine(registry.with_uuid(args.nwfilter.uuid))
