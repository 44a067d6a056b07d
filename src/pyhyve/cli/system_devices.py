"""Drives, networks and devices of QEMU's command line, put together into a machine's configuration."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pyhyve.cli.options import existing_file
from pyhyve.cli.run import parse_number
from pyhyve.devices.error_policy import ErrorPolicy
from pyhyve.machine.block.errors import ChangeError
from pyhyve.machine.config import SATA_PORTS, Additions, DiskConfig, DiskInterface
from pyhyve.machine.hardware.models import MODELS, check_properties, find_model
from pyhyve.machine.identifiers import NIC_PREFIX, is_identifier
from pyhyve.machine.monitor.keyval import parse_json, parse_keyval, parse_struct
from pyhyve.support.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyhyve.machine.monitor.properties import Properties

_CARD = "virtio-net-pci"
_BARE_CARD = "virtio-net-device"
_CARDS = (_CARD, "virtio-net", "virtio")
_HELP = {"help", "?"}
_INDEX = {"hda": 0, "hdb": 1, "hdc": 2, "hdd": 3, "cdrom": 2}
"""Which IDE drive each option makes."""
_IDE_DRIVES = 4
_PER_BUS = 2


@dataclass(slots=True)
class DeviceSet:
    """What the options said so far."""

    has_sata: bool = False
    """Whether the board's own drives are SATA ones: one on each bus."""
    disks: list[DiskConfig] = field(default_factory=list)
    objects: list[Mapping[str, Any]] = field(default_factory=list)
    chardevs: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    blockdevs: list[Mapping[str, Any]] = field(default_factory=list)
    netdevs: list[Mapping[str, Any]] = field(default_factory=list)
    devices: list[Mapping[str, Any]] = field(default_factory=list)
    _nics: int = 0
    _default_places: set[int | None] = field(default_factory=set)
    """IDE drives that nobody asked to be IDE drives."""

    def additions(self, serials: tuple[str, ...] | None, taken: set[str], muxes: set[str]) -> Additions:
        """Everything but the disks; without the character devices that are `taken` by monitors.

        `muxes` are those that a monitor can share: a serial port's. What other devices have goes to them alone, for it
        may tell them that somebody came, or that there is room again.
        """
        chardevs = [
            {"id": name, "backend": backend, **({"mux": True} if name in muxes else {})}
            for name, backend in self.chardevs.items()
            if name not in taken
        ]
        return Additions(
            objects=tuple(self.objects),
            chardevs=tuple(chardevs),
            blockdevs=tuple(self.blockdevs),
            netdevs=tuple(self.netdevs),
            devices=tuple(self.devices),
            serials=serials,
        )

    # -- drives -------------------------------------------------------------------------------------------------------

    def add_image(self, option: str, path: str) -> None:
        """`hda FILE` and its like."""
        found = existing_file(f"-{option}", path)
        is_cdrom = option == "cdrom"
        disk = DiskConfig(found, readonly=is_cdrom, is_cdrom=is_cdrom, write_errors=ErrorPolicy.ENOSPC)
        self.disks.append(self._on_ide(f"-{option}", disk, _INDEX[option]))
        self._default_places.add(_INDEX[option])

    def _on_ide(self, option: str, disk: DiskConfig, index: int | None) -> DiskConfig:
        """`disk` as an IDE drive, in the first place that is free unless one is named. Raises InputError."""
        most, per_bus = (SATA_PORTS, 1) if self.has_sata else (_IDE_DRIVES, _PER_BUS)
        taken = {other.index for other in self.disks if other.interface is DiskInterface.IDE}
        if index is None:
            index = next((number for number in range(most) if number not in taken), most)
        if not 0 <= index < most:
            kind = "SATA" if self.has_sata else "IDE"
            msg = f"{option}: there are {most} {kind} drives at most (use if=virtio for more disks)"
            raise InputError(msg)
        bus, unit = divmod(index, per_bus)
        if index in taken:
            msg = f"{option}: drive with bus={bus}, unit={unit} (index={index}) exists"
            raise InputError(msg)
        name = disk.drive_id or f"ide{bus}-{'cd' if disk.is_cdrom else 'hd'}{unit}"
        return replace(disk, interface=DiskInterface.IDE, index=index, drive_id=name)

    def add_drive(self, given: Properties) -> None:
        """`-drive`."""
        _join_dotted(given)
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
            is_unplugged=interface == "none",
        )
        given.only("aio", "threads")
        given.only("discard", "unmap", "on")
        given.only("detect-zeroes", "off")
        index = _ide_index(given, 1 if self.has_sata else _PER_BUS)
        given.finish()
        if interface == "none" and not drive_id:
            msg = "-drive: if=none needs an id"
            raise InputError(msg)
        if interface not in {None, "ide", "virtio", "none"}:
            msg = f"-drive: if={interface} is not supported (use if=ide, if=virtio or if=none)"
            raise InputError(msg)
        if interface in {None, "ide"}:
            disk = self._on_ide("-drive", disk, index)
            if interface is None:
                self._default_places.add(disk.index)
        self.disks.append(disk)

    def go_without_ide(self) -> None:
        """A board without IDE: disks of which it was not asked for are virtio ones."""
        self.disks = [
            replace(disk, interface=DiskInterface.VIRTIO, index=None) if disk.index in self._default_places else disk
            for disk in self.disks
        ]

    def go_without_pci(self) -> None:
        """A board without PCI: cards of `-nic` are virtio devices over MMIO."""
        self.devices = [
            {**device, "driver": _BARE_CARD} if str(device.get("netdev", "")).startswith(NIC_PREFIX) else device
            for device in self.devices
        ]

    def add_blockdev(self, value: str) -> None:
        """`-blockdev`."""
        self.blockdevs.append(parse_struct("-blockdev", value, "BlockdevOptions", "driver"))

    # -- networks -----------------------------------------------------------------------------------------------------

    def add_netdev(self, value: str) -> None:
        """`-netdev`."""
        options = _netdev("-netdev", value)
        if not is_identifier(str(options["id"])):
            msg = "-netdev: Parameter 'id' expects an identifier"
            raise InputError(msg)
        self.netdevs.append(options)

    def add_nic(self, value: str) -> None:
        """`-nic`: a card with its network."""
        words = parse_keyval("-nic", _forwards_out(value)[0], "type")
        if words.get("type") == "none":
            return
        model = words.pop("model", _CARD)
        if model not in _CARDS:
            msg = f"-nic: model={model} is not supported (only {' or '.join(_CARDS)})"
            raise InputError(msg)
        card: dict[str, Any] = {"driver": _CARD, "netdev": f"{NIC_PREFIX}{self._nics}"}
        for key, name in (("mac", "mac"), ("id", "id"), ("addr", "addr")):
            if key in words:
                card[name] = words[key]
        left_out = ("model", "mac", "id", "addr")
        kept = [part for part in value.split(",") if part.partition("=")[0] not in left_out]
        self.netdevs.append(_netdev("-nic", ",".join([*kept, f"id={NIC_PREFIX}{self._nics}"])))
        self.devices.append(card)
        self._nics += 1

    # -- devices ------------------------------------------------------------------------------------------------------

    def add_object(self, value: str) -> None:
        """`-object`."""
        self.objects.append(parse_struct("-object", value, "ObjectOptions", "qom-type"))

    def add_device(self, value: str) -> str:
        """`-device`; the text to show instead when help is asked for."""
        if value in _HELP:
            return device_help()
        is_json = value.startswith("{")
        help_wanted = not is_json and value.partition(",")[2] in _HELP
        words = value.partition(",")[0] if help_wanted else value
        request = parse_json("-device", words) if is_json else parse_keyval("-device", words, "driver")
        driver = request.get("driver")
        if not isinstance(driver, str):
            msg = "-device: parameter 'driver' is missing"
            raise InputError(msg)
        try:
            model = find_model(driver)
            check_properties(model, request)
        except ChangeError as error:
            msg = f"-device {driver}: {error} (-device help lists what there is)"
            raise InputError(msg) from error
        if help_wanted:
            lines = [
                f"  {name}=<{known.type}>{f' - {known.summary}' if known.summary else ''}"
                for name, known in sorted(model.properties.items())
            ]
            return "\n".join([f"{model.name} options:", *lines, ""])
        self.devices.append(request)
        return ""


