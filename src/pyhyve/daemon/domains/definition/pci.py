"""PCI addresses: where each device sits, and the bridges and ports it takes.

Devices that say where they are keep their place. The others get theirs in libvirt's order: first a rehearsal on buses
that grow as needed, which shows how many bridges and root ports there have to be, then the real round with those in
place (they are given addresses before everything else).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.domains.faults import internal, xml_error
from pyhyve.rpc.errors import ErrorDomain
from pyhyve.xml.address import Address, pci_address
from pyhyve.xml.devices import Controller, ControllerTarget, Devices, ModelName
from pyhyve.xml.element import replace

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["assign_pci", "next_pci_address", "pci_kind"]


class _Kind(Enum):
    """What a device plugs into."""

    PCI = auto()
    PCIE = auto()
    PORT = auto()
    """A root port: on the root bus, several to a slot."""
    ROOT = auto()
    """Only the root bus."""
    DOWNSTREAM = auto()
    """A port of a switch."""


_MODEL_NAMES: Final = {
    "pci-bridge": "pci-bridge",
    "dmi-to-pci-bridge": "i82801b11-bridge",
    "pcie-to-pci-bridge": "pcie-pci-bridge",
    "pcie-root-port": "pcie-root-port",
    "pcie-switch-upstream-port": "x3130-upstream",
    "pcie-switch-downstream-port": "xio3130-downstream",
    "pci-expander-bus": "pxb",
    "pcie-expander-bus": "pxb-pcie",
}
_PCI_BUSES: Final = frozenset({"pci-root", "pci-bridge", "dmi-to-pci-bridge", "pcie-to-pci-bridge", "pci-expander-bus"})
_PORTS: Final = frozenset({"pcie-root-port", "pcie-switch-downstream-port"})
_PCIE_INTERFACES: Final = ("virtio", "e1000e", "igb", "vmxnet3")
_PCIE_CONTROLLERS: Final = frozenset({"qemu-xhci", "nec-xhci", "virtio-scsi", "lsisas1078"})
_ICH9_FUNCTIONS: Final = {"ich9-ehci1": 7, "ich9-ehci2": 7, "ich9-uhci1": 0, "ich9-uhci2": 1, "ich9-uhci3": 2}
_NO_PCI_SOUND: Final = frozenset({"usb", "pcspk", "sb16"})
_ORDER: Final = [
    "filesystem",
    "interface",
    "sound",
    "controller",
    "disk",
    "hostdev",
    "memballoon",
    "rng",
    "watchdog",
    "video",
    "shmem",
    "input",
    "serial",
    "vsock",
]
_BUSES_MAX: Final = 256


@dataclass(slots=True)
class _Bus:
    """One bus: its kind, and the functions in use by slot."""

    model: str
    used: dict[int, set[int]] = field(default_factory=dict)

    def slots(self) -> range:
        if self.model in _PORTS:
            return range(1)
        return range(32) if self.model == "pcie-switch-upstream-port" else range(1, 32)

    def takes(self, kind: _Kind) -> bool:
        if kind is _Kind.PCI:
            return self.model in _PCI_BUSES
        if kind is _Kind.PCIE:
            return self.model in _PORTS or self.model == "pci-root"
        if kind is _Kind.DOWNSTREAM:
            return self.model == "pcie-switch-upstream-port"
        return self.model in {"pcie-root", "pci-root"}

    def free_slot(self) -> int | None:
        return next((slot for slot in self.slots() if slot not in self.used), None)


class _Map:
    """Every bus of a machine."""

    def __init__(self, *, pcie: bool) -> None:
        self.pcie = pcie
        self.buses: dict[int, _Bus] = {}
        self.ports: set[int] = set()
        self.added: list[tuple[int, str]] = []
        self.grows = False

    def add(self, index: int, model: str) -> None:
        if index >= _BUSES_MAX:
            raise xml_error("too many PCI buses")
        self.buses[index] = _Bus(model)

    def reserve(self, place: tuple[int, int, int]) -> None:
        bus, slot, function = place
        if bus not in self.buses:
            if not self.buses:
                raise xml_error("No PCI buses available")
            while bus not in self.buses:
                self._grow("pcie-root-port" if self.pcie else "pci-bridge")
        functions = self.buses[bus].used.setdefault(slot, set())
        if function in functions:
            raise xml_error(f"Attempted double use of PCI Address 0000:{bus:02x}:{slot:02x}.{function:x}")
        functions.add(function)

    def _grow(self, model: str) -> int:
        index = next(number for number in range(1, _BUSES_MAX + 1) if number not in self.buses)
        self.add(index, model)
        self.added.append((index, model))
        return index

    def place(self, kind: _Kind) -> tuple[int, int, int]:
        """Reserve the next free slot for a device of that kind; grow where there is none."""
        if kind is _Kind.PORT and self.pcie:
            return self._place_port()
        if kind in {_Kind.PCIE, _Kind.PORT} and not self.pcie:
            kind = _Kind.PCI
        for index, bus in sorted(self.buses.items()):
            if bus.takes(kind):
                slot = bus.free_slot()
                if slot is not None:
                    bus.used[slot] = {0}
                    return index, slot, 0
        if not self.grows or kind in {_Kind.ROOT, _Kind.DOWNSTREAM}:
            raise internal("No more available PCI slots", ErrorDomain.DOMAIN)
        if kind is _Kind.PCIE:
            index = self._grow("pcie-root-port")
        elif self.pcie:
            self.place(_Kind.PCIE)
            index = self._grow("pcie-to-pci-bridge")
        else:
            index = self._grow("pci-bridge")
        return self.place(kind)

    def _place_port(self) -> tuple[int, int, int]:
        root = self.buses[0]
        for slot in sorted(self.ports):
            for function in range(8):
                if function not in root.used[slot]:
                    root.used[slot].add(function)
                    return 0, slot, function
        slot_found = root.free_slot()
        if slot_found is None:
            raise internal("No more available PCI slots", ErrorDomain.DOMAIN)
        root.used[slot_found] = {0}
        self.ports.add(slot_found)
        return 0, slot_found, 0


def pci_kind(name: str, item: Any) -> _Kind | None:
    """Return what a device of the collection ``name`` plugs into; None where it is no PCI device."""
    if name == "interface":
        model = item.model.type if item.model is not None else ""
        return _Kind.PCIE if model.startswith(_PCIE_INTERFACES) or item.type == "hostdev" else _Kind.PCI
    if name == "sound":
        return None if item.model in _NO_PCI_SOUND else _Kind.PCI
    if name == "controller":
        return _controller_kind(item)
    if name == "disk":
        return _Kind.PCIE if item.target.bus == "virtio" else None
    if name == "hostdev":
        return _Kind.PCIE if item.type in {"pci", "mdev"} else None
    if name == "memballoon":
        return None if item.model == "none" else _Kind.PCIE
    if name == "watchdog":
        return _Kind.PCI if item.model == "i6300esb" else None
    if name == "video":
        kind = item.model.type if item.model is not None else "none"
        if kind in {"none", "ramfb"}:
            return None
        return _Kind.PCIE if kind in {"virtio", "bochs"} else _Kind.PCI
    if name == "input":
        return _Kind.PCIE if item.bus == "virtio" else None
    if name == "serial":
        return _Kind.PCI if item.target is not None and item.target.type == "pci-serial" else None
    return _Kind.PCIE  # filesystem, rng, shmem, vsock


def _controller_kind(item: Controller) -> _Kind | None:
    if item.type in {"scsi", "sata", "ide"}:
        return _Kind.PCIE if item.model in _PCIE_CONTROLLERS or (item.model or "").startswith("virtio") else _Kind.PCI
    if item.type == "virtio-serial":
        return _Kind.PCIE
    if item.type == "usb" and item.model != "none":
        return _Kind.PCIE if item.model in _PCIE_CONTROLLERS else _Kind.PCI
    if item.type == "pci":
        kinds = {
            "pcie-root-port": _Kind.PORT,
            "pcie-to-pci-bridge": _Kind.PCIE,
            "pci-bridge": _Kind.PCI,
            "pcie-switch-upstream-port": _Kind.PCIE,
            "pcie-switch-downstream-port": _Kind.DOWNSTREAM,
        }
        return None if (item.model or "").endswith("-root") else kinds.get(item.model or "", _Kind.ROOT)
    return None


_Place = tuple[str, int]


class _Assignment:
    """The devices being given addresses, by (collection, number)."""

    def __init__(self, devices: Devices, *, pcie: bool, i440fx: bool) -> None:
        self.pcie = pcie
        self.i440fx = i440fx
        self.items: dict[str, list[Any]] = {name: _listed(devices, name) for name in _ORDER}
        self.placed: dict[_Place, tuple[int, int, int]] = {}

    def each(self) -> Iterator[tuple[_Place, Any, _Kind]]:
        for name in _ORDER:
            for number, item in enumerate(self.items[name]):
                kind = pci_kind(name, item)
                if kind is not None:
                    yield (name, number), item, kind

    def round(self, *, grows: bool) -> _Map:
        """Give every device an address; return the buses. In the rehearsal (``grows``) buses are added."""
        self.placed = {}
        buses = _Map(pcie=self.pcie)
        buses.grows = grows
        for item in self.items["controller"]:
            if item.type == "pci":
                buses.add(item.index or 0, item.model or "pci-root")
        self._keep(buses)
        self._chipset(buses)
        for number, item in sorted(
            ((number, item) for number, item in enumerate(self.items["controller"]) if item.type == "pci"),
            key=lambda found: found[1].index or 0,
        ):
            kind = _controller_kind(item)
            if kind is not None and ("controller", number) not in self.placed:
                self.placed["controller", number] = buses.place(kind)
        for place, item, kind in self.each():
            if place not in self.placed:
                self._place(buses, place, item, kind)
        return buses

    def _keep(self, buses: _Map) -> None:
        for place, item, _ in self.each():
            if item.address is not None and item.address.type == "pci":
                self.placed[place] = item.address.pci
                buses.reserve(item.address.pci)
                if item in self.items["controller"] and item.model == "pcie-root-port":
                    buses.ports.add(item.address.pci[1])

    def _take(self, buses: _Map, place: _Place, wanted: tuple[int, int, int]) -> None:
        held = buses.buses[0].used.setdefault(wanted[1], set())
        if wanted[2] not in held:
            held.add(wanted[2])
            self.placed[place] = wanted

    def _chipset(self, buses: _Map) -> None:
        """Reserve what is part of the chipset, and give devices that are part of it their places."""
        if 0 not in buses.buses:
            return
        root = buses.buses[0].used
        fixed: dict[tuple[str, str], tuple[int, int, int]] = {}
        if self.i440fx:
            root.setdefault(1, set()).update({0, 3})
            fixed = {("ide", ""): (0, 1, 1), ("usb", "piix3-uhci"): (0, 1, 2)}
        elif self.pcie:
            root.setdefault(0x1F, set()).update({0, 3})
            fixed = {("sata", ""): (0, 0x1F, 2)}
        for number, item in enumerate(self.items["controller"]):
            wanted = fixed.get((item.type, item.model if item.type == "usb" else ""))
            if wanted is not None and item.index == 0 and ("controller", number) not in self.placed:
                self._take(buses, ("controller", number), wanted)
        video = self.items["video"]
        slot = 1 if self.pcie else 2
        unplaced = video and pci_kind("video", video[0]) is not None and ("video", 0) not in self.placed
        if unplaced and slot not in root:
            self._take(buses, ("video", 0), (0, slot, 0))
        if self.pcie:
            for number, item in enumerate(self.items["sound"]):
                if item.model == "ich9" and ("sound", number) not in self.placed and 0x1B not in root:
                    self._take(buses, ("sound", number), (0, 0x1B, 0))
            self._ich9_usb(buses)

    def _ich9_usb(self, buses: _Map) -> None:
        slots: dict[int, int] = {}
        for number, item in enumerate(self.items["controller"]):
            function = _ICH9_FUNCTIONS.get(item.model or "")
            if item.type != "usb" or function is None or ("controller", number) in self.placed:
                continue
            index = item.index or 0
            slot = slots.get(index)
            if slot is None:
                slot = next((slot for slot in (0x1D, 0x1A) if slot not in buses.buses[0].used), None)
                if slot is None:
                    continue
                slots[index] = slot
            self._take(buses, ("controller", number), (0, slot, function))

    def _place(self, buses: _Map, place: _Place, item: Any, kind: _Kind) -> None:
        function = _ICH9_FUNCTIONS.get(item.model or "") if place[0] == "controller" and item.type == "usb" else None
        if function is None:
            self.placed[place] = buses.place(kind)
            return
        for number, other in enumerate(self.items["controller"]):  # its companions share a slot
            held = self.placed.get(("controller", number))
            if (
                held is not None
                and other.type == "usb"
                and other.index == item.index
                and other.model in _ICH9_FUNCTIONS
            ):
                buses.buses[held[0]].used[held[1]].add(function)
                self.placed[place] = (held[0], held[1], function)
                return
        bus, slot, _ = buses.place(kind)
        buses.buses[bus].used[slot] = {function}
        self.placed[place] = (bus, slot, function)

    def finish(self, devices: Devices) -> Devices:
        """Return the devices with their addresses, and what depends on them."""
        functions: dict[tuple[int, int], int] = {}
        for bus, slot, _ in self.placed.values():
            functions[bus, slot] = functions.get((bus, slot), 0) + 1
        changes: dict[str, Any] = {}
        for name in _ORDER:
            items = list(self.items[name])
            for number, item in enumerate(items):
                found = self.placed.get((name, number))
                if found is None:
                    continue
                bus, slot, function = found
                chipset = bus == 0 and ((self.i440fx and slot == 1) or (self.pcie and slot == 0x1F))
                shared = function == 0 and functions[bus, slot] > 1 and not chipset
                items[number] = _addressed(item, found, shared=shared)
            if name in {"memballoon", "vsock"}:
                changes[name] = items[0] if items else None
            else:
                changes[name] = tuple(items)
        return replace(devices, **changes)


def _listed(devices: Devices, name: str) -> list[Any]:
    held = getattr(devices, name)
    if held is None:
        return []
    return list(held) if isinstance(held, tuple) else [held]


def _addressed(item: Any, place: tuple[int, int, int], *, shared: bool) -> Any:
    bus, slot, function = place
    address = item.address
    if address is None or address.type != "pci" or address.slot is None:
        address = pci_address(bus, slot, function, "on" if shared else None)
    else:
        multifunction = address.multifunction or ("on" if shared else None)
        kept = pci_address(bus, slot, function, multifunction)
        address = replace(kept, zpci=address.zpci)
    item = replace(item, address=address)
    if isinstance(item, Controller) and item.type == "pci" and item.model in _MODEL_NAMES:
        model = item.model
        target = item.target or ControllerTarget()
        if model == "pci-bridge":
            target = replace(target, chassis_nr=target.chassis_nr or item.index)
        elif model in _PORTS:
            port = target.port or f"0x{(slot << 3) | function:x}"
            target = replace(target, chassis=target.chassis if target.chassis is not None else item.index, port=port)
        item = replace(
            item,
            model_name=item.model_name or ModelName(name=_MODEL_NAMES[model]),
            target=None if target == ControllerTarget() else target,
        )
    return item


def assign_pci(devices: Devices, *, pcie: bool, i440fx: bool) -> Devices:
    """Return the devices with a PCI address for each that needs one, and the bridges and ports for them.

    Raises LibvirtError where two claim one place, or nothing is free.
    """
    assignment = _Assignment(devices, pcie=pcie, i440fx=i440fx)
    if not any(item.type == "pci" and item.index == 0 for item in devices.controller):
        return devices
    before = sum(1 for item in devices.controller if item.type == "pci")
    buses = assignment.round(grows=True)
    if pcie and len(buses.buses) > 1 and before < len(buses.buses):
        buses.place(_Kind.PCIE)  # a port that is free, for something to be plugged in later
    for index, model in buses.added:
        assignment.items["controller"].append(Controller(type="pci", index=index, model=model))
    assignment.round(grows=False)
    return assignment.finish(devices)


def next_pci_address(devices: Devices, name: str, item: Any, *, pcie: bool, i440fx: bool) -> Address | None:
    """Return the address of one more device on a machine whose devices have theirs. Raises LibvirtError where full."""
    kind = pci_kind(name, item)
    if kind is None:
        return None
    assignment = _Assignment(devices, pcie=pcie, i440fx=i440fx)
    buses = assignment.round(grows=False)
    if item.address is not None and item.address.type == "pci" and item.address.slot is not None:
        buses.reserve(item.address.pci)
        place = item.address.pci
    else:
        place = buses.place(kind)
    return pci_address(*place)
