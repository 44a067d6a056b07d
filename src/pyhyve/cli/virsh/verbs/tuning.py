"""Domains: limits and weights, all of one form: typed parameters shown, or set from options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pyhyve.cli.virsh.flags import AFFECT_USAGE, affect
from pyhyve.cli.virsh.output import param_text
from pyhyve.cli.virsh.registry import verb
from pyhyve.cli.virsh.shell import VerbFailed
from pyhyve.cli.virsh.syntax import SyntaxProblem, scaled_bytes
from pyhyve.client import LibvirtError
from pyhyve.rpc.values import ParamType, TypedParam

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pyhyve.cli.virsh.shell import Shell
    from pyhyve.cli.virsh.syntax import Values

_UNLIMITED: Final = 9007199254740991
"""VIR_DOMAIN_MEMORY_PARAM_UNLIMITED, in KiB."""
_NUMA_MODES: Final = ("strict", "preferred", "interleave", "restrictive")
_IOTUNE: Final = tuple(
    [f"{way}-{unit}-sec" for unit in ("bytes", "iops") for way in ("total", "read", "write")]
    + [f"{way}-{unit}-sec-max" for unit in ("bytes", "iops") for way in ("total", "read", "write")]
)
_IOTUNE_LENGTHS: Final = tuple(f"{name}-length" for name in _IOTUNE if name.endswith("-max"))
_BLKIO_DEVICES: Final = (
    "device-weights",
    "device-read-iops-sec",
    "device-write-iops-sec",
    "device-read-bytes-sec",
    "device-write-bytes-sec",
)
_STRINGS: Final = 4
"""VIR_TYPED_PARAM_STRING_OKAY: the daemon may answer with strings."""


def _show(shell: Shell, params: Iterable[TypedParam]) -> None:
    for param in params:
        shell.print(f"{param.field:<15}: {param_text(param)}")


@dataclass(frozen=True, slots=True)
class _Knobs:
    """A pair of procedures that get and set typed parameters, and what to say when they fail."""

    get: str
    set: str
    unable_get: str
    unable_set: str
    before: tuple[object, ...] = ()
    """Arguments between the domain and the count."""

    def read(self, shell: Shell, ref: object, flags: int) -> list[TypedParam]:
        """Return the parameters. Raises VerbFailed."""
        with shell.failing(self.unable_get):
            count = shell.call(self.get, ref, *self.before, 0, flags | _STRINGS).nparams
            return list(shell.call(self.get, ref, *self.before, count, flags | _STRINGS).params) if count else []

    def write(self, shell: Shell, ref: object, params: Sequence[TypedParam], flags: int) -> None:
        """Set parameters. Raises VerbFailed."""
        with shell.failing(self.unable_set):
            shell.call(self.set, ref, *self.before, list(params), flags)


def _rename(name: str) -> str:
    return name.replace("-", "_")


# -- memory and NUMA ---------------------------------------------------------------------------------------------------


@verb(
    "memtune",
    "domain",
    "<domain> [--hard-limit <number>] [--soft-limit <number>] [--swap-hard-limit <number>] [--min-guarantee <number>] "
    f"{AFFECT_USAGE}",
    "memory limits (KiB; -1 means none)",
)
def memtune(shell: Shell, values: Values) -> None:
    """Show or set memory limits."""
    knobs = _Knobs(
        "DOMAIN_GET_MEMORY_PARAMETERS",
        "DOMAIN_SET_MEMORY_PARAMETERS",
        "Unable to get memory parameters",
        "Unable to change memory parameters",
    )
    flags, domain, params = affect(values), shell.domain(values), []
    for name in ("hard-limit", "soft-limit", "swap-hard-limit", "min-guarantee"):
        text = values.get(name)
        if text is None:
            continue
        if text == "-1":
            limit = _UNLIMITED
        else:
            size = scaled_bytes(text, 1024)
            if size is None:
                msg = f"Unable to parse integer parameter {name}"
                raise VerbFailed(msg)
            limit = -(-size // 1024)
        params.append(TypedParam(_rename(name), ParamType.ULLONG, limit))
    if params:
        knobs.write(shell, domain.ref, params, flags)
        return
    for param in knobs.read(shell, domain.ref, flags):
        unlimited = param.type == ParamType.ULLONG and param.value == _UNLIMITED
        shell.print(f"{param.field:<15}: {'unlimited' if unlimited else param_text(param)}")


@verb("numatune", "domain", f"<domain> [--mode <string>] [--nodeset <string>] {AFFECT_USAGE}", "NUMA placement")
def numatune(shell: Shell, values: Values) -> None:
    """Show or set NUMA placement."""
    knobs = _Knobs(
        "DOMAIN_GET_NUMA_PARAMETERS",
        "DOMAIN_SET_NUMA_PARAMETERS",
        "Unable to get numa parameters",
        "Unable to change numa parameters",
    )
    flags, domain, params = affect(values), shell.domain(values), []
    if (nodeset := values.get("nodeset")) is not None:
        params.append(TypedParam("numa_nodeset", ParamType.STRING, nodeset))
    if (mode := values.get("mode")) is not None:
        if mode.isdigit():
            number = int(mode)
        elif mode in _NUMA_MODES:
            number = _NUMA_MODES.index(mode)
        else:
            msg = f"Invalid mode: {mode}"
            raise VerbFailed(msg)
        params.append(TypedParam("numa_mode", ParamType.INT, number))
    if params:
        knobs.write(shell, domain.ref, params, flags)
        return
    for param in knobs.read(shell, domain.ref, flags):
        known = param.field == "numa_mode" and int(param.value) < len(_NUMA_MODES)
        shell.print(f"{param.field:<15}: {_NUMA_MODES[int(param.value)] if known else param_text(param)}")


# -- disks -------------------------------------------------------------------------------------------------------------


@verb(
    "blkdeviotune",
    "domain",
    "<domain> <device> "
    + " ".join(f"[--{name} <number>]" for name in _IOTUNE)
    + " [--size-iops-sec <number>] [--group-name <string>] "
    + " ".join(f"[--{name} <number>]" for name in _IOTUNE_LENGTHS)
    + f" {AFFECT_USAGE}",
    "limits of a disk's traffic",
)
def blkdeviotune(shell: Shell, values: Values) -> None:
    """Show or set a disk's limits."""
    device = values.text("device")
    flags, domain, params = affect(values), shell.domain(values), []
    for name in (*_IOTUNE, "size-iops-sec", *_IOTUNE_LENGTHS):
        by_bytes = "bytes" in name and not name.endswith("length")
        try:
            number = values.scaled(name, 1, maximum=(1 << 63) - 1) if by_bytes else values.number(name, minimum=0)
        except SyntaxProblem as problem:
            raise VerbFailed(*problem.args, "Unable to parse integer parameter") from problem
        if number is not None:
            params.append(TypedParam(_rename(name), ParamType.ULLONG, number))
    if (group := values.get("group-name")) is not None:
        params.append(TypedParam("group_name", ParamType.STRING, group))
    if params:
        with shell.failing("Unable to change block I/O throttle"):
            shell.call("DOMAIN_SET_BLOCK_IO_TUNE", domain.ref, device, params, flags)
        return
    with shell.failing("Unable to get number of block I/O throttle parameters"):
        count = shell.call("DOMAIN_GET_BLOCK_IO_TUNE", domain.ref, None, 0, flags | _STRINGS).nparams
    with shell.failing("Unable to get block I/O throttle parameters"):
        answer = shell.call("DOMAIN_GET_BLOCK_IO_TUNE", domain.ref, device, count, flags | _STRINGS) if count else None
    _show(shell, answer.params if answer is not None else [])


