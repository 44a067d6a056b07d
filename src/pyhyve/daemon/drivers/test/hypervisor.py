"""The test driver's hypervisor: definitions are completed a little, machines only pretend."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from pyhyve.daemon.domains.definition.complete import complete_basics
from pyhyve.daemon.domains.emulators import Emulator, Emulators, MachineType
from pyhyve.daemon.domains.faults import unsupported
from pyhyve.daemon.drivers.test.machine import TestMachine
from pyhyve.daemon.errors import LibvirtError
from pyhyve.rpc.errors import ErrorDomain
from pyhyve.xml.element import replace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyhyve.daemon.domains.hypervisor import MachineListener, MachineRecord, NetworkSource
    from pyhyve.xml.domain import Domain

__all__ = ["TestHypervisor"]

EMULATOR_PATH: Final = "/usr/bin/test-hv"
VCPUS_MAX: Final = 32
_MACHINE: Final = MachineType("pc", "pc", VCPUS_MAX)
_EMULATOR: Final = Emulator(
    path=EMULATOR_PATH,
    architecture="i686",
    version=(0, 0, 2),
    package="test",
    machines={"pc": _MACHINE},
    default_machine="pc",
    devices=frozenset(),
    commands=frozenset(),
    kvm=False,
)


class _Emulators:
    def default_path(self, architecture: str, virt_type: str) -> str | None:
        return EMULATOR_PATH

    def probed(self, path: str) -> Emulator:
        return _EMULATOR


class TestHypervisor:
    """Runs machines that only pretend."""

    __test__ = False  # pytest: no test
    emulators: Emulators = _Emulators()
    sources: Mapping[str, NetworkSource] = {}

    def complete(self, domain: Domain) -> Domain:
        """Return a definition with what every domain has. Raises LibvirtError."""
        if domain.type != "test":
            raise unsupported(f"unexpected domain type {domain.type}, expecting test", ErrorDomain.TEST)
        if not domain.uuid:
            domain = replace(domain, uuid=str(uuid.uuid4()))
        os = domain.os
        return complete_basics(replace(domain, os=replace(os, type=replace(os.type, arch=os.type.arch or "i686"))))

    def nvram_path(self, domain: Domain) -> None:
        """Return nothing: there is no firmware."""

    async def prepare(self, domain: Domain, number: int) -> Domain:
        """Return the definition: there is nothing to choose."""
        return replace(domain, id=number)

    async def launch(
        self, domain: Domain, record: MachineRecord, listener: MachineListener, *, incoming: str | None = None
    ) -> tuple[TestMachine, Domain]:
        """Start a machine."""
        if incoming is not None:
            raise _lacks("restoring")
        machine = TestMachine(domain, listener)
        record.pid = machine.pid
        return machine, domain

    async def adopt(self, record: MachineRecord, listener: MachineListener) -> None:
        """Find none: they end with the daemon."""

    async def clean_up(self, record: MachineRecord, domain: Domain) -> None:
        """Nothing is left."""

    async def connect_interface(self, interface: Any, owner: Any = None) -> NoReturn:
        """There are no taps."""
        raise _lacks("plugging in network interfaces")

    async def disconnect_interface(self, interface: Any) -> None:
        """There are no taps."""

    async def limit_interface(self, interface: Any) -> None:
        """There are no taps."""

    def free_tap_name(self) -> str:
        """Return a name that will do."""
        return "testnet0"

    def device_commands(self, devices: Any, name: str, device: Any) -> NoReturn:
        """Devices cannot be plugged in."""
        raise _lacks("plugging in devices")

    def disk_nodes(self, disk: Any) -> list[dict[str, Any]]:
        """Disks have no nodes."""
        return []

    async def prepare_disk(self, disk: Any, number: int) -> NoReturn:
        """Disks cannot be plugged in."""
        raise _lacks("plugging in disks")

    def prepare_channel(self, channel: Any, number: int, name: str) -> Any:
        """Return the channel: nobody will open it."""
        return channel

    async def command_preview(self, domain: Domain) -> NoReturn:
        """There is no command line."""
        function = "virConnectDomainXMLToNative"
        raise LibvirtError.no_support(function, ErrorDomain.DOMAIN)

    def runtime_directory(self, name: str) -> Path:
        """Return a path nothing is written to."""
        return Path("/nowhere", name)


def _lacks(what: str) -> LibvirtError:
    return unsupported(f"{what} is not something the test driver does", ErrorDomain.TEST)
