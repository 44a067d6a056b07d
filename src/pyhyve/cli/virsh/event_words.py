"""Words for what events carry: libvirt's numbers as virsh shows them.

Source: libvirt's documentation, "virDomainEventID" and the enumerations of each event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pyhyve.cli.virsh.output import param_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["DOMAIN_EVENTS", "domain_event_text", "lifecycle_text", "word"]

DOMAIN_EVENTS: Final = (
    ("lifecycle", "DOMAIN_EVENT_CALLBACK_LIFECYCLE"),
    ("reboot", "DOMAIN_EVENT_CALLBACK_REBOOT"),
    ("rtc-change", "DOMAIN_EVENT_CALLBACK_RTC_CHANGE"),
    ("watchdog", "DOMAIN_EVENT_CALLBACK_WATCHDOG"),
    ("io-error", "DOMAIN_EVENT_CALLBACK_IO_ERROR"),
    ("graphics", "DOMAIN_EVENT_CALLBACK_GRAPHICS"),
    ("io-error-reason", "DOMAIN_EVENT_CALLBACK_IO_ERROR_REASON"),
    ("control-error", "DOMAIN_EVENT_CALLBACK_CONTROL_ERROR"),
    ("block-job", "DOMAIN_EVENT_CALLBACK_BLOCK_JOB"),
    ("disk-change", "DOMAIN_EVENT_CALLBACK_DISK_CHANGE"),
    ("tray-change", "DOMAIN_EVENT_CALLBACK_TRAY_CHANGE"),
    ("pm-wakeup", "DOMAIN_EVENT_CALLBACK_PMWAKEUP"),
    ("pm-suspend", "DOMAIN_EVENT_CALLBACK_PMSUSPEND"),
    ("balloon-change", "DOMAIN_EVENT_CALLBACK_BALLOON_CHANGE"),
    ("pm-suspend-disk", "DOMAIN_EVENT_CALLBACK_PMSUSPEND_DISK"),
    ("device-removed", "DOMAIN_EVENT_CALLBACK_DEVICE_REMOVED"),
    ("block-job-2", "DOMAIN_EVENT_BLOCK_JOB_2"),
    ("tunable", "DOMAIN_EVENT_CALLBACK_TUNABLE"),
    ("agent-lifecycle", "DOMAIN_EVENT_CALLBACK_AGENT_LIFECYCLE"),
    ("device-added", "DOMAIN_EVENT_CALLBACK_DEVICE_ADDED"),
    ("migration-iteration", "DOMAIN_EVENT_CALLBACK_MIGRATION_ITERATION"),
    ("job-completed", "DOMAIN_EVENT_CALLBACK_JOB_COMPLETED"),
    ("device-removal-failed", "DOMAIN_EVENT_CALLBACK_DEVICE_REMOVAL_FAILED"),
    ("metadata-change", "DOMAIN_EVENT_CALLBACK_METADATA_CHANGE"),
    ("block-threshold", "DOMAIN_EVENT_BLOCK_THRESHOLD"),
    ("memory-failure", "DOMAIN_EVENT_MEMORY_FAILURE"),
    ("memory-device-size-change", "DOMAIN_EVENT_MEMORY_DEVICE_SIZE_CHANGE"),
)
"""By virDomainEventID: the event's name, and the procedure that brings it."""

_LIFECYCLE: Final = (
    ("Defined", ("Added", "Updated", "Renamed", "Snapshot")),
    ("Undefined", ("Removed", "Renamed")),
    ("Started", ("Booted", "Migrated", "Restored", "Snapshot", "Event wakeup")),
    (
        "Suspended",
        (
            "Paused",
            "Migrated",
            "I/O Error",
            "Watchdog",
            "Restored",
            "Snapshot",
            "API error",
            "Post-copy",
            "Post-copy Error",
        ),
    ),
    ("Resumed", ("Unpaused", "Migrated", "Snapshot", "Post-copy")),
    ("Stopped", ("Shutdown", "Destroyed", "Crashed", "Migrated", "Saved", "Failed", "Snapshot")),
    (
        "Shutdown",
        ("Finished", "Finished after guest request", "Finished after host request"),
    ),
    ("PMSuspended", ("Memory", "Disk")),
    ("Crashed", ("Panicked", "Crashloaded")),
)
_WATCHDOG: Final = ("none", "pause", "reset", "poweroff", "shutdown", "debug", "inject-nmi")
_IO_ERROR: Final = ("none", "pause", "report")
_PHASES: Final = ("connect", "initialize", "disconnect")
_FAMILIES: Final = ("IPv4", "IPv6", "unix")
_DISK_REASONS: Final = ("changed", "dropped")
_TRAY: Final = ("opened", "closed")
_AGENT_STATES: Final = ("unknown", "connected", "disconnected")
_AGENT_REASONS: Final = ("unknown", "domain started", "channel event")
_METADATA: Final = ("description", "title", "element")
_JOBS: Final = ("unknown", "Block Pull", "Block Copy", "Block Commit", "Active Block Commit", "Backup")
_JOB_STATES: Final = ("completed", "failed", "canceled", "ready")
_RECIPIENTS: Final = ("hypervisor", "guest")
_FAILURE_ACTIONS: Final = ("ignore", "inject", "fatal", "reset")


