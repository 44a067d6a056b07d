"""Domains: their vCPUs, how many, and on which host CPUs they run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyhyve.cli.virsh.flags import AFFECT_USAGE, affect, collect, exclusive
from pyhyve.cli.virsh.output import cpu_list, param_text, parse_cpu_list
from pyhyve.cli.virsh.registry import verb
from pyhyve.cli.virsh.shell import VerbFailed

if TYPE_CHECKING:
    from pyhyve.cli.virsh.shell import Shell
    from pyhyve.cli.virsh.syntax import Values
    from pyhyve.client import Domain

_MAXIMUM, _GUEST, _HOTPLUGGABLE = 4, 8, 16
_STATES: Final = ("offline", "running", "blocked")
_INACTIVE = 2


def _host_cpus(shell: Shell) -> int:
    return int(shell.call("NODE_GET_CPU_MAP", 0, 0, 0).ret)


@verb(
    "vcpucount",
    "domain",
    "<domain> [--maximum] [--active] [--live] [--config] [--current] [--guest]",
    "how many vCPUs a domain has",
)
def vcpucount(shell: Shell, values: Values) -> None:
    """Count vCPUs."""
    exclusive(values, "live", "config")
    exclusive(values, "active", "maximum")
    exclusive(values, "guest", "config")
    exclusive(values, "guest", "maximum")
    domain = shell.domain(values)
    names = ("maximum", "active", "live", "config", "current", "guest")
    if any(values.flag(name) for name in names):
        # --current beside --live or --config is an older word for --active
        flags = collect(values, {"live": 1, "config": 2, "maximum": _MAXIMUM, "guest": _GUEST})
        shell.print(str(domain.vcpus(flags)))
        return
    active, persistent = domain.is_active(), domain.is_persistent()
    for word, maximum in (("maximum", _MAXIMUM), ("current", 0)):
        if persistent:
            shell.print(f"{word:<12} {'config':<12} {domain.vcpus(2 | maximum):>3}")
        if active:
            shell.print(f"{word:<12} {'live':<12} {domain.vcpus(1 | maximum):>3}")


@verb(
    "setvcpus",
    "domain",
    "<domain> <count#> [--maximum] [--config] [--live] [--current] [--guest] [--hotpluggable]",
    "change how many vCPUs a domain has",
)
def setvcpus(shell: Shell, values: Values) -> None:
    """Set the number of vCPUs."""
    exclusive(values, "guest", "config")
    flags = affect(values)
    extra = collect(values, {"maximum": _MAXIMUM, "guest": _GUEST, "hotpluggable": _HOTPLUGGABLE})
    domain, count = shell.domain(values), values.number("count", minimum=0, maximum=(1 << 32) - 1)
    if count == 0:
        msg = "Can't set 0 processors for a VM"
        raise VerbFailed(msg)
    if not flags and not extra and not values.flag("current"):
        shell.call("DOMAIN_SET_VCPUS", domain.ref, count)
    else:
        if extra & _MAXIMUM and not flags & 2:
            msg = "Option --config is required by option --maximum"
            raise VerbFailed(msg)
        domain.set_vcpus(count or 0, flags | extra)


@verb("setvcpu", "domain", f"<domain> <vcpulist> [--enable] [--disable] {AFFECT_USAGE}", "plug chosen vCPUs in or out")
def setvcpu(shell: Shell, values: Values) -> None:
    """Enable or disable chosen vCPUs."""
    exclusive(values, "enable", "disable")
    flags = affect(values)
    if not values.flag("enable") and not values.flag("disable"):
        msg = "one of --enable, --disable is required"
        raise VerbFailed(msg)
    domain = shell.domain(values)
    shell.call("DOMAIN_SET_VCPU", domain.ref, values.text("vcpulist"), int(values.flag("enable")), flags)


@verb("vcpuinfo", "domain", "<domain> [--pretty]", "a domain's vCPUs in detail")
def vcpuinfo(shell: Shell, values: Values) -> None:
    """Show vCPUs in detail."""
    domain, cpus = shell.domain(values), _host_cpus(shell)
    size = (cpus + 7) // 8
    if domain.id is None:
        _defined(shell, domain, cpus, pretty=values.flag("pretty"))
        return
    answer = shell.call("DOMAIN_GET_VCPUS", domain.ref, domain.info().vcpus, size)
    for i, info in enumerate(answer.info):
        if i:
            shell.print()
        shell.fact("VCPU:", info.number)
        shell.fact("CPU:", info.cpu if info.cpu >= 0 else "N/A")
        shell.fact("State:", _STATES[info.state] if info.state < len(_STATES) else "no state")
        if info.cpu_time:
            shell.fact("CPU time:", f"{info.cpu_time / 1e9:.1f}s")
        _affinity(shell, answer.cpumaps[i * size : (i + 1) * size], cpus, pretty=values.flag("pretty"))


def _affinity(shell: Shell, bitmap: bytes, cpus: int, *, pretty: bool) -> None:
    if pretty:
        shell.fact("CPU Affinity:", f"{cpu_list(bitmap, cpus)} (out of {cpus})")
    else:
        shell.fact("CPU Affinity:", "".join("y" if bitmap[n // 8] >> n % 8 & 1 else "-" for n in range(cpus)))


def _defined(shell: Shell, domain: Domain, cpus: int, *, pretty: bool) -> None:
    count, size = domain.vcpus(2 | _MAXIMUM), (cpus + 7) // 8
    maps = shell.call("DOMAIN_GET_VCPU_PIN_INFO", domain.ref, count, size, 2).cpumaps
    for i in range(domain.vcpus(2)):
        if i:
            shell.print()
        shell.fact("VCPU:", i)
        shell.fact("CPU:", "N/A")
        shell.fact("State:", "N/A")
        shell.fact("CPU time", "N/A")
        _affinity(shell, maps[i * size : (i + 1) * size], cpus, pretty=pretty)


def _wanted(shell: Shell, text: str) -> bytes:
    cpus = _host_cpus(shell)
    try:
        bitmap = parse_cpu_list(text, cpus)
    except ValueError as error:
        msg = f"Invalid cpulist '{text}'"
        raise VerbFailed(msg, f"invalid argument: Failed to parse bitmap '{text}'") from error
    last = int.from_bytes(bitmap, "little").bit_length() - 1
    if last >= cpus:
        msg = f"CPU {last} in cpulist '{text}' exceed the maxcpu {cpus}"
        raise VerbFailed(msg)
    return bitmap


@verb(
    "vcpupin",
    "domain",
    f"<domain> [--vcpu <number>] [--cpulist <string>] {AFFECT_USAGE}",
    "which host CPUs a vCPU runs on",
)
def vcpupin(shell: Shell, values: Values) -> None:
    """Show or set a vCPU's host CPUs."""
    flags, text = affect(values), values.get("cpulist")
    vcpu = values.number("vcpu", minimum=0, maximum=(1 << 32) - 1)
    if text is not None and vcpu is None:
        msg = "vcpupin: Missing vCPU number in pin mode."
        raise VerbFailed(msg)
    domain = shell.domain(values)
    if text is not None:
        bitmap = _wanted(shell, text)
        if flags or values.flag("current"):
            shell.call("DOMAIN_PIN_VCPU_FLAGS", domain.ref, vcpu, bitmap, flags)
        else:
            shell.call("DOMAIN_PIN_VCPU", domain.ref, vcpu, bitmap)
        return
    cpus = _host_cpus(shell)
    size = (cpus + 7) // 8
    count = domain.vcpus(flags | _MAXIMUM)
    if vcpu is not None and vcpu >= count:
        which = "live" if domain.is_active() and not flags & 2 else "persistent"
        msg = f"vcpu {vcpu} is out of range of {which} cpu count {count}"
        raise VerbFailed(msg)
    answer = shell.call("DOMAIN_GET_VCPU_PIN_INFO", domain.ref, count, size, flags)
    rows = [
        [str(i), cpu_list(answer.cpumaps[i * size : (i + 1) * size], cpus)]
        for i in range(answer.num)
        if vcpu in {None, i}
    ]
    shell.table(["VCPU", "CPU Affinity"], rows)


