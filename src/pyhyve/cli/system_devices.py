"""Drives, networks and devices of QEMU's command line, put together into a machine's configuration.

`system_extras` has the devices that are neither disk nor network card.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pyhyve.cli.options import existing_file
from pyhyve.cli.run import parse_forward
from pyhyve.cli.system_extras import EXTRA_DEVICES, EXTRA_HELP, ExtraSet
from pyhyve.devices.virtio.error_policy import ErrorPolicy
from pyhyve.machine.config import DiskConfig, NetConfig, NetKind
from pyhyve.support.errors import InputError

if TYPE_CHECKING:
    from pyhyve.cli.system_options import Properties

DISK_DEVICES = ("virtio-blk-pci", "virtio-blk")
NET_DEVICES = ("virtio-net-pci", "virtio-net")
DEVICE_HELP = """Storage devices:
name "virtio-blk-pci", bus PCI, alias "virtio-blk"

Network devices:
name "virtio-net-pci", bus PCI, alias "virtio-net"

""" + EXTRA_HELP
_FILE_DRIVERS = ("file", "host_device")


@dataclass(slots=True)
class DeviceSet:
    """What the options said so far. `disks` and `nets` are ready once `connect` was called."""

    disks: list[DiskConfig] = field(default_factory=list)
    nets: list[NetConfig] = field(default_factory=list)
    extras: ExtraSet = field(default_factory=ExtraSet)
    _drives: dict[str, DiskConfig] = field(default_factory=dict)
    _files: dict[str, Properties] = field(default_factory=dict)
    _networks: dict[str, NetConfig] = field(default_factory=dict)
    _devices: list[tuple[str, Properties]] = field(default_factory=list)
    _ids: set[str] = field(default_factory=set)

    # -- drives -------------------------------------------------------------------------------------------------------

    def add_image(self, option: str, path: str, *, is_cdrom: bool = False) -> None:
        """`-hda FILE` and its like."""
        found = existing_file(option, path)
        self.disks.append(
            DiskConfig(found, readonly=is_cdrom, is_cdrom=is_cdrom, write_errors=ErrorPolicy.ENOSPC)
        )

    def add_drive(self, given: Properties) -> None:
        """`-drive`."""
        interface = given.take("if")
        drive_id = given.take("id") or ""
        media = given.take("media") or "disk"
        if media not in {"disk", "cdrom"}:
            msg = f"-drive: media={media} is not disk or cdrom"
            raise InputError(msg)
        disk = DiskConfig(
            path=existing_file("-drive", given.need("file")),
            format=given.take("format"),
            readonly=given.switch("readonly", default=media == "cdrom") or given.switch("read-only", default=False),
            snapshot=given.switch("snapshot", default=False),
            serial=given.take("serial") or "",
            is_cdrom=media == "cdrom",
            drive_id=drive_id,
            node_name=given.take("node-name") or "",
            write_errors=_policy(given, "werror") or ErrorPolicy.ENOSPC,
            read_errors=_policy(given, "rerror") or ErrorPolicy.REPORT,
            cache=given.take("cache") or "writeback",
        )
        given.take("index")
        given.finish()
        if interface == "none":
            if not drive_id:
                msg = "-drive: if=none needs an id"
                raise InputError(msg)
            self._put_drive("-drive", drive_id, disk)
        elif interface in {None, "virtio"}:
            self.disks.append(disk)
        else:
            msg = f"-drive: if={interface} is not supported (use if=virtio or if=none)"
            raise InputError(msg)

    def add_blockdev(self, given: Properties) -> None:
        """`-blockdev`: a file, or a format on a file that is named or described in place."""
        driver, name = given.need("driver"), given.need("node-name")
        if driver in _FILE_DRIVERS:
            if name in self._files or name in self._drives:
                msg = f"-blockdev: duplicate node-name {name}"
                raise InputError(msg)
            self._files[name] = given
            return
        readonly = given.switch("read-only", default=False)
        below = given.take("file")
        if below is not None:
            source = self._files.pop(below, None)
            if source is None:
                msg = f"-blockdev: cannot find node {below}"
                raise InputError(msg)
            path = self._file_name(source, "")
        else:
            source = None
            given.only("file.driver", *_FILE_DRIVERS)
            path = self._file_name(given, "file.")
        places = [(given, "cache."), (given, "file.cache.") if source is None else (source, "cache.")]
        no_flush, direct = (
            True in [place.switch(prefix + name, default=False) for place, prefix in places]
            for name in ("no-flush", "direct")
        )
        given.finish()
        if source is not None:
            source.finish()
        disk = DiskConfig(
            existing_file("-blockdev", path), driver, readonly, node_name=name, write_errors=ErrorPolicy.ENOSPC,
            cache="unsafe" if no_flush else "none" if direct else "writeback",
        )  # fmt: skip
        self._put_drive("-blockdev", name, disk)

    @staticmethod
    def _file_name(given: Properties, prefix: str) -> str:
        given.only(f"{prefix}auto-read-only", "on")
        given.only(f"{prefix}discard", "unmap", "ignore")
        given.take(f"{prefix}read-only")
        return given.need(f"{prefix}filename")

    def _put_drive(self, option: str, name: str, disk: DiskConfig) -> None:
        if name in self._drives:
            msg = f"{option}: duplicate id {name}"
            raise InputError(msg)
        self._drives[name] = disk

    # -- networks -----------------------------------------------------------------------------------------------------

    def add_netdev(self, given: Properties) -> None:
        """`-netdev`."""
        name = given.need("id")
        if name in self._networks:
            msg = f"-netdev: duplicate id {name}"
            raise InputError(msg)
        self._networks[name] = self._network(given)

    def add_nic(self, given: Properties) -> None:
        """`-nic`: a card with its network."""
        if given.values.get("type") == ["none"]:
            return
        given.only("model", *NET_DEVICES)
        mac, name = given.take("mac"), given.take("id") or ""
        self.nets.append(replace(self._network(given), mac=mac, device_id=name))

    @staticmethod
    def _network(given: Properties) -> NetConfig:
        kind = given.need("type")
        match kind:
            case "user":
                forwards = tuple(parse_forward(_forward_words(text)) for text in given.take_all("hostfwd"))
                net = NetConfig(NetKind.USER, forwards=forwards)
            case "tap":
                given.only("script", "no")
                given.only("downscript", "no")
                given.only("vhost", "off")
                net = NetConfig(NetKind.TAP, given.need("ifname"))
            case "bridge":
                net = NetConfig(NetKind.BRIDGE, given.take("br") or "br0")
            case _:
                msg = f"{given.option}: type {kind} is not supported (use user, tap or bridge)"
                raise InputError(msg)
        given.finish()
        return net

    # -- devices ------------------------------------------------------------------------------------------------------

    def add_device(self, given: Properties) -> None:
        """`-device`; connected later, as what it names may come after it."""
        driver = given.need("driver")
        if driver not in DISK_DEVICES + NET_DEVICES + EXTRA_DEVICES:
            msg = f"-device: {driver} is not a device we have (-device help lists them)"
            raise InputError(msg)
        self._devices.append((driver, given))

    def connect(self) -> None:
        """Join devices with their drives and networks. Raises InputError when one is missing or left over."""
        for driver, given in self._devices:
            name = given.take("id") or ""
            if name and name in self._ids:
                msg = f"-device {driver}: duplicate id {name}"
                raise InputError(msg)
            self._ids.add(name)
            if driver in EXTRA_DEVICES:
                self.extras.connect_device(driver, given, name)
                given.finish()
                continue
            given.only("bus", "pci.0")
            if driver in DISK_DEVICES:
                self._connect_disk(driver, given, name)
            else:
                self._connect_net(driver, given, name)
            given.finish()
        self._devices.clear()
        for option, left in (("-blockdev", self._files), ("-netdev", self._networks), ("-drive", self._drives)):
            for name in left:
                msg = f"{option}: {name} is used by no device"
                raise InputError(msg)

    def _connect_disk(self, driver: str, given: Properties, name: str) -> None:
        wanted = given.need("drive")
        disk = self._drives.pop(wanted, None)
        if disk is None:
            msg = f"-device {driver}: there is no drive {wanted} that is free"
            raise InputError(msg)
        serial = given.take("serial")
        given.only("write-cache", "on")
        self.disks.append(
            replace(
                disk,
                device_id=name,
                serial=disk.serial if serial is None else serial,
                write_errors=_policy(given, "werror") or disk.write_errors,
                read_errors=_policy(given, "rerror") or disk.read_errors,
            )
        )

    def _connect_net(self, driver: str, given: Properties, name: str) -> None:
        wanted = given.need("netdev")
        net = self._networks.pop(wanted, None)
        if net is None:
            msg = f"-device {driver}: there is no netdev {wanted} that is free"
            raise InputError(msg)
        self.nets.append(replace(net, mac=given.take("mac"), device_id=name))


def _policy(given: Properties, key: str) -> ErrorPolicy | None:
    """The value of `werror` or `rerror`; None when it is not given, or `auto`. Raises InputError."""
    value = given.take(key)
    allowed = [str(policy) for policy in ErrorPolicy if key == "werror" or policy is not ErrorPolicy.ENOSPC]
    if value in {None, "auto"}:
        return None
    if value not in allowed:
        msg = f"{given.option}: {key}={value}: use {', '.join(allowed)}"
        raise InputError(msg)
    return ErrorPolicy(value)


def _forward_words(text: str) -> str:
    """`hostfwd=tcp:[ADDRESS]:PORT-[ADDRESS]:PORT` as `pyhyve run` writes it. Raises InputError."""
    host, dash, guest = text.partition("-")
    protocol, _, where = host.partition(":")
    address, colon, port = where.rpartition(":")
    guest_address, guest_colon, guest_port = guest.rpartition(":")
    if not (dash and colon and guest_colon) or guest_address:
        msg = f"hostfwd={text}: write hostfwd=tcp:[ADDRESS]:HOST_PORT-:GUEST_PORT"
        raise InputError(msg)
    return ":".join([protocol or "tcp", *([address] if address else []), port, guest_port])
