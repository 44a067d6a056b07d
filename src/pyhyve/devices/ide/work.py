"""Requests of a drive to its image, away from the vCPU: at most one at a time, and none once it was given up."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pyhyve.backends.block import BlockError, BlockPool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class DriveWork:
    """Runs what waits on a thread of its own.

    The machine lock is taken before the lock in here, never the other way round; actions run with neither.
    """

    def __init__(self, lock: threading.RLock, name: str) -> None:
        """`lock` is the machine's; completions are called with it held."""
        self._machine = threading.Condition(lock)
        self._turn = threading.Condition(threading.Lock())
        self._pool = BlockPool(1, name)
        self._generation = 0
        self._unfinished = 0
        self._is_acting = False
        self._draining = 0

    def submit(self, action: Callable[[], None], done: Callable[[BlockError | None], None]) -> None:
        """Carry out `action`, then call `done` with the error it raised, if any; with the machine lock held."""
        self._unfinished += 1
        generation = self._generation
        self._pool.submit(lambda: self._work(generation, action, done))

    def attempt(self, action: Callable[[], bool]) -> bool:
        """Carry out `action`, which does not wait, at once; False when it, or this moment, does not allow that."""
        if not self._begin(self._generation, wait=False):
            return False
        try:
            return action()
        finally:
            self._end()

    def cancel(self) -> None:
        """Forget what is under way: no action runs any more when this returns, and `done` is not called."""
        with self._turn:
            self._generation += 1
            while self._is_acting:
                self._turn.wait()

    def settle(self) -> None:
        """Wait until all that was submitted is done; without the machine lock, or with it held once."""
        with self._machine:
            while self._unfinished:
                self._machine.wait()

    @contextmanager
    def drained(self) -> Iterator[None]:
        """No action is under way inside the block, and none begins."""
        with self._turn:
            self._draining += 1
            while self._is_acting:
                self._turn.wait()
        try:
            yield
        finally:
            with self._turn:
                self._draining -= 1
                self._turn.notify_all()

    def close(self) -> None:
        """End the thread; not with the machine lock held. Idempotent."""
        self.cancel()
        self._pool.close()

    def _begin(self, generation: int, *, wait: bool) -> bool:
        with self._turn:
            while self._draining or self._is_acting:
                if not wait:
                    return False
                self._turn.wait()
            self._is_acting = generation == self._generation
            return self._is_acting

    def _end(self) -> None:
        with self._turn:
            self._is_acting = False
            self._turn.notify_all()

    def _work(self, generation: int, action: Callable[[], None], done: Callable[[BlockError | None], None]) -> None:
        error = None
        if self._begin(generation, wait=True):
            try:
                action()
            except BlockError as failure:
                error = failure
            finally:
                self._end()
        with self._machine:
            self._unfinished -= 1
            if generation == self._generation:
                done(error)
            self._machine.notify_all()