@verb(
    "emulatorpin",
    "domain",
    f"<domain> [--cpulist <string>] {AFFECT_USAGE}",
    "which host CPUs a domain's emulator runs on",
)
def emulatorpin(shell: Shell, values: Values) -> None:
    """Show or set the emulator's host CPUs."""
    flags, text = affect(values), values.get("cpulist")
    domain = shell.domain(values)
    if text is not None:
        shell.call("DOMAIN_PIN_EMULATOR", domain.ref, _wanted(shell, text), flags)
        return
    cpus = _host_cpus(shell)
    answer = shell.call("DOMAIN_GET_EMULATOR_PIN_INFO", domain.ref, (cpus + 7) // 8, flags)
    shell.say("emulator: CPU Affinity")
    shell.say("-" * 34)
    shell.print(f"       *: {cpu_list(answer.cpumaps, cpus)}")


@verb(
    "guestvcpus",
    "domain",
    "<domain> [--cpulist <string>] [--enable] [--disable]",
    "vCPUs as the guest's agent sees them",
)
def guestvcpus(shell: Shell, values: Values) -> None:
    """Show or set the state of vCPUs within the guest."""
    exclusive(values, "enable", "disable")
    text, enable, disable = values.get("cpulist"), values.flag("enable"), values.flag("disable")
    if text is not None and not (enable or disable):
        msg = "One of options --enable or --disable is required by option --cpulist"
        raise VerbFailed(msg)
    if text is None and (enable or disable):
        msg = "Option --cpulist is required by option --" + ("enable" if enable else "disable")
        raise VerbFailed(msg)
    domain = shell.domain(values)
    if text is not None:
        shell.call("DOMAIN_SET_GUEST_VCPUS", domain.ref, text, int(enable), 0)
        return
    for param in shell.call("DOMAIN_GET_GUEST_VCPUS", domain.ref, 0).params:
        shell.print(f"{param.field:<15}: {param_text(param)}")


# -- I/O threads -------------------------------------------------------------------------------------------------------


@verb("iothreadinfo", "domain", f"<domain> {AFFECT_USAGE}", "a domain's I/O threads")
def iothreadinfo(shell: Shell, values: Values) -> None:
    """Show I/O threads."""
    flags, domain = affect(values), shell.domain(values)
    with shell.failing("Unable to get domain IOThreads information"):
        found = shell.call("DOMAIN_GET_IOTHREAD_INFO", domain.ref, flags).info
    if not found:
        shell.hint("No IOThreads found for the domain")
        return
    cpus = _host_cpus(shell)
    shell.table(["IOThread ID", "CPU Affinity"], [[str(t.iothread_id), cpu_list(t.cpumap, cpus)] for t in found])


def _thread(values: Values, name: str = "id") -> int:
    number = values.number(name, minimum=0, maximum=(1 << 32) - 1)
    if not number:
        msg = f"Invalid IOThread id value: '{number}'"
        raise VerbFailed(msg)
    return number


@verb("iothreadadd", "domain", f"<domain> <id> {AFFECT_USAGE}", "add an I/O thread")
def iothreadadd(shell: Shell, values: Values) -> None:
    """Add an I/O thread."""
    flags, domain = affect(values), shell.domain(values)
    shell.call("DOMAIN_ADD_IOTHREAD", domain.ref, _thread(values), flags)


@verb("iothreaddel", "domain", f"<domain> <id> {AFFECT_USAGE}", "remove an I/O thread")
def iothreaddel(shell: Shell, values: Values) -> None:
    """Remove an I/O thread."""
    flags, domain = affect(values), shell.domain(values)
    shell.call("DOMAIN_DEL_IOTHREAD", domain.ref, _thread(values), flags)


@verb("iothreadpin", "domain", f"<domain> <iothread> <cpulist> {AFFECT_USAGE}", "which host CPUs an I/O thread runs on")
def iothreadpin(shell: Shell, values: Values) -> None:
    """Pin an I/O thread."""
    flags, domain = affect(values), shell.domain(values)
    bitmap = _wanted(shell, values.text("cpulist"))
    shell.call("DOMAIN_PIN_IOTHREAD", domain.ref, _thread(values, "iothread"), bitmap, flags)


@verb(
    "iothreadset",
    "domain",
    "<domain> <id> [--poll-max-ns <number>] [--poll-grow <number>] [--poll-shrink <number>] "
    f"[--thread-pool-min <number>] [--thread-pool-max <number>] {AFFECT_USAGE}",
    "tune an I/O thread",
)
def iothreadset(shell: Shell, values: Values) -> None:
    """Tune an I/O thread."""
    from pyhyve.rpc.values import ParamType, TypedParam

    flags, domain = affect(values), shell.domain(values)
    kinds = {
        "poll-max-ns": ParamType.ULLONG,
        "poll-grow": ParamType.UINT,
        "poll-shrink": ParamType.UINT,
        "thread-pool-min": ParamType.INT,
        "thread-pool-max": ParamType.INT,
    }
    params = [
        TypedParam(name.replace("-", "_"), kind, number)
        for name, kind in kinds.items()
        if (number := values.number(name, minimum=0)) is not None
    ]
    if not params:
        msg = "Not enough arguments passed, nothing to set"
        raise VerbFailed(msg)
    shell.call("DOMAIN_SET_IOTHREAD_PARAMS", domain.ref, _thread(values), params, flags)
