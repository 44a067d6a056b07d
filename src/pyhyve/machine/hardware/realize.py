"""How each device is made and put into its place: one function for each model of `models`."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from pyhyve.backends.chardev import NullChardev
from pyhyve.backends.ioloop import IoLoop
from pyhyve.devices.error_policy import ErrorPolicy
from pyhyve.machine.block.attach import Attachment, backend_on
from pyhyve.machine.block.errors import ChangeError
from pyhyve.machine.config import ConfigError, parse_mac
from pyhyve.machine.hardware.objects import RNG_BACKENDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.backends.chardev import Chardev
    from pyhyve.devices.pci.bridge import PciBridge
    from pyhyve.devices.pci.device import PciDevice
    from pyhyve.devices.scsi.drive import DiscDrive
    from pyhyve.devices.virtio.device import VirtioDevice
    from pyhyve.machine.block.node import BlockNode
    from pyhyve.machine.hardware.devices import PluggedDevice
    from pyhyve.machine.hardware.hardware import Hardware

MAX_QUEUES = 64


def attach_function(hardware: Hardware, plugged: PluggedDevice, function: PciDevice) -> None:
    """Put `function` on the bus where `addr` says; a guest that runs is told."""
    slot, number = parse_address(plugged.values.get("addr"))
    hardware.attach_pci(plugged, function, slot, number, multifunction=bool(plugged.values.get("multifunction")))


def _attach_endpoint(hardware: Hardware, plugged: PluggedDevice, function: PciDevice) -> None:
    """Put `function` on its bus; behind a port of PCI Express it is an endpoint of the link."""
    if hardware.root_port(plugged.bus) is not None:
        from pyhyve.devices.pci.express import express_capability  # noqa: PLC0415 - few machines have ports
        from pyhyve.devices.pci.express_spec import PortType  # noqa: PLC0415 - ditto

        express_capability(function, PortType.ENDPOINT)
    attach_function(hardware, plugged, function)


def _attach_virtio(hardware: Hardware, plugged: PluggedDevice, device: VirtioDevice, name: str) -> None:
    """Put a virtio device on the machine's bus for such: PCI, or the places of a board without it."""
    values = plugged.values
    device.choose_rings(
        packed=values.get("packed"),
        event_index=values.get("event_idx", True),
        indirect=values.get("indirect_desc", True),
    )
    values["packed"] = device.offers_packed
    if hardware.mmio is not None:
        hardware.attach_mmio(plugged, device, plugged.name or name)
        return
    from pyhyve.devices.virtio.pci import VirtioPci  # noqa: PLC0415 - boards without PCI need none

    function = VirtioPci(device, name=plugged.name or name, register_notify=hardware.notify)
    values["packed"] = device.offers_packed
    _attach_endpoint(hardware, plugged, function)


def parse_address(text: str | None) -> tuple[int | None, int]:
    """Slot and function of `SLOT[.FUNCTION]` (hexadecimal, with or without 0x); no slot: the next.

    Raises ChangeError.
    """
    if text is None or text == "-1":
        return None, 0
    slot_text, _, function_text = text.partition(".")
    try:
        slot, function = int(slot_text, 16), int(function_text or "0", 16)
    except ValueError:
        slot = function = -1
    if not 0 <= slot < 32 or not 0 <= function < 8:
        msg = f"Property 'addr' doesn't take value '{text}'"
        raise ChangeError(msg)
    return slot, function


def claim_node(hardware: Hardware, plugged: PluggedDevice) -> tuple[BlockNode, str]:
    """The node of the property `drive`, and the drive's name if it is one. Raises ChangeError."""
    wanted = plugged.values.get("drive")
    if not wanted:
        msg = "drive property not set"
        raise ChangeError(msg)
    return hardware.claim_drive(str(wanted), plugged.model.name, share=bool(plugged.values.get("share-rw")))


