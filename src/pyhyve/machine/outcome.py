"""How a machine's run ended."""

from __future__ import annotations

from pyhyve.support.enums import StrEnum
from pyhyve.support.records import dataclass


class OutcomeKind(StrEnum):
    """Why `Machine.run` returned."""

    POWERED_OFF = "powered off"
    RESET = "reset"
    """The guest asked for a reset and the machine was told not to restart (`no_reboot`)."""
    STOPPED = "stopped"
    """The user or a signal asked for it."""
    TIMEOUT = "timeout"
    TRIPLE_FAULT = "triple fault"
    INTERNAL_ERROR = "internal error"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a run: `message` is one line for the user, `detail` what may help to debug (registers, code)."""

    kind: OutcomeKind
    message: str = ""
    detail: str = ""

    @property
    def exit_status(self) -> int:
        """Exit status of `pyhyve run`: 0 when the guest powered off or reset as asked, 1 otherwise."""
        return 0 if self.kind in {OutcomeKind.POWERED_OFF, OutcomeKind.RESET} else 1
