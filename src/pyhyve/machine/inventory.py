"""What a machine consists of, for those who ask: a monitor's queries."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pyhyve.support.records import dataclass, field

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
class Identity:
    """A machine's UUID, without the module of that name: it is slow to load, and few look at it."""

    octets: bytes

    @staticmethod
    def of(uuid: UUID | None) -> Identity:
        """That of `uuid`, or a random one (RFC 9562, 5.4)."""
        if uuid is not None:
            return Identity(uuid.bytes)
        made = bytearray(os.urandom(16))
        made[6] = made[6] & 0x0F | 0x40
        made[8] = made[8] & 0x3F | 0x80
        return Identity(bytes(made))

    @property
    def bytes_le(self) -> bytes:
        """As SMBIOS has it: the first three fields in little-endian order."""
        given = self.octets
        return given[3::-1] + given[5:3:-1] + given[7:5:-1] + given[8:]


@dataclass(frozen=True, slots=True)
class Inventory:
    """Filled by the builder; the machine lock guards the lists once the machine runs."""

    config: MachineConfig
    identity: Identity
    pci: PciBus
    disks: list[PluggedDisk] = field(default_factory=list)
    nets: list[PluggedNet] = field(default_factory=list)
    extras: list[PluggedExtra] = field(default_factory=list)

    @property
    def uuid(self) -> UUID:
        """The machine's identity."""
        from uuid import UUID  # noqa: PLC0415 - see `Identity`

        return UUID(bytes=self.identity.octets)
