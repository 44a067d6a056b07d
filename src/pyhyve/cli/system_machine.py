"""From QEMU's options to a machine's configuration and its monitors."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pyhyve.accel.cpu_models import MAX, MODEL_NAMES, CpuModel, CpuModelError
from pyhyve.cli.options import existing_file, parse_size
from pyhyve.cli.run import parse_number
from pyhyve.cli.system_containment import Sandbox, check_identity, parse_sandbox
from pyhyve.cli.system_devices import DeviceSet
from pyhyve.cli.system_globals import check_global
from pyhyve.cli.system_monitors import MonitorSocket, monitor_on, serve_only
from pyhyve.cli.system_processors import topology
from pyhyve.cli.system_tables import BOARDS, DEFAULT_MEMORY_BYTES, KINDS, MACHINES, NOT_HERE, OPTIONS, list_kinds
from pyhyve.machine.config import (
    MAX_CPUS,
    AccelChoice,
    Board,
    ConfigError,
    ConsoleConfig,
    ConsoleKind,
    MachineConfig,
    MemoryKind,
    RtcBase,
)
from pyhyve.machine.monitor.chardev_options import parse_chardev, parse_serial
from pyhyve.machine.monitor.properties import parse_properties
from pyhyve.support.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(slots=True)
class SystemSettings:
    """What the whole command line asks for; `handle` takes one option, `configuration` gives the result."""

    daemonize: bool = False
    screen_on_terminal: bool = False
    pidfile: Path | None = None
    monitors: list[MonitorSocket] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)
    """Character devices that a monitor for people uses beside a serial port."""
    help_text: str = ""
    """What to print instead of running."""
    _changes: dict[str, Any] = field(default_factory=lambda: {"memory_bytes": DEFAULT_MEMORY_BYTES, "name": ""})
    """Fields of the configuration; checked as a whole at the end."""
    _devices: DeviceSet = field(default_factory=DeviceSet)
    _accels: list[str] = field(default_factory=list)
    _has_display: bool = True
    _nographic: bool = False
    _snapshot: bool = False
    _has_defaults: bool = True
    _chardevs: dict[str, dict[str, Any]] = field(default_factory=dict)
    _muxes: set[str] = field(default_factory=set)
    _serials: list[str] = field(default_factory=list)
    _mons: list[tuple[str, bool]] = field(default_factory=list)
    _memory_backend: str = ""
    _vga: str = ""
    _display: str = ""
    incoming: str = ""
    loadvm: str = ""
    runas: str = ""
    sandbox: Sandbox = Sandbox.NONE
    """Where the machine's state comes from; `defer`: a monitor says it later."""
    log_file: Path | None = None

    def handle(self, name: str, value: str) -> None:
        """Take one option. Raises InputError."""
        if value in {"help", "?"} and name in KINDS:
            self.help_text = list_kinds(name)
        elif name in _SWITCHES:
            self._changes[_SWITCHES[name]] = True
        elif name == "append":
            self._changes["append"] = value
        elif name in {"kernel", "initrd", "bios"}:
            self._changes["firmware" if name == "bios" else name] = existing_file(f"-{name}", value)
        elif name in {"hda", "hdb", "hdc", "hdd", "cdrom"}:
            self._devices.add_image(name, value)
        elif name == "net":
            self._handle_net(value)
        elif name in _NOTHING_TO_DO:
            return
        else:
            full = _ALIASES.get(name, name).replace("-", "_")
            handler: Callable[[str], None] = getattr(self, f"_handle_{full}")
            handler(value)

    def configuration(self) -> MachineConfig:
        """The machine. Raises InputError when the options do not fit together."""
        self._choose_display()
        serials = self._find_serials()
        taken = self._find_monitors(serials)
        users = [monitor.label for monitor in self.monitors if monitor.address == "stdio"]
        users += ["-display curses"] if self.screen_on_terminal else []
        users += [name for name, backend in self._chardevs.items() if backend["type"] == "stdio" and name not in taken]
        if len(users) > 1:
            msg = "stdio: can be used once only (by a serial port or a monitor)"
            raise InputError(msg)
        if self.incoming and self.loadvm:
            msg = "'incoming' and 'loadvm' options are mutually exclusive"
            raise InputError(msg)
        if users and self.daemonize:
            msg = "-daemonize: nothing can be on the terminal (-serial null or -serial file:PATH)"
            raise InputError(msg)
        board = self._changes.get("board", Board.PC)
        is_bare = board is Board.MICROVM
        if is_bare:
            self._devices.go_without_ide()
            self._devices.go_without_pci()
        disks = self._devices.disks
        if self._snapshot:
            disks = [replace(disk, snapshot=True) for disk in disks]
        accel = self._accel()
        cpu: CpuModel = self._changes.get("cpu", MAX)
        if cpu.name == "host" and accel is AccelChoice.JIT:
            msg = "-cpu host: needs -accel kvm (use -cpu max)"
            raise InputError(msg)
        self._check_memory_backend()
        self._devices.chardevs = dict(self._chardevs)
        has_vga = self._has_vga()
        self._changes |= {
            "disks": tuple(disks),
            "additions": self._devices.additions(serials, taken, self._muxes & set(serials)),
            "console": ConsoleConfig(ConsoleKind.NONE),
            "accel": accel,
            "has_vga": has_vga,
            "firmware_on_serial": self._nographic or not has_vga,
            "has_keyboard": not is_bare and not self._changes.get("is_empty", False),
        }
        try:
            return MachineConfig(**self._changes)
        except ConfigError as error:
            msg = f"-{error}"
            raise InputError(msg) from error

    def _choose_display(self) -> None:
        """Without a word the screen is on the terminal; and where there is none, as with `-nographic`."""
        is_taken = any(monitor.address == "stdio" for monitor in self.monitors)
        is_taken |= not {"stdio", "mon:stdio"}.isdisjoint(self._serials)
        is_taken |= any(backend["type"] == "stdio" for backend in self._chardevs.values())
        if not self._has_display or (is_taken and not self._display):
            return
        if self.daemonize:
            msg = "-daemonize: there is no terminal for the screen: add -display none"
            raise InputError(msg)
        if os.isatty(0) and os.isatty(1):
            self.screen_on_terminal = True
        elif self._display == "curses":
            msg = "-display curses: standard input and output are not a terminal"
            raise InputError(msg)
        else:
            self._nographic = True

    def _find_monitors(self, serials: tuple[str, ...]) -> set[str]:
        """Make the monitors of `-mon`; the names of the character devices that they take."""
        taken = set()
        for where, for_people in self._mons:
            backend = self._chardevs.get(where)
            if where in self._muxes and where in serials and for_people and where not in self.shared:
                self.shared.append(where)
                continue
            found = None if backend is None else monitor_on(backend, where)
            if found is None or where in taken:
                msg = f"-mon: chardev {where} is not a listening socket or stdio that is free"
                raise InputError(msg)
            taken.add(where)
            self.monitors.append(replace(found, for_people=for_people))
        return taken

    def _find_serials(self) -> tuple[str, ...]:
        """Names of the character devices of the serial ports."""
        words = self._serials
        if not words and self._has_defaults:
            words = ["stdio" if self._nographic else "null"]
        names = []
        for index, word in enumerate(words):
            kind, _, where = word.partition(":")
            if word == "none":
                continue
            if kind == "chardev":
                if where not in self._chardevs:
                    msg = f"-serial: there is no chardev {where}"
                    raise InputError(msg)
                names.append(where)
                continue
            name = f"serial{index}"
            if kind == "mon":
                word = where  # noqa: PLW2901 - what the monitor shares
                self._muxes.add(name)
                self.shared.append(name)
            self._chardevs[name] = parse_serial(word)
            names.append(name)
        return tuple(names)

    def _check_memory_backend(self) -> None:
        """The object that `-machine memory-backend=` names holds the guest's memory."""
        name = self._memory_backend
        if not name:
            return
        found = next((made for made in self._devices.objects if made["id"] == name), None)
        if found is None or not str(found["qom-type"]).startswith("memory-backend-"):
            msg = f"-machine memory-backend={name}: there is no memory backend of that name"
            raise InputError(msg)
        if found["size"] != self._changes["memory_bytes"]:
            msg = f"-machine memory-backend={name}: its size is not that of -m ({self._changes['memory_bytes']} bytes)"
            raise InputError(msg)
        self._changes["memory"] = memory_from(found)

    def _accel(self) -> AccelChoice:
        wanted = {_ACCELS[name] for name in self._accels} or {AccelChoice.JIT}
        return wanted.pop() if len(wanted) == 1 else AccelChoice.AUTO

    # -- one option each ----------------------------------------------------------------------------------------------

    def _handle_net(self, value: str) -> None:
        if value != "none":
            msg = f"-net {value}: not supported (only none)"
            raise InputError(msg)

    def _handle_display(self, value: str) -> None:
        if value not in {"none", "curses"}:
            msg = f"-display {value}: not supported (only curses, on the terminal, or none)"
            raise InputError(msg)
        self._display, self._has_display = value, value != "none"

    def _handle_vga(self, value: str) -> None:
        if value in {"help", "?"}:
            self.help_text = "none                 no graphic card\nstd                  standard VGA (default)\n"
        elif value not in {"none", "std"}:
            msg = f"-vga {value}: not supported (use std or none)"
            raise InputError(msg)
        self._vga = value

    def _has_vga(self) -> bool:
        """Whether the machine has a VGA of its own: by default one that boots from firmware, which sets it up."""
        if self._changes.get("is_empty", False) or self._changes.get("board") is Board.MICROVM:
            return self._vga == "std"
        if self._vga:
            return self._vga == "std"
        is_there = any(device.get("driver") == "VGA" for device in self._devices.devices)
        return self._has_defaults and not is_there and "kernel" not in self._changes

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

    def _handle_incoming(self, value: str) -> None:
        self.incoming = value

    def _handle_loadvm(self, value: str) -> None:
        self.loadvm = value

    def _handle_runas(self, value: str) -> None:
        self.runas = check_identity(value)

    def _handle_sandbox(self, value: str) -> None:
        self.sandbox = parse_sandbox(value)

    def _handle_nodefaults(self, _value: str) -> None:
        self._has_defaults = False

    def _handle_D(self, value: str) -> None:  # noqa: N802 - the option's name
        self.log_file = Path(value)

    def _handle_msg(self, value: str) -> None:
        given = parse_properties("-msg", value)
        given.switch("timestamp", default=False)  # `system.main` looks for it itself: it also reports mistakes here
        given.only("guest-name", "off")
        given.finish()

    def _handle_overcommit(self, value: str) -> None:
        given = parse_properties("-overcommit", value)
        given.only("mem-lock", "off")
        given.only("cpu-pm", "off")
        given.finish()

    def _handle_audiodev(self, value: str) -> None:
        given = parse_properties("-audiodev", value, "driver")
        given.only("driver", "none")
        given.take("id")
        given.finish()

    def _handle_add_fd(self, value: str) -> None:
        given = parse_properties("-add-fd", value)
        fd = parse_number("-add-fd: fd", given.need("fd"), int)
        number = parse_number("-add-fd: set", given.need("set"), int)
        given.take("opaque")
        given.finish()
        if fd <= 2 or number < 0:
            msg = f"-add-fd {value}: not a descriptor above 2, or not a set"
            raise InputError(msg)
        self._changes["passed_fds"] = (*self._changes.get("passed_fds", ()), (number, fd))

    def _handle_smbios(self, value: str) -> None:
        from pyhyve.cli.system_smbios import parse_smbios

        entries = parse_smbios(parse_properties("-smbios", value))
        identity = next((entry["uuid"] for entry in entries if "uuid" in entry), None)
        if identity is not None:
            self._handle_uuid(identity)
        self._changes["smbios"] = (*self._changes.get("smbios", ()), *entries)

    def _handle_rtc(self, value: str) -> None:
        given = parse_properties("-rtc", value)
        base = given.take("base") or "utc"
        clock = given.take("clock") or "host"
        if clock not in {"host", "vm"}:
            msg = f"-rtc: clock={clock} is not supported (only host or vm)"
            raise InputError(msg)
        self._changes["rtc_follows_host"] = clock != "vm"
        given.only("driftfix", "none", "slew")
        given.finish()
        if base in {"utc", "localtime"}:
            self._changes["rtc"] = RtcBase(base)
            return
        try:
            start = datetime.fromisoformat(base)
        except ValueError as error:
            msg = f"-rtc base={base}: write utc, localtime, or a time as in 2006-06-17T16:01:21"
            raise InputError(msg) from error
        self._changes["rtc_start_s"] = int(start.replace(tzinfo=start.tzinfo or UTC).timestamp())

    def _handle_global(self, value: str) -> None:
        check_global(value)

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
            family = next((name for name in NOT_HERE if name in kind), None)
            advice = f"use {NOT_HERE[family]}" if family else "-machine help lists the machine types"
            msg = f"-machine {kind}: not supported ({advice})"
            raise InputError(msg)
        if kind is not None:
            self._changes["is_empty"] = kind == "none"
            self._changes["board"] = board = BOARDS.get(kind, Board.PC)
            self._devices.has_sata = board is Board.Q35
        accel = given.take("accel")
        if accel is not None:
            self._add_accel(accel)
        self._memory_backend = given.take("memory-backend") or self._memory_backend
        for key in ("usb", "vmport", "hpet", "graphics", "smm", "mem-merge", "pflash0"):
            given.only(key, "off")
        given.only("acpi", "on")
        given.only("dump-guest-core", "on", "off")
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
        numbers = {
            key: parse_number("-smp", text, int)
            for key in ("cpus", "maxcpus", "sockets", "dies", "cores", "threads")
            if (text := given.take(key)) is not None
        }
        given.finish()
        for key, number in numbers.items():
            if not 0 < number <= MAX_CPUS:
                msg = f"-smp: {key}={number} is not in 1..{MAX_CPUS}"
                raise InputError(msg)
        self._changes["cpus"], self._changes["topology"] = topology(numbers)

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
        order, once = given.take("order"), given.take("once")
        if order is not None:
            self._changes["boot_order"] = order
        if once is not None:
            self._changes["boot_once"] = once
        self._changes["boot_menu"] = given.switch("menu", default=False)
        wait = given.take("splash-time")
        if wait is not None:
            self._changes["boot_menu_ms"] = _milliseconds("-boot: splash-time", wait)
        self._changes["boot_strict"] = given.switch("strict", default=False)
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
        self._devices.add_blockdev(value)

    def _handle_netdev(self, value: str) -> None:
        self._devices.add_netdev(value)

    def _handle_nic(self, value: str) -> None:
        self._devices.add_nic(value)

    def _handle_device(self, value: str) -> None:
        self.help_text = self._devices.add_device(value)

    def _handle_object(self, value: str) -> None:
        self._devices.add_object(value)

    def _handle_serial(self, value: str) -> None:
        self._serials.append(value)

    def _handle_chardev(self, value: str) -> None:
        name, backend = parse_chardev(value)
        if parse_properties("-chardev", value, "backend").switch("mux", default=False):
            self._muxes.add(name)
        if name in self._chardevs:
            msg = f"-chardev: duplicate id {name}"
            raise InputError(msg)
        self._chardevs[name] = backend

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
            serve_only(given)
        given.finish()
        label = f"compat_monitor{len(self.monitors)}"
        self.monitors.append(MonitorSocket(address, label, for_people=for_people))