def _virtio_blk(hardware: Hardware, plugged: PluggedDevice) -> None:
    from pyhyve.devices.virtio.block import BlockOptions, VirtioBlock  # noqa: PLC0415 - only when wanted

    values = plugged.values
    node, drive_name = claim_node(hardware, plugged)
    logical = values.get("logical_block_size") or 512
    physical = max(values.get("physical_block_size") or logical, logical)
    for name, size in (("logical_block_size", logical), ("physical_block_size", physical)):
        if size & (size - 1) or not 512 <= size <= 2 << 20:
            msg = f"Property .{name} doesn't take value {size}: it must be a power of two between 512 and 2097152"
            raise ChangeError(msg)
    queues, queue_size = values.get("num-queues", 1), values.get("queue-size", 256)
    if not 0 < queues <= MAX_QUEUES:
        msg = f"num-queues property must be between 1 and {MAX_QUEUES}"
        raise ChangeError(msg)
    if queue_size < 4 or queue_size > 1024 or queue_size & (queue_size - 1):
        msg = f"invalid queue-size property ({queue_size}), must be a power of 2 between 4 and 1024"
        raise ChangeError(msg)
    options = BlockOptions(
        serial=str(values.get("serial", hardware.drive_serial(drive_name))),
        queues=queues,
        queue_size=queue_size,
        logical_block_bytes=logical,
        physical_block_bytes=physical,
        read_errors=error_policy(plugged, "rerror"),
        write_errors=error_policy(plugged, "werror"),
    )
    loop, stop_loop = _worker(hardware, plugged, "virtio-disk")
    backend = backend_on(node)
    device = VirtioBlock(
        hardware.memory, loop, backend, options, on_failure=lambda failure: hardware.io_error(plugged, failure)
    )

    def close() -> None:
        device.close()
        stop_loop()

    plugged.undo.append(close)
    attachment = Attachment(
        hardware.blocks,
        device,
        node,
        name=drive_name,
        device_id=plugged.name,
        path=f"{plugged.path}/virtio-backend",
    )
    # The node is let go after the device was closed, which flushes through it.
    plugged.undo.insert(0, attachment.detach)
    plugged.attachment, plugged.device = attachment, device
    _attach_virtio(hardware, plugged, device, "virtio-disk")


def _worker(hardware: Hardware, plugged: PluggedDevice, name: str) -> tuple[IoLoop, Callable[[], None]]:
    """The thread that serves a device, and what ends it: its `iothread`, which it may share, or one of its own."""
    if plugged.values.get("iothread"):
        shared: IoLoop = _claim_object(hardware, plugged, "iothread", ("iothread",))
        return shared, lambda: None
    loop = IoLoop(plugged.name or name)
    loop.start()
    plugged.undo.append(loop.stop)
    return loop, loop.stop


def error_policy(plugged: PluggedDevice, name: str) -> ErrorPolicy:
    """The value of `werror` or `rerror`; `auto` is what QEMU's machines do. Raises ChangeError."""
    value = str(plugged.values.get(name, "auto"))
    if value == "auto":
        return ErrorPolicy.ENOSPC if name == "werror" else ErrorPolicy.REPORT
    if name == "rerror" and value == "enospc":
        msg = "rerror=enospc: reading takes no space (use report, stop or ignore)"
        raise ChangeError(msg)
    return ErrorPolicy(value)


def _virtio_net(hardware: Hardware, plugged: PluggedDevice) -> None:
    from pyhyve.devices.virtio.factory import make_net  # noqa: PLC0415 - only when wanted

    values = plugged.values
    wanted = values.get("netdev")
    try:
        mac = None if values.get("mac") is None else parse_mac(str(values["mac"]))
    except ConfigError as error:
        msg = f"Property 'virtio-net-device.mac' doesn't take value '{values['mac']}'"
        raise ChangeError(msg) from error
    if wanted:
        backend = hardware.netdevs.claim(str(wanted), "virtio-net-device")
        plugged.undo.append(lambda: hardware.netdevs.release(str(wanted)))
    else:
        from pyhyve.backends.net_null import NullNet  # noqa: PLC0415 - only when wanted

        backend = NullNet()
    try:
        device = make_net(
            hardware.memory,
            hardware.io,
            backend,
            mac=mac,
            mtu=values.get("host_mtu", 0),
            register_notify=hardware.notify,
        )
    except BaseException:
        backend.close()
        raise
    plugged.undo.append(device.close)
    plugged.device = device
    _attach_virtio(hardware, plugged, device, "virtio-net")


def _claim_object(hardware: Hardware, plugged: PluggedDevice, name: str, kinds: tuple[str, ...]) -> Any:  # noqa: ANN401
    wanted = str(plugged.values[name])
    found = hardware.objects.claim(wanted, kinds, plugged.path, name)
    plugged.undo.append(lambda: hardware.objects.release(wanted, plugged.path))
    return found.value


def _virtio_rng(hardware: Hardware, plugged: PluggedDevice) -> None:
    import os  # noqa: PLC0415 - only when wanted

    from pyhyve.devices.virtio.rng import VirtioRng  # noqa: PLC0415

    if "max-bytes" in plugged.values:
        msg = "virtio-rng-pci: max-bytes is not supported: what the guest draws is not limited"
        raise ChangeError(msg)
    source: Callable[[int], bytes] = os.urandom
    if plugged.values.get("rng"):
        source = _claim_object(hardware, plugged, "rng", RNG_BACKENDS)
    device = VirtioRng(hardware.memory, hardware.io, source=source)
    plugged.device = device
    plugged.undo.append(device.reset)
    _attach_virtio(hardware, plugged, device, "virtio-rng")


