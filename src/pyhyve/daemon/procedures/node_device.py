"""Devices of the host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.dispatch import procedure
from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.resources.node_devices import CAPABILITIES, HostDevice, device_document, find_devices
from pyhyve.daemon.resources.wiring import HostLook
from pyhyve.rpc.errors import ErrorCode, ErrorDomain
from pyhyve.rpc.values import NodeDevice

if TYPE_CHECKING:
    from pyhyve.daemon.dispatch import Call

_PERSISTENT_FLAGS: Final = 3 << 28
_INACTIVE, _ACTIVE = 1 << 30, 1 << 31
_LIST_FLAGS: Final = (1 << 22) - 1 | _INACTIVE | _ACTIVE | _PERSISTENT_FLAGS


async def _devices(call: Call) -> dict[str, HostDevice]:
    if call.driver.offers(HostLook) is None:
        raise LibvirtError.no_support(call.function, ErrorDomain.NODEDEV)
    return await call.daemon.run_blocking(find_devices)


async def _find(call: Call, name: str) -> HostDevice:
    found = (await _devices(call)).get(name)
    if found is None:
        detail = f"no node device with matching name '{name}'"
        raise LibvirtError(ErrorCode.NO_NODE_DEVICE, ErrorDomain.NODEDEV, detail)
    return found


@procedure("CONNECT_LIST_ALL_NODE_DEVICES")
async def list_all(call: Call, args: Any) -> tuple[list[NodeDevice], int]:
    """Devices that pass the filters; all there are are active."""
    call.check_flags(args.flags, _LIST_FLAGS)
    kinds = {name for bit, name in enumerate(CAPABILITIES) if args.flags >> bit & 1}
    only_inactive = args.flags & _INACTIVE and not args.flags & _ACTIVE
    of_kind = bool(args.flags & ((1 << 22) - 1))
    found = [
        NodeDevice(device.name)
        for device in (await _devices(call)).values()
        if not only_inactive and (not of_kind or device.capability in kinds)
    ]
    return (found if args.need_results else []), len(found)


@procedure("NODE_LIST_DEVICES")
async def list_names(call: Call, args: Any) -> list[str]:
    """Names, of one kind if asked."""
    call.check_flags(args.flags, 0)
    found = [d.name for d in (await _devices(call)).values() if args.cap in {None, d.capability}]
    return found[: max(args.maxnames, 0)]


@procedure("NODE_NUM_OF_DEVICES")
async def count(call: Call, args: Any) -> int:
    """How many, of one kind if asked."""
    call.check_flags(args.flags, 0)
    return sum(args.cap in {None, d.capability} for d in (await _devices(call)).values())


@procedure("NODE_DEVICE_LOOKUP_BY_NAME")
async def look_up(call: Call, args: Any) -> NodeDevice:
    """By name."""
    return NodeDevice((await _find(call, args.name)).name)


@procedure("NODE_DEVICE_GET_XML_DESC")
async def get_xml(call: Call, args: Any) -> str:
    """The document."""
    call.check_flags(args.flags, 0)
    return device_document(await _find(call, args.name))


@procedure("NODE_DEVICE_GET_PARENT")
async def get_parent(call: Call, args: Any) -> str | None:
    """What it is plugged into."""
    return (await _find(call, args.name)).parent


@procedure("NODE_DEVICE_NUM_OF_CAPS")
async def count_capabilities(call: Call, args: Any) -> int:
    """How many kinds of device it is."""
    await _find(call, args.name)
    return 1


@procedure("NODE_DEVICE_LIST_CAPS")
async def list_capabilities(call: Call, args: Any) -> list[str]:
    """What kinds of device it is."""
    return [(await _find(call, args.name)).capability][: max(args.maxnames, 0)]


@procedure("NODE_DEVICE_IS_ACTIVE")
async def is_active(call: Call, args: Any) -> int:
    """It is there, so it is."""
    await _find(call, args.name)
    return 1


@procedure("NODE_DEVICE_IS_PERSISTENT")
async def is_persistent(call: Call, args: Any) -> int:
    """Hardware is not defined by anybody."""
    await _find(call, args.name)
    return 0
