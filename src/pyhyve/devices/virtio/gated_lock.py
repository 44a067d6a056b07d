"""A lock for what an engine also uses, by itself, while nobody has the lock."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


class GatedLock:
    """A lock that takes something back when it is taken, and hands it out again when it is given up.

    Both are called with the lock held; `take_back` returns when nobody else uses the thing any more.
    """

    def __init__(self, take_back: Callable[[], None], hand_out: Callable[[], None]) -> None:
        self.bare = threading.Lock()
        """The lock itself, for who needs nothing of what the engine uses."""
        self._take_back = take_back
        self._hand_out = hand_out

    def acquire(self, blocking: bool = True) -> bool:  # noqa: FBT001, FBT002 - as `threading.Lock`'s
        """Take it; False when it is taken and `blocking` is not wanted."""
        if not self.bare.acquire(blocking):
            return False
        self._take_back()
        return True

    def release(self) -> None:
        """Give it up."""
        self._hand_out()
        self.bare.release()

    def locked(self) -> bool:
        """Whether somebody has it."""
        return self.bare.locked()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
