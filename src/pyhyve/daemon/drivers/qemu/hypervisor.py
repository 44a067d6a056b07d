"""Starting machines, finding those that run, and cleaning up after those that ended."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import shutil
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyhyve.daemon.domains import limits
from pyhyve.daemon.domains.definition import complete_domain
from pyhyve.daemon.domains.faults import system_error, unsupported
from pyhyve.daemon.drivers.qemu import taps
from pyhyve.daemon.drivers.qemu.command import Launch, command_line
from pyhyve.daemon.drivers.qemu.command.block import disk_nodes
from pyhyve.daemon.drivers.qemu.command.characters import chardev_id
from pyhyve.daemon.drivers.qemu.command.launch import NetworkEnd
from pyhyve.daemon.drivers.qemu.command.plug import plug_commands
from pyhyve.daemon.drivers.qemu.firmware import complete_firmware, nvram_of, prepare_firmware
from pyhyve.daemon.drivers.qemu.machine import QemuMachine
from pyhyve.daemon.drivers.qemu.prepare import (
    SOCKET_PATH_MAX,
    prepare_channel,
    prepare_disk,
    prepare_domain,
    preview_domain,
)
from pyhyve.daemon.drivers.qemu.process import MachineProcess, boot_id
from pyhyve.daemon.networks import bandwidth
from pyhyve.daemon.resources.filter_bindings import Binding
from pyhyve.hostnet.links import link_exists
from pyhyve.rpc.errors import ErrorDomain
from pyhyve.xml.character import CharSource
from pyhyve.xml.devices import Devices
from pyhyve.xml.document import Node
from pyhyve.xml.element import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pyhyve.daemon.domains.emulators import Emulators
    from pyhyve.daemon.domains.hypervisor import MachineListener, MachineRecord, NetworkSource
    from pyhyve.daemon.drivers.qemu.references import References
    from pyhyve.daemon.resources.filter_bindings import FilterBindings
    from pyhyve.xml.character import Channel
    from pyhyve.xml.disk import Disk
    from pyhyve.xml.domain import Domain
    from pyhyve.xml.interface import Interface

__all__ = ["QemuHypervisor", "binding_of"]

_log = logging.getLogger(__name__)


class QemuHypervisor:
    """Machines of emulators with QEMU's interfaces."""

    def __init__(
        self, emulators: Emulators, runtime: Path, log: Path, sources: Mapping[str, NetworkSource], nvram: Path
    ) -> None:
        self.emulators = emulators
        self._runtime = runtime
        self._log = log
        self._nvram = nvram
        self.sources: Mapping[str, NetworkSource] = sources
        """Who connects network interfaces, by type."""
        self.filters: FilterBindings | None = None
        """Puts network filters into force."""
        self.references: References | None = None
        """Looks up networks and volumes that definitions refer to."""

    def runtime_directory(self, name: str) -> Path:
        """Directory of a machine's sockets. Long names are shortened: a socket's path has 107 bytes."""
        directory = self._runtime / name
        if len(os.fsencode(directory)) > SOCKET_PATH_MAX - 40:
            directory = self._runtime / hashlib.sha256(name.encode()).hexdigest()[:16]
        return directory

    def complete(self, domain: Domain) -> Domain:
        """Return a definition made whole for its emulator."""
        return complete_firmware(complete_domain(domain, self.emulators)[0], self._nvram)

    def nvram_path(self, domain: Domain) -> Path | None:
        """Return where a machine of this definition keeps its firmware's variables, if it has any."""
        return nvram_of(domain, self._nvram)

    def _firmware(self, domain: Domain, *, make: bool) -> Domain:
        if self.nvram_path(domain) is None:
            return domain
        emulator = self.emulators.probed((domain.devices or Devices()).emulator or "")
        if emulator.is_ours:
            raise unsupported(f"UEFI firmware is not supported by {emulator.path}", ErrorDomain.QEMU)
        return prepare_firmware(domain, emulator.architecture, self._nvram, make=make)

    async def prepare(self, domain: Domain, number: int) -> Domain:
        """Return the live definition of a machine about to start."""
        if self.references is not None:
            domain = self.references.resolve(domain)
        sockets = self.runtime_directory(f"{number}-{domain.name}")
        loop = asyncio.get_running_loop()
        domain = await loop.run_in_executor(None, partial(self._firmware, domain, make=True))
        return await loop.run_in_executor(None, prepare_domain, domain, number, sockets, _tap_names())

    async def launch(
        self, domain: Domain, record: MachineRecord, listener: MachineListener, *, incoming: str | None = None
    ) -> tuple[QemuMachine, Domain]:
        """Start a machine."""
        loop = asyncio.get_running_loop()
        devices = domain.devices or Devices()
        emulator = await loop.run_in_executor(None, self.emulators.probed, devices.emulator or "")
        directory = self.runtime_directory(f"{record.id}-{domain.name}")
        log = self._log / f"{domain.name}.log"
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise system_error(f"cannot create directory {directory}", error) from error
        monitor = directory / "monitor.sock"
        monitor.unlink(missing_ok=True)
        record.boot_id, record.emulator = boot_id(), emulator.path
        record.monitor, record.log = str(monitor), str(log)
        ends: dict[str, NetworkEnd] = {}
        machine: QemuMachine | None = None
        try:
            for interface in devices.interface:
                await self._connect(interface, ends, record, domain, by_name=emulator.is_ours)
            launch = Launch(monitor=monitor, networks=ends, incoming=incoming, now=time.time())
            command = command_line(domain, emulator, launch)
            try:
                process, offset = await loop.run_in_executor(
                    None, MachineProcess.start, command.arguments, command.fds, log
                )
            except OSError as error:
                raise system_error(f"cannot execute {emulator.path}", error) from error
            record.pid, record.start_time, record.started = process.pid, process.start_time, time.time()
            machine = QemuMachine(process, str(monitor), listener)
            await loop.run_in_executor(None, limits.enter, process.pid)
            await machine.attach(log, offset)
            domain = await _with_terminals(machine, domain)
        except BaseException:
            if machine is not None:
                machine.discard()
            await asyncio.shield(self.clean_up(record, domain))
            raise
        finally:
            for end in ends.values():
                if end.tap_fd is not None:
                    os.close(end.tap_fd)
        return machine, domain

    async def command_preview(self, domain: Domain) -> list[str]:
        """Return the command line a definition would be started with."""
        loop = asyncio.get_running_loop()
        devices = domain.devices or Devices()
        emulator = await loop.run_in_executor(None, self.emulators.probed, devices.emulator or "")
        directory = self.runtime_directory(f"-1-{domain.name}")
        domain = await loop.run_in_executor(None, partial(self._firmware, domain, make=False))
        live = await loop.run_in_executor(None, preview_domain, domain, directory, _tap_names())
        ends = {
            item.alias.name: NetworkEnd(tap_name=item.target.dev)
            for item in (live.devices or Devices()).interface
            if item.alias is not None and item.target is not None and item.type in self.sources
        }
        launch = Launch(monitor=directory / "monitor.sock", networks=ends, now=time.time())
        return command_line(live, emulator, launch).arguments

    async def connect_interface(self, interface: Interface, owner: Domain | None = None) -> tuple[str, int]:
        """Make the host's end of an interface; return its name and an open tap. Raises LibvirtError."""
        source = self.sources.get(interface.type)
        name = interface.target.dev if interface.target is not None else None
        if source is None or name is None:
            raise unsupported(f"network type '{interface.type}' is not supported", ErrorDomain.QEMU)
        tap, descriptor = await source.connect(interface, name)
        try:
            if interface.bandwidth is not None:
                await self.limit_interface(interface)
            if interface.filterref is not None and self.filters is not None:
                await self.filters.bind(binding_of(interface, tap, owner))
        except BaseException:
            os.close(descriptor)
            await asyncio.shield(self.disconnect_interface(interface))
            raise
        return tap, descriptor

    async def limit_interface(self, interface: Interface) -> None:
        """Have an interface's limits hold from now on."""
        name = interface.target.dev if interface.target is not None else None
        source = self.sources.get(interface.type)
        if source is None or name is None:
            detail = f"setting bandwidth on interfaces of type '{interface.type}' is not implemented yet"
            raise unsupported(detail, ErrorDomain.QEMU)
        await source.limit(interface, name, bandwidth.parse(interface.bandwidth))

    async def disconnect_interface(self, interface: Interface) -> None:
        """Undo :meth:`connect_interface`."""
        source = self.sources.get(interface.type)
        name = interface.target.dev if interface.target is not None else None
        if source is not None and name is not None:
            if interface.bandwidth is not None:
                await taps.clear_limits(name)
            await source.disconnect(interface, name)
            if self.filters is not None:
                await self.filters.unbind(name)

    def free_tap_name(self) -> str:
        """Return the name of the next tap."""
        return _tap_names()()

    def device_commands(
        self, devices: Devices, name: str, device: Any
    ) -> list[tuple[str, dict[str, Any], tuple[str, dict[str, Any]] | None]]:
        """Return the commands that add a device to a machine, each with what undoes it."""
        return plug_commands(self.emulators.probed(devices.emulator or ""), devices, name, device)

    def disk_nodes(self, disk: Disk) -> list[dict[str, Any]]:
        """Return the block nodes of a disk, the lowest first."""
        return disk_nodes(disk)

    async def prepare_disk(self, disk: Disk, number: int) -> Disk:
        """Return a disk with its images looked up and numbered from ``number``."""
        if self.references is not None:
            disk = self.references.disk(disk)
        prepared, _ = await asyncio.get_running_loop().run_in_executor(None, prepare_disk, disk, number)
        return prepared

    def prepare_channel(self, channel: Channel, number: int, name: str) -> Channel:
        """Return a channel with the path of its socket."""
        return prepare_channel(channel, self.runtime_directory(f"{number}-{name}"))

    async def _connect(
        self,
        interface: Interface,
        ends: dict[str, NetworkEnd],
        record: MachineRecord,
        domain: Domain,
        *,
        by_name: bool,
    ) -> None:
        if interface.type not in self.sources and interface.filterref is not None:
            detail = f"filterref is not supported for network interfaces of type {interface.type}"
            raise unsupported(detail, ErrorDomain.QEMU)
        if interface.type not in self.sources or interface.alias is None:
            return
        name, descriptor = await self.connect_interface(interface, domain)
        record.taps.append(name)
        if by_name:
            os.close(descriptor)
            ends[interface.alias.name] = NetworkEnd(tap_name=name)
        else:
            ends[interface.alias.name] = NetworkEnd(tap_fd=descriptor)

    async def adopt(self, record: MachineRecord, listener: MachineListener) -> QemuMachine | None:
        """Return the machine a record is about, or None where it is gone."""
        if record.boot_id != boot_id():
            return None
        process = MachineProcess.find(record.pid, record.start_time)
        if process is None:
            return None
        machine = QemuMachine(process, record.monitor, listener)
        try:
            await machine.attach(Path(record.log), 0)
        except BaseException:
            machine.forget()
            if not process.alive():
                return None
            raise
        return machine

    async def clean_up(self, record: MachineRecord, domain: Domain) -> None:
        """Remove sockets and taps of a machine that ended."""
        devices = domain.devices or Devices()
        for interface in devices.interface:
            if interface.target is not None and interface.target.dev in record.taps:
                try:
                    await self.disconnect_interface(interface)
                except Exception:  # noqa: BLE001 - the rest has to be cleaned up too
                    _log.exception("cannot remove the network interface of %s", record.name)
        if record.pid:
            await asyncio.get_running_loop().run_in_executor(None, limits.leave, record.pid)
        if record.monitor:
            directory = Path(record.monitor).parent
            with contextlib.suppress(OSError):
                shutil.rmtree(directory)