@verb(
    "blkiotune",
    "domain",
    "<domain> [--weight <number>] " + " ".join(f"[--{name} <string>]" for name in _BLKIO_DEVICES) + f" {AFFECT_USAGE}",
    "weights of a domain's disk traffic",
)
def blkiotune(shell: Shell, values: Values) -> None:
    """Show or set weights."""
    knobs = _Knobs(
        "DOMAIN_GET_BLKIO_PARAMETERS",
        "DOMAIN_SET_BLKIO_PARAMETERS",
        "Unable to get blkio parameters",
        "Unable to change blkio parameters",
    )
    flags, domain, params = affect(values), shell.domain(values), []
    weight = values.number("weight", minimum=-1, maximum=(1 << 31) - 1)
    if weight is not None:
        if weight <= 0:
            msg = f"Invalid value of {weight} for I/O weight"
            raise VerbFailed(msg)
        params.append(TypedParam("weight", ParamType.UINT, weight))
    for name in _BLKIO_DEVICES:
        if (text := values.get(name)) is not None:
            field = "device_weight" if name == "device-weights" else _rename(name)
            params.append(TypedParam(field, ParamType.STRING, text))
    if params:
        knobs.write(shell, domain.ref, params, flags)
    else:
        _show(shell, knobs.read(shell, domain.ref, flags))


