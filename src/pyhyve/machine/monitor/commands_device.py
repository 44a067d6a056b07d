"""Commands that add and remove devices, networks and objects, and what PCI shows of them."""

from __future__ import annotations

from typing import Any

from pyhyve.machine.monitor import queries_pci
from pyhyve.machine.monitor.errors import ErrorClass, QmpError
from pyhyve.machine.monitor.group import CommandGroup


class DeviceCommands(CommandGroup):
    """Devices, networks, objects."""

    def device_add(self, arguments: dict[str, Any]) -> None:
        """Plug a device in."""
        self._check_stays("device_add")
        self.hardware.was_changed = True
        self.hardware.devices.add(arguments, hotplugged=True)

    def device_del(self, id: str) -> None:  # noqa: A002 - QEMU's name
        """Have a device taken out; DEVICE_DELETED tells when it is gone."""
        self._check_stays("device_del")
        self.hardware.was_changed = True
        self.hardware.devices.request_unplug(id)

    def _check_stays(self, command: str) -> None:
        if self.machine.is_moving:
            msg = f"{command} not allowed while migrating"
            raise QmpError(msg)

    def object_add(self, arguments: dict[str, Any]) -> None:
        """Make an object."""
        self.hardware.was_changed = True
        self.hardware.objects.add(arguments)

    def object_del(self, id: str) -> None:  # noqa: A002 - QEMU's name
        """Remove an object."""
        self.hardware.was_changed = True
        self.hardware.objects.remove(id)

    def netdev_add(self, arguments: dict[str, Any]) -> None:
        """Open a network."""
        self.hardware.was_changed = True
        self.hardware.netdevs.add(arguments)

    def netdev_del(self, id: str) -> None:  # noqa: A002 - QEMU's name
        """Close a network."""
        self.hardware.was_changed = True
        self.hardware.netdevs.remove(id)

    def _card(self, name: str) -> Any:  # noqa: ANN401 - loaded only with a card
        for plugged in self.hardware.devices:
            if plugged.model.name == "virtio-net-pci" and name in {plugged.name, plugged.values.get("netdev")}:
                return plugged.device
        msg = f"Device '{name}' not found"
        raise QmpError(msg, ErrorClass.DEVICE_NOT_FOUND)

    def set_link(self, name: str, up: bool) -> None:  # noqa: FBT001 - QEMU's name
        """Plug in a card's cable, or pull it."""
        self._card(name).set_link(up=up)

    def query_rx_filter(self, name: str | None = None) -> list[dict[str, Any]]:
        """What cards let through."""
        found = [
            {"name": plugged.name, **plugged.device.filter.describe()}
            for plugged in self.hardware.devices
            if plugged.model.name == "virtio-net-pci" and name in {None, plugged.name}
        ]
        if name is not None and not found:
            msg = f"invalid net client name: {name}"
            raise QmpError(msg)
        return found

    def query_pci(self) -> list[dict[str, Any]]:
        """The PCI functions."""
        with self.machine.parts.lock:
            return queries_pci.describe_bus(self.inventory)
