"""Taking a PCI device from the host for a guest, giving it back, and resetting it. Everything here blocks.

Source: Linux, ``Documentation/ABI/testing/sysfs-bus-pci`` (driver_override, drivers_probe, reset) and
``Documentation/driver-api/vfio.rst``.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pyhyve.daemon.faults import Faults
from pyhyve.rpc.errors import ErrorCode, ErrorDomain

if TYPE_CHECKING:
    from pyhyve.daemon.resources.node_devices import HostDevice

__all__ = ["PciAssignment"]

_STUB: Final = "vfio-pci"
_LOAD_TIMEOUT_S: Final = 30
_FAULTS: Final = Faults(ErrorDomain.QEMU)
_PCI: Final = Faults(ErrorDomain.NONE)


@dataclass(frozen=True, slots=True)
class PciAssignment:
    """Steers the drivers of PCI devices through sysfs."""

    sysfs: Path = Path("/sys")
    devices: Path = Path("/dev")

    def vfio_works(self) -> bool:
        """Whether the kernel has VFIO and an IOMMU keeps devices apart."""
        groups = self.sysfs / "kernel/iommu_groups"
        return (self.devices / "vfio/vfio").exists() and groups.is_dir() and any(groups.iterdir())

    def check_driver(self, wanted: str | None) -> None:
        """Raise LibvirtError where devices cannot be handed to guests by this driver (none: VFIO)."""
        if wanted in {None, "vfio"}:
            if not self.vfio_works():
                detail = "VFIO device assignment is currently not supported on this system"
                raise _FAULTS.make(ErrorCode.ARGUMENT_UNSUPPORTED, detail)
        elif wanted == "kvm":
            detail = "KVM device assignment is no longer supported on this system"
            raise _FAULTS.make(ErrorCode.ARGUMENT_UNSUPPORTED, detail)
        else:
            raise _FAULTS.argument(f"unknown driver name '{wanted}'")

    def _path(self, device: HostDevice) -> Path:
        address = device.pci_address
        if address is None:
            raise _FAULTS.argument(f"device {device.name} is not a PCI device")
        return self.sysfs / "bus/pci/devices" / address

    @staticmethod
    def _driver(path: Path) -> str | None:
        link = path / "driver"
        return link.resolve().name if link.exists() else None

    def _rebind(self, path: Path, override: str) -> None:
        """Have the kernel choose a device's driver anew, ``override`` first. Raises LibvirtError."""
        try:
            (path / "driver_override").write_text(override + "\n", encoding="ascii")
            if (path / "driver").exists():
                (path / "driver/unbind").write_text(path.name, encoding="ascii")
            (self.sysfs / "bus/pci/drivers_probe").write_text(path.name, encoding="ascii")
        except OSError as error:
            what = f"Failed to bind PCI device '{path.name}' to {override or 'its driver'}"
            raise _PCI.system(what, error) from error

    def detach(self, device: HostDevice, driver: str | None) -> None:
        """Take a device from its driver, for VFIO. Raises LibvirtError."""
        self.check_driver(driver)
        path = self._path(device)
        if self._driver(path) == _STUB:
            return
        if not (self.sysfs / "bus/pci/drivers" / _STUB).is_dir():
            _load_stub()
        self._rebind(path, _STUB)
        if self._driver(path) != _STUB:
            raise _PCI.internal(f"Failed to bind PCI device '{path.name}' to {_STUB}")

    def reattach(self, device: HostDevice) -> None:
        """Give a device that was taken back to the host. One that is not taken stays as it is. Raises LibvirtError."""
        path = self._path(device)
        if self._driver(path) == _STUB:
            self._rebind(path, "")

    def reset(self, device: HostDevice) -> None:
        """Reset a device, by what means the kernel finds. Raises LibvirtError."""
        path = self._path(device)
        if self._driver(path) == _STUB:
            return  # VFIO resets a device whenever it is opened
        means = path / "reset"
        if not means.exists():
            detail = "no FLR, PM reset or bus reset available"
            raise _PCI.internal(f"Unable to reset PCI device {path.name}: {detail}")
        try:
            means.write_text("1", encoding="ascii")
        except OSError as error:
            raise _PCI.internal(f"Unable to reset PCI device {path.name}: {error.strerror}") from error


def _load_stub() -> None:
    try:
        done = subprocess.run(["modprobe", _STUB], capture_output=True, text=True, check=False, timeout=_LOAD_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _PCI.internal(f"Failed to load PCI driver module {_STUB}: {error}") from error
    if done.returncode:
        raise _PCI.internal(f"Failed to load PCI driver module {_STUB}: {done.stderr.strip()}")