def device_help() -> str:
    """All devices, by kind."""
    lines = []
    for category in ("Bridge", "Storage", "Network", "Input", "Display", "USB", "Misc"):
        lines.append(f"{category} devices:")
        for model in MODELS.values():
            if model.category == category:
                alias = f', alias "{model.alias}"' if model.alias else ""
                what = f', desc "{model.summary}"' if model.summary else ""
                bus = f", bus {model.bus}" if model.bus else ""
                lines.append(f'name "{model.name}"{bus}{alias}{what}')
        lines.append("")
    return "\n".join(lines)


_CACHE_MODES = {
    (True, False, False): "writeback",
    (True, True, False): "none",
    (False, False, False): "writethrough",
    (False, True, False): "directsync",
    (True, False, True): "unsafe",
}
"""Names of what `cache.writeback`, `cache.direct` and `cache.no-flush` say."""


def _join_dotted(given: Properties) -> None:
    """Members of nodes that a `-drive` can name too: as the short words for them. Raises InputError."""
    given.only("file.driver", "file")
    for dotted, short in (("file.filename", "file"), ("driver", "format")):
        value = given.take(dotted)
        if value is not None and short in given.values:
            msg = f"-drive: {dotted} and {short} are both given"
            raise InputError(msg)
        if value is not None:
            given.values[short] = [value]
    if not any(key.startswith("cache.") for key in given.values):
        return
    wanted = (
        given.switch("cache.writeback", default=True),
        given.switch("cache.direct", default=False),
        given.switch("cache.no-flush", default=False),
    )
    if "cache" in given.values or wanted not in _CACHE_MODES:
        msg = "-drive: cache.writeback, cache.direct and cache.no-flush do not fit together, or to cache"
        raise InputError(msg)
    given.values["cache"] = [_CACHE_MODES[wanted]]


