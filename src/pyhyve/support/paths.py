"""Names of files that are opened and no more: to load `pathlib` takes as long as thirty modules of a machine."""

from __future__ import annotations

import os


class FileName(os.PathLike):  # type: ignore[type-arg] # it has no parameters at run time
    """The name of a file as the user wrote it; equal to the `Path` of that name."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __fspath__(self) -> str:
        return self._name

    __str__ = __fspath__

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._name!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, os.PathLike) and os.fspath(other) == self._name

    def __hash__(self) -> int:
        from pathlib import Path  # noqa: PLC0415 - see the top

        return hash(Path(self._name))
