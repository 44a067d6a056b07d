"""Which of a domain's devices a client means by a document that may say little about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.daemon.domains.faults import failed
from pyhyve.daemon.errors import LibvirtError
from pyhyve.rpc.errors import ErrorCode, ErrorDomain

if TYPE_CHECKING:
    from pyhyve.xml.address import Address
    from pyhyve.xml.devices import Devices

__all__ = ["find_same", "same_address"]


def _missing(detail: str) -> LibvirtError:
    return LibvirtError(ErrorCode.DEVICE_MISSING, ErrorDomain.QEMU, detail)


def same_address(wanted: Address | None, held: Address | None) -> bool:
    """Whether an address a client gave is that of a device; none given fits every device."""
    if wanted is None or wanted.type is None:
        return True
    if held is None or held.type != wanted.type:
        return False
    if wanted.type == "pci":
        return wanted.slot is None or wanted.pci == held.pci
    return (wanted.controller or 0, wanted.bus or "0", wanted.target or 0, wanted.unit or 0, wanted.port) == (
        held.controller or 0,
        held.bus or "0",
        held.target or 0,
        held.unit or 0,
        held.port,
    )


def find_same(devices: Devices, name: str, device: Any, *, live: bool) -> Any:
    """Return the device a document is about. Raises LibvirtError."""
    held = getattr(devices, name)
    if name == "disk":
        for item in held:
            if item.target.dev == device.target.dev:
                return item
        detail = f"disk {device.target.dev} not found" if live else f"no target device {device.target.dev}"
        raise _missing(detail)
    if name == "interface":
        return _find_interface(held, device)
    if name == "memballoon":
        if held is None:
            raise _missing("matching memballoon device was not found")
        return held
    alias = getattr(device, "alias", None)
    for item in held:
        if alias is not None and item.alias is not None and alias.name == item.alias.name:
            return item
        if _same(name, device, item):
            return item
    if name == "controller":
        raise _missing(f"controller {device.type}:{device.index or 0} not found")
    raise _missing(f"no matching {name} device was found")


def _find_interface(held: Any, device: Any) -> Any:
    found = [
        item
        for item in held
        if (device.mac is None or (item.mac is not None and item.mac.address == device.mac.address))
        and same_address(device.address, item.address)
        and (device.alias is None or item.alias is None or device.alias.name == item.alias.name)
    ]
    if len(found) > 1:
        if device.mac is not None:
            detail = f"multiple devices matching MAC address {device.mac.address} found"
        else:
            detail = "multiple matching devices found"
        raise failed(detail, ErrorDomain.DOMAIN)
    if not found:
        if device.mac is not None:
            where = "(<null>)"
            if device.address is not None and device.address.slot is not None:
                where = device.address.pci_text
            alias = "(<null>)" if device.alias is None else device.alias.name
            raise LibvirtError(
                ErrorCode.DEVICE_MISSING,
                ErrorDomain.DOMAIN,
                f"no device found at address '{where}' matching MAC address '{device.mac.address}' and alias '{alias}'",
            )
        raise _missing("matching network device was not found")
    return found[0]


def _same(name: str, wanted: Any, item: Any) -> bool:
    if not same_address(getattr(wanted, "address", None), getattr(item, "address", None)):
        return False
    if name == "controller":
        return bool(wanted.type == item.type and (wanted.index or 0) == (item.index or 0))
    if name == "channel":
        target, held = wanted.target, item.target
        return target is None or held is None or target.name is None or target.name == held.name
    if name in {"serial", "console", "parallel"}:
        target, held = wanted.target, item.target
        return target is None or held is None or target.port is None or target.port == held.port
    if name == "hostdev":
        return bool(wanted.type == item.type and _source_numbers(wanted) == _source_numbers(item))
    if name == "graphics":
        return bool(wanted.type == item.type)
    if name == "input":
        return bool(wanted.type == item.type and wanted.bus in {None, item.bus})
    if name == "rng":
        return wanted.backend is None or item.backend is None or wanted.backend.model == item.backend.model
    model, held_model = getattr(wanted, "model", None), getattr(item, "model", None)
    return model is None or model == held_model


def _source_numbers(item: Any) -> tuple[tuple[str, int], ...]:
    """Return the numbers of a host device's address."""
    for inner in item.source.children if item.source is not None else ():
        if inner.name == "address":
            return tuple(sorted((key, int(value, 0)) for key, value in inner.attributes if key != "type"))
    return ()
