"""Making errors of one subsystem, worded as libvirt words them: ``faults = Faults(ErrorDomain.STORAGE)``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from pyhyve.daemon.errors import LibvirtError
from pyhyve.rpc.errors import ErrorCode

if TYPE_CHECKING:
    from pyhyve.rpc.errors import ErrorDomain

__all__ = ["Faults"]


@dataclass(frozen=True, slots=True)
class Faults:
    """Errors of one subsystem."""

    domain: ErrorDomain

    def make(self, code: ErrorCode, detail: str) -> LibvirtError:
        """Any code."""
        return LibvirtError(code, self.domain, detail)

    def worded(self, code: ErrorCode, text: str) -> LibvirtError:
        """A code without words of its own in front of the text."""
        error = self.make(code, text)
        error.args = (text,)
        return error

    def absent(self, code: ErrorCode, what: str, by: str, value: str | bytes) -> LibvirtError:
        """No such object; a UUID may be given as its bytes."""
        shown = str(UUID(bytes=value)) if isinstance(value, bytes) else value
        return self.make(code, f"no {what} with matching {by} '{shown}'")

    def invalid(self, detail: str) -> LibvirtError:
        """Not in this state."""
        return self.make(ErrorCode.OPERATION_INVALID, detail)

    def failed(self, detail: str) -> LibvirtError:
        """It did not work."""
        return self.make(ErrorCode.OPERATION_FAILED, detail)

    def not_supported(self, detail: str) -> LibvirtError:
        """Not this operation."""
        return self.make(ErrorCode.OPERATION_UNSUPPORTED, detail)

    def argument(self, detail: str) -> LibvirtError:
        """Not with this argument."""
        return self.make(ErrorCode.INVALID_ARG, detail)

    def unsupported(self, detail: str) -> LibvirtError:
        """Not this configuration."""
        return self.make(ErrorCode.CONFIG_UNSUPPORTED, detail)

    def internal(self, detail: str) -> LibvirtError:
        """Something on the host failed."""
        return self.make(ErrorCode.INTERNAL_ERROR, detail)

    def system(self, what: str, error: OSError) -> LibvirtError:
        """The kernel refused."""
        return self.make(ErrorCode.SYSTEM_ERROR, f"{what}: {error.strerror or error}")

    def xml(self, detail: str) -> LibvirtError:
        """A document that is none."""
        return self.make(ErrorCode.XML_ERROR, detail)
