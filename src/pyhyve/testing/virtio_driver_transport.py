"""Drivers for the two virtio transports, on a small machine of memory, a PCI bus and an I/O loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.backends.ioloop import IoLoop
from pyhyve.devices.bus import AddressMap
from pyhyve.devices.pci import spec as pci
from pyhyve.devices.pci.bus import PciBus
from pyhyve.devices.virtio.mmio import VirtioMmio
from pyhyve.devices.virtio.pci import VirtioPci
from pyhyve.devices.virtio.spec import NO_VECTOR, CommonReg, MmioReg, PciCap
from pyhyve.memory.guest import GuestMemory
from pyhyve.testing.virtio_driver import GuestAllocator, VirtioDriver

if TYPE_CHECKING:
    from pyhyve.accel.routes import MessageRoute
    from pyhyve.devices.pci.device import PciDevice
    from pyhyve.devices.virtio.device import VirtioDevice
    from pyhyve.devices.virtio.pci import NotifyRegistrar
    from pyhyve.devices.virtio.queue import QueueLayout

_BAR_BASE = 0xE000_0000
_MSI_ADDRESS = 0xFEE0_0000


class MiniMachine:
    """What a virtio device needs around it. The loop is not started: `run` does what is due on this thread."""

    def __init__(self, memory_bytes: int = 16 << 20) -> None:
        self.memory = GuestMemory()
        self.memory.add(0, memory_bytes)
        self.allocator = GuestAllocator(self.memory, 0x10000, memory_bytes)
        self.loop = IoLoop("test")
        self.ports = AddressMap("io", 1 << 16)
        self.space = AddressMap("memory", 1 << 40)
        self.messages: list[int] = []
        self.lines = [False] * 4
        self.routes: dict[int, MessageRoute] = {}
        """Ways of messages, by their data."""
        self.bus = PciBus(
            self.ports, self.space, send_msi=self._message, set_pirq=self._set_line, find_route=self._find_route
        )

    def _message(self, address: int, data: int) -> None:
        if address == _MSI_ADDRESS:
            self.messages.append(data)

    def _find_route(self, address: int, data: int) -> MessageRoute | None:
        return self.routes.get(data) if address == _MSI_ADDRESS else None

    def _set_line(self, line: int, /, *, level: bool) -> None:
        self.lines[line] = level

    def set(self, *, level: bool) -> None:
        """The interrupt line of an MMIO device (an `IrqLine`)."""
        self.lines[0] = level

    def run(self) -> None:
        """Do what the device's worker was asked to do."""
        self.loop.run_pending()

    def run_events(self) -> None:
        """Serve the descriptors that are ready, on this thread."""
        self.loop.run_ready()

    def plug_pci(
        self, device: VirtioDevice, *, msix: bool = True, register_notify: NotifyRegistrar | None = None
    ) -> PciDriverTransport:
        """Attach `device` to the bus and map it as firmware and kernel do."""
        function = VirtioPci(device, register_notify=register_notify)
        self.bus.attach(function)
        return PciDriverTransport(self, function, msix=msix)

    def plug_mmio(self, device: VirtioDevice, *, legacy: bool = False) -> MmioDriverTransport:
        """Give `device` an MMIO register region."""
        return MmioDriverTransport(VirtioMmio(device, self, legacy=legacy))

    def driver(self, transport: PciDriverTransport | MmioDriverTransport) -> VirtioDriver:
        """A driver that allocates from this machine's memory."""
        return VirtioDriver(transport, self.allocator)

    def close(self) -> None:
        """Close what has descriptors."""
        self.loop.stop()
        self.memory.close()


