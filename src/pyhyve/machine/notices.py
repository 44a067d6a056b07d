"""What a machine tells those who watch it: the changes that become events of a monitor."""

from __future__ import annotations

from pyhyve.support.enums import StrEnum
from pyhyve.support.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


class ShutdownCause(StrEnum):
    """Why a machine resets or ends; the values of `ShutdownCause` in QEMU's run-state schema."""

    NONE = "none"
    HOST_ERROR = "host-error"
    HOST_QMP_QUIT = "host-qmp-quit"
    HOST_QMP_SYSTEM_RESET = "host-qmp-system-reset"
    HOST_SIGNAL = "host-signal"
    HOST_UI = "host-ui"
    GUEST_SHUTDOWN = "guest-shutdown"
    GUEST_RESET = "guest-reset"
    GUEST_PANIC = "guest-panic"

    @property
    def is_guest(self) -> bool:
        """Whether the guest asked for it."""
        return self in {ShutdownCause.GUEST_SHUTDOWN, ShutdownCause.GUEST_RESET, ShutdownCause.GUEST_PANIC}


class NoticeKind(StrEnum):
    """What happened; the values are names of QMP events."""

    STOP = "STOP"
    RESUME = "RESUME"
    RESET = "RESET"
    POWERDOWN = "POWERDOWN"
    SHUTDOWN = "SHUTDOWN"
    BLOCK_IO_ERROR = "BLOCK_IO_ERROR"
    BALLOON_CHANGE = "BALLOON_CHANGE"
    VSERPORT_CHANGE = "VSERPORT_CHANGE"


@dataclass(frozen=True, slots=True)
class Notice:
    """One change; `cause` matters for RESET and SHUTDOWN, `data` is what the QMP event of a device carries."""

    kind: NoticeKind
    cause: ShutdownCause = ShutdownCause.NONE
    data: Mapping[str, Any] | None = None


@dataclass(slots=True)
class RunActions:
    """What happens when the guest resets or powers off; any thread may change it."""

    no_reboot: bool = False
    """A reset ends the machine."""
    no_shutdown: bool = False
    """A power-off leaves the machine stopped, to be looked at, reset or ended."""
