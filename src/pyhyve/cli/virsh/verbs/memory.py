"""Domains: how much memory they have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.cli.virsh.flags import AFFECT_USAGE, affect
from pyhyve.cli.virsh.registry import verb

if TYPE_CHECKING:
    from pyhyve.cli.virsh.shell import Shell
    from pyhyve.cli.virsh.syntax import Values

_MAXIMUM = 4
_KIB = 1024


def _kib(values: Values) -> int:
    size = values.scaled("size", _KIB)
    return -(-(size or 0) // _KIB)


@verb("setmem", "domain", f"<domain> <size#> {AFFECT_USAGE}", "change the memory a domain has now (KiB)")
def setmem(shell: Shell, values: Values) -> None:
    """Set the memory."""
    flags = affect(values)
    domain, size = shell.domain(values), _kib(values)
    if flags or values.flag("current"):
        domain.set_memory(size, flags)
    else:
        shell.call("DOMAIN_SET_MEMORY", domain.ref, size)


@verb("setmaxmem", "domain", f"<domain> <size#> {AFFECT_USAGE}", "change the memory a domain has at most (KiB)")
def setmaxmem(shell: Shell, values: Values) -> None:
    """Set the most memory."""
    flags = affect(values)
    domain, size = shell.domain(values), _kib(values)
    with shell.failing("Unable to change MaxMemorySize"):
        if flags or values.flag("current"):
            domain.set_memory(size, flags | _MAXIMUM)
        else:
            shell.call("DOMAIN_SET_MAX_MEMORY", domain.ref, size)