class PciDriverTransport:
    """Finds the structures through the capability list and the BARs."""

    legacy = False

    def __init__(self, machine: MiniMachine, function: PciDevice, *, msix: bool) -> None:
        self.machine = machine
        self.function = function
        self.msix = msix
        self._devfn = function.slot << 3 | function.function
        base = _BAR_BASE + (function.slot << 20)
        for bar in function.bars.values():
            self.config_write(pci.BAR0 + 4 * bar.index, 4, base + bar.index * 0x10000)
        self.config_write(pci.COMMAND, 2, pci.Command.MEMORY | pci.Command.BUS_MASTER)
        self.structures: dict[int, int] = {}
        self.capabilities: dict[int, int] = {}
        self._multiplier = 0
        self._walk_capabilities()
        if msix:
            self._enable_msix()

    def config_read(self, offset: int, size: int) -> int:
        """PCI configuration space."""
        return self.machine.bus.config_read(0, self._devfn, offset, size)

    def config_write(self, offset: int, size: int, value: int) -> None:
        """PCI configuration space."""
        self.machine.bus.config_write(0, self._devfn, offset, size, value)

    def _walk_capabilities(self) -> None:
        pointer = self.config_read(pci.CAPABILITY_POINTER, 1)
        while pointer:
            if self.config_read(pointer, 1) == pci.CapabilityId.VENDOR:
                kind = self.config_read(pointer + 3, 1)
                bar = self.config_read(pointer + 4, 1)
                address = self.config_read(pci.BAR0 + 4 * bar, 4) & ~0xF
                self.structures[kind] = address + self.config_read(pointer + 8, 4)
                self.capabilities[kind] = pointer
                if kind == PciCap.NOTIFY:
                    self._multiplier = self.config_read(pointer + 16, 4)
            pointer = self.config_read(pointer + 1, 1)

    def _enable_msix(self) -> None:
        msix = self.function.msix
        assert msix is not None  # noqa: S101 - every virtio function has it
        table = self.config_read(pci.BAR0 + 4, 4) & ~0xF
        for vector in range(msix.vectors):
            self.machine.space.write(table + 16 * vector, 4, _MSI_ADDRESS)
            self.machine.space.write(table + 16 * vector + 4, 4, 0)
            self.machine.space.write(table + 16 * vector + 8, 4, vector)
            self.machine.space.write(table + 16 * vector + 12, 4, 0)
        self.config_write(msix.offset + 2, 2, pci.MSIX_ENABLE)

    def common_read(self, register: int, size: int) -> int:
        """A field of the common configuration."""
        return self.machine.space.read(self.structures[PciCap.COMMON] + register, size)

    def common_write(self, register: int, size: int, value: int) -> None:
        """A field of the common configuration."""
        self.machine.space.write(self.structures[PciCap.COMMON] + register, size, value)

    def read_features(self) -> int:
        """Both halves."""
        features = 0
        for half in range(2):
            self.common_write(CommonReg.DEVICE_FEATURE_SELECT, 4, half)
            features |= self.common_read(CommonReg.DEVICE_FEATURE, 4) << 32 * half
        return features

    def write_features(self, features: int) -> None:
        """Both halves."""
        for half in range(2):
            self.common_write(CommonReg.DRIVER_FEATURE_SELECT, 4, half)
            self.common_write(CommonReg.DRIVER_FEATURE, 4, features >> 32 * half & 0xFFFFFFFF)

    def read_status(self) -> int:
        """Device status."""
        return self.common_read(CommonReg.DEVICE_STATUS, 1)

    def write_status(self, status: int) -> None:
        """Device status; once DRIVER_OK is coming, the configuration vector too."""
        if self.msix and status:
            self.common_write(CommonReg.CONFIG_MSIX_VECTOR, 2, 0)
        self.common_write(CommonReg.DEVICE_STATUS, 1, status)

    def queue_max_size(self, index: int) -> int:
        """Size of a queue before it is set."""
        self.common_write(CommonReg.QUEUE_SELECT, 2, index)
        return self.common_read(CommonReg.QUEUE_SIZE, 2)

    def enable_queue(self, index: int, layout: QueueLayout) -> None:
        """Set addresses and vector `index + 1`, then enable."""
        self.common_write(CommonReg.QUEUE_SELECT, 2, index)
        self.common_write(CommonReg.QUEUE_SIZE, 2, layout.size)
        for register, gpa in (
            (CommonReg.QUEUE_DESC, layout.descriptor_gpa),
            (CommonReg.QUEUE_DRIVER, layout.driver_gpa),
            (CommonReg.QUEUE_DEVICE, layout.device_gpa),
        ):
            self.common_write(register, 4, gpa & 0xFFFFFFFF)
            self.common_write(register + 4, 4, gpa >> 32)
        self.common_write(CommonReg.QUEUE_MSIX_VECTOR, 2, index + 1 if self.msix else NO_VECTOR)
        self.common_write(CommonReg.QUEUE_ENABLE, 2, 1)

    def reset_queue(self, index: int) -> None:
        """Queue reset (2.6.1)."""
        self.common_write(CommonReg.QUEUE_SELECT, 2, index)
        self.common_write(CommonReg.QUEUE_RESET, 2, 1)

    def notify(self, index: int) -> None:
        """Write to the queue's own notification address."""
        self.common_write(CommonReg.QUEUE_SELECT, 2, index)
        offset = self.common_read(CommonReg.QUEUE_NOTIFY_OFF, 2) * self._multiplier
        self.machine.space.write(self.structures[PciCap.NOTIFY] + offset, 2, index)

    def read_isr(self) -> int:
        """ISR status; reading clears it."""
        return self.machine.space.read(self.structures[PciCap.ISR], 1)

    def read_config(self, offset: int, size: int) -> int:
        """Device configuration space."""
        return self.machine.space.read(self.structures[PciCap.DEVICE] + offset, size)

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Device configuration space."""
        self.machine.space.write(self.structures[PciCap.DEVICE] + offset, size, value)


class MmioDriverTransport:
    """Word registers; the legacy layout when the Version register says 1."""

    def __init__(self, registers: VirtioMmio) -> None:
        self.registers = registers
        self.legacy = self.get(MmioReg.VERSION) == 1
        if self.legacy:
            self.put(MmioReg.GUEST_PAGE_SIZE, 4096)

    def get(self, register: int) -> int:
        """Read a register."""
        return self.registers.read(register, 4)

    def put(self, register: int, value: int) -> None:
        """Write a register."""
        self.registers.write(register, 4, value)

    def read_features(self) -> int:
        """Both halves."""
        features = 0
        for half in range(2):
            self.put(MmioReg.DEVICE_FEATURES_SEL, half)
            features |= self.get(MmioReg.DEVICE_FEATURES) << 32 * half
        return features

    def write_features(self, features: int) -> None:
        """Both halves."""
        for half in range(2):
            self.put(MmioReg.DRIVER_FEATURES_SEL, half)
            self.put(MmioReg.DRIVER_FEATURES, features >> 32 * half & 0xFFFFFFFF)

    def read_status(self) -> int:
        """Device status."""
        return self.get(MmioReg.STATUS)

    def write_status(self, status: int) -> None:
        """Device status."""
        self.put(MmioReg.STATUS, status)
        if self.legacy and not status:
            self.put(MmioReg.GUEST_PAGE_SIZE, 4096)

    def queue_max_size(self, index: int) -> int:
        """Largest size of a queue."""
        self.put(MmioReg.QUEUE_SEL, index)
        return self.get(MmioReg.QUEUE_NUM_MAX)

    def enable_queue(self, index: int, layout: QueueLayout) -> None:
        """Set the size and the addresses (or the page frame), then enable."""
        self.put(MmioReg.QUEUE_SEL, index)
        self.put(MmioReg.QUEUE_NUM, layout.size)
        if self.legacy:
            self.put(MmioReg.QUEUE_ALIGN, 4096)
            self.put(MmioReg.QUEUE_PFN, layout.descriptor_gpa // 4096)
            return
        for register, gpa in (
            (MmioReg.QUEUE_DESC_LOW, layout.descriptor_gpa),
            (MmioReg.QUEUE_DRIVER_LOW, layout.driver_gpa),
            (MmioReg.QUEUE_DEVICE_LOW, layout.device_gpa),
        ):
            self.put(register, gpa & 0xFFFFFFFF)
            self.put(register + 4, gpa >> 32)
        self.put(MmioReg.QUEUE_READY, 1)

    def reset_queue(self, index: int) -> None:
        """Queue reset (2.6.1)."""
        self.put(MmioReg.QUEUE_SEL, index)
        self.put(MmioReg.QUEUE_RESET, 1)

    def notify(self, index: int) -> None:
        """Kick a queue."""
        self.put(MmioReg.QUEUE_NOTIFY, index)

    def read_config(self, offset: int, size: int) -> int:
        """Device configuration space."""
        return self.registers.read(MmioReg.CONFIG + offset, size)

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Device configuration space."""
        self.registers.write(MmioReg.CONFIG + offset, size, value)
