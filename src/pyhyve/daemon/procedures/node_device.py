"""Devices of the host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.dispatch import procedure
from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.resources.host_devices import HostDevices
from pyhyve.daemon.resources.node_device_documents import CAPABILITIES, parse_wish
from pyhyve.daemon.resources.node_devices import HostDevice, device_document
from pyhyve.rpc.errors import ErrorDomain
from pyhyve.rpc.values import NodeDevice

if TYPE_CHECKING:
    from pyhyve.daemon.dispatch import Call
    from pyhyve.daemon.resources.node_device_documents import Wish

_KINDS: Final = (1 << len(CAPABILITIES)) - 1
_PERSISTENT, _TRANSIENT, _INACTIVE, _ACTIVE = 1 << 28, 1 << 29, 1 << 30, 1 << 31
_LIST_FLAGS: Final = _KINDS | _PERSISTENT | _TRANSIENT | _INACTIVE | _ACTIVE
_VALIDATE: Final = 1


def _host(call: Call) -> HostDevices:
    found = call.driver.offers(HostDevices)
    if found is None:
        raise LibvirtError.no_support(call.function, ErrorDomain.NODEDEV)
    return found


async def _devices(call: Call) -> dict[str, HostDevice]:
    return await _host(call).look()


async def _find(call: Call, name: str) -> HostDevice:
    return await _host(call).find(name)


async def _wished(call: Call, args: Any) -> tuple[HostDevices, Wish]:
    """Who makes devices, and the document of one that is asked for."""
    call.check_flags(args.flags, _VALIDATE)
    host = _host(call)
    return host, await call.daemon.run_blocking(
        lambda: parse_wish(args.xml_desc, validate=bool(args.flags & _VALIDATE))
    )


def _listed(host: HostDevices, device: HostDevice, flags: int) -> bool:
    """Whether a device passes the filters of a list: each group of bits that has one set is one."""
    if flags & _KINDS:
        kinds = {name for bit, name in enumerate(CAPABILITIES) if flags >> bit & 1}
        if not kinds & {device.capability, *device.capabilities}:
            return False
    if flags & (_PERSISTENT | _TRANSIENT) and not flags & (_PERSISTENT if host.persistent(device) else _TRANSIENT):
        return False
    return not flags & (_INACTIVE | _ACTIVE) or bool(flags & (_ACTIVE if device.active else _INACTIVE))


@procedure("CONNECT_LIST_ALL_NODE_DEVICES")
async def list_all(call: Call, args: Any) -> tuple[list[NodeDevice], int]:
    """Devices that pass the filters."""
    call.check_flags(args.flags, _LIST_FLAGS)
    host = _host(call)
    found = [NodeDevice(device.name) for device in (await host.look()).values() if _listed(host, device, args.flags)]
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
    return 1 + len((await _find(call, args.name)).capabilities)


@procedure("NODE_DEVICE_LIST_CAPS")
async def list_capabilities(call: Call, args: Any) -> list[str]:
    """What kinds of device it is."""
    device = await _find(call, args.name)
    return [device.capability, *device.capabilities][: max(args.maxnames, 0)]


@procedure("NODE_DEVICE_LOOKUP_SCSI_HOST_BY_WWN")
async def look_up_by_wwn(call: Call, args: Any) -> NodeDevice:
    """A fibre channel host, by the names of its node and port."""
    call.check_flags(args.flags, 0)
    host = _host(call)
    found = await host.by_wwn(args.wwnn, args.wwpn)
    return NodeDevice(found.name)


@procedure("NODE_DEVICE_IS_ACTIVE")
async def is_active(call: Call, args: Any) -> int:
    """Whether it is there, or only defined."""
    return int((await _find(call, args.name)).active)


@procedure("NODE_DEVICE_IS_PERSISTENT")
async def is_persistent(call: Call, args: Any) -> int:
    """Whether it is defined."""
    return int(_host(call).persistent(await _find(call, args.name)))


@procedure("NODE_DEVICE_GET_AUTOSTART")
async def get_autostart(call: Call, args: Any) -> int:
    """Whether it comes by itself."""
    return int(_host(call).autostarts(await _find(call, args.name)))


@procedure("NODE_DEVICE_SET_AUTOSTART")
async def set_autostart(call: Call, args: Any) -> None:
    """Have it come by itself, or not."""
    await _host(call).set_autostart(await _find(call, args.name), wanted=bool(args.autostart))


@procedure("NODE_DEVICE_CREATE_XML")
async def create_xml(call: Call, args: Any) -> NodeDevice:
    """Make a mediated device or a virtual port."""
    host, wish = await _wished(call, args)
    return NodeDevice((await host.create(wish)).name)


@procedure("NODE_DEVICE_DESTROY")
async def destroy(call: Call, args: Any) -> None:
    """Remove one that was made."""
    await _host(call).destroy(await _find(call, args.name))


@procedure("NODE_DEVICE_DEFINE_XML")
async def define_xml(call: Call, args: Any) -> NodeDevice:
    """Keep a mediated device for good."""
    host, wish = await _wished(call, args)
    return NodeDevice((await host.define(wish)).name)


@procedure("NODE_DEVICE_UNDEFINE")
async def undefine(call: Call, args: Any) -> None:
    """Forget one that is kept."""
    call.check_flags(args.flags, 0)
    await _host(call).undefine(await _find(call, args.name))


@procedure("NODE_DEVICE_CREATE")
async def create(call: Call, args: Any) -> None:
    """Make one that is kept."""
    call.check_flags(args.flags, 0)
    await _host(call).begin(await _find(call, args.name))


@procedure("NODE_DEVICE_DETTACH", "NODE_DEVICE_DETACH_FLAGS")
async def detach(call: Call, args: Any) -> None:
    """Take a PCI device from the host, for a guest."""
    call.check_flags(getattr(args, "flags", 0), 0)
    device = await _find(call, args.name)
    await call.daemon.run_blocking(_host(call).assignment.detach, device, getattr(args, "driver_name", None))


@procedure("NODE_DEVICE_RE_ATTACH")
async def reattach(call: Call, args: Any) -> None:
    """Give a PCI device back to the host."""
    await call.daemon.run_blocking(_host(call).assignment.reattach, await _find(call, args.name))


@procedure("NODE_DEVICE_RESET")
async def reset(call: Call, args: Any) -> None:
    """Reset a PCI device."""
    await call.daemon.run_blocking(_host(call).assignment.reset, await _find(call, args.name))
