"""What a whole definition must not say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.daemon.domains.definition import processors
from pyhyve.daemon.domains.faults import unsupported, xml_error
from pyhyve.rpc.errors import ErrorDomain
from pyhyve.xml.devices import Devices

if TYPE_CHECKING:
    from pyhyve.daemon.domains.emulators import Emulator, MachineType
    from pyhyve.xml.domain import Domain

__all__ = ["validate_domain"]


def validate_domain(domain: Domain, emulator: Emulator, machine: MachineType) -> None:
    """Raise LibvirtError for a definition that cannot become a machine."""
    count = processors.at_most(domain)
    if count > machine.vcpus_max:
        raise unsupported(
            f"Maximum CPUs greater than specified machine type limit {machine.vcpus_max}", ErrorDomain.QEMU
        )
    topology = domain.cpu.topology if domain.cpu else None
    if topology is not None:
        product = topology.sockets * (topology.dies or 1) * topology.cores * topology.threads
        if product != count:
            raise unsupported("CPU topology doesn't match maximum vcpu count")
    devices = domain.devices or Devices()
    for disk in devices.disk:
        if disk.wwn is not None and disk.target.bus not in {"ide", "scsi", "sata", "virtio"}:
            raise unsupported("Only ide and scsi disk support wwn", ErrorDomain.QEMU)
    names = [item.alias.name for item in _with_alias(devices) if item.alias.name.startswith("ua-")]
    for name in names:
        if names.count(name) > 1:
            raise xml_error(f"non unique alias detected: {name}")
    del emulator


def _with_alias(devices: Devices) -> list[Any]:
    found: list[Any] = []
    for held in vars(devices).values():
        items = held if isinstance(held, tuple) else (held,)
        found.extend(item for item in items if getattr(item, "alias", None) is not None)
    return found
