"""Virtio devices ready to be plugged into a PCI bus: device, worker and transport put together.

A machine's builder calls one function per device, attaches `function`, and calls `close` when the machine ends.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from pyhyve.backends.block import open_backend
from pyhyve.backends.ioloop import IoLoop
from pyhyve.devices.virtio.balloon import VirtioBalloon
from pyhyve.devices.virtio.block import BlockOptions, VirtioBlock
from pyhyve.devices.virtio.console import PortConfig, VirtioConsole
from pyhyve.devices.virtio.net import NetOptions, VirtioNet
from pyhyve.devices.virtio.pci import NotifyRegistrar, VirtioPci
from pyhyve.devices.virtio.rng import VirtioRng

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyhyve.backends.block import BlockError
    from pyhyve.backends.chardev import EventLoop
    from pyhyve.backends.net import NetBackend
    from pyhyve.image.contract import Image
    from pyhyve.memory.guest import GuestMemory

DeviceT = TypeVar("DeviceT")
_MAC_PREFIX = b"\x52\x54\x00"


@dataclass(frozen=True, slots=True)
class PluggableDevice(Generic[DeviceT]):
    """A PCI function and what is behind it."""

    function: VirtioPci
    device: DeviceT
    close: Callable[[], None]
    """Stop the device and release its backend; idempotent. vCPUs must have stopped."""


def make_mac() -> bytes:
    """A random MAC address with the prefix virtual machines use."""
    return _MAC_PREFIX + os.urandom(3)


def make_disk(
    memory: GuestMemory,
    image: Image,
    options: BlockOptions | None = None,
    *,
    name: str = "virtio-disk",
    on_stop: Callable[[BlockError], None] | None = None,
    register_notify: NotifyRegistrar | None = None,
) -> PluggableDevice[VirtioBlock]:
    """A disk on an open image, which it takes over. It has a thread of its own, so a slow disk delays nothing else."""
    loop = IoLoop(name)
    device = VirtioBlock(memory, loop, open_backend(image), options, on_stop=on_stop)
    function = VirtioPci(device, name=name, register_notify=register_notify)
    loop.start()

    def close() -> None:
        device.close()
        loop.stop()

    return PluggableDevice(function, device, close)


def make_net(
    memory: GuestMemory,
    loop: IoLoop,
    backend: NetBackend,
    *,
    mac: bytes | None = None,
    mtu: int = 0,
    name: str = "virtio-net",
    register_notify: NotifyRegistrar | None = None,
) -> PluggableDevice[VirtioNet]:
    """A network card on `backend`, which it takes over; served on `loop`."""
    device = VirtioNet(memory, loop, backend, NetOptions(mac or make_mac(), mtu=mtu))
    device.start(loop)
    function = VirtioPci(device, name=name, register_notify=register_notify)
    return PluggableDevice(function, device, device.close)


def make_console(
    memory: GuestMemory,
    loop: IoLoop,
    chardev_loop: EventLoop,
    ports: Sequence[PortConfig],
    *,
    name: str = "virtio-console",
    register_notify: NotifyRegistrar | None = None,
) -> PluggableDevice[VirtioConsole]:
    """A console; its queues are served on `loop`, its character devices on `chardev_loop`, from now on."""
    device = VirtioConsole(memory, loop, ports)
    function = VirtioPci(device, name=name, register_notify=register_notify)
    device.start(chardev_loop)
    return PluggableDevice(function, device, device.close)


def make_rng(
    memory: GuestMemory, loop: IoLoop, *, register_notify: NotifyRegistrar | None = None
) -> PluggableDevice[VirtioRng]:
    """An entropy device."""
    device = VirtioRng(memory, loop)
    return PluggableDevice(VirtioPci(device, register_notify=register_notify), device, device.reset)


def make_balloon(
    memory: GuestMemory,
    loop: IoLoop,
    *,
    on_statistics: Callable[[dict[str, int]], None] | None = None,
    register_notify: NotifyRegistrar | None = None,
) -> PluggableDevice[VirtioBalloon]:
    """A memory balloon."""
    device = VirtioBalloon(memory, loop, on_statistics=on_statistics)
    return PluggableDevice(VirtioPci(device, register_notify=register_notify), device, device.reset)
