"""What differs between boards: where memory is, the bridges, and the parts that only some machines have."""

from __future__ import annotations

import functools

from pyhyve.accel.api import BufferedReads
from pyhyve.boot.e820 import MemoryLayout
from pyhyve.devices.pci.i440fx import PIRQ_DEFAULT, I440fxBridge, Piix3IsaBridge
from pyhyve.machine.config import SATA_PORTS, Board
from pyhyve.support.hints import Protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from pyhyve.accel.api import Vm
    from pyhyve.devices.ahci.controller import Ich9Ahci
    from pyhyve.devices.bus import AddressMap
    from pyhyve.devices.contracts import IrqLine, LineSetter
    from pyhyve.devices.display.vga import StdVga
    from pyhyve.devices.ide.piix3 import Piix3Ide
    from pyhyve.devices.pci.bus import PciBus
    from pyhyve.devices.pci.q35 import Ich9LpcBridge
    from pyhyve.devices.virtio.mmio_bus import MmioBus
    from pyhyve.machine.config import MachineConfig
    from pyhyve.machine.hardware.hardware import Hardware
    from pyhyve.memory.guest import GuestMemory


class Wiring(Protocol):
    """What the builder offers its boards."""

    vm: Vm

    def line(self, irq: int) -> IrqLine:
        """An input of the interrupt chip."""


def layout_of(config: MachineConfig) -> MemoryLayout:
    """Where the machine has memory."""
    if config.board is not Board.Q35:
        return MemoryLayout.of(config.memory_bytes)
    from pyhyve.devices.pci.q35 import ECAM_BASE, ECAM_BYTES  # noqa: PLC0415 - the PC needs none

    return MemoryLayout.of(config.memory_bytes, (ECAM_BASE, ECAM_BYTES))


def make_isa_bridge(config: MachineConfig, set_gsi: LineSetter) -> Piix3IsaBridge | Ich9LpcBridge:
    """What PIRQ lines go through."""
    if config.board is not Board.Q35:
        return Piix3IsaBridge(set_gsi)
    from pyhyve.devices.pci.q35 import Ich9LpcBridge  # noqa: PLC0415 - the PC needs none

    return Ich9LpcBridge(set_gsi)


def pci_irqs(bridge: Piix3IsaBridge | Ich9LpcBridge) -> tuple[int, int, int, int]:
    """The interrupt of each PIRQ line, as ACPI tells it."""
    first, second, third, fourth = (
        default if (irq := bridge.irq_of(line)) is None else irq for line, default in enumerate(PIRQ_DEFAULT)
    )
    return first, second, third, fourth


def attach_bridges(
    config: MachineConfig, hardware: Hardware, isa_bridge: Piix3IsaBridge | Ich9LpcBridge, memory: AddressMap
) -> None:
    """Put the host bridge and the ISA bridge on the bus, and name it."""
    if config.board is not Board.Q35:
        hardware.pci.attach(I440fxBridge(), 0)
        hardware.pci.attach(isa_bridge, 1)
        return
    from pyhyve.devices.pci.q35 import LPC_SLOT, Q35HostBridge  # noqa: PLC0415 - the PC needs none

    hardware.pci.attach(Q35HostBridge(hardware.pci, memory), 0)
    hardware.pci.attach(isa_bridge, LPC_SLOT, multifunction=True)
    hardware.pci_bus_name = "pcie.0"
    hardware.ide_buses = SATA_PORTS
    hardware.make_ide = functools.partial(_make_ahci, hardware)
    hardware.need_ide()


def _make_ahci(hardware: Hardware) -> Ich9Ahci:
    """The SATA function of the ICH9, which such a board always has."""
    from pyhyve.devices.ahci import controller  # noqa: PLC0415 - the PC has none

    ahci = controller.Ich9Ahci(hardware.memory, hardware.lock)
    hardware.pci.attach(ahci, controller.SLOT, controller.FUNCTION)
    return ahci


def open_configuration_space(pci: PciBus, base: int) -> None:
    """What firmware does on a Q35: PCIEXBAR."""
    from pyhyve.devices.pci.q35 import PCIEXBAR, PCIEXBAR_ENABLE  # noqa: PLC0415 - the PC has none

    host = pci.find(0, 0)
    if host is not None:
        host.config_write(PCIEXBAR, 4, base | PCIEXBAR_ENABLE)


def make_mmio_bus(hardware: Hardware, memory: AddressMap, wiring: Wiring) -> MmioBus:
    """Places for virtio devices, on a board without PCI."""
    from pyhyve.devices.virtio.mmio_bus import MmioBus  # noqa: PLC0415 - few boards have them

    # KVM's event descriptors do not tell which queue was notified.
    notify = None if wiring.vm.has_kernel_irqchip else hardware.notify
    return MmioBus(memory, wiring.line, notify)


def make_ide(hardware: Hardware, slot: int, ports: AddressMap, wiring: Wiring) -> Piix3Ide:
    """The IDE function beside the ISA bridge, with its channels at their ports."""
    from pyhyve.devices.ide.piix3 import CHANNEL_IRQS, CHANNEL_PORTS, Piix3Ide  # noqa: PLC0415 - when wanted

    controller = Piix3Ide([wiring.line(irq) for irq in CHANNEL_IRQS], hardware.memory, hardware.lock)
    for number, (channel, (command, control)) in enumerate(zip(controller.channels, CHANNEL_PORTS, strict=True)):
        ports.add(command, 8, channel, name=f"IDE channel {number}")
        ports.add(control, 1, channel.control, name=f"IDE channel {number} control", width=1)
        if isinstance(wiring.vm, BufferedReads):
            wiring.vm.on_buffered_read(command, _locked(hardware.lock, channel.take))
    hardware.pci.attach(controller, slot, 1)
    return controller


def _locked(lock: threading.RLock, take: Callable[[int, int], bytes]) -> Callable[[int, int], bytes]:
    """`take`, with the machine lock held."""

    def call(most: int, size: int) -> bytes:
        with lock:
            return take(most, size)

    return call


def make_vga(memory: GuestMemory, ports: AddressMap, *, has_firmware: bool) -> StdVga:
    """The card, its ports in their places; its memory was there before the engine."""
    from pyhyve.boot.firmware import read_vga_bios  # noqa: PLC0415 - when wanted
    from pyhyve.devices.display.vga import StdVga  # noqa: PLC0415
    from pyhyve.devices.display.vga_spec import DISPI_PORT, DISPI_PORTS, VGA_PORT, VGA_PORTS  # noqa: PLC0415

    vga = StdVga(memory, read_vga_bios() if has_firmware else b"")
    ports.add(VGA_PORT, VGA_PORTS, vga.registers, name="VGA", width=2)
    ports.add(DISPI_PORT, DISPI_PORTS, vga.registers.dispi_ports, name="VBE")
    return vga
