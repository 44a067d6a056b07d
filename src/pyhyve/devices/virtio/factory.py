"""Virtio devices ready to be plugged into a PCI bus: device, worker and transport put together.

A machine's builder calls one function per device, attaches `function`, and calls `close` when the machine ends.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from pyhyve.backends.block import open_backend
from pyhyve.backends.ioloop import IoLoop
from pyhyve.backends.net import NetError
from pyhyve.backends.vsock import VsockListener
from pyhyve.devices.virtio.balloon import BalloonOptions, VirtioBalloon
from pyhyve.devices.virtio.block import BlockOptions, VirtioBlock
from pyhyve.devices.virtio.console import PortConfig, VirtioConsole
from pyhyve.devices.virtio.net import NetOptions, VirtioNet
from pyhyve.devices.virtio.pci import EventRegistrar, NotifyRegistrar, VirtioPci
from pyhyve.devices.virtio.rng import VirtioRng
from pyhyve.devices.virtio.vsock import VirtioVsock
from pyhyve.support.logs import late_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pyhyve.backends.chardev import EventLoop
    from pyhyve.backends.net import NetBackend
    from pyhyve.backends.vhost import VhostBackend
    from pyhyve.devices.virtio.block import Failure
    from pyhyve.image.contract import Image
    from pyhyve.memory.guest import GuestMemory

DeviceT = TypeVar("DeviceT")
_LOG = late_logger(__name__)
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
    on_failure: Callable[[Failure], None] | None = None,
    register_notify: NotifyRegistrar | None = None,
) -> PluggableDevice[VirtioBlock]:
    """A disk on an open image, which it takes over. It has a thread of its own, so a slow disk delays nothing else."""
    loop = IoLoop(name)
    device = VirtioBlock(memory, loop, open_backend(image), options, on_failure=on_failure)
    function = VirtioPci(device, name=name, register_notify=register_notify)
    loop.start()

    def close() -> None:
        device.close()
        loop.stop()

    return PluggableDevice(function, device, close)


def find_vhost(backend: NetBackend, register_notify: NotifyRegistrar | None) -> VhostBackend | None:
    """The kernel's vhost-net for a tap whose kicks it can hear, where the host has it and nobody said no.

    That is on KVM alone: the emulator must know of every write to guest memory, and vhost-net tells nobody.
    """
    from pyhyve.backends.tap import Tap  # noqa: PLC0415 - most machines have none

    if not isinstance(backend, Tap):
        return None
    passed, backend.vhost_fds = backend.vhost_fds, []
    engine: object = register_notify
    if backend.vhost is not False and isinstance(engine, EventRegistrar):
        from pyhyve.backends.vhost import KernelVhostNet  # noqa: PLC0415 - ditto

        try:
            return KernelVhostNet(backend.fds, fds=passed)
        except NetError as error:
            say = _LOG.warning if backend.vhost else _LOG.debug
            say("tap %s: packets go through the machine's process: %s", backend.name, error)
            return None
    for fd in passed:
        os.close(fd)
    if backend.vhost:
        _LOG.warning("tap %s: packets go through the machine's process: vhost-net needs KVM", backend.name)
    return None


def make_net(
    memory: GuestMemory,
    loop: IoLoop,
    backend: NetBackend,
    *,
    mac: bytes | None = None,
    mtu: int = 0,
    name: str = "virtio-net",
    register_notify: NotifyRegistrar | None = None,
    vhost: VhostBackend | None = None,
) -> PluggableDevice[VirtioNet]:
    """A network card on `backend`, which it takes over; served on `loop`, or its data queues by `vhost`.

    Without one the kernel's is taken for a tap, where it can be.
    """
    options = NetOptions(mac or make_mac(), mtu=mtu)
    if vhost is None:
        vhost = find_vhost(backend, register_notify)
    if vhost is None:
        device = VirtioNet(memory, loop, backend, options)
    else:
        from pyhyve.devices.virtio.vhost_net import VhostNet  # noqa: PLC0415 - few cards have one

        device = VhostNet(memory, loop, backend, options, vhost)
    device.start(loop)
    function = VirtioPci(device, name=name, register_notify=register_notify)
    return PluggableDevice(function, device, device.close)


def make_console(
    memory: GuestMemory,
    loop: IoLoop,
    chardev_loop: EventLoop,
    ports: Sequence[PortConfig | None],
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
    memory: GuestMemory,
    loop: IoLoop,
    source: Path | None = None,
    *,
    name: str = "virtio-rng",
    register_notify: NotifyRegistrar | None = None,
) -> PluggableDevice[VirtioRng]:
    """An entropy device on the kernel's generator, or on a file of random bytes. Raises OSError."""
    fd = -1 if source is None else os.open(source, os.O_RDONLY | os.O_CLOEXEC)

    def read(count: int) -> bytes:
        with suppress(OSError):
            return os.read(fd, count)
        return b""

    device = VirtioRng(memory, loop, source=os.urandom if fd < 0 else read)

    def close() -> None:
        nonlocal fd
        device.reset()
        if fd >= 0:
            os.close(fd)
            fd = -1

    return PluggableDevice(VirtioPci(device, name=name, register_notify=register_notify), device, close)


def make_balloon(
    memory: GuestMemory,
    loop: IoLoop,
    options: BalloonOptions | None = None,
    *,
    name: str = "virtio-balloon",
    register_notify: NotifyRegistrar | None = None,
) -> PluggableDevice[VirtioBalloon]:
    """A memory balloon."""
    device = VirtioBalloon(memory, loop, options)
    return PluggableDevice(VirtioPci(device, name=name, register_notify=register_notify), device, device.reset)


def make_vsock(
    memory: GuestMemory,
    loop: IoLoop,
    cid: int,
    path: Path,
    *,
    name: str = "virtio-vsock",
    register_notify: NotifyRegistrar | None = None,
) -> PluggableDevice[VirtioVsock]:
    """A virtual socket device of address `cid`, on Unix sockets at and beside `path`. Raises VsockError."""
    device = VirtioVsock(memory, loop, cid, VsockListener(path))
    function = VirtioPci(device, name=name, register_notify=register_notify)
    device.start()
    return PluggableDevice(function, device, device.close)
