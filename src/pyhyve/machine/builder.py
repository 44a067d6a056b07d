"""Puts a machine together from its configuration. Only wiring: every decision is the configuration's or a device's."""

from __future__ import annotations

import threading
import time

from pyhyve.accel.select import open_vm
from pyhyve.backends.ioloop import IoLoop
from pyhyve.boot.acpi import AcpiPlatform, build_acpi
from pyhyve.boot.e820 import FOUR_GIB, TABLES_BASE
from pyhyve.boot.linux import LinuxBoot, load_linux
from pyhyve.boot.smbios import build_anchor, build_smbios, build_structures
from pyhyve.devices.bus import AddressMap
from pyhyve.devices.chipset.acpi_hotplug import HOTPLUG_GPE, HOTPLUG_PORTS, PciHotplug
from pyhyve.devices.chipset.acpi_pm import GPE_SIZE, PM_SIZE, AcpiPm, GpeBlock, SharedLine, SmiCommandPort
from pyhyve.devices.chipset.generation_id import (
    GENERATION_ID_BYTES,
    GENERATION_ID_GPA,
    GENERATION_ID_GPE,
    GenerationId,
)
from pyhyve.devices.chipset.i8042 import I8042, SystemControlPortA
from pyhyve.devices.chipset.mc146818 import Mc146818, cmos_memory_bytes
from pyhyve.devices.chipset.ports import DebugConsole, ScratchPorts
from pyhyve.devices.irq import spec as irq_spec
from pyhyve.devices.pci.bus import PciBus
from pyhyve.devices.pci.i440fx import CONFIG_PORT, CONFIG_PORT_SIZE, ConfigPorts
from pyhyve.devices.serial.spec import PORT_COUNT as UART_PORTS
from pyhyve.devices.serial.uart16550 import Uart16550
from pyhyve.machine import boards, trace
from pyhyve.machine.block.errors import ChangeError
from pyhyve.machine.boot_paths import boot_paths
from pyhyve.machine.chardevs import open_chardev
from pyhyve.machine.config import Board, ConfigError, DiskInterface, MemoryKind, RtcBase
from pyhyve.machine.empty import open_empty
from pyhyve.machine.hardware.extras import add_extra, describe_console
from pyhyve.machine.hardware.hardware import Hardware
from pyhyve.machine.identifiers import NIC_PREFIX
from pyhyve.machine.inventory import Identity, Inventory
from pyhyve.machine.io import MachineLoop
from pyhyve.machine.machine import Machine, MachineParts
from pyhyve.machine.notices import ShutdownCause
from pyhyve.machine.notify import notify_registrar
from pyhyve.machine.pci_setup import PCI_WINDOW64_BYTES, PCI_WINDOW_LAST, configure_pci
from pyhyve.machine.vcpu_loop import VcpuRunner
from pyhyve.memory.guest import GuestMemory
from pyhyve.support.hints import Protocol, runtime_checkable
from pyhyve.support.logs import late_logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyhyve.accel.api import InterruptChip, Vm
    from pyhyve.backends.chardev import Chardev
    from pyhyve.backends.net import NetBackend
    from pyhyve.devices.contracts import Clock, IrqLine
    from pyhyve.devices.irq.chip import ApicInterruptChip
    from pyhyve.machine.config import DiskConfig, MachineConfig, NetConfig

_FIRMWARE_LOG = late_logger("pyhyve.firmware")
HOTPLUG_PORT = 0xAE00
RESET_PORT, RESET_VALUE = 0xCF9, 0x06
KEYBOARD_RESET_PORT, KEYBOARD_RESET_VALUE = 0x64, 0xFE
PM_PORT, GPE_PORT, SMI_PORT, SCI_IRQ = 0x600, 0xAFE0, 0xB2, 9
SMBIOS_GPA = 0xF_0000
DEBUG_PORT = 0x402
MACHINE_VERSION = "1"
"""Version in SMBIOS: it changes when a guest could notice a difference."""
PORT_SPACE = 0x1_0000
MEMORY_SPACE = 1 << 52