def _virtio_balloon(hardware: Hardware, plugged: PluggedDevice) -> None:
    from pyhyve.devices.virtio.balloon import BalloonOptions, VirtioBalloon  # noqa: PLC0415 - only when wanted

    if hardware.balloon is not None:
        msg = "Only one balloon device is supported"
        raise ChangeError(msg)
    options = BalloonOptions(
        bool(plugged.values.get("deflate-on-oom", False)),
        bool(plugged.values.get("free-page-reporting", False)),
        on_change=hardware.balloon_moved,
    )
    device = VirtioBalloon(hardware.memory, hardware.io, options)
    plugged.device = device
    plugged.undo.append(device.reset)
    hardware.balloon = plugged

    def forget() -> None:
        hardware.balloon = None

    plugged.undo.append(forget)
    _attach_virtio(hardware, plugged, device, "virtio-balloon")


def _uhci(hardware: Hardware, plugged: PluggedDevice) -> None:
    from pyhyve.devices.usb.uhci import Uhci  # noqa: PLC0415 - only when wanted

    controller = Uhci(hardware.clock)
    plugged.device = controller
    plugged.undo.append(controller.reset)
    attach_function(hardware, plugged, controller)


def _xhci(hardware: Hardware, plugged: PluggedDevice) -> None:
    from pyhyve.devices.usb.xhci import MAX_PORTS, Xhci  # noqa: PLC0415 - only when wanted

    counts = [plugged.values.get(name, 4) for name in ("p2", "p3")]
    if not all(0 < count <= MAX_PORTS for count in counts):
        msg = f"qemu-xhci: p2 and p3 are 1 to {MAX_PORTS} ports"
        raise ChangeError(msg)
    controller = Xhci(hardware.memory, usb2=counts[0], usb3=counts[1])
    plugged.device = controller
    plugged.undo.append(controller.reset)
    _attach_endpoint(hardware, plugged, controller)


def _virtio_serial(hardware: Hardware, plugged: PluggedDevice) -> None:
    from pyhyve.devices.virtio.console import MAX_PORTS, VirtioConsole  # noqa: PLC0415 - only when wanted

    most = plugged.values.get("max_ports", MAX_PORTS)
    if not 0 < most <= MAX_PORTS:
        msg = f"maximum number of ports supported is {MAX_PORTS}"
        raise ChangeError(msg)
    device = VirtioConsole(hardware.memory, hardware.io, [None] * most)
    plugged.device = device
    plugged.undo.append(device.reset)
    _attach_virtio(hardware, plugged, device, "virtio-serial")


def _serial_port(hardware: Hardware, plugged: PluggedDevice) -> None:
    from pyhyve.devices.virtio.console import PortConfig, VirtioConsole  # noqa: PLC0415 - only when wanted

    bus = hardware.devices.owner_of(plugged.bus).device
    if not isinstance(bus, VirtioConsole):  # pragma: no cover - there is no other kind of such a bus
        raise TypeError(plugged.bus)
    is_console = plugged.model.name == "virtconsole"
    number = plugged.values.get("nr")
    if number is None:
        # Number 0 is for consoles: a driver without several ports has this one only.
        number = next((n for n in range(0 if is_console else 1, bus.max_ports) if n not in bus.numbers), bus.max_ports)
        if number == bus.max_ports:
            msg = "virtio-serial-bus: A port could not be added: all are taken"
            raise ChangeError(msg)
    if not number and not is_console:
        msg = "virtio-serial-bus: Port number 0 is for virtconsole devices"
        raise ChangeError(msg)
    if number >= bus.max_ports:
        msg = f"virtio-serial-bus: Out-of-range port id specified, max. allowed: {bus.max_ports - 1}"
        raise ChangeError(msg)
    if number in bus.numbers:
        msg = f"virtio-serial-bus: A port already exists by name or id {number}"
        raise ChangeError(msg)
    wanted = str(plugged.values.get("chardev") or "")
    chardev: Chardev = NullChardev()
    if wanted:
        claimed = hardware.chardevs.claim(wanted, plugged.model.name)
        chardev = claimed.chardev
        plugged.undo.append(lambda: hardware.chardevs.release(wanted))
        if not is_console:
            claimed.guest_opened = functools.partial(bus.is_open_in_guest, number)

    def opened(is_open: bool) -> None:  # noqa: FBT001 - the port's callback
        hardware.tell("VSERPORT_CHANGE", {"id": plugged.name, "open": is_open})

    config = PortConfig(chardev, str(plugged.values.get("name", "")), is_console, opened)
    bus.add_port(number, config, hardware.io)
    plugged.undo.append(lambda: bus.remove_port(number))
    plugged.values["nr"] = number
    plugged.device = bus


