"""`pyhyve run`: one machine in the foreground."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import signal
import sys
import termios

from pyhyve.accel.cpu_models import CpuModel, CpuModelError
from pyhyve.boot.linux import EntryMode
from pyhyve.cli.options import existing_file, parse_pairs, parse_size, parse_switch, readable_file
from pyhyve.devices.error_policy import ErrorPolicy
from pyhyve.machine.config import (
    AccelChoice,
    Additions,
    BalloonConfig,
    ConfigError,
    ConsoleConfig,
    ConsoleKind,
    DiskConfig,
    ExtraConfig,
    MachineConfig,
    NetConfig,
    NetKind,
    PortConfig,
    PortForward,
    RngConfig,
    SerialBusConfig,
    VsockConfig,
)
from pyhyve.support.errors import ExitStatus, InputError
from pyhyve.support.option_lists import split_list
from pyhyve.support.records import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any, TypeVar

    from pyhyve.cli.option_parser import Arguments, VerbParser
    from pyhyve.machine.machine import Machine
    from pyhyve.machine.monitor.server import Listener

    Number = TypeVar("Number", int, float)

TRACE_POINTS = ("exits", "bus")
_BAR_CELLS = 40
_STOPS = frozenset({ErrorPolicy.STOP, ErrorPolicy.ENOSPC})


def configure(parser: VerbParser) -> None:
    """Add the options of the machine."""
    add = parser.add_argument
    add("--accel", default="auto", metavar="auto|kvm|jit", help="what runs the guest (default: auto)")
    add("--memory", default="512M", metavar="SIZE", help="guest memory (default: 512M)")
    add("--hugepages", action="store_true", help="take it from the host's reserved huge pages, all at once")
    add("--cpus", default="1", metavar="N", help="virtual CPUs (default: 1)")
    add("--cpu", default="host", metavar="host|x86-64-v2|x86-64-v3[,±FEATURE]", help="what CPUID says (default: host)")
    add("--kernel", metavar="FILE", help="Linux bzImage or PVH ELF kernel")
    add(
        "--entry", default="auto", metavar="auto|pvh|64|32|16", help="which entry of the kernel to take (default: auto)"
    )
    add("--initrd", metavar="FILE", help="initial RAM file system")
    add("--append", default="", metavar="STRING", help="kernel command line (default: console=ttyS0)")
    add(
        "--disk",
        action="append",
        default=[],
        metavar="FILE[,format=F][,readonly=on][,snapshot=on][,serial=S][,cache=MODE][,werror=P][,rerror=P]",
        help="a disk (repeatable)",
    )
    add("--cdrom", metavar="FILE", help="a CD-ROM image")
    add("--boot", default="c", metavar="c|d|n", help="boot order: disk, CD-ROM, network (default: c)")
    add("--firmware", metavar="FILE", help="firmware image")
    add(
        "--net",
        action="append",
        default=[],
        metavar="user[,forward=tcp:2222:22]|bridge=NAME|tap=NAME|switch=PATH|none[,mac=ADDRESS][,vhost=on|off]",
        help="a network card (repeatable)",
    )
    add(
        "--channel",
        action="append",
        default=[],
        metavar="NAME=unix:PATH|file:PATH",
        help="a channel to a program in the guest, /dev/virtio-ports/NAME there (repeatable)",
    )
    add("--vsock", metavar="CID=unix:PATH", help="a virtual socket device whose connections are Unix sockets here")
    add("--rng", nargs="?", const="", metavar="FILE", help="an entropy device, on FILE or the kernel's generator")
    add("--balloon", action="store_true", help="a memory balloon; the guest gives back memory it does not use")
    add("--generation-id", nargs="?", const="auto", metavar="UUID", help="tell the guest when it has been restored")
    add("--console", default="stdio", metavar="stdio|none|file:PATH|unix:PATH", help="where the console goes")
    add("--name", default="guest", metavar="NAME", help="name of the machine")
    add("--qmp", metavar="unix:PATH|tcp:HOST:PORT", help="serve QEMU's machine protocol there")
    add("--restore", metavar="FILE", help="go on from a saved state; its machine is made again, options replace parts")
    add("--timeout", metavar="SECONDS", help="give up after this long, with exit status 1")
    add("--no-reboot", action="store_true", help="end when the guest reboots")
    add("--trace", default="", metavar="exits|bus|…", help="log these to standard error (comma-separated)")


def parse_console(text: str) -> ConsoleConfig:
    """The value of `--console`."""
    kind, colon, path = text.partition(":")
    if text in {"stdio", "none"}:
        return ConsoleConfig(ConsoleKind(text))
    if kind in {"file", "unix"} and colon and path:
        from pathlib import Path

        return ConsoleConfig(ConsoleKind(kind), Path(path))
    msg = f"--console {text}: use stdio, none, file:PATH or unix:PATH"
    raise InputError(msg)


def parse_disk(text: str) -> DiskConfig:
    """The value of `--disk`."""
    name, *words = split_list(text)
    known = {"format", "readonly", "snapshot", "serial", "werror", "rerror", "cache"}
    pairs = dict(parse_pairs("--disk", words, known))
    return DiskConfig(
        path=existing_file("--disk", name),
        format=pairs.get("format"),
        readonly=parse_switch("--disk", "readonly", pairs.get("readonly", "off")),
        cache=pairs.get("cache", "writeback"),
        snapshot=parse_switch("--disk", "snapshot", pairs.get("snapshot", "off")),
        serial=pairs.get("serial", ""),
        write_errors=parse_policy("werror", pairs.get("werror", "report")),
        read_errors=parse_policy("rerror", pairs.get("rerror", "report")),
    )


def parse_policy(key: str, text: str) -> ErrorPolicy:
    """The value of `werror` or `rerror`."""
    allowed = [str(policy) for policy in ErrorPolicy if key == "werror" or policy is not ErrorPolicy.ENOSPC]
    if text not in allowed:
        msg = f"--disk: {key}={text}: use {', '.join(allowed)}"
        raise InputError(msg)
    return ErrorPolicy(text)


def parse_extras(arguments: Arguments) -> tuple[ExtraConfig, ...]:
    """The values of `--rng`, `--balloon`, `--channel` and `--vsock`."""
    extras: list[ExtraConfig] = []
    if not (arguments.channel or arguments.vsock or arguments.rng is not None or arguments.balloon):
        return ()
    from pathlib import Path

    if arguments.rng is not None:
        extras.append(RngConfig(existing_file("--rng", arguments.rng) if arguments.rng else None))
    if arguments.balloon:
        extras.append(BalloonConfig())
    if arguments.channel:
        ports = []
        for number, text in enumerate(arguments.channel, 1):
            name, _, where = text.partition("=")
            kind, _, path = where.partition(":")
            if not name or kind not in {"unix", "file"} or not path:
                msg = f"--channel {text}: write NAME=unix:PATH or NAME=file:PATH"
                raise InputError(msg)
            ports.append(PortConfig(number, ConsoleConfig(ConsoleKind(kind), Path(path)), name))
        extras.append(SerialBusConfig(tuple(ports)))
    if arguments.vsock is not None:
        cid, _, where = arguments.vsock.partition("=")
        kind, _, path = where.partition(":")
        if kind != "unix" or not path:
            msg = f"--vsock {arguments.vsock}: write CID=unix:PATH, with a number from 3 for CID"
            raise InputError(msg)
        extras.append(VsockConfig(parse_number("--vsock", cid, int), Path(path)))
    return tuple(extras)


def parse_entry(text: str) -> EntryMode:
    """The value of `--entry`. Raises InputError."""
    modes = {"auto": EntryMode.AUTO, "pvh": EntryMode.PVH, "64": EntryMode.BITS_64, "32": EntryMode.BITS_32}
    modes["16"] = EntryMode.BITS_16
    if text not in modes:
        msg = f"--entry {text}: unknown (use {', '.join(modes)})"
        raise InputError(msg)
    return modes[text]


def open_monitor(option: str, text: str, label: str = "compat_monitor0") -> Listener:
    """The socket that `unix:PATH` or `tcp:HOST:PORT` names, listening. Raises UserError and InputError."""
    from pathlib import Path

    from pyhyve.machine.monitor.server import listen_tcp, listen_unix

    kind, _, where = text.partition(":")
    host, colon, port = where.rpartition(":")
    if kind == "unix" and where:
        return listen_unix(Path(where), label)
    if kind == "tcp" and colon and port.isascii() and port.isdigit():
        return listen_tcp(host.removeprefix("[").removesuffix("]"), int(port[:6]), label)
    msg = f"{option} {text}: use unix:PATH or tcp:HOST:PORT"
    raise InputError(msg)


def parse_forward(text: str) -> PortForward:
    """`PROTOCOL:[ADDRESS:]HOST_PORT:GUEST_PORT`."""
    protocol, *rest = text.split(":")
    *address, host, guest = rest if len(rest) >= 2 else ["", "", ""]
    if len(address) > 1 or not (host.isascii() and host.isdigit() and guest.isascii() and guest.isdigit()):
        msg = f"--net: forward={text}: write forward=tcp:HOST_PORT:GUEST_PORT"
        raise InputError(msg)
    return PortForward(protocol, int(host[:6]), int(guest[:6]), address[0] if address else "")


def parse_net(text: str) -> NetConfig:
    """The value of `--net`."""
    first, *words = split_list(text)
    kind, _, target = first.partition("=")
    if kind not in set(NetKind) or (target and kind in {NetKind.USER, NetKind.NONE}):
        msg = f"--net {text}: use user, bridge=NAME, tap=NAME, switch=PATH or none"
        raise InputError(msg)
    pairs = parse_pairs("--net", words, {"forward", "mac", "vhost"})
    forwards = tuple(parse_forward(value) for key, value in pairs if key == "forward")
    if forwards and kind != NetKind.USER:
        msg = f"--net {text}: forward works with user only"
        raise InputError(msg)
    given = dict(pairs)
    vhost = parse_switch("--net", "vhost", given["vhost"]) if "vhost" in given else None
    return NetConfig(NetKind(kind), target, given.get("mac"), forwards, vhost=vhost)


def parse_number(option: str, text: str, kind: type[Number]) -> Number:
    """A plain number of type `kind`. Raises InputError."""
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not math.isfinite(value):
        msg = f"{option} {text}: not a number"
        raise InputError(msg)
    return value


def generation_devices(arguments: Arguments) -> tuple[Mapping[str, Any], ...]:
    """The device that `--generation-id` asks for, if it does. Raises InputError."""
    text = arguments.generation_id
    if text is None:
        return ()
    if text != "auto":
        from uuid import UUID

        try:
            text = str(UUID(text))
        except ValueError as error:
            msg = f"--generation-id {text}: not a UUID"
            raise InputError(msg) from error
    return ({"driver": "vmgenid", "guid": text},)


def configuration(arguments: Arguments, *, can_boot: bool = False) -> MachineConfig:
    """The machine the command line asks for; `can_boot` when it need not say from what. Raises InputError."""
    if arguments.accel not in set(AccelChoice):
        msg = f"--accel {arguments.accel}: unknown (use auto, kvm or jit)"
        raise InputError(msg)
    trace = frozenset(word for word in arguments.trace.split(",") if word)
    unknown = trace - set(TRACE_POINTS)
    if unknown:
        msg = f"--trace {','.join(sorted(unknown))}: unknown (use {', '.join(TRACE_POINTS)})"
        raise InputError(msg)
    disks = [parse_disk(text) for text in arguments.disk]
    if arguments.qmp is None and any(_STOPS & {disk.write_errors, disk.read_errors} for disk in disks):
        msg = "--disk: werror and rerror can stop the machine only with --qmp, where `cont` lets it go on"
        raise InputError(msg)
    if arguments.cdrom is not None:
        disks.append(DiskConfig(existing_file("--cdrom", arguments.cdrom), readonly=True, is_cdrom=True))
    if arguments.kernel is None and arguments.firmware is None and not disks and not can_boot:
        msg = "nothing to boot: give --kernel FILE (pyhyve guest build makes one)"
        raise InputError(msg)
    try:
        return MachineConfig(
            name=arguments.name,
            memory_bytes=parse_size("--memory", arguments.memory),
            huge_pages=arguments.hugepages,
            cpus=parse_number("--cpus", arguments.cpus, int),
            accel=AccelChoice(arguments.accel),
            cpu=CpuModel.parse(arguments.cpu),
            kernel=None if arguments.kernel is None else readable_file("--kernel", arguments.kernel),
            boot_entry=parse_entry(arguments.entry),
            initrd=None if arguments.initrd is None else readable_file("--initrd", arguments.initrd),
            append=arguments.append or ("console=ttyS0" if arguments.kernel is not None else ""),
            firmware=None if arguments.firmware is None else existing_file("--firmware", arguments.firmware),
            disks=tuple(disks),
            extras=parse_extras(arguments),
            nets=tuple(net for net in map(parse_net, arguments.net) if net.kind is not NetKind.NONE),
            additions=Additions(devices=generation_devices(arguments)),
            console=parse_console(arguments.console),
            boot_order=arguments.boot,
            no_reboot=arguments.no_reboot,
            timeout_s=None if arguments.timeout is None else parse_number("--timeout", arguments.timeout, float),
            trace=trace,
        )
    except (ConfigError, CpuModelError) as error:
        msg = f"--{error}"
        raise InputError(msg) from error


def restored_configuration(arguments: Arguments, saved: MachineConfig) -> MachineConfig:
    """The machine of a state, with the parts that the command line gives in place of its own. Raises InputError."""
    defaults = {"memory": "512M", "cpus": "1", "accel": "auto", "name": "guest", "append": "", "boot": "c"}
    given = {name for name, default in defaults.items() if getattr(arguments, name) != default}
    given |= {name for name in ("kernel", "initrd", "firmware") if getattr(arguments, name) is not None}
    given |= {name for name in ("disk", "cdrom", "net") if getattr(arguments, name)}
    asked = configuration(arguments, can_boot=True)
    fields = {
        "memory": "memory_bytes", "cpus": "cpus", "accel": "accel", "name": "name", "append": "append",
        "boot": "boot_order", "kernel": "kernel", "initrd": "initrd", "firmware": "firmware", "disk": "disks",
        "cdrom": "disks", "net": "nets",
    }  # fmt: skip
    names = {fields[option] for option in given} | {"console", "no_reboot", "timeout_s", "trace"}
    changes = {name: getattr(asked, name) for name in names}
    if arguments.generation_id is not None:
        if not saved.has_generation_id:
            msg = "--generation-id: the machine was started without one"
            raise InputError(msg)
        others = (device for device in saved.additions.devices if device["driver"] != "vmgenid")
        changes["additions"] = replace(saved.additions, devices=(*others, *asked.additions.devices))
    return replace(saved, start_paused=False, **changes)


@contextlib.contextmanager
def preserved_terminal() -> Iterator[Callable[[], None]]:
    """Put the terminal back as it was however this ends; gives the function that does so at once."""
    saved: list[tuple[int, list[Any]]] = []
    for descriptor in (0, 1, 2):
        with contextlib.suppress(termios.error, OSError):
            saved.append((descriptor, termios.tcgetattr(descriptor)))

    def restore() -> None:
        for descriptor, attributes in saved:
            with contextlib.suppress(termios.error, OSError):
                termios.tcsetattr(descriptor, termios.TCSANOW, attributes)

    try:
        yield restore
    finally:
        restore()


@contextlib.contextmanager
def stopped_by_signals(stop: Callable[[], object], restore: Callable[[], None]) -> Iterator[None]:
    """SIGTERM, SIGHUP and SIGINT ask the machine to stop; a second one ends the process at once."""
    asked = False

    def handle(number: int, _frame: object) -> None:
        nonlocal asked
        if asked:
            restore()
            os._exit(128 + number)
        asked = True
        stop()

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.signal(number, handle) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def show_engine_progress(done: int, total: int) -> None:
    """A bar on standard error while the CPU engine is compiled, once on a host; one line when that is no terminal."""
    what = "pyhyve run: compiling the CPU engine (once on this host)"
    if not sys.stderr.isatty():
        if not done:
            print(f"{what}…", file=sys.stderr)
        return
    filled = _BAR_CELLS * done // total
    end = "\r\033[K" if done == total else ""
    print(f"\r{what} [{'#' * filled:<{_BAR_CELLS}}]{end}", end="", file=sys.stderr, flush=True)


@contextlib.contextmanager
def closed_on_failure(listeners: Sequence[Listener]) -> Iterator[None]:
    """Close `listeners` when the block fails."""
    try:
        yield
    except BaseException:
        for listener in listeners:
            listener.close()
        raise


def serve_monitor(machine: Machine, listeners: Sequence[Listener]) -> None:
    """Give `machine` a monitor on `listeners`, which the machine closes."""
    from pyhyve.machine.monitor.monitor import Monitor

    Monitor(machine, listeners).start()


def run(arguments: Arguments) -> int:
    """Run the machine until it ends."""
    state = None
    if arguments.restore is None:
        config = configuration(arguments)
    else:
        from pyhyve.machine.state_file import open_state

        state = open_state(existing_file("--restore", arguments.restore))
        config = restored_configuration(arguments, state.saved.configuration())
    from pyhyve.accel.select import open_vm
    from pyhyve.machine.builder import build

    listeners = [] if arguments.qmp is None else [open_monitor("--qmp", arguments.qmp)]
    with preserved_terminal() as restore:
        with closed_on_failure(listeners):
            open_engine = functools.partial(open_vm, progress=show_engine_progress, cpu=config.cpu)
            machine = build(config, open_engine=open_engine)
        if state is not None:
            machine.restore = functools.partial(state.load_into, machine)
        if listeners:
            serve_monitor(machine, listeners)
        with stopped_by_signals(machine.request_stop, restore):
            outcome = machine.run()
    status = outcome.exit_status
    if status != ExitStatus.DONE:
        if outcome.detail:
            print(outcome.detail, file=sys.stderr)
        print(f"pyhyve run: {outcome.message or outcome.kind}", file=sys.stderr)
    return status
