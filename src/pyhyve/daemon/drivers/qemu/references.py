"""What definitions refer to by name: virtual networks that interfaces are plugged into, volumes that disks are."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from pyhyve.daemon.domains.faults import unsupported
from pyhyve.daemon.drivers.qemu.taps import BridgeSource, no_floor, set_limits
from pyhyve.daemon.networks.definition import PASSED_THROUGH, mode_of
from pyhyve.daemon.networks.network import Port
from pyhyve.daemon.networks.registry import NetworkRegistry
from pyhyve.daemon.storage.registry import PoolRegistry
from pyhyve.daemon.storage.volume import VolumeType
from pyhyve.rpc.errors import ErrorDomain
from pyhyve.xml.devices import Devices
from pyhyve.xml.disk import DiskSource
from pyhyve.xml.element import replace

if TYPE_CHECKING:
    from pyhyve.daemon.drivers.api import Driver
    from pyhyve.daemon.networks.bandwidth import Bandwidth
    from pyhyve.daemon.networks.network import ManagedNetwork
    from pyhyve.xml.disk import Disk
    from pyhyve.xml.domain import Domain
    from pyhyve.xml.interface import Interface

__all__ = ["NetworkPlug", "References"]

_log = logging.getLogger(__name__)


class References:
    """Looks up what definitions of a driver's domains refer to."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def network(self, name: str) -> ManagedNetwork:
        """The network of that name, which must be up. Raises LibvirtError."""
        networks = self._driver.offers(NetworkRegistry)
        if networks is None:
            raise unsupported("this driver has no virtual networks", ErrorDomain.QEMU)
        network = networks.named(name)
        network.need_active()
        return network

    def resolve(self, domain: Domain) -> Domain:
        """Return a definition with what it refers to looked up. Raises LibvirtError."""
        devices = domain.devices or Devices()
        interfaces = tuple(self._interface(interface) for interface in devices.interface)
        disks = tuple(self.disk(disk) for disk in devices.disk)
        if interfaces == devices.interface and disks == devices.disk:
            return domain
        return replace(domain, devices=replace(devices, interface=interfaces, disk=disks))

    def _interface(self, interface: Interface) -> Interface:
        source = interface.source
        if interface.type != "network" or source is None or source.network is None:
            return interface
        network = self.network(source.network)
        limits = interface.bandwidth or network.port_limits(source.portgroup)
        source = replace(source, portid=str(uuid4()), bridge=network.bridge())
        return replace(interface, source=source, bandwidth=limits)

    def disk(self, disk: Disk) -> Disk:
        """Return a disk whose volume, if it is one, is looked up: as the file or device it is. Raises LibvirtError."""
        source = disk.source
        if disk.type != "volume" or source is None or source.pool is None or source.volume is None:
            return disk
        pools = self._driver.offers(PoolRegistry)
        if pools is None:
            raise unsupported("this driver has no storage pools", ErrorDomain.QEMU)
        pool = pools.named(source.pool)
        pool.need_active()
        volume = pool.volume(source.volume)
        if volume.type is VolumeType.BLOCK:
            found, kind = DiskSource(dev=volume.path), "block"
        elif volume.type is VolumeType.FILE:
            found, kind = DiskSource(file=volume.path), "file"
        else:
            detail = f"volume '{volume.name}' of pool '{pool.name}' is no disk"
            raise unsupported(detail, ErrorDomain.QEMU)
        driver = disk.driver
        if driver is not None and driver.type is None:
            driver = replace(driver, type=volume.format if volume.format != "iso" else "raw")
        # Where it is counts here; that it is a volume is kept for those who look (format_domain).
        found = replace(found, pool=source.pool, volume=source.volume, startup_policy=source.startup_policy)
        return replace(disk, type=kind, source=found, driver=driver)


class NetworkPlug:
    """Plugs interfaces into virtual networks."""

    def __init__(self, references: References, driver: Driver) -> None:
        self._references = references
        self._driver = driver
        self._bridges = BridgeSource()

    async def connect(self, interface: Interface, name: str) -> tuple[str, int]:
        """Make a tap on the network's bridge, and note it."""
        source = interface.source
        network = self._references.network((source.network if source is not None else None) or "")
        bridge = network.bridge()
        tap, descriptor = await self._bridges.connect_to(bridge, name)
        networks = self._driver.offers(NetworkRegistry)
        if networks is not None:
            known = source.portid if source is not None else None
            uuid = (UUID(known) if known is not None else uuid4()).bytes
            mac = interface.mac.address if interface.mac is not None else ""
            await networks.plug(network, Port(uuid, "", bytes(16), mac, tap, bridge))
        return tap, descriptor

    async def limit(self, interface: Interface, name: str, bandwidth: Bandwidth) -> None:
        """Limit what passes the tap, and have the network keep what it promises."""
        networks = self._driver.offers(NetworkRegistry)
        source = interface.source
        if networks is not None and source is not None:
            network = self._references.network(source.network or "")
            port = next((port for port in network.ports.values() if port.device == name), None)
            if bandwidth.inbound.floor and mode_of(network.current) in PASSED_THROUGH:
                raise no_floor(interface)
            if port is not None and (bandwidth.inbound.floor or port.floor):
                await networks.promise(network, port, bandwidth.inbound.floor)
        await set_limits(name, bandwidth)

    async def disconnect(self, interface: Interface, name: str) -> None:
        """Remove the tap; a network that is gone took it along."""
        await self._bridges.disconnect(interface, name)
        networks = self._driver.offers(NetworkRegistry)
        for network in networks or ():
            for uuid in [uuid for uuid, port in network.ports.items() if port.device == name]:
                assert networks is not None  # noqa: S101 - it has networks
                await networks.unplug(network, uuid)
