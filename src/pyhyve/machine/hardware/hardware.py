"""Everything that can be added to a machine, in one place: what realizers and the monitor work with."""

from __future__ import annotations

import functools
import math

from pyhyve.devices.error_policy import ErrorPolicy, is_full
from pyhyve.machine.block.errors import ChangeError, ChangeKind
from pyhyve.machine.hardware.chardevs import ChardevSet
from pyhyve.machine.hardware.descriptors import Descriptors

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from typing import Any

    from pyhyve.backends.chardev import Chardev
    from pyhyve.backends.ioloop import IoLoop
    from pyhyve.devices.chipset.acpi_hotplug import PciHotplug
    from pyhyve.devices.chipset.generation_id import GenerationId
    from pyhyve.devices.contracts import Clock, Timer
    from pyhyve.devices.display.vga import StdVga
    from pyhyve.devices.error_policy import Failure
    from pyhyve.devices.ide.contract import IdeController
    from pyhyve.devices.input.keyboard import Keyboard
    from pyhyve.devices.pci.bus import PciBus
    from pyhyve.devices.pci.device import PciDevice
    from pyhyve.devices.pci.root_port import PcieRootPort
    from pyhyve.devices.virtio.device import VirtioDevice
    from pyhyve.devices.virtio.mmio_bus import MmioBus
    from pyhyve.devices.virtio.pci import NotifyRegistrar
    from pyhyve.machine.block.attach import Attachment
    from pyhyve.machine.block.graph import BlockGraph
    from pyhyve.machine.block.node import BlockNode
    from pyhyve.machine.hardware.devices import DeviceTree, PluggedDevice
    from pyhyve.machine.hardware.networks import NetdevSet
    from pyhyve.machine.hardware.objects import ObjectSet
    from pyhyve.machine.io import MachineLoop
    from pyhyve.memory.guest import GuestMemory

_BUTTON_PATIENCE_NS = 5_000_000_000
SERIAL_PORTS = ((0x3F8, 4), (0x2F8, 3), (0x3E8, 4), (0x2E8, 3))
"""Port and interrupt of COM1 to COM4."""