def _milliseconds(what: str, text: str) -> int:
    number = parse_number(what, text, int)
    if not 0 <= number <= 0xFFFF:
        msg = f"{what}={text} is not in 0..65535"
        raise InputError(msg)
    return number


def memory_from(options: Mapping[str, Any]) -> MemoryKind:
    """What the guest's memory is made of. Raises InputError for what is not supported."""
    kind = str(options["qom-type"])
    for key in ("prealloc", "hugetlb"):
        if options.get(key):
            msg = f"-object {kind}: {key}=on is not supported"
            raise InputError(msg)
    if kind == "memory-backend-file":
        msg = "-object memory-backend-file: the guest's memory cannot be a file (use memory-backend-ram or -memfd)"
        raise InputError(msg)
    is_shared = bool(options.get("share", kind == "memory-backend-memfd"))
    return MemoryKind.SHARED if is_shared else MemoryKind.PRIVATE


_SWITCHES = {"S": "start_paused", "no-reboot": "no_reboot", "no-shutdown": "no_shutdown"}
"""Options without a value, and the fields that they set."""
_ALIASES = {"M": "machine", "h": "help"}
_NOTHING_TO_DO = {"no-hpet", "no-user-config"}
"""Options that ask for what is so anyway."""
_ACCELS = {"kvm": AccelChoice.KVM, "tcg": AccelChoice.JIT}
