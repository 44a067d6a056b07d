"""The table of verbs: each is a function with its usage line, group and one line about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyhyve.cli.virsh.syntax import Option, Values, parse_usage

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.cli.virsh.shell import Shell

__all__ = ["GROUPS", "VERBS", "Group", "Verb", "verb"]


@dataclass(frozen=True, slots=True)
class Group:
    """A chapter of the help."""

    title: str
    keyword: str


GROUPS = {
    group.keyword: group
    for group in (
        Group("Domain Management", "domain"),
        Group("Domain Monitoring", "monitor"),
        Group("Domain Events", "events"),
        Group("Host and Hypervisor", "host"),
        Group("Checkpoint", "checkpoint"),
        Group("Interface", "interface"),
        Group("Network Filter", "filter"),
        Group("Networking", "network"),
        Group("Node Device", "nodedev"),
        Group("Secret", "secret"),
        Group("Snapshot", "snapshot"),
        Group("Backup", "backup"),
        Group("Storage Pool", "pool"),
        Group("Storage Volume", "volume"),
        Group("Virsh itself", "virsh"),
    )
}


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb."""

    name: str
    group: str
    usage: str
    summary: str
    run: Callable[[Shell, Values], None]
    offline: bool = False
    """Whether it needs no connection."""

    @property
    def options(self) -> tuple[Option, ...]:
        """What it takes."""
        return parse_usage(self.usage)


VERBS: dict[str, Verb] = {}


def verb(
    name: str, group: str, usage: str, summary: str, *, offline: bool = False
) -> Callable[[Callable[[Shell, Values], None]], Callable[[Shell, Values], None]]:
    """Enter the decorated function into the table."""

    def enter(run: Callable[[Shell, Values], None]) -> Callable[[Shell, Values], None]:
        VERBS[name] = Verb(name, group, usage, summary, run, offline)
        return run

    return enter
