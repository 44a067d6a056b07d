"""An emulator as QEMU 7.2 describes itself, without running it."""

from __future__ import annotations

from pyhyve.daemon.domains.emulators import Emulator, MachineType

_DEVICES = (
    "rtl8139 e1000 e1000e cirrus-vga VGA qxl virtio-gpu-pci piix3-usb-uhci qemu-xhci lsi53c895a virtio-balloon-pci "
    "isa-serial virtio-serial-pci"
)
DEVICES = frozenset(_DEVICES.split())
OPTIONS = frozenset(["no-acpi", "no-hpet", "rtc", "global", "overcommit", "audiodev", "sandbox", "msg", "pidfile"])


class Emulators:
    """What definitions ask a driver's emulators."""

    def __init__(self, path: str = "/usr/bin/qemu-system-x86_64", *, package: str = "Debian") -> None:
        self.path = path
        self.package = package

    def default_path(self, architecture: str, virt_type: str) -> str | None:
        return self.path if architecture == "x86_64" else None

    def probed(self, path: str) -> Emulator:
        machines = {}
        for name, canonical, most in (("pc", "pc-i440fx-7.2", 255), ("q35", "pc-q35-7.2", 288)):
            for known in (name, canonical):
                machines[known] = MachineType(known, canonical, most)
        return Emulator(
            path=path,
            architecture="x86_64",
            version=(7, 2, 0),
            package=self.package,
            machines=machines,
            default_machine="pc",
            devices=DEVICES | {"virtio-9p-pci"},
            commands=frozenset(),
            kvm=True,
            options=OPTIONS,
            objects=frozenset({"memory-backend-ram", "iothread"}),
        )
