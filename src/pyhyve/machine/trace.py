"""Trace lines for `--trace exits` and `--trace bus`, on the log."""

from __future__ import annotations

from pyhyve.accel.api import ExitKind
from pyhyve.support.logs import late_logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyhyve.accel.api import VcpuExit

_BUS = late_logger("pyhyve.trace.bus")
_EXITS = late_logger("pyhyve.trace.exits")


def trace_access(space: str, address: int, size: int, value: int, *, is_write: bool) -> None:
    """Log one bus access."""
    _BUS.info("%s %s %#x/%d %#x", space, "write" if is_write else "read", address, size, value)


def trace_exit(index: int, reason: VcpuExit) -> None:
    """Log one exit of vCPU `index`, after it was handled."""
    direction = "write" if reason.is_write else "read"
    name = ExitKind(reason.kind).name
    _EXITS.info("vcpu%d %s %s %#x/%d %#x", index, name, direction, reason.address, reason.size, reason.value)
