"""What a definition needs to know about the emulator that will run it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["HOST_ARCHITECTURE", "Emulator", "Emulators", "MachineType"]

HOST_ARCHITECTURE: Final = "x86_64"
"""Architecture of the hosts we run on."""


@dataclass(frozen=True, slots=True)
class MachineType:
    """A machine type; ``canonical`` is the versioned name an alias stands for, ``default_cpu`` its CPU model."""

    name: str
    canonical: str
    vcpus_max: int
    default_cpu: str = "qemu64"
    hotpluggable_cpus: bool = False
    deprecated: bool = False


@dataclass(frozen=True, slots=True)
class Emulator:
    """One emulator as it described itself."""

    path: str
    architecture: str
    version: tuple[int, int, int]
    package: str
    machines: Mapping[str, MachineType]
    default_machine: str
    devices: frozenset[str]
    commands: frozenset[str]
    kvm: bool
    cpu_models: frozenset[str] = frozenset()
    options: frozenset[str] = frozenset()
    """Command line options it takes, without the dash."""
    objects: frozenset[str] = frozenset()
    """Types of ``-object`` it has."""
    stamp: tuple[int, int] = (0, 0)
    """Size and time of its file (nanoseconds) when it was asked."""
    cpu_features: frozenset[str] = frozenset()
    """Features its own CPU (not KVM's) has at most, in its own words."""
    unusable_cpus: frozenset[str] = frozenset()
    """Models with features its own CPU (not KVM's) has not."""
    properties: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Properties of some of its devices, by device."""

    @property
    def is_ours(self) -> bool:
        """Whether it is pyhyve's own."""
        return self.package.startswith("pyhyve")

    def has(self, device: str) -> bool:
        """Whether it has a device of that name."""
        return device in self.devices

    def machine(self, name: str | None) -> MachineType | None:
        """Return a machine type by name or alias (none: the default), or None."""
        return self.machines.get(name or self.default_machine)


class Emulators(Protocol):
    """Every emulator a driver can use."""

    def default_path(self, architecture: str, virt_type: str) -> str | None:
        """Path of the emulator for an architecture, or None where there is none."""

    def probed(self, path: str) -> Emulator:
        """Return what is known about an emulator. Raises LibvirtError where it is none."""
