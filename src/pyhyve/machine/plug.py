"""Virtio devices for the disks and network cards of a configuration. Imported only by machines that have some."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from pyhyve.backends.block import open_backend
from pyhyve.backends.ioloop import IoLoop
from pyhyve.backends.net import NetError
from pyhyve.backends.passt import Forward, open_passt
from pyhyve.backends.switch import connect_switch
from pyhyve.backends.tap import Tap
from pyhyve.devices.virtio.block import BlockOptions
from pyhyve.devices.virtio.error_policy import ErrorPolicy, is_full
from pyhyve.devices.virtio.factory import PluggableDevice, make_disk, make_net
from pyhyve.devices.virtio.pci import VirtioPci
from pyhyve.devices.virtio.scsi import VirtioScsiCdrom
from pyhyve.image.contract import ImageError, ImageLockedError
from pyhyve.image.opening import OpenSettings, open_image, open_overlay
from pyhyve.machine.config import ConfigError, NetKind
from pyhyve.machine.holders import describe_holders
from pyhyve.machine.notices import NoticeKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.accel.api import Vm
    from pyhyve.backends.net import NetBackend
    from pyhyve.devices.virtio.block import Failure, VirtioBlock
    from pyhyve.devices.virtio.net import VirtioNet
    from pyhyve.devices.virtio.pci import NotifyRegistrar
    from pyhyve.image.contract import Image
    from pyhyve.machine.config import DiskConfig, NetConfig
    from pyhyve.machine.machine import Machine
    from pyhyve.memory.guest import GuestMemory


@runtime_checkable
class _RemovableNotify(Protocol):
    """An engine whose notification addresses can be moved: KVM's ioeventfds."""

    def on_notify(self, address: int, size: int, callback: Callable[[int], None], *, is_port: bool = False) -> None:
        """As `accel.api.Vm.on_notify`."""

    def remove_notify(self, address: int) -> None:
        """Undo `on_notify`."""


def notify_registrar(vm: Vm) -> NotifyRegistrar | None:
    """How the engine watches queue notifications by itself; None when they take the way through the bus."""
    if not isinstance(vm, _RemovableNotify):
        return None
    engine: _RemovableNotify = vm

    def register(address: int, size: int, callback: Callable[[int], None], /) -> Callable[[], None]:
        engine.on_notify(address, size, callback)
        return lambda: engine.remove_notify(address)

    return register


def plug_disk(
    memory: GuestMemory,
    disk: DiskConfig,
    notify: NotifyRegistrar | None,
    on_failure: Callable[[Failure], None] | None = None,
) -> PluggableDevice[VirtioBlock]:
    """A disk on its image, or on a temporary overlay of it (`snapshot`); raises ConfigError."""
    options = BlockOptions(serial=disk.serial, read_errors=disk.read_errors, write_errors=disk.write_errors)
    return make_disk(memory, _open(disk), options, on_failure=on_failure, register_notify=notify)


def failure_teller(machine: Machine, disk: DiskConfig) -> Callable[[Failure], None]:
    """What tells a machine of requests that its host could not carry out, and stops it when the policy says so."""

    def tell(failure: Failure) -> None:
        data = {
            "device": disk.drive_id,
            "node-name": disk.node_name,
            "operation": "read" if failure.is_read else "write",
            "action": str(failure.action),
            "nospace": is_full(failure.error.code),
            "reason": str(failure.error),
        }
        if failure.action is ErrorPolicy.STOP:
            machine.io_error(data)
        else:
            machine.tell(NoticeKind.BLOCK_IO_ERROR, data)

    return tell


def plug_cdrom(
    memory: GuestMemory, disk: DiskConfig, notify: NotifyRegistrar | None
) -> PluggableDevice[VirtioScsiCdrom]:
    """A CD-ROM drive that firmware can boot from; raises ConfigError."""
    loop = IoLoop("cdrom")
    device = VirtioScsiCdrom(memory, loop, open_backend(_open(disk)))
    function = VirtioPci(device, name="virtio-cdrom", register_notify=notify)
    loop.start()

    def close() -> None:
        device.close()
        loop.stop()

    return PluggableDevice(function, device, close)


def _open(disk: DiskConfig) -> Image:
    writable = not (disk.readonly or disk.is_cdrom)
    settings = OpenSettings(format_name=disk.format, writable=writable, cache=disk.cache)
    opener = open_overlay if disk.snapshot and writable else open_image
    try:
        return opener(str(disk.path), settings)
    except (ImageError, OSError) as error:
        holders = describe_holders(disk.path) if isinstance(error, ImageLockedError) else ""
        msg = f"disk: {error} It is open in {holders}." if holders else f"disk: {error}"
        raise ConfigError(msg) from error


def plug_net(
    memory: GuestMemory, loop: IoLoop, net: NetConfig, notify: NotifyRegistrar | None
) -> PluggableDevice[VirtioNet]:
    """A network card on its backend; raises NetError or ConfigError."""
    mac = bytes.fromhex(net.mac.replace(":", "")) if net.mac is not None else None
    return make_net(memory, loop, _open_backend(net), mac=mac, register_notify=notify)


def _open_backend(net: NetConfig) -> NetBackend:
    match net.kind:
        case NetKind.USER:
            forwards = [
                Forward(forward.protocol, forward.host_port, forward.guest_port, forward.host_address)
                for forward in net.forwards
            ]
            return open_passt(forwards)
        case NetKind.TAP:
            return Tap(net.target)
        case NetKind.SWITCH:
            return connect_switch(net.target)
        case NetKind.BRIDGE:
            return _tap_on_bridge(net.target)
        case _:
            msg = f"net: a card of kind {net.kind} cannot be plugged in"
            raise ConfigError(msg)


def _tap_on_bridge(bridge: str) -> Tap:
    """A tap of the machine's own on `bridge`; it vanishes with this process, however that ends."""
    from pyhyve.hostnet import links  # noqa: PLC0415 - netlink takes a fifth of a second to load

    links.check_bridge(bridge)
    try:
        tap = Tap(links.free_tap_name())
    except NetError as error:
        if not isinstance(error.__cause__, PermissionError):
            raise
        msg = f"net: bridge={bridge}: no permission (run as root, use a tap that an administrator made, or --net user)"
        raise NetError(msg) from error
    try:
        links.plug_into_bridge(tap.name, bridge)
    except BaseException:
        tap.close()
        raise
    return tap