@runtime_checkable
class _KernelChips(Protocol):
    """An engine whose interrupt controllers and timers are its own, and reset on demand."""

    def reset_chips(self) -> None:
        """Put them in their power-on state."""


class _GsiLine:
    """One input of the interrupt chip."""

    def __init__(self, chip: InterruptChip, gsi: int) -> None:
        self._chip = chip
        self._gsi = gsi

    def set(self, *, level: bool) -> None:
        self._chip.set_gsi(self._gsi, level=level)


def _log_firmware(text: str, *values: object) -> None:
    _FIRMWARE_LOG.debug(text, *values)


def _whole_order(first: str) -> str:
    return first + "".join(letter for letter in "cd" if letter not in first)


def _clock_offset_ns(config: MachineConfig, clock: Clock) -> int:
    """How far the guest's clock starts from what `clock` shows: the host's UTC, or the time for which it runs."""
    if config.rtc_start_s is not None:
        return config.rtc_start_s * 1_000_000_000 - clock.wall_ns()
    zone_ns = time.localtime().tm_gmtoff * 1_000_000_000 if config.rtc is RtcBase.LOCALTIME else 0
    return zone_ns if config.rtc_follows_host else time.time_ns() + zone_ns - clock.wall_ns()


class _Builder:
    """Working state of `build`."""

    def __init__(self, config: MachineConfig, vm: Vm, console: Chardev | None, firmware: bytes | None) -> None:
        self.config = config
        self.firmware = firmware
        self.vm = vm
        self.layout = boards.layout_of(config)
        if config.has_generation_id:
            self.layout = self.layout.reserving(GENERATION_ID_GPA, GENERATION_ID_BYTES)
        self.lock = threading.RLock()
        io = IoLoop("machine")
        self.loop = MachineLoop(io, self.lock)
        self.parts = MachineParts(vm=vm, lock=self.lock, io=io, loop=self.loop)
        self.machine = Machine(
            config.name,
            no_reboot=config.no_reboot,
            no_shutdown=config.no_shutdown,
            start_paused=config.start_paused,
            timeout_s=config.timeout_s,
        )
        self.ports = AddressMap("port", PORT_SPACE)
        self.memory = AddressMap("memory", MEMORY_SPACE)
        if "bus" in config.trace:
            self.ports.trace = self.memory.trace = trace.trace_access
        self.chip: ApicInterruptChip | None = None
        if not vm.has_kernel_irqchip and not config.is_empty:
            from pyhyve.devices.irq.chip import ApicInterruptChip  # noqa: PLC0415 - KVM has its own
            from pyhyve.devices.irq.lapic import TscSource  # noqa: PLC0415 - ditto
            from pyhyve.machine.clock import ClockTsc  # noqa: PLC0415 - ditto

            tsc = vm if isinstance(vm, TscSource) else ClockTsc(self.loop.clock)
            self.chip = ApicInterruptChip(self.lock, self.loop.clock, self.loop.timers, tsc, config.cpus)
        self.irqs: InterruptChip = vm.irqchip() if self.chip is None else self.chip
        self.isa_bridge = boards.make_isa_bridge(config, self.irqs.set_gsi)
        self.pci = PciBus(
            self.ports,
            self.memory,
            send_msi=self.irqs.send_msi,
            set_pirq=self.isa_bridge.set_pirq,
            find_route=None if self.chip is None else self.chip.route,
        )
        self.console = console
        self.identity = Identity.of(config.uuid)
        self.hardware = Hardware(
            memory=vm.memory,
            io=io,
            loop=self.loop,
            lock=self.lock,
            pci=self.pci,
            clock=self.loop.clock,
            quit_requested=self._quit,
            notify=notify_registrar(vm),
            add_port=self._add_uart,
        )
        self.hardware.io_stopped = self.machine.io_error
        if config.needs_vga_memory:
            self.hardware.make_vga = lambda: boards.make_vga(vm.memory, self.ports, has_firmware=firmware is not None)
        if config.has_generation_id:
            self.hardware.make_generation_id = self._make_generation_id
        self.parts.inventory = Inventory(config, self.identity, self.pci, self.hardware)

    def _quit(self) -> None:
        self.machine.request_stop(ShutdownCause.HOST_UI)

    def line(self, irq: int) -> IrqLine:
        return _GsiLine(self.irqs, irq)

    def build(self) -> Machine:
        self._interrupts()
        self._chipset()
        self._serial()
        self._plug()
        self._vcpus()
        if self.firmware is None:
            self.parts.boot = self._boot_kernel
        else:
            self._tell_firmware()
            self.parts.boot = self._boot_firmware
        self.machine.assemble(self.parts)
        self.hardware.is_running = True
        return self.machine

    def _interrupts(self) -> None:
        chip = self.chip
        if chip is None:
            if isinstance(self.vm, _KernelChips):
                self.parts.resets.append(self.vm.reset_chips)
            return
        from pyhyve.devices.chipset.i8254 import I8254, SystemControlPort  # noqa: PLC0415 - KVM has its own
        from pyhyve.devices.chipset.i8259 import ElcrPorts  # noqa: PLC0415 - ditto

        add = self.ports.add
        add(0x20, 2, chip.pic.ports(0), name="i8259 master", width=1)
        add(0xA0, 2, chip.pic.ports(1), name="i8259 slave", width=1)
        add(0x4D0, 2, ElcrPorts(chip.pic), name="ELCR", width=1)
        self.memory.add(irq_spec.IOAPIC_BASE, irq_spec.IOAPIC_SIZE_BYTES, chip.ioapic, name="I/O APIC")
        pit = I8254(self.loop.clock, self.loop.timers, self.line(0))
        control = SystemControlPort(pit, self.loop.clock)
        add(0x40, 4, pit, name="i8254", width=1)
        add(0x61, 1, control, name="port 0x61", width=1)
        self.parts.resets += [chip.reset, pit.reset, control.reset]
        self.parts.saveables |= {"interrupts": chip, "i8254": pit, "port61": control}

    def _chipset(self) -> None:
        machine, add, resets = self.machine, self.ports.add, self.parts.resets
        clock, timers = self.loop.clock, self.loop.timers
        always = _whole_order(self.config.boot_order)
        order = _whole_order(self.config.boot_once) if self.config.boot_once else always
        contents = cmos_memory_bytes(self.layout.below_4g, self.layout.above_4g, self.config.cpus, order)
        rtc_clock = clock if self.config.rtc_follows_host else self._running_clock()
        rtc = Mc146818(rtc_clock, timers, self.line(8), contents, _clock_offset_ns(self.config, rtc_clock))
        resets.append(lambda: rtc.set_boot_order(always))
        if self.config.has_keyboard:
            from pyhyve.devices.input.keyboard import Keyboard  # noqa: PLC0415 - few machines are typed on

            self.hardware.keyboard = Keyboard()
        keyboard = I8042(machine.reset_requested, self.hardware.keyboard, self.line(1))
        port_a = SystemControlPortA(machine.reset_requested)
        sci = SharedLine(self.line(SCI_IRQ))
        pm = AcpiPm(clock, timers, sci.source(), machine.power_off_requested)
        gpe = GpeBlock(sci.source())
        self._raise_generation = lambda: gpe.raise_event(GENERATION_ID_GPE)
        dma_pages, smi = ScratchPorts(16), SmiCommandPort(pm)
        add(0x70, 2, rtc, name="RTC", width=1)
        add(0x60, 1, keyboard.data, name="i8042 data", width=1)
        add(0x64, 1, keyboard.control, name="i8042 control", width=1)
        add(0x92, 1, port_a, name="port 0x92", width=1)
        add(0x80, 16, dma_pages, name="DMA page registers", width=1)
        add(PM_PORT, PM_SIZE, pm, name="ACPI PM")
        add(GPE_PORT, GPE_SIZE, gpe, name="ACPI GPE0", width=1)
        add(SMI_PORT, 2, smi, name="SMI command", width=1)
        add(DEBUG_PORT, 1, DebugConsole(_log_firmware), name="debug console", width=1)
        self.parts.saveables |= {
            "rtc": rtc, "i8042": keyboard, "dma-pages": dma_pages, "acpi-pm": pm, "smi": smi,
            "port92": port_a, "acpi-gpe": gpe,
        }  # fmt: skip
        self.parts.pm = pm
        resets += [rtc.reset, keyboard.reset, port_a.reset, pm.reset, gpe.reset]
        if self.config.board is Board.MICROVM:
            self.hardware.mmio = boards.make_mmio_bus(self.hardware, self.memory, self)
            resets.append(self.hardware.mmio.reset)
        else:
            self._pci_bus(gpe)

    def _running_clock(self) -> Clock:
        """A clock that stands still with the machine."""
        from pyhyve.machine.running_clock import RunningClock  # noqa: PLC0415 - few machines have one

        clock = RunningClock(self.loop.clock, runs=not self.config.start_paused)
        self.machine.observers.append(clock.observe)
        self.parts.saveables["rtc-clock"] = clock
        return clock

    def _pci_bus(self, gpe: GpeBlock) -> None:
        """The host bridge, the ISA bridge, and how devices come and go."""
        hotplug = PciHotplug(lambda: gpe.raise_event(HOTPLUG_GPE), self.hardware.let_go)
        self.hardware.hotplug = hotplug
        config_ports = ConfigPorts(self.pci, self.machine.reset_requested)
        self.ports.add(HOTPLUG_PORT, HOTPLUG_PORTS, hotplug, name="PCI hotplug")
        self.ports.add(CONFIG_PORT, CONFIG_PORT_SIZE, config_ports, name="PCI configuration")
        boards.attach_bridges(self.config, self.hardware, self.isa_bridge, self.memory)
        if self.config.board is Board.PC:
            self.hardware.make_ide = lambda: boards.make_ide(self.hardware, self.isa_bridge.slot, self.ports, self)
        self.parts.saveables |= {"pci-config": config_ports, "pci-hotplug": hotplug}
        self.parts.resets += [config_ports.reset, self.pci.reset]

    def _serial(self) -> None:
        serials = self.config.additions.serials
        if serials is None or self.console is not None:
            chardev = self.console
            if chardev is None:
                chardev = open_chardev(self.config.console, self._quit)
            shown = describe_console(self.config.console)
            entry = self.hardware.chardevs.adopt("serial0", str(self.config.console.kind), chardev, shown)
            entry.user = "isa-serial"
            self.hardware.add_serial_port(entry.chardev)

    def _add_uart(self, port: int, irq: int, chardev: Chardev) -> Uart16550:
        """A serial port; the machine starts its character device and resets it."""
        uart = Uart16550(self.line(irq), self.loop.clock, self.loop.timers, chardev.write, chardev.resume)
        self.ports.add(port, UART_PORTS, uart, name=f"serial port {port:#x}", width=1)
        self.parts.consoles.append((chardev, uart))
        self.parts.resets.append(uart.reset)
        self.parts.saveables[f"com{len(self.hardware.serial_ports) + 1}"] = uart
        return uart

    def _make_generation_id(self, identifier: bytes | None) -> GenerationId:
        """The device whose memory was there before the engine."""
        device = GenerationId(self.vm.memory, identifier, self._raise_generation)
        self.parts.resets.append(device.reset)
        self.parts.saveables["generation-id"] = device
        return device

    def _plug(self) -> None:
        """Add what the configuration asks for, in an order in which each finds what it names."""
        hardware, additions = self.hardware, self.config.additions
        self.parts.closers.append(hardware.close)
        self.parts.resets.append(hardware.reset)
        for number, fd in self.config.passed_fds:
            hardware.descriptors.add_to_set(number, fd, None)
        for options in additions.objects:
            hardware.objects.add(options)
        for options in additions.chardevs:
            hardware.chardevs.add(str(options["id"]), options["backend"], is_shared=bool(options.get("mux")))
        for options in additions.blockdevs:
            hardware.blocks.add(options)
        for options in additions.netdevs:
            hardware.netdevs.add(options, is_ours=str(options["id"]).startswith(NIC_PREFIX))
        for label in additions.serials or ():
            hardware.devices.add({"driver": "isa-serial", "chardev": label})
        self.pci.reserved = frozenset(additions.reserved_slots)
        if self.config.has_vga:
            hardware.devices.add({"driver": "VGA"})
        self._plug_configured()
        self.pci.reserved = frozenset()
        if additions.devices:
            hardware.devices.add_all(additions.devices)
        for name in hardware.unused_drives():
            msg = f"drive: {name} is used by no device"
            raise ConfigError(msg)

    def _plug_configured(self) -> None:
        """The devices of disks, networks and extras; which come from which is noted."""
        for index, disk in enumerate(self.config.disks):
            self._note_origin("disks", index)
            self._add_disk(disk, f"virtio{index}")
        for index, net in enumerate(self.config.nets):
            self._note_origin("nets", index)
            self._add_net(net, f"#net{index}")
        for index, extra in enumerate(self.config.extras):
            self._note_origin("extras", index)
            add_extra(self.hardware, extra, index)
        if "devices" in self.hardware.__dict__:
            self.hardware.devices.origin = None

    def _note_origin(self, field: str, index: int) -> None:
        self.hardware.devices.origin = field, index

    def _add_disk(self, disk: DiskConfig, default_name: str) -> None:
        """A drive, and the device in front of it unless another one names it."""
        hardware = self.hardware
        readonly = disk.readonly or disk.is_cdrom
        name = disk.drive_id or default_name
        try:
            node = hardware.blocks.add_file(
                str(disk.path),
                disk.format,
                readonly=readonly,
                snapshot=disk.snapshot,
                node_name=disk.node_name,
                cache=disk.cache,
            )
            hardware.add_drive(name, node, serial=disk.serial)
        except ChangeError as error:
            named = "disk" if str(disk.path) in str(error) else f"disk {disk.path}"
            msg = f"{named}: {error}"
            raise ConfigError(msg) from error
        if disk.is_unplugged:
            return
        policies = {"werror": str(disk.write_errors), "rerror": str(disk.read_errors)}
        device: dict[str, Any] = {"driver": hardware.virtio("blk"), "drive": name, **policies}
        if disk.interface is DiskInterface.IDE:
            device = {"driver": "ide-cd", "drive": name} if disk.is_cdrom else device | {"driver": "ide-hd"}
            if disk.index is not None:
                place = divmod(disk.index, 1 if self.config.board is Board.Q35 else 2)
                device |= {"bus": f"ide.{place[0]}", "unit": place[1]}
        elif disk.is_cdrom and self.firmware is not None:
            # A kernel that is loaded directly may have no SCSI driver yet: for it a CD-ROM is a read-only disk.
            bus = f"scsi.{name}"
            hardware.devices.add({"driver": "virtio-scsi-pci", "id": bus})
            device = {"driver": "scsi-cd", "drive": name, "bus": f"{bus}.0"}
        if disk.device_id:
            device["id"] = disk.device_id
        hardware.devices.add(device)

    def _add_net(self, net: NetConfig, name: str) -> None:
        """A network and its card."""
        self.hardware.netdevs.adopt(name, lambda: open_backend(net))
        device: dict[str, Any] = {"driver": self.hardware.virtio("net"), "netdev": name}
        if net.mac is not None:
            device["mac"] = net.mac
        if net.device_id:
            device["id"] = net.device_id
        self.hardware.devices.add(device)

    def release(self) -> None:
        """Undo a build that failed half-way."""
        for chardev, _ in self.parts.consoles:
            chardev.close()
        self.hardware.close()
        for closer in self.parts.closers:
            closer()
        self.loop.close()
        self.parts.io.stop()

    def _vcpus(self) -> None:
        exit_trace = trace.trace_exit if "exits" in self.config.trace else None
        for index in range(0 if self.config.is_empty else self.config.cpus):
            vcpu = self.vm.create_vcpu(index)
            self.parts.runners.append(
                VcpuRunner(vcpu, self.lock, self.ports, self.memory, self.chip, self.machine, exit_trace)
            )

    def _platform(self) -> AcpiPlatform:
        fixed = {self.isa_bridge.slot, *(device.slot for device in self.pci if device.secondary is not None)}
        return AcpiPlatform(
            cpus=self.config.cpus,
            pci_window_first=self.layout.below_4g_window,
            pci_window_last=PCI_WINDOW_LAST,
            pci_window64_first=self.layout.window64,
            pci_window64_last=self.layout.window64 + PCI_WINDOW64_BYTES - 1,
            serial_ports=tuple(self.hardware.serial_ports),
            hotplug_base=HOTPLUG_PORT,
            hotplug_slots=tuple(slot for slot in range(1, 32) if slot not in fixed),
            pci_irqs=boards.pci_irqs(self.isa_bridge),
            ecam=(self.layout.ecam_base, self.layout.ecam_bytes) if self.layout.ecam_bytes else None,
            isa_slot=self.isa_bridge.slot,
            pm_base=PM_PORT,
            gpe_base=GPE_PORT,
            smi_command_port=SMI_PORT,
            sci_irq=SCI_IRQ,
            has_pci=self.hardware.mmio is None,
            mmio_devices=tuple((slot.gpa, slot.size_bytes, slot.gsi) for slot in self.hardware.mmio or ()),
            reset_port=RESET_PORT if self.hardware.mmio is None else KEYBOARD_RESET_PORT,
            reset_value=RESET_VALUE if self.hardware.mmio is None else KEYBOARD_RESET_VALUE,
            generation_id_gpa=0 if self.hardware.generation_id is None else GENERATION_ID_GPA,
            generation_id_event=GENERATION_ID_GPE,
            has_vga=self.hardware.vga is not None,
            has_keyboard=self.hardware.keyboard is not None,
        )

    def _smbios(self) -> bytes:
        return build_structures(
            name=self.config.name,
            version=MACHINE_VERSION,
            uuid=self.identity,
            memory_bytes=self.config.memory_bytes,
            cpus=self.config.cpus,
            given=self.config.smbios,
        )

    def _boot_kernel(self) -> None:
        """The firmware's work for a kernel loaded directly: PCI, tables, the kernel itself."""
        config = self.config
        if config.kernel is None:
            return
        if self.hardware.mmio is None:
            if self.layout.ecam_bytes:
                boards.open_configuration_space(self.pci, self.layout.ecam_base)
            configure_pci(self.pci, window_first=self.layout.below_4g_window, irq_of=self.isa_bridge.irq_of)
        platform = self._platform()
        if self.chip is not None:
            level_irqs = {SCI_IRQ, *(irq for irq in platform.pci_irqs if platform.has_pci and irq < 16)}
            for number in range(2):
                self.chip.pic.elcr_write(number, sum(1 << (irq & 7) for irq in level_irqs if irq >> 3 == number))
        tables, rsdp = build_acpi(platform, TABLES_BASE)
        memory = self.vm.memory
        memory.write(TABLES_BASE, tables)
        memory.write(SMBIOS_GPA, build_smbios(SMBIOS_GPA, self._smbios()))
        boot = LinuxBoot(config.kernel, config.initrd, config.append, self.layout, rsdp, config.boot_entry)
        self.parts.runners[0].vcpu.write_registers(load_linux(memory, boot))

    def _tell_firmware(self) -> None:
        """The device through which firmware learns about the machine."""
        from pyhyve.boot.firmware import boot_files, firmware_files, firmware_items  # noqa: PLC0415 - see above
        from pyhyve.devices.chipset.fw_cfg import FW_CFG_PORT, FW_CFG_PORTS, FwCfg  # noqa: PLC0415 - ditto

        structures = self._smbios()
        smbios = (build_anchor(structures), structures)
        files = firmware_files(self.layout, self._platform(), smbios, self._text_port())
        config = self.config
        files |= boot_files(boot_paths(self.hardware), strict=config.boot_strict, menu_ms=config.boot_menu_ms)
        items = firmware_items(config.cpus, boot_menu=config.boot_menu)
        device = FwCfg(self.vm.memory, items, files)
        self.ports.add(FW_CFG_PORT, FW_CFG_PORTS, device, name="fw_cfg")
        self.parts.resets.append(device.reset)
        self.parts.saveables["fw-cfg"] = device

    def _text_port(self) -> int:
        """Where firmware writes its text: the first serial port; 0 without one."""
        ports = self.hardware.serial_ports
        return ports[0][0] if ports and self.config.firmware_on_serial else 0

    def _boot_firmware(self) -> None:
        if self.firmware is not None:
            from pyhyve.boot.firmware import place_firmware  # noqa: PLC0415 - see above

            place_firmware(self.vm.memory, self.firmware)