class Hardware:
    """The machine's nodes, networks, character devices, objects and devices.

    The builder makes it and adds what the configuration asks for; afterwards the monitor does. Changes of the guest's
    view are made with the machine lock held.
    """

    def __init__(
        self,
        *,
        memory: GuestMemory,
        io: IoLoop,
        loop: MachineLoop,
        lock: threading.RLock,
        pci: PciBus,
        clock: Clock,
        quit_requested: Callable[[], None],
        notify: NotifyRegistrar | None,
        add_port: Callable[[int, int, Chardev], Any],
    ) -> None:
        """`add_port(port, irq, chardev)` puts a serial port into the machine."""
        self.memory = memory
        self.io = io
        self.loop = loop
        self.lock = lock
        self.pci = pci
        self.clock = clock
        self.notify = notify
        self.pci_bus_name = "pci.0"
        self.descriptors = Descriptors()
        self.chardevs = ChardevSet(self.descriptors, quit_requested)
        self.balloon: PluggedDevice | None = None
        self.hotplug: PciHotplug | None = None
        self.serial_ports: list[tuple[int, int]] = []
        """Port and interrupt of each serial port there is."""
        self.on_event: Callable[[str, dict[str, Any]], None] | None = None
        """Called with the name and data of events that a monitor sends; any thread."""
        self._drives: dict[str, BlockNode] = {}
        self._drive_serials: dict[str, str] = {}
        self._add_port = add_port
        self.io_stopped: Callable[[dict[str, Any]], None] | None = None
        """Called with an event's data when a disk's error policy wants the machine to stop; any thread."""
        self.balloon_polling_s = 0
        self._balloon_timer: Timer | None = None
        self.make_ide: Callable[[], IdeController] | None = None
        """Puts the board's IDE or SATA controller into the machine; None where there can be none."""
        self.ide_buses = 2
        """How many buses that has: `ide.0` and the next."""
        self._ide: IdeController | None = None
        self.keyboard: Keyboard | None = None
        self.mmio: MmioBus | None = None
        """Where virtio devices go on a board without PCI."""
        self.make_vga: Callable[[], StdVga] | None = None
        """Makes the VGA; None in a machine without memory for one."""
        self.vga: StdVga | None = None
        self.make_generation_id: Callable[[bytes | None], GenerationId] | None = None
        """Makes the device of the generation ID; None in a machine without memory for one."""
        self.generation_id: GenerationId | None = None
        self._key_timer: Timer | None = None
        self._held_keys: list[int] = []
        self.on_close: list[Callable[[], None]] = []
        """Called before the machine is taken apart."""
        self.was_changed = False
        """Whether something was added or removed after the machine was built."""
        self.awaits_disks = False
        """Whether the disks are another machine's until the state of that one arrives."""
        self.is_running = False
        """Whether the guest has started: devices that come now are announced to it."""

    # -- made when something is put in: a machine with a console alone loads none of their modules --------------------

    @functools.cached_property
    def blocks(self) -> BlockGraph:
        """Block nodes."""
        from pyhyve.machine.block.graph import BlockGraph  # noqa: PLC0415 - see above

        return BlockGraph(inactive=self.awaits_disks)

    @property
    def has_blocks(self) -> bool:
        """Whether block nodes were ever asked for."""
        return "blocks" in self.__dict__

    @functools.cached_property
    def netdevs(self) -> NetdevSet:
        """Network backends."""
        from pyhyve.machine.hardware.networks import NetdevSet  # noqa: PLC0415 - see above

        return NetdevSet(self.descriptors)

    @functools.cached_property
    def objects(self) -> ObjectSet:
        """User-created objects."""
        from pyhyve.machine.hardware.objects import ObjectSet  # noqa: PLC0415 - see above

        return ObjectSet()

    @functools.cached_property
    def devices(self) -> DeviceTree:
        """Devices."""
        from pyhyve.machine.hardware.devices import DeviceTree  # noqa: PLC0415 - see above

        tree = DeviceTree(self)
        tree.on_deleted = self._deleted
        return tree

    def tell(self, name: str, data: dict[str, Any] | None = None) -> None:
        """Something happened that a monitor sends an event for."""
        if self.on_event is not None:
            self.on_event(name, data or {})

    # -- drives -------------------------------------------------------------------------------------------------------

    def add_drive(self, name: str, node: BlockNode, *, serial: str = "") -> None:
        """Name a node as a drive (`-drive id=`). Raises ChangeError for a name in use."""
        if name in self._drives:
            msg = f"Duplicate ID '{name}' for drive"
            raise ChangeError(msg)
        self._drives[name] = node
        self._drive_serials[name] = serial
        self.blocks.hold(node, f"drive {name}")

    def add_drive_file(self, name: str, path: str, format_name: str | None, **options: Any) -> None:  # noqa: ANN401 - those of `BlockGraph.add_file`
        """Open an image file as a drive, and as a node of that name. Raises ChangeError."""
        if name in self._drives:
            msg = f"Duplicate ID '{name}' for drive"
            raise ChangeError(msg)
        self.was_changed = True
        self.add_drive(name, self.blocks.add_file(path, format_name, node_name=name, **options))

    def remove_drive(self, name: str) -> None:
        """Close a drive that no device uses. Raises ChangeError."""
        node = self._drives.get(name)
        if node is None:
            msg = f"Device '{name}' not found"
            raise ChangeError(msg, ChangeKind.NOT_FOUND)
        if any(user.startswith("/machine/") for user in node.users):
            msg = f"Drive '{name}' is in use by a device: take that out first (device_del)"
            raise ChangeError(msg)
        self.was_changed = True
        del self._drives[name]
        self.blocks.release(node, f"drive {name}")
        if not node.users and self.blocks.find(node.name) is node:
            self.blocks.remove(node.name)

    def drive_serial(self, name: str) -> str:
        """The serial number that the drive itself came with."""
        return self._drive_serials.get(name, "")

    def claim_drive(self, wanted: str, model: str, *, share: bool = False) -> tuple[BlockNode, str]:
        """The node that a device's `drive` names, and the drive's name when it is one. Raises ChangeError."""
        node = self._drives.get(wanted)
        if node is not None and not node.users and self.blocks.find(node.name) is not node:
            del self._drives[wanted]  # it went with the device that used it
            node = None
        if node is not None:
            user = f"drive {wanted}"
            if user not in node.users and node.users:
                msg = f"Drive '{wanted}' is already in use by another block device"
                raise ChangeError(msg)
            if user in node.users:
                node.users.remove(user)
            return node, wanted
        node = self.blocks.find(wanted)
        if node is None:
            msg = f"Property '{model}.drive' can't find value '{wanted}'"
            raise ChangeError(msg)
        taken = [user for user in node.users if user.startswith("/machine/")]
        if taken and not (share or node.readonly):
            msg = f"Conflicts with use by {taken[0]} as 'root', which does not allow 'write' on {wanted}"
            raise ChangeError(msg)
        return node, ""

    def unused_drives(self) -> list[str]:
        """Drives that no device took."""
        return [name for name, node in self._drives.items() if f"drive {name}" in node.users]

    # -- serial ports -------------------------------------------------------------------------------------------------

    def add_serial_port(
        self, chardev: Chardev, *, index: int | None = None, port: int | None = None, irq: int | None = None
    ) -> Any:  # noqa: ANN401 - whatever the machine's UART is
        """Add COM1 to COM4, the first that is free unless `index` (from 0) names one. Raises ChangeError."""
        if index is None:
            taken = {port for port, _ in self.serial_ports}
            index = next((i for i, (free, _) in enumerate(SERIAL_PORTS) if free not in taken), len(SERIAL_PORTS))
        if not 0 <= index < len(SERIAL_PORTS):
            msg = f"Max. supported number of ISA serial ports is {len(SERIAL_PORTS)}."
            raise ChangeError(msg)
        default_port, default_irq = SERIAL_PORTS[index]
        place = (default_port if port is None else port, default_irq if irq is None else irq)
        if place[0] in {taken for taken, _ in self.serial_ports} or not 0 < place[0] <= 0xFFF8 or place[1] > 15:
            msg = (
                f"a serial port at {place[0]:#x} (IRQ {place[1]}) is not possible: the port is taken or does not exist"
            )
            raise ChangeError(msg)
        uart = self._add_port(*place, chardev)
        self.serial_ports.append(place)
        return uart

    # -- IDE ----------------------------------------------------------------------------------------------------------

    def need_ide(self) -> IdeController:
        """The board's IDE or SATA controller, made when the first drive comes. Raises ChangeError."""
        if self._ide is None:
            if self.make_ide is None:
                msg = "No 'IDE' bus found"
                raise ChangeError(msg)
            self._ide = self.make_ide()
        return self._ide

    def ide_bus(self, name: str) -> tuple[IdeController, int]:
        """The controller with this bus, and the bus's number there. Raises ChangeError."""
        owner, _, number = name.rpartition(".")
        if owner == "ide":
            return self.need_ide(), int(number)
        controller: IdeController = self.devices.owner_of(name).device
        return controller, int(number)

    def is_ide_full(self, name: str) -> bool:
        """Whether a bus has all its drives."""
        if name.startswith("ide.") and self._ide is None:
            return False
        controller, number = self.ide_bus(name)
        return None not in controller.units(number)

    # -- PCI ----------------------------------------------------------------------------------------------------------

    def attach_pci(
        self, plugged: PluggedDevice, function: PciDevice, slot: int | None, number: int, *, multifunction: bool
    ) -> None:
        """Put `function` on the bus; a guest that runs is told. Raises ChangeError."""
        bus, port = self.bus_of(plugged.bus), self.root_port(plugged.bus)
        with self.lock:
            self._check_hotplug(plugged, bus, port)
            try:
                bus.attach(function, slot, number, multifunction=multifunction)
            except ValueError as error:
                raise ChangeError(self._place_taken(plugged, bus, slot, number) or str(error)) from error
            plugged.function = function
            plugged.undo.append(lambda: self._detach_pci(function))
            if port is not None:
                port.on_let_go = functools.partial(self._let_go_behind, port)
                # The guest looks at a slot's functions when the first is there.
                if not self.is_running or not number:
                    port.inserted(announce=self.is_running)
            elif self.is_running and self.hotplug is not None:
                self.hotplug.plugged(function.slot)

    def _check_hotplug(self, plugged: PluggedDevice, bus: PciBus, port: PcieRootPort | None) -> None:
        """Whether the bus takes a device now. Raises ChangeError."""
        if not self.is_running or bus.bridge is None:
            return
        if port is None or not port.has_hotplug:
            msg = f"Bus '{plugged.bus}' does not support hotplugging"
            raise ChangeError(msg)
        first = bus.find(0, 0)
        if first is not None:
            msg = f"PCI: slot 0 function 0 already occupied by {first.name}, new func cannot be exposed to guest."
            raise ChangeError(msg)

    def bus_of(self, name: str) -> PciBus:
        """The PCI bus of this name. Raises ChangeError."""
        if name in {self.pci_bus_name, ""}:
            return self.pci
        bridge = self.devices.owner_of(name).function
        if bridge is None or bridge.secondary is None:  # pragma: no cover - other buses are no place for functions
            raise TypeError(name)
        return bridge.secondary

    def root_port(self, bus: str) -> PcieRootPort | None:
        """The root port that leads to the bus of this name, if one does."""
        if bus in {self.pci_bus_name, ""} or self.mmio is not None:
            return None
        from pyhyve.devices.pci.root_port import PcieRootPort  # noqa: PLC0415 - few machines have some

        bridge = self.bus_of(bus).bridge
        return bridge if isinstance(bridge, PcieRootPort) else None

    def attach_mmio(self, plugged: PluggedDevice, device: VirtioDevice, name: str) -> None:
        """Give a virtio device a place on a board without PCI. Raises ChangeError."""
        if self.mmio is None:
            msg = f"No 'virtio-bus' bus found for device '{plugged.model.name}'"
            raise ChangeError(msg)
        try:
            self.mmio.attach(device, name)
        except ValueError as error:
            raise ChangeError(str(error)) from error

    def virtio(self, kind: str) -> str:
        """The model of the virtio device `kind` (`blk`, `net`, …) on this board."""
        return f"virtio-{kind}-{'pci' if self.mmio is None else 'device'}"

    def _place_taken(self, plugged: PluggedDevice, bus: PciBus, slot: int | None, number: int) -> str:
        """QEMU's words for a place that there is not, or that another device of the user's has."""
        if slot is not None and bus.slots == range(1) and slot:
            name = plugged.model.name
            return f"PCI: slot {slot} is not valid for {name}, parent device only allows plugging into slot 0."
        for other in self.devices:
            function = other.function
            if function is not None and (function.host, function.slot, function.function) == (bus, slot, number):
                by = f"{other.model.name},id={other.name}" if other.name else other.model.name
                return f"PCI: slot {slot} function {number} not available for {plugged.model.name}, in use by {by}"
        return ""

    def _detach_pci(self, function: PciDevice) -> None:
        with self.lock:
            host = function.host
            if host is None:
                return
            host.detach(function)
            bridge = host.bridge
            if bridge is not None:
                if bridge.secondary.is_empty:
                    bridge.emptied()
            elif self.hotplug is not None:
                self.hotplug.gone(function.slot)

    def ask_guest_to_eject(self, plugged: PluggedDevice) -> float:
        """Have the guest let the device go; returns until when nobody should ask again.

        A guest may miss a port's button, or take back what it began: then it can be pressed again.
        Raises ChangeError when the machine cannot ask.
        """
        function = plugged.function
        port = self.root_port(plugged.bus)
        is_behind = self.bus_of(plugged.bus).bridge is not None
        if function is None or (is_behind and port is None) or self.hotplug is None:
            msg = f"Bus '{plugged.bus}' does not support hotplugging"
            raise ChangeError(msg)
        with self.lock:
            if port is None:
                self.hotplug.request_eject(function.slot)
                return math.inf
            self._ask_port(port)
            return self.clock.now_ns() + _BUTTON_PATIENCE_NS

    def _deleted(self, plugged: PluggedDevice) -> None:
        data: dict[str, Any] = {"path": plugged.path}
        if plugged.name:
            data["device"] = plugged.name
        self.tell("DEVICE_DELETED", data)

    # -- the keyboard -------------------------------------------------------------------------------------------------

    def type_keys(self, numbers: list[int], hold_ms: int) -> None:
        """Press keys (`devices.input.keys`) one after the other, and let them go after a while."""
        keyboard = self.keyboard
        if keyboard is None:
            return
        with self.lock:
            if self._key_timer is None:
                self._key_timer = self.loop.timers.create_timer(self._let_keys_go)
            self._let_keys_go()
            for number in numbers:
                keyboard.press(number, is_pressed=True)
            self._held_keys = list(numbers)
            self._key_timer.arm(self.clock.now_ns() + hold_ms * 1_000_000)

    def _let_keys_go(self) -> None:
        held, self._held_keys = self._held_keys, []
        for number in reversed(held):
            if self.keyboard is not None:
                self.keyboard.press(number, is_pressed=False)

    # -- disks --------------------------------------------------------------------------------------------------------

    def io_error(self, plugged: PluggedDevice, failure: Failure) -> None:
        """A disk's request failed; its error policy may want the machine to stop."""
        attachment = plugged.attachment
        if attachment is None:
            return
        data: dict[str, Any] = {
            "device": attachment.name,
            "operation": "read" if failure.is_read else "write",
            "action": str(failure.action),
            "nospace": is_full(failure.error.code),
            "reason": str(failure.error),
        }
        if attachment.node is not None:
            data["node-name"] = attachment.node.name
        if failure.action is ErrorPolicy.STOP and self.io_stopped is not None:
            self.io_stopped(data)
        else:
            self.tell("BLOCK_IO_ERROR", data)

    # -- the balloon --------------------------------------------------------------------------------------------------

    def poll_balloon(self, seconds: int) -> None:
        """Ask the balloon for statistics every so many seconds; 0 stops that."""
        with self.lock:
            self.balloon_polling_s = seconds
            if self._balloon_timer is None:
                self._balloon_timer = self.loop.timers.create_timer(self._ask_balloon)
            self._balloon_timer.cancel()
            if seconds:
                self._balloon_timer.arm(self.clock.now_ns() + seconds * 1_000_000_000)

    def _ask_balloon(self) -> None:
        if self.balloon is not None and self.balloon_polling_s and self._balloon_timer is not None:
            self.balloon.device.request_statistics()
            self._balloon_timer.arm(self.clock.now_ns() + self.balloon_polling_s * 1_000_000_000)

    # -- what devices report ------------------------------------------------------------------------------------------

    def tray_moved(self, attachment: Attachment) -> None:
        """A drive's tray opened or closed."""
        data = {"device": attachment.name, "id": attachment.device_id, "tray-open": attachment.is_tray_open}
        self.tell("DEVICE_TRAY_MOVED", data)

    def balloon_moved(self, given_bytes: int) -> None:
        """The guest gave up or took back memory: `given_bytes` are out of its hands now."""
        total = sum(region.size_bytes for region in self.memory.regions if region.is_ram)
        self.tell("BALLOON_CHANGE", {"actual": total - given_bytes})

    def let_go(self, slot: int) -> None:
        """The guest let the device in `slot` go: its place is empty at once, with the machine lock held.

        The rest follows on the I/O thread: closing may wait, which a vCPU must not.
        """
        self._withdraw([plugged for plugged in self.devices if _sits_in(plugged, self.pci, slot)])

    def _ask_port(self, port: PcieRootPort) -> None:
        if not port.has_hotplug:
            msg = f"Hot-unplug failed: unsupported by the port device '{port.name}'"
            raise ChangeError(msg)
        if port.is_blinking:
            msg = "Hot-unplug failed: guest is busy (power indicator blinking)"
            raise ChangeError(msg)
        if port.is_off:
            self._let_go_behind(port)  # the guest does not use the slot
        else:
            port.press_button()

    def _let_go_behind(self, port: PcieRootPort) -> None:
        """The guest turned the slot of `port` off, with the machine lock held."""
        self._withdraw([plugged for plugged in self.devices if _sits_in(plugged, port.secondary, 0)])

    def reset(self) -> None:
        """The machine is reset, with its lock held: unplugs under way are done, trays are closed."""
        if "devices" in self.__dict__:
            self._withdraw([plugged for plugged in self.devices if plugged.unplug_requested])
            for plugged in self.devices:
                attachment = plugged.attachment
                if attachment is not None and attachment.is_removable:
                    attachment.cdrom.drive.power_on()
                    attachment.is_tray_open = False
        if self.hotplug is not None:
            self.hotplug.reset()

    def _withdraw(self, gone: list[PluggedDevice]) -> None:
        for plugged in gone:
            if plugged.function is not None:
                self._detach_pci(plugged.function)
        for plugged in gone:
            self.io.call_soon(functools.partial(self.devices.remove, plugged))

    def close(self) -> None:
        """Take everything apart; idempotent. Not with the machine lock held."""
        for closer in self.on_close:
            closer()
        self.on_close.clear()
        self.on_event = None
        for name in ("devices", "netdevs", "chardevs", "objects", "blocks"):
            part = self.__dict__.get(name)
            if part is not None:
                part.close()
        self.descriptors.close()


def _sits_in(plugged: PluggedDevice, bus: PciBus, slot: int) -> bool:
    function = plugged.function
    if function is None or not plugged.model.hotpluggable:
        return False
    return function.host is bus and function.slot == slot
