"""Controllers nobody asked for but something hangs on, and the order of all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyhyve.xml.devices import Controller, Devices
from pyhyve.xml.element import replace

if TYPE_CHECKING:
    from pyhyve.daemon.domains.emulators import Emulator

__all__ = ["add_controllers", "group_controllers"]

_DISK_CONTROLLERS: Final = (("scsi", "scsi"), ("fdc", "fdc"), ("ide", "ide"), ("sata", "sata"))


def add_controllers(devices: Devices, *, pcie: bool, emulator: Emulator) -> Devices:
    """Return the devices with every controller they need."""
    controllers: list[Controller] = []
    for item in devices.controller:
        controllers.append(_numbered(item, controllers))
    _fill(controllers, pcie=pcie, emulator=emulator)
    have = {(item.type, item.index) for item in controllers}

    def need(kind: str, most: int, *, model: str | None = None) -> None:
        for index in range(most + 1):
            if (kind, index) not in have:
                have.add((kind, index))
                controllers.append(Controller(type=kind, index=index, model=model))

    if not any(item.type == "usb" for item in controllers):
        need("usb", 0, model=_usb_model(pcie=pcie, emulator=emulator))
    if pcie:
        need("sata", 0)
    need("pci", 0, model="pcie-root" if pcie else "pci-root")
    for bus, kind in _DISK_CONTROLLERS:
        most = max(
            (item.address.controller or 0 for item in devices.disk if item.target.bus == bus and item.address),
            default=-1,
        )
        need(kind, most, model=_scsi_model(emulator) if kind == "scsi" else None)
    serial = max(
        (
            (item.address.controller or 0) if item.address is not None else 0
            for item in (*devices.channel, *devices.console)
            if item.target is not None and item.target.type == "virtio"
        ),
        default=-1,
    )
    need("virtio-serial", serial)
    return replace(devices, controller=tuple(controllers))


def _numbered(item: Controller, others: list[Controller]) -> Controller:
    """Return a controller with an index: that of the controller it is a companion of, or the next free one."""
    if item.index is not None and item.index >= 0:
        return item
    same = [other.index or 0 for other in others if other.type == item.type]
    if item.type == "usb" and item.model and item.model.startswith("ich9-uhci") and same:
        return replace(item, index=max(same))
    return replace(item, index=max(same, default=-1) + 1)


def _fill(controllers: list[Controller], *, pcie: bool, emulator: Emulator) -> None:
    for place, item in enumerate(controllers):
        model = item.model
        if model is None and item.type == "usb":
            model = _usb_model(pcie=pcie, emulator=emulator)
        elif model is None and item.type == "scsi":
            model = _scsi_model(emulator)
        elif item.type == "pci" and item.index == 0 and model is None:
            model = "pcie-root" if pcie else "pci-root"
        controllers[place] = replace(item, model=model)


def _usb_model(*, pcie: bool, emulator: Emulator) -> str:
    if pcie and emulator.has("qemu-xhci"):
        return "qemu-xhci"
    if emulator.has("piix3-usb-uhci"):
        return "piix3-uhci"
    return "none"


def _scsi_model(emulator: Emulator) -> str:
    return "lsilogic" if emulator.has("lsi53c895a") or emulator.has("lsi") else "virtio-scsi"


def group_controllers(controllers: tuple[Controller, ...]) -> tuple[Controller, ...]:
    """Return controllers of one type together and by index: the order in which libvirt reads a document back.

    libvirt itself writes added ones at the end until it has read the document again; writing them where they end up
    makes a document survive being read.
    """
    ordered: list[Controller] = []
    for item in controllers:
        place = -1
        for number in range(len(ordered) - 1, -1, -1):
            other = ordered[number]
            if other.type != item.type:
                continue
            index, mine = other.index or 0, item.index or 0
            if index > mine or (index == mine and item.master is None and other.master is not None):
                place = number
            elif place == -1:
                place = number + 1
                break
        ordered.insert(len(ordered) if place == -1 else place, item)
    return tuple(ordered)
