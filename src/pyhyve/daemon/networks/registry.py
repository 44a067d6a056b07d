"""Every network of one driver: found by name and UUID, kept on disk, brought back when the daemon starts."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING
from uuid import UUID

from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.events import EventKind
from pyhyve.daemon.networks import faults, limits
from pyhyve.daemon.networks.definition import complete, live, parse
from pyhyve.daemon.networks.network import ManagedNetwork, NetworkEvent, Port
from pyhyve.daemon.networks.plan import name_on_host, plan
from pyhyve.daemon.networks.update import update
from pyhyve.hostnet.errors import HostNetError
from pyhyve.hostnet.networks import Networks
from pyhyve.rpc.errors import ErrorCode, ErrorDomain
from pyhyve.support.errors import UserError
from pyhyve.xml.element import format_element

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyhyve.daemon.daemon import Daemon
    from pyhyve.daemon.drivers.api import Driver
    from pyhyve.hostnet.dnsmasq import Lease
    from pyhyve.rpc.values import Network as NetworkRef
    from pyhyve.xml.network import Network

__all__ = ["NetworkRegistry"]

_log = logging.getLogger(__name__)
_LIFECYCLE = 0


class NetworkRegistry:
    """The networks of one driver. Drivers offer it under its class."""

    def __init__(self, daemon: Daemon, driver: Driver, name: str) -> None:
        self.daemon = daemon
        self.driver = driver
        self.by_uuid: dict[bytes, ManagedNetwork] = {}
        self.by_name: dict[str, ManagedNetwork] = {}
        self._host: Networks | None = None
        store, form = daemon.store, _form
        self.definitions = store.collection(f"{name}/networks", suffix=".xml", parse=_parse, form=form)
        self.running = store.collection(f"{name}/networks", suffix=".xml", parse=_parse, form=form, runtime=True)
        self.autostarts = store.collection(
            f"{name}/networks-autostart", suffix=".on", parse=bool, form=lambda _: b"yes\n"
        )
        self.plugged = store.collection(
            f"{name}/network-ports", suffix=".json", parse=_parse_ports, form=_form_ports, runtime=True
        )

    # -- finding ------------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[ManagedNetwork]:
        return iter(sorted(self.by_name.values(), key=lambda network: network.name))

    def find(self, ref: NetworkRef) -> ManagedNetwork:
        """The network a client means. Raises LibvirtError."""
        found = self.by_uuid.get(ref.uuid)
        if found is None:
            detail = f"no network with matching uuid '{UUID(bytes=ref.uuid)}' ({ref.name})"
            raise LibvirtError(ErrorCode.NO_NETWORK, ErrorDomain.NETWORK, detail)
        return found

    def named(self, name: str) -> ManagedNetwork:
        """The network of that name. Raises LibvirtError."""
        found = self.by_name.get(name)
        if found is None:
            raise faults.no_network("name", name)
        return found

    def with_uuid(self, uuid: bytes) -> ManagedNetwork:
        """The network of that UUID. Raises LibvirtError."""
        found = self.by_uuid.get(uuid)
        if found is None:
            raise faults.no_network("uuid", uuid)
        return found

    # -- definitions --------------------------------------------------------------------------------------------------

    def complete(self, xml: str) -> Network:
        """Read a document and fill in what it leaves open. Raises LibvirtError."""
        given = parse(xml)
        bridges = [
            (kept.bridge.name, network.uuid)
            for network in self
            for kept in (network.definition, network.running)
            if kept is not None and kept.bridge is not None and kept.bridge.name
        ]
        same = self.by_name.get(given.name)
        if same is not None and given.uuid is None:
            uuid = str(UUID(bytes=same.uuid))
            raise faults.failed(f"network '{given.name}' already exists with uuid {uuid}")
        return complete(given, bridges)

    def _check_unique(self, definition: Network, *, starting: bool) -> ManagedNetwork | None:
        uuid = UUID(definition.uuid).bytes
        same = self.by_uuid.get(uuid)
        if same is not None:
            if same.name != definition.name:
                raise faults.failed(f"network '{same.name}' is already defined with uuid {UUID(bytes=uuid)}")
            if starting and same.active:
                raise faults.invalid(f"network is already active as '{same.name}'")
        elif (other := self.by_name.get(definition.name)) is not None:
            raise faults.failed(f"network '{other.name}' already exists with uuid {UUID(bytes=other.uuid)}")
        return same

    async def define(self, definition: Network) -> ManagedNetwork:
        """Add or change a definition."""
        network = self._check_unique(definition, starting=False)
        await self.definitions.save(definition.name, definition)
        if network is None:
            network = self._add(definition)
        network.definition = definition
        self.publish(network, NetworkEvent.DEFINED)
        return network

    async def create(self, definition: Network) -> ManagedNetwork:
        """Bring up a network that is forgotten when it goes down."""
        network = self._check_unique(definition, starting=True)
        if network is None:
            network = self._add(definition)
        try:
            await self.bring_up(network, definition)
        except BaseException:
            if not network.persistent:
                self._forget(network)
            raise
        return network

    async def undefine(self, network: ManagedNetwork) -> None:
        """Remove a definition; a network that is up stays up."""
        if not network.persistent:
            raise faults.invalid("can't undefine transient network")
        async with network.lock:
            await self.definitions.remove(network.name)
            await self.autostarts.remove(network.name)
            network.definition, network.autostart = None, False
            if not network.active:
                self._forget(network)
            self.publish(network, NetworkEvent.UNDEFINED)

    async def set_autostart(self, network: ManagedNetwork, *, enabled: bool) -> None:
        """Choose whether it comes up with the daemon."""
        if not network.persistent:
            raise faults.invalid("cannot set autostart for transient network")
        if enabled:
            await self.autostarts.save(network.name, enabled)
        else:
            await self.autostarts.remove(network.name)
        network.autostart = enabled

    async def change(
        self,
        network: ManagedNetwork,
        command: int,
        section: int,
        parent: int,
        xml: str,
        *,
        live_too: bool,
        config: bool,
    ) -> None:
        """Change a part of a network, of what is up, of the definition, or of both."""
        async with network.lock:
            if live_too and not network.active:
                raise faults.invalid("network is not running")
            if config and network.definition is None:
                raise faults.invalid("cannot update persistent config of a transient network")
            running = update(network.current, command, section, parent, xml) if live_too else None
            defined = (
                update(network.definition, command, section, parent, xml) if config and network.definition else None
            )
            if running is not None:
                await self._refresh_services(running)
                await self.running.save(network.name, running)
                network.running = running
            if defined is not None:
                await self.definitions.save(network.name, defined)
                network.definition = defined

    async def _refresh_services(self, running: Network) -> None:
        spec = plan(running)
        if spec is None:
            return
        try:
            await self.daemon.run_blocking(self.host().change_services, spec)
        except UserError as error:
            raise faults.internal(str(error)) from error

    def _add(self, definition: Network) -> ManagedNetwork:
        network = ManagedNetwork(definition.name, UUID(definition.uuid).bytes)
        self.by_uuid[network.uuid] = network
        self.by_name[network.name] = network
        return network

    def _forget(self, network: ManagedNetwork) -> None:
        self.by_uuid.pop(network.uuid, None)
        self.by_name.pop(network.name, None)

    # -- life ---------------------------------------------------------------------------------------------------------

    def host(self) -> Networks:
        """The host's networks. Raises LibvirtError."""
        if self._host is None:
            try:
                self._host = Networks()
            except UserError as error:
                raise faults.internal(str(error)) from error
        return self._host

    async def bring_up(self, network: ManagedNetwork, definition: Network | None = None) -> None:
        """Bring a network up as defined."""
        async with network.lock:
            if network.active:
                raise faults.invalid("network is already active")
            wanted = definition if definition is not None else network.definition
            assert wanted is not None  # noqa: S101 - it is defined, or about to be made
            running = live(wanted)
            await self._make(running)
            network.running = running
            try:
                if network.limits():
                    await self.daemon.run_blocking(limits.begin, network.bridge(), network.limits())
                await self.running.save(network.name, running)
            except BaseException:
                network.running = None
                await self._unmake(running)
                raise
            self.publish(network, NetworkEvent.STARTED)

    async def _make(self, running: Network) -> None:
        spec = plan(running)
        if spec is None:
            return
        warn = _log.warning
        try:
            await self.daemon.run_blocking(lambda: self.host().create(spec, lambda text: warn("%s", text)))
        except (UserError, HostNetError) as error:
            raise faults.internal(str(error)) from error

    async def _unmake(self, running: Network) -> None:
        name = name_on_host(running)
        if name is None:
            return
        try:
            await self.daemon.run_blocking(self.host().delete, name)
        except (UserError, HostNetError) as error:
            raise faults.internal(str(error)) from error

    async def take_down(self, network: ManagedNetwork) -> None:
        """Take a network down; its guests lose it."""
        async with network.lock:
            network.need_active()
            assert network.running is not None  # noqa: S101 - that is what active means
            if network.limits():
                await self.daemon.run_blocking(limits.end, network.bridge())
            await self._unmake(network.running)
            await self.running.remove(network.name)
            await self.plugged.remove(network.name)
            network.running = None
            network.ports.clear()
            if not network.persistent:
                self._forget(network)
            self.publish(network, NetworkEvent.STOPPED)

    async def leases(self, network: ManagedNetwork) -> list[Lease]:
        """Addresses it gave out."""
        name = name_on_host(network.current)
        if name is None or not network.active:
            return []
        try:
            return await self.daemon.run_blocking(self.host().leases, name)
        except UserError as error:
            raise faults.internal(str(error)) from error

    # -- guests -------------------------------------------------------------------------------------------------------

    async def plug(self, network: ManagedNetwork, port: Port) -> None:
        """Note a guest's interface."""
        network.ports[port.uuid] = port
        await self.plugged.save(network.name, network.ports)

    async def unplug(self, network: ManagedNetwork, uuid: bytes) -> None:
        """Forget a guest's interface; one that is gone already is no error."""
        port = network.ports.get(uuid)
        if port is not None and port.floor and network.active:
            try:
                await self.promise(network, port, 0)
            except LibvirtError as error:
                _log.warning("network %s: %s", network.name, error)
        if network.ports.pop(uuid, None) is not None:
            await self.plugged.save(network.name, network.ports)

    async def promise(self, network: ManagedNetwork, port: Port, floor: int) -> None:
        """Keep so many KB/s for a guest's interface; 0 for none. Raises LibvirtError."""
        async with network.lock:
            network.need_active()
            if floor:
                limits.check_promise(network, port, floor)
            ports = limits.with_promise(network, port, floor)
            await self.daemon.run_blocking(limits.keep, network.bridge(), network.limits(), ports)
            if port.uuid in network.ports:  # others came and went meanwhile
                network.ports[port.uuid] = ports[port.uuid]
            await self.plugged.save(network.name, network.ports)

    def publish(self, network: ManagedNetwork, event: NetworkEvent) -> None:
        """Tell whoever asked."""
        self.daemon.events.publish(self.driver, EventKind.NETWORK, _LIFECYCLE, network.ref, int(event), 0)

    # -- the daemon's life --------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bring back what is defined and what is up."""
        stored, up, marked, plugged = await self.daemon.run_blocking(
            lambda: (self.definitions.load(), self.running.load(), self.autostarts.load(), self.plugged.load())
        )
        for name, definition in stored.items():
            if name not in self.by_name:
                self._add(definition).definition = definition
        for name, running in up.items():
            network = self.by_name.get(name) or self._add(running)
            network.running = running
            network.ports = plugged.get(name, {})
        for network in list(self):
            network.autostart = network.name in marked
            try:
                await self._bring_back(network)
            except LibvirtError as error:
                _log.warning("network %s: %s", network.name, error)

    async def _bring_back(self, network: ManagedNetwork) -> None:
        if network.running is not None and not await self._still_up(network.running):
            _log.warning("network %s went down while the daemon did not run", network.name)
            await self.running.remove(network.name)
            network.running = None
            network.ports.clear()
            if not network.persistent:
                self._forget(network)
                return
        if network.autostart and not network.active:
            await self.bring_up(network)

    async def _still_up(self, running: Network) -> bool:
        name = name_on_host(running)
        if name is None:
            return True
        try:
            statuses = await self.daemon.run_blocking(self.host().statuses)
        except UserError as error:
            raise faults.internal(str(error)) from error
        return any(status.spec.name == name and status.is_up for status in statuses)

    async def stop(self) -> None:
        """Networks stay as they are."""

    def reload(self) -> None:
        """Nothing to read again."""


def _parse(data: bytes) -> Network:
    try:
        return parse(data)
    except LibvirtError as error:
        raise ValueError(str(error)) from error


def _form(network: Network) -> bytes:
    return format_element(network).encode()


def _parse_ports(data: bytes) -> dict[bytes, Port]:
    try:
        ports = [Port.from_json(held) for held in json.loads(data)]
    except (KeyError, TypeError) as error:
        msg = f"not a list of ports: {error}"
        raise ValueError(msg) from error
    return {port.uuid: port for port in ports}


def _form_ports(ports: dict[bytes, Port]) -> bytes:
    return json.dumps([port.to_json() for port in ports.values()], indent=1).encode()
