"""``qemu:///system`` and ``qemu:///session``: machines of QEMU, and of our own emulator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyhyve.daemon.cpu.guest import GuestCpus
from pyhyve.daemon.domains import notices
from pyhyve.daemon.domains.definition.characters import RUNTIME_DIRECTORY
from pyhyve.daemon.domains.faults import invalid_argument
from pyhyve.daemon.domains.monitor_events import MonitorEvents
from pyhyve.daemon.domains.registry import DomainRegistry
from pyhyve.daemon.drivers.api import DriverBase, version_number
from pyhyve.daemon.drivers.qemu.capabilities import EmulatedCpus, capabilities, domain_capabilities
from pyhyve.daemon.drivers.qemu.emulator import EmulatorCatalog
from pyhyve.daemon.drivers.qemu.hypervisor import QemuHypervisor, binding_of
from pyhyve.daemon.drivers.qemu.references import NetworkPlug, References
from pyhyve.daemon.drivers.qemu.taps import BridgeSource, EthernetSource
from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.resources.filter_bindings import FilterBindings
from pyhyve.rpc.errors import ErrorDomain
from pyhyve.rpc.spec import Feature

if TYPE_CHECKING:
    from urllib.parse import SplitResult

    from pyhyve.daemon.daemon import Daemon
    from pyhyve.daemon.host.linux import LinuxHost

__all__ = ["QemuDriver"]


_FEATURES: Final = frozenset(
    {
        Feature.MIGRATION_P2P,
        Feature.MIGRATION_V3,
        Feature.MIGRATE_CHANGE_PROTECTION,
        Feature.XML_MIGRATABLE,
        Feature.MIGRATION_OFFLINE,
        Feature.MIGRATION_PARAMS,
    }
)


class QemuDriver(DriverBase):
    """The driver of one instance of the daemon."""

    type_name = "QEMU"
    function_prefix = "qemu"
    error_domain = ErrorDomain.QEMU

    def __init__(self, daemon: Daemon, host: LinuxHost) -> None:
        super().__init__(host)
        self._linux = host
        self.uri = f"qemu:///{daemon.paths.instance}"
        self._instance = daemon.paths.instance
        self.emulators = EmulatorCatalog(daemon.paths.cache)
        references = References(self)
        self.hypervisor = QemuHypervisor(
            self.emulators,
            daemon.paths.runtime / RUNTIME_DIRECTORY,
            daemon.paths.log / "qemu",
            {
                "bridge": BridgeSource(),
                "ethernet": EthernetSource(),
                "network": NetworkPlug(references, self),
            },
            daemon.paths.state / "qemu" / "nvram",
        )
        self.hypervisor.references = references
        self.domains = DomainRegistry(daemon, self, self.hypervisor, "qemu")
        self.domains.listeners.append(notices.handle)
        monitor_events = MonitorEvents()
        self.domains.listeners.append(monitor_events.handle)
        self.add(MonitorEvents, monitor_events)
        self.add(DomainRegistry, self.domains)
        self.add(GuestCpus, EmulatedCpus(self.emulators))  # type: ignore[type-abstract] # offered under a contract
        self._daemon = daemon
        self._version: int | None = None

    def accepts(self, uri: SplitResult) -> bool:
        """Whether a URI leads here; ``pyhyve:///`` is another name."""
        return uri.scheme in {"qemu", "pyhyve"} and uri.path == f"/{self._instance}"

    def version(self) -> int:
        """Version of the emulator used by default."""
        if self._version is None:
            path = self.emulators.default_path("x86_64", "qemu")
            if path is None:
                return version_number(7, 2, 0)
            self._version = version_number(*self.emulators.probed(path).version)
        return self._version

    def max_vcpus(self, type_name: str | None) -> int:
        """Most processors of a machine. Raises LibvirtError."""
        if type_name is not None and type_name.lower() not in {"qemu", "kvm"}:
            raise invalid_argument(f"unknown type '{type_name}'")
        path = self.emulators.default_path("x86_64", "qemu")
        if path is None:
            return 16
        emulator = self.emulators.probed(path)
        machine = emulator.machine(None)
        return machine.vcpus_max if machine is not None else 16

    def supports_feature(self, feature: int) -> bool:
        """Machines move between hosts by protocol 3."""
        return feature in _FEATURES

    async def capabilities(self) -> str:
        """The host, and what its emulators can run."""
        return await self._daemon.run_blocking(capabilities, self.emulators, self._linux)

    async def domain_capabilities(
        self, emulator: str | None, arch: str | None, machine: str | None, virt_type: str | None
    ) -> str:
        """What a machine on an emulator may have."""
        return await self._daemon.run_blocking(domain_capabilities, self.emulators, emulator, arch, machine, virt_type)

    async def start(self) -> None:
        """Read definitions and find machines."""
        await self._daemon.run_blocking(self._probe)
        bindings = self.hypervisor.filters = self.offers(FilterBindings)
        await self.domains.start()
        for domain in self.domains if bindings is not None else ():
            for interface in domain.devices.interface if domain.active else ():
                port = interface.target.dev if interface.target is not None else None
                if interface.filterref is not None and port is not None and bindings is not None:
                    bindings.remember(binding_of(interface, port, domain.live))

    def _probe(self) -> None:
        """Ask the default emulator what it is now, so that the first client does not wait for it."""
        try:
            self.version()
        except LibvirtError:
            self._version = version_number(7, 2, 0)

    async def stop(self) -> None:
        """Let every machine go on."""
        await self.domains.stop()
