"""Virtio devices with what is behind them, ready for a transport."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pyhyve.backends.net import NetError
from pyhyve.devices.virtio.net import NetOptions, VirtioNet
from pyhyve.devices.virtio.pci import EventRegistrar
from pyhyve.support.logs import late_logger

if TYPE_CHECKING:
    from pyhyve.backends.ioloop import IoLoop
    from pyhyve.backends.net import NetBackend
    from pyhyve.backends.vhost import VhostBackend
    from pyhyve.devices.virtio.pci import NotifyRegistrar
    from pyhyve.memory.guest import GuestMemory

_LOG = late_logger(__name__)
_MAC_PREFIX = b"\x52\x54\x00"


def make_mac() -> bytes:
    """A random MAC address with the prefix virtual machines use."""
    return _MAC_PREFIX + os.urandom(3)


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
    register_notify: NotifyRegistrar | None = None,
    vhost: VhostBackend | None = None,
) -> VirtioNet:
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
    return device
