"""The PCI Express capability of ports and endpoints, and the bridge from such a bus to a conventional one."""

from __future__ import annotations

from pyhyve.devices.pci import express_spec as spec
from pyhyve.devices.pci.bridge import PciBridge
from pyhyve.devices.pci.express_spec import PortType
from pyhyve.devices.pci.spec import CapabilityId

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyhyve.devices.pci.device import PciDevice


def express_capability(device: PciDevice, kind: PortType, *, port: int = 0, has_slot: bool = False) -> int:
    """Append the capability to `device`; returns its offset. Raises ValueError when configuration space is full."""
    body, writable = bytearray(spec.CAPABILITY_BYTES - 2), bytearray(spec.CAPABILITY_BYTES - 2)

    def put(offset: int, size: int, value: int, mask: int = 0) -> None:
        body[offset - 2 : offset - 2 + size] = value.to_bytes(size, "little")
        writable[offset - 2 : offset - 2 + size] = mask.to_bytes(size, "little")

    put(spec.CAPABILITIES, 2, spec.VERSION | kind << 4 | (spec.SLOT_IMPLEMENTED if has_slot else 0))
    put(spec.DEVICE_CAPABILITIES, 4, spec.ROLE_BASED_ERRORS)
    put(spec.DEVICE_CONTROL, 2, 0, spec.DEVICE_CONTROL_WRITABLE)
    active = spec.LINK_ACTIVE_REPORTING if kind is PortType.ROOT_PORT else 0
    put(spec.LINK_CAPABILITIES, 4, spec.LINK_GEN1_X1 | active | (port & 0xFF) << spec.LINK_PORT_SHIFT)
    put(spec.LINK_CONTROL, 2, 0, spec.LINK_CONTROL_WRITABLE)
    put(spec.LINK_STATUS, 2, spec.LINK_GEN1_X1)
    put(spec.LINK_CAPABILITIES_2, 4, spec.SPEEDS_GEN1)
    put(spec.LINK_CONTROL_2, 2, 1, 0xF)
    if kind is PortType.ROOT_PORT:
        put(spec.ROOT_CONTROL, 2, 0, 0x0F)
    return device.add_capability(CapabilityId.EXPRESS, bytes(body), bytes(writable))


class PciePciBridge(PciBridge):
    """The bridge from a PCI Express bus to a conventional one: QEMU's `pcie-pci-bridge`, without hotplug."""

    def __init__(self, name: str) -> None:
        super().__init__(device_id=0x000E, name=name)
        express_capability(self, PortType.PCI_BRIDGE)
