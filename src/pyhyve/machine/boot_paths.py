"""The order of `bootindex`, in the form that firmware takes: Open Firmware device paths (IEEE 1275)."""

from __future__ import annotations

from pyhyve.machine.block.errors import ChangeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyhyve.devices.pci.device import PciDevice
    from pyhyve.machine.hardware.devices import PluggedDevice
    from pyhyve.machine.hardware.hardware import Hardware

_ROOT = "/pci@i0cf8"
_NODES = {"virtio-blk-pci": ("scsi", "/disk@0,0"), "virtio-net-pci": ("ethernet", "/ethernet-phy@0")}


def boot_paths(hardware: Hardware) -> list[str]:
    """Paths of the devices with a boot index, the lowest first. Raises ChangeError when two have the same."""
    if "devices" not in hardware.__dict__:
        return []
    found: dict[int, str] = {}
    for plugged in hardware.devices:
        index = plugged.values.get("bootindex")
        if index is None or index < 0:
            continue
        if index in found:
            msg = f"The bootindex {index} has already been used"
            raise ChangeError(msg)
        found[index] = _path(hardware, plugged)
    return [found[index] for index in sorted(found)]


def _path(hardware: Hardware, plugged: PluggedDevice) -> str:
    name = plugged.model.name
    if name in {"ide-hd", "ide-cd"}:
        controller, bus = hardware.ide_bus(plugged.bus)
        place = f"{controller.slot:x},{controller.function:x}"
        return f"{_ROOT}/ide@{place}/drive@{bus:x}/disk@{plugged.values['unit']:x}"
    if name == "scsi-cd":
        host = hardware.devices.owner_of(plugged.bus)
        return f"{_pci(host, 'scsi')}/channel@0/disk@{plugged.values['scsi-id']:x},0"
    kind, rest = _NODES[name]
    return _pci(plugged, kind) + rest


def _pci(plugged: PluggedDevice, kind: str) -> str:
    function = plugged.function
    if function is None:
        return ""
    return _place(function, kind)


def _place(function: PciDevice, kind: str) -> str:
    number = f",{function.function:x}" if function.function else ""
    bridge = None if function.host is None else function.host.bridge
    above = _ROOT if bridge is None else _place(bridge, "pci-bridge")
    return f"{above}/{kind}@{function.slot:x}{number}"
