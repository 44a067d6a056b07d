"""What a machine consists of, for those who ask: a monitor's queries."""

from __future__ import annotations

import os

from pyhyve.support.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from pyhyve.devices.pci.bus import PciBus
    from pyhyve.devices.pci.device import PciDevice
    from pyhyve.devices.virtio.mmio_bus import MmioSlot
    from pyhyve.machine.config import MachineConfig
    from pyhyve.machine.hardware.hardware import Hardware


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
    """Made by the builder; what may change is in `hardware`."""

    config: MachineConfig
    identity: Identity
    pci: PciBus
    hardware: Hardware

    @property
    def uuid(self) -> UUID:
        """The machine's identity."""
        from uuid import UUID  # noqa: PLC0415 - see `Identity`

        return UUID(bytes=self.identity.octets)

    def functions(self) -> Iterator[tuple[str, PciDevice | MmioSlot]]:
        """What is on the buses of the machine, by place."""
        places: dict[PciBus, str] = {self.pci: "pci"}
        for bus, function in self.pci.walk():
            place = f"{places[bus]}.{function.slot:02x}.{function.function}"
            if function.secondary is not None:
                places[function.secondary] = place
            yield place, function
        for slot in self.hardware.mmio or ():
            yield f"mmio.{slot.number}", slot

    def present_config(self) -> MachineConfig:
        """The configuration with the devices that are there now."""
        from pyhyve.machine.hardware.present import present_config  # noqa: PLC0415 - only a save needs it

        return present_config(self.config, self.hardware)
