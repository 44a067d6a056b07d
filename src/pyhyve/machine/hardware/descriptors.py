"""Descriptors that came from outside: inherited, sent over a monitor's socket by name, or in numbered sets."""

from __future__ import annotations

import fcntl
import os

from pyhyve.machine.block.errors import ChangeError
from pyhyve.support.records import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SET_PREFIX = "/dev/fdset/"


@dataclass(slots=True)
class _Set:
    descriptors: list[tuple[int, str | None]] = field(default_factory=list)


class Descriptors:
    """What `getfd`, `add-fd` and inheritance brought."""

    def __init__(self) -> None:
        self._named: dict[str, int] = {}
        self._sets: dict[int, _Set] = {}

    def name(self, name: str, fd: int) -> None:
        """Keep `fd` as `name`, instead of an earlier one. Raises ChangeError for a name that looks like a number."""
        if not name or name[0].isdigit():
            os.close(fd)
            msg = "Parameter 'fdname' expects a name not starting with a digit"
            raise ChangeError(msg)
        before = self._named.pop(name, None)
        if before is not None:
            os.close(before)
        self._named[name] = fd

    def close_name(self, name: str) -> None:
        """Close it. Raises ChangeError."""
        fd = self._named.pop(name, None)
        if fd is None:
            msg = f"File descriptor named '{name}' not found"
            raise ChangeError(msg)
        os.close(fd)

    def take(self, name: str) -> int:
        """The descriptor that `name` or a number means; the caller owns it. Raises ChangeError."""
        if not name.isascii() or not name.isdigit():
            fd = self._named.pop(name, None)
            if fd is None:
                msg = f"File descriptor named '{name}' has not been found"
                raise ChangeError(msg)
            return fd
        fd = int(name[:9])
        try:
            fcntl.fcntl(fd, fcntl.F_GETFD)
        except OSError as error:
            msg = f"file descriptor {name} is not open"
            raise ChangeError(msg) from error
        os.set_inheritable(fd, False)  # noqa: FBT003 - the function's one argument
        return fd

    def take_named(self, name: str) -> int | None:
        """The descriptor called `name`, which the caller owns then; None when there is none."""
        return self._named.pop(name, None)

    # -- sets ---------------------------------------------------------------------------------------------------------

    def add_to_set(self, number: int | None, fd: int, opaque: str | None) -> int:
        """Put `fd` into a set, a new one without a number; the set's number. Raises ChangeError."""
        if number is None:
            number = next(n for n in range(len(self._sets) + 1) if n not in self._sets)
        elif number < 0:
            os.close(fd)
            msg = "Parameter 'fdset-id' expects a non-negative value"
            raise ChangeError(msg)
        self._sets.setdefault(number, _Set()).descriptors.append((fd, opaque))
        return number

    def remove_from_set(self, number: int, fd: int | None) -> None:
        """Close one descriptor of a set, or all. Raises ChangeError."""
        found = self._sets.get(number)
        kept = [] if found is None or fd is None else [entry for entry in found.descriptors if entry[0] != fd]
        if found is None or (fd is not None and len(kept) == len(found.descriptors)):
            what = f"fdset-id:{number}" + ("" if fd is None else f", fd:{fd}")
            msg = f"File descriptor named '{what}' not found"
            raise ChangeError(msg)
        for number_, _ in found.descriptors:
            if fd is None or number_ == fd:
                os.close(number_)
        found.descriptors = kept
        if not kept:
            del self._sets[number]

    def describe_sets(self) -> list[dict[str, Any]]:
        """`FdsetInfo` of each set."""
        return [
            {
                "fdset-id": number,
                "fds": [
                    {"fd": fd, **({} if opaque is None else {"opaque": opaque})} for fd, opaque in found.descriptors
                ],
            }
            for number, found in sorted(self._sets.items())
        ]

    def open_set(self, path: str, flags: int) -> int | None:
        """A copy of the descriptor that `/dev/fdset/N` means for `flags`; None for another path. Raises OSError."""
        if not path.startswith(_SET_PREFIX):
            return None
        number = path.removeprefix(_SET_PREFIX)
        found = self._sets.get(int(number[:9])) if number.isascii() and number.isdigit() else None
        if found is not None:
            for fd, _ in found.descriptors:
                if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE in {flags & os.O_ACCMODE, os.O_RDWR}:
                    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0)
        raise OSError(2, f"there is no descriptor for {path}")

    def close(self) -> None:
        """Close what nobody took."""
        for fd in self._named.values():
            os.close(fd)
        for found in self._sets.values():
            for fd, _ in found.descriptors:
                os.close(fd)
        self._named.clear()
        self._sets.clear()