def word(words: Sequence[str], number: int) -> str:
    """The word for a number."""
    return words[number] if 0 <= number < len(words) else "unknown"


def lifecycle_text(event: int, detail: int) -> str:
    """What happened to a domain."""
    if not 0 <= event < len(_LIFECYCLE):
        return "unknown unknown"
    name, details = _LIFECYCLE[event]
    return f"{name} {word(details, detail)}"


def _graphics(m: Any) -> str:  # noqa: ANN401 - a record
    ends = " ".join(
        f"{name}[{word(_FAMILIES, end.family)} {end.node} {end.service}]"
        for name, end in (("local", m.local), ("remote", m.remote))
    )
    lines = [f"{word(_PHASES, m.phase)} {ends} {m.auth_scheme}"]
    return "\n".join([*lines, *(f"\t{identity.type}={identity.name}" for identity in m.subject)])


def _params(m: Any) -> str:  # noqa: ANN401 - a record
    return "".join(f"\n\t{param.field}: {param_text(param)}" for param in m.params)


_DETAILS: Final[dict[str, Callable[[Any], str]]] = {
    "lifecycle": lambda m: f": {lifecycle_text(m.event, m.detail)}",
    "rtc-change": lambda m: f": {m.offset}",
    "watchdog": lambda m: f": {word(_WATCHDOG, m.action)}",
    "io-error": lambda m: f": {m.src_path} ({m.dev_alias}) {word(_IO_ERROR, m.action)}",
    "io-error-reason": lambda m: f": {m.src_path} ({m.dev_alias}) {word(_IO_ERROR, m.action)} due to {m.reason}",
    "graphics": lambda m: f": {_graphics(m)}",
    "block-job": lambda m: f": {word(_JOBS, m.type)} for {m.path} {word(_JOB_STATES, m.status)}",
    "block-job-2": lambda m: f": {word(_JOBS, m.type)} for {m.dst} {word(_JOB_STATES, m.status)}",
    "disk-change": lambda m: (
        f" disk {m.dev_alias}: {m.old_src_path or '<null>'} -> {m.new_src_path or '<null>'}: "
        f"{word(_DISK_REASONS, m.reason)}"
    ),
    "tray-change": lambda m: f" disk {m.dev_alias}: {word(_TRAY, m.reason)}",
    "balloon-change": lambda m: f": {m.actual}KiB",
    "device-removed": lambda m: f": {m.dev_alias}",
    "device-added": lambda m: f": {m.dev_alias}",
    "device-removal-failed": lambda m: f": {m.dev_alias}",
    "tunable": lambda m: f":{_params(m)}",
    "job-completed": lambda m: f":{_params(m)}",
    "agent-lifecycle": lambda m: (
        f": state: '{word(_AGENT_STATES, m.state)}' reason: '{word(_AGENT_REASONS, m.reason)}'"
    ),
    "migration-iteration": lambda m: f": iteration: '{m.iteration}'",
    "metadata-change": lambda m: f": type {word(_METADATA, m.type)}, uri {m.nsuri or '<null>'}",
    "block-threshold": lambda m: f": dev: {m.dev}({m.path or '<null>'}) {m.threshold} {m.excess}",
    "memory-failure": lambda m: (
        f":\nrecipient: {word(_RECIPIENTS, m.recipient)}\naction: {word(_FAILURE_ACTIONS, m.action)}\nflags:\n"
        f"\taction required: {m.flags & 1}\n\trecursive: {m.flags >> 1 & 1}"
    ),
    "memory-device-size-change": lambda m: f":\nalias: {m.alias}\nsize: {m.size}",
}


def domain_event_text(name: str, message: Any) -> str:  # noqa: ANN401 - a record
    """One event of a domain as virsh shows it."""
    detail = _DETAILS.get(name)
    return f"event '{name}' for domain '{message.dom.name}'" + ("" if detail is None else detail(message))