def _virtio_vsock(hardware: Hardware, plugged: PluggedDevice) -> None:
    from pathlib import Path  # noqa: PLC0415 - only when wanted

    from pyhyve.backends.vsock import VsockListener  # noqa: PLC0415
    from pyhyve.devices.virtio.vsock import VirtioVsock  # noqa: PLC0415

    values = plugged.values
    cid, path = values.get("guest-cid"), values.get("path")
    if cid is None or not 2 < cid < 0xFFFF_FFFF:
        msg = "guest-cid property must be greater than 2"
        raise ChangeError(msg)
    if not path:
        msg = "virtio-vsock-pci: path names the Unix socket that stands for the host's side"
        raise ChangeError(msg)
    device = VirtioVsock(hardware.memory, hardware.io, cid, VsockListener(Path(path)))
    plugged.device = device
    plugged.undo.append(device.close)
    _attach_virtio(hardware, plugged, device, "virtio-vsock")
    device.start()


def _isa_serial(hardware: Hardware, plugged: PluggedDevice) -> None:
    wanted = plugged.values.get("chardev")
    if not wanted:
        msg = "Can't create serial device, empty char device"
        raise ChangeError(msg)
    entry = hardware.chardevs.claim(str(wanted), plugged.model.name)
    plugged.undo.append(lambda: hardware.chardevs.release(str(wanted)))
    plugged.device = hardware.add_serial_port(
        entry.chardev,
        index=plugged.values.get("index"),
        port=plugged.values.get("iobase"),
        irq=plugged.values.get("irq"),
    )


def _virtio_scsi(hardware: Hardware, plugged: PluggedDevice) -> None:
    from pyhyve.devices.virtio.scsi import VirtioScsi  # noqa: PLC0415 - only when wanted

    loop, stop_loop = _worker(hardware, plugged, "scsi")
    device = VirtioScsi(hardware.memory, loop)

    def close() -> None:
        device.close()
        stop_loop()

    plugged.undo.append(close)
    plugged.device = device
    _attach_virtio(hardware, plugged, device, "virtio-scsi")


def attach_disc_drive(hardware: Hardware, plugged: PluggedDevice) -> DiscDrive:
    """A drive with the disc of `drive`, if one is given; its discs change through monitors. Raises ChangeError."""
    from pyhyve.devices.scsi.drive import DiscDrive  # noqa: PLC0415 - only when wanted

    node, drive_name = None, ""
    if plugged.values.get("drive"):
        node, drive_name = claim_node(hardware, plugged)
    disc_drive = DiscDrive(None if node is None else backend_on(node))
    attachment = Attachment(
        hardware.blocks,
        disc_drive,
        node,
        name=drive_name,
        device_id=plugged.name,
        path=plugged.path,
        is_removable=True,
    )
    plugged.undo.append(attachment.detach)

    def moved(is_open: bool) -> None:  # noqa: FBT001 - the drive's callback
        attachment.is_tray_open = is_open
        hardware.tray_moved(attachment)

    disc_drive.drive.on_tray = moved
    plugged.attachment, plugged.device = attachment, disc_drive
    return disc_drive


def _scsi_cd(hardware: Hardware, plugged: PluggedDevice) -> None:
    from pyhyve.devices.virtio.scsi import MAX_TARGETS, VirtioScsi  # noqa: PLC0415 - only when wanted

    host = hardware.devices.owner_of(plugged.bus).device
    if not isinstance(host, VirtioScsi):  # pragma: no cover - there is no other kind of SCSI bus
        raise TypeError(plugged.bus)
    number = plugged.values.get("scsi-id")
    if number is None:
        number = next((n for n in range(MAX_TARGETS) if n not in host.targets), MAX_TARGETS)
    if not 0 <= number < MAX_TARGETS or number in host.targets:
        msg = (
            f"lun already used by another device: scsi-id {number}"
            if number in host.targets
            else f"bad scsi device id: {number}"
        )
        raise ChangeError(msg)
    host.targets[number] = attach_disc_drive(hardware, plugged)

    def leave() -> None:
        host.targets.pop(number, None)

    plugged.undo.append(leave)
    plugged.values["scsi-id"] = number


