"""Options that stand for libvirt's flags."""

from __future__ import annotations

from enum import IntFlag
from typing import TYPE_CHECKING

from pyhyve.cli.virsh.shell import VerbFailed

if TYPE_CHECKING:
    from pyhyve.cli.virsh.syntax import Values
    from pyhyve.client import Domain

__all__ = ["AFFECT_USAGE", "Affect", "affect", "attach_affect", "collect", "exclusive"]

AFFECT_USAGE = "[--config] [--live] [--current]"


class Affect(IntFlag):
    """What a change applies to (virDomainModificationImpact)."""

    CURRENT = 0
    LIVE = 1
    CONFIG = 2


def exclusive(values: Values, *names: str) -> None:
    """Raise VerbFailed where two of the options were given."""
    given = [name for name in names if values.flag(name) or values.get(name) is not None]
    if len(given) > 1:
        msg = f"Options --{given[0]} and --{given[1]} are mutually exclusive"
        raise VerbFailed(msg)


def affect(values: Values) -> Affect:
    """Return what --config, --live and --current mean. Raises VerbFailed."""
    exclusive(values, "current", "live")
    exclusive(values, "current", "config")
    chosen = Affect.CURRENT
    if values.flag("config"):
        chosen |= Affect.CONFIG
    if values.flag("live"):
        chosen |= Affect.LIVE
    return chosen


def attach_affect(values: Values, domain: Domain) -> Affect:
    """Return the same with --persistent: the definition, and the machine where it runs. Raises VerbFailed."""
    exclusive(values, "persistent", "current")
    chosen = affect(values)
    if values.flag("persistent"):
        chosen |= Affect.CONFIG
        if domain.is_active():
            chosen |= Affect.LIVE
    return chosen


def collect(values: Values, flags: dict[str, int]) -> int:
    """Return the sum of the flags whose options were given."""
    return sum(flag for name, flag in flags.items() if values.flag(name))
