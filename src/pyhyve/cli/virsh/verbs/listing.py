"""Domains: which there are, and what they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyhyve.cli.virsh.flags import collect
from pyhyve.cli.virsh.output import shown_name
from pyhyve.cli.virsh.registry import verb
from pyhyve.cli.virsh.shell import VerbFailed
from pyhyve.client import DomainState, LibvirtError

if TYPE_CHECKING:
    from pyhyve.cli.virsh.shell import Shell
    from pyhyve.cli.virsh.syntax import Values
    from pyhyve.client import Domain

STATES: Final = ("no state", "running", "idle", "paused", "in shutdown", "shut off", "crashed", "pmsuspended")
"""By virDomainState."""
_REASONS: Final[dict[int, tuple[str, ...]]] = {
    0: ("unknown",),
    1: (
        "unknown",
        "booted",
        "migrated",
        "restored",
        "from snapshot",
        "unpaused",
        "migration canceled",
        "save canceled",
        "event wakeup",
        "crashed",
        "post-copy",
        "post-copy failed",
    ),
    2: ("unknown",),
    3: (
        "unknown",
        "user",
        "migrating",
        "saving",
        "dumping",
        "I/O error",
        "watchdog",
        "from snapshot",
        "shutting down",
        "creating snapshot",
        "crashed",
        "starting up",
        "post-copy",
        "post-copy failed",
        "api error",
    ),
    4: ("unknown", "user"),
    5: (
        "unknown",
        "shutdown",
        "destroyed",
        "crashed",
        "migrated",
        "saved",
        "failed",
        "from snapshot",
        "daemon",
    ),
    6: ("unknown", "panicked"),
    7: ("unknown",),
}
_CONTROL: Final = ("ok", "background job", "occupied", "error")
_CONTROL_DETAILS: Final = ("", "unknown", "monitor failure", "internal (locking) error")

# virConnectListAllDomainsFlags
_FILTERS: Final = {
    "persistent": 4,
    "transient": 8,
    "state-running": 16,
    "state-paused": 32,
    "state-shutoff": 64,
    "state-other": 128,
    "with-managed-save": 256,
    "without-managed-save": 512,
    "autostart": 1024,
    "no-autostart": 2048,
    "with-snapshot": 4096,
    "without-snapshot": 8192,
    "with-checkpoint": 16384,
    "without-checkpoint": 32768,
}
_ACTIVE, _INACTIVE = 1, 2


@verb(
    "list",
    "monitor",
    "[--inactive] [--all] [--transient] [--persistent] [--with-snapshot] [--without-snapshot] [--with-checkpoint] "
    "[--without-checkpoint] [--state-running] [--state-paused] [--state-shutoff] [--state-other] [--autostart] "
    "[--no-autostart] [--with-managed-save] [--without-managed-save] [--uuid] [--name] [--id] [--table] "
    "[--managed-save] [--title]",
    "domains and what they do",
)
def list_domains(shell: Shell, values: Values) -> None:
    """List domains."""
    plain = values.flag("uuid") or values.flag("name") or values.flag("id")
    if values.flag("table") and plain:
        given = next(name for name in ("uuid", "name", "id") if values.flag(name))
        msg = f"Options --table and --{given} are mutually exclusive"
        raise VerbFailed(msg)
    flags = collect(values, _FILTERS)
    if values.flag("all"):
        flags |= _ACTIVE | _INACTIVE
    elif values.flag("inactive"):
        flags |= _INACTIVE
    elif not flags & (16 | 32 | 64 | 128):
        flags |= _ACTIVE
    with shell.failing("Failed to list domains"):
        domains = shell.connection.list_all_domains(flags)
    domains.sort(key=lambda d: (d.id is None, d.id or 0, d.name.lower()))
    if plain:
        for domain in domains:
            _plain(shell, values, domain)
        return
    titled = values.flag("title")
    header = ["Id", "Name", "State", *(["Title"] if titled else [])]
    rows = []
    for domain in domains:
        state = domain.state()[0]
        shown = STATES[state] if state < len(STATES) else STATES[0]
        if values.flag("managed-save") and domain.id is None and domain.has_managed_save():
            shown = "saved"
        row = ["-" if domain.id is None else str(domain.id), domain.name, shown]
        rows.append([*row, _title(domain)] if titled else row)
    shell.table(header, rows)


def _plain(shell: Shell, values: Values, domain: Domain) -> None:
    words = []
    if values.flag("id"):
        words.append("-" if domain.id is None else str(domain.id))
    if values.flag("uuid"):
        words.append(str(domain.uuid))
    if values.flag("name"):
        words.append(shown_name(domain.name))
    shell.print(" ".join(words))


def _title(domain: Domain) -> str:
    try:
        return domain.metadata(1).rstrip("\n").partition("\n")[0]
    except LibvirtError:
        return ""


@verb("domstate", "monitor", "<domain> [--reason]", "what a domain does")
def domstate(shell: Shell, values: Values) -> None:
    """Show a domain's state."""
    state, reason = shell.domain(values).state()
    shown = STATES[state] if state < len(STATES) else STATES[0]
    if values.flag("reason"):
        reasons = _REASONS.get(state, ("unknown",))
        shown += f" ({reasons[reason] if 0 <= reason < len(reasons) else reasons[0]})"
    shell.print(shown)


