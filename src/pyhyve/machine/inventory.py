"""What a machine consists of, for those who ask: a monitor's queries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uuid import UUID

    from pyhyve.devices.pci.bus import PciBus
    from pyhyve.devices.virtio.block import VirtioBlock
    from pyhyve.devices.virtio.factory import PluggableDevice
    from pyhyve.devices.virtio.net import VirtioNet
    from pyhyve.devices.virtio.scsi import VirtioScsiCdrom
    from pyhyve.machine.config import DiskConfig, ExtraConfig, MachineConfig, NetConfig


@dataclass(frozen=True, slots=True)
class PluggedDisk:
    """A disk or CD-ROM drive in its slot."""

    config: DiskConfig
    plugged: PluggableDevice[VirtioBlock] | PluggableDevice[VirtioScsiCdrom]


@dataclass(frozen=True, slots=True)
class PluggedNet:
    """A network card in its slot."""

    config: NetConfig
    plugged: PluggableDevice[VirtioNet]


@dataclass(frozen=True, slots=True)
class PluggedExtra:
    """Any other device in its slot; `plugged` holds what `config` describes."""

    config: ExtraConfig
    plugged: PluggableDevice[Any]


@dataclass(frozen=True, slots=True)
class Inventory:
    """Filled by the builder; the machine lock guards the lists once the machine runs."""

    config: MachineConfig
    uuid: UUID
    pci: PciBus
    disks: list[PluggedDisk] = field(default_factory=list)
    nets: list[PluggedNet] = field(default_factory=list)
    extras: list[PluggedExtra] = field(default_factory=list)