def build(
    config: MachineConfig,
    *,
    console: Chardev | None = None,
    open_engine: Callable[[str, GuestMemory], Vm] | None = None,
    awaits_disks: bool = False,
) -> Machine:
    """Make the machine that `config` describes, ready for `Machine.run`.

    With `awaits_disks` its disks are still another machine's, whose state it waits for.
    `console` replaces the configured one. Raises UserError (and its kinds ConfigError, AccelError, ChardevError)
    when something cannot be had; kernels are read by `run`.
    """
    if config.kernel is None and "n" in config.boot_order + config.boot_once:
        msg = "boot: no network card here has a boot ROM (use c for disks, d for CD-ROMs)"
        raise ConfigError(msg)
    has_firmware = config.kernel is None and not config.is_empty
    firmware = None
    if has_firmware:
        from pyhyve.boot.firmware import find_firmware, read_firmware  # noqa: PLC0415 - kernels are loaded without it

        firmware = read_firmware(config.firmware or find_firmware())
    memory = GuestMemory(shared=config.memory is MemoryKind.SHARED, huge_pages=config.huge_pages)
    try:
        for gpa, size in boards.layout_of(config).ram_ranges:
            memory.add(gpa, size)
        if config.needs_vga_memory:
            from pyhyve.devices.display.vga import FRAME_BUFFER, FRAME_BUFFER_BYTES  # noqa: PLC0415 - when wanted
            from pyhyve.devices.display.vga_spec import WINDOW, WINDOW_BYTES  # noqa: PLC0415

            memory.add(WINDOW, WINDOW_BYTES, name="vga")
            memory.add(FRAME_BUFFER, FRAME_BUFFER_BYTES, name="vga")
        if config.has_generation_id:
            memory.add(GENERATION_ID_GPA, GENERATION_ID_BYTES, name="generation ID")
        if firmware is not None:
            memory.add(FOUR_GIB - len(firmware), len(firmware), readonly=True, name="firmware")
        accel = str(config.accel)
        vm: Vm
        if config.is_empty:
            vm = open_empty(accel, memory)
        elif open_engine is None:
            vm = open_vm(accel, memory, cpu=config.cpu)
        else:
            vm = open_engine(accel, memory)
    except MemoryError as error:
        memory.close()
        msg = f"memory: {error}"
        raise ConfigError(msg) from error
    except BaseException:
        memory.close()
        raise
    builder = None
    try:
        builder = _Builder(config, vm, console, firmware)
        builder.hardware.awaits_disks = awaits_disks
        return builder.build()
    except BaseException:
        if builder is not None:
            builder.release()
        vm.close()
        memory.close()
        raise


def open_backend(net: NetConfig) -> NetBackend:
    """The host's end of a configured card. Raises NetError and ConfigError."""
    from pyhyve.machine import plug  # noqa: PLC0415 - networks only for machines that have some

    return plug.open_net(net)