@verb("domcontrol", "monitor", "<domain>", "whether the daemon can reach a domain's monitor")
def domcontrol(shell: Shell, values: Values) -> None:
    """Show the state of a domain's control interface."""
    info = shell.call("DOMAIN_GET_CONTROL_INFO", shell.domain(values).ref, 0)
    state = _CONTROL[info.state] if info.state < len(_CONTROL) else "unknown"
    if info.state in {0, 3}:
        details = _CONTROL_DETAILS[info.details] if info.state == 3 and info.details < len(_CONTROL_DETAILS) else ""
        shell.print(f"{state}: {details}" if details else state)
    else:
        shell.print(f"{state} ({info.state_time / 1000:.3f}s)")


@verb("domid", "domain", "<domain>", "the number of a running domain")
def domid(shell: Shell, values: Values) -> None:
    """Show a domain's number."""
    number = shell.domain(values).id
    shell.print("-" if number is None else str(number))


@verb("domname", "domain", "<domain>", "the name of a domain")
def domname(shell: Shell, values: Values) -> None:
    """Show a domain's name."""
    shell.print(shell.find_domain(values.text("domain"), by_name=False).name)


@verb("domuuid", "domain", "<domain>", "the UUID of a domain")
def domuuid(shell: Shell, values: Values) -> None:
    """Show a domain's UUID."""
    shell.print(str(shell.domain(values).uuid))


@verb("dominfo", "monitor", "<domain>", "a domain at a glance")
def dominfo(shell: Shell, values: Values) -> None:
    """Show a domain at a glance."""
    domain = shell.domain(values)
    shell.fact("Id:", "-" if domain.id is None else domain.id)
    shell.fact("Name:", domain.name)
    shell.fact("UUID:", domain.uuid)
    shell.fact("OS Type:", domain.os_type())
    info = domain.info()
    shell.fact("State:", STATES[info.state] if info.state < len(STATES) else STATES[0])
    shell.fact("CPU(s):", info.vcpus)
    if info.cpu_time_ns:
        shell.fact("CPU time:", f"{info.cpu_time_ns / 1e9:.1f}s")
    unlimited = info.max_memory_kib == (1 << 64) - 1
    shell.fact("Max memory:", "no limit" if unlimited else f"{info.max_memory_kib} KiB")
    shell.fact("Used memory:", f"{info.memory_kib} KiB")
    shell.fact("Persistent:", _yes_no(domain.is_persistent))
    shell.fact("Autostart:", "enable" if domain.autostart() else "disable")
    shell.fact("Managed save:", _yes_no(domain.has_managed_save))
    _security(shell, domain)
    _messages(shell, domain)


def _yes_no(ask: object) -> str:
    try:
        return "yes" if ask() else "no"  # type: ignore[operator] # a bound method of the domain
    except LibvirtError:
        return "unknown"


def _characters(numbers: list[int]) -> str:
    return bytes(number & 0xFF for number in numbers).partition(b"\0")[0].decode("utf-8", "replace")


def _security(shell: Shell, domain: Domain) -> None:
    try:
        model = shell.call("NODE_GET_SECURITY_MODEL")
    except LibvirtError:
        return
    name = _characters(model.model)
    if not name:
        return
    shell.fact("Security model:", name)
    shell.fact("Security DOI:", _characters(model.doi))
    if domain.info().state in {DomainState.SHUTOFF, DomainState.CRASHED}:
        return
    label = shell.call("DOMAIN_GET_SECURITY_LABEL", domain.ref)
    text = _characters(label.label)
    if text:
        shell.fact("Security label:", f"{text} ({'enforcing' if label.enforcing else 'permissive'})")


def _messages(shell: Shell, domain: Domain) -> None:
    try:
        messages = shell.call("DOMAIN_GET_MESSAGES", domain.ref, 0).msgs
    except LibvirtError:
        return
    for i, message in enumerate(messages):
        shell.fact("" if i else "Messages:", message)
