"""The host's devices as clients see them: those that are there, and mediated devices that are only defined.

Mediated devices are made through sysfs (Linux, ``Documentation/driver-api/vfio-mediated-device.rst``), virtual ports of
fibre channel hosts through ``vport_create`` (``Documentation/scsi/scsi_fc_transport.rst``); no other program is needed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pyhyve.daemon.events import EventKind
from pyhyve.daemon.resources.node_device_documents import MediatedWish, PortWish
from pyhyve.daemon.resources.node_device_faults import FAULTS
from pyhyve.daemon.resources.node_devices import HostDevice, MediatedFacts, find_devices, mediated_device
from pyhyve.daemon.resources.pci_assignment import PciAssignment
from pyhyve.rpc.errors import ErrorCode
from pyhyve.rpc.values import NodeDevice

if TYPE_CHECKING:
    from pyhyve.daemon.daemon import Daemon
    from pyhyve.daemon.drivers.api import Driver
    from pyhyve.daemon.errors import LibvirtError
    from pyhyve.daemon.resources.node_device_documents import Wish

__all__ = ["DefinedDevice", "HostDevices"]

_log = logging.getLogger(__name__)
_CREATED, _DELETED, _DEFINED, _UNDEFINED = 0, 1, 2, 3
"""virNodeDeviceEventLifecycleType."""
_APPEARS_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class DefinedDevice:
    """A mediated device that somebody defined."""

    parent: str
    uuid: str
    type: str
    parent_address: str
    attributes: tuple[tuple[str, str], ...] = ()
    autostart: bool = False

    @property
    def facts(self) -> MediatedFacts:
        """What it is."""
        return MediatedFacts(self.uuid, self.type, self.parent_address, self.attributes)

    @property
    def device(self) -> HostDevice:
        """It, where it is not there."""
        return mediated_device(self.facts, self.parent, path=None)


class HostDevices:
    """Devices of the host of one driver. Drivers offer it under its class."""

    def __init__(self, daemon: Daemon, driver: Driver, name: str, sysfs: Path = Path("/sys")) -> None:
        self._daemon = daemon
        self._driver = driver
        self._sysfs = sysfs
        self.assignment = PciAssignment(sysfs)
        self.defined: dict[str, DefinedDevice] = {}
        """By the device's name."""
        self._stored = daemon.store.collection(f"{name}/mdevs", suffix=".json", parse=_parse, form=_form)
        self._changing = asyncio.Lock()

    # -- looking ------------------------------------------------------------------------------------------------------

    async def look(self) -> dict[str, HostDevice]:
        """Return every device by name."""
        found = await self._daemon.run_blocking(find_devices, self._sysfs)
        for name, defined in self.defined.items():
            there = found.get(name)
            if there is None:
                found[name] = defined.device
            elif there.mediated is not None:
                shown = replace(there.mediated, attributes=defined.attributes)
                group = next((dict(node.attributes)["number"] for node in there.facts if node.name == "iommuGroup"), "")
                found[name] = mediated_device(
                    shown, there.parent or "", path=there.path, driver=there.driver, group=group
                )
        return found

    async def find(self, name: str) -> HostDevice:
        """Return a device. Raises LibvirtError where there is none of that name."""
        found = (await self.look()).get(name)
        if found is None:
            raise _absent(name)
        return found

    async def by_wwn(self, node: str, port: str) -> HostDevice:
        """Return the fibre channel host with these names of node and port. Raises LibvirtError."""
        for device in (await self.look()).values():
            if device.capability == "scsi_host" and "fc_host" in device.capabilities and _wwns(device) == (node, port):
                return device
        raise _absent_host(node, port)

    def persistent(self, device: HostDevice) -> bool:
        """Whether a device is there for good: the host itself, and what somebody defined."""
        return device.name == "computer" or device.name in self.defined

    def autostarts(self, device: HostDevice) -> bool:
        """Whether a device comes by itself."""
        defined = self.defined.get(device.name)
        return device.name == "computer" or (defined is not None and defined.autostart)

    # -- making and removing ------------------------------------------------------------------------------------------

    async def create(self, wish: Wish) -> HostDevice:
        """Make a device that lasts until the host restarts. Raises LibvirtError."""
        async with self._changing:
            if isinstance(wish, PortWish):
                return await self._create_port(wish)
            wanted = await self._wanted(wish)
            return await self._begin(wanted)

    async def _wanted(self, wish: MediatedWish) -> DefinedDevice:
        if wish.parent is None:
            raise FAULTS.unsupported("missing parent device")
        parent = (await self.look()).get(wish.parent)
        if parent is None:
            raise FAULTS.unsupported(f"invalid parent device '{wish.parent}'")
        if parent.path is None:
            raise FAULTS.unsupported(f"unable to find address for parent device '{wish.parent}'")
        identity = wish.uuid or str(uuid.uuid4())
        return DefinedDevice(wish.parent, identity, wish.type, Path(parent.path).name, wish.attributes)

    async def _begin(self, wanted: DefinedDevice) -> HostDevice:
        await self._daemon.run_blocking(self._make, wanted)
        device = await self._appeared(wanted.device.name)
        self._publish(device.name, _CREATED)
        return device

    def _make(self, wanted: DefinedDevice) -> None:
        parent = self._sysfs / "class/mdev_bus" / wanted.parent_address
        what = "Unable to start mediated device"
        if not parent.exists():
            raise FAULTS.internal(f"{what}: '{wanted.parent_address}' has no mediated devices")
        kind = parent / "mdev_supported_types" / wanted.type
        if not kind.is_dir():
            raise FAULTS.internal(f"{what}: '{wanted.parent_address}' has no type '{wanted.type}'")
        try:
            (kind / "create").write_text(wanted.uuid, encoding="ascii")
            device = self._sysfs / "bus/mdev/devices" / wanted.uuid
            try:
                for name, value in wanted.attributes:
                    (device / name).write_text(value, encoding="utf-8")
            except OSError:
                (device / "remove").write_text("1", encoding="ascii")
                raise
        except OSError as error:
            raise FAULTS.internal(f"{what}: {error.strerror}: {error.filename}") from error

    async def _appeared(self, name: str) -> HostDevice:
        deadline = time.monotonic() + _APPEARS_S
        while time.monotonic() < deadline:
            found = (await self.look()).get(name)
            if found is not None and found.active:
                return found
            await asyncio.sleep(0.05)
        raise _absent(name)

    async def _create_port(self, wish: PortWish) -> HostDevice:
        found = await self.look()
        parent = self._port_parent(found, wish)
        node, port = wish.node or _new_wwn(), wish.port or _new_wwn()
        await self._daemon.run_blocking(self._change_port, parent, "vport_create", f"{port}:{node}")
        deadline = time.monotonic() + _APPEARS_S
        while time.monotonic() < deadline:
            for device in (await self.look()).values():
                if device.name not in found and device.capability == "scsi_host" and _wwns(device) == (node, port):
                    self._publish(device.name, _CREATED)
                    return device
            await asyncio.sleep(0.05)
        raise _absent_host(node, port)

    def _port_parent(self, found: dict[str, HostDevice], wish: PortWish) -> HostDevice:
        if wish.parent is not None:
            parent = found.get(wish.parent)
            if parent is None:
                raise FAULTS.internal("Could not find parent device for 'new device'")
            if "vports" not in parent.capabilities:
                raise FAULTS.internal(f"Parent device {parent.name} is not capable of vport operations")
            return parent
        for device in found.values():
            if "vports" in device.capabilities and wish.parent_names in {None, _wwns(device)}:
                return device
        if wish.parent_names is None:
            raise FAULTS.internal("Could not find any vport capable device")
        raise FAULTS.internal("Could not find parent device for 'new device'")

    def _change_port(self, host: HostDevice, verb: str, names: str) -> None:
        number = host.name.removeprefix("scsi_")
        for kind in ("fc_host", "scsi_host"):
            path = self._sysfs / "class" / kind / number / verb
            if path.exists():
                try:
                    path.write_text(names, encoding="ascii")
                except OSError as error:
                    raise FAULTS.system(f"Write of '{names}' to '{path}' during {verb} failed", error) from error
                return
        raise FAULTS.make(ErrorCode.OPERATION_INVALID, f"{verb} operation is not supported for {number}")

    async def destroy(self, device: HostDevice) -> None:
        """Remove a device that somebody made. Raises LibvirtError."""
        async with self._changing:
            if device.mediated is not None:
                if not device.active:
                    raise FAULTS.invalid(f"Device '{device.name}' is not active")
                await self._daemon.run_blocking(self._remove, device.mediated)
            elif device.capability == "scsi_host" and "fc_host" in device.capabilities:
                parent = (await self.look()).get(device.parent or "")
                if parent is None or "vports" not in parent.capabilities:
                    raise FAULTS.internal("Could not find any vport capable device")
                node, port = _wwns(device)
                await self._daemon.run_blocking(self._change_port, parent, "vport_delete", f"{port}:{node}")
            else:
                raise FAULTS.unsupported("Unsupported device type")
        self._publish(device.name, _DELETED)

    def _remove(self, facts: MediatedFacts) -> None:
        try:
            (self._sysfs / "bus/mdev/devices" / facts.uuid / "remove").write_text("1", encoding="ascii")
        except OSError as error:
            raise FAULTS.internal(f"Unable to stop mediated device: {error.strerror}") from error

    # -- defining -----------------------------------------------------------------------------------------------------

    async def define(self, wish: Wish) -> HostDevice:
        """Keep a mediated device for good. Raises LibvirtError."""
        if not isinstance(wish, MediatedWish):
            raise FAULTS.unsupported("Unsupported device type")
        async with self._changing:
            wanted = await self._wanted(wish)
            name = wanted.device.name
            before = self.defined.get(name)
            if before is not None:
                raise FAULTS.internal(
                    f"Unable to define mediated device: device {wanted.uuid} on {wanted.parent_address} already defined"
                )
            await self._keep(name, wanted)
        self._publish(name, _DEFINED)
        return await self.find(name)

    async def _keep(self, name: str, wanted: DefinedDevice) -> None:
        try:
            await self._stored.save(name, wanted)
        except OSError as error:
            raise FAULTS.system(f"cannot keep the definition of '{name}'", error) from error
        self.defined[name] = wanted

    async def undefine(self, device: HostDevice) -> None:
        """Forget a definition; a device that is there stays. Raises LibvirtError."""
        async with self._changing:
            if not self.persistent(device):
                raise FAULTS.invalid(f"Node device '{device.name}' is not defined")
            if device.mediated is None:
                raise FAULTS.unsupported("Unsupported device type")
            await self._stored.remove(device.name)
            self.defined.pop(device.name, None)
        self._publish(device.name, _UNDEFINED)

    async def begin(self, device: HostDevice) -> None:
        """Make a device that is defined. Raises LibvirtError."""
        async with self._changing:
            if device.active:
                raise FAULTS.invalid("Device is already active")
            await self._begin(self.defined[device.name])

    async def set_autostart(self, device: HostDevice, *, wanted: bool) -> None:
        """Have a device that is defined come when the daemon does. Raises LibvirtError."""
        async with self._changing:
            if device.mediated is None:
                raise FAULTS.not_supported("Unsupported device type")
            defined = self.defined.get(device.name)
            if defined is None:
                raise FAULTS.invalid("cannot set autostart for transient device")
            await self._keep(device.name, replace(defined, autostart=wanted))

    def _publish(self, name: str, event: int) -> None:
        self._daemon.events.publish(self._driver, EventKind.NODE_DEVICE, 0, NodeDevice(name), event, 0)

    # -- the daemon's life --------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read definitions, and make the devices that come by themselves."""
        self.defined = await self._daemon.run_blocking(self._stored.load)
        if not any(item.autostart for item in self.defined.values()):
            return
        found = await self.look()
        for name, item in self.defined.items():
            if item.autostart and not found[name].active:
                try:
                    await self._daemon.run_blocking(self._make, item)
                except Exception:  # noqa: BLE001 - one device's trouble is not the daemon's
                    _log.exception("cannot make %s", name)

    async def stop(self) -> None:
        """Devices stay."""

    def reload(self) -> None:
        """Nothing to read again."""


