"""`threading.Condition` on a reentrant lock, for modules that short commands load.

`threading` loads `functools` and `collections`; together they take as long as all of the image code that
`pyhyve img check` needs. Waiting with a time limit, and waking one waiter of several, are left out.
"""

from __future__ import annotations

import _thread


class Condition:
    """A reentrant lock whose holders can wait for what another holder will tell."""

    __slots__ = ("_lock", "_waiting")

    def __init__(self) -> None:
        self._lock = _thread.RLock()
        self._waiting: list[_thread.LockType] = []

    def __enter__(self) -> bool:
        return self._lock.acquire()

    def __exit__(self, *_exc: object) -> None:
        self._lock.release()

    def wait(self) -> None:
        """Let go of the lock, however often it is held, until `notify_all`; RuntimeError when it is not held."""
        bell = _thread.allocate_lock()
        bell.acquire()
        self._waiting.append(bell)
        held = self._lock._release_save()  # type: ignore[attr-defined]  # noqa: SLF001 - threading.Condition's way too
        try:
            bell.acquire()
        finally:
            self._lock._acquire_restore(held)  # type: ignore[attr-defined]  # noqa: SLF001 - as above

    def notify_all(self) -> None:
        """Wake all who wait; they go on when the lock is free."""
        waiting, self._waiting = self._waiting, []
        for bell in waiting:
            bell.release()