@verb("domblkthreshold", "domain", "<domain> <dev> <threshold>", "how full a disk must be for an event")
def domblkthreshold(shell: Shell, values: Values) -> None:
    """Set a disk's threshold."""
    domain = shell.domain(values)
    threshold = values.scaled("threshold", 1)
    shell.call("DOMAIN_SET_BLOCK_THRESHOLD", domain.ref, values.text("dev"), threshold, 0)


# -- network -----------------------------------------------------------------------------------------------------------


@verb(
    "domiftune",
    "domain",
    f"<domain> <interface> [--inbound <string>] [--outbound <string>] {AFFECT_USAGE}",
    "limits of an interface's traffic",
)
def domiftune(shell: Shell, values: Values) -> None:
    """Show or set an interface's limits."""
    device = values.text("interface")
    knobs = _Knobs(
        "DOMAIN_GET_INTERFACE_PARAMETERS",
        "DOMAIN_SET_INTERFACE_PARAMETERS",
        "Unable to get interface parameters",
        "Unable to set interface parameters",
        (device,),
    )
    flags, domain, params = affect(values), shell.domain(values), []
    for way in ("inbound", "outbound"):
        text = values.get(way)
        if text is None:
            continue
        parts = text.split(",")
        if len(parts) > 4 or (way == "outbound" and len(parts) > 3):
            msg = f"Rate string '{text}' has too many fields"
            raise VerbFailed(msg)
        for field, part in zip(("average", "peak", "burst", "floor"), parts, strict=False):
            if not part.isdigit():
                msg = f"field '{field}' is malformed"
                raise VerbFailed(msg)
            params.append(TypedParam(f"{way}.{field}", ParamType.UINT, int(part)))
    if params:
        knobs.write(shell, domain.ref, params, flags)
    else:
        _show(shell, knobs.read(shell, domain.ref, flags))


# -- CPUs --------------------------------------------------------------------------------------------------------------


@verb(
    "schedinfo",
    "domain",
    "<domain> [--weight=<number>] [--cap=<number>] [--current] [--config] [--live] [[--set] <string>]...",
    "scheduler parameters",
)
def schedinfo(shell: Shell, values: Values) -> None:
    """Show or set scheduler parameters."""
    flags, domain = affect(values), shell.domain(values)
    kind = shell.call("DOMAIN_GET_SCHEDULER_TYPE", domain.ref)
    shell.print(f"{'Scheduler':<15}: {kind.type}")
    if not kind.nparams:
        return
    flagged = flags or values.flag("current")
    now = _schedule(shell, domain.ref, kind.nparams, flags, flagged=bool(flagged))
    changes = _schedule_changes(values, now)
    if changes:
        if flagged:
            shell.call("DOMAIN_SET_SCHEDULER_PARAMETERS_FLAGS", domain.ref, changes, flags)
        else:
            shell.call("DOMAIN_SET_SCHEDULER_PARAMETERS", domain.ref, changes)
        now = _schedule(shell, domain.ref, kind.nparams, flags, flagged=bool(flagged))
    _show(shell, now)