def _vga(hardware: Hardware, plugged: PluggedDevice) -> None:
    if hardware.make_vga is None or hardware.vga is not None:
        msg = "Only one VGA device is supported" if hardware.vga is not None else "there is no memory for a VGA device"
        raise ChangeError(msg)
    hardware.vga = plugged.device = hardware.make_vga()

    def forget() -> None:
        hardware.vga = None

    plugged.undo.append(forget)
    attach_function(hardware, plugged, hardware.vga)


def _generation_id(hardware: Hardware, plugged: PluggedDevice) -> None:
    from uuid import UUID  # noqa: PLC0415 - only when wanted

    if hardware.make_generation_id is None or hardware.generation_id is not None:
        msg = "at most one vmgenid device is permitted"
        raise ChangeError(msg)
    text = str(plugged.values.get("guid", "auto"))
    try:
        identifier = None if text == "auto" else UUID(text).bytes
    except ValueError as error:
        msg = f"Property 'vmgenid.guid' doesn't take value '{text}'"
        raise ChangeError(msg) from error
    hardware.generation_id = plugged.device = hardware.make_generation_id(identifier)


def _root_port(hardware: Hardware, plugged: PluggedDevice) -> None:
    from pyhyve.devices.pci.root_port import PcieRootPort  # noqa: PLC0415 - only when wanted

    if hardware.bus_of(plugged.bus).bridge is not None:
        msg = f"Bus '{plugged.bus}' has no room for a root port: root ports are on {hardware.pci_bus_name}"
        raise ChangeError(msg)
    values = plugged.values
    place = _slot_of(plugged)
    if any(other.model is plugged.model and _slot_of(other) == place for other in hardware.devices):
        msg = "Can't add chassis slot, error -16: another port has this chassis and slot"
        raise ChangeError(msg)
    port = PcieRootPort(
        port=values.get("port", 0), slot=place[1], name=plugged.name or "root port", hotplug=values.get("hotplug", True)
    )
    _add_bridge(hardware, plugged, port)


def _slot_of(port: PluggedDevice) -> tuple[int, int]:
    return port.values.get("chassis", 0), port.values.get("slot", 0)


def _pcie_pci_bridge(hardware: Hardware, plugged: PluggedDevice) -> None:
    from pyhyve.devices.pci.express import PciePciBridge  # noqa: PLC0415 - only when wanted

    _add_bridge(hardware, plugged, PciePciBridge(plugged.name or "bridge"))


def _pci_bridge(hardware: Hardware, plugged: PluggedDevice) -> None:
    from pyhyve.devices.pci.bridge import PlainPciBridge  # noqa: PLC0415 - only when wanted

    _add_bridge(hardware, plugged, PlainPciBridge(plugged.name or "bridge"))


def _add_bridge(hardware: Hardware, plugged: PluggedDevice, bridge: PciBridge) -> None:
    plugged.device = bridge
    attach_function(hardware, plugged, bridge)


def _ide_drive(hardware: Hardware, plugged: PluggedDevice) -> None:
    from pyhyve.machine.hardware.realize_ide import add_drive  # noqa: PLC0415 - only when wanted

    add_drive(hardware, plugged)


def _ahci(hardware: Hardware, plugged: PluggedDevice) -> None:
    from pyhyve.machine.hardware.realize_ide import add_ahci  # noqa: PLC0415 - only when wanted

    add_ahci(hardware, plugged)


REALIZERS: dict[str, Callable[[Hardware, PluggedDevice], None]] = {
    "virtio-blk-pci": _virtio_blk,
    "virtio-net-pci": _virtio_net,
    "virtio-rng-pci": _virtio_rng,
    "virtio-balloon-pci": _virtio_balloon,
    "virtio-scsi-pci": _virtio_scsi,
    "scsi-cd": _scsi_cd,
    "ide-hd": _ide_drive,
    "ide-cd": _ide_drive,
    "ich9-ahci": _ahci,
    "virtio-serial-pci": _virtio_serial,
    "virtserialport": _serial_port,
    "virtconsole": _serial_port,
    "virtio-vsock-pci": _virtio_vsock,
    "isa-serial": _isa_serial,
    "piix3-usb-uhci": _uhci,
    "qemu-xhci": _xhci,
    "VGA": _vga,
    "vmgenid": _generation_id,
    "pcie-root-port": _root_port,
    "pcie-pci-bridge": _pcie_pci_bridge,
    "pci-bridge": _pci_bridge,
}
REALIZERS |= {name.replace("-pci", "-device"): make for name, make in REALIZERS.items() if name.endswith("-pci")}
"""The same devices on boards without PCI."""
