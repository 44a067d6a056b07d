"""The types of QEMU's object model that this machine has, with their parents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.accel.cpu_models import MODEL_NAMES
from pyhyve.machine.hardware.models import MODELS, MODERN_NAMES
from pyhyve.machine.hardware.objects import KINDS
from pyhyve.machine.monitor.versions import MACHINE_TYPE, MICROVM_MACHINE, Q35_MACHINE
from pyhyve.support.records import dataclass, field

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class QomType:
    """A type, what it is a kind of, and its properties beyond a device's."""

    name: str
    parent: str
    is_abstract: bool = False
    properties: Mapping[str, str] = field(default_factory=dict)


BOARD_DEVICES = ("ICH9-LPC", "PIIX4_PM")
"""What boards have, and nobody can add."""
_SLEEP_STATES = {"disable_s3": "uint8", "disable_s4": "uint8"}
_MACHINE = {"memory-backend": "string", "kernel": "string", "initrd": "string", "append": "string", "usb": "bool"}
_MEMORY = {"size": "int", "share": "bool", "prealloc": "bool", "dump": "bool", "merge": "bool", "reserve": "bool"}
_OBJECT_PROPERTIES: dict[str, Mapping[str, str]] = {
    "memory-backend-ram": _MEMORY,
    "memory-backend-memfd": _MEMORY | {"hugetlb": "bool", "hugetlbsize": "int", "seal": "bool"},
    "memory-backend-file": _MEMORY | {"mem-path": "string", "readonly": "bool"},
    "rng-random": {"filename": "string"},
    "iothread": {"poll-max-ns": "int", "poll-grow": "int", "poll-shrink": "int"},
    "secret": {"data": "string", "file": "string", "format": "QCryptoSecretFormat"},
}
_OBJECT_PARENTS = {"rng-random": "rng-backend", "rng-builtin": "rng-backend", "secret": "secret_common"}
_ABSTRACT = (
    ("device", "object"),
    ("pci-device", "device"),
    ("isa-device", "device"),
    ("scsi-device", "device"),
    ("scsi-disk-base", "scsi-device"),
    ("ide-device", "device"),
    ("virtio-device", "device"),
    ("pci-vga", "pci-device"),
    ("virtio-pci", "pci-device"),
    ("pci-uhci-usb", "pci-device"),
    ("pci-xhci", "pci-device"),
    ("base-pci-bridge", "pci-device"),
    ("pcie-port", "base-pci-bridge"),
    ("pcie-slot", "pcie-port"),
    ("pcie-root-port-base", "pcie-slot"),
    ("virtio-blk-pci-base", "virtio-pci"),
    ("virtio-net-pci-base", "virtio-pci"),
    ("virtio-rng-pci-base", "virtio-pci"),
    ("virtio-scsi-pci-base", "virtio-pci"),
    ("virtio-serial-pci-base", "virtio-pci"),
    ("virtio-balloon-pci-base", "virtio-pci"),
    ("virtio-vsock-pci-base", "virtio-pci"),
    ("virtio-serial-port", "device"),
    ("cpu", "device"),
    ("x86_64-cpu", "cpu"),
    ("machine", "object"),
    ("x86-machine", "machine"),
    ("generic-pc-machine", "x86-machine"),
    ("memory-backend", "object"),
    ("rng-backend", "object"),
    ("secret_common", "object"),
    ("chardev", "object"),
    ("accel", "object"),
)


def _types() -> dict[str, QomType]:
    found = [QomType(name, parent, is_abstract=True) for name, parent in _ABSTRACT]
    found += [QomType(model.name, model.parent) for model in MODELS.values()]
    found += [QomType(name, MODELS[same].parent) for name, same in MODERN_NAMES.items()]
    for kind in KINDS:
        parent = "memory-backend" if kind.startswith("memory-backend") else _OBJECT_PARENTS.get(kind, "object")
        found.append(QomType(kind, parent, properties=_OBJECT_PROPERTIES.get(kind, {})))
    found += [QomType(f"{name}-x86_64-cpu", "x86_64-cpu") for name in MODEL_NAMES]
    found.append(QomType(f"{MACHINE_TYPE}-machine", "generic-pc-machine", properties=_MACHINE))
    found.append(QomType(f"{Q35_MACHINE}-machine", "generic-pc-machine", properties=_MACHINE))
    found.append(QomType(f"{MICROVM_MACHINE}-machine", "x86-machine", properties=_MACHINE))
    found.append(QomType("none-machine", "machine", properties=_MACHINE))
    found += [QomType(name, "accel") for name in ("tcg-accel", "kvm-accel")]
    found += [QomType(name, "isa-device") for name in ("i8042", "mc146818rtc")]
    found += [QomType(name, "pci-device", properties=_SLEEP_STATES) for name in BOARD_DEVICES]
    return {entry.name: entry for entry in found}


TYPES = _types()

BALLOON_STATS = {
    "swap-in": "swap_in",
    "swap-out": "swap_out",
    "major-faults": "majflt",
    "minor-faults": "minflt",
    "free-memory": "memfree",
    "total-memory": "memtot",
    "available-memory": "avail",
    "disk-caches": "caches",
    "htlb-pgalloc": "htlb_pgalloc",
    "htlb-pgfail": "htlb_pgfail",
}
"""QEMU's names of the balloon's statistics, and the specification's."""


def is_a(name: str, ancestor: str) -> bool:
    """Whether type `name` is, or derives from, `ancestor`."""
    while True:
        if name == ancestor:
            return True
        entry = TYPES.get(name)
        if entry is None:
            return False
        name = entry.parent