def _ide_index(given: Properties, per_bus: int) -> int | None:
    """Which IDE drive is meant: `index`, or `bus` and `unit`. Raises InputError."""
    numbers = {key: given.take(key) for key in ("index", "bus", "unit")}
    found = {key: parse_number(f"-drive: {key}", text, int) for key, text in numbers.items() if text is not None}
    if "index" in found:
        if len(found) > 1:
            msg = "-drive: index cannot be used with bus and unit"
            raise InputError(msg)
        return found["index"]
    unit = found.get("unit", 0)
    if not 0 <= unit < per_bus:
        msg = f"-drive: unit {unit} too big (max is {per_bus - 1})"
        raise InputError(msg)
    return found.get("bus", 0) * per_bus + unit if found else None


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


def _forwards_out(value: str) -> tuple[str, list[str]]:
    """A list without its `hostfwd=` parts, which may repeat, and their values."""
    parts = value.split(",")
    forwards = [part.removeprefix("hostfwd=") for part in parts if part.startswith("hostfwd=")]
    return ",".join(part for part in parts if not part.startswith("hostfwd=")), forwards


def _netdev(option: str, value: str) -> dict[str, Any]:
    """A `Netdev` of the schema. Raises InputError."""
    forwards: list[str] = []
    if not value.startswith("{"):
        value, forwards = _forwards_out(value)
    options = parse_struct(option, value, "Netdev", "type")
    if forwards:
        options["hostfwd"] = [{"str": text} for text in forwards]
    return options
