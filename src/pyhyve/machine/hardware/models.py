"""The devices there are, and their properties: QEMU's names, types and defaults for what ours has.

One table answers `-device help`, `-device NAME,help`, `device-list-properties` and `qom-list-types`, and checks what a
`-device` or a `device_add` asks for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.machine.block.errors import ChangeError
from pyhyve.support.records import dataclass, field

if TYPE_CHECKING:
    from collections.abc import Mapping

_SWITCHES = {"on": True, "yes": True, "true": True, "y": True, "off": False, "no": False, "false": False, "n": False}
_SUFFIXES = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


@dataclass(frozen=True, slots=True)
class Property:
    """A property: its QOM type, and which values it takes besides those of the type."""

    type: str = "str"
    summary: str = ""
    default: str | int | bool | None = None
    only: tuple[str | int | bool, ...] = ()
    """When not empty: the values that are supported."""


@dataclass(frozen=True, slots=True)
class Model:
    """A device: `bus` is the kind of bus it is plugged into, `provides` the kind it brings along."""

    name: str
    category: str
    bus: str
    parent: str
    summary: str = ""
    alias: str = ""
    provides: str = ""
    hotpluggable: bool = True
    properties: Mapping[str, Property] = field(default_factory=dict)


_BOOL_ON, _BOOL_OFF = Property("bool", "on/off", default=True), Property("bool", "on/off", default=False)
_PCI = {
    "addr": Property("int32", "Slot and optional function number, example: 06.0 or 06", -1),
    "multifunction": Property("bool", "on/off", default=False),
    "rombar": Property("uint32", default=1),
    "romfile": Property("str", only=("",)),
    "acpi-index": Property("uint32", default=0, only=(0,)),
}
_BRIDGE = {name: known for name, known in _PCI.items() if not name.startswith("rom")}
_VIRTIO = {
    "iommu_platform": Property("bool", "on/off", default=False, only=(False,)),
    # No default: offered where the device's own code serves the queues, which is not so on the emulator.
    "packed": Property("bool", "on/off"),
    "event_idx": Property("bool", "on/off", default=True),
    "indirect_desc": Property("bool", "on/off", default=True),
}
_VIRTIO_ON_PCI = _PCI | {
    "disable-legacy": Property("OnOffAuto", "on/off/auto", "auto", only=("auto", "on")),
    "disable-modern": Property("bool", default=False, only=(False,)),
    "ioeventfd": Property("bool", "on/off", default=True),
    "ats": Property("bool", "on/off", default=False, only=(False,)),
    "vectors": Property("uint32"),
}
_VIRTIO_PCI = _VIRTIO_ON_PCI | _VIRTIO
_BOOT_INDEX = {"bootindex": Property("int32")}
_DRIVE = {
    "drive": Property("str", "Node name or ID of a block device to use as a backend"),
    "serial": Property("str"),
    **_BOOT_INDEX,
    "logical_block_size": Property("size", "A power of two between 512 B and 2 MiB", 0),
    "physical_block_size": Property("size", "A power of two between 512 B and 2 MiB", 0),
    "write-cache": Property("OnOffAuto", "on/off/auto", "auto"),
    "share-rw": Property("bool", default=False),
    "werror": Property("BlockdevOnError", "Error handling policy, report/ignore/enospc/stop/auto", "auto"),
    "rerror": Property("BlockdevOnError", "Error handling policy, report/ignore/enospc/stop/auto", "auto"),
}

_IDE = _DRIVE | {
    "unit": Property("uint32"),
    "logical_block_size": Property("size", default=0, only=(0, 512)),
    "physical_block_size": Property("size", default=0, only=(0, 512)),
    "model": Property("str"),
    "device_id": Property("str"),
}

MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        Model(
            "virtio-blk-pci",
            "Storage",
            "PCI",
            "virtio-blk-pci-base",
            alias="virtio-blk",
            properties=_VIRTIO_PCI
            | _DRIVE
            | {
                "num-queues": Property("uint16", default=1),
                "queue-size": Property("uint16", default=256),
                "iothread": Property("link<iothread>"),
                "discard": Property("bool", default=True),
                "write-zeroes": Property("bool", default=True, only=(True,)),
                "config-wce": Property("bool", default=True, only=(True,)),
            },
        ),
        Model(
            "virtio-scsi-pci",
            "Storage",
            "PCI",
            "virtio-scsi-pci-base",
            alias="virtio-scsi",
            provides="SCSI",
            properties=_VIRTIO_PCI
            | {
                "num_queues": Property("uint32", default=1, only=(1,)),
                "iothread": Property("link<iothread>"),
            },
        ),
        Model(
            "scsi-cd",
            "Storage",
            "SCSI",
            "scsi-disk-base",
            "virtual SCSI CD-ROM",
            properties=_DRIVE
            | {
                "channel": Property("uint32", default=0, only=(0,)),
                "scsi-id": Property("uint32"),
                "lun": Property("uint32", default=0, only=(0,)),
                "device_id": Property("str"),
            },
        ),
        Model("ide-hd", "Storage", "IDE", "ide-device", "virtual IDE disk", hotpluggable=False, properties=_IDE),
        Model("ide-cd", "Storage", "IDE", "ide-device", "virtual IDE CD-ROM", hotpluggable=False, properties=_IDE),
        Model(
            "ich9-ahci",
            "Storage",
            "PCI",
            "pci-device",
            alias="ahci",
            provides="IDE",
            hotpluggable=False,
            properties=_PCI,
        ),
        Model(
            "virtio-net-pci",
            "Network",
            "PCI",
            "virtio-net-pci-base",
            alias="virtio-net",
            properties=_VIRTIO_PCI
            | {
                "netdev": Property("str", "ID of a netdev to use as a backend"),
                "mac": Property("str", "Ethernet 6-byte MAC Address, example: 52:54:00:12:34:56"),
                **_BOOT_INDEX,
                "host_mtu": Property("uint16", default=0),
                "mq": Property("bool", "on/off"),
            },
        ),
        Model(
            "virtio-rng-pci",
            "Misc",
            "PCI",
            "virtio-rng-pci-base",
            alias="virtio-rng",
            properties=_VIRTIO_PCI
            | {
                "rng": Property("link<rng-backend>"),
                "max-bytes": Property("uint64"),
                "period": Property("uint32", default=65536),
            },
        ),
        Model(
            "virtio-balloon-pci",
            "Misc",
            "PCI",
            "virtio-balloon-pci-base",
            alias="virtio-balloon",
            properties=_VIRTIO_PCI
            | {
                "deflate-on-oom": Property("bool", "on/off", default=False),
                "free-page-reporting": Property("bool", "on/off", default=False),
                "guest-stats-polling-interval": Property("int", default=0),
            },
        ),
        Model(
            "virtio-serial-pci",
            "Input",
            "PCI",
            "virtio-serial-pci-base",
            alias="virtio-serial",
            provides="virtio-serial-bus",
            properties=_VIRTIO_PCI | {"max_ports": Property("uint32", default=31)},
        ),
        Model(
            "virtserialport",
            "Input",
            "virtio-serial-bus",
            "virtio-serial-port",
            properties={
                "chardev": Property("str", "ID of a chardev to use as a backend"),
                "nr": Property("uint32"),
                "name": Property("str"),
            },
        ),
        Model(
            "virtconsole",
            "Input",
            "virtio-serial-bus",
            "virtserialport",
            properties={
                "chardev": Property("str", "ID of a chardev to use as a backend"),
                "nr": Property("uint32"),
                "name": Property("str"),
            },
        ),
        Model(
            "virtio-vsock-pci",
            "Misc",
            "PCI",
            "virtio-vsock-pci-base",
            "guest-cid=N,path=SOCKET: connections become Unix sockets",
            properties=_VIRTIO_PCI | {"guest-cid": Property("uint64"), "path": Property("str")},
        ),
        Model(
            "isa-serial",
            "Input",
            "ISA",
            "isa-device",
            hotpluggable=False,
            properties={
                "chardev": Property("str", "ID of a chardev to use as a backend"),
                "index": Property("uint32"),
                "iobase": Property("uint32"),
                "irq": Property("uint32"),
            },
        ),
        Model(
            "VGA",
            "Display",
            "PCI",
            "pci-vga",
            hotpluggable=False,
            properties=_PCI | {"vgamem_mb": Property("uint32", default=16, only=(16,))},
        ),
        Model(
            "vmgenid",
            "Misc",
            "",
            "device",
            hotpluggable=False,
            properties={"guid": Property("str", 'UUID (aka GUID) or "auto" for random value (default)', "auto")},
        ),
        Model(
            "pcie-root-port",
            "Bridge",
            "PCI",
            "pcie-root-port-base",
            "PCI Express Root Port",
            provides="PCI",
            hotpluggable=False,
            properties=_BRIDGE
            | {
                "port": Property("uint8", default=0),
                "chassis": Property("uint8", default=0),
                "slot": Property("uint16", default=0),
                "hotplug": Property("bool", default=True),
                "power_controller_present": Property("bool", default=True, only=(True,)),
            },
        ),
        Model(
            "pcie-pci-bridge",
            "Bridge",
            "PCI",
            "base-pci-bridge",
            provides="PCI",
            hotpluggable=False,
            properties=_BRIDGE,
        ),
        Model(
            "pci-bridge",
            "Bridge",
            "PCI",
            "base-pci-bridge",
            "Standard PCI Bridge",
            provides="PCI",
            hotpluggable=False,
            properties=_BRIDGE
            | {"chassis_nr": Property("uint8", default=0), "shpc": Property("bool", "on/off", default=False)},
        ),
        Model(
            "qemu-xhci",
            "USB",
            "PCI",
            "pci-xhci",
            hotpluggable=False,
            properties=_PCI | {"p2": Property("uint32", default=4), "p3": Property("uint32", default=4)},
        ),
        Model(
            "piix3-usb-uhci",
            "USB",
            "PCI",
            "pci-uhci-usb",
            hotpluggable=False,
            properties=_PCI,
        ),
    )
}
_VIRTIO_DEVICE = "virtio-device"


def _without_pci(model: Model) -> Model:
    """The same device on a board without PCI."""
    return Model(
        model.name.removesuffix("-pci") + "-device",
        model.category,
        "virtio-bus",
        _VIRTIO_DEVICE,
        model.summary,
        provides=model.provides,
        hotpluggable=False,
        properties={name: known for name, known in model.properties.items() if name not in _VIRTIO_ON_PCI},
    )


MODELS |= {
    bare.name: bare for bare in [_without_pci(model) for model in MODELS.values() if model.name.startswith("virtio-")]
}
ALIASES = {model.alias: model.name for model in MODELS.values() if model.alias}
MODERN_NAMES = {
    f"{name}-non-transitional": name for name in MODELS if name.startswith("virtio-") and name.endswith("-pci")
}
"""Names of virtio devices without the interface from before virtio 1.0, which ours never have."""
ALIASES |= MODERN_NAMES
_GENERAL = {"driver", "id", "bus"}


def find_model(driver: str) -> Model:
    """The device that `driver` names. Raises ChangeError in QEMU's words."""
    model = MODELS.get(ALIASES.get(driver, driver))
    if model is None:
        msg = f"'{driver}' is not a valid device model name"
        raise ChangeError(msg)
    return model