def binding_of(interface: Interface, port: str, owner: Domain | None) -> Binding:
    """Return what binds an interface's filter to its host's end."""
    mac = interface.mac.address if interface.mac is not None else ""
    reference = interface.filterref or Node("filterref")
    return Binding(port, mac, reference, owner.name if owner else "", (owner.uuid or "") if owner else "")


def _tap_names() -> Callable[[], str]:
    taken: set[str] = set()

    def free() -> str:
        number = 0
        while f"vnet{number}" in taken or link_exists(f"vnet{number}"):
            number += 1
        taken.add(f"vnet{number}")
        return f"vnet{number}"

    return free


def _with_state(channel: Channel, opened: set[str]) -> Channel:
    """Return a channel that says whether somebody in the guest has it open."""
    if channel.type not in {"unix", "pty"} or channel.alias is None:
        return channel
    if channel.target is None or channel.target.type != "virtio":
        return channel
    state = "connected" if chardev_id(channel.alias.name) in opened else "disconnected"
    return replace(channel, target=replace(channel.target, state=state))


async def _with_terminals(machine: QemuMachine, domain: Domain) -> Domain:
    """Return a live definition with the terminals its machine opened."""
    devices = domain.devices or Devices()
    everything: tuple[Any, ...] = (*devices.serial, *devices.parallel, *devices.channel, *devices.console)
    if not any(item.type in {"pty", "unix"} for item in everything):
        return domain
    answer = await machine.execute("query-chardev")
    found = {item["label"]: item.get("filename", "") for item in answer}
    opened = {item["label"] for item in answer if item.get("frontend-open")}

    def placed(item: Any) -> Any:
        alias = item.alias.name if item.alias is not None else ""
        where = found.get(chardev_id(alias), "")
        if item.type != "pty" or not where.startswith("pty:"):
            return item
        return replace(item, source=CharSource(path=where.removeprefix("pty:")))

    serials = tuple(placed(item) for item in devices.serial)
    consoles = []
    for number, console in enumerate(devices.console):
        if number == 0 and serials and console.target is not None and console.target.type == "serial":
            console = replace(console, source=serials[0].source)
        else:
            console = placed(console)
        if console.type == "pty" and console.source is not None:
            console = replace(console, tty=console.source.path)
        consoles.append(console)
    devices = replace(
        devices,
        serial=serials,
        parallel=tuple(placed(item) for item in devices.parallel),
        channel=tuple(_with_state(placed(item), opened) for item in devices.channel),
        console=tuple(consoles),
    )
    return replace(domain, devices=devices)
