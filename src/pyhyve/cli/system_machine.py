"""From QEMU's options to a machine's configuration and its monitors."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pyhyve.accel.cpu_models import MAX, MODEL_NAMES, CpuModel, CpuModelError
from pyhyve.cli.options import existing_file, parse_size
from pyhyve.cli.run import parse_number
from pyhyve.cli.system_devices import DEVICE_HELP, DeviceSet
from pyhyve.cli.system_options import Option, Properties, parse_properties
from pyhyve.machine.config import AccelChoice, ConfigError, ConsoleConfig, ConsoleKind, MachineConfig
from pyhyve.support.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

MACHINES = {"pc": "Standard PC (i440FX + PIIX, 1996) (alias of pc-i440fx-7.2)", "pc-i440fx-7.2": "(default)"}
DEFAULT_MEMORY_BYTES = 128 << 20
OPTIONS = {
    "accel": Option("[accel=]kvm|tcg", "what runs the guest: KVM, or our CPU engine (tcg; the default)"),
    "action": Option("reboot=reset|shutdown,shutdown=poweroff|pause", "what a reset or a power-off of the guest does"),
    "append": Option("STRING", "command line of the Linux kernel"),
    "bios": Option("FILE", "firmware image"),
    "blockdev": Option("driver=D,node-name=N,…", "a disk image, for a device"),
    "boot": Option("[order=]cdn", "boot order: disk, CD-ROM, network"),
    "cdrom": Option("FILE", "a CD-ROM image"),
    "chardev": Option("stdio|null|file|socket,id=ID,…", "a character device, for -serial, -mon and ports"),
    "cpu": Option("MODEL[,±FEATURE]", "the processor's model (-cpu help lists them; default: max)"),
    "daemonize": Option("", "go to the background once the machine is made"),
    "device": Option("DRIVER,…", "a device (-device help lists them)"),
    "display": Option("none", "no display"),
    "drive": Option("file=FILE,if=virtio|none,…", "a disk"),
    "enable-kvm": Option("", "as -accel kvm"),
    "h": Option("", "show this"),
    "hda": Option("FILE", "a disk (virtio, as all disks here)"),
    "hdb": Option("FILE", "another disk"),
    "hdc": Option("FILE", "another disk"),
    "hdd": Option("FILE", "another disk"),
    "help": Option("", "show this"),
    "initrd": Option("FILE", "initial RAM file system"),
    "kernel": Option("FILE", "Linux bzImage or PVH ELF kernel"),
    "m": Option("[size=]SIZE", "guest memory (default: 128M)"),
    "M": Option("pc", "as -machine"),
    "machine": Option("[type=]pc,…", "machine type (-machine help lists them)"),
    "mon": Option("chardev=ID,mode=control|readline", "QMP, or a monitor for people, on a character device"),
    "monitor": Option("stdio|none|unix:PATH|tcp:HOST:PORT", "a monitor for people"),
    "name": Option("NAME", "name of the machine"),
    "net": Option("none", "no network card"),
    "netdev": Option("user|tap|bridge,id=ID,…", "a network, for a device"),
    "nic": Option("user|tap|bridge|none,…", "a network card with its network"),
    "no-hpet": Option("", "no HPET (there is none)"),
    "no-reboot": Option("", "end when the guest reboots"),
    "no-shutdown": Option("", "keep the machine, stopped, when the guest powers off"),
    "no-user-config": Option("", "read no configuration of the user (none is read)"),
    "nodefaults": Option("", "no default devices (there are none)"),
    "nographic": Option("", "no display; the first serial port on the terminal"),
    "object": Option("rng-random|rng-builtin,id=ID,…", "a source of entropy, for a device"),
    "pidfile": Option("FILE", "write the process id there, and lock it"),
    "qmp": Option("stdio|unix:PATH|tcp:HOST:PORT,server=on,wait=off", "QMP on a socket"),
    "S": Option("", "do not start before a monitor says so"),
    "serial": Option("stdio|null|none|file:PATH|unix:PATH|chardev:ID", "where the first serial port goes"),
    "smp": Option("[cpus=]N", "number of processors"),
    "snapshot": Option("", "keep what is written to disks in temporary files"),
    "uuid": Option("UUID", "identity of the machine"),
    "version": Option("", "show the version"),
    "vga": Option("none", "no graphics card"),
}


@dataclass(frozen=True, slots=True)
class MonitorSocket:
    """Where a monitor is: `address` as `stdio`, `unix:PATH` or `tcp:HOST:PORT`, or an inherited descriptor."""

    address: str
    label: str
    fd: int | None = None
    for_people: bool = False


@dataclass(slots=True)
class SystemSettings:
    """What the whole command line asks for; `handle` takes one option, `configuration` gives the result."""

    daemonize: bool = False
    pidfile: Path | None = None
    monitors: list[MonitorSocket] = field(default_factory=list)
    help_text: str = ""
    """What to print instead of running."""
    _changes: dict[str, Any] = field(default_factory=lambda: {"memory_bytes": DEFAULT_MEMORY_BYTES, "name": ""})
    """Fields of the configuration; checked as a whole at the end."""
    _devices: DeviceSet = field(default_factory=DeviceSet)
    _accels: list[str] = field(default_factory=list)
    _has_display: bool = True
    _nographic: bool = False
    _snapshot: bool = False
    _chardevs: dict[str, ConsoleConfig | MonitorSocket] = field(default_factory=dict)
    _port_users: set[str] = field(default_factory=set)
    """Names of the character devices that ports use."""
    _serials: list[str] = field(default_factory=list)
    _mons: list[tuple[str, bool]] = field(default_factory=list)

    def handle(self, name: str, value: str) -> None:
        """Take one option. Raises InputError."""
        if name in _SWITCHES:
            self._changes[_SWITCHES[name]] = True
        elif name == "append":
            self._changes["append"] = value
        elif name in {"kernel", "initrd", "bios"}:
            self._changes["firmware" if name == "bios" else name] = existing_file(f"-{name}", value)
        elif name in {"hda", "hdb", "hdc", "hdd", "cdrom"}:
            self._devices.add_image(f"-{name}", value, is_cdrom=name == "cdrom")
        elif name in {"display", "vga", "net"}:
            self._handle_none(name, value)
        elif name in _NOTHING_TO_DO:
            return
        else:
            full = _ALIASES.get(name, name).replace("-", "_")
            handler: Callable[[str], None] = getattr(self, f"_handle_{full}")
            handler(value)

    def configuration(self) -> MachineConfig:
        """The machine. Raises InputError when the options do not fit together."""
        self._devices.extras.find_chardev = self._port_chardev
        self._devices.connect()
        if self._has_display:
            msg = "there is no graphical display: add -nographic or -display none"
            raise InputError(msg)
        for where, for_people in self._mons:
            found = self._chardevs.get(where)
            if found == ConsoleConfig(ConsoleKind.STDIO):
                found = MonitorSocket("stdio", where)
            if not isinstance(found, MonitorSocket):
                msg = f"-mon: chardev {where} is not a listening socket or stdio"
                raise InputError(msg)
            self.monitors.append(replace(found, for_people=for_people))
        console = self._serial_console()
        users = [monitor.label for monitor in self.monitors if monitor.address == "stdio"]
        if len(users) + (console.kind is ConsoleKind.STDIO) > 1:
            msg = "stdio: can be used once only (by a serial port or a monitor)"
            raise InputError(msg)
        if users and self.daemonize:
            msg = "-daemonize: a monitor cannot be on the terminal"
            raise InputError(msg)
        if console.kind is ConsoleKind.STDIO and self.daemonize:
            msg = "-daemonize: the serial port cannot be on the terminal (-serial null or -serial file:PATH)"
            raise InputError(msg)
        disks = self._devices.disks
        if self._snapshot:
            disks = [replace(disk, snapshot=True) for disk in disks]
        accel = self._accel()
        cpu: CpuModel = self._changes.get("cpu", MAX)
        if cpu.name == "host" and accel is AccelChoice.JIT:
            msg = "-cpu host: needs -accel kvm (use -cpu max)"
            raise InputError(msg)
        self._changes |= {"disks": tuple(disks), "nets": tuple(self._devices.nets), "console": console, "accel": accel}
        self._changes["extras"] = tuple(self._devices.extras.devices)
        try:
            return MachineConfig(**self._changes)
        except ConfigError as error:
            msg = f"-{error}"
            raise InputError(msg) from error

    def _port_chardev(self, name: str) -> ConsoleConfig:
        """The character device of a virtio-serial port."""
        found = self._chardevs.get(name)
        if name in self._port_users or found is None:
            msg = f"-device: there is no chardev {name} that is free"
            raise InputError(msg)
        self._port_users.add(name)
        if isinstance(found, ConsoleConfig):
            return found
        if found.fd is not None:
            return ConsoleConfig(ConsoleKind.UNIX, fd=found.fd)
        kind, _, path = found.address.partition(":")
        if kind != "unix":
            msg = f"-device: chardev {name}: a port needs a Unix socket (path=PATH)"
            raise InputError(msg)
        return ConsoleConfig(ConsoleKind.UNIX, Path(path))

    def _accel(self) -> AccelChoice:
        wanted = {_ACCELS[name] for name in self._accels} or {AccelChoice.JIT}
        return wanted.pop() if len(wanted) == 1 else AccelChoice.AUTO

    def _serial_console(self) -> ConsoleConfig:
        if len(self._serials) > 1:
            msg = "-serial: there is one serial port only"
            raise InputError(msg)
        default = "stdio" if self._nographic else "null"
        return self._serial(self._serials[0] if self._serials else default)

    def _serial(self, text: str) -> ConsoleConfig:
        kind, _, where = text.partition(":")
        if kind == "chardev":
            found = self._chardevs.get(where)
            if not isinstance(found, ConsoleConfig):
                msg = f"-serial: there is no chardev {where} that a serial port can use"
                raise InputError(msg)
            return found
        if text in {"null", "none"}:
            return ConsoleConfig(ConsoleKind.NONE)
        if text == "stdio":
            return ConsoleConfig(ConsoleKind.STDIO)
        if kind == "file" and where:
            return ConsoleConfig(ConsoleKind.FILE, Path(where))
        if kind == "unix" and where:
            given = parse_properties("-serial", where, "path")
            path = given.need("path")
            _serve_only(given)
            given.finish()
            return ConsoleConfig(ConsoleKind.UNIX, Path(path))
        msg = f"-serial {text}: not supported (use stdio, null, none, file:PATH, unix:PATH,server=on,wait=off)"
        raise InputError(msg)

    # -- one option each ----------------------------------------------------------------------------------------------

    def _handle_none(self, name: str, value: str) -> None:
        """Options of which only `none` is there."""
        if value != "none":
            msg = f"-{name} {value}: not supported (only none)"
            raise InputError(msg)
        if name == "display":
            self._has_display = False

    def _handle_help(self, _value: str) -> None:
        width = max(len(f"-{name} {option.value}") for name, option in OPTIONS.items())
        lines = [f"{f'-{name} {option.value}':<{width}}  {option.summary}" for name, option in OPTIONS.items()]
        self.help_text = "\n".join(["usage: pyhyve-system-x86_64 [options] [disk_image]", "", *lines, ""])

    def _handle_version(self, _value: str) -> None:
        from pyhyve.cli.main import version

        self.help_text = f"pyhyve-system-x86_64 {version()} (options and monitor of QEMU emulator version 7.2.0)\n"

    def _handle_nographic(self, _value: str) -> None:
        self._nographic, self._has_display = True, False

    def _handle_snapshot(self, _value: str) -> None:
        self._snapshot = True

    def _handle_daemonize(self, _value: str) -> None:
        self.daemonize = True

    def _handle_pidfile(self, value: str) -> None:
        self.pidfile = Path(value)

    def _handle_enable_kvm(self, _value: str) -> None:
        self._add_accel("kvm")

    def _handle_accel(self, value: str) -> None:
        if value == "help":
            self.help_text = "Accelerators supported:\ntcg\nkvm\n"
            return
        given = parse_properties("-accel", value, "accel")
        self._add_accel(given.need("accel"))
        given.finish()

    def _add_accel(self, text: str) -> None:
        for name in text.split(":"):
            if name not in _ACCELS:
                msg = f"-accel {name}: not supported (use kvm or tcg)"
                raise InputError(msg)
            self._accels.append(name)

    def _handle_machine(self, value: str) -> None:
        if value in {"help", "?"}:
            lines = [f"{name:<20} {what}" for name, what in MACHINES.items()]
            self.help_text = "\n".join(["Supported machines are:", *lines, ""])
            return
        given = parse_properties("-machine", value, "type")
        kind = given.take("type")
        if kind is not None and kind not in MACHINES:
            msg = f"-machine {kind}: not supported (-machine help lists the machine types)"
            raise InputError(msg)
        accel = given.take("accel")
        if accel is not None:
            self._add_accel(accel)
        for key in ("usb", "vmport", "hpet", "graphics", "smm"):
            given.only(key, "off")
        for key in ("acpi", "dump-guest-core"):
            given.only(key, "on")
        given.finish()

    def _handle_cpu(self, value: str) -> None:
        if value in {"help", "?"}:
            self.help_text = "".join(["Available CPUs:\n", *(f"x86 {name}\n" for name in MODEL_NAMES)])
        else:
            try:
                self._changes["cpu"] = CpuModel.parse(value)
            except CpuModelError as error:
                msg = f"-{error}"
                raise InputError(msg) from error

    def _handle_m(self, value: str) -> None:
        given = parse_properties("-m", value, "size")
        self._changes["memory_bytes"] = parse_size("-m", given.need("size"))
        given.finish()

    def _handle_smp(self, value: str) -> None:
        given = parse_properties("-smp", value, "cpus")
        cpus = parse_number("-smp", given.need("cpus"), int)
        for key, needed in (("maxcpus", cpus), ("sockets", cpus), ("dies", 1), ("cores", 1), ("threads", 1)):
            given.only(key, str(needed))
        given.finish()
        self._changes["cpus"] = cpus

    def _handle_name(self, value: str) -> None:
        given = parse_properties("-name", value, "guest")
        self._changes["name"] = given.take("guest") or ""
        given.only("debug-threads", "on")
        given.finish()

    def _handle_uuid(self, value: str) -> None:
        try:
            self._changes["uuid"] = UUID(value)
        except ValueError as error:
            msg = f"-uuid {value}: not a UUID"
            raise InputError(msg) from error

    def _handle_boot(self, value: str) -> None:
        given = parse_properties("-boot", value, "order")
        order = given.take("order")
        if order is not None:
            self._changes["boot_order"] = order
        given.only("menu", "off")
        given.only("strict", "off")
        given.finish()

    def _handle_action(self, value: str) -> None:
        given = parse_properties("-action", value)
        for key, field_name, choices in (
            ("reboot", "no_reboot", ("reset", "shutdown")),
            ("shutdown", "no_shutdown", ("poweroff", "pause")),
        ):
            chosen = given.take(key)
            if chosen is not None and chosen not in choices:
                msg = f"-action: {key}={chosen}: use {' or '.join(choices)}"
                raise InputError(msg)
            if chosen is not None:
                self._changes[field_name] = chosen == choices[1]
        given.finish()

    def _handle_drive(self, value: str) -> None:
        self._devices.add_drive(parse_properties("-drive", value))

    def _handle_blockdev(self, value: str) -> None:
        self._devices.add_blockdev(parse_properties("-blockdev", value, "driver"))

    def _handle_netdev(self, value: str) -> None:
        self._devices.add_netdev(parse_properties("-netdev", value, "type"))

    def _handle_nic(self, value: str) -> None:
        self._devices.add_nic(parse_properties("-nic", value, "type"))

    def _handle_device(self, value: str) -> None:
        if value in {"help", "?"}:
            self.help_text = DEVICE_HELP
            return
        self._devices.add_device(parse_properties("-device", value, "driver"))

    def _handle_object(self, value: str) -> None:
        self._devices.extras.add_object(parse_properties("-object", value, "qom-type"))

    def _handle_serial(self, value: str) -> None:
        self._serials.append(value)

    def _handle_chardev(self, value: str) -> None:
        given = parse_properties("-chardev", value, "backend")
        kind, name = given.need("backend"), given.need("id")
        if name in self._chardevs:
            msg = f"-chardev: duplicate id {name}"
            raise InputError(msg)
        match kind:
            case "null":
                self._chardevs[name] = ConsoleConfig(ConsoleKind.NONE)
            case "stdio":
                given.only("signal", "off")
                self._chardevs[name] = ConsoleConfig(ConsoleKind.STDIO)
            case "file":
                given.only("append", "off")
                self._chardevs[name] = ConsoleConfig(ConsoleKind.FILE, Path(given.need("path")))
            case "socket":
                self._chardevs[name] = _socket(given, name)
            case _:
                msg = f"-chardev: {kind} is not supported (use stdio, null, file or socket)"
                raise InputError(msg)
        given.finish()

    def _handle_mon(self, value: str) -> None:
        given = parse_properties("-mon", value, "chardev")
        chardev, mode = given.need("chardev"), given.take("mode") or "readline"
        given.take("id")
        if mode not in {"control", "readline"}:
            msg = f"-mon: mode={mode} is not control or readline"
            raise InputError(msg)
        self._mons.append((chardev, mode == "readline"))
        given.only("pretty", "off")
        given.finish()

    def _handle_qmp(self, value: str) -> None:
        self._add_monitor("-qmp", value, for_people=False)

    def _handle_monitor(self, value: str) -> None:
        self._add_monitor("-monitor", value, for_people=True)

    def _add_monitor(self, option: str, value: str, *, for_people: bool) -> None:
        if value == "none":
            return
        given = parse_properties(option, value, "address")
        address = given.need("address")
        if address != "stdio":
            _serve_only(given)
        given.finish()
        label = f"compat_monitor{len(self.monitors)}"
        self.monitors.append(MonitorSocket(address, label, for_people=for_people))


def _serve_only(given: Properties) -> None:
    """The socket is ours to listen on, and the machine does not wait for the peer. Raises InputError."""
    if not given.switch("server", default=False) or given.switch("wait", default=True):
        msg = f"{given.option}: only listening sockets are supported: add server=on,wait=off"
        raise InputError(msg)


def _socket(given: Properties, name: str) -> MonitorSocket:
    fd = given.take("fd")
    path, host, port = given.take("path"), given.take("host"), given.take("port")
    _serve_only(given)
    if fd is not None:
        return MonitorSocket(f"fd:{fd}", name, parse_number("-chardev: fd", fd, int))
    if path is not None:
        return MonitorSocket(f"unix:{path}", name)
    if port is None:
        msg = f"-chardev: socket {name} needs a path, a port or an fd"
        raise InputError(msg)
    return MonitorSocket(f"tcp:{host or ''}:{port}", name)


_SWITCHES = {"S": "start_paused", "no-reboot": "no_reboot", "no-shutdown": "no_shutdown"}
"""Options without a value, and the fields that they set."""
_ALIASES = {"M": "machine", "h": "help"}
_NOTHING_TO_DO = {"no-hpet", "no-user-config", "nodefaults"}
"""Options that ask for what is so anyway."""
_ACCELS = {"kvm": AccelChoice.KVM, "tcg": AccelChoice.JIT}
