"""What a disk does when the host cannot carry out a request: QEMU's `werror` and `rerror`."""

from __future__ import annotations

import errno

from pyhyve.support.enums import StrEnum
from pyhyve.support.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyhyve.backends.block import BlockError


class ErrorPolicy(StrEnum):
    """What happens when the host cannot carry out a request."""

    REPORT = "report"
    """The guest gets an I/O error."""
    STOP = "stop"
    """The machine stops; when it goes on, the request is tried again."""
    ENOSPC = "enospc"
    """STOP when the file system under the image is full, REPORT otherwise."""
    IGNORE = "ignore"
    """The guest is told that all went well."""

    def action(self, code: int) -> ErrorPolicy:
        """REPORT, STOP or IGNORE for an error of number `code`."""
        if self is not ErrorPolicy.ENOSPC:
            return self
        return ErrorPolicy.STOP if is_full(code) else ErrorPolicy.REPORT


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that the host could not carry out, and what was done about it (REPORT, STOP or IGNORE)."""

    error: BlockError
    is_read: bool
    action: ErrorPolicy


def is_full(code: int) -> bool:
    """Whether error number `code` says that there is no more space, or none for this user."""
    return code in {errno.ENOSPC, errno.EDQUOT}
