"""Making a definition ready to run: names, images, ports and paths that are chosen anew at each start."""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import TYPE_CHECKING, Final

from pyhyve.daemon.domains.definition.aliases import assign_aliases
from pyhyve.daemon.domains.faults import internal
from pyhyve.daemon.domains.images import backing_links, check_access
from pyhyve.xml.character import CharSource
from pyhyve.xml.devices import Devices
from pyhyve.xml.disk import BackingStore, DiskSource, Format
from pyhyve.xml.document import Node
from pyhyve.xml.domain import CurrentMemory, Memory
from pyhyve.xml.element import replace, to_node
from pyhyve.xml.interface import InterfaceTarget

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from pyhyve.xml.character import Channel
    from pyhyve.xml.devices import Graphics
    from pyhyve.xml.disk import Disk
    from pyhyve.xml.domain import Domain

__all__ = ["SOCKET_PATH_MAX", "prepare_channel", "prepare_disk", "prepare_domain", "preview_domain"]

_DISPLAY_PORTS: Final = range(5900, 65536)
SOCKET_PATH_MAX: Final = 107
_PARTITION: Final = Node("resource", children=(Node("partition", text="/machine"),))
_TAP_TYPES: Final = frozenset({"bridge", "network", "ethernet"})


def prepare_domain(
    domain: Domain, number: int, sockets: Path, free_tap: Callable[[], str], *, look: bool = True
) -> Domain:
    """Return the live definition of a machine about to start. Blocks: it looks at images. Raises LibvirtError."""
    devices = assign_aliases(domain.devices or Devices())
    index = 0
    disks: list[Disk] = []
    for disk in reversed(devices.disk):
        index += 1
        prepared, index = prepare_disk(disk, index, look=look)
        disks.append(prepared)
    graphics = _prepare_graphics(devices.graphics)
    channels = tuple(prepare_channel(item, sockets) for item in devices.channel)
    interfaces = []
    for item in devices.interface:
        if item.type in _TAP_TYPES and (item.target is None or item.target.dev is None):
            managed = item.target.managed if item.target is not None else None
            item = replace(item, target=InterfaceTarget(dev=free_tap(), managed=managed))
        interfaces.append(item)
    kib = -(-domain.memory_kib // 1024) * 1024
    current = min(domain.current_memory_kib, kib)
    if domain.current_memory_kib == domain.memory_kib:
        current = kib
    devices = replace(
        devices, disk=tuple(reversed(disks)), graphics=graphics, channel=channels, interface=tuple(interfaces)
    )
    return replace(
        domain,
        id=number,
        memory=Memory(unit="KiB", amount=kib, dump_core=domain.memory.dump_core),
        current_memory=CurrentMemory(unit="KiB", amount=current),
        resource=domain.resource or _PARTITION,
        devices=devices,
    )


def preview_domain(domain: Domain, sockets: Path, free_tap: Callable[[], str]) -> Domain:
    """As :func:`prepare_domain`, for a machine that is not going to start: its images need not be there."""
    devices = domain.devices or Devices()
    disks = tuple(replace(disk, backing_store=disk.backing_store or BackingStore()) for disk in devices.disk)
    plain = replace(domain, devices=replace(devices, disk=disks))
    return prepare_domain(plain, -1, sockets, free_tap, look=False)


def prepare_disk(disk: Disk, index: int, *, look: bool = True) -> tuple[Disk, int]:
    """Return a disk with its images numbered from ``index``, and the last number used. Raises LibvirtError. Blocks."""
    if disk.source is None:
        driver = disk.driver
        return replace(disk, driver=replace(driver, type=None) if driver is not None else None), index
    path = disk.source.file or disk.source.dev
    source = replace(disk.source, index=index)
    if path is None:
        return replace(disk, source=source), index
    kind = (disk.driver.type if disk.driver else None) or "raw"
    if disk.backing_store is not None and disk.backing_store.source is not None:
        return replace(disk, source=source), index  # a chain its owner wrote down
    if look:
        check_access(path)
    links = backing_links(path, kind) if disk.backing_store is None else []
    inner: BackingStore = BackingStore()
    last = index + len(links)
    for number, link in zip(range(last, index, -1), reversed(links), strict=True):
        where = DiskSource(dev=link.path) if link.is_device else DiskSource(file=link.path)
        inner = BackingStore(
            type="block" if link.is_device else "file",
            index=number,
            format=Format(type=link.format),
            source=where,
            backing_store=to_node(inner),
        )
    return replace(disk, source=source, backing_store=inner), last


def prepare_channel(channel: Channel, sockets: Path) -> Channel:
    """Return a channel with the path of its socket."""
    if channel.type != "unix" or (channel.source is not None and channel.source.path is not None):
        return channel
    name = channel.target.name if channel.target is not None else None
    path = sockets / (name or (channel.alias.name if channel.alias is not None else "channel"))
    mode = channel.source.mode if channel.source is not None and channel.source.mode else "bind"
    return replace(channel, source=CharSource(mode=mode, path=str(path)))


def _prepare_graphics(graphics: Iterable[Graphics]) -> tuple[Graphics, ...]:
    taken: set[int] = set()
    prepared = []
    for item in graphics:
        listens = tuple(
            replace(listen, address=listen.address or "127.0.0.1") if listen.type == "address" else listen
            for listen in item.listens
        )
        address = listens[0].address if listens and listens[0].type == "address" else None
        item = replace(item, listens=listens, listen=address)
        if (item.type == "vnc" and address is not None and (item.autoport or item.port in {None, -1})) or (
            item.type == "spice" and item.autoport and address is not None
        ):
            item = replace(item, port=_free_port(address, taken))
        prepared.append(item)
    return tuple(prepared)


def _free_port(address: str, taken: set[int]) -> int:
    """Return a port nobody listens on. Raises LibvirtError where there is none."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for port in _DISPLAY_PORTS:
        if port in taken:
            continue
        with socket.socket(family, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    taken.add(port)
                    return port  # an address the emulator will complain about itself
                continue
            taken.add(port)
            return port
    raise internal("Unable to find an unused port in range 'vnc'")
