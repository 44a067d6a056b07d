"""What goes wrong when a running machine is changed. The monitor turns it into a QMP error."""

from __future__ import annotations

from pyhyve.support.enums import Enum, auto
from pyhyve.support.errors import UserError


class ChangeKind(Enum):
    """Which error class of QMP says it."""

    GENERIC = auto()
    NOT_FOUND = auto()
    """No device of that name (DeviceNotFound)."""
    NOT_ACTIVE = auto()
    """No job of that name (DeviceNotActive)."""


class ChangeError(UserError):
    """A change that is not possible; the text is one line, in QEMU's words where it has some."""

    def __init__(self, text: str, kind: ChangeKind = ChangeKind.GENERIC) -> None:
        super().__init__(text)
        self.kind = kind
