"""Whether a machine's state fits another document: what the guest sees must stay what it is.

A machine that is saved or moved under a document of the client's is put together again from that document. QEMU refuses
a state that does not fit it, which would be after the machine it came from has ended. What may differ is what only the
host sees: sources of disks and interfaces, backends, what happens when the guest ends.
Source: libvirt's behaviour (9.0), whose words these are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.domains.definition import processors
from pyhyve.daemon.domains.faults import unsupported
from pyhyve.rpc.errors import ErrorDomain

if TYPE_CHECKING:
    from pyhyve.daemon.errors import LibvirtError
    from pyhyve.xml.address import Address
    from pyhyve.xml.disk import Disk
    from pyhyve.xml.domain import Domain
    from pyhyve.xml.interface import Interface

__all__ = ["check_same_domain", "check_same_guest"]

_KINDS: Final = {
    "disk": "disk",
    "controller": "controller",
    "filesystem": "filesystem",
    "interface": "net card",
    "input": "input device",
    "sound": "sound card",
    "video": "video card",
    "hostdev": "host device",
    "smartcard": "smartcard",
    "serial": "serial port",
    "parallel": "parallel port",
    "channel": "channel",
    "hub": "hub device",
    "redirdev": "redirected devices",
    "watchdog": "watchdog",
    "rng": "RNG device",
    "tpm": "TPM device",
    "shmem": "shared memory device",
    "panic": "panic device",
}
"""Elements of the devices in the order they are looked at, and what messages call them."""


def check_same_domain(source: Domain, target: Domain) -> None:
    """Raise LibvirtError where a document is about another domain."""
    _same("domain uuid", source.uuid, target.uuid)
    if source.name != target.name:
        raise _unfit(f"Target domain name '{target.name}' does not match source '{source.name}'")


def check_same_guest(source: Domain, target: Domain) -> None:
    """Raise LibvirtError where the guest of one document would notice that it runs under the other."""
    _same("domain virt type", source.type, target.type)
    check_same_domain(source, target)
    _same("domain max memory", source.memory_kib, target.memory_kib)
    _same("domain current memory", source.current_memory_kib, target.current_memory_kib)
    _same("domain vCPU max", processors.at_most(source), processors.at_most(target))
    present = processors.now(source), processors.now(target)
    if present[0] != present[1]:
        first = min(present)
        raise _unfit(f"State of vCPU '{first}' differs between source and destination definitions")
    _same("domain OS type", source.os.type.type, target.os.type.type)
    _same("domain architecture", source.os.type.arch, target.os.type.arch)
    _same("domain machine type", source.os.type.machine, target.os.type.machine)
    for kind, words in _KINDS.items():
        pair = [list(getattr(each.devices, kind)) if each.devices is not None else [] for each in (source, target)]
        _same(f"domain {words} count", len(pair[0]), len(pair[1]))
        if kind == "disk":
            for disks in pair:
                disks.sort(key=lambda disk: (len(disk.target.dev), disk.target.dev))
        for one, other in zip(*pair, strict=True):
            _check_device(kind, one, other)
    balloons = [each.devices.memballoon if each.devices is not None else None for each in (source, target)]
    _same("balloon model", *(None if each is None else each.model for each in balloons))
    if balloons[0] is not None and balloons[1] is not None:
        _same_place(balloons[0].address, balloons[1].address)


def _check_device(kind: str, source: Any, target: Any) -> None:
    if kind == "disk":
        _check_disk(source, target)
    elif kind == "interface":
        _check_interface(source, target)
    elif kind == "controller":
        _same("controller type", source.type, target.type)
        _same("controller index", source.index, target.index)
        _same("controller model", source.model, target.model)
    elif kind == "watchdog":
        _same("watchdog model", source.model, target.model)
    _same_place(getattr(source, "address", None), getattr(target, "address", None))


def _check_disk(source: Disk, target: Disk) -> None:
    _same("disk device", source.device, target.device)
    _same("disk bus", source.target.bus, target.target.bus)
    _same("disk", source.target.dev, target.target.dev)
    _same("disk serial", source.serial, target.serial)
    _same("disk wwn", source.wwn, target.wwn)
    if source.readonly != target.readonly:
        raise _unfit("Target disk access mode does not match source")


def _check_interface(source: Interface, target: Interface) -> None:
    _same("network card mac", *(None if each.mac is None else each.mac.address.lower() for each in (source, target)))
    _same("network card model", *(None if each.model is None else each.model.type for each in (source, target)))


def _same_place(source: Address | None, target: Address | None) -> None:
    """Compare addresses on PCI, where both have one."""
    if source is None or target is None or source.type != "pci" or target.type != "pci":
        return
    _same("device PCI address", source.pci_text, target.pci_text)


def _same(what: str, source: object, target: object) -> None:
    if source != target:
        words = ["<null>" if each is None else each for each in (target, source)]
        raise _unfit(f"Target {what} {words[0]} does not match source {words[1]}")


def _unfit(detail: str) -> LibvirtError:
    return unsupported(detail, ErrorDomain.DOMAIN)
