"""Errors of QMP (docs/interop/qmp-spec, "Error"): a class that programs look at and a sentence for people."""

from __future__ import annotations

from pyhyve.support.enums import StrEnum


class ErrorClass(StrEnum):
    """`QapiErrorClass` of QEMU's schema."""

    GENERIC = "GenericError"
    COMMAND_NOT_FOUND = "CommandNotFound"
    DEVICE_NOT_ACTIVE = "DeviceNotActive"
    DEVICE_NOT_FOUND = "DeviceNotFound"
    KVM_MISSING_CAP = "KVMMissingCap"


class QmpError(Exception):
    """A request that is answered with an error."""

    def __init__(self, description: str, error_class: ErrorClass = ErrorClass.GENERIC) -> None:
        super().__init__(description)
        self.error_class = error_class

    def as_json(self) -> dict[str, str]:
        """The value of the reply's `error` member."""
        return {"class": str(self.error_class), "desc": str(self)}
