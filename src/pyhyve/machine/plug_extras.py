"""Virtio devices that are neither disk nor network card. Imported only by machines that have some."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.devices.virtio import console
from pyhyve.devices.virtio.balloon import BalloonOptions
from pyhyve.devices.virtio.factory import PluggableDevice, make_balloon, make_console, make_rng, make_vsock
from pyhyve.machine.chardevs import open_chardev
from pyhyve.machine.config import (
    BalloonConfig,
    ConfigError,
    ExtraConfig,
    PortConfig,
    RngConfig,
    SerialBusConfig,
    VsockConfig,
)
from pyhyve.machine.notices import NoticeKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.backends.chardev import Chardev
    from pyhyve.backends.ioloop import IoLoop
    from pyhyve.devices.virtio.console import VirtioConsole
    from pyhyve.devices.virtio.pci import NotifyRegistrar
    from pyhyve.memory.guest import GuestMemory

    Tell = Callable[[NoticeKind, dict[str, Any]], None]


def plug_extra(
    memory: GuestMemory,
    loop: IoLoop,
    extra: ExtraConfig,
    tell: Tell,
    notify: NotifyRegistrar | None,
) -> PluggableDevice[Any]:
    """Any other device; `tell(kind, data)` is called with what a monitor should know. Raises UserError."""
    match extra:
        case RngConfig():
            try:
                return make_rng(memory, loop, extra.source, register_notify=notify)
            except OSError as error:
                msg = f"rng: {extra.source}: {error.strerror}"
                raise ConfigError(msg) from error
        case BalloonConfig():
            total = sum(region.size_bytes for region in memory.regions if not region.readonly)
            options = BalloonOptions(
                extra.deflate_on_oom,
                extra.free_page_reporting,
                on_change=lambda given: tell(NoticeKind.BALLOON_CHANGE, {"actual": total - given}),
            )
            return make_balloon(memory, loop, options, register_notify=notify)
        case SerialBusConfig():
            return _plug_serial_bus(memory, loop, extra, tell, notify)
        case VsockConfig():
            return make_vsock(memory, loop, extra.cid, extra.path, register_notify=notify)


def _plug_serial_bus(
    memory: GuestMemory,
    loop: IoLoop,
    bus: SerialBusConfig,
    tell: Tell,
    notify: NotifyRegistrar | None,
) -> PluggableDevice[VirtioConsole]:
    # Without a port, the device still has queues for the first one.
    ports: list[console.PortConfig | None] = [None] * (max((port.number for port in bus.ports), default=0) + 1)
    opened: list[Chardev] = []
    try:
        for port in bus.ports:
            opened.append(open_chardev(port.chardev, label=f"channel {port.name}" if port.name else "console"))
            ports[port.number] = _port(port, opened[-1], tell)
        return make_console(memory, loop, loop, ports, register_notify=notify)
    except BaseException:
        for chardev in opened:
            chardev.close()
        raise


def _port(port: PortConfig, chardev: Chardev, tell: Tell) -> console.PortConfig:
    def changed(is_open: bool) -> None:  # noqa: FBT001 - the device's callback
        tell(NoticeKind.VSERPORT_CHANGE, {"id": port.device_id, "open": is_open})

    return console.PortConfig(chardev, port.name, port.is_console, changed)