def _schedule(shell: Shell, ref: object, count: int, flags: int, *, flagged: bool) -> list[TypedParam]:
    if flagged:
        return list(shell.call("DOMAIN_GET_SCHEDULER_PARAMETERS_FLAGS", ref, count, flags).params)
    return list(shell.call("DOMAIN_GET_SCHEDULER_PARAMETERS", ref, count).params)


def _schedule_changes(values: Values, now: Sequence[TypedParam]) -> list[TypedParam]:
    wanted = {name: text for name in ("weight", "cap") if (text := values.get(name)) is not None}
    for word in values.words("set"):
        name, equals, text = word.partition("=")
        if not equals:
            msg = f"invalid syntax for --set, expecting name=value: {word}"
            raise VerbFailed(msg)
        wanted[name] = text
    changes = []
    for param in now:
        text = wanted.pop(param.field, None)
        if text is None:
            continue
        if param.type == ParamType.STRING:
            changes.append(param._replace(value=text))
            continue
        if not text.lstrip("+-").isdigit():
            kinds = {1: "int", 2: "unsigned int", 3: "long long", 4: "unsigned long long", 5: "double", 6: "boolean"}
            msg = f"invalid argument: Invalid value for field '{param.field}': expected {kinds[param.type]}"
            raise VerbFailed(msg)
        changes.append(param._replace(value=int(text)))
    for name in wanted:
        if name not in {"weight", "cap"}:
            msg = f"invalid scheduler option: {name}"
            raise VerbFailed(msg)
    return changes


@verb("perf", "domain", f"<domain> [--enable <string>] [--disable <string>] {AFFECT_USAGE}", "performance events")
def perf(shell: Shell, values: Values) -> None:
    """Show or set performance events."""
    flags, domain = affect(values), shell.domain(values)
    params = [
        TypedParam(name, ParamType.BOOLEAN, state)
        for option, state in (("enable", 1), ("disable", 0))
        for name in (values.get(option) or "").split(",")
        if name
    ]
    if not params:
        with shell.failing("Unable to get perf events"):
            for param in shell.call("DOMAIN_GET_PERF_EVENTS", domain.ref, flags).params:
                shell.print(f"{param.field:<15}: {'enabled' if param.value else 'disabled'}")
        return
    with shell.failing("Unable to enable/disable perf events"):
        shell.call("DOMAIN_SET_PERF_EVENTS", domain.ref, params, flags)
    for param in params:
        shell.print(f"{param.field:<15}: {'enabled' if param.value else 'disabled'}")


@verb(
    "domdirtyrate-calc", "domain", "<domain> [--seconds <number>] [--mode <string>]", "measure how fast memory changes"
)
def domdirtyrate_calc(shell: Shell, values: Values) -> None:
    """Start a measurement of dirty pages."""
    modes = {None: 0, "page-sampling": 0, "dirty-bitmap": 1, "dirty-ring": 2}
    seconds, mode = values.number("seconds", minimum=0), values.get("mode")
    if mode not in modes:
        msg = f"Unknown calculation mode '{mode}'"
        raise VerbFailed(msg)
    domain = shell.domain(values)
    shell.call("DOMAIN_START_DIRTY_RATE_CALC", domain.ref, 1 if seconds is None else seconds, modes[mode])
    shell.hint("Start to calculate domain's memory dirty rate successfully.\n")


@verb("domlaunchsecinfo", "domain", "<domain>", "launch security of a domain")
def domlaunchsecinfo(shell: Shell, values: Values) -> None:
    """Show launch security."""
    try:
        params = shell.call("DOMAIN_GET_LAUNCH_SECURITY_INFO", shell.domain(values).ref, 0).params
    except LibvirtError as error:
        msg = "Unable to get launch security parameters"
        raise VerbFailed(msg, str(error)) from error
    _show(shell, params)