def _absent(name: str) -> LibvirtError:
    return FAULTS.make(ErrorCode.NO_NODE_DEVICE, f"no node device with matching name '{name}'")


def _absent_host(node: str, port: str) -> LibvirtError:
    return FAULTS.make(ErrorCode.NO_NODE_DEVICE, f"no node device with matching wwnn '{node}' and wwpn '{port}'")


def _wwns(device: HostDevice) -> tuple[str, str]:
    """Return the names of a fibre channel host's node and port."""
    for fact in device.facts:
        if dict(fact.attributes).get("type") == "fc_host":
            held = {child.name: child.text for child in fact.children}
            return held.get("wwnn", ""), held.get("wwpn", "")
    return "", ""


def _new_wwn() -> str:
    """Return a world wide name for virtual ports: NAA 5, of the vendor id that is for machines of QEMU."""
    return f"5525400{secrets.randbits(36):09x}"


def _parse(data: bytes) -> DefinedDevice:
    held = json.loads(data)
    try:
        held["attributes"] = tuple((str(name), str(value)) for name, value in held["attributes"])
        return DefinedDevice(**held)
    except (TypeError, KeyError) as error:
        msg = f"not a device: {error}"
        raise ValueError(msg) from error


def _form(device: DefinedDevice) -> bytes:
    return json.dumps(asdict(device), indent=1).encode()