def check_properties(model: Model, given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `given`, converted to the properties' types; `driver`, `id` and `bus` aside. Raises ChangeError."""
    values: dict[str, Any] = {}
    for key, value in given.items():
        if key in _GENERAL:
            continue
        known = model.properties.get(key)
        if known is None:
            msg = f"Property '{model.name}.{key}' not found"
            raise ChangeError(msg)
        converted = convert(f"{model.name}.{key}", known, value)
        if known.only and converted not in known.only:
            shown = " or ".join(_show(choice) for choice in known.only)
            msg = f"{model.name}: {key}={_show(value)} is not supported (only {shown})"
            raise ChangeError(msg)
        values[key] = converted
    return values


def _show(value: Any) -> str:  # noqa: ANN401 - any JSON value
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value) or "''"


def convert(name: str, known: Property, value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """`value`, of the command line's text or of JSON, as the property's type. Raises ChangeError."""
    kind = known.type
    parameter = name.partition(".")[2]
    if kind == "bool":
        found = _SWITCHES.get(value.lower()) if isinstance(value, str) else value
        if not isinstance(found, bool):
            msg = f"Parameter '{parameter}' expects 'on' or 'off'"
            raise ChangeError(msg)
        return found
    if kind == "int32" and parameter == "addr":
        return str(value)
    if kind.startswith(("uint", "int", "size")):
        return _number(parameter, kind, value)
    if kind == "OnOffAuto" and isinstance(value, bool):
        return "on" if value else "off"
    if not isinstance(value, str):
        msg = f"Invalid parameter type for '{parameter}', expected: string"
        raise ChangeError(msg)
    if kind == "OnOffAuto" and value not in {"on", "off", "auto"}:
        msg = f"Parameter '{parameter}' does not accept value '{value}'"
        raise ChangeError(msg)
    if kind == "BlockdevOnError" and value not in {"report", "ignore", "enospc", "stop", "auto"}:
        msg = f"Parameter '{parameter}' does not accept value '{value}'"
        raise ChangeError(msg)
    return value


def _number(parameter: str, kind: str, value: Any) -> int:  # noqa: ANN401 - any JSON value
    number: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif isinstance(value, str) and len(value) < 24:
        digits, scale = value, 1
        if kind == "size" and value[-1:].lower() in _SUFFIXES and value[-1:]:
            digits, scale = value[:-1], _SUFFIXES[value[-1].lower()]
        try:
            number = int(digits, 0) * scale
        except ValueError:
            number = None
    if number is None:
        msg = f"Invalid parameter type for '{parameter}', expected: integer"
        raise ChangeError(msg)
    bits = int(kind.removeprefix("u").removeprefix("int") or 64) if "int" in kind else 63
    low, high = (0, (1 << bits) - 1) if kind.startswith(("u", "size")) else (-(1 << bits - 1), (1 << bits - 1) - 1)
    if not low <= number <= high:
        msg = f"Parameter '{parameter}' expects {kind}_t" if "int" in kind else f"Parameter '{parameter}' is too large"
        raise ChangeError(msg)
    return number


def describe_properties(model: Model) -> list[dict[str, Any]]:
    """`ObjectPropertyInfo` of each property."""
    described = []
    for name, known in model.properties.items():
        entry: dict[str, Any] = {"name": name, "type": known.type}
        if known.summary:
            entry["description"] = known.summary
        if known.default is not None:
            entry["default-value"] = known.default
        described.append(entry)
    return described
